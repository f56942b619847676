"""Which meta-gradient estimates what: expected estimates against exact gradients, both by full enumeration.

The objective is J(theta) = E[ score(theta'(D)) ] over all support data D that theta can sample. Relative errors
of the *expected* meta-gradient for step size 1.0 / 0.5 / 0.25 and two support episodes, measured here:

==================  =====================  =====================  ==================================================
inner loss          bandit                 two states             leading error
==================  =====================  =====================  ==================================================
``vpg``             .130 / .064 / .032     .218 / .118 / .061     rate: no account of how theta samples D
``lvc``             .013 / .0041 / .0011   .064 / .029 / .014     rate^2 if episodes have one step, rate if longer:
                                                                  it drops what an action does to later states
``Dice``            .013 / .0041 / .0011   .026 / .0043 / .0006   rate^2 / N
``vpg`` + credit    1e-12                  1e-12                  none
==================  =====================  =====================  ==================================================

`Dice` is the gradient of the objective of infinitely many support episodes, to O(rate^2 / N); of J only so
far as the two agree. `vpg` with `PreUpdateCredit` is the gradient of J itself, for any N and K.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metarl import TMAML, Advantages, Dice, Learner, LoadedDice, PreUpdateCredit, ZeroBaseline, lvc, vpg
from metarl.action_baseline import ActionBaseline
from metarl.learned_signals import LearnedAdvantage
from metarl.rules import SGD, LearnedSGD
from metarl.transitions import TransitionNetwork
from metarl.types import Batch, Trace
from tests.helpers import make_batch, table_policy

Array = NDArray[np.float64]
RAW = Advantages(discount=1.0, decay=1.0, baseline=ZeroBaseline(), normalize=False)


@dataclass(frozen=True)
class World:
    """All E episodes of a small problem, each with the probability of what the policy does not decide."""

    name: str
    logits: Array  # [S, A] where the gradient is taken
    state: NDArray[np.int64]  # [E, H]
    action: NDArray[np.int64]  # [E, H]
    reward: Array  # [E, H]
    chance: Array  # [E]
    step_scale: float = 1.0  # by which the inner loss under test lengthens a step

    @property
    def horizon(self) -> int:
        return self.state.shape[1]

    def probability(self, logits: Array) -> Array:
        """Of every episode under a softmax policy, [E]."""
        log_pi = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return self.chance * np.exp(log_pi[self.state, self.action].sum(-1))

    def score(self, logits: Array) -> float:
        """Mean reward a step, exactly: the scale of losses that are means over steps."""
        return float(self.probability(logits) @ self.reward.sum(-1)) / self.horizon

    def ascent(self, logits: Array) -> Array:
        """Each episode's policy gradient per step, [E, S, A]: sum of (1[a] - pi(s)) x reward-to-go."""
        pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        to_go = self.reward[:, ::-1].cumsum(-1)[:, ::-1]
        out = np.zeros((len(self.chance), *logits.shape))
        for e, t in itertools.product(range(len(self.chance)), range(self.horizon)):
            s = self.state[e, t]
            out[e, s] += (np.eye(logits.shape[1])[self.action[e, t]] - pi[s]) * to_go[e, t]
        return out / self.horizon

    def objective(self, logits: Array, rate: float, episodes: int, steps: int) -> float:
        """J = E over all support data of the adapted policy's score."""
        if steps == 0:
            return self.score(logits)
        probability, ascent = self.probability(logits), self.ascent(logits)
        total = 0.0
        for data in itertools.product(range(len(self.chance)), repeat=episodes):
            adapted = logits + rate * ascent[list(data)].mean(0)
            total += probability[list(data)].prod() * self.objective(adapted, rate, episodes, steps - 1)
        return total

    def limit(self, logits: Array, rate: float) -> float:
        """The same for one step on infinitely many episodes."""
        expected = np.tensordot(self.probability(logits), self.ascent(logits), 1)
        return self.score(logits + rate * expected)


def bernoulli_bandit() -> World:
    """Three arms that pay +1 or -1 with the probabilities 0.9, 0.5 and 0.2."""
    episodes = [(a, r) for a in range(3) for r in (1.0, -1.0)]
    pay = (0.9, 0.5, 0.2)
    return World(
        "bandit",
        np.array([[0.2, -0.1, 0.3]]),
        np.zeros((6, 1), dtype=np.int64),
        np.array([[a] for a, _ in episodes]),
        np.array([[r] for _, r in episodes]),
        np.array([pay[a] if r > 0 else 1 - pay[a] for a, r in episodes]),
    )


def two_states() -> World:
    """Two states, two actions, two steps; the action is the next state, the first state a fair coin."""
    pay = np.array([[-1.0, -0.5], [0.5, 1.5]])
    episodes = list(itertools.product(range(2), range(2), range(2)))
    return World(
        "two states",
        np.array([[0.3, -0.2], [0.1, 0.4]]),
        np.array([[s, a] for s, a, _ in episodes]),
        np.array([[a, b] for _, a, b in episodes]),
        np.array([[pay[s, a], pay[a, b]] for s, a, b in episodes]),
        np.full(8, 0.5),
    )


def differences(function: Callable[[Array], float], at: Array, step: float = 1e-4) -> Array:
    """Central differences of fourth order: their error is about 1e-12 here."""
    out = np.zeros_like(at)
    for i in np.ndindex(at.shape):
        unit = np.zeros_like(at)
        unit[i] = step
        near, far = (function(at + k * unit) - function(at - k * unit) for k in (1, 2))
        out[i] = (8 * near - far) / (12 * step)
    return out


def as_batch(world: World, data: NDArray[np.int64]) -> Batch:
    """The episodes numbered ``data`` [T, N] as a batch [T, H, N], with raw advantages."""

    def pick(table: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(table[data], -1, 1)))

    observation = torch.nn.functional.one_hot(pick(world.state), world.logits.shape[0]).double()
    batch = make_batch(
        pick(world.reward), observation=observation, action=pick(world.action), last_observation=observation[:, -1]
    )
    return RAW(batch)


def expected_gradient(
    world: World,
    inner: Any,
    *,
    rate: float,
    episodes: int,
    steps: int = 1,
    credit: bool = False,
    outcome: Callable[[float, float], float] = lambda score, query: score,
) -> tuple[Array, float]:
    """The library's meta-gradient in logits and rate, averaged over all support and query data.

    The trace holds every combination of support data and one query episode as a task of its own;
    nothing is sampled. ``outcome`` makes the credit's outcome of the adapted policy's exact score and of the
    query episode's mean reward. Returns the gradient of the score (not of the loss): ``[S, A]``, and of the rate.
    """
    learner = Learner(
        table_policy(world.logits),
        LearnedSGD(rate).double(),
        inner=inner,
        outer=vpg,
        credit=PreUpdateCredit() if credit else None,
    )
    count = len(world.chance)
    tables, weights, outcomes = [], [], []

    def branch(logits: Array, path: tuple[tuple[int, ...], ...], probability: float) -> None:
        if len(path) == steps:
            for query, chance in enumerate(world.probability(logits)):
                tables.append((*path, (query,)))
                weights.append(probability * chance)
                outcomes.append(outcome(world.score(logits), float(world.reward[query].mean())))
            return
        own, ascent = world.probability(logits), world.ascent(logits)
        for data in itertools.product(range(count), repeat=episodes):
            branch(
                logits + world.step_scale * rate * ascent[list(data)].mean(0),
                (*path, data),
                probability * own[list(data)].prod(),
            )

    branch(world.logits, (), 1.0)
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)
    support = tuple(as_batch(world, np.array([row[k] for row in tables])) for k in range(steps))
    query = as_batch(world, np.array([row[-1] for row in tables]))
    outcome_of = torch.tensor(outcomes, dtype=torch.float64)
    losses = torch.vmap(learner)(Trace(support, query, outcome_of, torch.zeros_like(outcome_of), {}))
    (losses * torch.tensor(weights, dtype=torch.float64)).sum().backward()
    policy_grad, rate_grad = (next(part.parameters()).grad for part in (learner.policy, learner.rule))
    assert policy_grad is not None and rate_grad is not None
    return -policy_grad.numpy(), -float(rate_grad)


def exact_gradient(world: World, *, rate: float, episodes: int, steps: int = 1) -> tuple[Array, float]:
    """Of J in logits and rate, by differences of the enumerated objective."""
    by_logits = differences(lambda x: world.objective(x, rate, episodes, steps), world.logits)
    by_rate = differences(lambda a: world.objective(world.logits, float(a[0]), episodes, steps), np.array([rate]))
    return by_logits, float(by_rate[0])


def error(estimate: Array, exact: Array) -> float:
    return float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact))


WORLDS = {"bandit": bernoulli_bandit(), "two states": two_states()}
RATES = (1.0, 0.5, 0.25)


def errors(world: World, inner: Any, *, episodes: int = 2) -> list[float]:
    """Relative error of the expected meta-gradient for each of `RATES`."""
    return [
        error(
            expected_gradient(world, inner, rate=rate, episodes=episodes)[0],
            exact_gradient(world, rate=rate, episodes=episodes)[0],
        )
        for rate in RATES
    ]


def order(errors: list[float]) -> float:
    """The power of the rate that the error falls with, between the two smallest rates."""
    return float(np.log2(errors[1] / errors[2]))


def test_probabilities_of_all_episodes_sum_to_one() -> None:
    for world in WORLDS.values():
        assert world.probability(world.logits).sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("steps", "episodes"), [(1, 1), (1, 2), (2, 1)])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_vpg_with_pre_update_credit_is_unbiased(world: World, steps: int, episodes: int) -> None:
    exact, exact_rate = exact_gradient(world, rate=0.75, episodes=episodes, steps=steps)
    found, rate = expected_gradient(world, vpg, rate=0.75, episodes=episodes, steps=steps, credit=True)
    assert error(found, exact) < 1e-9
    assert rate == pytest.approx(exact_rate, rel=1e-9)


def test_a_sampled_or_shifted_outcome_keeps_the_credit_unbiased() -> None:
    world = WORLDS["two states"]
    exact, _ = exact_gradient(world, rate=0.75, episodes=2)
    for outcome in (lambda score, query: query, lambda score, query: score - 3.0):
        found, _ = expected_gradient(world, vpg, rate=0.75, episodes=2, credit=True, outcome=outcome)
        assert error(found, exact) < 1e-9


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_plain_vpg_is_wrong_to_first_order(world: World) -> None:
    found = errors(world, vpg)
    assert 0.10 < found[0] < 0.25  # measured 0.130 and 0.218
    assert order(found) < 1.1  # measured 1.01 and 0.96: half the rate, half the error


def test_more_episodes_do_not_help_plain_vpg() -> None:
    found = [errors(WORLDS["bandit"], vpg, episodes=n)[1] for n in (1, 2, 3)]
    assert found[2] > 0.9 * found[0]  # measured 0.0665, 0.0643, 0.0637


@pytest.mark.parametrize("inner", [lvc, Dice(discount=1.0)], ids=["lvc", "dice"])
def test_lvc_and_dice_are_right_to_first_order_on_one_step_episodes(inner: Any) -> None:
    found = errors(WORLDS["bandit"], inner)
    assert found[0] < 0.02 and found[1] < 0.006  # measured 0.0126, 0.0041
    assert order(found) > 1.7  # measured 1.87


@pytest.mark.parametrize("inner", [Dice(discount=1.0), TMAML(discount=1.0), LoadedDice()])
def test_dice_and_its_relatives_are_right_to_first_order_on_longer_episodes(inner: Any) -> None:
    found = errors(WORLDS["two states"], inner)
    assert found[0] < 0.04 and found[1] < 0.007  # measured 0.0256, 0.0043
    assert order(found) > 1.7


def test_lvc_is_better_than_vpg_but_first_order_on_longer_episodes() -> None:
    found, plain = errors(WORLDS["two states"], lvc), errors(WORLDS["two states"], vpg)
    assert all(a < 0.35 * b for a, b in zip(found, plain, strict=True))  # measured 0.29, 0.25, 0.24
    assert found[0] < 0.1 and order(found) < 1.2  # measured 0.064, 1.04


@pytest.mark.parametrize("inner", [Dice(discount=1.0), TMAML(discount=1.0), LoadedDice(), LoadedDice(0.0), vpg])
def test_expected_second_derivatives_with_a_baseline(inner: Any) -> None:
    """Over all episodes of the MDP, with a value of its own for every state."""
    world, value = WORLDS["two states"], torch.tensor([0.7, -0.4], dtype=torch.float64)
    batch = as_batch(world, np.arange(8).reshape(8, 1))
    batch = batch._replace(value=batch.observation @ value)
    batch = batch._replace(advantage=batch.advantage - batch.value)  # raw advantages are returns to go
    chance = torch.from_numpy(world.probability(world.logits))
    found = -(chance @ hessians(world, inner, batch)).reshape(4, 4).numpy()
    step, columns = 1e-3, []
    for i in np.ndindex(world.logits.shape):
        unit = np.zeros_like(world.logits)
        unit[i] = step
        ends = [differences(world.score, world.logits + sign * unit, step).reshape(-1) for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    wrong = error(found, np.stack(columns))
    assert wrong > 0.1 if inner in (vpg, LoadedDice(0.0)) else wrong < 1e-5


def hessians(world: World, inner: Any, batch: Batch) -> torch.Tensor:
    """Of the loss in the logits, for every task of a batch, ``[T, (S A)²]``."""
    logits = torch.from_numpy(world.logits)
    policy = table_policy(logits)

    def one(task: Batch) -> torch.Tensor:
        def loss(weight: torch.Tensor) -> torch.Tensor:
            return inner(policy({"network.weight": weight}, task.observation), task)

        return torch.func.jacrev(torch.func.grad(loss))(logits).reshape(-1)

    return torch.vmap(one)(batch)


def test_control_variates_lower_the_variance_of_second_derivatives() -> None:
    """Of the MDP with all rewards raised by three, and the exact expected returns to go as values."""
    world = WORLDS["two states"]
    batch = as_batch(world, np.arange(8).reshape(8, 1))
    batch = batch._replace(reward=batch.reward + 3.0)
    to_go = batch.reward.flip(1).cumsum(1).flip(1)
    chance = torch.from_numpy(world.probability(world.logits))
    values = torch.zeros_like(batch.reward)
    for t, s in itertools.product(range(2), range(2)):
        here = batch.observation[:, t, 0, s] * chance
        values[:, t, 0] += batch.observation[:, t, 0, s] * (here @ to_go[:, t, 0]) / here.sum()
    batch = batch._replace(value=values, advantage=to_go - values)

    def spread(inner: Any) -> float:
        each = hessians(world, inner, batch)
        return float(chance @ (each - chance @ each).square().sum(-1))

    assert spread(TMAML(discount=1.0)) < 0.5 * spread(Dice(discount=1.0))
    assert spread(LoadedDice()) == pytest.approx(spread(TMAML(discount=1.0)))
    assert spread(lvc) < spread(LoadedDice())


def test_dice_approaches_the_objective_of_infinitely_many_episodes() -> None:
    world, rate = WORLDS["two states"], 0.25
    limit = differences(lambda x: world.limit(x, rate), world.logits)
    found = [error(expected_gradient(world, Dice(discount=1.0), rate=rate, episodes=n)[0], limit) for n in (1, 2, 3)]
    assert found[0] / found[1] == pytest.approx(2.0, rel=0.1)
    assert found[0] / found[2] == pytest.approx(3.0, rel=0.1)


def test_one_step_needs_no_credit_for_the_rate_but_two_do() -> None:
    # the first support batch is sampled before the rate is used, the second after
    world = WORLDS["bandit"]
    _, exact = exact_gradient(world, rate=1.0, episodes=1, steps=1)
    for inner in (vpg, lvc, Dice(discount=1.0)):
        assert expected_gradient(world, inner, rate=1.0, episodes=1)[1] == pytest.approx(exact, rel=1e-9)
    _, exact = exact_gradient(world, rate=1.0, episodes=1, steps=2)
    _, plain = expected_gradient(world, vpg, rate=1.0, episodes=1, steps=2)
    assert abs(plain - exact) > 0.01 * abs(exact)  # measured 0.0124


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_learned_advantage_of_vpg_keeps_the_credit_unbiased(world: World) -> None:
    # a judge that adds what is there already doubles the step: rate 0.5 then does what rate 1.0 does
    exact, exact_rate = exact_gradient(world, rate=1.0, episodes=2)
    doubled = replace(world, step_scale=2.0)
    inner = LearnedAdvantage(vpg, Doubling())
    found, rate = expected_gradient(doubled, inner, rate=0.5, episodes=2, credit=True)
    assert error(found, exact) < 1e-9
    assert rate == pytest.approx(2.0 * exact_rate, rel=1e-9)


class Doubling(TransitionNetwork):
    def __init__(self) -> None:
        super().__init__(1, 2, discrete=True, more=1, generator=torch.Generator())

    def forward(self, batch: Batch, *more: torch.Tensor) -> torch.Tensor:
        return more[0]


REFUSED: dict[str, Any] = {
    "lvc": lvc,
    "dice": Dice(discount=1.0),
    "learned from lvc": LearnedAdvantage(lvc, Doubling()),
    "learned from lvc with an action baseline": LearnedAdvantage(ActionBaseline(lvc), Doubling()),
}


@pytest.mark.parametrize("inner", REFUSED.values(), ids=REFUSED)
def test_credit_on_top_of_another_loss_is_refused(inner: Any) -> None:
    # measured: at rate 0.5 credit would take the error of Dice on the two-state MDP from .004 to .114
    policy = table_policy(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="count twice"):
        Learner(policy, SGD(0.5), inner=inner, outer=vpg, credit=PreUpdateCredit())


@pytest.mark.parametrize("inner", [ActionBaseline(vpg), LearnedAdvantage(ActionBaseline(vpg), Doubling())])
def test_credit_on_top_of_vpg_is_taken_whatever_wraps_it(inner: Any) -> None:
    policy = table_policy(torch.zeros(2, 3))
    assert Learner(policy, SGD(0.5), inner=inner, outer=vpg, credit=PreUpdateCredit()).credit is not None


def test_centred_advantages_leave_plain_vpg_without_curvature() -> None:
    # E[d2 log pi(a)] does not depend on the action for softmax logits, so centred advantages cancel it;
    # the true Hessian of the expected reward is that of sum_a pi(a) r(a).
    logits = torch.tensor([[0.2, -0.1, 0.3]], dtype=torch.float64)
    reward = torch.tensor([0.8, 0.0, -0.6], dtype=torch.float64)
    pi = logits.softmax(-1)[0]
    advantage = reward - (pi * reward).sum()
    policy = table_policy(logits)
    batches = make_batch(
        reward.reshape(3, 1, 1),
        observation=torch.ones(3, 1, 1, 1, dtype=torch.float64),
        action=torch.arange(3).reshape(3, 1, 1),
        advantage=advantage.reshape(3, 1, 1),
    )

    def expected_loss(loss: Any, weight: torch.Tensor) -> torch.Tensor:
        params = {"network.weight": weight}
        return (torch.vmap(lambda batch: loss(policy(params, batch.observation), batch))(batches) * pi).sum()

    def hessian(loss: Any) -> torch.Tensor:
        return torch.func.jacrev(torch.func.jacrev(lambda weight: expected_loss(loss, weight)))(logits).reshape(3, 3)

    raw = logits[0].numpy()

    def value(x: Array) -> float:
        return float((np.exp(x) / np.exp(x).sum()) @ reward.numpy())

    def slope(x: Array) -> Array:
        return differences(value, x, 1e-2)

    step = 1e-4
    true = np.stack([(slope(raw + step * unit) - slope(raw - step * unit)) / (2 * step) for unit in np.eye(3)])
    assert float(hessian(vpg).abs().max()) < 1e-15
    assert float(np.abs(true).max()) > 0.05
    np.testing.assert_allclose(-hessian(lvc).numpy(), true, atol=1e-7)
