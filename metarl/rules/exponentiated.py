"""Multiplicative step sizes: a gain for every parameter and one scale for all (Amid et al. 2022, arXiv:2202.00145).

Nothing is meta-learned. Gains and scale stay positive because they only change by positive factors: they grow where
the current gradient agrees with past ones and shrink where it reverses, as in a smooth RProp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.rates import finite
from metarl.trees import Tree, subtree, tree_dot, tree_map, with_prefix


class Exponentiated(UpdateRule):
    """A gain p for every parameter and a scale s, both updated by exponentiated gradient.

    With m the moving average of past gradients and h the past direction::

        p ← p ∘ exp(γ_p m ∘ g)    s ← s · exp(γ_s ⟨h, g⟩)    m ← β m + (1 - β) g    h ← μ h + α p ∘ g

    and the update is ``-s h``. With ``γ_s = β = μ = 0`` this is the simplified form ``p ← p ∘ exp(γ g' ∘ g)``, where
    ``g'`` is the previous gradient; with ``γ_p = 0`` as well, it is SGD.
    """

    def __init__(
        self,
        rate: float,
        *,
        gain_lr: float,
        scale_lr: float = 0.0,
        averaging: float = 0.0,
        momentum: float = 0.0,
        limits: tuple[float, float] = (1e-3, 1e3),
    ) -> None:
        """Set the constants of the equations.

        Args:
            rate: α.
            gain_lr: γ_p.
            scale_lr: γ_s.
            averaging: β, the decay of the moving average of gradients.
            momentum: μ.
            limits: gains and scale are clamped to this range, as RProp's step sizes are.

        Raises:
            ValueError: a value is outside its range.
        """
        super().__init__()
        self.rate, low, high = finite(rate), *limits
        if not (
            0.0 <= gain_lr < math.inf
            and 0.0 <= scale_lr < math.inf
            and 0.0 <= averaging < 1.0
            and 0.0 <= momentum < 1.0
        ):
            raise ValueError(
                "expected finite gain_lr >= 0 and scale_lr >= 0, and averaging and momentum in [0, 1), got "
                f"{(gain_lr, scale_lr, averaging, momentum)}"
            )
        if not 0.0 < low <= 1.0 <= high:
            raise ValueError(f"limits must be positive and enclose 1, got {limits}")
        self.gain_lr, self.scale_lr, self.averaging, self.momentum = gain_lr, scale_lr, averaging, momentum
        self.limits = limits

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return gains and a scale of one, and zeros for past gradients and direction."""
        ones, zeros = (tree_map(like, params) for like in (torch.ones_like, torch.zeros_like))
        past = with_prefix("mean", zeros) | with_prefix("direction", zeros)
        return {"scale": next(iter(params.values())).new_ones(()), **with_prefix("gain", ones), **past}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`."""
        grads, mean, past = step.grads, subtree(state, "mean"), subtree(state, "direction")

        def grown(gain: Tensor, agreement: Tensor) -> Tensor:
            # on a log scale, so that exp cannot overflow
            low, high = (math.log(limit) for limit in self.limits)
            return (gain.log() + agreement).clamp(low, high).exp()

        gain = tree_map(lambda p, m, g: grown(p, self.gain_lr * m * g), subtree(state, "gain"), mean, grads)
        scale = grown(state["scale"], self.scale_lr * tree_dot(past, grads))
        mean = tree_map(lambda m, g: self.averaging * m + (1.0 - self.averaging) * g, mean, grads)
        direction = tree_map(lambda h, p, g: self.momentum * h + self.rate * p * g, past, gain, grads)
        trees = with_prefix("gain", gain) | with_prefix("mean", mean) | with_prefix("direction", direction)
        return tree_map(lambda h: -scale * h, direction), {"scale": scale, **trees}
