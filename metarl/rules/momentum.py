"""Heavy-ball momentum with a learned decay (Polyak 1964), to be put before a rule with `Chain`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.rates import Bounded
from metarl.trees import Tree, subtree, tree_map, with_prefix


class Momentum(UpdateRule):
    """Replaces the gradient by ``v ← μ v + g`` with a meta-learned μ in (0, 1); the first step is unchanged."""

    maps_gradients = True

    def __init__(self, decay: float = 0.5) -> None:
        """``decay`` is the initial μ.

        Raises:
            ValueError: ``decay`` is outside (0, 1).
        """
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(Bounded(0.0, 1.0).raw(decay)))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return a velocity of zero."""
        return with_prefix("velocity", tree_map(torch.zeros_like, params))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the new velocity; see `UpdateRule.update`."""
        decay = Bounded(0.0, 1.0).rate(self.raw)
        velocity = tree_map(lambda g, v: decay * v + g, step.grads, subtree(state, "velocity"))
        return velocity, with_prefix("velocity", velocity)
