"""A learned move that does not wait for data: the first step is ``-α ∘ g + β`` instead of ``-α ∘ g``.

In meta-reinforcement learning the initialization has two duties: to explore, so that the first gradient says
something, and to be a good place to step from. β lets them part: θ explores, θ + β is stepped from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule, instance, shapes_of
from metarl.rules.rates import Table
from metarl.trees import Tree, tree_map


class Offset(UpdateRule):
    """Adds a meta-learned β of the parameters' shapes to the first update of a rule; later steps are the rule's own."""

    def __init__(self, rule: UpdateRule, params: Mapping[str, Tensor]) -> None:
        """β starts at zero, so that the rule is at first the wrapped one; only ``params`` of the policy have one."""
        super().__init__()
        self.rule, self.made_for = instance(rule), shapes_of(params)
        self.offsets = Table(tree_map(torch.zeros_like, params))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The wrapped rule's state, and one until the first step is taken."""
        return {**self.rule.init(params), "offset": next(iter(params.values())).new_ones(())}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`."""
        own = {key: value for key, value in state.items() if key != "offset"}
        updates, own = self.rule.update(step, own)
        offsets = self.offsets()
        moved = {name: u + state["offset"] * offsets[name] if name in offsets else u for name, u in updates.items()}
        return moved, {**own, "offset": torch.zeros_like(state["offset"])}
