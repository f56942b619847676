"""Navigation against hand-computed steps, a brute-force walker and published means."""

from __future__ import annotations

import pytest
import torch

from envs import Navigation, Range

VARYING = {"start_x": Range(-0.5, 0.5), "start_y": Range(-0.5, 0.5)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_step(family: Navigation, start, goal, action):
    values = dict(zip(("start_x", "start_y", "goal_x", "goal_y"), (*start, *goal), strict=True))
    task = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}
    state = family.reset(task, (1,), generator=seeded())
    after, reward, terminated = family.step(task, state, torch.tensor([action], dtype=torch.float64))
    return family.observe(task, after)[0].tolist(), reward.item(), terminated.item()


@pytest.mark.parametrize(
    ("action", "vector", "place"),
    [
        ("normalized", (1.0, -0.5), (0.1, -0.05)),
        ("normalized", (7.0, -7.0), (0.1, -0.1)),
        ("raw", (0.05, -0.02), (0.05, -0.02)),
        ("raw", (0.5, -0.5), (0.1, -0.1)),
    ],
)
def test_both_action_conventions_by_hand(action, vector, place):
    got, _, _ = one_step(Navigation(action=action), (0, 0), (0.4, 0.3), vector)
    assert got == pytest.approx(place, abs=1e-12)


def test_action_spaces_state_the_convention():
    assert Navigation(action="normalized").action_space.high.tolist() == [1.0, 1.0]
    assert Navigation(action="raw").action_space.high.tolist() == pytest.approx([0.1, 0.1])
    assert Navigation().observation_space.shape == (2,)


@pytest.mark.parametrize(("reward", "expected"), [("distance", -0.5), ("squared", -0.25)])
def test_reward_is_of_the_position_after_the_move(reward, expected):
    _, got, _ = one_step(Navigation(reward=reward), (0, 0), (0.4, 0.3), (1.0, 0.0))
    # After (0, 0) -> (0.1, 0): offsets 0.3 and 0.3. Before the move the distance was 0.5.
    by_hand = {"distance": -(0.18**0.5), "squared": -0.18}[reward]
    assert got == pytest.approx(by_hand, abs=1e-12)
    _, still, _ = one_step(Navigation(reward=reward), (0, 0), (0.4, 0.3), (0.0, 0.0))
    assert still == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("box", "goal", "ends"),
    [
        (0.01, (0.109, 0.009), True),
        (0.01, (0.111, 0.0), False),  # one axis outside is outside
        (0.01, (0.1, 0.011), False),
        (0.05, (0.149, 0.049), True),
        (None, (0.1, 0.0), False),  # at the goal itself
    ],
)
def test_box_ends_the_episode_after_the_move(box, goal, ends):
    assert one_step(Navigation(box=box), (0, 0), goal, (1.0, 0.0))[2] is ends


def walk(family: Navigation, task, greedy: bool) -> torch.Tensor:
    """Return of stepping greedily or not at all, through ``step`` itself."""
    state = family.reset(task, task["goal_x"].shape, generator=seeded())
    total, alive = torch.zeros_like(task["goal_x"]), torch.ones_like(task["goal_x"])
    for _ in range(family.horizon):
        wish = torch.stack((task["goal_x"] - state["x"], task["goal_y"] - state["y"]), -1) * 10 * greedy
        state, reward, terminated = family.step(task, state, wish)
        total, alive = total + alive * reward, alive * ~terminated
    return total


@pytest.mark.parametrize("reward", ["distance", "squared"])
@pytest.mark.parametrize("box", [0.01, 0.2, None])
@pytest.mark.parametrize("ranges", [{}, VARYING], ids=["fixed", "varying"])
def test_references_equal_simulated_policies(reward, box, ranges):
    family = Navigation(reward=reward, box=box, **ranges)
    task = {name: values.double() for name, values in family.sample(500, generator=seeded(1)).items()}
    bounds = family.references(task)
    torch.testing.assert_close(bounds["ceiling"], walk(family, task, True), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds["floor"], walk(family, task, False), rtol=1e-9, atol=1e-9)
    assert bool((bounds["ceiling"] >= bounds["floor"]).all())


def test_no_random_policy_beats_the_ceiling():
    family = Navigation(horizon=12, **VARYING)
    task = {name: values.double() for name, values in family.sample(300, generator=seeded(2)).items()}
    ceiling, generator = family.references(task)["ceiling"], seeded(3)
    state = family.reset(task, (300,), generator=generator)
    total, alive = torch.zeros(300, dtype=torch.float64), torch.ones(300, dtype=torch.float64)
    for _ in range(family.horizon):
        toward = torch.stack((task["goal_x"] - state["x"], task["goal_y"] - state["y"]), -1) * 10
        noise = torch.randn(300, 2, generator=generator, dtype=torch.float64)
        state, reward, terminated = family.step(task, state, toward + 0.1 * noise)
        total, alive = total + alive * reward, alive * ~terminated
    assert bool((total <= ceiling + 1e-12).all())


@pytest.mark.parametrize(
    ("reward", "ranges", "ceiling", "floor"),
    [
        ("distance", {}, -0.504, -38.29),
        ("squared", {}, -0.133, -16.70),
        ("distance", VARYING, -1.182, -52.13),
        ("squared", VARYING, -0.509, -33.27),
    ],
)
def test_mean_references_over_the_protocols_tasks(reward, ranges, ceiling, floor):
    family = Navigation(reward=reward, **ranges)
    bounds = family.references(family.sample(100_000, generator=seeded(4)))
    assert bounds["ceiling"].mean().item() == pytest.approx(ceiling, rel=0.02)
    assert bounds["floor"].mean().item() == pytest.approx(floor, rel=0.01)


def test_goal_at_the_start_by_hand():
    task = {name: torch.zeros(1) for name in Navigation.parameters}
    assert Navigation().references(task)["floor"].item() == 0.0  # one step at the goal, then it ends
    near = {**task, "goal_x": torch.tensor([0.005])}
    assert Navigation().references(near)["floor"].item() == pytest.approx(-0.005)
    assert Navigation(box=None).references(near)["floor"].item() == pytest.approx(-0.5)


def test_each_row_has_its_own_start_and_goal():
    family = Navigation(**VARYING)
    task = family.sample(3, generator=seeded(5))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (3, 4), generator=seeded())
    assert torch.equal(state["x"], task["start_x"][:, None].expand(3, 4))
    after = family.step(column, state, torch.zeros(3, 4, 2))
    expected = -torch.hypot(task["start_x"] - task["goal_x"], task["start_y"] - task["goal_y"])
    torch.testing.assert_close(after.reward, expected[:, None].expand(3, 4))
    state["x"].add_(1)  # a state in use must not reach back into the task
    assert torch.equal(family.reset(column, (3, 4), generator=seeded())["x"][:, 0], task["start_x"])


def test_vmap_equals_broadcasting():
    family = Navigation(**VARYING)
    task = family.sample(3, generator=seeded(6))
    column = {name: values[:, None] for name, values in task.items()}
    state = family.reset(column, (3, 4), generator=seeded())
    action = torch.randn(3, 4, 2, generator=seeded(7))
    mapped = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))(task, state, action)
    torch.testing.assert_close(mapped[1], family.step(column, state, action).reward)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "sparse"}, "reward: expected one of distance, squared"),
        ({"action": "clipped"}, "action: expected one of normalized, raw"),
        ({"box": -0.1}, "box: expected a positive"),
        ({"box": float("nan")}, "box: expected a positive"),
        ({"goal_z": 1.0}, "goal_z.*did you mean 'goal_[xy]'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Navigation(**arguments)
