"""Bandits: pay-outs against their probabilities, and known algorithms against published scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.bandits import BernoulliBandit
from envs.cells import task_ids
from envs.gittins import bayes_value, gittins_table
from envs.ranges import Range
from envs.splits import TaskBenchmark
from metarl import MLP, CategoricalPolicy
from metarl.rollouts import collect


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chances(*values: float) -> dict[str, Tensor]:
    return {f"arm_{arm}": torch.tensor([value]) for arm, value in enumerate(values)}


# --- the environment


def pulled(family: BernoulliBandit, task: dict[str, Tensor], arms: Tensor, seed: int) -> Tensor:
    """Rewards ``[pulls, *rows]`` of the given arms ``[pulls, *rows]``."""
    state, rewards = family.reset(task, tuple(arms.shape[1:]), generator=seeded(seed)), []
    for arm in arms:
        state, reward, terminated = family.step(task, state, arm)
        rewards.append(reward)
        assert not bool(terminated.any())
    return torch.stack(rewards)


def test_arms_pay_with_their_own_probability() -> None:
    family, task = BernoulliBandit(5, 40), chances(0.0, 0.03, 0.5, 0.9, 1.0)
    arms = torch.arange(5).repeat(40, 4000, 1)  # [pulls, rows, arm]
    paid = pulled(family, task, arms, 1)
    assert bool(((paid == 0) | (paid == 1)).all())
    for arm, chance in enumerate((0.0, 0.03, 0.5, 0.9, 1.0)):
        error = math.sqrt(chance * (1 - chance) / (40 * 4000))
        assert paid[..., arm].mean().item() == pytest.approx(chance, abs=4 * error + 1e-9)


def test_pulls_are_independent_in_time_and_between_rows() -> None:
    paid = pulled(BernoulliBandit(1, 100), chances(0.3), torch.zeros(100, 3000, dtype=torch.long), 2).double()
    centred = (paid - 0.3) / math.sqrt(0.21)
    for product in (centred[1:] * centred[:-1], centred[2:] * centred[:-2], centred[:, 1:] * centred[:, :-1]):
        assert abs(product.mean().item()) < 4 / math.sqrt(product.numel())
    totals = paid.sum(0)  # binomial, not wider: a row has no luck of its own
    assert totals.var().item() == pytest.approx(100 * 0.21, rel=4 * math.sqrt(2 / 3000))


def test_luck_does_not_depend_on_the_arm() -> None:
    family, task = BernoulliBandit(2, 50), chances(0.4, 0.7)
    worse, better = (pulled(family, task, torch.full((50, 500), arm), 3) for arm in range(2))
    assert bool((better >= worse).all())
    assert (better - worse).mean().item() == pytest.approx(0.3, abs=0.02)


def test_each_row_and_each_task_has_its_own_arms() -> None:
    family = BernoulliBandit(3, 200)
    task = family.sample(4, generator=seeded(4))
    column = {name: values[:, None] for name, values in task.items()}
    arms = torch.arange(3).repeat(200, 4, 40).unflatten(2, (120,))
    paid = pulled(family, column, arms, 5).mean(0).unflatten(1, (40, 3)).mean(1)  # [T, arm]
    torch.testing.assert_close(paid, torch.stack([task[f"arm_{k}"] for k in range(3)], -1), atol=0.025, rtol=0)


def test_a_row_alone_equals_the_row_among_others() -> None:
    family = BernoulliBandit(3, 5)
    task = family.sample(2, generator=seeded(6))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (2, 4), generator=seeded(7))
    arms = torch.randint(3, (5, 2, 4), generator=seeded(8))
    alone = {name: value[1, 2] for name, value in state.items()}
    one = {name: value[1] for name, value in task.items()}
    mapped = state
    for arm in arms:
        state, reward, _ = family.step(column, state, arm)
        alone, single, _ = family.step(one, alone, arm[1, 2])
        assert single.shape == () and single == reward[1, 2]
        mapped, lifted, _ = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, mapped, arm)
        assert torch.equal(lifted, reward)
        assert all(torch.equal(mapped[name], state[name]) for name in state)


@pytest.mark.parametrize("rows", [(), (3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_leaf_has_the_shape_of_the_rows(rows: tuple[int, ...], dtype: torch.dtype) -> None:
    family = BernoulliBandit(4, 6, "feedback")
    task = {name: value[0].to(dtype) for name, value in family.sample(1, generator=seeded()).items()}
    state = family.reset(task, rows, generator=seeded())
    kinds = {name: (value.shape, value.dtype) for name, value in state.items()}
    assert {shape for shape, _ in kinds.values()} == {rows}
    for action in (torch.ones(rows), torch.ones(rows, dtype=torch.int32)):
        before = {name: value.clone() for name, value in state.items()}
        after, reward, terminated = family.step(task, state, action)
        assert all(torch.equal(state[name], before[name]) for name in state)  # nothing is written in place
        assert {name: (value.shape, value.dtype) for name, value in after.items()} == kinds
        assert reward.shape == terminated.shape == rows and reward.dtype == dtype
        assert family.observe(task, after).shape == (*rows, 6) and family.observe(task, after).dtype == dtype
        state = after


def test_precision_does_not_change_the_luck() -> None:
    family = BernoulliBandit(2, 20)
    task = family.sample(200, generator=seeded(9))
    arms = torch.randint(2, (20, 200), generator=seeded(10))
    doubles = {name: value.double() for name, value in task.items()}
    assert torch.equal(pulled(family, task, arms, 11).double(), pulled(family, doubles, arms, 11))


def test_observations_by_hand() -> None:
    task = chances(1.0, 0.0, 1.0)
    plain, feedback = BernoulliBandit(3, 2), BernoulliBandit(3, 2, "feedback")
    state = feedback.reset(task, (1,), generator=seeded())
    assert plain.observe(task, state).tolist() == [[1.0]]
    assert feedback.observe(task, state).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]
    state = feedback.step(task, state, torch.tensor([2])).state
    assert feedback.observe(task, state).tolist() == [[1.0, 0.0, 0.0, 1.0, 1.0]]
    state = feedback.step(task, state, torch.tensor([1])).state
    assert feedback.observe(task, state).tolist() == [[1.0, 0.0, 1.0, 0.0, 0.0]]
    assert plain.observe(task, state).tolist() == [[1.0]]
    for family in (plain, feedback):
        assert family.observation_space.contains(family.observe(task, state)[0].numpy())
    assert plain.observation_space.shape == (1,) and plain.action_space.n == 3


def test_equal_generators_give_equal_episodes_and_no_other_is_touched() -> None:
    family, before = BernoulliBandit(3, 10), torch.get_rng_state()
    task, arms = family.sample(5, generator=seeded(12)), torch.randint(3, (10, 5), generator=seeded(13))
    assert torch.equal(pulled(family, task, arms, 14), pulled(family, task, arms, 14))
    assert not torch.equal(pulled(family, task, arms, 14), pulled(family, task, arms, 15))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("observation", ["plain", "feedback"])
def test_a_policy_rolls_out(observation: str) -> None:
    family = BernoulliBandit(3, 7, observation)
    inputs = family.observation_space.shape[0]
    policy = CategoricalPolicy(MLP(inputs, (8,), 3, generator=seeded()))
    task = family.sample(4, generator=seeded(1))
    batch = collect(policy, policy.initial(), family, task, 5, generator=seeded(2))
    assert batch.reward.shape == (4, 7, 5) and bool((batch.mask == 1).all())
    assert bool((batch.episode_return <= 7).all())


# --- references


def test_references_equal_simulated_players() -> None:
    family = BernoulliBandit(4, 6)
    task = family.sample(5, generator=seeded(16))
    column = {name: values[:, None] for name, values in task.items()}
    best = torch.stack(list(task.values()), -1).argmax(-1)
    blind = torch.randint(4, (6, 5, 40_000), generator=seeded(17))
    bounds = family.references(task)
    for name, arms in {"ceiling": best[:, None].expand(6, 5, 40_000), "floor": blind}.items():
        got = pulled(family, column, arms, 18).sum(0)
        error = (got.var(1) / 40_000).sqrt()
        assert bool(((got.mean(1) - bounds[name]).abs() < 4 * error).all())
    assert all(bound.shape == (5, 1) for bound in family.references(column).values())


def test_mean_references_by_the_law_of_order_statistics() -> None:
    # The best of k uniform probabilities has mean k / (k + 1); RL^2's random player scores 49.9 in 100 pulls.
    for arms in (5, 10, 50):
        family = BernoulliBandit(arms, 100)
        bounds = family.references(family.sample(20_000, generator=seeded(19)))
        assert bounds["ceiling"].mean().item() == pytest.approx(100 * arms / (arms + 1), abs=0.4)
        assert bounds["floor"].mean().item() == pytest.approx(50, abs=0.4)


# --- players of the literature, on the environment itself

Player = Callable[[Tensor, Tensor, int], Tensor]
"""From the posteriors' parameters, pay-outs and blanks ``[T, k]`` with the prior's ones, and the time to arms."""


def thompson(pulls: int) -> Player:
    noise = np.random.default_rng(0)
    return lambda won, lost, time: torch.from_numpy(noise.beta(won.numpy(), lost.numpy())).argmax(-1)


def ucb1(pulls: int) -> Player:
    """As in RL^2: statistics begin with one success and one failure, and the bonus has a tuned factor, here 0.2."""

    def play(won: Tensor, lost: Tensor, time: int) -> Tensor:
        made = won + lost
        return (won / made + 0.2 * (2 * math.log(time + 1) / made).sqrt()).argmax(-1)

    return play


def gittins(pulls: int) -> Player:
    table = gittins_table(pulls)
    return lambda won, lost, time: table[pulls - time][(won + lost - 2).long(), (won - 1).long()].argmax(-1)


def blind(pulls: int) -> Player:
    generator = seeded(20)
    return lambda won, lost, time: torch.randint(won.shape[1], won.shape[:1], generator=generator)


@functools.cache
def score(make: Callable[[int], Player], arms: int, pulls: int, tasks: int = 3000) -> tuple[float, float]:
    """Mean total reward over tasks, and the standard deviation between tasks."""
    family, player = BernoulliBandit(arms, pulls), make(pulls)
    generator = seeded(21)
    task = family.sample(tasks, generator=generator)
    state = family.reset(task, (tasks,), generator=generator)
    won, lost, total = torch.ones(tasks, arms), torch.ones(tasks, arms), torch.zeros(tasks)
    for time in range(pulls):
        arm = player(won, lost, time)
        state, reward, _ = family.step(task, state, arm)
        total += reward
        won[torch.arange(tasks), arm] += reward
        lost[torch.arange(tasks), arm] += 1 - reward
    return total.mean().item(), total.std().item()


SIZES = [(10, 5), (10, 10), (10, 50), (100, 5), (100, 10), (100, 50)]  # pulls, arms

# Duan et al. (2016), table 1, and Mishra et al. (2018), table 2: mean total reward over 1000 tasks.
PUBLISHED: list[tuple[Callable[[int], Player], list[float]]] = [
    (blind, [5.0, 5.0, 5.1, 49.9, 49.9, 49.8]),
    (thompson, [5.7, 5.5, 5.2, 74.7, 76.7, 64.5]),
    (ucb1, [6.7, 6.7, 6.6, 78.0, 82.4, 84.3]),
    (gittins, [6.6, 6.6, 6.5, 78.3, 82.8, 85.2]),
]
ROWS = [
    pytest.param(make, *size, expected, id=f"{make.__name__}-{size[0]}-{size[1]}")
    for make, row in PUBLISHED
    for size, expected in zip(SIZES, row, strict=True)
]


@pytest.mark.parametrize(("make", "pulls", "arms", "expected"), ROWS)
def test_players_of_the_literature_score_as_published(make, pulls, arms, expected) -> None:
    mean, spread = score(make, arms, pulls)
    error = spread * math.sqrt(1 / 3000 + 1 / 1000)
    assert mean == pytest.approx(expected, abs=4 * error + 0.05)  # the tables are rounded to 0.1
    if pulls == 10:
        assert mean < bayes_value(arms, pulls) + 4 * spread / math.sqrt(3000)
        if make is gittins:  # all but optimal
            assert mean == pytest.approx(bayes_value(arms, pulls), abs=4 * spread / math.sqrt(3000))


def test_players_stand_in_the_published_order() -> None:
    # On common tasks and common luck, so that the differences are far less noisy than the scores.
    for arms in (5, 10, 50):
        ranked = [score(make, arms, 100)[0] for make in (blind, thompson, ucb1, gittins)]
        assert ranked == sorted(ranked)


# --- tasks


@pytest.mark.parametrize("arms", [2, 5, 50])
def test_splits_share_no_task_and_keep_the_law(arms: int) -> None:
    bench = TaskBenchmark(f"bandit-{arms}", BernoulliBandit(arms))
    drawn = {split: bench.sample(split, 3000, generator=seeded(22)) for split in ("train", "validation", "test")}
    assert bool(bench.is_training(drawn["train"]).all())
    ids = {split: set(task_ids(task)) for split, task in drawn.items()}
    for split in ("validation", "test"):
        assert not bool(bench.is_training(drawn[split]).any()) and not ids["train"] & ids[split]
        for values in drawn[split].values():
            assert values.mean().item() == pytest.approx(0.5, abs=5 * 0.29 / math.sqrt(3000))
    raw = bench.train.sample(8000, generator=seeded(23))
    assert bench.is_training(raw).float().mean().item() == pytest.approx(6 / 8, abs=0.02)


def test_constants_belong_to_the_instance() -> None:
    small, large = BernoulliBandit(2), BernoulliBandit(3, arm_2=Range(0.5, 1.0))
    assert list(small.parameters) == ["arm_0", "arm_1"] and list(large.ranges) == ["arm_0", "arm_1", "arm_2"]
    assert float(large.sample(100, generator=seeded())["arm_2"].min()) >= 0.5
    large.validate(large.sample(3, generator=seeded()))
    with pytest.raises(ValueError, match="'arm_2' is missing"):
        large.validate(small.sample(1, generator=seeded()))
    described = [f.describe() for f in (small, large, BernoulliBandit(2, 5), BernoulliBandit(2, 1, "feedback"))]
    assert all(one != other for k, one in enumerate(described) for other in described[k + 1 :])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"arms": 0}, ValueError, "arms: expected at least 1, got 0"),
        ({"arms": 2.0}, TypeError, "arms: expected an integer"),
        ({"arms": True}, TypeError, "arms: expected an integer"),
        ({"observation": "full"}, ValueError, "observation: expected one of plain, feedback, got 'full'"),
        ({"horizon": 0}, ValueError, "horizon"),
        ({"arm_5": 0.5}, ValueError, "no constant 'arm_5'; did you mean"),
        ({"arm_0": 1.5}, ValueError, "arm_0: expected within"),
        ({"arm_1": Range(-0.1, 0.5)}, ValueError, "arm_1: expected within"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        BernoulliBandit(**arguments)
