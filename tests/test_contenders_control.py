"""Control theory as a contender: the regulator equals scipy's, and balances poles after a few failed episodes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy.linalg import solve_discrete_are

from experiments.contenders import contender
from experiments.contenders import control as control_module
from experiments.contenders.budget import refuse_unequal
from experiments.contenders.control import EFFORT, control, gains, possible, riccati
from experiments.contenders.learners import meta_trained
from experiments.evaluate import Protocol
from experiments.presets import PRESETS
from metarl.distributions import Categorical
from metarl.dynamics import LinearDynamics
from metarl.rollouts import collect
from metarl.types import Batch
from tests.helpers import make_batch, seeded

SMALL = {"horizon": 100, "hidden": (8,), "tasks": 3, "episodes": 2, "query_episodes": 2, "env_steps": 100, "seed": 5}
POLE, WALK = (PRESETS[name][1].model_copy(update=SMALL) for name in ("cartpole-all", "navigation-fixed"))
HELD_OUT = Protocol("test", tasks=20, steps=1, episodes=20, score_episodes=3)


def test_gains_are_those_of_the_algebraic_riccati_equation() -> None:
    drift, push, late = (torch.randn(3, size, generator=seeded(0)).double() for size in (3, 2, 2))
    cost = torch.diag(torch.tensor([1.0, 2.0, 0.5])).double()
    move, act = np.zeros((5, 5)), np.zeros((5, 2))
    move[:3, :3], move[:3, 3:], act[:3], act[3:] = np.eye(3) + drift.numpy(), late, push, np.eye(2)
    stage = np.zeros((5, 5))
    stage[:3, :3] = cost
    solved = solve_discrete_are(move, act, stage, EFFORT * np.eye(2))
    expected = np.linalg.solve(EFFORT * np.eye(2) + act.T @ solved @ act, act.T @ solved @ move)
    found = riccati(LinearDynamics(drift, push, late), cost, horizon=400)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert np.abs(np.linalg.eigvals(move)).max() > 1.0 > np.abs(np.linalg.eigvals(move - act @ expected)).max()


def test_with_one_step_left_a_push_is_worth_what_it_does_at_once() -> None:
    fitted = LinearDynamics(torch.zeros(1, 1), torch.tensor([[2.0]]), torch.tensor([[5.0]]))
    found = riccati(fitted, torch.ones(1, 1).double(), horizon=1)
    expected = torch.tensor([[2.0, 10.0]]).double() / (EFFORT + 4.0)  # of x + 2 u + 5 u', squared, and the effort
    torch.testing.assert_close(found, expected)


def test_the_nearest_action_there_is() -> None:
    wanted = torch.tensor([[0.25, -0.5], [-3.0, 3.0]])
    assert possible(wanted, Discrete(2)).mode().tolist() == [0, 1]
    within = possible(wanted, Box(-1.0, 2.0, (2,))).mode()
    assert within.tolist() == [[0.25, -0.5], [-1.0, 2.0]]


def test_poles_seen_to_fall_twenty_times_are_balanced_delays_or_not() -> None:
    found = contender("lqr").train(POLE)(HELD_OUT)
    before, after = np.asarray(found["sampled"]).T
    assert before.max() < 60.0 and after.min() == 100.0
    assert len(set(found["task"]["delay"])) == len(set(found["task"]["polarity"])) == 2


class Ramp:
    """Observes 1 and pays the action; ends after three steps, and pays on."""

    action_space = Box(-9.0, 9.0, (1,))
    horizon = 5

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"age": torch.zeros(rows)}

    def observe(self, task: Any, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.ones(*state["age"].shape, 1)

    def step(self, task: Any, state: dict[str, torch.Tensor], action: torch.Tensor) -> Any:
        age = state["age"] + 1.0
        return {"age": age}, action.squeeze(-1), age >= 3.0


def test_a_push_answers_the_observation_and_the_push_before_until_the_end() -> None:
    family: Any = Ramp()
    gain = torch.tensor([[[-1.0, -1.0]]]).double()  # 1 + the push before: 1, 2, 3
    found = control(gain, family, {"none": torch.zeros(1)}, 2, generator=seeded(0))
    assert found.tolist() == [[6.0, 6.0]]


def falling() -> Batch:
    seen = torch.randn(20, 4, 2, generator=seeded(1)).double()
    return make_batch(
        torch.ones(20, 4).double(),
        observation=seen,
        last_observation=seen[-1],
        action=torch.randint(0, 2, (20, 4), generator=seeded(2)),
        distribution=Categorical(torch.zeros(20, 4, 2).double()),
    )


def test_the_unit_of_a_sensor_does_not_matter() -> None:
    batch, unit = falling(), torch.tensor([10.0, -0.1]).double()
    other = batch._replace(observation=batch.observation * unit, last_observation=batch.last_observation * unit)
    here, there = gains(batch, horizon=50), gains(other, horizon=50)
    assert float(here[:, :2].abs().min()) > 1e-6
    torch.testing.assert_close(there, torch.cat([here[:, :2] / unit, here[:, 2:]], -1), rtol=1e-6, atol=1e-12)


def test_step_k_has_k_times_the_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counting(*given: Any, **named: Any) -> Batch:
        asked.append(given[4])
        return collect(*given, **named)

    monkeypatch.setattr(control_module, "collect", counting)
    contender("lqr").train(POLE)(Protocol("test", tasks=2, steps=2, episodes=3, score_episodes=5))
    assert asked == [5, 5, 3, 6]


def test_a_sensor_that_is_always_zero_has_finite_gains() -> None:
    batch = falling()
    batch.observation[..., 1], batch.last_observation[..., 1] = 0.0, 0.0
    assert bool(gains(batch, horizon=50).isfinite().all())


def test_the_layout_is_that_of_learners_the_same_again_and_nothing_is_trained() -> None:
    protocol = Protocol("test", tasks=2, steps=2, episodes=2, score_episodes=2)
    found, ours = contender("lqr").train(POLE)(protocol), meta_trained(POLE)(protocol)
    assert found.keys() == ours.keys() and found["rule"] == "lqr"
    for field in ("sampled", "mode", "adaptation_steps", "adaptation_episodes"):
        assert np.shape(found[field]) == (2, 3) and np.isfinite(found[field]).all()
    assert found["adaptation_episodes"][0] == [0.0, 2.0, 4.0]
    refuse_unequal({"ours": [ours], "lqr": [found]}, budget=100, episodes=2)
    assert found["training_env_steps"] == 0
    assert found == contender("lqr").train(POLE)(protocol) | {"seconds": found["seconds"]}


def test_where_zero_is_not_the_aim_it_stays_there_all_the_same() -> None:
    found = contender("lqr").train(WALK)(HELD_OUT)
    goals = zip(found["task"]["goal_x"], found["task"]["goal_y"], strict=True)
    for (_, after), (x, y) in zip(found["sampled"], goals, strict=True):
        assert after == pytest.approx(-100.0 * math.hypot(x, y), rel=1e-3)
