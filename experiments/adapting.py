"""Work with one task at a time: choose it, adapt a learner's parameters to it step by step, and play an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.build import Setup
from experiments.errors import InputError
from experiments.evaluate import Protocol, held_out_tasks
from experiments.streams import stream
from metarl.evaluation import Adaptation, adapt
from metarl.rollouts import Act, collect
from metarl.types import Benchmark, Params, State, Task, TaskFamily


@dataclass(frozen=True, kw_only=True)
class OneTask:
    """Options of scripts that work with one task."""

    split: str = "test"
    """held-out split of the benchmark: test, validation, interpolation, extrapolation, ..."""
    index: int = 0
    """which of the 100 held-out tasks that runs are scored on, from 0"""
    constants: tuple[str, ...] = ()
    """a task of your own instead of one of the split, given as constant=value"""

    def is_given(self) -> bool:
        """Return whether any of these options was changed."""
        return (self.split, self.index, self.constants) != (OneTask.split, OneTask.index, OneTask.constants)

    def refuse_two(self) -> None:
        """Check that the task is given in one way.

        Raises:
            InputError: it is given both by constants and as one of a split.
        """
        if self.constants and (self.split, self.index) != (OneTask.split, OneTask.index):
            raise InputError(
                f"expected either --constants or a held-out task, got both (--split {self.split} --index "
                f"{self.index}); leave one out"
            )


def one_held_out(benchmark: Benchmark, split: str, index: int, constants: Sequence[str]) -> Params:
    """Return one task ``[1]``: number ``index`` of those that `experiments.evaluate` scores, or that of ``constants``.

    Raises:
        InputError: there is no such split or task, or the family refuses the constants.
    """
    scored = Protocol(split=split, constants=tuple(constants))
    if not 0 <= index < scored.tasks:
        raise InputError(f"expected a task index from 0 to {scored.tasks - 1}, as runs are scored on, got {index}")
    tasks = held_out_tasks(benchmark, scored)
    return tasks if constants else {name: value[index : index + 1] for name, value in tasks.items()}


def adapted(
    setup: Setup, task: Task, steps: int, *, episodes: int | None = None, generator: torch.Generator
) -> list[Params]:
    """Return the policy's parameters after 0, 1, ..., K adaptation steps on one task, each on fresh episodes.

    Args:
        setup: a run on the CPU.
        task: one task ``[1]``.
        steps: number of steps K.
        episodes: episodes per adaptation step; defaults to as many as in training.
        generator: source of noise.
    """
    adaptation = Adaptation(steps, episodes or setup.plan.episodes, support=setup.plan.support)
    first, *later = adapt(setup.learner, setup.benchmark.family, task, adaptation, generator=generator)
    return [first.params, *({name: leaf[0] for name, leaf in stage.params.items()} for stage in later)]


@dataclass(frozen=True)
class Episode:
    """An episode of L steps, to be shown."""

    states: list[dict[str, float]]
    """L + 1 states, including the last"""
    returns: list[float]
    """L + 1 sums of rewards so far, beginning with 0"""


@torch.no_grad()
def play(setup: Setup, task: Task, params: Params, *, act: Act, seed: int) -> Episode:
    """Play an episode with given parameters on one task ``[1]``; equal seeds give equal starts and action noise."""
    family = _Recorder(setup.benchmark.family)
    noise = stream(seed, "playing")
    batch = collect(setup.learner.policy, params, family, task, 1, generator=noise, act=act)
    length = int(batch.mask.sum())
    returns = torch.cat((torch.zeros(1), batch.reward[0, :length, 0].double().cumsum(0))).tolist()
    return Episode(family.states[: length + 1], returns)


class _Recorder:
    """Wrap a family to record its states whenever it is observed: in rollouts, at the start and after every step."""

    def __init__(self, family: TaskFamily) -> None:
        self._family, self.states = family, list[dict[str, float]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def observe(self, task: Task, state: State) -> torch.Tensor:
        self.states.append(_numbers(state))
        return self._family.observe(task, state)


def _numbers(state: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Return the parts of a state that are a single number, given a single row ``[1, 1]``."""
    return {name: value.item() for name, value in state.items() if value.numel() == 1}
