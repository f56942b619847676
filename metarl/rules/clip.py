"""Gradient transformations, to be put before a rule with `Chain`."""

from __future__ import annotations

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.trees import Tree, global_norm, tree_map


class ClipByNorm(UpdateRule):
    """``g · min(1, c / ‖g‖)`` over all parameters together (Pascanu et al. 2013, arXiv:1211.5063)."""

    maps_gradients = True

    def __init__(self, max_norm: float) -> None:
        """``max_norm`` is c.

        Raises:
            ValueError: ``max_norm`` is not positive and finite; the derivative of an infinite c over the norm is NaN.
        """
        super().__init__()
        if not 0.0 < max_norm < float("inf"):
            raise ValueError(f"the largest norm must be positive and finite, got {max_norm}")
        self.max_norm = max_norm

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the gradient, scaled down if its norm exceeds c; see `UpdateRule.update`."""
        scale = (self.max_norm / global_norm(step.grads)).clamp_max(1.0)
        return tree_map(lambda g: g * scale, step.grads), state


class UnitNorm(UpdateRule):
    """``g / ‖g‖`` over all parameters together: keeps only the direction; a zero gradient stays zero."""

    maps_gradients = True

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the direction of the gradient; see `UpdateRule.update`."""
        norm = global_norm(step.grads)
        return tree_map(lambda g: g / norm, step.grads), state
