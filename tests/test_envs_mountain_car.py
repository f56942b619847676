"""Both mountain cars against Gymnasium, by hand for constants that it lacks, and at the ends of their ranges."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import ContinuousMountainCar, MountainCar, mountain_car_packer
from envs.ranges import Choice, Range

CARS = [MountainCar, ContinuousMountainCar]
WIDE = {
    "force": Range(0.0003, 0.01),
    "gravity": Range(0.0005, 0.01),
    "goal_position": Range(0.0, 0.55),
    "goal_velocity": Range(-0.05, 0.05),
}
OURS = {"friction": Range(0.001, 0.1), "polarity": Choice((-1.0, 1.0))}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(task):
    return {name: values.double() for name, values in task.items()}


def random_actions(family, rows: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Discrete ones, or continuous ones of which many leave the box."""
    if isinstance(family, MountainCar):
        return torch.randint(3, rows, generator=generator)
    return 1.5 * torch.randn(*rows, 1, generator=generator, dtype=torch.float64)


def along(family, state) -> torch.Tensor:
    """The action that pushes along with the motion."""
    ahead = torch.where(state["v"] < 0, -1.0, 1.0)
    return ahead + 1 if isinstance(family, MountainCar) else ahead.unsqueeze(-1)


def random_rows(family, count: int, seed: int = 0):
    generator = seeded(seed)
    task = doubles(family.sample(count, generator=generator))
    x, v = torch.rand(2, count, generator=generator, dtype=torch.float64)
    state = {"x": -1.2 + 1.8 * x, "v": 0.14 * v - 0.07}
    state["x"][: count // 10] = -1.2 + 0.01 * x[: count // 10]  # at the wall
    return task, state, random_actions(family, (count,), generator)


def gymnasium_of(task, index: int) -> MountainCarEnv:
    env = MountainCarEnv(goal_velocity=task["goal_velocity"][index].item())
    env.force, env.gravity, env.goal_position = (
        task[name][index].item() for name in ("force", "gravity", "goal_position")
    )
    return env


def continuous_gymnasium_of(task, index: int) -> Continuous_MountainCarEnv:
    env = Continuous_MountainCarEnv(goal_velocity=task["goal_velocity"][index].item())
    env.power, env.goal_position = (task[name][index].item() for name in ("force", "goal_position"))
    return env


def test_step_equals_gymnasium_at_any_constants():
    count = 2000
    family = MountainCar(**WIDE)
    task, state, action = random_rows(family, count)
    after, reward, terminated = family.step(task, state, action)
    ends = walls = 0
    for i in range(count):
        env = gymnasium_of(task, i)
        env.state = (state["x"][i].item(), state["v"][i].item())
        observation, gain, ended, _, _ = env.step(action[i].item())
        np.testing.assert_allclose([after["x"][i].item(), after["v"][i].item()], env.state, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(family.observe(task, after)[i].numpy(), observation, rtol=1e-6, atol=1e-8)
        assert (reward[i].item(), terminated[i].item()) == (gain, ended)
        ends, walls = ends + ended, walls + (env.state == (-1.2, 0))
    assert ends > 50 and walls > 50


def test_continuous_step_equals_gymnasium_at_any_constants_that_it_has():
    count = 2000
    family = ContinuousMountainCar(**{name: WIDE[name] for name in ("force", "goal_position", "goal_velocity")})
    task, state, action = random_rows(family, count)
    # Gymnasium's gravity is a literal here; it steps in double precision and then rounds its state.
    task["gravity"] = torch.full_like(task["gravity"], 0.0025)
    after, reward, terminated = family.step(task, state, action)
    ends = walls = 0
    for i in range(count):
        env = continuous_gymnasium_of(task, i)
        env.state = np.array([state["x"][i].item(), state["v"][i].item()])
        observation, gain, ended, _, _ = env.step(action[i].numpy())
        np.testing.assert_allclose(family.observe(task, after)[i].numpy(), observation, rtol=2e-7, atol=1e-8)
        assert reward[i].item() == pytest.approx(gain, rel=1e-12)
        assert terminated[i].item() == ended
        ends, walls = ends + ended, walls + (observation.tolist() == [np.float32(-1.2), 0])
    assert ends > 50 and walls > 50


@pytest.mark.parametrize("changed", [{}, {"force": 0.002, "gravity": 0.003, "goal_position": 0.3}])
def test_an_episode_to_the_goal_equals_gymnasiums(changed):
    family = MountainCar(**changed)
    task = doubles(family.sample(1, generator=seeded()))
    env = gymnasium_of(task, 0)
    first, _ = env.reset(seed=2)
    state = {name: torch.tensor([value]).double() for name, value in zip("xv", env.state, strict=True)}
    np.testing.assert_allclose(family.observe(task, state)[0].numpy(), first, rtol=1e-6)
    steps, ended = 0, False
    while steps < family.horizon and not ended:
        steps += 1
        action = int(along(family, state))
        observation, gain, ended, _, _ = env.step(action)
        state, reward, terminated = family.step(task, state, torch.tensor([action]))
        np.testing.assert_allclose(family.observe(task, state)[0].numpy(), observation, rtol=1e-6, atol=1e-8)
        assert (reward.item(), terminated.item()) == (gain, ended)
    assert ended and 30 < steps < 199


def test_a_continuous_episode_to_the_goal_equals_gymnasiums():
    family = ContinuousMountainCar()
    task = doubles(family.sample(1, generator=seeded()))
    env = continuous_gymnasium_of(task, 0)
    env.reset(seed=2)
    state = {name: torch.tensor([value]).double() for name, value in zip("xv", env.state, strict=True)}
    total = expected = 0.0
    steps, ended = 0, False
    while steps < family.horizon and not ended:
        steps += 1
        action = 0.9 * along(family, state)
        observation, gain, ended, _, _ = env.step(action[0].numpy())
        state, reward, terminated = family.step(task, state, action)
        np.testing.assert_allclose(family.observe(task, state)[0].numpy(), observation, rtol=1e-4, atol=1e-5)
        assert terminated.item() == ended
        total, expected = total + reward.item(), expected + gain
    assert ended and steps < 300
    assert total == pytest.approx(expected, rel=1e-6)


def test_default_constants_and_spaces_are_gymnasiums():
    env, car = MountainCarEnv(), MountainCar()
    default = {name: parameter.default for name, parameter in MountainCar.parameters.items()}
    assert (env.force, env.gravity) == (default["force"], default["gravity"])
    assert (env.goal_position, env.goal_velocity) == (default["goal_position"], default["goal_velocity"])
    assert car.observation_space == env.observation_space and car.action_space == env.action_space
    assert car.horizon == gymnasium.spec("MountainCar-v0").max_episode_steps

    env, car = Continuous_MountainCarEnv(), ContinuousMountainCar()
    default = {name: parameter.default for name, parameter in ContinuousMountainCar.parameters.items()}
    assert (env.power, 0.0025) == (default["force"], default["gravity"])
    assert (env.goal_position, env.goal_velocity) == (default["goal_position"], default["goal_velocity"])
    assert car.observation_space == env.observation_space and car.action_space == env.action_space
    assert car.horizon == gymnasium.spec("MountainCarContinuous-v0").max_episode_steps


def episode(family, x: float, steps: int = 25) -> torch.Tensor:
    """Positions and ends of an episode of pushes to the right."""
    task = doubles(family.sample(1, generator=seeded()))
    state = {"x": torch.tensor([x]).double(), "v": torch.tensor([0.02]).double()}
    seen = []
    for _ in range(steps):
        state, _, terminated = family.step(task, state, along(family, {"v": torch.ones(1)}))
        seen.append(torch.cat((state["x"], terminated.double())))
    return torch.stack(seen)


@pytest.mark.parametrize("car", CARS)
@pytest.mark.parametrize("name", MountainCar.parameters)
def test_each_constant_alone_changes_the_episode(car, name):
    changed = {"friction": 0.05, "polarity": -1.0, "goal_position": 0.3, "goal_velocity": 0.06}
    value = changed.get(name, 1.5 * car.parameters[name].default)
    assert (episode(car(**{name: value}), 0.2) - episode(car(), 0.2)).abs().max() > 1e-3


@pytest.mark.parametrize("car", CARS)
def test_friction_and_polarity_by_hand(car):
    family = car(**WIDE, **OURS)
    task, state, action = random_rows(family, 500)
    push = action - 1 if car is MountainCar else action.squeeze(-1).clamp(-1, 1)
    after = family.step(task, state, action).state
    for i in range(500):
        constants = {name: values[i].item() for name, values in task.items()}
        x, v = state["x"][i].item(), state["v"][i].item()
        v = v - constants["friction"] * v + constants["polarity"] * constants["force"] * push[i].item()
        v = min(max(v - constants["gravity"] * math.cos(3 * x), -0.07), 0.07)
        x = min(max(x + v, -1.2), 0.6)
        v = 0.0 if x == -1.2 and v < 0 else v
        assert (after["x"][i].item(), after["v"][i].item()) == (pytest.approx(x), pytest.approx(v, abs=1e-15))


def test_reward_charges_the_action_as_given():
    # An action of 3 pushes no harder than one of 1 but costs nine times as much, as in Gymnasium.
    family = ContinuousMountainCar()
    task, state, _ = random_rows(family, 5)
    one, three = (family.step(task, state, torch.full((5, 1), size)) for size in (1.0, 3.0))
    assert torch.equal(one.state["x"], three.state["x"])
    torch.testing.assert_close(one.reward - three.reward, torch.full((5,), 0.8).double())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64])
def test_any_action_dtype_gives_the_same_step(dtype):
    family = MountainCar()
    task, state, action = random_rows(family, 8)
    expected, got = (family.step(task, state, a).state["v"] for a in (action, action.to(dtype)))
    assert got.dtype == torch.float64
    assert torch.equal(expected, got)


@pytest.mark.parametrize("car", CARS)
def test_batched_rows_equal_single_rows_and_vmap(car):
    family = car(**WIDE, **OURS)
    task = doubles(family.sample(4, generator=seeded(2)))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (4, 3), generator=seeded(3))
    action = random_actions(family, (4, 3), seeded(4))
    batched = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], batched.reward, rtol=0, atol=1e-15)
    for t in range(4):
        for n in range(3):
            one = {name: values[t, n] for name, values in state.items()}
            single = family.step({name: values[t] for name, values in task.items()}, one, action[t, n])
            torch.testing.assert_close(single.reward, batched.reward[t, n], rtol=0, atol=1e-15)
            for name in ("x", "v"):
                torch.testing.assert_close(single.state[name], batched.state[name][t, n], rtol=0, atol=1e-15)
                torch.testing.assert_close(mapped[0][name], batched.state[name], rtol=0, atol=1e-15)


@pytest.mark.parametrize("car", CARS)
def test_step_leaves_its_inputs_alone_and_reset_leaves_the_task_alone(car):
    family = car(**WIDE)
    task, state, action = random_rows(family, 5)
    before = {name: values.clone() for name, values in {**task, **state, "action": action}.items()}
    family.reset(task, (5,), generator=seeded())
    family.step(task, state, action)
    assert all(torch.equal(before[name], values) for name, values in {**task, **state, "action": action}.items())


@pytest.mark.parametrize("car", CARS)
def test_reset_is_uniform_and_a_function_of_the_generator(car):
    family = car()
    task = {name: values[:, None] for name, values in family.sample(4, generator=seeded()).items()}
    state, again = (family.reset(task, (4, 5000), generator=seeded(7)) for _ in range(2))
    assert torch.equal(state["x"], again["x"])
    assert -0.6 - 1e-6 <= state["x"].min() and state["x"].max() <= -0.4 + 1e-6
    assert state["x"].mean().item() == pytest.approx(-0.5, abs=2e-3)
    assert state["x"].std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert not bool(state["v"].any())
    assert family.observe(task, state).shape == (4, 5000, 2)


@pytest.mark.parametrize("car", CARS)
def test_global_generators_are_untouched(car):
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    family = car(**WIDE, **OURS)
    task = family.sample(3, generator=seeded())
    family.step(task, family.reset(task, (3,), generator=seeded()), random_actions(family, (3,), seeded()))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


def valid(car, ends: bool):
    """Every valid value, or the ends of the valid values together with the defaults."""
    if ends:
        return {name: Choice(p.choices or tuple({p.low, p.default, p.high})) for name, p in car.parameters.items()}
    return {name: Choice(p.choices) if p.choices else Range(p.low, p.high) for name, p in car.parameters.items()}


def run(family, task, act, generator):
    """Returns ``[N]`` and ends ``[H, N]`` of one episode a task, by observations that never leave the space."""
    rows = task["force"].shape
    state, total, alive = family.reset(task, rows, generator=generator), torch.zeros(rows), torch.ones(rows).bool()
    ended = []
    for _ in range(family.horizon):
        assert all(family.observation_space.contains(row) for row in family.observe(task, state).numpy())
        state, reward, terminated = family.step(task, state, act(state))
        total, alive = total + alive * reward, alive & ~terminated
        ended.append(terminated & ~alive)
    return total, torch.stack(ended)


@pytest.mark.parametrize("car", CARS)
@given(seed=st.integers(0, 2**32), ends=st.booleans())
@settings(max_examples=15, deadline=None)
def test_random_tasks_and_actions_stay_in_the_observation_space_and_below_the_ceiling(car, seed, ends):
    family = car(30, **valid(car, ends))
    generator = seeded(seed)
    task = family.sample(64, generator=generator)
    bounds = family.references(task)
    for act in (lambda s: random_actions(family, (64,), generator).float(), lambda s: along(family, s)):
        total, _ = run(family, task, act, generator)
        assert bool((total <= bounds["ceiling"]).all())
        assert car is ContinuousMountainCar or bool((total >= bounds["floor"]).all())


@pytest.mark.parametrize("car", CARS)
@pytest.mark.parametrize("ends", [False, True])
def test_coasting_never_arrives_and_returns_the_floor(car, ends):
    # For every valid goal, gravity and friction: so the floor is exact.
    family = car(300, **valid(car, ends))
    task = family.sample(400, generator=seeded())
    coast = torch.ones(400) if car is MountainCar else torch.zeros(400, 1)
    state, total = family.reset(task, (400,), generator=seeded(1)), torch.zeros(400)
    for _ in range(family.horizon):
        state, reward, terminated = family.step(task, state, coast)
        assert not bool(terminated.any())
        total += reward
    assert torch.equal(total, family.references(task)["floor"])


def test_ceiling_by_hand():
    task = MountainCar().sample(3, generator=seeded())
    # Speeds 0.0035, 0.007, ... reach 0.07 after 20 steps and 0.735; 0.165 more takes 3 steps.
    assert MountainCar().references(task)["ceiling"].tolist() == [-23.0] * 3
    task["force"] = torch.tensor([0.5, 0.5, 0.0])
    task["goal_position"] = torch.tensor([-0.35, -0.3, 0.5])
    task["gravity"] = torch.zeros(3)
    bounds = MountainCar(50).references(task)
    assert bounds["ceiling"].tolist() == [-1.0, -2.0, -50.0]
    assert bounds["floor"].tolist() == [-50.0] * 3


def test_pushing_along_with_the_motion_earns_what_is_known():
    family = MountainCar()
    total, _ = run(family, family.sample(200, generator=seeded()), lambda s: along(family, s), seeded(1))
    assert total.mean().item() == pytest.approx(-119.4, abs=0.5)
    family = ContinuousMountainCar()
    total, _ = run(family, family.sample(200, generator=seeded()), lambda s: along(family, s), seeded(1))
    assert total.mean().item() == pytest.approx(89.3, abs=0.3)


def test_packers_ranges_and_splits():
    bench = mountain_car_packer()
    assert bench.family.horizon == 200
    train, beyond = (bench.sample(split, 1000, generator=seeded()) for split in ("train", "extrapolation"))
    for name, (least, low, high, most) in {
        "force": (0.0001, 0.0005, 0.005, 0.01),
        "gravity": (0.0005, 0.001, 0.005, 0.01),
    }.items():
        low, high = float(np.float32(low)), float(np.float32(high))
        assert low <= train[name].min() and train[name].max() <= high
        assert bool(((beyond[name] <= low) | (beyond[name] >= high)).all())
        assert float(np.float32(least)) <= beyond[name].min() and beyond[name].max() <= float(np.float32(most))
    assert bench.sample("default", 2, generator=seeded())["force"].tolist() == [float(np.float32(0.001))] * 2
    assert not bool(bench.is_training(beyond).any()) and bool(bench.is_training(train).all())
    assert mountain_car_packer(100).family.horizon == 100
