"""Step sizes that descend their own gradient while they are used (Baydin et al. 2018, arXiv:1703.04782).

Nothing is meta-learned: the rate is what the rule remembers. The derivative of the loss in the last rate is
minus the scalar product of the present gradient with the last direction, so that the rate grows while
successive steps agree and shrinks when they turn back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.rates import finite
from metarl.trees import Tree, subtree, tree_dot, tree_map, with_prefix


class Hypergradient(UpdateRule):
    """SGD-HD (algorithm 4): ``α ← α + β ⟨g_t, g_{t-1}⟩``, then ``-α g_t``."""

    def __init__(self, rate: float, *, rate_lr: float) -> None:
        """``rate`` is the first α, ``rate_lr`` is β; with β = 0 this is SGD.

        Raises:
            ValueError: not finite, or a negative β.
        """
        super().__init__()
        self.rate, self.rate_lr = _checked(rate, rate_lr)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The rate, and a last gradient of zero."""
        return _first(params, self.rate) | with_prefix("last", tree_map(torch.zeros_like, params))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`."""
        rate = state["rate"] + self.rate_lr * tree_dot(step.grads, subtree(state, "last"))
        return tree_map(lambda g: -rate * g, step.grads), {"rate": rate, **with_prefix("last", step.grads)}


class AdamHypergradient(UpdateRule):
    """Adam-HD (algorithm 6): as `Hypergradient`, with Adam's bias-corrected direction in the place of the gradient."""

    def __init__(
        self, rate: float, *, rate_lr: float, decays: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        """``decays`` are Adam's β₁ and β₂.

        Raises:
            ValueError: a rate that is not finite, decays outside [0, 1), an epsilon that is not above 0.
        """
        super().__init__()
        if not all(0.0 <= decay < 1.0 for decay in decays):
            raise ValueError(f"Adam's decays must lie in [0, 1), got {decays}")
        if not 0.0 < epsilon < float("inf"):
            raise ValueError(f"Adam's epsilon must be positive and finite, got {epsilon}")
        self.rate, self.rate_lr = _checked(rate, rate_lr)
        self.decays, self.epsilon = decays, epsilon

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The rate, the number of steps, both moments and the last direction."""
        zeros = tree_map(torch.zeros_like, params)
        trees = {name: leaf for part in ("mean", "square", "last") for name, leaf in with_prefix(part, zeros).items()}
        first = _first(params, self.rate)
        return first | {"step": torch.zeros_like(first["rate"])} | trees

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`."""
        (a, b), count = self.decays, state["step"] + 1
        rate = state["rate"] + self.rate_lr * tree_dot(step.grads, subtree(state, "last"))
        mean = tree_map(lambda m, g: a * m + (1 - a) * g, subtree(state, "mean"), step.grads)
        square = tree_map(lambda s, g: b * s + (1 - b) * g.square(), subtree(state, "square"), step.grads)

        def direction(m: Tensor, s: Tensor) -> Tensor:
            # the root's derivative at zero is infinite: keep it away from there, by far less than epsilon
            root = (s / (1 - b**count)).clamp_min(self.epsilon**4).sqrt()
            return m / (1 - a**count) / (root + self.epsilon)

        last = tree_map(direction, mean, square)
        trees = with_prefix("mean", mean) | with_prefix("square", square) | with_prefix("last", last)
        return tree_map(lambda d: -rate * d, last), {"rate": rate, "step": count, **trees}


def _checked(rate: float, rate_lr: float) -> tuple[float, float]:
    if not finite(rate_lr) >= 0.0:
        raise ValueError(f"the step size of the rate must not be negative, got {rate_lr}")
    return finite(rate), rate_lr


def _first(params: Mapping[str, Tensor], rate: float) -> RuleState:
    return {"rate": next(iter(params.values())).new_full((), rate)}
