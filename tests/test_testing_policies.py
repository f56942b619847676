"""The contract of policies: all our policies satisfy it, and each fault is found in a policy that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from examples.own_policy import residual
from metarl import MLP, CategoricalPolicy, GaussianPolicy, ModuleNetwork
from metarl.testing import check_policy
from tests.helpers import seeded

SEEN = Box(-1.0, 1.0, (3,), np.float32)
REAL = Box(-1.0, 1.0, (2,), np.float32)
CHOICES = Discrete(4)


def mlp(actions: Any = CHOICES, **more: Any) -> Any:
    outputs = 4 if actions is CHOICES else 2
    network = MLP(3, [5], outputs, generator=seeded(0), **more)
    return CategoricalPolicy(network) if actions is CHOICES else GaussianPolicy(network, outputs)


OURS: dict[str, Any] = {
    "mlp": lambda seen, actions: mlp(actions),
    "no hidden layer": lambda seen, actions: CategoricalPolicy(MLP(3, [], 4, generator=seeded(0))),
    "context and scale": lambda seen, actions: mlp(actions, context=2, input_scale=torch.tensor([1.0, 2.0, 3.0])),
    "module": residual,
}


@pytest.mark.parametrize("actions", [CHOICES, REAL], ids=["discrete", "continuous"])
@pytest.mark.parametrize("name", OURS)
def test_policies_of_ours_keep_the_contract(name: str, actions: Any) -> None:
    if name == "no hidden layer" and actions is REAL:
        pytest.skip("made for discrete actions")
    before = torch.get_rng_state()
    torch.manual_seed(0)
    assert check_policy(OURS[name], SEEN, actions) == []
    torch.set_rng_state(before)


def test_a_frozen_part_is_no_fault() -> None:
    def make(seen: Any, actions: Any) -> Any:
        policy = mlp(REAL)
        policy.log_std.requires_grad_(False)
        return policy

    assert check_policy(make, SEEN, REAL) == []


class Faulty(CategoricalPolicy):
    """A policy with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(MLP(3, [5], 9 if fault == "choices" else 4, generator=seeded(0)))
        self.fault, self.scale = fault, torch.tensor(1.0 + len(MADE))
        MADE.append(self)
        if fault == "nothing learned":
            self.requires_grad_(False)
        if fault == "unused":
            self.spare = nn.Parameter(torch.zeros(()))
        if fault == "hidden":
            self.several = [nn.Parameter(torch.zeros(()))]
        if fault == "root":
            self.raw = nn.Parameter(torch.zeros(()))

    def forward(self, params: Any, observation: Tensor) -> Any:
        if self.fault == "wrong product":
            first = params["network.hidden.0.weight"]
            logits = (observation @ first.reshape(-1, *first.shape[-2:])[0].mT)[..., :4]
            return super().forward(params, observation)._replace(logits=logits)
        found = super().forward(params, observation)
        if self.fault == "shape":
            found = found._replace(logits=found.logits[..., :1, :])
        if self.fault == "dtype":
            found = found._replace(logits=found.logits.float() + torch.zeros((), dtype=torch.float32))
        if self.fault == "finite":
            found = found._replace(logits=found.logits / 0.0)
        if self.fault == "plain":
            found = found._replace(logits=found.logits * self.scale)
        if self.fault == "root":
            root = (params["raw"] - params["raw"].detach()).abs().sqrt()
            found = found._replace(
                logits=found.logits + root[..., None, None, None] * torch.tensor([1.0, -1.0, 2.0, 0.0])
            )
        if self.fault == "own forward":
            raise RuntimeError("no way")
        return found

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        if self.fault == "random":
            return torch.rand(*rows)
        if self.fault == "changing noise":
            return super().noise(rows, generator=generator) * 0.5 ** len(MADE[-1].drawn)
        return super().noise(rows, generator=generator)

    @property
    def drawn(self) -> list[None]:
        """Longer whenever it is looked at."""
        DRAWN.append(None)
        return DRAWN


MADE: list[Any] = []
DRAWN: list[None] = []

FAULTS = {
    "nothing learned": "no parameter that requires a gradient: there is nothing to adapt",
    "unused": "spare is learned but no action depends on it",
    "hidden": "several of Faulty is never learned or saved",
    "choices": "samples must be whole numbers from 0 to 3; got",
    "shape": "modes of (4, 2) rows must have the shape (4, 2); got (4, 1)",
    "dtype": "log_prob must be one number per row, (4, 2), torch.float64; got (4, 2), torch.float32",
    "finite": "is not finite",
    "wrong product": "with parameters stacked over tasks the policy acts differently than task by task",
    "plain": "a policy loaded from a state_dict acts differently",
    "root": "the gradient of raw is not finite",
    "random": "the policy draws from torch's global random generator",
    "changing noise": "noise from equal generators differs",
    "own forward": "Acting: the policy raised RuntimeError: no way",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    found = check_policy(lambda seen, actions: Faulty(fault), SEEN, CHOICES)
    assert any(FAULTS[fault] in line for line in found), found


def test_what_is_no_policy_is_told() -> None:
    assert check_policy(lambda seen, actions: nn.Linear(3, 4), SEEN, CHOICES) == [
        "expected a metarl.policies.Policy, got a Linear"
    ]
    (told,) = check_policy(lambda seen: None, SEEN, CHOICES)  # type: ignore[misc, arg-type, return-value]
    assert told.startswith("Parameters: the policy raised TypeError: ")


def test_actions_of_another_size_are_told() -> None:
    told = check_policy(lambda seen, actions: GaussianPolicy(ModuleNetwork(nn.Linear(3, 3)), 3), SEEN, REAL)
    assert told[0] == "samples of (4, 2) rows must have the shape (4, 2, 2); got (4, 2, 3)"
