"""Pendulum against Gymnasium, against the energy of a rod, and at the ends of its ranges."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import Pendulum, pendulum_packer
from envs.ranges import Choice, Range

NAMES = ("theta", "theta_dot")
WIDE = {
    "gravity": Range(1, 20),
    "mass": Range(0.2, 5),
    "length": Range(0.2, 3),
    "max_torque": Range(0.5, 10),
    "time_step": Range(0.005, 0.1),
}
OURS = {"friction": Range(0.01, 0.5), "polarity": Choice((-1.0, 1.0))}

# Every valid value, and the ends of the valid values together with the defaults.
WHOLE = {n: Choice(p.choices) if p.choices else Range(p.low, p.high) for n, p in Pendulum.parameters.items()}
ENDS = {n: Choice(p.choices or tuple({p.low, p.default, p.high})) for n, p in Pendulum.parameters.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(task):
    return {name: values.double() for name, values in task.items()}


def random_rows(family: Pendulum, count: int, seed: int = 0):
    generator = seeded(seed)
    task = doubles(family.sample(count, generator=generator))
    spread = torch.tensor([7.0, 8.0, 3.0], dtype=torch.float64)  # more than one turn, and actions beyond the box
    draws = (2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1) * spread
    return task, dict(zip(NAMES, draws[:, :2].unbind(-1), strict=True)), draws[:, 2:]


def gymnasium_of(task, index: int) -> PendulumEnv:
    env = PendulumEnv()
    env.g, env.m, env.l = (task[name][index].item() for name in ("gravity", "mass", "length"))
    env.max_torque, env.dt = task["max_torque"][index].item(), task["time_step"][index].item()
    return env


def test_step_equals_gymnasium_at_any_constants():
    count = 1000
    family = Pendulum(**WIDE)
    task, state, action = random_rows(family, count)
    after, reward, terminated = family.step(task, state, action)
    got, seen = torch.stack([after[name] for name in NAMES], -1), family.observe(task, after)
    clipped = 0
    for i in range(count):
        env = gymnasium_of(task, i)
        env.state = np.array([state[name][i].item() for name in NAMES])
        # Gymnasium takes newton metres; ours takes shares of the motor, in halves.
        observation, gain, ended, _, _ = env.step(action[i].numpy() * env.max_torque / 2)
        np.testing.assert_allclose(got[i].numpy(), env.state, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(seen[i].numpy(), observation, rtol=1e-6, atol=1e-6)
        assert reward[i].item() == pytest.approx(gain, rel=1e-12, abs=1e-12)
        assert terminated[i].item() is ended is False
        clipped += abs(env.state[1]) == 8
    assert 0 < clipped < count  # the speed limit was met, and was not


@pytest.mark.parametrize("changed", [{}, {"gravity": 4.0, "mass": 1.5, "length": 0.6, "time_step": 0.02}])
def test_an_episode_equals_gymnasiums(changed):
    family = Pendulum(**changed)
    task = doubles(family.sample(1, generator=seeded()))
    env = gymnasium_of(task, 0)
    first, _ = env.reset(seed=3)
    state = {name: torch.tensor([value]) for name, value in zip(NAMES, env.state, strict=True)}
    np.testing.assert_allclose(family.observe(task, state)[0].numpy(), first, rtol=1e-6, atol=1e-6)
    actions = np.random.default_rng(0).uniform(-2.5, 2.5, (family.horizon, 1))
    for action in actions:
        observation, gain, _, _, _ = env.step(action)
        state, reward, _ = family.step(task, state, torch.from_numpy(action[None]))
        np.testing.assert_allclose(family.observe(task, state)[0].numpy(), observation, rtol=1e-6, atol=1e-6)
        assert reward.item() == pytest.approx(gain, rel=1e-8)


def test_default_constants_and_spaces_are_gymnasiums():
    env, family = PendulumEnv(), Pendulum()
    default = {name: parameter.default for name, parameter in Pendulum.parameters.items()}
    assert (env.g, env.m, env.l) == tuple(default[name] for name in ("gravity", "mass", "length"))
    assert (env.max_torque, env.dt) == (default["max_torque"], default["time_step"])
    assert family.observation_space == env.observation_space
    assert family.action_space == env.action_space
    assert family.horizon == gymnasium.spec("Pendulum-v1").max_episode_steps


def trajectory(family: Pendulum, steps: int = 5) -> torch.Tensor:
    task = doubles(family.sample(1, generator=seeded()))
    state = {name: torch.full((1,), 0.4, dtype=torch.float64) for name in NAMES}
    for _ in range(steps):
        state = family.step(task, state, torch.ones(1, 1)).state
    return family.observe(task, state)


@pytest.mark.parametrize("name", Pendulum.parameters)
def test_each_constant_alone_changes_the_trajectory(name):
    value = {"friction": 0.1, "polarity": -1.0}.get(name, 1.5 * Pendulum.parameters[name].default)
    assert (trajectory(Pendulum(**{name: value})) - trajectory(Pendulum())).abs().max() > 1e-3


@pytest.mark.parametrize(("friction", "action"), [(0.0, 0.0), (0.3, 0.0), (0.0, 1.5), (0.3, -1.5)])
def test_energy_changes_by_the_work_of_motor_and_friction(friction, action):
    family = Pendulum(gravity=7.0, mass=1.3, length=0.8, max_torque=3.0, time_step=1e-5, friction=friction)
    task = doubles(family.sample(1, generator=seeded()))

    def energy(state):
        inertia = 1.3 * 0.8**2 / 3  # of a rod about its end; its centre is at half the length
        return inertia * state["theta_dot"] ** 2 / 2 + 1.3 * 7.0 * 0.4 * state["theta"].cos()

    state = {"theta": torch.tensor([0.5]).double(), "theta_dot": torch.tensor([2.0]).double()}
    start = energy(state)
    work = torch.zeros(1, dtype=torch.float64)
    for _ in range(500):
        before = state["theta_dot"]
        state = family.step(task, state, torch.full((1, 1), action)).state
        speed = (before + state["theta_dot"]) / 2
        work += (3.0 * action / 2 - friction * speed) * speed * task["time_step"]
    assert (energy(state) - start).item() == pytest.approx(work.item(), rel=1e-3, abs=2e-6)


def test_polarity_mirrors_the_action():
    ahead, turned = Pendulum(), Pendulum(polarity=-1.0)
    task, state, action = random_rows(ahead, 20)
    mirrored = turned.step({**task, "polarity": -task["polarity"]}, state, -action)
    for one, other in zip(ahead.step(task, state, action).state.values(), mirrored.state.values(), strict=True):
        assert torch.equal(one, other)


def test_batched_rows_equal_single_rows_and_vmap():
    family = Pendulum(**WIDE, **OURS)
    task = doubles(family.sample(4, generator=seeded(2)))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (4, 3), generator=seeded(3))
    action = torch.randn(4, 3, 1, generator=seeded(4), dtype=torch.float64)
    batched = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], batched.reward, rtol=0, atol=1e-13)
    for t in range(4):
        for n in range(3):
            one = {name: values[t, n] for name, values in state.items()}
            single = family.step({name: values[t] for name, values in task.items()}, one, action[t, n])
            torch.testing.assert_close(single.reward, batched.reward[t, n], rtol=0, atol=1e-13)
            for name in NAMES:
                torch.testing.assert_close(single.state[name], batched.state[name][t, n], rtol=0, atol=1e-13)
                torch.testing.assert_close(mapped[0][name], batched.state[name], rtol=0, atol=1e-13)


def test_step_leaves_its_inputs_alone_and_reset_leaves_the_task_alone():
    family = Pendulum(**WIDE)
    task, state, action = random_rows(family, 5)
    before = {name: values.clone() for name, values in {**task, **state, "action": action}.items()}
    family.reset(task, (5,), generator=seeded())
    family.step(task, state, action)
    assert all(torch.equal(before[name], values) for name, values in {**task, **state, "action": action}.items())


def test_reset_is_uniform_and_a_function_of_the_generator():
    family = Pendulum()
    task = {name: values[:, None] for name, values in family.sample(4, generator=seeded()).items()}
    state, again = (family.reset(task, (4, 5000), generator=seeded(7)) for _ in range(2))
    for name, half in zip(NAMES, (math.pi, 1.0), strict=True):
        assert torch.equal(state[name], again[name])
        assert state[name].abs().max().item() <= half + 1e-6
        assert state[name].mean().item() == pytest.approx(0, abs=0.02 * half)
        assert state[name].std().item() == pytest.approx(2 * half / math.sqrt(12), rel=0.02)
    assert family.observe(task, state).shape == (4, 5000, 3)


def test_global_generators_are_untouched():
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    family = Pendulum(**WIDE, **OURS)
    task = family.sample(3, generator=seeded())
    family.step(task, family.reset(task, (3,), generator=seeded()), torch.ones(3, 1))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([0.0, 1.0, 100.0]), ends=st.booleans())
@settings(max_examples=20, deadline=None)
def test_random_tasks_and_actions_stay_in_the_observation_space_and_between_the_references(seed, scale, ends):
    family = Pendulum(20, **(ENDS if ends else WHOLE))
    generator = seeded(seed)
    task = family.sample(64, generator=generator)
    state, total = family.reset(task, (64,), generator=generator), torch.zeros(64)
    for _ in range(family.horizon):
        assert all(family.observation_space.contains(row) for row in family.observe(task, state).numpy())
        state, reward, terminated = family.step(task, state, scale * torch.randn(64, 1, generator=generator))
        assert not bool(terminated.any())
        total += reward
    bounds = family.references(task)
    assert bool((total >= bounds["floor"] * (1 + 1e-5)).all() and (total <= bounds["ceiling"]).all())


def test_references_are_per_task_and_attained():
    family = Pendulum(7, max_torque=Choice((1.0, 3.0)))
    task = doubles(family.sample(20, generator=seeded()))
    bounds = family.references(task)
    by_hand = -7 * (math.pi**2 + 6.4 + 0.001 * task["max_torque"] ** 2)
    torch.testing.assert_close(bounds["floor"], by_hand)
    rest = {name: torch.zeros(20, dtype=torch.float64) for name in NAMES}
    after, reward, _ = family.step(task, rest, torch.zeros(20, 1))
    assert torch.equal(reward, bounds["ceiling"]) and not bool(after["theta_dot"].any())
    worst = {"theta": torch.full((20,), -math.pi).double(), "theta_dot": torch.full((20,), 8.0).double()}
    torch.testing.assert_close(7 * family.step(task, worst, torch.full((20, 1), -9.0)).reward, by_hand)


def test_packers_ranges_and_splits():
    bench = pendulum_packer()
    assert bench.family.horizon == 200
    train, beyond = (bench.sample(split, 1000, generator=seeded()) for split in ("train", "extrapolation"))
    for name in ("mass", "length"):
        assert 0.75 <= train[name].min() and train[name].max() <= 1.25
        assert bool((((beyond[name] <= 0.75) & (beyond[name] >= 0.5)) | (beyond[name] >= 1.25)).all())
        assert beyond[name].max() <= 1.5
    assert bench.sample("default", 2, generator=seeded())["length"].tolist() == [1.0, 1.0]
    assert not bool(bench.is_training(beyond).any()) and bool(bench.is_training(train).all())
    assert pendulum_packer(100).family.horizon == 100
