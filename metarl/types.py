"""The words the library is written in: one type per arrow of the data flow.

Shape legend, used in every docstring:

====  =======================================================
T     tasks of a meta-batch
H     time steps of the horizon (a batch may hold fewer: it stops when every episode has ended)
N     episodes per task
K     adaptation (inner) steps
====  =======================================================

A function that serves one task sees ``[H, N, ...]``; lifted over tasks with ``torch.func.vmap`` it
sees ``[T, H, N, ...]``. Nothing in ``metarl`` knows an environment: families satisfy the protocols
below structurally.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from metarl import checks

Params = dict[str, Tensor]
"""A policy's parameters by name, ``[...]`` for one task or ``[T, ...]`` stacked over tasks."""

Task = Mapping[str, Tensor]
"""Independent constants of a task by name: ``[T]`` for a set of tasks. Never touched by a reset."""

State = dict[str, Tensor]
"""What changes within an episode, by name; every tensor has the rows' shape, such as ``[T, N]``."""


Transition = tuple[State, Tensor, Tensor]
"""Next state, reward ``[...]``, terminated ``[...]`` (bool: ended by the rules of the task, not by the clock)."""


class TaskFamily(Protocol):
    """Environments that share their spaces and differ in named constants.

    The three stepping methods are elementwise: a task's values broadcast against the rows. The same
    lines therefore run one environment (0-d values), ``[T, N]`` environments (values ``[T, 1]``), on
    CPU or GPU. Random numbers are drawn on the generator's device and moved to the rows' device, so
    that a CPU generator gives the same numbers on every device.
    """

    @property
    def observation_space(self) -> Any:
        """A ``gymnasium.spaces.Space``, the same for every task."""

    @property
    def action_space(self) -> Any:
        """A ``gymnasium.spaces.Space``, the same for every task."""

    @property
    def horizon(self) -> int:
        """Time limit in steps: an episode still alive then is truncated."""

    def sample(self, tasks: int, *, generator: torch.Generator) -> Task:
        """Draw ``tasks`` tasks; every value has shape ``[T]``."""

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """First states of the given row shape; ``task`` values broadcast to ``rows``."""

    def observe(self, task: Task, state: State) -> Tensor:
        """What the agent sees, ``[*rows, *observation_space.shape]``."""

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """One step of every row. ``action`` is ``[*rows, *action_space.shape]``."""


class Benchmark(Protocol):
    """A family with a training distribution and held-out splits disjoint from it."""

    @property
    def name(self) -> str:
        """How the benchmark is called in reports."""

    @property
    def family(self) -> TaskFamily:
        """The environments, shared by all splits."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the held-out splits; ``"train"`` is never one of them."""

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> Task:
        """Draw tasks of ``"train"`` or of a held-out split; values ``[T]``."""

    def is_training(self, task: Task) -> Tensor:
        """Which tasks training could have drawn, ``[T]`` bool. A function of the values alone."""

    def fingerprint(self) -> str:
        """A hash of everything that decides which tasks are training tasks."""


def expect_family(family: TaskFamily) -> None:
    """Check that a family is one: a benchmark has one.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(family, "step"):
        raise TypeError(f"expected a family, got {checks.told(family)}; of a benchmark give its .family")


def expect_benchmark(benchmark: Benchmark) -> None:
    """Check that a benchmark is one: a family alone does not know which tasks are held out.

    Raises:
        TypeError: it is none.
    """
    if not hasattr(benchmark, "splits"):
        raise TypeError(
            f"benchmark: expected one with held-out splits, got {checks.told(benchmark)}; "
            "TaskBenchmark(name, family) makes one of a family"
        )


class Batch(NamedTuple):
    """Episodes of one task, ``[H, N, ...]``; or of many, ``[T, H, N, ...]``.

    All episodes start together and are padded after their end; ``mask`` is 1 on real steps. Only the
    sampled data live here, never a graph.
    """

    observation: Tensor  # [H, N, *observation]
    action: Tensor  # [H, N, *action]
    distribution: Any  # the sampling policy's action distribution, a NamedTuple of [H, N, ...]
    log_prob: Tensor  # [H, N] of the action under the sampling policy
    reward: Tensor  # [H, N], 0 on padding
    mask: Tensor  # [H, N], 1.0 while the episode runs, 0.0 after its end
    terminated: Tensor  # [H, N] bool, true on the step that ended an episode by the rules of the task
    last_observation: Tensor  # [N, *observation] after the last step; bootstraps truncated episodes
    advantage: Tensor  # [H, N], 0 until an estimator filled it in
    value: Tensor  # [H, N] baseline's prediction, 0 until an estimator filled it in
    live: Tensor  # [R] where the real steps are, [0] for everywhere: see `metarl.packing.live_steps`

    @property
    def episode_return(self) -> Tensor:
        """Undiscounted return of every episode, ``[N]`` (or ``[T, N]``)."""
        return self.reward.sum(-2)

    @property
    def steps(self) -> Tensor:
        """Environment steps really taken, a count per task."""
        return self.mask.sum((-2, -1))


class Trace(NamedTuple):
    """All that exploration recorded for one meta-iteration: enough to replay it with a graph."""

    support: tuple[Batch, ...]  # K batches, each sampled with the parameters before that step
    query: Batch  # sampled with the adapted parameters
    outcome: Tensor  # [] a task: how well adapting went, minus what was to be expected: credit to the exploring policy
    gain: Tensor  # [] a task: what adapting gained, minus what was to be expected: credit to a rule acting at random
    noise: dict[str, Tensor]  # what such a rule drew, by name; empty for others
    leads: tuple[Tensor, ...] = ()  # [N] an episode of each support batch that earns credit: see `exploration.leads`
