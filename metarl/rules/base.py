"""The interface of every update rule: two methods, written for one task.

What a rule *learns* are its ``nn.Parameter``s; what it *remembers* between steps is a dict of tensors
that it returns and gets back, so that ``vmap`` lifts it over tasks and replay repeats it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from metarl.trees import Tree

RuleState = dict[str, Tensor]


class UpdateRule(nn.Module, ABC):
    """How to step: turns gradients into updates to be *added* to the parameters."""

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """What the rule remembers before its first step; nothing by default."""
        del params
        return {}

    @abstractmethod
    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """Updates of the gradients' names and shapes, and the next state.

        Args:
            grads: gradient of the inner loss (downhill is negative).
            state: of `init` or of the previous `update`; not changed in place.
            params: the parameters the gradient was taken at.
        """
