"""The SB3 VecEnv against SB3's own DummyVecEnv over single environments, and under its PPO."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Countdown, seeded
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from envs import CartPole, Navigation, Range
from envs.adapters import FamilyEnv, GymnasiumFamily
from metarl.sb3 import TaskVecEnv


def test_every_step_equals_sb3s_own_vec_env_on_a_family_without_chance() -> None:
    family = Navigation(horizon=7, box=0.15)
    task = family.sample(4, generator=seeded(0))
    rows = [{name: value[i].item() for name, value in task.items()} for i in (0, 0, 1, 1, 2, 2, 3, 3)]
    ours = TaskVecEnv(family, task, episodes=2)
    theirs = DummyVecEnv([lambda row=row: FamilyEnv(family, row) for row in rows])
    np.testing.assert_allclose(ours.reset(), theirs.reset())
    draw, ends = np.random.default_rng(0), []
    for _ in range(60):
        action = draw.uniform(-1, 1, (8, 2)).astype(np.float32)
        mine, yours = ours.step(action), theirs.step(action)
        for a, b in zip(mine[:3], yours[:3], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=1e-6)
        for a, b in zip(mine[3], yours[3], strict=True):
            assert a.keys() == b.keys() and a["TimeLimit.truncated"] == b["TimeLimit.truncated"]
            if "terminal_observation" in b:
                np.testing.assert_allclose(a["terminal_observation"], b["terminal_observation"], atol=1e-6)
                ends.append(b["TimeLimit.truncated"])
    assert set(ends) == {True, False}  # some by the clock, some by the rules


def test_rows_end_alone_and_the_next_episode_starts_clean() -> None:
    class Clock(Countdown):
        """Every row lives ``life`` steps."""

        def reset(self, task, rows, *, generator):
            return {**super().reset(task, rows, generator=generator), "life": task["life"].expand(rows).clone()}

    env = TaskVecEnv(Clock(horizon=3), {"life": torch.tensor([2.0, 9.0])})
    env.reset()
    seen, dones, last = [], [], []
    for _ in range(6):
        observation, reward, done, infos = env.step(np.zeros((2, 1), np.float32))
        seen.append(observation[:, 0].tolist())
        dones.append(done.tolist())
        last += [(i, float(info["terminal_observation"][0]), info["TimeLimit.truncated"])
                 for i, info in enumerate(infos) if "terminal_observation" in info]  # fmt: skip
        assert np.isfinite(reward).all() or not done[0]
    assert dones == [[False, False], [True, False], [False, True], [True, False], [False, False], [True, True]]
    assert seen == [[1, 1], [0, 2], [1, 0], [0, 1], [1, 2], [0, 0]]
    assert [(i, late) for i, _, late in last] == [(0, False), (1, True), (0, False), (0, False), (1, True)]
    assert [x for i, x, _ in last if i == 1] == [3.0, 3.0]


@pytest.mark.parametrize("name", ["cartpole", "navigation"])
def test_ppo_trains_on_it(name: str) -> None:
    family = CartPole(20, half_length=Range(0.2, 1.0)) if name == "cartpole" else Navigation(10)
    env = VecMonitor(TaskVecEnv(family, family.sample(4, generator=seeded(0)), episodes=2, seed=3))
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(256)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert model.num_timesteps == 256 and len(model.ep_info_buffer) > 0
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8)
    assert np.isfinite(mean)


def test_seeds_tasks_and_attributes() -> None:
    family = CartPole(gravity=Range(5.0, 15.0))
    task = family.sample(2, generator=seeded(0))
    env = TaskVecEnv(family, task, episodes=3, seed=1)
    first = env.reset()
    assert not np.array_equal(env.reset(), first)
    env.seed(1)
    assert np.array_equal(env.reset(), first)
    assert env.get_attr("gravity") == task["gravity"].repeat_interleave(3).tolist()
    assert env.get_attr("gravity", [0, 5]) == task["gravity"].tolist()
    env.set_task({**task, "gravity": torch.tensor([1.0, 2.0])})
    assert env.get_attr("gravity", 0) == [task["gravity"][0].item()]  # until the next reset
    env.reset()
    assert env.task["gravity"].tolist() == [1.0] * 3 + [2.0] * 3


def test_mistakes_are_named() -> None:
    task = CartPole().sample(2, generator=seeded(0))
    env = TaskVecEnv(CartPole(), task)
    with pytest.raises(RuntimeError, match="reset and step_async"):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="at least one task"):
        TaskVecEnv(CartPole(), task, episodes=0)
    with pytest.raises(ValueError, match="expected 2 tasks, got 3"):
        env.set_task(CartPole().sample(3, generator=seeded(0)))
    with pytest.raises(AttributeError, match="no 'mass'"):
        env.get_attr("mass")
    with pytest.raises(AttributeError, match="set_task"):
        env.set_attr("gravity", 1.0)
    with pytest.raises(AttributeError, match="no method"):
        env.env_method("fly")
    env.set_options({"task": 3})
    with pytest.raises(ValueError, match="set_task"):
        env.reset()
    live = GymnasiumFamily("CartPole-v1", {"gravity": 9.8}, horizon=50)
    env = TaskVecEnv(live, live.sample(2, generator=seeded(0)))
    env.reset()
    with pytest.raises(RuntimeError, match="later reset|at once"):
        for action in np.random.default_rng(0).integers(0, 2, (200, 2)):
            env.step(action)
