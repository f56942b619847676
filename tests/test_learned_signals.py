"""Learned advantages and rewards: no correction initially, transitions by hand, meta-gradients against differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from metarl import Advantages, Learner, WeightedSum, lvc, negative_entropy, vpg
from metarl.action_baseline import ActionBaseline
from metarl.distributions import Categorical
from metarl.learned_signals import LearnedAdvantage, LearnedLoss, LearnedReward
from metarl.losses import Loss
from metarl.objectives import symlog
from metarl.optimizers import Descent, Evolution, TrustRegion
from metarl.rules import (
    SGD,
    Chain,
    ClipByNorm,
    FirstOrder,
    Masked,
    MetaSGD,
    MLPSchedule,
    Momentum,
    Offset,
    PerStep,
    Scheduled,
    UnitNorm,
    UpdateRule,
)
from metarl.rules.combine import is_first_order
from metarl.transitions import TransitionNetwork
from metarl.types import Batch
from tests.helpers import double_trace, make_batch, numeric_gradient, one_task, randomize, seeded, sgd

TOLD = {"navigation": 4, "cartpole": 2}  # means and log standard deviations; probabilities
SIZES = {"navigation": (2, 2, False), "cartpole": (4, 2, True)}


ADVANTAGES = Advantages(0.9, 0.8)


def judge(name: str, more: int) -> TransitionNetwork:
    observations, actions, discrete = SIZES[name]
    return TransitionNetwork(observations, actions, discrete=discrete, more=more, hidden=(3, 3), generator=seeded(1))


LEARNED: dict[str, Callable[[str, Loss], LearnedAdvantage | LearnedReward | LearnedLoss]] = {
    "advantage": lambda name, loss: LearnedAdvantage(loss, judge(name, 1)),
    "reward": lambda name, loss: LearnedReward(loss, judge(name, 0), ADVANTAGES),
    "loss": lambda name, loss: LearnedLoss(loss, judge(name, 1 + TOLD[name])),
}
KINDS = pytest.mark.parametrize(("name", "kind"), list(itertools.product(SIZES, LEARNED)))


@KINDS
def test_it_starts_as_the_plain_loss(name: str, kind: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=2, name=name)
    support = [ADVANTAGES(batch) for batch in one_task(trace, 1).support]
    same = Learner(plain.policy, SGD(0.3), inner=LEARNED[kind](name, lvc).double(), outer=vpg)
    expected = Learner(plain.policy, SGD(0.3), inner=lvc, outer=vpg).adapt(support)
    for key, leaf in same.adapt(support).items():
        torch.testing.assert_close(leaf, expected[key], rtol=1e-9, atol=1e-12)


@KINDS
def test_meta_gradients_equal_central_differences(name: str, kind: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=2, name=name)
    inner = LEARNED[kind](name, vpg).double()
    randomize(inner, 2, 0.5)
    learner, task = Learner(plain.policy, SGD(0.3), inner=inner, outer=vpg), one_task(trace, 1)
    learner(task).backward()
    for key, p in inner.named_parameters():
        numeric = numeric_gradient(lambda: float(learner(task).detach()), p, 1e-5)
        if (kind, key) == ("loss", "network.head.bias"):  # what is added to a loss has no slope
            assert p.grad is None and not numeric.any()
            continue
        assert p.grad is not None
        if (kind, key) != ("reward", "network.head.bias"):  # the same more for every step: the baseline takes it away
            assert bool((p.grad != 0).any()), key
        torch.testing.assert_close(p.grad, numeric, rtol=2e-5, atol=1e-9, msg=key)


@KINDS
def test_lifted_over_tasks_equals_a_loop(name: str, kind: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=1, name=name)
    inner = LEARNED[kind](name, lvc).double()
    randomize(inner, 2, 1.0)
    learner = Learner(plain.policy, SGD(0.3), inner=inner, outer=vpg)
    together = torch.vmap(learner)(trace)
    alone = torch.stack([learner(one_task(trace, t)) for t in range(len(together))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0.0)


def test_a_corrected_reward_is_estimated_as_if_the_task_had_paid_it() -> None:
    plain, trace = double_trace(sgd(0.3), steps=1, name="navigation")
    inner = LearnedReward(vpg, judge("navigation", 0), ADVANTAGES).double()
    randomize(inner, 2, 1.0)
    batch = one_task(trace, 0).support[0]
    paid = batch._replace(reward=(batch.reward + inner.network(batch).detach()) * batch.mask)
    distribution = plain.policy(plain.policy.initial(), batch.observation)
    found, expected = inner(distribution, batch), vpg(distribution, ADVANTAGES(paid))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    assert float((paid.reward - batch.reward).abs().max()) > 0.01


def test_a_sum_within_is_learned_and_a_sum_around_is_refused() -> None:
    plain, _ = double_trace(sgd(0.3), steps=1, name="navigation")
    within = LearnedAdvantage(WeightedSum(((1.0, lvc), (0.1, negative_entropy))), judge("navigation", 1))
    learner = Learner(plain.policy, SGD(0.3), inner=within, outer=vpg)
    assert {id(p) for p in within.parameters()} <= {id(p) for p in learner.parameters()}
    message = "loss without parameters to learn, .* got a LearnedAdvantage; put the sum inside that loss"
    with pytest.raises(ValueError, match=message):
        WeightedSum(((1.0, vpg), (0.1, within)))
    for one in (ActionBaseline(vpg), within.requires_grad_(False)):  # modules that have nothing to learn
        WeightedSum(((1.0, one), (0.1, negative_entropy)))


@KINDS
def test_as_an_outer_loss_it_is_refused_as_it_would_learn_to_be_small(name: str, kind: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=1, name=name)
    outer = LEARNED[kind](name, vpg).double()
    query = one_task(trace, 0).query
    given = plain.policy(plain.policy.initial(), query.observation)
    before = float(outer(given, query).detach())
    optimizer = torch.optim.Adam(outer.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        outer(given, query).backward(retain_graph=True)
        optimizer.step()
    assert float(outer(given, query).detach()) < before - 0.02  # although the policy is the same
    message = "outer loss: expected one without parameters to learn, .* got a Learned"
    with pytest.raises(ValueError, match=message):
        Learner(plain.policy, SGD(0.3), inner=vpg, outer=outer)
    Learner(plain.policy, SGD(0.3), inner=vpg, outer=outer.requires_grad_(False))


RULES: dict[str, Callable[[dict[str, torch.Tensor]], UpdateRule]] = {
    "first order": lambda p: FirstOrder(MetaSGD(p, initial=0.1)),
    "within an offset": lambda p: Offset(FirstOrder(SGD(0.3)), p),
    "scheduled": lambda p: Scheduled(FirstOrder(SGD(0.3)), MLPSchedule(generator=seeded(0))),
    "masked": lambda p: Masked(FirstOrder(SGD(0.3)), "head", p),
    "first of a chain": lambda p: Chain(FirstOrder(ClipByNorm(1.0)), Momentum(), SGD(0.3)),
    "at every step": lambda p: PerStep(FirstOrder(SGD(0.3)), Chain(FirstOrder(UnitNorm()), SGD(0.3))),
    "at one of two steps": lambda p: PerStep(FirstOrder(SGD(0.3)), SGD(0.3)),
    "second order": lambda p: Offset(Chain(ClipByNorm(1.0), SGD(0.3)), p),
}


@pytest.mark.parametrize("name", RULES)
def test_gradient_optimizers_refuse_rules_that_keep_the_inner_loss_from_learning(name: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=2, name="navigation")
    inner = LearnedAdvantage(vpg, judge("navigation", 1)).double()
    randomize(inner, 2, 0.5)
    learner = Learner(plain.policy, RULES[name](plain.policy.initial()).double(), inner=inner, outer=vpg)
    learner(one_task(trace, 1)).backward()
    stuck = all(p.grad is None or not p.grad.any() for p in inner.parameters())
    assert stuck == is_first_order(learner.rule) == (name not in ("at one of two steps", "second order"))
    message = "LearnedAdvantage would not learn: .* FirstOrder"
    for use in (lambda: Descent(learner), lambda: TrustRegion().refuse(learner)):
        with pytest.raises(ValueError, match=message) if stuck else nullcontext():
            use()
    Evolution(learner)  # needs no gradient
    inner.requires_grad_(False)
    Descent(learner)
    TrustRegion().refuse(learner)


def test_rewards_are_estimated_for_a_task_by_itself() -> None:
    with pytest.raises(ValueError, match="inner loss: expected scale='task', got 'tasks'"):
        LearnedReward(vpg, judge("navigation", 0), Advantages(0.9, 0.8, scale="tasks"))


def transitions() -> tuple[Batch, torch.Tensor]:
    """Two episodes of at most three steps: one that the clock ends, one that its task ends after two."""
    reward = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False]])
    batch = make_batch(reward, mask, terminated)._replace(
        observation=torch.tensor([[[1.0], [2.0]], [[4.0], [8.0]], [[16.0], [0.0]]]),
        last_observation=torch.tensor([[32.0], [0.0]]),
        action=torch.tensor([[0, 2], [1, 0], [2, 0]]),
        advantage=torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.0]]),
    )
    return batch, TransitionNetwork(1, 3, discrete=True, generator=seeded(0)).transitions(batch)


def test_transitions_by_hand() -> None:
    _, found = transitions()
    rows = {  # state, one-hot action, change, reward, end
        (0, 0): [1, 1, 0, 0, 3, 1, 0],
        (1, 0): [4, 0, 1, 0, 12, 3, 0],
        (2, 0): [16, 0, 0, 1, 16, 5, 0],  # cut off by the clock: what came next is known
        (0, 1): [2, 0, 0, 1, 6, 2, 0],
        (1, 1): [8, 1, 0, 0, 0, 4, 1],  # ended by its task
    }
    for (step, episode), row in rows.items():
        torch.testing.assert_close(found[step, episode], torch.tensor([float(x) for x in row]))


def test_padding_counts_for_nothing() -> None:
    batch, _ = transitions()
    inner = LearnedAdvantage(lvc, TransitionNetwork(1, 3, discrete=True, more=1, generator=seeded(0)))
    randomize(inner, 2, 1.0)
    logits = torch.randn(3, 2, 3, generator=seeded(3), requires_grad=True)
    inner(Categorical(logits), batch).backward()
    assert logits.grad is not None
    assert bool((logits.grad[2, 1] == 0).all()) and bool((logits.grad[0] != 0).all())


def test_a_learned_reward_is_not_paid_after_the_end() -> None:
    batch, _ = transitions()
    inner = LearnedReward(lvc, TransitionNetwork(1, 3, discrete=True, generator=seeded(0)), ADVANTAGES)
    randomize(inner, 2, 1.0)
    elsewhere = batch.observation.clone()
    elsewhere[2, 1] = 5.0  # padding: the network would judge it otherwise
    logits = torch.randn(3, 2, 3, generator=seeded(3), requires_grad=True)
    found = [
        torch.autograd.grad(inner(Categorical(logits), batch._replace(observation=seen)), logits)[0]
        for seen in (batch.observation, elsewhere)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_without_hidden_layers_the_judgement_is_linear() -> None:
    network = TransitionNetwork(2, 2, discrete=False, hidden=(), generator=seeded(1)).double()
    randomize(network, 2, 0.5)
    assert [tuple(p.shape) for p in network.parameters()] == [(1, 8), (1,)]
    batch = one_task(double_trace(sgd(0.3), steps=1, name="navigation")[1], 1).support[0]
    expected = symlog(network.transitions(batch)) @ network.head.weight[0] + network.head.bias
    torch.testing.assert_close(network(batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SIZES)
def test_hidden_actions_are_all_that_is_hidden(name: str) -> None:
    observations, actions, discrete = SIZES[name]
    _, trace = double_trace(sgd(0.3), steps=1, name=name)
    batch = one_task(trace, 0).support[0]
    shown, hidden = (
        TransitionNetwork(observations, size, discrete=discrete, generator=seeded(0)).double() for size in (actions, 0)
    )
    seen = shown.transitions(batch)
    kept = [i for i in range(seen.shape[-1]) if not observations <= i < observations + actions]
    assert torch.equal(hidden.transitions(batch), seen[..., kept])
    assert hidden(batch).shape == batch.reward.shape


@pytest.mark.parametrize("size", [1, 3])
def test_continuous_actions_of_another_size_are_refused(size: int) -> None:
    batch = one_task(double_trace(sgd(0.3), steps=1)[1], 0).support[0]
    with pytest.raises(ValueError, match=f"expected actions of size {size}, as declared, got 2"):
        TransitionNetwork(2, size, discrete=False, generator=seeded(0)).double()(batch)


@pytest.mark.parametrize(("observations", "more"), [(2, 0), (2, 2), (3, 1)])
def test_a_network_declared_for_other_inputs_is_refused(observations: int, more: int) -> None:
    learner, trace = double_trace(sgd(0.3), steps=1)
    batch = one_task(trace, 0).support[0]
    network = TransitionNetwork(observations, 2, discrete=False, more=more, generator=seeded(0)).double()
    declared = 2 * observations + 2 + 2 + more
    with pytest.raises(ValueError, match=f"expected {declared} numbers per step, as declared, got 9, 1 of them"):
        LearnedAdvantage(lvc, network)(learner.act(learner.policy.initial(), batch), batch)


def test_a_learned_loss_is_the_mean_over_real_steps_by_hand() -> None:
    batch, _ = transitions()
    network = TransitionNetwork(1, 3, discrete=True, more=4, hidden=(), generator=seeded(0))
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.0] * 7 + [1.0, 0.5, 0.0, -2.0]]))  # the advantage, and odds of arms
    distribution = Categorical(torch.randn(3, 2, 3, generator=seeded(1)))
    found = LearnedLoss(vpg, network)(distribution, batch) - vpg(distribution, batch)
    p = distribution.logits.softmax(-1)
    real = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]
    by_hand = [
        math.log1p(float(batch.advantage[s])) + 0.5 * math.log1p(float(p[s][0])) - 2.0 * math.log1p(float(p[s][2]))
        for s in real
    ]
    assert float(found.detach()) == pytest.approx(sum(by_hand) / 5, rel=1e-5)


def test_symlog_and_its_derivatives_by_closed_forms() -> None:
    x = torch.tensor([-3.0, -1e-9, 0.0, 1e-9, 0.5, 7.0], dtype=torch.float64, requires_grad=True)
    y = symlog(x)
    torch.testing.assert_close(y, x.sign() * x.abs().log1p())
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, 1 / (1 + x.abs()))
    (bend,) = torch.autograd.grad(slope.sum(), x)
    away = x.detach() != 0
    torch.testing.assert_close(bend[away], (-x.sign() / (1 + x.abs()).square())[away])
    assert bool(bend.isfinite().all())
