"""RL^2 as a contender: a recurrent agent that adapts to a task by memory, trained on trials of several episodes.

metarl's learners adapt by gradient steps between episodes; this agent adapts while it plays (`metarl.memory`). Its
scores are by the number of the episode within a trial: column k is the episode played after k others on the same task,
averaged over as many parallel trials as a learner is scored on episodes.

Of the configuration it uses the benchmark, the budget, the number of tasks, the seed, the initial standard deviation of
Gaussian actions, and ``rate``, the step size of PPO's Adam (1e-3 to 3e-3 are sensible), with its ``final_share``, as
well as ``steps`` times ``episodes``, which bounds the episodes of a trial. Everything else is a constant here, since
a discount meant for the inner loss of one short episode says nothing about trials.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from envs.wrappers import Trials
from experiments.build import build_benchmark
from experiments.config import Config
from experiments.contenders.budget import Spent
from experiments.contenders.curves import tasks_of
from experiments.contenders.learners import Measure, as_trained
from experiments.errors import InputError
from experiments.evaluate import Protocol, adaptation_of, written
from experiments.streams import stream
from metarl.evaluation import AdaptationCurve
from metarl.memory import MemoryPlan, MemoryPolicy, MemoryTrainer, memory_policy, score_trials, train_memory
from metarl.rollouts import task_count
from metarl.types import Benchmark

EPISODES = 3  # least number of episodes of a trial; small, since long episodes soon spend a few million steps
TRIAL_STEPS = 300  # a trial has enough short episodes for as many steps: 300 pulls of a bandit, 3 walks of 100 steps
UNITS = 64  # size of the memory
PLAN = MemoryPlan(trials=5, discount=0.99, decay=0.95, segment=64, minibatch=64, epochs=4)


def rl2(config: Config) -> Measure:
    """Train RL^2 on the benchmark's training tasks within ``config.env_steps``.

    Returns:
        A function that evaluates it under a protocol, with results in the layout of `experiments.evaluate.measure`
        where columns are the episodes of a trial in place of adaptation steps; ``reported`` is the last.

    Raises:
        InputError: the family cannot be played in trials, or the step size is not positive.
        NonFiniteError: see `metarl.memory.train_memory`.
        DivergedError: see `metarl.memory.train_memory`.
    """
    benchmark, spent = build_benchmark(config), Spent()
    most = 1 + config.steps * config.episodes
    try:
        family = Trials(benchmark.family, trial_episodes(benchmark.family.horizon, most))
        agent = memory_policy(
            family, units=UNITS, log_std=config.log_std, generator=stream(config.seed, "initialization")
        )
        plan = MemoryPlan(**{**asdict(PLAN), "tasks": config.tasks})
        trainer = MemoryTrainer(agent, plan, lr=config.rate)
    except (TypeError, ValueError) as error:
        raise InputError(f"rl2: {error}") from error
    noise, tasks = stream(config.seed, "noise"), stream(config.seed, "tasks")
    for _, metrics in train_memory(trainer, family, benchmark, generator=noise, task_generator=tasks):
        spent.add(metrics)
        if spent.env_steps >= config.env_steps:
            break
        trainer.share = config.share(spent.env_steps)

    def under(protocol: Protocol) -> dict[str, Any]:
        return trials_measured(config, benchmark, agent, family.episodes, protocol) | spent.report()

    return under


def trial_episodes(horizon: int, most: int) -> int:
    """Return the episodes of a trial: `EPISODES`, or more to reach `TRIAL_STEPS`, but not more than ``most``.

    Args:
        horizon: time limit of an episode.
        most: episodes on which others may adapt, and one that is scored.
    """
    return min(most, max(EPISODES, -(-TRIAL_STEPS // horizon)))


def trials_measured(
    config: Config, benchmark: Benchmark, agent: MemoryPolicy, episodes: int, protocol: Protocol
) -> dict[str, Any]:
    """Score a trained agent on the protocol's held-out tasks, in trials of at most ``episodes`` episodes.

    A trial's last episode comes after at most as many others as the protocol's steps and episodes allow to adapt on.

    Raises:
        InputError: the split is unknown, or the protocol's counts are too small.
        TrainingTaskError: training may have drawn some of the tasks.
    """
    protocol = as_trained(protocol, config)
    task, adaptation = tasks_of(benchmark, protocol), adaptation_of(protocol)
    family = Trials(benchmark.family, min(episodes, 1 + adaptation.steps * adaptation.episodes))  # type: ignore[arg-type]
    noise = stream(protocol.seed, "evaluation noise")
    scores = score_trials(agent, family, task, protocol.score_episodes, generator=noise)
    seen = torch.arange(float(family.episodes)).expand(task_count(task), -1)
    curve = AdaptationCurve(*scores, seen)
    return written("rl2", config, benchmark, protocol, task, curve) | {"reported": family.episodes - 1}
