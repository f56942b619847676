"""Navigation around a wall with a gap: steps by hand, and ceilings against dynamic programming over a lattice."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.navigation import Navigation
from envs.ranges import Range
from envs.walled_navigation import WalledNavigation

WIDE = {
    "gap_y": Range(-1, 1),
    "gap_half_width": Range(0.01, 0.3),
    "goal_x": Range(0.05, 0.8),
    "goal_y": Range(-0.5, 0.5),
    "start_x": Range(-0.8, 0),
    "start_y": Range(-0.5, 0.5),
}
UNIT = 0.05  # of the lattice: half a stride


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_task(**values: float) -> dict[str, torch.Tensor]:
    defaults = {name: parameter.default for name, parameter in WalledNavigation.parameters.items()}
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in (defaults | values).items()}


@pytest.mark.parametrize(
    ("place", "action", "expected"),
    [
        ((-0.30, 0.0), (1.0, 0.5), (-0.20, 0.05)),  # far from the wall
        ((-0.05, 0.0), (1.0, 0.5), (0.05, 0.05)),  # through the gap
        ((-0.05, 0.5), (1.0, 0.5), (-0.05, 0.55)),  # against the wall: only y moves
        ((-0.05, 0.5), (0.5, 0.0), (0.00, 0.5)),  # up to the wall is allowed
        ((0.00, 0.5), (0.5, 0.0), (0.00, 0.5)),  # and no farther
        ((0.05, 0.5), (-1.0, 0.0), (0.05, 0.5)),  # closed from behind too
        ((0.05, 0.0), (-9.0, 0.0), (-0.05, 0.0)),  # open from behind; longer moves are clipped
        ((-0.05, 0.15), (1.0, -1.0), (0.05, 0.05)),  # y moves first: into the gap,
        ((-0.05, 0.05), (1.0, 1.0), (-0.05, 0.15)),  # and out of it
    ],
)
def test_moves_by_hand(place, action, expected):
    family, task = WalledNavigation(), one_task()
    state = {name: torch.tensor([value], dtype=torch.float64) for name, value in zip("xy", place, strict=True)}
    after, reward, _ = family.step(task, state, torch.tensor([action], dtype=torch.float64))
    assert family.observe(task, after)[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert reward.item() == pytest.approx(-math.dist(expected, (0.5, 0.0)), abs=1e-12)


def test_a_wall_that_is_all_gap_is_navigation():
    walled, open_plane = WalledNavigation(**{**WIDE, "gap_half_width": 100.0}), Navigation()
    task = {name: values.double() for name, values in walled.sample(200, generator=seeded(1)).items()}
    theirs = {name: task[name] for name in Navigation.parameters}
    one, two = walled.references(task), open_plane.references(theirs)
    torch.testing.assert_close(one["ceiling"], two["ceiling"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one["floor"], two["floor"], rtol=1e-9, atol=1e-9)
    state = walled.reset(task, (200,), generator=seeded())
    action = torch.randn(200, 2, generator=seeded(2), dtype=torch.float64)
    first, second = walled.step(task, state, action), open_plane.step(theirs, state, action)
    torch.testing.assert_close(first.state["x"], second.state["x"])
    torch.testing.assert_close(first.reward, second.reward)


def lattice_optimum(
    horizon: int, reward: str, box: float, cells: dict[str, int]
) -> tuple[float, list[tuple[int, int]]]:
    """Best return and its moves over positions and moves that are multiples of ``UNIT``, by dynamic programming.

    If start, goal and the gap's edges lie on the lattice, so does some best path: it stays as near to the
    goal as intervals between such numbers allow.
    """

    @functools.cache
    def best(left: int, x: int, y: int) -> tuple[float, tuple[int, int] | None]:
        if left == 0:
            return 0.0, None
        options = []
        for move in itertools.product(range(-2, 3), repeat=2):
            to_y = y + move[1]
            to_x = x + move[0]
            if (to_x > 0) != (x > 0) and not cells["low"] <= to_y <= cells["high"]:
                to_x = x
            dx, dy = UNIT * (to_x - cells["goal_x"]), UNIT * (to_y - cells["goal_y"])
            gain = -math.hypot(dx, dy) if reward == "distance" else -(dx * dx + dy * dy)
            future = 0.0 if max(abs(dx), abs(dy)) < box else best(left - 1, to_x, to_y)[0]
            options.append((gain + future, move))
        return max(options)

    moves, x, y = [], cells["start_x"], cells["start_y"]
    for left in range(horizon, 0, -1):
        move = best(left, x, y)[1]
        moves.append(move)
        y += move[1]
        x += move[0] if (x + move[0] > 0) == (x > 0) or cells["low"] <= y <= cells["high"] else 0
        if max(abs(x - cells["goal_x"]), abs(y - cells["goal_y"])) * UNIT < box:
            break
    return best(horizon, cells["start_x"], cells["start_y"])[0], moves


@pytest.mark.parametrize("reward", ["distance", "squared"])
@pytest.mark.parametrize("seed", range(10))
def test_ceiling_equals_dynamic_programming(reward, seed):
    draw = np.random.default_rng(seed)
    low, horizon, box = int(draw.integers(-12, 10)), int(draw.integers(3, 13)), float(draw.choice([0.0, 0.01, 0.12]))
    cells = {
        "low": low,
        "high": low + int(draw.integers(1, 5)),
        "goal_x": int(draw.integers(1, 8)),
        "goal_y": int(draw.integers(-4, 5)),
        "start_x": -int(draw.integers(0, 8)),
        "start_y": int(draw.integers(-4, 5)),
    }
    slack = 1e-9  # sums of 0.1 must not miss the gap's edge
    task = one_task(
        gap_y=UNIT * (cells["low"] + cells["high"]) / 2,
        gap_half_width=UNIT * (cells["high"] - cells["low"]) / 2 + slack,
        **{name: UNIT * cells[name] for name in ("goal_x", "goal_y", "start_x", "start_y")},
    )
    task["start_x"] = task["start_x"] - slack
    family = WalledNavigation(horizon, reward, box or None)
    expected, moves = lattice_optimum(horizon, reward, box, cells)
    assert family.references(task)["ceiling"].item() == pytest.approx(expected, abs=1e-6)
    state, total = family.reset(task, (1,), generator=seeded()), 0.0
    for move in moves:  # the best path, walked
        state, gain, _ = family.step(task, state, torch.tensor([move], dtype=torch.float64) / 2)
        total += gain.item()
    assert total == pytest.approx(expected, abs=1e-6)


def test_default_episode_by_hand():
    # Gap in front: 0.5 to the wall, 0.5 beyond it: distances 0.9, ..., 0.1, 0.
    straight = WalledNavigation().references(one_task(gap_half_width=0.1001))
    assert straight["ceiling"].item() == pytest.approx(-4.5, abs=1e-6)
    assert straight["floor"].item() == pytest.approx(-100.0)
    # Held by the wall, at the origin after five steps: 0.9, ..., 0.6, then 96 times 0.5.
    assert straight["blocked"].item() == pytest.approx(-51.0, abs=1e-6)
    # A gap out of reach: nobody can pass.
    far = WalledNavigation().references(one_task(gap_y=50.0))
    assert far["ceiling"].item() == far["blocked"].item() == pytest.approx(-51.0, abs=1e-6)


def test_references_are_ordered_and_nobody_beats_the_ceiling():
    family = WalledNavigation(20, **WIDE)
    task = {name: values.double() for name, values in family.sample(400, generator=seeded(3)).items()}
    bounds, generator = family.references(task), seeded(4)
    assert bool((bounds["ceiling"] >= bounds["blocked"]).all()) and bool((bounds["blocked"] >= bounds["floor"]).all())
    assert bool((bounds["ceiling"] > bounds["blocked"]).any())
    state = family.reset(task, (400,), generator=generator)
    total, alive = torch.zeros(400).double(), torch.ones(400).double()
    for _ in range(20):  # to the gap, then to the goal, with some noise
        passed = state["x"] > 0
        y = torch.where(passed, task["goal_y"], task["gap_y"])
        wish = torch.stack((task["goal_x"] - state["x"], y - state["y"]), -1) * 10
        noise = 0.1 * torch.randn(400, 2, generator=generator, dtype=torch.float64)
        state, reward, terminated = family.step(task, state, wish + noise)
        total, alive = total + alive * reward, alive * ~terminated
    assert bool((total <= bounds["ceiling"] + 1e-9).all())
    assert bool((total > bounds["blocked"]).any())


def test_rows_equal_single_environments_and_vmap():
    family = WalledNavigation(**WIDE)
    task = family.sample(3, generator=seeded(5))
    column = {name: values[:, None] for name, values in task.items()}
    state = {name: 0.1 * torch.randn(3, 40, generator=seeded(i)) for i, name in enumerate("xy")}
    action = torch.randn(3, 40, 2, generator=seeded(6))
    together = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], together.reward)
    for i, j in itertools.product(range(3), range(40)):
        one = {name: values[i] for name, values in task.items()}
        alone = family.step(one, {name: values[i, j] for name, values in state.items()}, action[i, j])
        torch.testing.assert_close(alone.reward, together.reward[i, j])
        assert torch.equal(alone.state["x"], together.state["x"][i, j])
    start = family.reset(column, (3, 40), generator=seeded())
    start["x"].add_(1)  # a state in use must not reach back into the task
    assert torch.equal(family.reset(column, (3, 40), generator=seeded())["x"][:, 0], task["start_x"])


def test_equal_generators_give_equal_bits():
    family = WalledNavigation(**WIDE)
    one, two = (family.sample(100, generator=seeded(7)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in family.parameters)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 1e6]))
@settings(max_examples=40, deadline=None)
def test_observations_stay_finite_and_the_wall_holds(seed, scale):
    family = WalledNavigation(8, **WIDE)
    task = family.sample(5, generator=seeded(seed))
    family.validate(task)
    assert bool(family.contains(task).all())
    state = family.reset(task, (5,), generator=seeded(seed))
    for step in range(8):
        action = scale * torch.randn(5, 2, generator=seeded(seed + step))
        after, reward, _ = family.step(task, state, action)
        assert bool(reward.isfinite().all())
        outside = (after["y"] - task["gap_y"]).abs() > task["gap_half_width"]
        assert not bool((((after["x"] > 0) != (state["x"] > 0)) & outside).any())
        state = after
        for observation in family.observe(task, state).numpy():
            assert family.observation_space.contains(observation) and np.isfinite(observation).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "sparse"}, "reward: expected one of distance, squared"),
        ({"box": 0.0}, "box: expected a positive"),
        ({"start_x": 0.1}, "start_x: expected"),
        ({"goal_x": Range(-0.1, 0.5)}, "goal_x: expected"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        WalledNavigation(**arguments)
