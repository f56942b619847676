"""CartPole against Gymnasium and against a scalar integrator written from the published equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from envs import CartPole, Choice, Range

NAMES = ("x", "x_dot", "theta", "theta_dot")
WIDE = {
    "gravity": Range(1, 20),
    "cart_mass": Range(0.2, 5),
    "pole_mass": Range(0.02, 2),
    "half_length": Range(0.1, 2),
    "force_magnitude": Range(0.5, 30),
    "time_step": Range(0.005, 0.05),
}
FRICTION = {"cart_friction": Range(0.1, 2), "pole_friction": Range(0.001, 0.1), "polarity": Choice((-1.0, 1.0))}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(family: CartPole, count: int, seed: int = 0):
    generator = seeded(seed)
    task = {name: values.double() for name, values in family.sample(count, generator=generator).items()}
    spread = torch.tensor([3.0, 3.0, 0.3, 3.0], dtype=torch.float64)
    draws = (2 * torch.rand(count, 4, generator=generator, dtype=torch.float64) - 1) * spread
    state = dict(zip(NAMES, draws.unbind(-1), strict=True))
    return task, state, torch.randint(2, (count,), generator=generator)


def row(tree, index):
    return {name: values[index] for name, values in tree.items()}


def scalar_step(task: dict[str, float], state: tuple[float, ...], action: int) -> tuple[float, ...]:
    """Barto, Sutton & Anderson (1983), appendix, term by term as printed; polarity added."""
    x, x_dot, theta, theta_dot = state
    g, m_c, m, l = task["gravity"], task["cart_mass"], task["pole_mass"], task["half_length"]  # noqa: E741
    force = (task["force_magnitude"] if action == 1 else -task["force_magnitude"]) * task["polarity"]
    sign = (x_dot > 0) - (x_dot < 0)
    mu_c, mu_p = task["cart_friction"], task["pole_friction"]
    bracket = (-force - m * l * theta_dot**2 * math.sin(theta) + mu_c * sign) / (m_c + m)
    top = g * math.sin(theta) + math.cos(theta) * bracket - mu_p * theta_dot / (m * l)
    theta_acc = top / (l * (4 / 3 - m * math.cos(theta) ** 2 / (m_c + m)))
    swing = m * l * (theta_dot**2 * math.sin(theta) - theta_acc * math.cos(theta))
    x_acc = (force + swing - mu_c * sign) / (m_c + m)
    tau = task["time_step"]
    return x + tau * x_dot, x_dot + tau * x_acc, theta + tau * theta_dot, theta_dot + tau * theta_acc


def gymnasium_step(task: dict[str, float], state: tuple[float, ...], action: int):
    env = CartPoleEnv()
    env.gravity, env.masscart, env.masspole = task["gravity"], task["cart_mass"], task["pole_mass"]
    env.length, env.force_mag, env.tau = task["half_length"], task["force_magnitude"], task["time_step"]
    env.total_mass = env.masscart + env.masspole  # Gymnasium computes these two in its constructor only
    env.polemass_length = env.masspole * env.length
    env.state = np.array(state)
    _, reward, terminated, _, _ = env.step(action)
    return env.state, reward, terminated


def test_step_equals_gymnasium_without_friction():
    count = 1500
    family = CartPole(**WIDE)
    task, state, action = random_rows(family, count)
    after, reward, terminated = family.step(task, state, action)
    got = torch.stack([after[name] for name in NAMES], -1)
    ends = 0
    for i in range(count):
        constants = {name: values[i].item() for name, values in task.items()}
        expected, gain, ended = gymnasium_step(
            constants, tuple(state[name][i].item() for name in NAMES), action[i].item()
        )
        np.testing.assert_allclose(got[i].numpy(), expected, rtol=1e-12, atol=1e-12)
        assert (reward[i].item(), terminated[i].item()) == (gain, ended)
        ends += ended
    assert 0 < ends < count  # both outcomes were seen


def test_step_equals_scalar_integrator_with_friction_and_polarity():
    family = CartPole(**WIDE, **FRICTION)
    task, state, action = random_rows(family, 300, seed=1)
    after = family.step(task, state, action).state
    for i in range(300):
        constants = {name: values[i].item() for name, values in task.items()}
        expected = scalar_step(constants, tuple(state[name][i].item() for name in NAMES), action[i].item())
        np.testing.assert_allclose([after[name][i].item() for name in NAMES], expected, rtol=1e-12, atol=1e-12)


def trajectory(family: CartPole, steps: int = 5) -> torch.Tensor:
    task = {name: values.double() for name, values in family.sample(1, generator=seeded()).items()}
    state = {name: torch.full((1,), 0.04, dtype=torch.float64) for name in NAMES}
    for _ in range(steps):
        state = family.step(task, state, torch.ones(1)).state
    return family.observe(task, state)


@pytest.mark.parametrize("name", CartPole.parameters)
def test_each_constant_alone_changes_the_trajectory(name):
    changed = {"cart_friction": 0.5, "pole_friction": 0.01, "polarity": -1.0}
    value = changed.get(name, 1.5 * CartPole.parameters[name].default)
    difference = (trajectory(CartPole(**{name: value})) - trajectory(CartPole())).abs().max()
    assert difference > 1e-4


def test_default_constants_are_gymnasiums():
    env = CartPoleEnv()
    default = {name: parameter.default for name, parameter in CartPole.parameters.items()}
    assert (env.gravity, env.masscart, env.masspole) == tuple(default[n] for n in ("gravity", "cart_mass", "pole_mass"))
    assert (env.length, env.force_mag, env.tau) == tuple(
        default[n] for n in ("half_length", "force_magnitude", "time_step")
    )
    assert CartPole().observation_space == env.observation_space
    assert CartPole().action_space == env.action_space
    assert CartPole().horizon == 500


def energy(task, state) -> torch.Tensor:
    """Mechanical energy of cart and uniform rod, from their velocities."""
    m, l = task["pole_mass"], task["half_length"]  # noqa: E741
    cart = (task["cart_mass"] + m) * state["x_dot"].square() / 2
    cross = m * l * state["x_dot"] * state["theta_dot"] * state["theta"].cos()
    return (
        cart + cross + 2 / 3 * m * l**2 * state["theta_dot"].square() + m * task["gravity"] * l * state["theta"].cos()
    )


@pytest.mark.parametrize("friction", ["cart_friction", "pole_friction"])
def test_friction_dissipates_energy(friction):
    free = CartPole(force_magnitude=0.0, time_step=1e-5)
    rough = CartPole(force_magnitude=0.0, time_step=1e-5, **{friction: 0.05})
    change = []
    for family in (free, rough):
        task = {name: values.double() for name, values in family.sample(1, generator=seeded()).items()}
        start = {name: torch.tensor([v], dtype=torch.float64) for name, v in zip(NAMES, (0, 0.5, 0.1, 1), strict=True)}
        state = start
        for _ in range(100):
            state = family.step(task, state, torch.zeros(1)).state
        change.append((energy(task, state) - energy(task, start)).item())
    power = {"cart_friction": 0.05 * 0.5, "pole_friction": 0.05 * 1.0}[friction]  # c |x'| and p theta'^2, in watts
    assert change[1] - change[0] == pytest.approx(-power * 100e-5, rel=0.05)


def test_pole_falls_to_the_side_it_leans_and_polarity_mirrors():
    right, left = trajectory(CartPole()), trajectory(CartPole(polarity=-1.0))
    assert right[0, 1] > 0.5 > -0.5 > left[0, 1]  # the push moves the cart its way
    assert right[0, 3] < left[0, 3]  # and the pole the other


def test_batched_rows_equal_single_rows_and_vmap():
    family = CartPole(**WIDE, **FRICTION)
    tasks, episodes = 4, 3
    task = {name: values.double() for name, values in family.sample(tasks, generator=seeded(2)).items()}
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (tasks, episodes), generator=seeded(3))
    action = torch.randint(2, (tasks, episodes), generator=seeded(4))
    batched = family.step(column, state, action)
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    for name in NAMES:
        torch.testing.assert_close(mapped[0][name], batched.state[name], rtol=0, atol=1e-14)
        for t in range(tasks):
            for n in range(episodes):
                single = family.step(row(task, t), row(row(state, t), n), action[t, n]).state
                torch.testing.assert_close(single[name], batched.state[name][t, n], rtol=0, atol=1e-14)


def test_each_row_has_its_own_task():
    family = CartPole(**WIDE)
    task, state, action = random_rows(family, 6)
    heavier = {**task, "cart_mass": task["cart_mass"] + torch.eye(6, dtype=torch.float64)[2]}
    same = family.step(task, state, action).state["x_dot"] == family.step(heavier, state, action).state["x_dot"]
    assert same.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64])
def test_any_action_dtype_gives_the_same_step(dtype):
    family = CartPole()
    task, state, action = random_rows(family, 8)
    expected, got = (family.step(task, state, a).state["x_dot"] for a in (action, action.to(dtype)))
    assert got.dtype == torch.float64
    assert torch.equal(expected, got)


def test_step_leaves_its_inputs_alone_and_reset_leaves_the_task_alone():
    family = CartPole(**WIDE)
    task, state, action = random_rows(family, 5)
    before = {**{k: v.clone() for k, v in task.items()}, **{k: v.clone() for k, v in state.items()}}
    family.reset(task, (5,), generator=seeded())
    family.step(task, state, action)
    assert all(torch.equal(before[name], values) for name, values in {**task, **state}.items())


def test_reset_is_uniform_and_a_function_of_the_generator():
    family = CartPole()
    task = {name: values[:, None] for name, values in family.sample(4, generator=seeded()).items()}
    state = family.reset(task, (4, 5000), generator=seeded(7))
    again = family.reset(task, (4, 5000), generator=seeded(7))
    for name in NAMES:
        assert torch.equal(state[name], again[name])
        assert state[name].abs().max() <= 0.05
        assert state[name].mean().item() == pytest.approx(0, abs=1e-3)
        assert state[name].std().item() == pytest.approx(0.1 / math.sqrt(12), rel=0.02)
    assert family.observe(task, state).shape == (4, 5000, 4)


def test_global_generators_are_untouched():
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    family = CartPole(**WIDE, **FRICTION)
    task = family.sample(3, generator=seeded())
    state = family.reset(task, (3,), generator=seeded())
    family.step(task, state, torch.ones(3))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


def test_references_are_per_task():
    family = CartPole(123)
    bounds = family.references(family.sample(3, generator=seeded()))
    assert bounds["ceiling"].tolist() == [123.0] * 3
    assert bounds["floor"].tolist() == [0.0] * 3
