"""Contenders made of Stable-Baselines3: PPO on every held-out task alone, on all training tasks, and then fine-tuned.

Each is a function of a configuration, as in `experiments.contenders.learners`: it trains within ``config.env_steps``
and returns what measures the outcome under a protocol. ``config.rate`` is the step size of PPO's Adam, and the network
is the configuration's. All else is SB3's default, but for rollouts of `ROWS` environments and `PASS` minibatches an
epoch, since SB3's 64 steps would make hundreds of a rollout.

Adapting gets what our learners get: the same number of whole episodes a step, drawn with the same noise. SB3 itself
can only collect a number of steps, so that `metarl.rollouts.collect` does, for all tasks at once, and SB3 improves. The
recurrent agent does not change on a held-out task: it remembers.
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

STEPS = 128  # of a row in a training rollout
ROWS = 64  # many short rows step faster than few long ones, and are bootstrapped at their end
RECURRENT_STEPS, RECURRENT_ROWS = 64, 512  # an LSTM takes its time by the step, as far as its gradient goes back
PASS = 4  # minibatches of an epoch
New = Callable[[Task], PPO]
"""The model that adapts to a task ``[1]``, where it begins."""

Model = TypeVar("Model", bound=OnPolicyAlgorithm)


def ppo_from_scratch(config: Config) -> Measure:
    """PPO on each held-out task alone, from the random initialization that the configuration's learner begins with."""
    setup = _setup(config)
    family = setup.benchmark.family
    curve = partial(_curve, setup, lambda task: _ppo(setup, TaskVecEnv(family, task)))
    return _measured("ppo-from-scratch", setup, curve, Spent())


def ppo_randomized(config: Config) -> Measure:
    """PPO on the training tasks, a fresh one every episode, scored as it is: domain randomization."""
    setup, new, spent = _randomized(config.model_copy(update={"steps": 0}))
    return _measured("ppo-randomized", setup, partial(_curve, setup, new), spent)


def ppo_fine_tuned(config: Config) -> Measure:
    """The same, and PPO goes on from there on each held-out task, with its value network and Adam's memory."""
    setup, new, spent = _randomized(config)
    return _measured("ppo-fine-tuned", setup, partial(_curve, setup, new), spent)


def recurrent_ppo(config: Config) -> Measure:
    """PPO with an LSTM that lives through the episodes of a trial on one task, as many as those of RL^2 have.

    A column for every episode of a trial, in place of adaptation steps; ``reported`` is the last.

    Raises:
        InputError: sb3-contrib is not installed, or an environment that cannot be played in trials.
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
    """SB3 draws from the global generators of torch, numpy and Python: seeds them, and puts them back at the end."""
    numbers, words = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            set_random_seed(seed)
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(words)


def learn(model: Model) -> Model:
    """One rollout and what the model learns from it; without SB3's log, which every call would make a folder for.

    Raises:
        NonFiniteError: it has diverged.
    """
    model.set_logger(Logger(None, []))
    with refusing_divergence():
        return model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)


def stacked(params: Sequence[Params]) -> Params:
    """One set of parameters a task, as one tree ``[T, ...]``."""
    joined: Params = map_leaves(lambda *leaves: torch.stack(leaves), *params)
    return joined


def _setup(config: Config) -> Setup:
    """Refuses a policy that SB3 has no counterpart of before hours of work."""
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
    """PPO at the configuration's initialization; the value network is drawn from the global numbers."""
    policy = setup.learner.policy
    settings: dict[str, Any] = {"n_steps": n_steps, "batch_size": batch_size, "learning_rate": setup.config.rate}
    return to_ppo(policy, policy.initial(), env, device="cpu", **settings)


def _randomized(config: Config) -> tuple[Setup, New, Spent]:
    """PPO trained on the benchmark's training tasks within the budget."""
    setup, spent = _setup(config), Spent()
    family, benchmark = setup.benchmark.family, setup.benchmark
    with isolated(config.seed):
        env = training_env(family, benchmark, ROWS, config.seed)
        model = _ppo(setup, env, n_steps=STEPS, batch_size=ROWS * STEPS // PASS)
        _train(model, config.env_steps, spent)
    found = model.get_parameters()

    def new(task: Task) -> PPO:
        again = _ppo(setup, TaskVecEnv(family, task))
        again.set_parameters(copy.deepcopy(found), device="cpu")  # Adam would write into the memory it is given
        return again

    return setup, new, spent


def _train(model: OnPolicyAlgorithm, budget: int, spent: Spent) -> None:
    """Rollout by rollout, until the budget is reached."""
    while spent.env_steps < budget:
        learn(model)
        spent.add({"env_steps": model.n_steps * model.n_envs})


def training_env(family: TaskFamily, benchmark: Benchmark, rows: int, seed: int) -> TaskVecEnv:
    """Rows of training tasks, each of which has a fresh one in every episode. ``family`` may wrap the benchmark's."""
    tasks = stream(seed, "tasks")
    pool: list[tuple[Params, int]] = []  # tasks are drawn many at a time: one by one it costs more than stepping

    def fresh(count: int) -> Params:
        drawn, used = pool.pop() if pool else ({}, 0)
        if not drawn or used + count > task_count(drawn):
            drawn, used = dict(benchmark.sample("train", max(1000, count), generator=tasks)), 0
        pool.append((drawn, used + count))
        return {name: value[used : used + count] for name, value in drawn.items()}

    return TaskVecEnv(family, fresh(rows), seed=seed, fresh=fresh)


def _measured(name: str, setup: Setup, curve: Curve, spent: Spent) -> Measure:
    """`curve_measured`, with what SB3 draws put in its place."""
    measure = curve_measured(name, setup, curve, spent)

    def under(protocol: Protocol) -> Result:
        with isolated(setup.config.seed):
            return measure(protocol)

    return under


@torch.no_grad()
def _curve(
    setup: Setup, new: New, task: Task, adaptation: Adaptation, *, generator: torch.Generator
) -> AdaptationCurve:
    """As `metarl.evaluation.adaptation_curve`, draw for draw, with PPO in the place of the rule."""
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
    """Every task's episodes, by their number within the trial: of no more than it may see before the last."""
    seen = min(episodes - 1, adaptation.steps * adaptation.episodes)
    family, scored = Trials(base, 1 + seen), adaptation.score_episodes
    sampled, lengths = _play(model, family, task, scored, generator=generator)
    mode, _ = _play(model, family, task, scored, generator=generator, deterministic=True)
    return AdaptationCurve(sampled, mode, lengths.cumsum(-1) - lengths, torch.arange(1.0 + seen).expand_as(lengths))


def _play(
    model: Any, family: Trials, task: Task, trials: int, *, generator: torch.Generator, deterministic: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean return and length ``[T, E]`` of the first, second, ... episode of trials of each task."""
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
    """Mean returns ``[T]`` of fresh episodes, with sampled actions and with the most likely ones."""
    sampled = collect(policy, params, family, task, episodes, generator=generator)
    mode = collect(policy, params, family, task, episodes, generator=generator, act="mode")
    return sampled.episode_return.mean(-1), mode.episode_return.mean(-1)


@torch.enable_grad()
def _improve(model: PPO, batch: Batch) -> None:
    """PPO's update on one task's whole episodes."""
    model.batch_size = -(-int(batch.mask.sum()) // PASS)
    with refusing_divergence():
        train_on(model, batch)


@contextmanager
def refusing_divergence() -> Iterator[None]:
    """SB3 tells of parameters that are not finite by the ValueError of a distribution that is handed them.

    Not with every torch: then by that of an environment that is handed the actions.

    Raises:
        NonFiniteError: instead.
    """
    try:
        yield
    except ValueError as error:
        if not any(words in str(error) for words in ("invalid values", "actions: expected finite numbers")):
            raise
        raise NonFiniteError("PPO diverged: a parameter of its policy is not finite; lower the rate") from error
