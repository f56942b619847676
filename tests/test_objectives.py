"""The learned inner objective: meta-gradients of γ, λ and the entropy weight against central differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl import Advantages, CrossFitted, Learner, LinearBaseline, Trace, ZeroBaseline, lvc, negative_entropy, vpg
from metarl.action_baseline import ActionBaseline
from metarl.baselines import Baseline
from metarl.distributions import Categorical
from metarl.learned_signals import LearnedAdvantage, LearnedLoss, LearnedReward
from metarl.losses import TMAML, Dice, Loss, WeightedSum
from metarl.objectives import STATISTICS, LearnedObjective, WarmStart, statistics
from metarl.rules import SGD
from metarl.transitions import TransitionNetwork
from tests.helpers import double_trace, make_batch, numeric_gradient, one_task, randomize, seeded, sgd

BASELINES: dict[str, Baseline] = {"zero": ZeroBaseline(), "linear": LinearBaseline(), "cross-fitted": CrossFitted()}


def learner_and_trace(objective: Any, *, name: str = "navigation", steps: int = 2) -> tuple[Learner, Trace]:
    """A learner that adapts by the objective, on a trace explored with its policy."""
    plain, trace = double_trace(sgd(0.3), steps=steps, name=name)
    return Learner(plain.policy, SGD(0.3), inner=objective, outer=vpg).double(), trace


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("time_limit", ["terminal", "bootstrap"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_meta_gradients_equal_central_differences(baseline: str, time_limit: Any, warm: bool) -> None:
    advantages = Advantages(0.9, 0.8, BASELINES[baseline], time_limit=time_limit)
    start = WarmStart(units=2, generator=seeded(1)) if warm else None
    # vpg, because no difference sees the scores that lvc adds to second derivatives
    objective = LearnedObjective(vpg, advantages, entropy=0.1, warm_start=start)
    # statistics carry no graph, but the entropy among them changes with the first step
    learner, trace = learner_and_trace(objective, steps=1 if warm else 2)
    if start is not None:
        randomize(start, 2)
    task = one_task(trace, 1)
    learner(task).backward()
    for name, p in learner.inner.named_parameters():  # type: ignore[union-attr]
        numeric = numeric_gradient(lambda: float(learner(task).detach()), p, 1e-5)
        assert p.grad is not None and bool((p.grad != 0).any()), name
        torch.testing.assert_close(p.grad, numeric, rtol=2e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_at_its_start_it_is_the_plain_loss_with_those_advantages(name: str) -> None:
    advantages = Advantages(0.9, 0.8)
    learner, trace = learner_and_trace(LearnedObjective(lvc, advantages), name=name)
    warm = LearnedObjective(lvc, advantages, warm_start=WarmStart(generator=seeded(0))).double()
    task = one_task(trace, 0)
    plain = Learner(learner.policy, SGD(0.3), inner=lvc, outer=vpg)
    filled = tuple(advantages(batch) for batch in task.support)
    expected = plain.adapt(filled)
    for inner in (learner.inner, warm):
        found = Learner(learner.policy, SGD(0.3), inner=inner, outer=vpg).adapt(task.support)
        for key, leaf in expected.items():
            torch.testing.assert_close(found[key], leaf, rtol=1e-6, atol=1e-9)  # the logit of 0.9 is rounded


def test_the_entropy_weight_is_a_bonus() -> None:
    learner, trace = learner_and_trace(LearnedObjective(lvc, Advantages(0.9, 0.8), entropy=0.5))
    batch = one_task(trace.support[0], 0)
    distribution = learner.policy(learner.policy.initial(), batch.observation)
    without = LearnedObjective(lvc, Advantages(0.9, 0.8)).double()
    difference = learner.inner(distribution, batch) - without(distribution, batch)
    torch.testing.assert_close(difference, 0.5 * negative_entropy(distribution, batch))


def test_lifted_over_tasks_equals_a_loop_and_a_warm_start_differs_between_tasks() -> None:
    start = WarmStart(units=4, generator=seeded(1))
    randomize(start, 2, 1.0)
    learner, trace = learner_and_trace(LearnedObjective(lvc, Advantages(0.9, 0.8), warm_start=start))
    together = torch.vmap(learner)(trace)
    alone = torch.stack([learner(one_task(trace, t)) for t in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0.0)
    objective = learner.inner
    assert isinstance(objective, LearnedObjective)

    def discount(t: int) -> float:
        batch = one_task(trace.support[0], t)
        distribution = learner.policy(learner.policy.initial(), batch.observation)
        return float(objective.hyperparameters(distribution, batch).discount.detach())

    assert len({round(discount(t), 6) for t in range(3)}) == 3


def test_everything_is_a_parameter_of_the_learner() -> None:
    start = WarmStart(units=2, generator=seeded(1))
    learner, _ = learner_and_trace(LearnedObjective(lvc, Advantages(0.9, 0.8), warm_start=start))
    names = {name for name, _ in learner.named_parameters()}
    assert {"inner.discount", "inner.decay", "inner.entropy", "inner.warm_start.head.weight"} <= names
    assert {f"inner.{name}" for name in learner.inner.state_dict()} <= set(learner.state_dict())  # type: ignore[union-attr]


def test_statistics_by_hand() -> None:
    reward = torch.tensor([[1.0, 2.0], [1.0, 4.0], [4.0, 0.0], [4.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False], [False, False]])
    found = statistics(Categorical(torch.zeros(4, 2, 3)), make_batch(reward, mask, terminated))
    # means a step: all 16 / 6, early (1 + 1 + 2) / 3, late (4 + 4 + 4) / 3; returns a step 2.5 and 3, so a spread of
    # 0.25; lengths 4 and 2
    by_hand = [math.log1p(16 / 6), math.log1p(4.0 - 4.0 / 3.0), math.log1p(0.25), math.log10(3.0), 0.5]
    assert found.tolist() == pytest.approx([*by_hand, math.log1p(math.log(3.0))], rel=1e-6)
    assert len(found) == STATISTICS and not found.requires_grad
    longer = [torch.cat([x, torch.zeros(5, 2, dtype=x.dtype)]) for x in (reward, mask, terminated)]
    padded = statistics(Categorical(torch.zeros(9, 2, 3)), make_batch(*longer))
    torch.testing.assert_close(padded, found)  # how far a batch is padded is decided by other tasks


def test_an_episode_of_one_step_does_not_grow() -> None:
    found = statistics(Categorical(torch.zeros(1, 4, 3)), make_batch(torch.full((1, 4), 3.0)))
    assert found[0] == pytest.approx(math.log(4.0)) and found[1] == 0.0


OF_REWARDS = {
    "Dice": Dice(0.9),
    "TMAML": TMAML(0.9),
    "sum": WeightedSum(((0.5, lvc), (0.5, WeightedSum(((1.0, Dice(0.9)),))))),
    "learned objective": LearnedObjective(lvc, Advantages(0.9, 0.8)),
    "learned reward": LearnedReward(lvc, TransitionNetwork(2, 2, discrete=False, generator=seeded(0)), Advantages()),
    "learned loss": LearnedLoss(Dice(0.9), TransitionNetwork(2, 2, discrete=False, more=1, generator=seeded(0))),
}


@pytest.mark.parametrize("loss", OF_REWARDS.values(), ids=OF_REWARDS)
def test_a_loss_of_rewards_cannot_learn_from_advantages(loss: Loss) -> None:
    advantages, network = Advantages(0.9, 0.8), TransitionNetwork(2, 2, discrete=False, generator=seeded(0))
    for make in (
        lambda: LearnedObjective(loss, advantages),
        lambda: LearnedReward(loss, network, advantages),
        lambda: LearnedAdvantage(loss, network),
        lambda: ActionBaseline(loss),
    ):
        with pytest.raises(ValueError, match=f"changes advantages, but {type(loss).__name__} uses rewards"):
            make()


def test_constant_rewards_give_finite_gradients() -> None:
    learner, trace = learner_and_trace(LearnedObjective(lvc, Advantages(0.9, 0.8, ZeroBaseline())), steps=1)

    def flat(batch: Any) -> Any:
        return batch._replace(reward=torch.zeros_like(batch.reward))

    task = one_task(trace, 0)
    learner(task._replace(support=tuple(flat(batch) for batch in task.support))).backward()
    for name, p in learner.named_parameters():
        assert p.grad is None or bool(p.grad.isfinite().all()), name


@pytest.mark.parametrize("bad", [{"discount": 1.0}, {"decay": 1.0}, {"discount": 0.0}])
def test_a_start_without_a_gradient_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must start strictly between 0 and 1"):
        LearnedObjective(lvc, replace(Advantages(0.9, 0.8), **bad))


def test_a_start_that_rounds_to_one_and_advantages_of_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="must start strictly between 0 and 1"):
        LearnedObjective(lvc, Advantages(1.0 - 1e-12, 0.8))  # whose logit in float32 is infinite
    with pytest.raises(ValueError, match="inner loss: expected scale='task', got 'tasks'"):
        LearnedObjective(lvc, Advantages(0.9, 0.8, scale="tasks"))


def test_gradients_flow_through_the_fit_of_the_baseline() -> None:
    # the value of the first state depends on the discount through the targets it is fitted to
    _, trace = double_trace(sgd(0.3), steps=1)
    batch = one_task(trace.support[0], 0)
    discount = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    filled = Advantages(0.9, 0.8, normalize=False).estimate(batch, discount=discount, decay=0.8)
    (slope,) = torch.autograd.grad(filled.value.sum(), discount)

    def value(at: float) -> Tensor:
        return Advantages(0.9, 0.8, normalize=False).estimate(batch, discount=at, decay=0.8).value.sum()

    assert float(slope) == pytest.approx(float(value(0.9 + 1e-5) - value(0.9 - 1e-5)) / 2e-5, rel=1e-6)
