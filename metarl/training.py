"""Meta-training: explore with the current learner, then let a meta-optimizer improve it by replay."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metarl.advantages import Advantages
from metarl.learner import Learner, step_tasks
from metarl.optimizers import MetaOptimizer
from metarl.rollouts import collect, to_device
from metarl.types import Batch, Benchmark, Task, TaskFamily, Trace

Metrics = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What one meta-iteration samples.

    Attributes:
        tasks: T, tasks a meta-iteration.
        episodes: N, episodes a task and adaptation step.
        query_episodes: episodes a task that score the adapted policy.
        steps: K, adaptation steps; 0 is multi-task policy gradient without adaptation.
        support: advantages of the inner loss.
        query: advantages of the outer loss.
    """

    tasks: int = 20
    episodes: int = 20
    query_episodes: int = 20
    steps: int = 1
    support: Advantages = field(default_factory=Advantages)
    query: Advantages = field(default_factory=Advantages)

    def __post_init__(self) -> None:
        """Refuses counts that sample nothing."""
        for name, least in (("tasks", 1), ("episodes", 1), ("query_episodes", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@torch.no_grad()
def explore(learner: Learner, family: TaskFamily, task: Task, plan: Plan, *, generator: torch.Generator) -> Trace:
    """Adapt K steps on every task, each on freshly sampled episodes, and sample with the result.

    Returns:
        Support and query batches ``[T, H, N, ...]`` with their advantages. No graph is kept: replaying
        ``learner.adapt`` on the support at unchanged parameters gives the sampling parameters exactly.
    """
    params, state = learner.start()  # shared by all tasks until the first step makes them differ
    support = []
    for _ in range(plan.steps):
        batch = plan.support(collect(learner.policy, params, family, task, plan.episodes, generator=generator))
        params, state = step_tasks(learner, params, state, batch)
        support.append(batch)
    query = plan.query(collect(learner.policy, params, family, task, plan.query_episodes, generator=generator))
    return Trace(tuple(support), query, _outcome(query))


def _outcome(query: Batch) -> Tensor:
    """Each task's mean return minus that of the *other* tasks, a baseline its own data had no part in; ``[T]``.

    Divided by the task's mean episode length, as the outer loss is: losses are means over steps.
    """
    score = query.episode_return.mean(-1)
    others = len(score) - 1
    if others < 1:
        return torch.zeros_like(score)
    length = (query.steps / query.mask.shape[-1]).clamp_min(1.0)
    return (score - (score.sum() - score) / others) / length


def meta_step(
    learner: Learner,
    optimizer: MetaOptimizer,
    family: TaskFamily,
    task: Task,
    plan: Plan,
    *,
    generator: torch.Generator,
) -> Metrics:
    """One meta-iteration on a set of tasks: explore, then improve. Returns its metrics by name."""
    started = time.perf_counter()
    trace = explore(learner, family, task, plan, generator=generator)
    sampled = time.perf_counter()
    metrics = optimizer.step(learner, trace)
    batches = (*trace.support, trace.query)
    for k, batch in enumerate(batches):
        metrics[f"return/step_{k}"] = float(batch.episode_return.mean())
    metrics["env_steps"] = float(sum(float(batch.steps.sum()) for batch in batches))
    metrics["time/explore"] = sampled - started
    metrics["time/update"] = time.perf_counter() - sampled
    return metrics


def meta_train(
    learner: Learner,
    optimizer: MetaOptimizer,
    benchmark: Benchmark,
    plan: Plan,
    *,
    generator: torch.Generator,
    task_generator: torch.Generator,
    start: int = 0,
) -> Iterator[tuple[int, Metrics]]:
    """Meta-train on the benchmark's training tasks for as long as the caller goes on, yielding every iteration.

    A generator, so that the caller's own ``for`` loop logs, evaluates, saves and stops.

    Args:
        learner: improved in place; on the device to train on.
        optimizer: the meta-optimizer, built over this learner.
        benchmark: its ``"train"`` tasks are sampled afresh every iteration.
        plan: what to sample.
        generator: rollout noise.
        task_generator: tasks; separate, so that two algorithms can be trained on the same tasks.
        start: iterations already done, when resuming.

    Yields:
        The number of iterations done and the metrics of the last.
    """
    device = next(learner.parameters()).device
    for iteration in itertools.count(start + 1):
        task = to_device(benchmark.sample("train", plan.tasks, generator=task_generator), device)
        metrics = meta_step(learner, optimizer, benchmark.family, task, plan, generator=generator)
        yield iteration, metrics
