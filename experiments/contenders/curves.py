"""Measure the adaptation curves of contenders that are not learners of metarl in the same way as those that are."""

from __future__ import annotations

from collections.abc import Callable

from experiments.build import Setup
from experiments.contenders.budget import Spent
from experiments.contenders.learners import Measure, Result, as_trained
from experiments.evaluate import Protocol, adaptation_of, held_out_tasks, refuse, written
from experiments.streams import stream
from metarl import AdaptationCurve
from metarl.evaluation import in_chunks, refuse_training_tasks
from metarl.types import Benchmark, Params

Curve = Callable[..., AdaptationCurve]
"""``curve(task, adaptation, generator=...)`` maps tasks ``[T]`` to a curve with columns ``[T, K + 1]``."""


def curve_measured(name: str, setup: Setup, curve: Curve, spent: Spent) -> Measure:
    """Return a function that evaluates a curve, with results in the layout of `experiments.evaluate.measure`."""
    config = setup.config

    def under(protocol: Protocol) -> Result:
        protocol = as_trained(protocol, config)
        task, adaptation = tasks_of(setup.benchmark, protocol), adaptation_of(protocol)
        noise = stream(protocol.seed, "evaluation noise")
        whole = in_chunks(lambda part: curve(part, adaptation, generator=noise), task)
        told = written(name, config, setup.benchmark, protocol, task, whole)
        return told | spent.report() | {"reported": config.steps}

    return under


def tasks_of(benchmark: Benchmark, protocol: Protocol) -> Params:
    """Return the protocol's held-out tasks.

    Raises:
        InputError: the split is unknown, or the protocol's counts are too small.
        TrainingTaskError: training may have drawn some of the tasks.
    """
    refuse(protocol)
    task = held_out_tasks(benchmark, protocol)
    refuse_training_tasks(benchmark, task)
    return task
