"""The contract of losses: all our losses satisfy it, and each fault is found in a loss that has it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metarl import TMAML, Clipped, Dice, LoadedDice, WeightedSum, lvc, negative_entropy, sample_kl, vpg
from metarl.action_baseline import ActionBaseline
from metarl.advantages import Advantages
from metarl.distributions import Categorical, Gaussian
from metarl.learned_signals import LearnedAdvantage, LearnedLoss, LearnedReward
from metarl.losses import masked_mean, surrogate
from metarl.objectives import LearnedObjective
from metarl.testing import check_loss
from metarl.testing.losses import LENGTHS, Sizes, draw_case
from metarl.transitions import TransitionNetwork
from tests.helpers import seeded

SIZES = Sizes(observation=2, action=1, choices=2)


def network(more: int = 0) -> TransitionNetwork:
    return TransitionNetwork(2, 2, discrete=True, more=more, hidden=(4,), generator=seeded(0))


LOSSES: dict[str, Any] = {
    "vpg": vpg,
    "lvc": lvc,
    "dice": Dice(0.9),
    "tmaml": TMAML(0.9),
    "loaded-dice": LoadedDice(),
    "clipped": Clipped(0.2),
    "surrogate": surrogate,
    "kl": sample_kl,
    "entropy": negative_entropy,
    "sum": WeightedSum(((1.0, vpg), (-0.1, negative_entropy))),
    "action-baseline": ActionBaseline(vpg),
    "objective": LearnedObjective(vpg, Advantages(discount=0.9, decay=0.9)),
    "advantage": LearnedAdvantage(vpg, network(more=1)),
    "reward": LearnedReward(vpg, network(), Advantages()),
    "loss": LearnedLoss(vpg, network(more=3)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_ours_keep_the_contract(name: str) -> None:
    told = check_loss(LOSSES[name], sizes=SIZES)
    if name == "loss":  # a number added to a loss, whose gradient does not see it
        assert told.pop() == "network.head.bias is learned but no step on the loss depends on it"
    assert told == []


def test_cases_are_as_rollouts_are() -> None:
    for discrete, kind in ((True, Categorical), (False, Gaussian)):
        for task, lengths in enumerate(LENGTHS):
            distribution, batch = draw_case(3, task, discrete=discrete, sizes=SIZES)
            assert type(distribution) is kind is type(batch.distribution)
            assert batch.mask.sum(0).tolist() == list(lengths)
            padding = batch.mask == 0
            for name in ("observation", "action", "log_prob", "reward", "advantage", "value", "terminated"):
                leaf = getattr(batch, name)
                assert leaf.shape[:2] == batch.mask.shape and not bool(leaf[padding].any()), name
            torch.testing.assert_close(batch.distribution.log_prob(batch.action)[~padding], batch.log_prob[~padding])
            assert batch.terminated.sum(0).tolist() == [int(length < 4) for length in lengths]


class Faulty(nn.Module):
    """vpg with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls, self.weight = fault, 0, 1.0
        if fault in ("unused", "root", "outside"):
            self.raw = nn.Parameter(torch.zeros(()))
        if fault == "hidden":
            self.several = [nn.Parameter(torch.zeros(()))]
        if fault == "plain":
            MADE.append(self)
            self.weight += 0.1 * len(MADE)

    def forward(self, distribution: Any, batch: Any) -> Any:  # noqa: PLR0911, PLR0912 (one line a fault)
        score = distribution.log_prob(batch.action) * batch.advantage
        match self.fault:
            case "each":
                return -score
            case "float":
                return float(-masked_mean(score, batch.mask).detach())
            case "dtype":
                return -masked_mean(score, batch.mask).double().half()
            case "finite":
                return -masked_mean(score, batch.mask) / batch.terminated[0, 0]
            case "padding":
                return -masked_mean(score, batch.mask) + distribution.entropy().mean()
            case "longer":
                return -(score * batch.mask).mean()
            case "lifting":
                return -masked_mean(score, batch.mask) * (1.0 + float(torch._C._functorch.is_batchedtensor(score)))
            case "branch":
                return -masked_mean(score, batch.mask) * (2.0 if bool(batch.reward[0, 0] > 0) else 1.0)
            case "detached":
                return -masked_mean(score, batch.mask).detach()
            case "slope":
                return -masked_mean((score - score.detach()).sqrt(), batch.mask)
            case "root":
                return -masked_mean(score, batch.mask) * (1.0 + self.raw.abs().sqrt())
            case "outside":
                return -masked_mean(score, batch.mask) + self.raw
            case "random":
                return -masked_mean(score, batch.mask) * float(torch.rand(()))
            case "counts":
                self.calls += 1
                return -masked_mean(score, batch.mask) * self.calls
            case "hidden":
                return -masked_mean(score, batch.mask) * (1.0 + self.several[0])
            case "in place":
                batch.advantage.mul_(0.5)
        return -masked_mean(score, batch.mask) * self.weight


MADE: list[Any] = []

FAULTS = {
    "each": r"one number per task, of shape \(\); got shape \(4, 3\)",
    "float": r"one number per task, of shape \(\); got float",
    "dtype": "of torch.float32 inputs must be torch.float32; got torch.float16",
    "finite": "the loss must be finite; got",
    "padding": "the policy's distribution after an episode's end",
    "longer": "padding after the last step",
    "lifting": "under vmap over tasks",
    "branch": "Lifting over tasks: the loss raised RuntimeError",
    "detached": "does not depend on the policy",
    "slope": "gradient with respect to the policy is not finite",
    "root": "second derivative is not finite",
    "unused": "raw is learned but no step",
    "outside": "raw is learned but no step",
    "random": "torch's global random generator",
    "counts": "differs when called again",
    "in place": "modified its arguments in place",
    "hidden": "several of (Made|Faulty) is never learned or saved",
    "plain": "loaded from a state_dict differs",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_no_other(fault: str) -> None:
    found = check_loss(type("Made", (Faulty,), {"__init__": lambda self: Faulty.__init__(self, fault)}))
    assert any(re.search(FAULTS[fault], line) for line in found), found
    assert len(found) == (2 if fault in ("dtype", "padding") else 1), found
    if fault not in ("plain", "hidden"):  # an instance as well as a class
        assert check_loss(Faulty(fault)) == found


def test_a_sound_loss_with_weights_of_its_own_has_no_fault() -> None:
    assert check_loss(Faulty("none")) == []


def test_a_loss_for_one_kind_of_actions_is_sound_and_one_for_none_is_not() -> None:
    def slow(distribution: Any, batch: Any) -> Tensor:
        return masked_mean(distribution.mean.square().sum(-1), batch.mask)

    def lost(distribution: Any, batch: Any) -> Tensor:
        return masked_mean(distribution.variance, batch.mask)

    assert check_loss(slow) == []
    (line,) = check_loss(lost)
    assert line.startswith("the loss raised AttributeError: 'Categorical' object has no attribute 'variance'")


def test_a_loss_is_checked_with_the_actions_it_is_for() -> None:
    def slow(distribution: Any, batch: Any) -> Tensor:
        return masked_mean(distribution.mean.square().sum(-1), batch.mask)

    assert check_loss(slow, discrete=False) == []
    assert "'Categorical' object has no attribute 'mean'" in check_loss(slow, discrete=True)[0]


def test_first_weights_may_be_drawn_and_parameters_of_no_module_may_not() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, distribution: Any, batch: Any) -> Tensor:
            return vpg(distribution, batch._replace(advantage=self.layer(batch.observation).squeeze(-1)))

    assert check_loss(Network, sizes=SIZES) == []

    class Plain:
        def __init__(self) -> None:
            self.weight = nn.Parameter(torch.ones(()))

        def __call__(self, distribution: Any, batch: Any) -> Tensor:
            return vpg(distribution, batch) * self.weight.to(batch.reward)

    assert any("weight of Plain is never learned" in line for line in check_loss(Plain()))


def test_an_instance_is_left_as_it_was() -> None:
    loss = Faulty("root").float()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    check_loss(loss)
    assert loss.raw.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
