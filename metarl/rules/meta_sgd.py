"""Meta-SGD: one learned step size per parameter (Li, Zhou, Chen & Li 2017, arXiv:1707.09835, eq. 2).

``θ' = θ - α ∘ ∇L(θ)``, where α has the shape of θ and is meta-learned together with θ. In other libraries, classes of
the same name are sometimes differentiable SGD with one fixed rate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule, shapes_of
from metarl.rules.rates import Parameterisation, Rates
from metarl.trees import Tree


class MetaSGD(UpdateRule):
    """Per-parameter learned step sizes (Li et al. 2017), which learn both direction and length of the step."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        *,
        initial: float | tuple[float, float] = (0.005, 0.1),
        parameterisation: Parameterisation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Create rates in the shapes of ``params``; the paper draws the initial ones from U(0.005, 0.1).

        Args:
            params: the parameters to be adapted, by name.
            initial: the initial rate of every parameter, or a range to draw it from.
            parameterisation: `Free` by default, as in the paper.
            generator: draws the initial rates from a range; needed only for a range.
        """
        super().__init__()
        self.made_for = shapes_of(params)
        self.rates = Rates(self.made_for, initial=initial, parameterisation=parameterisation, generator=generator)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return ``-α ∘ g``; see `UpdateRule.update`."""
        rates = self.rates()
        return {name: -rates[name] * g for name, g in step.grads.items()}, state
