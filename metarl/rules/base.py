"""The interface of every update rule: two methods, written for one task.

What a rule *learns* are its ``nn.Parameter``s; what it *remembers* between steps is a dict of tensors
that it returns and gets back, so that ``vmap`` lifts it over tasks and replay repeats it exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from metarl.trees import Tree

RuleState = dict[str, Tensor]


class Step(NamedTuple):
    """What is known when a step is to be taken."""

    grads: Tree
    """gradient of the inner loss (downhill is negative)"""
    params: Mapping[str, Tensor]
    """what it was taken at"""
    loss: Tensor
    """the inner loss there, 0-d"""


class UpdateRule(nn.Module, ABC):
    """How to step: turns gradients into updates to be *added* to the parameters."""

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """What the rule remembers before its first step; nothing by default."""
        del params
        return {}

    @abstractmethod
    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Updates of the gradients' names and shapes, and the next state.

        Args:
            step: the gradient, where it was taken, and the loss there.
            state: of `init` or of the previous `update`; not changed in place.
        """
