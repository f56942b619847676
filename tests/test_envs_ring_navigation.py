"""Ring navigation: hand-computed steps, published ceilings, and policies played through ``step``."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.navigation import Navigation
from envs.ranges import Choice, Range
from envs.ring_navigation import REWARDS, RingNavigation

CORNERS = Choice(tuple(quarter * math.pi / 4 for quarter in (-3.0, -1.0, 1.0, 3.0)))
PROMP = {"angle": CORNERS, "radius": 8**0.5, "reach": 2.0, "stride": 0.2}
WIDE = {
    "angle": Range(-math.pi, math.pi),
    "radius": Range(0.1, 3),
    "reach": Range(0.1, 1),
    "stride": Range(0.05, 0.3),
    "start_x": Range(-0.5, 0.5),
    "start_y": Range(-0.5, 0.5),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(family: RingNavigation, count: int, seed: int) -> dict[str, torch.Tensor]:
    return {name: values.double() for name, values in family.sample(count, generator=seeded(seed)).items()}


def goal(task) -> tuple[torch.Tensor, torch.Tensor]:
    return task["radius"] * torch.cos(task["angle"]), task["radius"] * torch.sin(task["angle"])


def walk(family: RingNavigation, task, wish) -> torch.Tensor:
    """Return of the policy that wishes to be ``wish(step)`` far from where it is, in lengths."""
    state = family.reset(task, task["angle"].shape, generator=seeded())
    total = torch.zeros_like(task["angle"])
    for step in range(family.horizon):
        way = wish(step, state) / task["stride"].unsqueeze(-1)
        state, reward, terminated = family.step(task, state, way)
        total = total + reward
        assert not bool(terminated.any())
    return total


def to_goal(task):
    return lambda step, state: torch.stack((goal(task)[0] - state["x"], goal(task)[1] - state["y"]), -1)


def by_hand(reward: str, before: tuple[float, float], after: tuple[float, float], target, reach: float) -> float:
    """Each published rule as a scalar program; ``progress`` looks for the nearest of four corners."""
    d = math.dist(after, target)
    if reward == "disc":
        return 1 - d if d <= reach else 0.0
    if reward == "cone":
        return max(reach - d, 0.0)
    if reward == "bowl":
        return -(reach**2) + max(0.0, reach**2 - d**2)
    if reward == "distance":
        return -d
    if reward == "squared":
        return -d * d
    corners = [(sx * 2.0, sy * 2.0) for sx, sy in itertools.product((-1, 1), repeat=2)]
    if abs(after[0]) + abs(after[1]) < 0.5 or d > min(math.dist(after, corner) for corner in corners) + 1e-12:
        return 0.0
    return math.dist(before, target) - d


@pytest.mark.parametrize("reward", REWARDS)
def test_every_reward_equals_its_published_rule(reward):
    family = RingNavigation(100, reward, **{**PROMP, "reach": 1.0})
    task, generator = doubles(family, 400, 1), seeded(2)
    before = 6 * torch.rand(400, 2, generator=generator, dtype=torch.float64) - 3
    action = 3 * torch.rand(400, 2, generator=generator, dtype=torch.float64) - 1.5
    state = {"x": before[:, 0], "y": before[:, 1]}
    after, got, _ = family.step(task, state, action)
    expected = []
    for i, (x, y) in enumerate(before.tolist()):
        a = [min(max(value, -1.0), 1.0) * task["stride"][i].item() for value in action[i].tolist()]
        place = (x + a[0], y + a[1])
        assert (after["x"][i].item(), after["y"][i].item()) == pytest.approx(place, abs=1e-12)
        angle = task["angle"][i].item()
        target = (math.copysign(2.0, math.cos(angle)), math.copysign(2.0, math.sin(angle)))
        expected.append(by_hand(reward, (x, y), place, target, 1.0))
    # Stored angles are float32: a corner is off by 1e-7.
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)
    assert len(set(np.sign(expected))) > 1 or reward in ("distance", "squared", "bowl")


@pytest.mark.parametrize("reward", [name for name in REWARDS if name != "progress"])
def test_references_equal_simulated_policies(reward):
    family = RingNavigation(25, reward, **WIDE)
    task = doubles(family, 500, 3)
    bounds = family.references(task)
    torch.testing.assert_close(bounds["ceiling"], walk(family, task, to_goal(task)), rtol=1e-9, atol=1e-9)
    still = walk(family, task, lambda step, state: torch.zeros(500, 2, dtype=torch.float64))
    torch.testing.assert_close(bounds["floor"], still, rtol=1e-9, atol=1e-9)
    assert bool((bounds["ceiling"] >= bounds["floor"]).all())


@pytest.mark.parametrize("reward", [name for name in REWARDS if name != "progress"])
def test_nobody_beats_the_ceiling(reward):
    family = RingNavigation(12, reward, **WIDE)
    task, generator = doubles(family, 300, 4), seeded(5)
    noise = 0.2 * torch.randn(12, 300, 2, generator=generator, dtype=torch.float64)
    total = walk(family, task, lambda step, state: to_goal(task)(step, state) + noise[step])
    assert bool((total <= family.references(task)["ceiling"] + 1e-9).all())


@pytest.mark.parametrize(
    ("horizon", "reward", "ceiling", "floor"),
    [
        (20, "disc", 13.38, 0.0),
        (20, "distance", -3.84, -20.0),
        (100, "disc", 93.38, 0.0),
        (100, "distance", -3.84, -100.0),
    ],
)
def test_mean_references_on_the_half_circle(horizon, reward, ceiling, floor):
    family = RingNavigation(horizon, reward)
    bounds = family.references(family.sample(20_000, generator=seeded(6)))
    assert bounds["ceiling"].mean().item() == pytest.approx(ceiling, abs=0.02)
    assert bounds["floor"].mean().item() == pytest.approx(floor, abs=1e-4)


def test_half_circle_ceiling_by_hand_upwards():
    # Goal (0, 1): after t steps d = 1 - 0.1 t; felt from t = 8 (d = 0.2) on: 0.8 + 0.9 + 11 times 1.
    family = RingNavigation(angle=math.pi / 2, reach=0.2001)
    assert family.references(family.sample(1, generator=seeded()))["ceiling"].item() == pytest.approx(12.7, abs=1e-4)


@pytest.mark.parametrize(("reward", "stride"), [("cone", 0.2), ("bowl", 0.1)])
def test_four_corners_ceiling_by_hand(reward, stride):
    family = RingNavigation(100, reward, **{**PROMP, "stride": stride})
    bounds = family.references(family.sample(40, generator=seeded()))
    distance = [max(0.0, 2 - stride * t) * 2**0.5 for t in range(1, 101)]
    one = {"cone": [max(2 - d, 0) for d in distance], "bowl": [-4 + max(0, 4 - d * d) for d in distance]}[reward]
    assert bounds["ceiling"].tolist() == pytest.approx([sum(one)] * 40, rel=1e-5)
    assert bounds["floor"].tolist() == pytest.approx([{"cone": 0.0, "bowl": -400.0}[reward]] * 40)


def test_direct_progress_telescopes_from_where_it_is_first_paid():
    family = RingNavigation(100, "progress", **PROMP)
    task = family.sample(40, generator=seeded())
    # From the origin along the diagonal: |x| + |y| is 0.4 after one step and 0.8 after two, which is paid.
    assert family.references(task)["direct"].tolist() == pytest.approx([1.8 * 2**0.5] * 40, rel=1e-5)
    assert family.references(task)["floor"].tolist() == [0.0] * 40
    exact = {name: values.double() for name, values in task.items()}
    torch.testing.assert_close(family.references(exact)["direct"], walk(family, exact, to_goal(exact)))


def test_progress_pays_stepping_out_of_the_quarter_and_in_again():
    family = RingNavigation(100, "progress", **{**PROMP, "angle": math.pi / 4})
    task = doubles(family, 1, 0)
    there = {0: (0.1, 0.2), 1: (0.1, 0.2), 2: (0.1, 0.2)}  # to (0.3, 0.6); then out and in, 2 steps a round
    rounds = [(-0.2, -0.2), (-0.2, -0.2), (0.2, 0.2), (0.2, 0.2)]

    def wish(step, state):
        return torch.tensor([there.get(step, rounds[(step - 3) % 4])], dtype=torch.float64)

    assert walk(family, task, wish).item() > 1.5 * family.references(task)["direct"].item()


def test_steps_and_dense_rewards_are_navigations():
    point, plane = RingNavigation(10, "distance", **{**WIDE, "stride": 0.1}), Navigation(10, box=None)
    task = point.sample(50, generator=seeded(7))
    theirs = {"start_x": task["start_x"], "start_y": task["start_y"]}
    theirs["goal_x"], theirs["goal_y"] = goal(task)
    one, two = (family.reset(t, (50,), generator=seeded()) for family, t in ((point, task), (plane, theirs)))
    for step in range(5):
        action = 2 * torch.randn(50, 2, generator=seeded(step))
        (one, first, _), (two, second, _) = point.step(task, one, action), plane.step(theirs, two, action)
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(point.observe(task, one), plane.observe(theirs, two))


def test_rows_equal_single_environments_and_vmap():
    family = RingNavigation(reward="progress", **WIDE)
    task = family.sample(3, generator=seeded(8))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (3, 4), generator=seeded())
    action = torch.randn(3, 4, 2, generator=seeded(9))
    together = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], together.reward)
    for i, j in itertools.product(range(3), range(4)):
        one = {name: values[i] for name, values in task.items()}
        alone = family.step(one, {name: values[i, j] for name, values in state.items()}, action[i, j])
        torch.testing.assert_close(alone.reward, together.reward[i, j])
        assert torch.equal(family.observe(one, alone.state), family.observe(column, together.state)[i, j])


def test_equal_generators_give_equal_bits_and_a_reset_leaves_the_task_alone():
    family = RingNavigation(**WIDE)
    one, two = (family.sample(100, generator=seeded(10)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in family.parameters)
    state = family.reset(one, (100,), generator=seeded())
    state["x"].add_(1)
    assert torch.equal(one["start_x"], two["start_x"])


@pytest.mark.parametrize("name", RingNavigation.parameters)
def test_each_constant_alone_changes_the_return(name):
    changed = {"angle": 0.5, "radius": 0.8, "reach": 0.5, "stride": 0.15, "start_x": 0.05, "start_y": 0.05}
    default = {"angle": 0.75}  # both axes still move when the goal is first felt
    bounds = [
        family.references(family.sample(1, generator=seeded()))["ceiling"].item()
        for family in (
            RingNavigation(20, "cone", **default),
            RingNavigation(20, "cone", **{**default, name: changed[name]}),
        )
    ]
    assert abs(bounds[0] - bounds[1]) > 1e-3


@given(
    reward=st.sampled_from(sorted(REWARDS)),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.0, 1.0, 1e6]),
)
@settings(max_examples=60, deadline=None)
def test_observations_and_rewards_stay_finite_and_in_the_space(reward, seed, scale):
    family = RingNavigation(6, reward, **WIDE)
    task = family.sample(4, generator=seeded(seed))
    family.validate(task)
    assert bool(family.contains(task).all())
    state = family.reset(task, (4,), generator=seeded(seed))
    for step in range(6):
        action = scale * torch.randn(4, 2, generator=seeded(seed + step))
        state, gain, terminated = family.step(task, state, action)
        assert bool(gain.isfinite().all()) and not bool(terminated.any())
        for observation in family.observe(task, state).numpy():
            assert family.observation_space.contains(observation) and np.isfinite(observation).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "sparse"}, "reward: expected one of disc, cone, bowl, progress"),
        ({"reach": Range(0.5, 2.0)}, "reach: expected at most 1"),
        ({"radius": -1.0}, "radius: expected"),
        ({"goal_x": 1.0}, "no constant 'goal_x'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        RingNavigation(**arguments)
