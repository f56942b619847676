"""Grid navigation: moves cell by cell, returns by dynamic programming and by enumerating every plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.grid_navigation import CELLS, GOALS, GridNavigation
from envs.ranges import Choice


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_task() -> dict[str, torch.Tensor]:
    pairs = torch.cartesian_prod(torch.tensor(CELLS), torch.tensor(CELLS)).double()
    return {"start": pairs[:, 0], "goal": pairs[:, 1]}


def neighbour(cell: int, action: int) -> int:
    """Staying, up, right, down and left, spelt out."""
    x, y = divmod(cell, 5)
    x, y = {0: (x, y), 1: (x, y + 1), 2: (x + 1, y), 3: (x, y - 1), 4: (x - 1, y)}[action]
    return 5 * x + y if 0 <= x < 5 and 0 <= y < 5 else cell


def test_the_published_task_set():
    assert len(GOALS) == 21 and not {0.0, 1.0, 5.0, 6.0} & set(GOALS)
    family = GridNavigation()
    assert family.horizon == 15 and family.action_space.n == 5
    task = family.sample(2000, generator=seeded())
    assert set(task["goal"].tolist()) == set(GOALS) and set(task["start"].tolist()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_every_move_and_reward(dtype):
    family = GridNavigation()
    for cell, action in itertools.product(range(25), range(5)):
        to = neighbour(cell, action)
        task = {"start": torch.tensor([0.0]), "goal": torch.tensor([float(to)])}
        state = {"x": torch.tensor([float(cell // 5)]), "y": torch.tensor([float(cell % 5)])}
        after, reward, terminated = family.step(task, state, torch.tensor([action]).to(dtype))
        assert family.observe(task, after)[0].tolist() == list(divmod(to, 5))
        assert reward.item() == pytest.approx(1.0) and not terminated.item()  # the goal does not end the episode
        missed = {**task, "goal": torch.tensor([float((to + 1) % 25)])}
        assert family.step(missed, state, torch.tensor([action])).reward.item() == pytest.approx(-0.1)


def test_one_hot_marks_the_cell():
    family = GridNavigation(observation="one-hot", start=Choice(CELLS))
    task = {"start": torch.tensor(CELLS), "goal": torch.full((25,), 24.0)}
    state = family.reset(task, (25,), generator=seeded())
    assert torch.equal(family.observe(task, state), torch.eye(25))
    assert family.observation_space.shape == (25,)


@pytest.mark.parametrize("horizon", [1, 3, 8, 15])
def test_ceiling_equals_value_iteration(horizon):
    task = every_task()
    bounds = GridNavigation(horizon).references(task)
    value = np.zeros((25, 25))  # of being in a cell, given the goal
    for _ in range(horizon):
        pay = np.where(np.eye(25, dtype=bool), 1.0, -0.1)
        value = np.stack(
            [np.max([pay[neighbour(cell, a)] + value[neighbour(cell, a)] for a in range(5)], 0) for cell in range(25)]
        )
    np.testing.assert_allclose(bounds["ceiling"].reshape(25, 25).numpy(), value, atol=1e-12)


def test_random_and_still_equal_every_plan_of_three_steps():
    family, task = GridNavigation(3), every_task()
    returns = []
    for plan in itertools.product(range(5), repeat=3):
        state, total = family.reset(task, (625,), generator=seeded()), torch.zeros(625, dtype=torch.float64)
        for action in plan:
            state, reward, _ = family.step(task, state, torch.full((625,), action))
            total = total + reward
        returns.append(total)
    bounds = family.references(task)
    torch.testing.assert_close(bounds["random"], torch.stack(returns).mean(0))
    torch.testing.assert_close(bounds["floor"], returns[0])
    torch.testing.assert_close(bounds["ceiling"], torch.stack(returns).max(0).values)


def test_published_references_by_hand():
    family = GridNavigation()
    bounds = family.references({"start": torch.zeros(3), "goal": torch.tensor([2.0, 24.0, 20.0])})
    # Goals 2, 8 and 4 steps away: the steps before the last one cost 0.1, the others pay 1.
    assert bounds["ceiling"].tolist() == pytest.approx([14 - 0.1, 8 - 0.7, 12 - 0.3])
    assert bounds["floor"].tolist() == pytest.approx([-1.5] * 3)
    assert bool(((bounds["floor"] < bounds["random"]) & (bounds["random"] < bounds["ceiling"])).all())


@pytest.mark.parametrize("observation", ["coordinates", "one-hot"])
def test_rows_equal_single_environments_and_vmap(observation):
    family = GridNavigation(observation=observation, start=Choice(CELLS))
    task = family.sample(3, generator=seeded(1))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (3, 4), generator=seeded())
    action = torch.randint(5, (3, 4), generator=seeded(2))
    together = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: family.observe(t, family.step(t, s, a).state))(task, state, action)
    torch.testing.assert_close(mapped, family.observe(column, together.state))
    for i, j in itertools.product(range(3), range(4)):
        one = {name: values[i] for name, values in task.items()}
        alone = family.step(one, {name: values[i, j] for name, values in state.items()}, action[i, j])
        assert torch.equal(alone.reward, together.reward[i, j])
        assert torch.equal(family.observe(one, alone.state), mapped[i, j])
    state["x"].add_(1)
    assert torch.equal(family.reset(column, (3, 4), generator=seeded())["x"][:, 0], (task["start"] / 5).floor())


def test_equal_generators_give_equal_bits():
    family = GridNavigation(start=Choice(CELLS))
    one, two = (family.sample(100, generator=seeded(3)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in family.parameters)


@given(seed=st.integers(0, 10**6), observation=st.sampled_from(["coordinates", "one-hot"]))
@settings(max_examples=30, deadline=None)
def test_observations_stay_in_the_space(seed, observation):
    family = GridNavigation(observation=observation, start=Choice(CELLS), goal=Choice(CELLS))
    task = family.sample(5, generator=seeded(seed))
    family.validate(task)
    state = family.reset(task, (5,), generator=seeded(seed))
    for step in range(8):
        state, reward, _ = family.step(task, state, torch.randint(5, (5,), generator=seeded(seed + step)))
        assert bool(((reward == 1) | ((reward + 0.1).abs() < 1e-6)).all())
        for seen in family.observe(task, state).numpy():
            assert family.observation_space.contains(seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observation": "pixels"}, "observation: expected one of coordinates, one-hot"),
        ({"goal": 2.5}, "goal: expected one of"),
        ({"goal": 25.0}, "goal: expected one of"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridNavigation(**arguments)
