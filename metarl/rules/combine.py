"""Rules made of other rules: in sequence, one per step, on some parameters only, without second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, Wrapper, instance
from metarl.trees import Tree, subtree, tree_detach, tree_map, with_prefix


class _Several(UpdateRule):
    """Several rules in order; their states are stored together, each prefixed by the rule's position."""

    def __init__(self, *rules: UpdateRule) -> None:
        """Take at least one rule.

        Raises:
            ValueError: no rule is given.
        """
        super().__init__()
        if not rules:
            raise ValueError(f"{type(self).__name__} needs at least one rule, got none")
        self.rules = nn.ModuleList(map(instance, rules))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the states of all rules."""
        states = (with_prefix(str(i), _rule(rule).init(params)) for i, rule in enumerate(self.rules))
        return {key: value for own in states for key, value in own.items()}


class Chain(_Several):
    """Passes the gradient through transformations and then to the last rule.

    All rules but the last must map gradients to gradients (as `ClipByNorm` does); the last one returns the update.
    """

    def __init__(self, *rules: UpdateRule) -> None:
        """Take at least one rule.

        Raises:
            ValueError: no rule is given, or `FirstOrder` comes after a rule that learns and would get no meta-gradient.
        """
        super().__init__(*rules)
        learning: list[str] = []
        for rule in rules:
            if learning:
                refuse_first_order(rule, learning[-1], "Chain")
            learning += [type(rule).__name__] if list(rule.parameters()) else []

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See `UpdateRule.update`."""
        flowing, after = step.grads, {}
        for i, rule in enumerate(self.rules):
            flowing, own = _rule(rule).update(step._replace(grads=flowing), subtree(state, str(i)))
            after.update(with_prefix(str(i), own))
        return flowing, after


def refuse_first_order(rule: UpdateRule, learning: str, whole: str) -> None:
    """Check that the meta-gradient passes through a rule to what is learned before it.

    Args:
        rule: the rule to check.
        learning: name of the part before it that learns, for the error message.
        whole: the rule that contains both, for the error message.

    Raises:
        ValueError: ``rule`` is or contains `FirstOrder`, which stops the meta-gradient.
    """
    if any(isinstance(part, FirstOrder) for part in rule.modules()):
        raise ValueError(
            f"FirstOrder after {learning} treats its output as a constant, so that {learning} would not learn: "
            f"put FirstOrder around the whole {whole}"
        )


def _rule(module: nn.Module) -> UpdateRule:
    assert isinstance(module, UpdateRule)  # type checkers see only nn.Module in a ModuleList
    return module


class PerStep(_Several):
    """Uses a different rule for every adaptation step; steps beyond the last rule reuse it.

    With `PerLayerSGD` these are the per-layer per-step rates of MAML++ (LSLR; Antoniou et al. 2019,
    arXiv:1810.09502, section 4); with `MetaSGD`, one learned rate per parameter and step.
    """

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the step counter, a 0-d tensor, and the states of all rules."""
        return {"step": next(iter(params.values())).new_zeros((), dtype=torch.long), **super().init(params)}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the update of the current step's rule and advance only that rule's state; see `UpdateRule.update`."""
        now = state["step"].clamp_max(len(self.rules) - 1)
        chosen: list[Tree] = []
        after: RuleState = {"step": state["step"] + 1}
        for i, rule in enumerate(self.rules):
            before = subtree(state, str(i))
            updates, own = _rule(rule).update(step, before)
            # mask instead of indexing, because vmap may have batched the counter
            chosen.append({name: torch.where(now == i, u, torch.zeros_like(u)) for name, u in updates.items()})
            after |= with_prefix(str(i), tree_map(lambda new, old, i=i: torch.where(now == i, new, old), own, before))
        return tree_map(lambda *leaves: torch.stack(leaves).sum(0), *chosen), after


class Masked(Wrapper):
    """Adapts only the parameters whose name contains ``part`` (ANIL, Raghu et al. 2020: ``part="head"``).

    The wrapped rule sees only these. If it learns something for every parameter, build it from `part_of` the
    policy's parameters.
    """

    def __init__(self, rule: UpdateRule, part: str, params: Mapping[str, Tensor]) -> None:
        """Wrap ``rule``; ``params`` are the policy's parameters, used to check that ``part`` selects any.

        Raises:
            ValueError: no parameter's name contains ``part``.
        """
        super().__init__(rule)
        part_of(params, part)
        self.part = part

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the wrapped rule's state for the selected parameters."""
        return self.rule.init(part_of(params, self.part))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the wrapped rule's updates for the selected parameters and zero for all others."""
        mine = step._replace(grads=part_of(step.grads, self.part), params=part_of(step.params, self.part))
        updates, state = self.rule.update(mine, state)
        return {
            name: updates[name] if name in mine.grads else torch.zeros_like(g) for name, g in step.grads.items()
        }, state


def part_of(params: Mapping[str, Tensor], part: str) -> Tree:
    """Return the parameters whose name contains ``part``.

    Raises:
        ValueError: there are none.
    """
    found = {name: leaf for name, leaf in params.items() if part in name}
    if not found:
        raise ValueError(f"no parameter name contains {part!r}; expected a part of one of {list(params)}")
    return found


class FirstOrder(Wrapper):
    """Treats the inner gradient as a constant (first-order MAML, Finn et al. 2017, section 5.2).

    Learned rates still get their meta-gradient. The parameters get none through the inner gradient, nor through the
    moments, dynamics and information that a step computes from the batch. What the inner loss learns would get none at
    all; see `is_first_order`.
    """

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Call the wrapped rule with gradient, loss, moments, dynamics and information detached."""
        seen = step._replace(
            grads=tree_detach(step.grads),
            loss=step.loss.detach(),
            moments=_detached(step.moments),
            dynamics=_detached(step.dynamics),
            information=_detached(step.information),
        )
        return self.rule.update(seen, state)


def is_first_order(rule: UpdateRule) -> bool:
    """Return whether every step of a rule treats the inner gradient as a constant, because of `FirstOrder`.

    No meta-gradient then reaches what the inner loss learns.
    """
    if isinstance(rule, FirstOrder):
        return True
    if isinstance(rule, _Several):
        inside = [is_first_order(_rule(one)) for one in rule.rules]
        return all(inside) if isinstance(rule, PerStep) else any(inside)
    wrapped = getattr(rule, "rule", None)
    return isinstance(wrapped, UpdateRule) and is_first_order(wrapped)


def points_uphill(rule: UpdateRule) -> bool:
    """Return whether some step of a rule is only a transformed gradient; see `UpdateRule.maps_gradients`."""
    if isinstance(rule, _Several):
        inside = [points_uphill(_rule(one)) for one in rule.rules]
        return any(inside) if isinstance(rule, PerStep) else all(inside)
    wrapped = getattr(rule, "rule", None)
    return rule.maps_gradients or (isinstance(wrapped, UpdateRule) and points_uphill(wrapped))


def _detached(told: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Wrap a function so that its results are detached; None stays None."""
    if told is None:
        return None

    def as_data(*asked: Any) -> Any:
        found = told(*asked)
        return found.detach() if isinstance(found, Tensor) else tree_detach(found)

    return as_data
