"""Acrobot against Gymnasium, and against the energy of two coupled links for constants that Gymnasium lacks."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import Acrobot, acrobot_packer
from envs.acrobot import NAMES
from envs.ranges import Choice, Range

SHARED = {  # what Gymnasium lets one set
    "link_length": Range(0.5, 2),
    "link_mass": Range(0.5, 2),
    "mass_ratio": Range(0.5, 2),
    "centre_1": Range(0.2, 1),
    "centre_2": Range(0.2, 1),
    "link_moment": Range(0.3, 2),
    "torque": Range(0.3, 3),
    "time_step": Range(0.02, 0.2),
}
OURS = {
    "gravity": Range(3, 15),
    "moment_ratio": Range(0.5, 2),
    "goal_height": Range(-1, 1.5),
    "polarity": Choice((-1.0, 1.0)),
}
# Every valid value, and the ends of the valid values together with the defaults.
WHOLE = {n: Choice(p.choices) if p.choices else Range(p.low, p.high) for n, p in Acrobot.parameters.items()}
ENDS = {n: Choice(p.choices or tuple({p.low, p.default, p.high})) for n, p in Acrobot.parameters.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def doubles(task):
    return {name: values.double() for name, values in task.items()}


def random_rows(family: Acrobot, count: int, seed: int = 0):
    generator = seeded(seed)
    task = doubles(family.sample(count, generator=generator))
    spread = torch.tensor([math.pi, math.pi, 12.0, 25.0], dtype=torch.float64)
    draws = (2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1) * spread
    state = dict(zip(NAMES, draws.unbind(-1), strict=True))
    return task, state, torch.randint(3, (count,), generator=generator)


def gymnasium_of(task, index: int) -> AcrobotEnv:
    """Gymnasium's environment of one task, whose gravity becomes Gymnasium's literal in double precision."""
    task["gravity"][index] = 9.8
    env = AcrobotEnv()
    value = {name: values[index].item() for name, values in task.items()}
    env.LINK_LENGTH_1, env.LINK_MOI, env.dt = value["link_length"], value["link_moment"], value["time_step"]
    env.LINK_MASS_1, env.LINK_MASS_2 = value["link_mass"], value["link_mass"] * value["mass_ratio"]
    env.LINK_COM_POS_1, env.LINK_COM_POS_2 = value["centre_1"], value["centre_2"]
    env.AVAIL_TORQUE = [-value["torque"], 0.0, value["torque"]]
    return env


def assert_same_angles(got, expected, tolerance: float) -> None:
    """Angles modulo a full turn, then speeds."""
    off = np.asarray(got) - np.asarray(expected)
    off[:2] = (off[:2] + math.pi) % (2 * math.pi) - math.pi
    np.testing.assert_allclose(off, 0, atol=tolerance)


def test_step_equals_gymnasium_at_any_constants_that_it_has():
    count = 1000
    family = Acrobot(**SHARED)
    task, state, action = random_rows(family, count)
    envs = [gymnasium_of(task, i) for i in range(count)]
    after, reward, terminated = family.step(task, state, action)
    got, seen = torch.stack([after[name] for name in NAMES], -1), family.observe(task, after)
    ends = clipped = 0
    for i, env in enumerate(envs):
        env.state = np.array([state[name][i].item() for name in NAMES])
        observation, gain, ended, _, _ = env.step(action[i].item())
        assert_same_angles(got[i].numpy(), env.state, 1e-10)
        np.testing.assert_allclose(seen[i].numpy(), observation, rtol=1e-6, atol=1e-6)
        assert (reward[i].item(), terminated[i].item()) == (gain, ended)
        ends += ended
        clipped += abs(env.state[2]) == 4 * math.pi or abs(env.state[3]) == 9 * math.pi
    assert 0 < ends < count and 0 < clipped < count  # both outcomes were seen, and the speed limits


def test_an_episode_to_the_goal_equals_gymnasiums():
    family = Acrobot()
    task = doubles(family.sample(1, generator=seeded()))
    env = gymnasium_of(task, 0)
    first, _ = env.reset(seed=1)
    state = {name: torch.tensor([float(value)]).double() for name, value in zip(NAMES, env.state, strict=True)}
    np.testing.assert_allclose(family.observe(task, state)[0].numpy(), first, rtol=1e-6, atol=1e-6)
    steps, ended = 0, False
    while steps < family.horizon and not ended:
        steps += 1
        action = 1 + int(state["theta_2_dot"].sign())  # push along with the lower link
        observation, gain, ended, _, _ = env.step(action)
        state, reward, terminated = family.step(task, state, torch.tensor([action]))
        np.testing.assert_allclose(family.observe(task, state)[0].numpy(), observation, rtol=1e-6, atol=1e-6)
        assert (reward.item(), terminated.item()) == (gain, ended)
    assert ended and reward.item() == 0.0 and 20 < steps < 200


def test_default_constants_and_spaces_are_gymnasiums():
    env, family = AcrobotEnv(), Acrobot()
    default = {name: parameter.default for name, parameter in Acrobot.parameters.items()}
    assert env.LINK_LENGTH_1 == default["link_length"]
    assert (env.LINK_MASS_1, env.LINK_MASS_2) == (default["link_mass"], default["link_mass"] * default["mass_ratio"])
    assert (env.LINK_COM_POS_1, env.LINK_COM_POS_2) == (default["centre_1"], default["centre_2"])
    assert (env.LINK_MOI, 1.0) == (default["link_moment"], default["moment_ratio"])
    assert (env.dt, max(env.AVAIL_TORQUE)) == (default["time_step"], default["torque"])
    assert family.observation_space == env.observation_space
    assert family.action_space == env.action_space
    assert family.horizon == gymnasium.spec("Acrobot-v1").max_episode_steps


def test_the_lower_links_length_matters_to_gymnasium_neither():
    # Why there is no such constant: one that changes nothing would pass for a task.
    ends = []
    for length in (1.0, 3.0):
        env = AcrobotEnv()
        env.LINK_LENGTH_2, env.state = length, np.array([0.3, -0.2, 1.0, 2.0])
        ends.append(env.step(2)[0])
    assert np.array_equal(*ends)


def trajectory(family: Acrobot, steps: int = 5) -> torch.Tensor:
    task = doubles(family.sample(1, generator=seeded()))
    state = {name: torch.full((1,), 0.4, dtype=torch.float64) for name in NAMES}
    for _ in range(steps):
        state, reward, _ = family.step(task, state, torch.full((1,), 2))
    return torch.cat((family.observe(task, state), reward[:, None]), -1)


@pytest.mark.parametrize("name", Acrobot.parameters)
def test_each_constant_alone_changes_the_trajectory(name):
    value = {"polarity": -1.0, "goal_height": -1.9}.get(name, 1.5 * Acrobot.parameters[name].default)
    assert (trajectory(Acrobot(**{name: value})) - trajectory(Acrobot())).abs().max() > 1e-3


def energy(task, state) -> torch.Tensor:
    """Of two rigid links, from the velocities of their centres of mass and their turning."""
    first, both = state["theta_1"], state["theta_1"] + state["theta_2"]
    spin_1, spin_2 = state["theta_1_dot"], state["theta_1_dot"] + state["theta_2_dot"]
    mass_1, mass_2 = task["link_mass"], task["link_mass"] * task["mass_ratio"]
    length, centre_1, centre_2 = task["link_length"], task["centre_1"], task["centre_2"]
    right = length * spin_1 * first.cos() + centre_2 * spin_2 * both.cos()
    up = length * spin_1 * first.sin() + centre_2 * spin_2 * both.sin()
    moving = mass_1 * (centre_1 * spin_1) ** 2 + mass_2 * (right**2 + up**2)
    turning = task["link_moment"] * (spin_1**2 + task["moment_ratio"] * spin_2**2)
    height_1 = -centre_1 * first.cos()
    height_2 = -length * first.cos() - centre_2 * both.cos()
    return (moving + turning) / 2 + task["gravity"] * (mass_1 * height_1 + mass_2 * height_2)


def test_energy_changes_by_the_work_of_the_motor():
    # The independent route for gravity and the moments' ratio, which Gymnasium cannot vary.
    family = Acrobot(**{**SHARED, **OURS, "time_step": 1e-3})
    task, state, action = random_rows(family, 200)
    state = {name: 0.3 * values for name, values in state.items()}
    start, work = energy(task, state), torch.zeros(200, dtype=torch.float64)
    for _ in range(100):
        after = family.step(task, state, action).state
        turned = torch.remainder(after["theta_2"] - state["theta_2"] + math.pi, 2 * math.pi) - math.pi
        work += task["polarity"] * task["torque"] * (action - 1) * turned
        state = after
    torch.testing.assert_close(energy(task, state) - start, work, rtol=0, atol=1e-6)
    assert work.abs().max() > 0.1


def test_goal_is_a_height_of_the_tip():
    family = Acrobot(goal_height=Choice((-0.5, 0.5)), time_step=1e-5)
    task, state, _ = random_rows(family, 500)
    still = {name: values * ("dot" not in name) for name, values in state.items()}
    after, reward, terminated = family.step(task, still, torch.ones(500))
    height = -after["theta_1"].cos() - (after["theta_1"] + after["theta_2"]).cos()
    assert torch.equal(terminated, height > task["goal_height"])
    assert torch.equal(reward, torch.where(terminated, 0.0, -1.0).double())
    assert 0 < int(terminated.sum()) < 500


def test_polarity_mirrors_the_action():
    family = Acrobot()
    task, state, action = random_rows(family, 20)
    mirrored = family.step({**task, "polarity": -task["polarity"]}, state, 2 - action).state
    for name, values in family.step(task, state, action).state.items():
        assert torch.equal(values, mirrored[name])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64])
def test_any_action_dtype_gives_the_same_step(dtype):
    family = Acrobot()
    task, state, action = random_rows(family, 8)
    expected, got = (family.step(task, state, a).state["theta_2_dot"] for a in (action, action.to(dtype)))
    assert got.dtype == torch.float64
    assert torch.equal(expected, got)


def test_batched_rows_equal_single_rows_and_vmap():
    family = Acrobot(**SHARED, **OURS)
    task = doubles(family.sample(4, generator=seeded(2)))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (4, 3), generator=seeded(3))
    action = torch.randint(3, (4, 3), generator=seeded(4))
    batched = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    for t in range(4):
        for n in range(3):
            one = {name: values[t, n] for name, values in state.items()}
            single = family.step({name: values[t] for name, values in task.items()}, one, action[t, n])
            assert (single.reward, single.terminated) == (batched.reward[t, n], batched.terminated[t, n])
            for name in NAMES:
                torch.testing.assert_close(single.state[name], batched.state[name][t, n], rtol=0, atol=1e-13)
                torch.testing.assert_close(mapped[0][name], batched.state[name], rtol=0, atol=1e-13)


def test_step_leaves_its_inputs_alone_and_reset_leaves_the_task_alone():
    family = Acrobot(**SHARED)
    task, state, action = random_rows(family, 5)
    before = {name: values.clone() for name, values in {**task, **state}.items()}
    family.reset(task, (5,), generator=seeded())
    family.step(task, state, action)
    assert all(torch.equal(before[name], values) for name, values in {**task, **state}.items())


def test_reset_is_uniform_and_a_function_of_the_generator():
    family = Acrobot()
    task = {name: values[:, None] for name, values in family.sample(4, generator=seeded()).items()}
    state, again = (family.reset(task, (4, 5000), generator=seeded(7)) for _ in range(2))
    for name in NAMES:
        assert torch.equal(state[name], again[name])
        assert state[name].abs().max() <= 0.1
        assert state[name].mean().item() == pytest.approx(0, abs=2e-3)
        assert state[name].std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert family.observe(task, state).shape == (4, 5000, 6)


def test_global_generators_are_untouched():
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    family = Acrobot(**SHARED, **OURS)
    task = family.sample(3, generator=seeded())
    family.step(task, family.reset(task, (3,), generator=seeded()), torch.ones(3))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


@given(seed=st.integers(0, 2**32), ends=st.booleans())
@settings(max_examples=20, deadline=None)
def test_random_tasks_and_actions_stay_in_the_observation_space_and_between_the_references(seed, ends):
    family = Acrobot(20, **(ENDS if ends else WHOLE))
    generator = seeded(seed)
    task = family.sample(64, generator=generator)
    state, total = family.reset(task, (64,), generator=generator), torch.zeros(64)
    alive = torch.ones(64, dtype=torch.bool)
    for _ in range(family.horizon):
        assert all(family.observation_space.contains(row) for row in family.observe(task, state).numpy())
        state, reward, terminated = family.step(task, state, torch.randint(3, (64,), generator=generator))
        total, alive = total + alive * reward, alive & ~terminated
    bounds = family.references(task)
    assert bool((total >= bounds["floor"]).all() and (total <= bounds["ceiling"]).all())


def test_doing_nothing_returns_the_floor():
    family = Acrobot(100, **{**SHARED, "gravity": Range(3, 15), "time_step": Range(0.02, 0.1)})
    task = family.sample(300, generator=seeded())
    state, total = family.reset(task, (300,), generator=seeded(1)), torch.zeros(300)
    for _ in range(family.horizon):
        state, reward, terminated = family.step(task, state, torch.ones(300))
        assert not bool(terminated.any())
        total += reward
    assert torch.equal(total, family.references(task)["floor"])


def test_packers_ranges_and_splits():
    bench = acrobot_packer()
    assert bench.family.horizon == 500
    train, beyond = (bench.sample(split, 1000, generator=seeded()) for split in ("train", "extrapolation"))
    for name in ("link_length", "link_mass", "link_moment"):
        assert 0.75 <= train[name].min() and train[name].max() <= 1.25
        assert bool((((beyond[name] <= 0.75) & (beyond[name] >= 0.5)) | (beyond[name] >= 1.25)).all())
        assert beyond[name].max() <= 1.5
    assert bench.sample("default", 2, generator=seeded())["link_mass"].tolist() == [1.0, 1.0]
    assert not bool(bench.is_training(beyond).any()) and bool(bench.is_training(train).all())
    assert acrobot_packer(100).family.horizon == 100
