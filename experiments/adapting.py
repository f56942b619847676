"""One task at a time: which, what a learner's parameters become on it step by step, and an episode of theirs."""

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


def one_held_out(benchmark: Benchmark, split: str, index: int, constants: Sequence[str]) -> Params:
    """Task ``index`` of those that `experiments.evaluate` scores runs on, ``[1]``; or the user's own ``constants``.

    Raises:
        InputError: no such split or task, or constants that the family refuses.
    """
    scored = Protocol(split=split, constants=tuple(constants))
    if not 0 <= index < scored.tasks:
        raise InputError(f"expected a task of 0 to {scored.tasks - 1}, those that runs are scored on, got {index}")
    tasks = held_out_tasks(benchmark, scored)
    return tasks if constants else {name: value[index : index + 1] for name, value in tasks.items()}


def adapted(
    setup: Setup, task: Task, steps: int, *, episodes: int | None = None, generator: torch.Generator
) -> list[Params]:
    """A policy's parameters after 0, 1, ..., K gradient steps on one task, each on freshly sampled episodes.

    Args:
        setup: a run, on the CPU.
        task: ``[1]``.
        steps: K.
        episodes: a step adapts on; the training's unless given.
        generator: noise.
    """
    adaptation = Adaptation(steps, episodes or setup.plan.episodes, support=setup.plan.support)
    first, *later = adapt(setup.learner, setup.benchmark.family, task, adaptation, generator=generator)
    return [first.params, *({name: leaf[0] for name, leaf in stage.params.items()} for stage in later)]


@dataclass(frozen=True)
class Episode:
    """One episode, to be looked at: L steps."""

    states: list[dict[str, float]]
    """L + 1, the last one included"""
    returns: list[float]
    """so far, L + 1, beginning with 0"""


@torch.no_grad()
def play(setup: Setup, task: Task, params: Params, *, act: Act, seed: int) -> Episode:
    """An episode with these parameters on one task ``[1]``; equal seeds begin alike and act on equal noise."""
    family = _Recorder(setup.benchmark.family)
    noise = stream(seed, "playing")
    batch = collect(setup.learner.policy, params, family, task, 1, generator=noise, act=act)
    length = int(batch.mask.sum())
    returns = torch.cat((torch.zeros(1), batch.reward[0, :length, 0].double().cumsum(0))).tolist()
    return Episode(family.states[: length + 1], returns)


class _Recorder:
    """A family that remembers the states it is looked at in: rollouts look once at the start and after every step."""

    def __init__(self, family: TaskFamily) -> None:
        self._family, self.states = family, list[dict[str, float]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def observe(self, task: Task, state: State) -> torch.Tensor:
        self.states.append(_numbers(state))
        return self._family.observe(task, state)


def _numbers(state: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """What is one number in the first row ``[1, 1]``."""
    return {name: value.item() for name, value in state.items() if value.numel() == 1}
