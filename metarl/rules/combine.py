"""Rules made of rules: in sequence, one a step, on some parameters only, without second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, Wrapper, instance
from metarl.trees import Tree, subtree, tree_detach, tree_map, with_prefix


class _Several(UpdateRule):
    """Rules in a row, with their states side by side, prefixed by their position."""

    def __init__(self, *rules: UpdateRule) -> None:
        """At least one rule.

        Raises:
            ValueError: no rule.
        """
        super().__init__()
        if not rules:
            raise ValueError(f"{type(self).__name__} needs at least one rule, got none")
        self.rules = nn.ModuleList(map(instance, rules))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The states of all rules."""
        states = (with_prefix(str(i), _rule(rule).init(params)) for i, rule in enumerate(self.rules))
        return {key: value for own in states for key, value in own.items()}


class Chain(_Several):
    """Feeds the gradient through transformations and then into the last rule.

    All but the last must map gradients to gradients (such as `ClipByNorm`); the last gives the update.
    """

    def __init__(self, *rules: UpdateRule) -> None:
        """At least one rule.

        Raises:
            ValueError: no rule; `FirstOrder` behind what learns, which would get no gradient.
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
    """Check that a rule lets a meta-gradient through to what is learned before it.

    Raises:
        ValueError: it does not, being `FirstOrder` or containing one.
    """
    if any(isinstance(part, FirstOrder) for part in rule.modules()):
        raise ValueError(
            f"FirstOrder behind {learning} takes what that gives for a constant, so that it would not learn: put "
            f"FirstOrder around the {whole}"
        )


def _rule(module: nn.Module) -> UpdateRule:
    assert isinstance(module, UpdateRule)  # a ModuleList forgets the type of what it holds
    return module


class PerStep(_Several):
    """A rule of its own for every adaptation step; steps beyond the last reuse the last rule.

    With `PerLayerSGD` these are the per-layer per-step rates of MAML++ (LSLR; Antoniou et al. 2019,
    arXiv:1810.09502, section 4), with `MetaSGD` one learned rate a parameter and step.
    """

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The step counter, a 0-d tensor, and the states of all rules."""
        return {"step": next(iter(params.values())).new_zeros((), dtype=torch.long), **super().init(params)}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """The update of the step's rule, whose state alone goes on; see `UpdateRule.update`."""
        now = state["step"].clamp_max(len(self.rules) - 1)
        chosen: list[Tree] = []
        after: RuleState = {"step": state["step"] + 1}
        for i, rule in enumerate(self.rules):
            before = subtree(state, str(i))
            updates, own = _rule(rule).update(step, before)
            # masks instead of indexing: the counter is a tensor that vmap may have batched
            chosen.append({name: torch.where(now == i, u, torch.zeros_like(u)) for name, u in updates.items()})
            after |= with_prefix(str(i), tree_map(lambda new, old, i=i: torch.where(now == i, new, old), own, before))
        return tree_map(lambda *leaves: torch.stack(leaves).sum(0), *chosen), after


class Masked(Wrapper):
    """Adapts only the parameters whose name contains ``part`` (ANIL, Raghu et al. 2020: ``part="head"``).

    The wrapped rule sees no others; build one that learns something for each of them with `part_of`.
    """

    def __init__(self, rule: UpdateRule, part: str, params: Mapping[str, Tensor]) -> None:
        """``params`` are the policy's, to refuse a name that selects nothing.

        Raises:
            ValueError: no parameter's name contains ``part``.
        """
        super().__init__(rule)
        part_of(params, part)
        self.part = part

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The wrapped rule's state for these parameters."""
        return self.rule.init(part_of(params, self.part))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """The wrapped rule's updates where the name matches, zero elsewhere."""
        mine = step._replace(grads=part_of(step.grads, self.part), params=part_of(step.params, self.part))
        updates, state = self.rule.update(mine, state)
        return {
            name: updates[name] if name in mine.grads else torch.zeros_like(g) for name, g in step.grads.items()
        }, state


def part_of(params: Mapping[str, Tensor], part: str) -> Tree:
    """The parameters whose name contains ``part``.

    Raises:
        ValueError: there is none.
    """
    found = {name: leaf for name, leaf in params.items() if part in name}
    if not found:
        raise ValueError(f"no parameter is called like {part!r}; expected a part of one of {list(params)}")
    return found


class FirstOrder(Wrapper):
    """Treats the inner gradient as a constant (first-order MAML, Finn et al. 2017, section 5.2).

    Learned rates still get their gradient; the parameters get none through the inner gradient, nor through what else a
    step tells of the batch: the moments, dynamics and information that rules make of a network's layers and outputs.
    """

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """The wrapped rule on a detached gradient and loss, and detached moments, dynamics and information."""
        seen = step._replace(
            grads=tree_detach(step.grads),
            loss=step.loss.detach(),
            moments=_detached(step.moments),
            dynamics=_detached(step.dynamics),
            information=_detached(step.information),
        )
        return self.rule.update(seen, state)


def _detached(told: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """The function, if there is one, with results of the same values without their graph."""
    if told is None:
        return None

    def as_data(*asked: Any) -> Any:
        found = told(*asked)
        return found.detach() if isinstance(found, Tensor) else tree_detach(found)

    return as_data
