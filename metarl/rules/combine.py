"""Rules made of rules: in sequence, on some parameters only, without second derivatives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, UpdateRule
from metarl.trees import Tree, tree_detach


class Chain(UpdateRule):
    """Feeds the gradient through transformations and then into the last rule.

    All but the last must map gradients to gradients (such as `ClipByNorm`); the last gives the update.
    """

    def __init__(self, *rules: UpdateRule) -> None:
        """At least one rule.

        Raises:
            ValueError: no rule.
        """
        super().__init__()
        if not rules:
            raise ValueError("Chain needs at least one rule, got none")
        self.rules = nn.ModuleList(rules)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The states of all links, prefixed by their position."""
        return {f"{i}.{key}": v for i, rule in enumerate(self.rules) for key, v in _rule(rule).init(params).items()}

    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """See `UpdateRule.update`."""
        flowing, after = dict(grads), {}
        for i, rule in enumerate(self.rules):
            own = {key.partition(".")[2]: v for key, v in state.items() if key.partition(".")[0] == str(i)}
            flowing, own = _rule(rule).update(flowing, own, params)
            after.update({f"{i}.{key}": v for key, v in own.items()})
        return flowing, after


def _rule(module: nn.Module) -> UpdateRule:
    assert isinstance(module, UpdateRule)  # a ModuleList forgets the type of what it holds
    return module


class Masked(UpdateRule):
    """Adapts only the parameters whose name contains ``part`` (ANIL, Raghu et al. 2020: ``part="head"``)."""

    def __init__(self, rule: UpdateRule, part: str, params: Mapping[str, Tensor]) -> None:
        """``params`` are the policy's, to refuse a name that selects nothing.

        Raises:
            ValueError: no parameter's name contains ``part``.
        """
        super().__init__()
        if not any(part in name for name in params):
            raise ValueError(f"no parameter is called like {part!r}; expected a part of one of {list(params)}")
        self.rule, self.part = rule, part

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The wrapped rule's state."""
        return self.rule.init(params)

    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """The wrapped rule's updates where the name matches, zero elsewhere."""
        updates, state = self.rule.update(grads, state, params)
        return {name: u if self.part in name else torch.zeros_like(u) for name, u in updates.items()}, state


class FirstOrder(UpdateRule):
    """Treats the inner gradient as a constant (first-order MAML, Finn et al. 2017, section 5.2).

    Learned rates still get their gradient; the parameters get none through the inner gradient.
    """

    def __init__(self, rule: UpdateRule) -> None:
        """Wraps ``rule``."""
        super().__init__()
        self.rule = rule

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The wrapped rule's state."""
        return self.rule.init(params)

    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """The wrapped rule on detached gradients."""
        return self.rule.update(tree_detach(grads), state, params)
