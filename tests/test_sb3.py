"""The SB3 VecEnv against SB3's own DummyVecEnv over single environments, and under PPO; its updates against ours."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Countdown, randomize, seeded
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from envs import CartPole, Navigation, Range, TaskBenchmark
from envs.adapters import FamilyEnv, GymnasiumFamily
from metarl import MLP, Advantages, Batch, CategoricalPolicy, GaussianPolicy, Learner, Plan, Policy, lvc
from metarl.baselines import Baseline, LinearBaseline
from metarl.rollouts import collect
from metarl.rules import MetaSGD
from metarl.sb3 import TaskVecEnv, adaptation_settings, from_ppo, to_ppo, train_on, with_learned_rates
from metarl.trees import map_leaves


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


def test_a_seed_is_for_the_next_reset_alone() -> None:
    family = CartPole()
    env = TaskVecEnv(family, family.sample(2, generator=seeded(0)), seed=1)
    env.seed(7)
    first, second = env.reset(), env.reset()
    env.seed(7)
    assert np.array_equal(env.reset(), first) and not np.array_equal(second, first)


def test_a_reset_in_the_middle_of_an_episode_starts_the_clock_again() -> None:
    family = Navigation(horizon=5, box=None)
    env = TaskVecEnv(family, family.sample(2, generator=seeded(0)))
    env.reset()
    for _ in range(3):
        env.step(np.zeros((2, 2), np.float32))
    env.reset()
    late = [env.step(np.zeros((2, 2), np.float32))[2].tolist() for _ in range(5)]
    assert late == [[False, False]] * 4 + [[True, True]]


def test_rows_start_again_where_the_generator_of_the_reset_goes_on() -> None:
    family = CartPole(horizon=9, half_length=Range(0.2, 1.0), force_magnitude=60.0)
    task = family.sample(3, generator=seeded(0))
    env, generator = TaskVecEnv(family, task, seed=4), seeded(4)
    starts = [*env.reset()]
    expected = [*family.observe(task, family.reset(task, (3,), generator=generator))]
    draw, together = np.random.default_rng(0), set()
    for _ in range(40):
        seen, _, done, _ = env.step(draw.integers(0, 2, 3))
        over = np.flatnonzero(done)
        if len(over):
            together.add(len(over))
            starts += [*seen[over]]
            theirs = {name: value[over] for name, value in task.items()}
            expected += [*family.observe(theirs, family.reset(theirs, (len(over),), generator=generator))]
    np.testing.assert_array_equal(np.stack(starts), torch.stack(expected).numpy())
    assert len(np.unique(np.stack(starts), axis=0)) == len(starts) > 12 and together >= {1, 2}  # no start comes twice


def test_mistakes_are_named() -> None:
    task = CartPole().sample(2, generator=seeded(0))
    env = TaskVecEnv(CartPole(), task)
    with pytest.raises(RuntimeError, match="expected earlier calls of reset and step_async"):
        env.step(np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        TaskVecEnv(CartPole(), task, episodes=0)
    with pytest.raises(TypeError, match="episodes: expected a whole number, got 1.5"):
        TaskVecEnv(CartPole(), task, episodes=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="advantages: expected advantages, such as plan.support, got a Plan"):
        adaptation_settings(Plan(), env, 10)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"env: expected an SB3 VecEnv, .*DummyVecEnv.*, got a FamilyEnv"):
        adaptation_settings(Advantages(), FamilyEnv(CartPole()), 10)  # type: ignore[arg-type]
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
    with pytest.raises(TypeError, match="GymnasiumFamily, which is live; use SB3's DummyVecEnv"):
        TaskVecEnv(live, live.sample(2, generator=seeded(0)))


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        (CartPole(), np.array([5, 1]), "integers from 0 to 1, got .5 1."),
        (CartPole(), np.array([-1, 1]), "integers from 0 to 1"),
        (CartPole(), np.array([0.5, 1.0]), "integers from 0 to 1"),
        (CartPole(), np.array(1), "shape .2,., got .."),
        (CartPole(), np.array([1]), "shape .2,., got .1,."),
        (CartPole(), np.array([[1], [1]]), "shape .2,., got .2, 1."),
        (Navigation(), np.full((2, 2), np.nan, np.float32), "finite numbers"),
        (Navigation(), np.full((2, 2), np.inf, np.float32), "finite numbers"),
        (Navigation(), np.full((2, 2), "a"), "finite numbers"),
        (Navigation(), np.zeros(2, np.float32), "shape .2, 2., got .2,."),
    ],
)
def test_actions_that_do_not_exist_are_refused_and_the_episode_goes_on(family: Any, wrong: Any, message: str) -> None:
    env = TaskVecEnv(family, family.sample(2, generator=seeded(0)))
    env.reset()
    with pytest.raises(ValueError, match=message) as caught:
        env.step(wrong)
    assert "\n" not in str(caught.value)
    right = np.zeros((2, *family.action_space.shape), family.action_space.dtype)
    assert np.isfinite(env.step(right)[0]).all()


def test_long_arrays_of_wrong_actions_are_told_in_one_line() -> None:
    env = TaskVecEnv(CartPole(), CartPole().sample(200, generator=seeded(0)))
    with pytest.raises(ValueError, match="0 to 1") as caught:
        env.step_async(np.arange(200))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


def test_actions_beyond_the_box_are_clipped_by_the_family() -> None:
    family = Navigation()
    env, other = (TaskVecEnv(family, family.sample(2, generator=seeded(0))) for _ in range(2))
    env.reset(), other.reset()
    bound = family.action_space.high.repeat(2).reshape(2, 2)
    np.testing.assert_array_equal(env.step(50 * bound)[0], other.step(bound.astype(np.float64))[0])


def test_constants_that_the_family_refuses_and_benchmarks_are_refused_at_once() -> None:
    task = CartPole().sample(2, generator=seeded(0))
    with pytest.raises(ValueError, match="cart_mass: expected"):
        TaskVecEnv(CartPole(), {**task, "cart_mass": torch.tensor([1.0, -1.0])})
    with pytest.raises(ValueError, match="'gravity' is missing"):
        TaskVecEnv(CartPole(), {name: value for name, value in task.items() if name != "gravity"})
    with pytest.raises(ValueError, match="cart_mass: expected"):
        TaskVecEnv(CartPole(), task).set_task({**task, "cart_mass": torch.tensor([1.0, -1.0])})
    benchmark: Any = TaskBenchmark("x", CartPole(gravity=Range(5.0, 15.0)))
    with pytest.raises(TypeError, match="expected a family, got a TaskBenchmark; for a benchmark, pass its .family"):
        TaskVecEnv(benchmark, task)


def test_fresh_tasks_come_with_new_episodes_and_to_those_rows_alone() -> None:
    drawn: list[int] = []

    def fresh(count: int) -> dict[str, torch.Tensor]:
        drawn.append(count)
        return {"life": torch.full((count,), float(10 * len(drawn)))}

    class Clock(Countdown):
        def reset(self, task, rows, *, generator):
            return {**super().reset(task, rows, generator=generator), "life": task["life"].expand(rows).clone()}

    env = TaskVecEnv(Clock(horizon=100), {"life": torch.tensor([2.0, 9.0])}, fresh=fresh)
    env.reset()
    for _ in range(9):
        env.step(np.zeros((2, 1), np.float32))
    assert drawn == [1, 1] and env.get_attr("life") == [10.0, 20.0]
    _, _, done, _ = env.step(np.zeros((2, 1), np.float32))
    assert not done.any()  # 8 of 10 steps and 1 of 20: nobody follows the old task


def setting(kind: str, rows: int = 6) -> tuple[Policy, TaskVecEnv]:
    policy: Policy
    family: Any
    if kind == "cartpole":
        family = CartPole(horizon=25)
        units = torch.tensor([0.125, 0.5, 0.0625, 1.0])  # powers of two: nothing is rounded on the way there and back
        policy = CategoricalPolicy(MLP(4, (8, 6), 2, activation=torch.tanh, input_scale=units, generator=seeded(0)))
    else:
        family = Navigation(horizon=10)
        policy = GaussianPolicy(MLP(2, (8, 6), 2, activation=torch.relu, generator=seeded(0)), 2, log_std=-0.5)
    randomize(policy, 1)
    return policy, TaskVecEnv(family, family.sample(1, generator=seeded(2)), episodes=rows, seed=3)


@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_parameters_come_back_and_act_as_the_model_they_were_trained_in(kind: str) -> None:
    policy, env = setting(kind)
    model = to_ppo(policy, policy.initial(), env, n_steps=8, batch_size=48, seed=0, device="cpu")
    back = from_ppo(policy, model)
    assert back.keys() == policy.initial().keys()
    for name, leaf in policy.initial().items():
        torch.testing.assert_close(back[name], leaf.detach(), rtol=0, atol=0)
    model.learn(48)
    trained = from_ppo(policy, model)
    assert not any(torch.equal(trained[name], back[name]) for name in trained)  # copies
    x = torch.randn(50, *env.observation_space.shape, generator=seeded(4))
    ours, theirs = policy(trained, x), model.policy.get_distribution(x)
    for action in (ours.sample(policy.noise((50,), generator=seeded(5))), ours.mode()):
        torch.testing.assert_close(theirs.log_prob(action), ours.log_prob(action), rtol=1e-6, atol=1e-6)


def test_the_floor_of_the_deviation_holds_inside_ppo() -> None:
    _, env = setting("navigation")
    policy = GaussianPolicy(MLP(2, (8,), 2, generator=seeded(0)), 2, log_std=-1.0, min_log_std=-1.5)
    params = {**policy.initial(), "log_std": torch.tensor([-4.0, -1.0])}
    model = to_ppo(policy, params, env, n_steps=8, batch_size=48, device="cpu")
    assert model.policy.log_std.tolist() == from_ppo(policy, model)["log_std"].tolist() == [-1.5, -1.0]
    x, action = (torch.randn(50, 2, generator=seeded(seed)) for seed in (1, 2))
    theirs = model.policy.get_distribution(x).log_prob(action)
    torch.testing.assert_close(theirs, policy(params, x).log_prob(action), rtol=1e-6, atol=1e-5)


def test_parameters_of_another_architecture_are_refused() -> None:
    policy, env = setting("navigation")
    other = PPO("MlpPolicy", env, n_steps=8, batch_size=48, device="cpu", policy_kwargs={"net_arch": [8, 5]})
    with pytest.raises(ValueError, match="expected a model with the policy's parameters .*; use one from to_ppo"):
        from_ppo(policy, other)


def rewards_told(env: TaskVecEnv) -> list[np.ndarray]:
    """Fills with what the environment pays at every step from now on, before SB3 adds anything to it."""
    told, step_wait = [], env.step_wait

    def watched() -> Any:
        outcome = step_wait()
        told.append(outcome[1].copy())
        return outcome

    env.step_wait = watched  # type: ignore[method-assign]
    return told


def episodes_of(buffer: Any, reward: np.ndarray, rows: int, last: np.ndarray) -> Batch:
    """What a trained model's buffer holds of whole episodes, by a loop over rows; padded ``[H, N]``.

    All but the rewards ``[steps, rows]``, to which SB3 adds what it believes of the states behind the time limit.
    """
    steps, found = len(buffer.episode_starts), []
    observations, actions, log_probs = (
        x.reshape(rows, steps, *x.shape[1:]) for x in (buffer.observations, buffer.actions, buffer.log_probs)
    )
    for row in range(rows):
        starts = [t for t in range(steps) if buffer.episode_starts[t, row]]
        ends = [*starts[1:], steps] if last[row] else starts[1:]
        for a, b in zip(starts, ends, strict=False):
            found.append((observations[row, a:b], actions[row, a:b], log_probs[row, a:b, 0], reward[a:b, row]))
    most = max(len(paid) for *_, paid in found)

    def pad(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.pad(values, [(0, most - len(values))] + [(0, 0)] * (values.ndim - 1)))

    columns = [torch.stack([pad(one[i]) for one in found], 1) for i in range(4)]
    observation, action, log_prob, paid = columns
    mask = torch.stack([pad(np.ones(len(one[3]), np.float32)) for one in found], 1)
    if action.shape[-1] == 1:
        action = action.squeeze(-1)
    zero = torch.zeros_like(paid)
    ended = torch.stack([torch.arange(most) == len(one[3]) - 1 for one in found], 1)
    end = torch.zeros_like(observation[0])
    everywhere = torch.empty(0, dtype=torch.int64)
    return Batch(observation, action, None, log_prob, paid, mask, ended, end, zero, zero, everywhere)


def one_for_all(batch: Batch, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A baseline that predicts the mean return everywhere, also on padding."""
    value = ((target * batch.mask).sum() / batch.mask.sum()).expand_as(target)
    return value, value[-1]


@pytest.mark.parametrize("baseline", [LinearBaseline(), one_for_all], ids=["linear", "one for all"])
@pytest.mark.parametrize(("kind", "steps"), [("navigation", 10), ("navigation", 27), ("cartpole", 40)])
def test_an_update_of_ppo_is_an_adaptation_step_of_the_learner(kind: str, steps: int, baseline: Baseline) -> None:
    policy, env = setting(kind)
    rule = MetaSGD(policy.initial(), initial=(0.01, 0.1), generator=seeded(1))
    learner, advantages = Learner(policy, rule, inner=lvc, outer=lvc), Advantages(0.95, 0.9, baseline)
    settings = adaptation_settings(advantages, env, steps)
    model = with_learned_rates(to_ppo(policy, policy.initial(), env, seed=0, device="cpu", **settings), learner)
    value, told = copy.deepcopy(model.policy.value_net), rewards_told(env)
    model.learn(settings["batch_size"])
    whole = episodes_of(model.rollout_buffer, np.stack(told), env.num_envs, model._last_episode_starts)
    assert steps == 10 or whole.mask.sum() < steps * env.num_envs  # some were cut
    expected, _ = learner.step(*learner.start(), advantages(whole))
    found = from_ppo(policy, model)
    for name, leaf in policy.initial().items():
        assert not torch.equal(found[name], leaf)
        torch.testing.assert_close(found[name], expected[name].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.policy.value_net.weight, value.weight)  # left alone


def test_rollouts_that_cannot_be_adapted_on_are_refused() -> None:
    policy, env = setting("navigation")
    with pytest.raises(ValueError, match="time_limit='terminal'"):
        adaptation_settings(Advantages(time_limit="bootstrap"), env, 10)
    model = to_ppo(policy, policy.initial(), env, device="cpu", **adaptation_settings(Advantages(), env, 9))
    with pytest.raises(ValueError, match="no episode began and ended within 9 steps"):
        model.learn(54)


def added_one_by_one(model: PPO, batch: Batch) -> RolloutBuffer:
    """Episodes as SB3's own collecting would add them, one row after the other, with its own recursion."""
    settings = {"gamma": model.gamma, "gae_lambda": model.gae_lambda, "device": "cpu"}
    buffer = RolloutBuffer(int(batch.mask.sum()), model.observation_space, model.action_space, **settings)
    with torch.no_grad():
        for n in range(batch.mask.shape[1]):
            length = int(batch.mask[:, n].sum())
            for t in range(length):
                reward = batch.reward[t, n].clone()
                if t == length - 1 and not batch.terminated[t, n]:
                    reward += model.gamma * model.policy.predict_values(batch.last_observation[n : n + 1])[0, 0]
                x, a = batch.observation[t, n : n + 1], batch.action[t, n : n + 1]
                value, log_prob, _ = model.policy.evaluate_actions(x, a)
                buffer.add(x.numpy(), a.numpy(), reward.numpy(), np.array([t == 0]), value, log_prob)
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))
    return buffer


@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_training_on_given_episodes_is_sb3s_own_training_on_them(kind: str) -> None:
    policy, env = setting(kind)
    family: Any = (
        CartPole(horizon=25) if kind == "cartpole" else Navigation(horizon=10, box=0.1, goal_x=-0.2, goal_y=-0.2)
    )
    batch = collect(policy, policy.initial(), family, family.sample(3, generator=seeded(2)), 8, generator=seeded(3))
    batch = map_leaves(lambda leaf: leaf[0], batch)
    ended = batch.terminated.any(0)
    assert ended.any() and not ended.all()  # some by the rules, some by the clock
    settings: dict[str, Any] = {"n_steps": 2, "n_epochs": 3, "batch_size": 12, "seed": 0, "device": "cpu"}
    ours, theirs = (to_ppo(policy, policy.initial(), env, **settings) for _ in range(2))
    theirs.rollout_buffer = added_one_by_one(theirs, batch)
    theirs.set_logger(Logger(None, []))
    np.random.seed(0)
    theirs.train()
    np.random.seed(0)
    train_on(ours, batch)
    for name, leaf in theirs.policy.named_parameters():
        torch.testing.assert_close(ours.policy.get_parameter(name), leaf, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="one task"):
        train_on(ours, batch._replace(mask=batch.mask.unsqueeze(0)))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", ["cartpole", "navigation"])
def test_a_model_trained_on_given_episodes_goes_on_learning_by_itself(kind: str, rows: int) -> None:
    policy, env = setting(kind, rows)
    model = to_ppo(policy, policy.initial(), env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu")
    own = model.rollout_buffer
    family: Any = CartPole(horizon=25) if kind == "cartpole" else Navigation(horizon=10)
    batch = collect(policy, policy.initial(), family, family.sample(1, generator=seeded(2)), 3, generator=seeded(3))
    for learned in (0, 8 * rows):
        before = from_ppo(policy, model)
        train_on(model, map_leaves(lambda leaf: leaf[0], batch))
        assert model.rollout_buffer is own and model.num_timesteps == learned
        between = from_ppo(policy, model)
        model.learn(8 * rows, reset_num_timesteps=False)
        after = from_ppo(policy, model)
        assert not any(torch.equal(before[name], between[name]) for name in before)
        assert not any(torch.equal(between[name], after[name]) for name in before)
        assert own.observations.shape[:1] == (8 * rows,) and own.full
