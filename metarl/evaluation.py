"""How well a learner adapts to tasks it was not trained on: the return after 0, 1, …, K steps.

Scores come from episodes of their own: the episodes a step was taken on are never scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl import checks
from metarl.advantages import Advantages
from metarl.exploration import ADVANTAGES, Plan
from metarl.learner import Learner, refuse_divergence, step_tasks
from metarl.policies import refuse_misfit, refuse_width
from metarl.rollouts import collect, task_count, to_device
from metarl.trees import joined, map_leaves, sliced
from metarl.types import Batch, Benchmark, Params, Task, TaskFamily, expect_benchmark, expect_family

CHUNK = 100
"""Tasks evaluated at a time. Noise is drawn chunk by chunk: common noise takes equal chunks."""


class TrainingTaskError(ValueError):
    """Held-out performance was asked of tasks that training may have seen."""


@dataclass(frozen=True)
class Adaptation:
    """How to adapt, and how to score it.

    Attributes:
        steps: K; may exceed the training's.
        episodes: episodes a step adapts on.
        score_episodes: fresh episodes that score every stage.
        support: advantages of the inner loss, as in training.
    """

    steps: int = 1
    episodes: int = 20
    score_episodes: int = 20
    support: Advantages = field(default_factory=Advantages)

    @classmethod
    def like(cls, plan: Plan, *, steps: int | None = None, score_episodes: int = 20) -> Adaptation:
        """As in training by this plan: as many episodes a step, the same advantages, and as many steps unless given."""
        checks.of_type("plan", plan, Plan, "a Plan")
        return cls(plan.steps if steps is None else steps, plan.episodes, score_episodes, plan.support)

    def __post_init__(self) -> None:
        """Refuses counts that measure nothing, and advantages that ask for other tasks."""
        for name, least in (("steps", 0), ("episodes", 1), ("score_episodes", 1)):
            checks.whole(name, getattr(self, name), least)
        checks.of_type("support", self.support, Advantages, ADVANTAGES)
        self.support.refuse_company()


class AdaptationCurve(NamedTuple):
    """Returns of every held-out task after every number of steps; all ``[tasks, K + 1]``."""

    sampled: Tensor  # mean return of the policy as it acts in training, with sampled actions
    mode: Tensor  # mean return with mean (Gaussian) or most likely (categorical) actions
    adaptation_steps: Tensor  # environment steps spent on adapting so far
    adaptation_episodes: Tensor  # episodes spent on adapting so far

    @classmethod
    def from_stages(cls, stages: Iterable[tuple[Tensor, ...]]) -> AdaptationCurve:
        """From the four fields of each stage in turn, ``[tasks]`` each."""
        return cls(*(torch.stack(field, dim=1) for field in zip(*stages, strict=True)))


def refuse_training_tasks(benchmark: Benchmark, task: Task) -> None:
    """Check that training cannot have drawn any of the tasks: by their values, wherever they came from.

    Raises:
        TrainingTaskError: at least one task lies in the training set.
        TypeError: a benchmark that is none, such as a family.
    """
    expect_benchmark(benchmark)
    task_count(task)
    seen = int(benchmark.is_training(task).sum())
    if seen:
        raise TrainingTaskError(
            f"{seen} of {task_count(task)} tasks are training tasks of {benchmark.name!r}: expected held-out tasks; "
            f"draw them from one of its splits {list(benchmark.splits)}"
        )


class Stage(NamedTuple):
    """Where an adaptation stands after one of its steps, or before the first."""

    params: Params
    """shared by all tasks before the first step ``[...]``, then one set a task ``[T, ...]``"""
    batch: Batch | None
    """the episodes ``[T, H, N, ...]`` that the last step was taken on, with their advantages; None before the first"""


@torch.no_grad()
def adapt(
    learner: Learner, family: TaskFamily, task: Task, adaptation: Adaptation, *, generator: torch.Generator
) -> Iterator[Stage]:
    """Adapt to every task, each step on freshly sampled episodes, without a graph.

    A generator of K + 1 stages: a step is taken when the next one is asked for, and between them ``generator`` may be
    used for other things.

    Args:
        learner: not changed.
        family: the environments.
        task: values ``[T]``, on the learner's device.
        adaptation: how many steps, on how many episodes.
        generator: noise.

    Raises:
        NonFiniteError: a step leaves the finite numbers.
        TypeError: a learner, family, adaptation or generator that is none.
        ValueError: a task that the family has no equations for, if it can tell (``family.validate``), or a policy
            that does not fit its spaces.
    """
    checks.of_type("learner", learner, Learner, "a Learner")
    expect_family(family)
    checks.of_type("adaptation", adaptation, Adaptation, "an Adaptation, such as Adaptation.like(plan)")
    checks.generator(generator)
    task_count(task)
    getattr(family, "validate", lambda _: None)(task)
    refuse_misfit(learner.policy, family)
    refuse_width(learner.policy, family)
    params, state = learner.start()
    yield Stage(params, None)
    for k in range(adaptation.steps):
        episodes = collect(learner.policy, params, family, task, adaptation.episodes, generator=generator)
        batch = adaptation.support(episodes)
        params, state = step_tasks(learner, params, state, batch)
        refuse_divergence(learner, params, k + 1)
        yield Stage(params, batch)


@torch.no_grad()
def adaptation_curve(
    learner: Learner,
    family: TaskFamily,
    task: Task,
    adaptation: Adaptation,
    *,
    generator: torch.Generator,
) -> AdaptationCurve:
    """Adapt K times on every task and score each stage on fresh episodes.

    Args:
        learner: not changed.
        family: the environments.
        task: values ``[T]`` on the learner's device. Nothing here knows whether they were trained on:
            `evaluate` does.
        adaptation: how many steps, on how many episodes.
        generator: noise; learners evaluated with equal generators see common noise.
    """
    spent = torch.zeros(task_count(task), device=next(iter(task.values())).device)
    stages = []
    for k, (params, batch) in enumerate(adapt(learner, family, task, adaptation, generator=generator)):
        scored = adaptation.score_episodes
        sampled = collect(learner.policy, params, family, task, scored, generator=generator)
        mode = collect(learner.policy, params, family, task, scored, generator=generator, act="mode")
        spent = spent if batch is None else spent + batch.steps
        used = torch.full_like(spent, float(k * adaptation.episodes))
        stages.append((sampled.episode_return.mean(-1), mode.episode_return.mean(-1), spent, used))
    return AdaptationCurve.from_stages(stages)


def in_chunks(function: Callable[[Params], Any], task: Task, chunk: int = CHUNK) -> Any:
    """``function(task)``, a few tasks at a time to bound memory; the results are joined, on the CPU.

    Args:
        function: of tasks ``[t]``, to nested tuples and dicts of tensors ``[t, ...]``.
        task: values ``[T]``.
        chunk: tasks at a time.

    Raises:
        ValueError: an empty task set or chunk.
    """
    tasks = task_count(task)
    checks.whole("chunk", chunk)
    if tasks < 1:
        raise ValueError(f"expected at least one task, got {tasks}")
    parts = [function(sliced(dict(task), low, low + chunk)) for low in range(0, tasks, chunk)]
    return map_leaves(Tensor.cpu, joined(parts))


def evaluate(
    learner: Learner,
    benchmark: Benchmark,
    task: Task,
    adaptation: Adaptation,
    *,
    generator: torch.Generator,
    chunk: int = CHUNK,
) -> AdaptationCurve:
    """`adaptation_curve` on held-out tasks only, ``chunk`` tasks at a time to bound memory; results on the CPU.

    Noise is drawn chunk by chunk: learners to be compared on common noise need the same ``chunk``.

    Raises:
        TrainingTaskError: a task that training may have drawn.
        TypeError: a benchmark that is none, such as a family.
        ValueError: an empty task set or chunk.
    """
    refuse_training_tasks(benchmark, task)
    device = next(learner.parameters()).device

    def curve(part: Params) -> AdaptationCurve:
        return adaptation_curve(learner, benchmark.family, to_device(part, device), adaptation, generator=generator)

    found: AdaptationCurve = in_chunks(curve, task, chunk)
    return found
