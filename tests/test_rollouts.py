"""Rollouts against scalar simulations in plain Python: counts, masks, ends, noise, and bad numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs import CartPole, Navigation
from metarl import MLP, Advantages, Batch, CategoricalPolicy, NonFiniteError, Policy, collect
from metarl.compilation import Programs
from metarl.rollouts import BLOCK, task_count
from metarl.types import Params
from tests.helpers import Bandit, Countdown, categorical_policy, family_and_policy, gaussian_policy, seeded


def clock_policy() -> Policy:
    return gaussian_policy(hidden=(3,), observations=1, actions=1)


class Noisy(Policy):
    """Replays given noise, so that a batch and its parts can be rolled out on the same numbers."""

    def __init__(self, policy: Policy, noise: Tensor) -> None:
        super().__init__()
        self.policy, self.given = policy, noise

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Any:
        return self.policy(params, observation)

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        return self.given


def parameters_per_task(policy: Policy, tasks: int) -> Params:
    generator = seeded(99)
    return {
        name: torch.stack([p.detach() + 0.3 * torch.randn(p.shape, generator=generator) for _ in range(tasks)])
        for name, p in policy.initial().items()
    }


@pytest.mark.parametrize("act", ["sample", "mode"])
def test_batched_equals_one_task_and_one_episode_at_a_time(act: Any) -> None:
    family, policy = Navigation(horizon=10, box=0.3), gaussian_policy()  # starts are fixed: noise is all there is
    task = family.sample(4, generator=seeded(0))
    params = parameters_per_task(policy, 4)
    noise = torch.randn(10, 4, 3, 2, generator=seeded(1))
    together = collect(Noisy(policy, noise), params, family, task, 3, generator=seeded(2), act=act)
    assert bool((together.mask.sum(1) < 8).any()) and bool((together.mask.sum(1) == 10).any())
    for t in range(4):
        for n in range(3):
            one = {name: value[t : t + 1] for name, value in task.items()}
            own = {name: leaf[t] for name, leaf in params.items()}
            alone = collect(
                Noisy(policy, noise[:, t : t + 1, n : n + 1]), own, family, one, 1, generator=seeded(2), act=act
            )
            steps = int(alone.mask.sum())
            assert steps == int(together.mask[t, :, n].sum())
            for name in ("observation", "action", "log_prob", "reward", "terminated"):
                expected, found = getattr(together, name)[t, :steps, n], getattr(alone, name)[0, :steps, 0]
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(alone.last_observation[0, 0], together.last_observation[t, n])


@pytest.mark.parametrize("horizon", [1, 5, 8, 20])
def test_masks_ends_and_returns_equal_a_scalar_simulation(horizon: int) -> None:
    family, policy = Countdown(horizon), clock_policy()
    life = torch.arange(1.0, 4.0)
    batch = collect(policy, policy.initial(), family, {"life": life}, 6, generator=seeded(0))
    longest = max(min(int(life[t]) + n, horizon) for t in range(3) for n in range(6))
    assert batch.reward.shape == (3, min(horizon, -(-longest // BLOCK) * BLOCK), 6)
    for t in range(3):
        for n in range(6):
            ends_at = int(life[t]) + n
            steps = min(ends_at, horizon)  # T23: the last transition is there
            rewards = [float(i + 1) for i in range(steps)]
            padding = [0.0] * (batch.reward.shape[1] - steps)
            assert batch.reward[t, :, n].tolist() == rewards + padding
            assert batch.observation[t, :, n, 0].tolist() == [float(i) for i in range(steps)] + padding
            assert batch.mask[t, :, n].tolist() == [1.0] * steps + padding
            assert batch.terminated[t, :, n].tolist() == [i + 1 == ends_at for i in range(batch.reward.shape[1])]
            assert float(batch.episode_return[t, n]) == sum(rewards)
            truncated = ends_at > horizon
            expected = float(horizon) if truncated else 0.0  # of an episode that has ended, nothing is left
            assert float(batch.last_observation[t, n, 0]) == expected
        assert float(batch.steps[t]) == sum(min(int(life[t]) + n, horizon) for n in range(6))


class Counting:
    """Counts the steps of rows that are still running: what a simulator is asked for."""

    def __init__(self, family: Any) -> None:
        self.family, self.calls = family, 0
        self.horizon = family.horizon
        self.resets: list[tuple[int, ...]] = []

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Any:
        self.resets.append(rows)
        return self.family.reset(task, rows, generator=generator)

    def observe(self, task: Any, state: Any) -> Tensor:
        return self.family.observe(task, state)

    def step(self, task: Any, state: Any, action: Tensor) -> Any:
        self.calls += 1
        return self.family.step(task, state, action)


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_every_task_gets_exactly_its_episodes(name: str) -> None:
    family, policy = family_and_policy(name)
    counting = Counting(family)
    batch = collect(policy, policy.initial(), counting, family.sample(5, generator=seeded(0)), 7, generator=seeded(1))
    assert counting.resets == [(5, 7)] and counting.calls == batch.reward.shape[1]
    assert bool((batch.mask[:, 0] == 1).all())  # all start together
    assert bool((batch.mask.diff(dim=1) <= 0).all())  # and never come back
    ended = batch.terminated.sum(1) > 0
    assert bool((ended | (batch.mask.sum(1) == family.horizon)).all())  # whole episodes only
    assert batch.log_prob.shape == batch.reward.shape and not batch.advantage.any() and not batch.value.any()


def test_a_cartpole_batch_equals_a_scalar_simulation() -> None:
    """Steps of Gymnasium's own CartPole from the recorded first observation under the recorded actions."""
    gymnasium = pytest.importorskip("gymnasium")
    family, policy = CartPole(horizon=40), categorical_policy()
    batch = collect(policy, policy.initial(), family, family.sample(2, generator=seeded(0)), 3, generator=seeded(1))
    env = gymnasium.make("CartPole-v1").unwrapped
    ends = set()
    for t in range(2):
        for n in range(3):
            env.reset(seed=0)
            env.state = batch.observation[t, 0, n].double().numpy()
            for i in range(int(batch.mask[t, :, n].sum())):
                observation, reward, terminated, _, _ = env.step(int(batch.action[t, i, n]))
                assert reward == float(batch.reward[t, i, n]) and terminated == bool(batch.terminated[t, i, n])
                if i + 1 < batch.mask.shape[1] and batch.mask[t, i + 1, n] > 0:
                    np.testing.assert_allclose(observation, batch.observation[t, i + 1, n], rtol=1e-4, atol=1e-5)
            ends.add(terminated)
    assert True in ends


def test_early_stopping_shortens_the_batch() -> None:
    policy = clock_policy()
    batch = collect(policy, policy.initial(), Countdown(1000), {"life": torch.ones(2)}, 3, generator=seeded(0))
    assert batch.reward.shape[1] == BLOCK


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_the_generator_decides_and_no_global_state_is_touched(name: str) -> None:
    family, policy = family_and_policy(name)
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]
    task = family.sample(3, generator=seeded(0))

    def roll(seed: int) -> Batch:
        return collect(policy, policy.initial(), family, task, 4, generator=seeded(seed))

    one, same, other = roll(1), roll(1), roll(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[arg-type]
    for field in ("observation", "action", "log_prob", "reward", "mask", "terminated", "last_observation"):
        assert torch.equal(getattr(one, field), getattr(same, field)), field
    assert not torch.equal(one.action, other.action)


def test_policies_act_on_common_noise_however_long_episodes_live() -> None:
    # Noise is consumed up front: a second rollout from the same generator starts at the same point of its
    # stream whether the first one lived 1 step or 20.
    policy = clock_policy()

    def second(life: float) -> Batch:
        generator = seeded(7)
        collect(policy, policy.initial(), Countdown(20), {"life": torch.full((2,), life)}, 3, generator=generator)
        return collect(
            policy, policy.initial(), Countdown(20), {"life": torch.full((2,), 18.0)}, 3, generator=generator
        )

    assert torch.equal(second(1.0).action, second(19.0).action)
    better = {name: p.detach() + (name == "log_std") * 0.5 for name, p in policy.initial().items()}
    one = collect(policy, policy.initial(), Countdown(6), {"life": torch.ones(1)}, 2, generator=seeded(3))
    two = collect(policy, better, Countdown(6), {"life": torch.full((1,), 5.0)}, 2, generator=seeded(3))
    noise = [(b.action - b.distribution.mean) / b.distribution.log_std.exp() for b in (one, two)]
    torch.testing.assert_close(noise[0][:, 0], noise[1][:, 0])


def test_mode_acts_without_noise() -> None:
    family = Navigation(horizon=5)
    policy = gaussian_policy()
    batch = collect(
        policy, policy.initial(), family, family.sample(2, generator=seeded(0)), 3, generator=seeded(1), act="mode"
    )
    assert torch.equal(batch.action, batch.distribution.mean)
    assert torch.equal(batch.action[:, :, 0], batch.action[:, :, 1])  # one start, no noise: one trajectory
    greedy = CategoricalPolicy(MLP(4, (8,), 3, head_gain=1.0, generator=seeded(0)))
    observation = torch.randn(50, 4, generator=seeded(2))
    distribution = greedy(greedy.initial(), observation)
    assert torch.equal(distribution.mode(), distribution.logits.argmax(-1))


def test_the_recorded_log_probability_is_that_of_the_recorded_distribution() -> None:
    family, policy = family_and_policy("navigation")
    batch = collect(policy, policy.initial(), family, family.sample(2, generator=seeded(0)), 3, generator=seeded(1))
    normal = torch.distributions.Normal(batch.distribution.mean, batch.distribution.log_std.exp())
    torch.testing.assert_close(batch.log_prob, normal.log_prob(batch.action).sum(-1) * batch.mask)
    again = policy(policy.initial(), batch.observation)
    torch.testing.assert_close(again.mean * batch.mask.unsqueeze(-1), batch.distribution.mean)
    assert not batch.log_prob.requires_grad and not batch.distribution.mean.requires_grad


def test_nan_after_an_episodes_end_is_harmless() -> None:
    policy = clock_policy()
    task = {"life": torch.tensor([1.0, 12.0])}
    sick = collect(policy, policy.initial(), Countdown(20), task, 2, generator=seeded(0))
    well = collect(policy, policy.initial(), Countdown(20, after=0.0), task, 2, generator=seeded(0))
    for name in ("observation", "action", "log_prob", "reward", "mask", "last_observation"):
        assert bool(getattr(sick, name).isfinite().all()), name
        assert torch.equal(getattr(sick, name), getattr(well, name)), name
    assert bool(sick.distribution.mean.isfinite().all())


class Cliff(Countdown):
    """A `Countdown` whose clock breaks on the very step that ends the episode."""

    def step(self, task: Any, state: Any, action: Tensor) -> Any:
        state, reward, terminated = super().step(task, state, action)
        return state | {"age": state["age"].masked_fill(terminated, float("nan"))}, reward, terminated


def test_nan_in_a_terminal_state_at_the_time_limit_is_harmless() -> None:
    policy = clock_policy()
    batch = collect(policy, policy.initial(), Cliff(4), {"life": torch.tensor([4.0])}, 1, generator=seeded(0))
    assert bool(batch.terminated[0, 3, 0]) and bool(batch.mask.all())
    filled = Advantages(time_limit="bootstrap")(batch)
    assert bool(filled.advantage.isfinite().all())


def test_nan_in_the_state_that_is_bootstrapped_from_is_refused() -> None:
    class Breaks(Countdown):
        def observe(self, task: Any, state: Any) -> Tensor:
            return super().observe(task, state).masked_fill(state["age"].unsqueeze(-1) == 4, float("nan"))

    policy = clock_policy()
    with pytest.raises(NonFiniteError):  # cut off at step 4, alive: its last state counts
        collect(policy, policy.initial(), Breaks(4), {"life": torch.tensor([9.0])}, 1, generator=seeded(0))


class Poisoned:
    """Navigation, with NaN in task 1, episode 2, at step 3."""

    def __init__(self, what: str) -> None:
        self.family, self.what = Navigation(horizon=8), what
        self.horizon = 8
        self.clock = 0

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Any:
        self.clock = 0
        return self.family.reset(task, rows, generator=generator)

    def observe(self, task: Any, state: Any) -> Tensor:
        seen = self.family.observe(task, state)
        if self.what == "observation" and self.clock == 3:
            seen[1, 2, 0] = float("nan")
        return seen

    def step(self, task: Any, state: Any, action: Tensor) -> Any:
        state, reward, terminated = self.family.step(task, state, torch.nan_to_num(action))
        if self.what == "reward" and self.clock == 3:
            reward[1, 2] = float("inf")
        self.clock += 1
        return state, reward, terminated


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_bad_numbers_are_located(what: str) -> None:
    family, policy = Poisoned(what), gaussian_policy()
    task = family.family.sample(3, generator=seeded(0))
    with pytest.raises(NonFiniteError, match=f"non-finite {what} in task 1, episode 2, step 3"):
        collect(policy, policy.initial(), family, task, 4, generator=seeded(1))


def test_large_numbers_are_not_bad_ones() -> None:
    class Huge(Poisoned):
        def step(self, task: Any, state: Any, action: Tensor) -> Any:
            state, reward, terminated = super().step(task, state, action)
            return state, torch.full_like(reward, 3e38), terminated

    policy = gaussian_policy()
    family = Huge("nothing")
    batch = collect(
        policy, policy.initial(), family, family.family.sample(3, generator=seeded(0)), 4, generator=seeded(1)
    )
    assert bool(batch.reward.isfinite().all()) and not bool(batch.reward.sum().isfinite())


def test_diverged_parameters_are_located() -> None:
    family, policy = family_and_policy("navigation")
    params = parameters_per_task(policy, 3)
    params["network.head.bias"][2] = float("nan")
    with pytest.raises(NonFiniteError, match="in task 2, episode 0, step"):
        collect(policy, params, family, family.sample(3, generator=seeded(0)), 2, generator=seeded(1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"act": "greedy"}, "act must be 'sample' or 'mode', got 'greedy'"),
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"episodes": -3}, "episodes must be at least 1, got -3"),
    ],
)
def test_rollouts_that_mean_nothing_are_refused(bad: dict[str, Any], message: str) -> None:
    family, policy = family_and_policy("navigation")
    task = family.sample(2, generator=seeded(0))
    for programs in (None, Programs()):
        with pytest.raises(ValueError, match=message):
            collect(
                policy, policy.initial(), family, task, **{"episodes": 2, **bad}, generator=seeded(1), programs=programs
            )


def test_task_sets_must_agree_on_their_length() -> None:
    assert task_count(Bandit().sample(6, generator=seeded(0))) == 6
    for bad in ({}, {"a": torch.zeros(2), "b": torch.zeros(3)}):
        with pytest.raises(ValueError, match="common length"):
            task_count(bad)


def test_a_mistake_of_the_family_is_not_blamed_on_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    family, policy = Navigation(3), gaussian_policy()

    def reset(*given: Any, **more: Any) -> Any:
        raise KeyError("my cache")

    task = family.sample(2, generator=seeded(0))
    monkeypatch.setattr(Navigation, "reset", reset)
    with pytest.raises(KeyError, match="my cache"):
        collect(policy, policy.initial(), family, task, 1, generator=seeded(1))
