"""Gradient transformations to be put before a rule with `Chain`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metarl.rules.base import RuleState, UpdateRule
from metarl.trees import Tree, global_norm, tree_map


class ClipByNorm(UpdateRule):
    """``g · min(1, c / ‖g‖)`` over all parameters together (Pascanu et al. 2013, arXiv:1211.5063)."""

    def __init__(self, max_norm: float) -> None:
        """``max_norm`` is c.

        Raises:
            ValueError: not positive.
        """
        super().__init__()
        if not max_norm > 0.0:
            raise ValueError(f"the largest norm must be positive, got {max_norm}")
        self.max_norm = max_norm

    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """The gradient, shortened where it is too long; see `UpdateRule.update`."""
        del params
        scale = (self.max_norm / global_norm(grads)).clamp_max(1.0)
        return tree_map(lambda g: g * scale, grads), state
