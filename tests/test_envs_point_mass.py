"""Point mass against a scalar integrator, Navigation as a special case, a linear program and exact expectations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from envs.navigation import Navigation
from envs.point_mass import CALM, WEAK, PointMass
from envs.ranges import Range

FORCES = {
    "gain": Range(WEAK, 3),
    "rotation": Range(-math.pi, math.pi),
    "wind_x": Range(-CALM, CALM),
    "wind_y": Range(-CALM, CALM),
    "start_x": Range(-0.5, 0.5),
    "start_y": Range(-0.5, 0.5),
}
WIDE = FORCES | {"friction": Range(0, 1)}
NAMES = ("x", "y", "v_x", "v_y")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(family: PointMass, count: int, seed: int) -> dict[str, torch.Tensor]:
    return {name: values.double() for name, values in family.sample(count, generator=seeded(seed)).items()}


def row(tree, *index):
    return {name: values[index] for name, values in tree.items()}


def integrate(task: dict[str, float], state: complex, velocity: complex, action: complex) -> tuple[complex, complex]:
    """The same motion in complex numbers, where a rotation is a factor."""
    clipped = complex(min(max(action.real, -1), 1), min(max(action.imag, -1), 1))
    turned = clipped * complex(math.cos(task["rotation"]), math.sin(task["rotation"]))
    velocity = (1 - task["friction"]) * velocity + 0.1 * task["gain"] * turned
    return state + velocity + complex(task["wind_x"], task["wind_y"]), velocity


def test_step_equals_a_scalar_integrator():
    family = PointMass(**WIDE)
    task = doubles(family, 200, 1)
    state = family.reset(task, (200,), generator=seeded())
    assert all(bool((state[name] == 0).all()) for name in ("v_x", "v_y"))
    places = [(complex(row(task, i)["start_x"], row(task, i)["start_y"]), 0j) for i in range(200)]
    for step in range(4):
        action = torch.randn(200, 2, generator=seeded(step), dtype=torch.float64)
        state, reward, terminated = family.step(task, state, action)
        assert not bool(terminated.any())
        for i in range(200):
            constants = {name: values[i].item() for name, values in task.items()}
            p, v = places[i] = integrate(constants, *places[i], complex(*action[i].tolist()))
            expected = (p.real, p.imag, v.real, v.imag)
            assert [state[name][i].item() for name in NAMES] == pytest.approx(expected, abs=1e-12)
            d = abs(p - complex(constants["goal_x"], constants["goal_y"]))
            assert reward[i].item() == pytest.approx(-d, abs=1e-12)


@pytest.mark.parametrize("reward", ["distance", "squared"])
def test_default_constants_are_navigation(reward):
    mass, plane = PointMass(reward=reward), Navigation(reward=reward, box=None)
    task = doubles(mass, 100, 2)
    theirs = {name: task[name] for name in Navigation.parameters}
    one, two = mass.reset(task, (100,), generator=seeded()), plane.reset(theirs, (100,), generator=seeded())
    for step in range(5):
        action = torch.randn(100, 2, generator=seeded(step), dtype=torch.float64)
        (one, first, _), (two, second, _) = mass.step(task, one, action), plane.step(theirs, two, action)
        torch.testing.assert_close(first, second)
        assert torch.equal(mass.observe(task, one)[:, :2], plane.observe(theirs, two))
    bounds, known = mass.references(task), plane.references(theirs)
    torch.testing.assert_close(bounds["ceiling"], known["ceiling"])
    torch.testing.assert_close(bounds["floor"], known["floor"])


def walk(family: PointMass, task, choose) -> torch.Tensor:
    state = family.reset(task, task["goal_x"].shape, generator=seeded())
    total = torch.zeros_like(task["goal_x"])
    for _ in range(family.horizon):
        state, reward, _ = family.step(task, state, choose(state))
        total = total + reward
    return total


def greedy(task):
    """Move the actuator's axes so that the next position, wind included, is the goal or as near as can be."""

    def choose(state):
        e = torch.complex(task["goal_x"] - state["x"] - task["wind_x"], task["goal_y"] - state["y"] - task["wind_y"])
        turned = e * torch.polar(torch.ones_like(task["rotation"]), -task["rotation"])
        return torch.stack((turned.real, turned.imag), -1) / (0.1 * task["gain"].unsqueeze(-1))

    return choose


@pytest.mark.parametrize("reward", ["distance", "squared"])
def test_ceiling_is_attained_without_momentum_in_every_wind(reward):
    family = PointMass(40, reward, **FORCES)
    task = doubles(family, 500, 3)
    torch.testing.assert_close(
        family.references(task)["ceiling"], walk(family, task, greedy(task)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("reward", ["distance", "squared"])
def test_floor_is_no_thrust_whatever_the_friction(reward):
    family = PointMass(30, reward, **WIDE)
    task = doubles(family, 300, 4)
    still = walk(family, task, lambda state: torch.zeros(300, 2, dtype=torch.float64))
    torch.testing.assert_close(family.references(task)["floor"], still, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("friction", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("wind", [0.0, -0.03])
def test_ceiling_bounds_the_linear_programs_optimum(friction, wind):
    # Along one axis the best return is a linear program: minimise the sum of slacks s_t >= |p_t - g|.
    horizon, gain, goal = 30, 1.5, 2.03
    response = np.zeros((horizon, horizon))  # of p_t to a_j
    for t, j in itertools.product(range(horizon), repeat=2):
        response[t, j] = 0.1 * gain * sum((1 - friction) ** i for i in range(t - j + 1)) if j <= t else 0.0
    drift = wind * np.arange(1, horizon + 1) - goal
    eye = np.eye(horizon)
    solved = linprog(
        np.concatenate((np.zeros(horizon), np.ones(horizon))),
        A_ub=np.block([[response, -eye], [-response, -eye]]),
        b_ub=np.concatenate((-drift, drift)),
        bounds=[(-1, 1)] * horizon + [(0, None)] * horizon,
    )
    family = PointMass(horizon, friction=friction, gain=gain, wind_x=wind, goal_x=goal, goal_y=0.0)
    task = doubles(family, 1, 0)
    task = task | {"goal_x": torch.tensor([goal]).double(), "wind_x": torch.tensor([wind]).double()}
    bound = family.references(task)["ceiling"].item()
    if (1 - friction) / max(friction, 1e-9) + abs(wind) / (0.1 * gain) <= 1:  # the point can stop in one step
        assert bound == pytest.approx(-solved.fun, abs=1e-6)
    else:
        assert bound - 3 < -solved.fun < bound - 1e-3  # braking costs something: a bound, not an optimum


def test_random_reference_equals_the_mean_over_all_corners_of_actions():
    # Actions of -1 and 1 have variance 1, uniform ones a third: their spreads differ by that factor alone.
    family = PointMass(3, "squared", **WIDE)
    task = doubles(family, 20, 5)
    plans = list(itertools.product(itertools.product((-1.0, 1.0), repeat=2), repeat=3))
    total = torch.zeros(20, dtype=torch.float64)
    for plan in plans:
        actions = iter(plan)
        total += walk(family, task, lambda state: torch.tensor(next(actions)).double().expand(20, 2))  # noqa: B023
    bounds = family.references(task)
    torch.testing.assert_close(3 * (bounds["random"] - bounds["floor"]), total / len(plans) - bounds["floor"])
    assert "random" not in PointMass().references(PointMass().sample(2, generator=seeded()))


def test_random_reference_equals_a_simulation():
    family = PointMass(20, "squared", friction=0.2, gain=1.3, rotation=1.0, wind_x=0.02, goal_x=0.3, goal_y=-0.2)
    task = {name: values.expand(40_000) for name, values in doubles(family, 1, 0).items()}
    generator = seeded(6)
    total = walk(family, task, lambda state: 2 * torch.rand(40_000, 2, generator=generator, dtype=torch.float64) - 1)
    error = total.std().item() / 200
    assert family.references(task)["random"][0].item() == pytest.approx(total.mean().item(), abs=4 * error)


@pytest.mark.parametrize("name", PointMass.parameters)
def test_each_constant_alone_changes_the_trajectory(name):
    changed = {"friction": 0.5, "gain": 1.5, "rotation": 0.7}

    def trajectory(**ranges):
        family = PointMass(**({"goal_x": 0.0, "goal_y": 0.0} | ranges))
        task = doubles(family, 1, 0)
        state, rewards = family.reset(task, (1,), generator=seeded()), []
        for _ in range(3):
            state, reward, _ = family.step(task, state, torch.tensor([[0.9, 0.3]], dtype=torch.float64))
            rewards.append(reward)
        return torch.cat((*rewards, family.observe(task, state)[0]))

    assert (trajectory(**{name: changed.get(name, 0.04)}) - trajectory()).abs().max() > 1e-3


def test_rows_equal_single_environments_and_vmap():
    family = PointMass(**WIDE)
    task = family.sample(3, generator=seeded(7))
    column = {name: values[:, None] for name, values in task.items()}
    state = {name: torch.randn(3, 4, generator=seeded(i)) for i, name in enumerate(NAMES)}
    action = torch.randn(3, 4, 2, generator=seeded(8))
    together = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], together.reward)
    for i, j in itertools.product(range(3), range(4)):
        alone = family.step(row(task, i), row(state, i, j), action[i, j])
        torch.testing.assert_close(alone.reward, together.reward[i, j])
        torch.testing.assert_close(family.observe(task, alone.state), family.observe(task, together.state)[i, j])


def test_equal_generators_give_equal_bits_and_a_reset_leaves_the_task_alone():
    family = PointMass(**WIDE)
    one, two = (family.sample(100, generator=seeded(9)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in family.parameters)
    family.reset(one, (100,), generator=seeded())["x"].add_(1)
    assert torch.equal(one["start_x"], two["start_x"])


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 1e6]))
@settings(max_examples=40, deadline=None)
def test_observations_stay_finite_and_in_the_space(seed, scale):
    family = PointMass(8, **WIDE)
    task = family.sample(5, generator=seeded(seed))
    family.validate(task)
    assert bool(family.contains(task).all())
    state = family.reset(task, (5,), generator=seeded(seed))
    for step in range(8):
        state, reward, _ = family.step(task, state, scale * torch.randn(5, 2, generator=seeded(seed + step)))
        assert bool(reward.isfinite().all())
        for observation in family.observe(task, state).numpy():
            assert family.observation_space.contains(observation) and np.isfinite(observation).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "sparse"}, "reward: expected one of distance, squared"),
        ({"friction": 1.5}, "friction: expected"),
        ({"gain": 0.5}, "gain: expected"),  # might not hold its place in the wind
        ({"wind_x": Range(0, 0.1)}, "wind_x: expected"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        PointMass(**arguments)
