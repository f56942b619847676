"""The contracts for authors of rules: our rules satisfy them all, and each fault is found in a rule that has it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metarl.rules import SGD, RuleState, Step, UpdateRule, WhitenedInputs
from metarl.testing import check_rule
from metarl.trees import Tree
from tests.test_rules import RULES


@pytest.mark.parametrize("name", RULES)
def test_rules_of_ours_keep_the_contract(name: str) -> None:
    faults = check_rule(RULES[name])
    assert not [fault for fault in faults if "learned but no update" not in fault], faults
    if name != "nested":  # which steps the head only
        assert not faults


class Faulty(UpdateRule):
    """SGD with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.rate: Any = 0.1
        if fault == "unused":
            self.spare = nn.Parameter(torch.zeros(()))
        if fault == "root":
            self.raw = nn.Parameter(torch.zeros(()))
        if fault == "plain":
            self.rate = torch.tensor(0.1 + 0.01 * len(MADE))
            MADE.append(self)
        if fault == "hidden":
            self.several = [nn.Parameter(torch.zeros(()))]
        if fault == "raw":
            self.raw = torch.zeros((), requires_grad=True)

    def init(self, params: Any) -> RuleState:
        if self.fault == "number":
            return {"count": 0}  # type: ignore[dict-item]
        return {"count": torch.zeros((), dtype=torch.float64)}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        updates = {name: -self.rate * g for name, g in step.grads.items()}
        if self.fault == "parameters":
            updates = {name: p + updates[name] for name, p in step.params.items()}
        if self.fault == "names":
            updates.pop("scale")
        if self.fault == "shapes":
            updates["scale"] = updates["scale"].reshape(1)
        if self.fault == "dtype":
            updates["scale"] = updates["scale"].float() + updates["scale"].half()
        if self.fault == "finite":
            updates["scale"] = updates["scale"] / 0
        if self.fault == "lifting":
            updates = {name: u * self.size(u) for name, u in updates.items()}
        if self.fault == "branch" and bool(step.loss > 0):
            updates = {name: 2 * u for name, u in updates.items()}
        if self.fault == "random":
            updates = {name: u * float(torch.rand(())) for name, u in updates.items()}
        if self.fault == "root":
            updates = {name: u * (1 + self.raw.abs().sqrt()) for name, u in updates.items()}
        if self.fault == "structure":
            return updates, {**state, f"extra{len(state)}": torch.zeros(())}
        if self.fault == "in place":
            state["count"] += 1
        return updates, state

    def size(self, g: Tensor) -> float:
        """Looks below the lift, which vmap cannot see through."""
        return float(torch._C._functorch.is_batchedtensor(g)) + 1.0


MADE: list[Any] = []

FAULTS = {
    "parameters": "the updates for a zero gradient are the parameters; expected increments",
    "names": "updates must have the names",
    "shapes": r"update of scale must be \(\)",
    "dtype": "update of scale must be",
    "finite": "update of scale is not finite",
    "number": "state must hold only tensors",
    "structure": "state changed its names",
    "in place": "modified the given state in place",
    "lifting": "steps differently than task by task",
    "branch": "Lifting over tasks: the rule raised RuntimeError",
    "unused": "spare is learned but no update in three steps depends on it",
    "root": "gradient of raw is not finite",
    "plain": "something learned is not an nn.Parameter",
    "random": "global random generator",
    "hidden": "several of Faulty is never learned or saved: .* in an nn.ParameterList",
    "raw": "raw of Faulty is never learned or saved: it must be an nn.Parameter",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_told_in_words(fault: str) -> None:
    told = check_rule(lambda params: Faulty(fault))
    assert any(re.search(FAULTS[fault], line) for line in told), told


class Stateless(UpdateRule):
    def update(self, step: Step, state: RuleState) -> Any:
        return {name: -0.1 * g for name, g in step.grads.items()}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda params: Stateless(), r"^update must return \(updates, state\); got a dict: return the state, too"),
        (lambda params: None, "^a rule must be a metarl.rules.UpdateRule; got None$"),
        (lambda params: nn.Linear(1, 1), "^a rule must be a metarl.rules.UpdateRule; got a Linear$"),
        (lambda params: SGD, "^a rule must be a metarl.rules.UpdateRule; got <class .*SGD'>$"),
    ],
)
def test_what_is_no_rule_is_told_once_and_as_such(make: Any, told: str) -> None:
    (line,) = check_rule(make)
    assert re.search(told, line), line


def test_a_sound_rule_has_nothing_said_about_it() -> None:
    assert check_rule(lambda params: Faulty("none")) == [] == check_rule(lambda params: SGD(0.1))


def test_a_rule_is_checked_on_the_parameters_it_is_for() -> None:
    wanted = {"network.hidden.1.weight": torch.ones(5, 4), "network.hidden.1.bias": torch.ones(5)}

    def make(params: Any) -> UpdateRule:
        assert {name: leaf.shape for name, leaf in params.items()} == {n: leaf.shape for n, leaf in wanted.items()}
        return WhitenedInputs(params, ["network.hidden.1"])

    assert check_rule(make, params=wanted) == []
    assert "raised AssertionError" in check_rule(make)[0]


def test_a_rule_that_draws_its_first_weights_is_sound() -> None:
    class Network(UpdateRule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
            factor = self.layer(step.loss.reshape(1)).squeeze()
            return {name: -factor * g for name, g in step.grads.items()}, state

    assert check_rule(lambda params: Network()) == []


def test_a_rule_that_cannot_be_made_is_told_too() -> None:
    told = check_rule(lambda params: SGD(float("nan")))
    assert told and all("raised ValueError: a step size must be" in line for line in told)
