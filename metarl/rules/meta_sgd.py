"""Meta-SGD: one learned step size a parameter (Li, Zhou, Chen & Li 2017, arXiv:1707.09835, eq. 2).

``θ' = θ - α ∘ ∇L(θ)``, with α of θ's shape meta-learned together with θ. Not to be confused with classes
of the same name elsewhere that are differentiable SGD with one fixed rate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule, shapes_of
from metarl.rules.rates import Parameterisation, Rates
from metarl.trees import Tree


class MetaSGD(UpdateRule):
    """Per-parameter learned step sizes (Li et al. 2017): direction and length of the step are both learned."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        *,
        initial: float | tuple[float, float] = (0.005, 0.1),
        parameterisation: Parameterisation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Rates in the shapes of ``params``; the paper draws the first ones from U(0.005, 0.1).

        Args:
            params: the parameters to be adapted, by name.
            initial: the first rate of every parameter, or a range to draw it from.
            parameterisation: `Free` (the paper's) unless given.
            generator: draws the first rates of a range.
        """
        super().__init__()
        self.made_for = shapes_of(params)
        self.rates = Rates(self.made_for, initial=initial, parameterisation=parameterisation, generator=generator)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """``-α ∘ g``; see `UpdateRule.update`."""
        rates = self.rates()
        return {name: -rates[name] * g for name, g in step.grads.items()}, state
