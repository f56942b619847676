"""Tabular MDPs: tables against their distributions, steps against tables, and optima against enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.cells import indices, task_ids
from envs.ranges import Choice, Range
from envs.splits import TaskBenchmark
from envs.tabular import SEEDS, TabularMDP
from metarl import MLP, CategoricalPolicy
from metarl.rollouts import collect
from tests.test_envs_counter import MASK, splitmix

NOISELESS = {"reward_noise": 0.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(family: TabularMDP, tasks: int, seed: int) -> dict[str, Tensor]:
    return {name: values.double() for name, values in family.sample(tasks, generator=seeded(seed)).items()}


def column(task: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values[:, None] for name, values in task.items()}


# --- tables


def test_rewards_are_normal_and_transitions_dirichlet() -> None:
    family = TabularMDP()
    reward, transition = family.tables(family.sample(4000, generator=seeded(1)))
    assert reward.shape == (4000, 10, 5) and transition.shape == (4000, 10, 5, 10)
    standard, size = reward.flatten() - 1, math.sqrt(reward.numel())
    assert abs(standard.mean()) < 4 / size and abs(standard.var() - 1) < 4 * math.sqrt(2) / size
    assert abs(standard.pow(4).mean() - 3) < 4 * 9.8 / size
    assert bool((transition > 0).all())
    torch.testing.assert_close(transition.sum(-1), torch.ones_like(reward))
    # Flat Dirichlet of 10: each part is Beta(1, 9), two parts have correlation -1/9.
    rows = transition.flatten(0, 2)
    assert rows.mean(0).tolist() == pytest.approx([0.1] * 10, abs=4 * 0.09 / math.sqrt(len(rows)))
    assert rows.var(0).tolist() == pytest.approx([9 / 1100] * 10, rel=0.03)
    correlation = torch.corrcoef(rows.T)
    assert correlation[~torch.eye(10, dtype=torch.bool)].tolist() == pytest.approx([-1 / 9] * 90, abs=0.012)
    shares = 1 - (1 - rows) ** 9  # Beta(1, 9)'s distribution function: uniform
    assert torch.histc(shares, 20, 0, 1).tolist() == pytest.approx([rows.numel() / 20] * 20, rel=0.02)


def test_entries_are_independent_also_of_neighbouring_seeds() -> None:
    family = TabularMDP(4, 3)
    task = {name: values.expand(20_000) for name, values in family.sample(1, generator=seeded()).items()}
    task["seed"] = torch.arange(20_000.0)
    reward, transition = family.tables(task)
    entries = torch.cat((reward.flatten(1), transition.flatten(1)), 1)  # [T, 12 + 48]
    standard = (entries - entries.mean(0)) / entries.std(0)
    bound = 5 / math.sqrt(20_000)
    across = standard[1:].T @ standard[:-1] / 19_999  # seed against next seed
    assert across.abs().max() < bound
    within = standard.T @ standard / 20_000
    groups = torch.cat((torch.arange(12), torch.arange(12, 24).repeat_interleave(4)))  # a distribution's parts depend
    assert within[groups[:, None] != groups].abs().max() < bound


def test_an_entry_equals_integers_of_python() -> None:
    family, seed, states = TabularMDP(3, 2, seed=12345), 12345, 3
    reward, transition = (table[0] for table in family.tables(family.sample(1, generator=seeded())))
    key = splitmix(seed)
    for pair in range(6):
        words = [splitmix((key + pair * (states + 2) + k) & MASK) >> 41 for k in range(states + 2)]
        first, second, *rest = [(word + 0.5) / 2**23 for word in words]
        mean = 1 + math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
        weight = [-math.log(u) for u in rest]
        assert reward[pair // 2, pair % 2].item() == pytest.approx(mean, abs=1e-12)
        assert transition[pair // 2, pair % 2].tolist() == pytest.approx([w / sum(weight) for w in weight], abs=1e-12)


def test_a_trained_mdp_is_a_training_task_whatever_the_fraction_of_its_seed() -> None:
    family = TabularMDP(seed=Choice(tuple(float(seed) for seed in range(100))))
    bench = TaskBenchmark("chosen-seeds", family)
    trained, held_out = (bench.sample(split, 20, generator=seeded(0)) for split in ("train", "test"))
    for task, known in ((trained, True), (held_out, False)):
        between = {**task, "seed": task["seed"] + 0.5}
        assert torch.equal(family.tables(between).reward, family.tables(task).reward)
        assert bench.is_training(between).tolist() == [known] * 20
        assert bool(family.contains(between).all()) and bool(bench.belongs("test", between).all()) is not known


def test_only_the_whole_part_of_a_seed_counts() -> None:
    family = TabularMDP()
    bench = TaskBenchmark("tabular-random", family)
    task = {name: values.repeat(3) for name, values in family.sample(1, generator=seeded()).items()}
    task["seed"] = torch.tensor([41.0, 41.75, 42.0])
    reward, _ = family.tables(task)
    assert torch.equal(reward[0], reward[1]) and not torch.equal(reward[0], reward[2])
    # Cells begin at whole numbers, so that no MDP belongs to two splits.
    edges = torch.arange(1, 1024) * (SEEDS // 1024)
    around = {name: values[:1].expand(2046) for name, values in task.items()}
    around["seed"] = torch.cat((edges.float(), torch.nextafter(edges.float(), torch.zeros(1023))))
    cells = indices(family, around, bench.bins)[:, 0]
    assert cells.tolist() == [*range(1, 1024), *range(1023)]


def test_mean_and_spread_move_the_rewards() -> None:
    plain, moved = TabularMDP(seed=5), TabularMDP(seed=5, reward_mean=3.0, reward_spread=0.5)
    (one, _), (other, transition) = (f.tables(f.sample(1, generator=seeded())) for f in (plain, moved))
    torch.testing.assert_close(other, 3 + 0.5 * (one - 1))
    assert torch.equal(transition, plain.tables(plain.sample(1, generator=seeded())).transition)


# --- steps against tables


def test_steps_follow_the_tables() -> None:
    family, rows = TabularMDP(4, 2, seed=99, reward_noise=0.5), 60_000
    task = {name: value[0] for name, value in family.sample(1, generator=seeded()).items()}
    reward, transition = family.tables(task)
    for time, (place, action) in enumerate(itertools.product(range(4), range(2))):
        state = family.reset(task, (rows,), generator=seeded(time))
        state |= {"place": torch.full((rows,), place), "steps": torch.full((rows,), time)}
        after, paid, terminated = family.step(task, state, torch.full((rows,), action))
        assert not bool(terminated.any())
        got = torch.bincount(after["place"], minlength=4).double()
        expected = transition[place, action] * rows
        assert ((got - expected).square() / expected).sum() < 3 + 5 * math.sqrt(6)
        noise = (paid.double() - reward[place, action]) / 0.5
        assert abs(noise.mean()) < 4 / math.sqrt(rows) and abs(noise.var() - 1) < 4 * math.sqrt(2 / rows)
        for k in range(4):  # where one goes and what one is paid by chance have nothing to do with each other
            there = noise[after["place"] == k]
            assert abs(there.mean()) < 4 / math.sqrt(len(there))


def test_luck_is_new_at_every_step() -> None:
    family, rows = TabularMDP(2, 1, 50, seed=3), 4000
    task = family.sample(1, generator=seeded())
    state, noise = family.reset(task, (rows,), generator=seeded(1)), []
    mean = family.tables(task).reward[0, :, 0].float()
    action = torch.zeros(rows, dtype=torch.long)
    for _ in range(50):
        before = mean[state["place"]]
        state, reward, _ = family.step(task, state, action)
        noise.append(reward - before)
    series = torch.stack(noise).double()
    for lag in (1, 2, 3):
        for power in (1, 2):  # numbers shared by two steps show in the squares alone
            product = (series[lag:] ** power - (power - 1)) * series[:-lag]
            assert abs(product.mean()) < 4 * math.sqrt(power / product.numel())
    assert series.mean(0).var().item() == pytest.approx(1 / 50, rel=4 * math.sqrt(2 / rows))


def test_a_row_alone_equals_the_row_among_others() -> None:
    family = TabularMDP(5, 3)
    task = doubles(family, 2, 2)
    state = family.reset(column(task), (2, 4), generator=seeded(3))
    one = {name: value[1] for name, value in task.items()}
    alone = {name: value[1, 2] for name, value in state.items()}
    mapped = state
    for action in torch.randint(3, (6, 2, 4), generator=seeded(4)):
        state, reward, _ = family.step(column(task), state, action)
        alone, single, _ = family.step(one, alone, action[1, 2])
        mapped, lifted, _ = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, mapped, action)
        torch.testing.assert_close(lifted, reward)
        assert single.shape == ()
        torch.testing.assert_close(single, reward[1, 2])
        assert torch.equal(alone["place"], state["place"][1, 2]) and torch.equal(mapped["place"], state["place"])


@pytest.mark.parametrize("rows", [(), (3,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_leaf_has_the_shape_of_the_rows(rows: tuple[int, ...], dtype: torch.dtype) -> None:
    family = TabularMDP(4, 2, 6, "feedback")
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
        assert family.observe(task, after).shape == (*rows, 7) and family.observe(task, after).dtype == dtype
        state = after


def test_one_state_and_one_action_will_do() -> None:
    family = TabularMDP(1, 1, seed=1, **NOISELESS)
    task = family.sample(1, generator=seeded())
    state = family.reset(task, (1,), generator=seeded())
    after, reward, _ = family.step(task, state, torch.zeros(1))
    assert after["place"].tolist() == [0]
    assert family.references(task)["ceiling"].item() == pytest.approx(10 * reward.item(), rel=1e-5)


def test_observations_by_hand() -> None:
    family = TabularMDP(3, 2, 10, "feedback", seed=4, **NOISELESS)
    plain = TabularMDP(3, 2, 10, seed=4, **NOISELESS)
    task = family.sample(1, generator=seeded())
    state = family.reset(task, (1,), generator=seeded())
    assert family.observe(task, state).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    state = family.step(task, state, torch.tensor([1])).state
    paid = family.tables(task).reward[0, 0, 1].item()
    place = np.eye(3)[state["place"].item()].tolist()
    assert plain.observe(task, state).tolist() == [place]
    assert family.observe(task, state)[0].tolist() == pytest.approx([*place, 0.0, 1.0, paid], abs=1e-6)
    for one in (plain, family):
        assert one.observation_space.contains(one.observe(task, state)[0].numpy())
    assert plain.action_space.n == 2


def test_equal_generators_give_equal_episodes_and_no_other_is_touched() -> None:
    family, before = TabularMDP(), torch.get_rng_state()
    policy = CategoricalPolicy(MLP(10, (8,), 5, generator=seeded()))
    task = family.sample(4, generator=seeded(1))
    one, same, other = (collect(policy, policy.initial(), family, task, 6, generator=seeded(s)) for s in (2, 2, 3))
    assert one.reward.shape == (4, 10, 6) and bool((one.mask == 1).all())
    assert torch.equal(one.reward, same.reward) and not torch.equal(one.reward, other.reward)
    assert torch.equal(torch.get_rng_state(), before)


# --- references


def expected_return(reward: np.ndarray, transition: np.ndarray, policy: np.ndarray) -> float:
    """Sum over all paths from state 0 of a policy ``[H, S, A]``: no recursion on values."""
    horizon, states, actions = policy.shape
    total = 0.0
    for path in itertools.product(range(states), repeat=horizon - 1):
        for moves in itertools.product(range(actions), repeat=horizon):
            places = (0, *path)
            chance = math.prod(policy[t, places[t], moves[t]] for t in range(horizon))
            chance *= math.prod(transition[places[t], moves[t], places[t + 1]] for t in range(horizon - 1))
            total += chance * sum(reward[places[t], moves[t]] for t in range(horizon))
    return total


def test_references_equal_enumerated_policies() -> None:
    family = TabularMDP(2, 2, 3)
    task = doubles(family, 3, 5)
    tables, bounds = family.tables(task), family.references(task)
    for k in range(3):
        reward, transition = (table[k].numpy() for table in tables)
        every = [
            expected_return(reward, transition, np.eye(2)[np.array(choice).reshape(3, 2)])
            for choice in itertools.product(range(2), repeat=6)
        ]
        assert bounds["ceiling"][k].item() == pytest.approx(max(every), abs=1e-9)
        blind = expected_return(reward, transition, np.full((3, 2, 2), 0.5))
        assert bounds["floor"][k].item() == pytest.approx(blind, abs=1e-9)


def best_actions(reward: np.ndarray, transition: np.ndarray, horizon: int) -> np.ndarray:
    """``[H, S]``, by loops."""
    states, actions = reward.shape
    value, policy = np.zeros(states), np.zeros((horizon, states), dtype=int)
    for time in reversed(range(horizon)):
        gain = np.array([[reward[s, a] + transition[s, a] @ value for a in range(actions)] for s in range(states)])
        value, policy[time] = gain.max(1), gain.argmax(1)
    return policy


def test_references_equal_simulated_policies() -> None:
    family, rows = TabularMDP(), 20_000
    task = doubles(family, 3, 6)
    reward, transition = family.tables(task)
    best = torch.stack(
        [torch.from_numpy(best_actions(r.numpy(), p.numpy(), 10)) for r, p in zip(reward, transition, strict=True)]
    )  # [T, H, S]
    generator, bounds = seeded(7), family.references(task)
    for name in ("ceiling", "floor"):
        state, total = family.reset(column(task), (3, rows), generator=generator), torch.zeros(3, rows)
        for time in range(10):
            action = torch.randint(5, (3, rows), generator=generator)
            if name == "ceiling":
                action = best[:, time].gather(1, state["place"])
            state, paid, _ = family.step(column(task), state, action)
            total = total + paid
        error = (total.var(1) / rows).sqrt()
        assert bool(((total.mean(1) - bounds[name]).abs() < 4 * error).all())


def test_mean_references_over_the_protocols_tasks() -> None:
    # An independent simulation gave 21.83 +/- 0.04 for the optimum; Duan et al. (2016) print 100.1 for random
    # play in 10 episodes. The normaliser implied by both papers, 20.76, is discounted.
    family = TabularMDP()
    bounds = family.references(family.sample(10_000, generator=seeded(8)))
    assert bounds["ceiling"].mean().item() == pytest.approx(21.83, abs=0.1)
    assert bounds["floor"].mean().item() == pytest.approx(10.0, abs=0.06)
    assert bool((bounds["ceiling"] > bounds["floor"]).all())


def test_references_of_one_step_and_of_equal_rewards_by_hand() -> None:
    once = TabularMDP(horizon=1)
    task = once.sample(50, generator=seeded(9))
    first = once.tables(task).reward[:, 0].float()
    torch.testing.assert_close(once.references(task)["ceiling"], first.amax(-1))
    torch.testing.assert_close(once.references(task)["floor"], first.mean(-1))
    flat = TabularMDP(reward_spread=0.0, reward_mean=2.0)
    bounds = flat.references(column(flat.sample(4, generator=seeded())))
    torch.testing.assert_close(bounds["ceiling"], torch.full((4, 1), 20.0))
    torch.testing.assert_close(bounds["floor"], torch.full((4, 1), 20.0))


# --- tasks


def test_splits_share_no_mdp() -> None:
    bench = TaskBenchmark("tabular-random", TabularMDP())
    drawn = {split: bench.sample(split, 5000, generator=seeded(10)) for split in ("train", "validation", "test")}
    whole = {split: set(task["seed"].long().tolist()) for split, task in drawn.items()}
    assert bool(bench.is_training(drawn["train"]).all())
    for one, other in itertools.combinations(whole, 2):
        assert not whole[one] & whole[other]
        assert not set(task_ids(drawn[one])) & set(task_ids(drawn[other]))
    for split in ("validation", "test"):
        assert not bool(bench.is_training(drawn[split]).any())
        assert len(whole[split]) > 4950  # hardly any MDP comes twice
    means = {split: bench.family.references(task)["ceiling"].mean().item() for split, task in drawn.items()}
    assert list(means.values()) == pytest.approx([21.83] * 3, abs=0.15)  # the splits are equally hard


@pytest.mark.parametrize("bins", [1024, 37])
def test_a_short_range_of_seeds_shares_no_mdp_either(bins: int) -> None:
    hole = {"hole": TabularMDP(3, 2, seed=Range(40, 60))}
    bench = TaskBenchmark("few", TabularMDP(3, 2, seed=Range(0, 100)), hole, bins=bins)
    whole = {
        split: set(bench.sample(split, 4000, generator=seeded(11))["seed"].long().tolist())
        for split in ("train", *bench.splits)
    }
    for one, other in itertools.combinations(whole, 2):
        assert not whole[one] & whole[other]
    assert len(set().union(*whole.values())) > 90  # the rest shares a cell with the hole


def test_a_split_may_differ_in_its_rewards() -> None:
    bench = TaskBenchmark("tabular", TabularMDP(), {"extrapolation": TabularMDP(reward_spread=Range(1.5, 2.0))})
    task = bench.sample("extrapolation", 100, generator=seeded())
    assert not bool(bench.is_training(task).any())
    assert bench.family.references(task)["ceiling"].mean() > 25


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"states": 0}, ValueError, "states: expected at least 1, got 0"),
        ({"actions": 2.0}, TypeError, "actions: expected an integer"),
        ({"observation": "full"}, ValueError, "observation: expected one of plain, feedback, got 'full'"),
        ({"horizon": 0}, ValueError, "horizon"),
        ({"seed": -1.0}, ValueError, "seed: expected whole numbers within"),
        ({"seed": 2.0**24 + 2}, ValueError, "seed: expected whole numbers within"),
        ({"seed": Range(0.0, 10.5)}, ValueError, "seed: expected whole numbers within"),
        ({"reward_noise": -0.5}, ValueError, "reward_noise: expected within"),
        ({"reward_sped": 1.0}, ValueError, "did you mean 'reward_spread'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        TabularMDP(**arguments)
