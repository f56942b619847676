"""A learned shift that does not depend on data: the first step is ``-α ∘ g + β`` instead of ``-α ∘ g``.

In meta-reinforcement learning the initialization has two roles: it explores, so that the first gradient is
informative, and it is the starting point of the step. β separates them: θ explores, and the step starts from θ + β.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule, instance, shapes_of
from metarl.rules.rates import Table
from metarl.trees import Tree, tree_map


class Offset(UpdateRule):
    """Adds a meta-learned β, in the parameters' shapes, to the first update of a rule; later updates are unchanged."""

    def __init__(self, rule: UpdateRule, params: Mapping[str, Tensor]) -> None:
        """Wrap ``rule``; β starts at zero and exists only for ``params``, some or all of the policy's parameters.

        Raises:
            ValueError: ``rule`` already contains an offset.
        """
        super().__init__()
        if any(isinstance(part, Offset) for part in instance(rule).modules()):
            raise ValueError("Offset: the wrapped rule already contains an Offset; use one")
        self.rule, self.made_for = instance(rule), shapes_of(params)
        self.offsets = Table(tree_map(torch.zeros_like, params))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the wrapped rule's state and ``offset``, which is one until the first step is taken, then zero."""
        return {**self.rule.init(params), "offset": next(iter(params.values())).new_ones(())}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the wrapped rule's update, plus β at the first step; see `UpdateRule.update`."""
        own = {key: value for key, value in state.items() if key != "offset"}
        updates, own = self.rule.update(step, own)
        offsets = self.offsets()
        moved = {name: u + state["offset"] * offsets[name] if name in offsets else u for name, u in updates.items()}
        return moved, {**own, "offset": torch.zeros_like(state["offset"])}
