"""Step sizes adapted by gradient descent while they are used (Baydin et al. 2018, arXiv:1703.04782).

Nothing is meta-learned: the rate is part of the rule's state. The derivative of the loss with respect to the previous
rate is minus the dot product of the current gradient and the previous direction, so the rate grows while successive
steps agree and shrinks when they reverse.
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
        """``rate`` is the initial α, ``rate_lr`` is β; with β = 0 this is SGD.

        Raises:
            ValueError: a value is not finite, or β is negative.
        """
        super().__init__()
        self.rate, self.rate_lr = _checked(rate, rate_lr)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the rate and a previous gradient of zero."""
        return _first(params, self.rate) | with_prefix("last", tree_map(torch.zeros_like, params))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`."""
        rate = state["rate"] + self.rate_lr * tree_dot(step.grads, subtree(state, "last"))
        return tree_map(lambda g: -rate * g, step.grads), {"rate": rate, **with_prefix("last", step.grads)}


class AdamHypergradient(UpdateRule):
    """Adam-HD (algorithm 6): `Hypergradient` with Adam's bias-corrected direction in place of the gradient."""

    def __init__(
        self, rate: float, *, rate_lr: float, decays: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        """``rate`` and ``rate_lr`` as in `Hypergradient`; ``decays`` are Adam's β₁ and β₂.

        Raises:
            ValueError: a rate is not finite, ``rate_lr`` is negative, a decay is outside [0, 1), or epsilon is not
                positive and finite.
        """
        super().__init__()
        if not all(0.0 <= decay < 1.0 for decay in decays):
            raise ValueError(f"Adam's decays must lie in [0, 1), got {decays}")
        if not 0.0 < epsilon < float("inf"):
            raise ValueError(f"Adam's epsilon must be positive and finite, got {epsilon}")
        self.rate, self.rate_lr = _checked(rate, rate_lr)
        self.decays, self.epsilon = decays, epsilon

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the rate, the step counter, both moments and the previous direction."""
        zeros = tree_map(torch.zeros_like, params)
        trees = {name: leaf for part in ("mean", "square", "last") for name, leaf in with_prefix(part, zeros).items()}
        first = _first(params, self.rate)
        return first | {"step": torch.zeros_like(first["rate"])} | trees

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`."""
        (a, b), count = self.decays, state["step"] + 1
        rate = state["rate"] + self.rate_lr * tree_dot(step.grads, subtree(state, "last"))
        mean = tree_map(lambda m, g: a * m + (1 - a) * g, subtree(state, "mean"), step.grads)
        square = tree_map(lambda s, g: b * s + (1 - b) * g.square(), subtree(state, "square"), step.grads)

        def direction(m: Tensor, s: Tensor) -> Tensor:
            # the square root has an infinite derivative at zero: clamp its argument, by far less than epsilon, but not
            # to a number that rounds to zero
            least = max(self.epsilon**4, torch.finfo(s.dtype).tiny)
            root = (s / (1 - b**count)).clamp_min(least).sqrt()
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
