"""Evaluation: how well a learner adapts to held-out tasks, as the return after 0, 1, …, K adaptation steps.

Returns are measured on fresh episodes, never on those that the learner adapted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl import checks
from metarl.advantages import ADVANTAGES, Advantages
from metarl.exploration import Plan
from metarl.learner import Learner, refuse_divergence, step_tasks
from metarl.policies import refuse_misfit, refuse_width
from metarl.rollouts import collect, task_count, to_device
from metarl.trees import joined, map_leaves, sliced
from metarl.types import Batch, Benchmark, Params, Task, TaskFamily, expect_benchmark, expect_family

CHUNK = 100
"""Tasks evaluated at a time. Noise is drawn chunk by chunk, so that common noise requires equal chunks."""


class TrainingTaskError(ValueError):
    """Held-out performance was requested for tasks that training may have seen."""


@dataclass(frozen=True)
class Adaptation:
    """How to adapt to a task, and on how many episodes to score the result.

    Attributes:
        steps: K, adaptation steps; may exceed the number used in training.
        episodes: episodes per adaptation step.
        score_episodes: fresh episodes on which each of the K + 1 stages is scored.
        support: advantages of the inner loss, as in training.
    """

    steps: int = 1
    episodes: int = 20
    score_episodes: int = 20
    support: Advantages = field(default_factory=Advantages)

    @classmethod
    def like(cls, plan: Plan, *, steps: int | None = None, score_episodes: int = 20) -> Adaptation:
        """Return the adaptation of a training plan: its episodes per step, its advantages, and by default its steps."""
        checks.of_type("plan", plan, Plan, "a Plan")
        return cls(plan.steps if steps is None else steps, plan.episodes, score_episodes, plan.support)

    def __post_init__(self) -> None:
        """Reject counts that are too small, and advantages that depend on other tasks."""
        for name, least in (("steps", 0), ("episodes", 1), ("score_episodes", 1)):
            checks.whole(name, getattr(self, name), least)
        checks.of_type("support", self.support, Advantages, ADVANTAGES)
        self.support.refuse_company()


class AdaptationCurve(NamedTuple):
    """Returns on every task after 0, 1, …, K adaptation steps; all fields are ``[tasks, K + 1]``."""

    sampled: Tensor  # mean return with sampled actions, as in training
    mode: Tensor  # mean return with mean (Gaussian) or most likely (categorical) actions
    adaptation_steps: Tensor  # environment steps used for adapting so far
    adaptation_episodes: Tensor  # episodes used for adapting so far

    @classmethod
    def from_stages(cls, stages: Iterable[tuple[Tensor, ...]]) -> AdaptationCurve:
        """Build a curve from the four fields of each stage in turn, ``[tasks]`` each."""
        return cls(*(torch.stack(field, dim=1) for field in zip(*stages, strict=True)))


def refuse_training_tasks(benchmark: Benchmark, task: Task) -> None:
    """Check, by their values, that training cannot have drawn any of the tasks.

    Raises:
        TrainingTaskError: at least one task belongs to the training set.
        TypeError: ``benchmark`` is not a benchmark, but for example a family.
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
    """The state of an adaptation before its first step, or after one of its steps."""

    params: Params
    """before the first step one set shared by all tasks ``[...]``, afterwards one set per task ``[T, ...]``"""
    batch: Batch | None
    """the episodes ``[T, H, N, ...]`` of the last step, with their advantages; None before the first step"""


@torch.no_grad()
def adapt(
    learner: Learner, family: TaskFamily, task: Task, adaptation: Adaptation, *, generator: torch.Generator
) -> Iterator[Stage]:
    """Adapt to every task, each step on freshly sampled episodes, without a graph.

    This is a Python generator that yields K + 1 stages. It takes a step only when the next stage is requested, so that
    the caller may use ``generator`` in between, for example to score a stage.

    Args:
        learner: not changed.
        family: the environments.
        task: values ``[T]``, on the learner's device.
        adaptation: how many steps, on how many episodes.
        generator: draws the rollout noise.

    Yields:
        The stage before the first step, then the stage after each step.

    Raises:
        NonFiniteError: a rollout or a step gives NaN or infinity.
        TypeError: a learner, family, adaptation or generator of the wrong type.
        ValueError: a task that the family rejects (if it has ``validate``), or a policy that does not fit its spaces.
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
    """Take K adaptation steps on every task, and score each stage on fresh episodes.

    Args:
        learner: not changed.
        family: the environments.
        task: values ``[T]``, on the learner's device. They may be training tasks: only `evaluate` checks that they
            are held out.
        adaptation: how many steps, on how many episodes.
        generator: draws the rollout noise; learners evaluated with equal generators see common noise.
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
    """Return ``function(task)``, computed for a few tasks at a time to bound memory, and joined on the CPU.

    Args:
        function: maps tasks ``[t]`` to nested tuples and dicts of tensors ``[t, ...]``.
        task: values ``[T]``.
        chunk: tasks at a time.

    Raises:
        ValueError: an empty task set, or a chunk below 1.
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
    """Return the `adaptation_curve` on held-out tasks, on the CPU, computed for ``chunk`` tasks at a time.

    Chunks bound the use of memory. Noise is drawn chunk by chunk: to compare learners on common noise, use the same
    ``chunk``.

    Raises:
        TrainingTaskError: a task that training may have drawn.
        TypeError: ``benchmark`` is not a benchmark, but for example a family.
        ValueError: an empty task set, or a chunk below 1.
    """
    refuse_training_tasks(benchmark, task)
    device = next(learner.parameters()).device

    def curve(part: Params) -> AdaptationCurve:
        return adaptation_curve(learner, benchmark.family, to_device(part, device), adaptation, generator=generator)

    found: AdaptationCurve = in_chunks(curve, task, chunk)
    return found
