"""Contenders built on Stable-Baselines3: PPO on every held-out task alone, on all training tasks, and fine-tuned.

Each is a function of a configuration, as in `experiments.contenders.learners`: it trains within ``config.env_steps``
and returns a function that evaluates the outcome under a protocol. ``config.rate`` is the step size of PPO's Adam, and
the network has the configuration's sizes. Everything else is SB3's default, except for rollouts of `ROWS` environments
and `PASS` minibatches per epoch, since SB3's minibatches of 64 steps would be hundreds per rollout.

Adaptation gets the same data as metarl's learners: the same number of whole episodes per step, drawn with the same
noise. SB3 can only collect a fixed number of steps, so that `metarl.rollouts.collect` collects the episodes of all
tasks at once and SB3 does the update. The recurrent agent's parameters stay fixed on a held-out task; it remembers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed

from envs.wrappers import Trials
from experiments.build import Setup, build
from experiments.config import Config
from experiments.contenders.budget import Spent
from experiments.contenders.curves import Curve, curve_measured
from experiments.contenders.learners import CPU, Measure, Result
from experiments.contenders.memory import trial_episodes
from experiments.errors import InputError
from experiments.evaluate import Protocol
from experiments.streams import stream
from metarl import Adaptation, AdaptationCurve, GaussianPolicy, NonFiniteError, Policy
from metarl.export import ACTIVATIONS, mlp_of
from metarl.rollouts import collect, per_row, task_count
from metarl.sb3 import TaskVecEnv, from_ppo, to_ppo, train_on
from metarl.trees import map_leaves
from metarl.types import Batch, Benchmark, Params, Task, TaskFamily

STEPS = 128  # steps per row of a training rollout
ROWS = 64  # many short rows step faster than a few long ones; values are bootstrapped at their ends
RECURRENT_STEPS, RECURRENT_ROWS = 64, 512  # an LSTM's time grows with the steps, which its gradient goes back through
PASS = 4  # minibatches per epoch
New = Callable[[Task], PPO]
"""Makes the model that will adapt to a task ``[1]``, in its state before adaptation."""

Model = TypeVar("Model", bound=OnPolicyAlgorithm)


def ppo_from_scratch(config: Config) -> Measure:
    """Train PPO on each held-out task alone, from the random initialization of the configuration's learner."""
    setup = _setup(config)
    family = setup.benchmark.family
    curve = partial(_curve, setup, lambda task: _ppo(setup, TaskVecEnv(family, task)))
    return _measured("ppo-from-scratch", setup, curve, Spent())


def ppo_randomized(config: Config) -> Measure:
    """Train PPO by domain randomization: on training tasks, a fresh one every episode, without adapting to any."""
    setup, new, spent = _randomized(config.model_copy(update={"steps": 0}))
    return _measured("ppo-randomized", setup, partial(_curve, setup, new), spent)


def ppo_fine_tuned(config: Config) -> Measure:
    """Train PPO as `ppo_randomized` does, then continue on each held-out task, with value network and Adam's state."""
    setup, new, spent = _randomized(config)
    return _measured("ppo-fine-tuned", setup, partial(_curve, setup, new), spent)


def recurrent_ppo(config: Config) -> Measure:
    """Train PPO with an LSTM whose state persists through the episodes of a trial on one task.

    Trials have as many episodes as those of RL^2. Columns of the curve are the episodes of a trial in place of
    adaptation steps; ``reported`` is the last.

    Raises:
        InputError: sb3-contrib is not installed, or the family cannot be played in trials.
    """
    setup, spent = _setup(config), Spent()
    base: Any = setup.benchmark.family
    try:
        from sb3_contrib import RecurrentPPO

        family = Trials(base, trial_episodes(base.horizon, 1 + config.steps * config.episodes))
    except (ImportError, TypeError) as error:
        raise InputError(f"recurrent PPO: {error}; sb3-contrib comes with pip install -e '.[sb3]'") from error
    activation = mlp_of(setup.learner.policy).activation
    shape = {"lstm_hidden_size": max(config.hidden, default=64), "net_arch": list(config.hidden)}
    settings: dict[str, Any] = {"policy_kwargs": {**shape, "activation_fn": ACTIVATIONS[activation]}}
    batch = RECURRENT_ROWS * RECURRENT_STEPS // PASS
    settings |= {"n_steps": RECURRENT_STEPS, "batch_size": batch, "learning_rate": config.rate}
    with isolated(config.seed):
        env = training_env(family, setup.benchmark, RECURRENT_ROWS, config.seed)
        model = RecurrentPPO("MlpLstmPolicy", env, device="cpu", **settings)
        if isinstance(setup.learner.policy, GaussianPolicy):
            torch.nn.init.constant_(model.policy.log_std, config.log_std)
        _train(model, config.env_steps, spent)
    measure = _measured("recurrent-ppo", setup, partial(_curve_of_trials, model, base, family.episodes), spent)

    def under(protocol: Protocol) -> Result:
        found = measure(protocol)
        return found | {"reported": len(found["sampled"][0]) - 1}

    return under


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, from which SB3 draws, and restore them at the end."""
    numbers, words = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            set_random_seed(seed)
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(words)


def learn(model: Model) -> Model:
    """Collect one rollout and train the model on it, without SB3's logger, which would make a folder in every call.

    Raises:
        NonFiniteError: the model has diverged.
    """
    model.set_logger(Logger(None, []))
    with refusing_divergence():
        return model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)


def stacked(params: Sequence[Params]) -> Params:
    """Stack the parameters of T tasks into one tree of leaves ``[T, ...]``."""
    joined: Params = map_leaves(lambda *leaves: torch.stack(leaves), *params)
    return joined


def _setup(config: Config) -> Setup:
    """Build a setup, refusing at once a step size or a policy that PPO cannot have.

    Raises:
        InputError: the step size is not positive, or SB3 has no counterpart of the policy.
    """
    if not config.rate > 0.0:
        raise InputError(f"expected a step size above 0 for PPO's Adam, got {config.rate}; pass --rate 0.001")
    setup = build(config, CPU)
    task = setup.benchmark.sample("train", 1, generator=stream(config.seed, "spaces"))
    try:
        with isolated(config.seed):
            _ppo(setup, TaskVecEnv(setup.benchmark.family, task))
    except TypeError as error:
        raise InputError(f"PPO: {error}") from error
    return setup


def _ppo(setup: Setup, env: TaskVecEnv, n_steps: int = 2, batch_size: int = 2) -> PPO:
    """Return PPO at the configuration's initialization, its value network drawn from the global generators."""
    policy = setup.learner.policy
    settings: dict[str, Any] = {"n_steps": n_steps, "batch_size": batch_size, "learning_rate": setup.config.rate}
    return to_ppo(policy, policy.initial(), env, device="cpu", **settings)


def _randomized(config: Config) -> tuple[Setup, New, Spent]:
    """Train PPO on the benchmark's training tasks within the budget; return a function that makes copies of it."""
    setup, spent = _setup(config), Spent()
    family, benchmark = setup.benchmark.family, setup.benchmark
    with isolated(config.seed):
        env = training_env(family, benchmark, ROWS, config.seed)
        model = _ppo(setup, env, n_steps=STEPS, batch_size=ROWS * STEPS // PASS)
        _train(model, config.env_steps, spent)
    found = model.get_parameters()

    def new(task: Task) -> PPO:
        again = _ppo(setup, TaskVecEnv(family, task))
        again.set_parameters(copy.deepcopy(found), device="cpu")  # Adam updates the state it is given in place
        return again

    return setup, new, spent


def _train(model: OnPolicyAlgorithm, budget: int, spent: Spent) -> None:
    """Train rollout by rollout until the budget is reached."""
    while spent.env_steps < budget:
        learn(model)
        spent.add({"env_steps": model.n_steps * model.n_envs})


def training_env(family: TaskFamily, benchmark: Benchmark, rows: int, seed: int) -> TaskVecEnv:
    """Return environments in which every episode has a fresh training task; ``family`` may wrap the benchmark's."""
    tasks = stream(seed, "tasks")
    pool: list[tuple[Params, int]] = []  # tasks are drawn many at a time, as drawing singly costs more than stepping

    def fresh(count: int) -> Params:
        drawn, used = pool.pop() if pool else ({}, 0)
        if not drawn or used + count > task_count(drawn):
            drawn, used = dict(benchmark.sample("train", max(1000, count), generator=tasks)), 0
        pool.append((drawn, used + count))
        return {name: value[used : used + count] for name, value in drawn.items()}

    return TaskVecEnv(family, fresh(rows), seed=seed, fresh=fresh)


def _measured(name: str, setup: Setup, curve: Curve, spent: Spent) -> Measure:
    """Return `curve_measured`, with the global generators from which SB3 draws seeded and `isolated`."""
    measure = curve_measured(name, setup, curve, spent)

    def under(protocol: Protocol) -> Result:
        with isolated(setup.config.seed):
            return measure(protocol)

    return under


@torch.no_grad()
def _curve(
    setup: Setup, new: New, task: Task, adaptation: Adaptation, *, generator: torch.Generator
) -> AdaptationCurve:
    """Do the same as `metarl.evaluation.adaptation_curve`, with the same draws, but with PPO in place of the rule."""
    policy, family, tasks = setup.learner.policy, setup.benchmark.family, task_count(task)
    models = [new({name: value[t : t + 1] for name, value in task.items()}) for t in range(tasks)]
    spent, scored = torch.zeros(tasks), adaptation.score_episodes
    stages = []
    for k in range(adaptation.steps + 1):
        params = stacked([from_ppo(policy, model) for model in models])
        returns = scores(policy, params, family, task, scored, generator=generator)
        stages.append((*returns, spent, torch.full_like(spent, float(k * adaptation.episodes))))
        if k == adaptation.steps:
            break
        batch = collect(policy, params, family, task, adaptation.episodes, generator=generator)
        for t, model in enumerate(models):
            _improve(model, map_leaves(lambda leaf, t=t: leaf[t], batch))
        spent = spent + batch.steps
    return AdaptationCurve.from_stages(stages)


@torch.no_grad()
def _curve_of_trials(
    model: Any, base: Any, episodes: int, task: Task, adaptation: Adaptation, *, generator: torch.Generator
) -> AdaptationCurve:
    """Return every task's scores by the number of the episode within a trial, as long as the adaptation allows."""
    seen = min(episodes - 1, adaptation.steps * adaptation.episodes)
    family, scored = Trials(base, 1 + seen), adaptation.score_episodes
    sampled, lengths = _play(model, family, task, scored, generator=generator)
    mode, _ = _play(model, family, task, scored, generator=generator, deterministic=True)
    return AdaptationCurve(sampled, mode, lengths.cumsum(-1) - lengths, torch.arange(1.0 + seen).expand_as(lengths))


def _play(
    model: Any, family: Trials, task: Task, trials: int, *, generator: torch.Generator, deterministic: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Play trials; return the mean return and length ``[T, E]`` of each task's first, second, ... episode."""
    rows, constants, memory = (task_count(task), trials), per_row(task), None
    state = family.reset(constants, rows, generator=generator)
    returns, lengths = torch.zeros(*rows, family.episodes), torch.zeros(*rows, family.episodes)
    over = torch.zeros(rows, dtype=torch.bool)
    while not over.all():
        seen = family.observe(constants, state).masked_fill(over.unsqueeze(-1), 0.0).flatten(0, 1)
        action, memory = model.predict(seen.numpy(), memory, deterministic=deterministic)
        episode = family.episode(state).clamp_max(family.episodes - 1).unsqueeze(-1)
        state, reward, ended = family.step(constants, state, torch.from_numpy(action).unflatten(0, rows))
        returns.scatter_add_(-1, episode, reward.masked_fill(over, 0.0).unsqueeze(-1))
        lengths.scatter_add_(-1, episode, (~over).float().unsqueeze(-1))
        over = over | ended
    return returns.mean(1), lengths.mean(1)


def scores(
    policy: Policy, params: Params, family: TaskFamily, task: Task, episodes: int, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean returns ``[T]`` of fresh episodes with sampled actions, and with the most likely ones."""
    sampled = collect(policy, params, family, task, episodes, generator=generator)
    mode = collect(policy, params, family, task, episodes, generator=generator, act="mode")
    return sampled.episode_return.mean(-1), mode.episode_return.mean(-1)


@torch.enable_grad()
def _improve(model: PPO, batch: Batch) -> None:
    """Update PPO on one task's whole episodes."""
    model.batch_size = -(-int(batch.mask.sum()) // PASS)
    with refusing_divergence():
        train_on(model, batch)


@contextmanager
def refusing_divergence() -> Iterator[None]:
    """Turn SB3's ValueError for parameters that are not finite into a `NonFiniteError`.

    The error comes from torch's distributions, or, in versions of torch that do not check, from the environment, which
    refuses the actions.

    Raises:
        NonFiniteError: PPO has diverged.
    """
    try:
        yield
    except ValueError as error:
        if not any(words in str(error) for words in ("invalid values", "actions: expected finite numbers")):
            raise
        raise NonFiniteError("PPO diverged: a parameter of its policy is not finite; lower the rate") from error
