"""Meta-training: explore with the current learner, then let a meta-optimizer improve it by replaying the trace."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import torch

from metarl import checks
from metarl.errors import NonFiniteError
from metarl.exploration import Plan, explore_together, refuse_no_credit, refuse_unequal
from metarl.learner import Learner
from metarl.optimizers import MetaOptimizer
from metarl.policies import refuse_misfit, refuse_width
from metarl.rollouts import task_count, to_device
from metarl.trees import joined
from metarl.types import Benchmark, Task, TaskFamily, Trace, expect_benchmark

Metrics = dict[str, float]


def meta_step(
    learner: Learner,
    optimizer: MetaOptimizer,
    family: TaskFamily,
    task: Task,
    plan: Plan,
    *,
    generator: torch.Generator,
) -> Metrics:
    """Run one meta-iteration on a set of tasks: explore, then improve the learner. Return its metrics by name."""
    return meta_steps([learner], [optimizer], family, [task], plan, generators=[generator])[0]


def meta_steps(
    learners: Sequence[Learner],
    optimizers: Sequence[MetaOptimizer],
    family: TaskFamily,
    tasks: Sequence[Task],
    plan: Plan,
    *,
    generators: Sequence[torch.Generator],
) -> list[Metrics]:
    """Run one meta-iteration of S learners, such as several seeds, in one joint rollout; see `explore_together`.

    Returns:
        The metrics of each learner; times are divided equally among them.

    Raises:
        TypeError: an optimizer that is not a meta-optimizer, such as one of torch's; also see `explore_together`.
        ValueError: different numbers of learners, optimizers, task sets or generators; also see `refuse_no_credit` and
            `explore_together`.
    """
    given = {"learners": learners, "optimizers": optimizers, "task sets": tasks, "generators": generators}
    refuse_unequal(given)
    for optimizer in optimizers:
        checks.of_type("optimizer", optimizer, MetaOptimizer, "a meta-optimizer, such as Descent(learner)")
    checks.of_type("plan", plan, Plan, "a Plan")
    for one, optimizer, task in zip(learners, optimizers, tasks, strict=True):
        checks.of_type("learner", one, Learner, "a Learner")
        optimizer.refuse(one)
        refuse_no_credit(one, plan, task_count(task))
    started = time.perf_counter()
    teams = [
        optimizer.explorers(one, generator=g)
        for one, optimizer, g in zip(learners, optimizers, generators, strict=True)
    ]
    # all members of a team explore with common noise: each gets a copy of the generator
    alike = [[g, *(g.clone_state() for _ in team[1:])] for g, team in zip(generators, teams, strict=True)]
    found = explore_together(
        [one for team in teams for one in team],
        family,
        [task for task, team in zip(tasks, teams, strict=True) for _ in team],
        plan,
        generators=[g for twins in alike for g in twins],
    )
    explored = iter(found)
    traces = [joined([next(explored) for _ in team]) for team in teams]  # along the tasks
    sampled = time.perf_counter()
    metrics = [_improve(*one) for one in zip(learners, optimizers, traces, strict=True)]
    updated = time.perf_counter()
    times = {"time/explore": (sampled - started) / len(metrics), "time/update": (updated - sampled) / len(metrics)}
    return [one | times for one in metrics]


def _improve(learner: Learner, optimizer: MetaOptimizer, trace: Trace) -> Metrics:
    metrics = optimizer.step(learner, trace)
    batches = (*trace.support, trace.query)
    found = [*(batch.episode_return.mean() for batch in batches), *(batch.steps.double().sum() for batch in batches)]
    told = torch.stack([one.double() for one in found]).tolist()  # one host-device synchronisation
    returns = {f"return/step_{k}": told[k] for k in range(len(batches))}
    return metrics | returns | {"env_steps": sum(told[len(batches) :])}


def meta_train(
    learner: Learner,
    optimizer: MetaOptimizer,
    benchmark: Benchmark,
    plan: Plan,
    *,
    generator: torch.Generator,
    task_generator: torch.Generator,
    start: int = 0,
    patience: int = 0,
) -> Iterator[tuple[int, Metrics]]:
    """Meta-train on the benchmark's training tasks, yielding after every iteration, until the caller stops.

    This is a generator, so that the caller's own ``for`` loop logs, evaluates, saves and stops.

    Args:
        learner: improved in place; on the device to train on.
        optimizer: the meta-optimizer, built for this learner.
        benchmark: every iteration samples new tasks from its ``"train"`` split.
        plan: what to sample.
        generator: draws the rollout noise.
        task_generator: draws the tasks; separate, so that two algorithms can be trained on the same tasks.
        start: number of iterations already done, when resuming.
        patience: how many iterations in a row may be aborted because a value is not finite. An aborted iteration
            leaves the learner unchanged, counts as many environment steps as it could have taken at most, and its
            returns are NaN. Aborted iterations before a resume are not counted.

    Yields:
        The number of iterations done, and the metrics of the last one.

    Raises:
        TypeError: a learner, benchmark, plan or generator of the wrong type, such as a family as the benchmark.
        ValueError: a policy that does not fit the spaces of the benchmark's family.
        NonFiniteError: a value is not finite, after ``patience`` aborted iterations in a row.
    """
    expect_benchmark(benchmark)
    checks.of_type("learner", learner, Learner, "a Learner")
    checks.of_type("plan", plan, Plan, "a Plan")
    checks.generator(generator)
    checks.generator(task_generator, "task_generator")
    checks.whole("start", start, 0)
    checks.whole("patience", patience, 0)
    refuse_misfit(learner.policy, benchmark.family)
    refuse_width(learner.policy, benchmark.family)
    device, broken = next(learner.parameters()).device, 0
    for iteration in itertools.count(start + 1):
        task = to_device(benchmark.sample("train", plan.tasks, generator=task_generator), device)
        try:
            metrics = meta_step(learner, optimizer, benchmark.family, task, plan, generator=generator)
            broken = 0
        except NonFiniteError:
            broken += 1
            if broken > patience:
                raise
            metrics = _broken(plan, benchmark.family, optimizer.team)
        yield iteration, metrics


def _broken(plan: Plan, family: TaskFamily, team: int) -> Metrics:
    """Return the metrics of an aborted iteration, which counts as many environment steps as it could have taken."""
    returns = {f"return/step_{k}": float("nan") for k in range(plan.steps + 1)}
    scoring = family if plan.scored_in is None else plan.scored_in
    episode = plan.steps * plan.episodes * family.horizon + plan.query_episodes * scoring.horizon
    return {"meta/skipped": 1.0, **returns, "env_steps": float(team * plan.tasks * episode)}
