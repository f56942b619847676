"""Types shared by the whole library: the data that its stages pass to each other.

Shapes in all docstrings use these letters:

====  =======================================================
T     tasks of a meta-batch
H     time steps, at most the horizon (a batch stops early once every episode has ended)
N     episodes per task
K     adaptation (inner) steps
====  =======================================================

A function written for one task takes ``[H, N, ...]``; ``torch.func.vmap`` lifts it over tasks, to
``[T, H, N, ...]``. ``metarl`` does not import any environment: environment families only have to
satisfy the protocols below.
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
"""The independent constants that define a task, by name; ``[T]`` for a set of tasks. A reset never changes them."""

State = dict[str, Tensor]
"""The variables that change within an episode, by name. Every tensor has the shape of the rows, such as ``[T, N]``."""


Transition = tuple[State, Tensor, Tensor]
"""Next state, reward ``[...]`` and terminated ``[...]``, a bool: ended by the rules of the task, not by the time
limit."""


class TaskFamily(Protocol):
    """Environments with the same spaces that differ in named constants.

    A row is one environment. `reset`, `observe` and `step` are elementwise: the task's values broadcast
    against the rows. The same code therefore runs a single environment (0-d values) or ``[T, N]`` of them
    (values ``[T, 1]``), on CPU or GPU. Random numbers are drawn on the generator's device and then moved
    to the rows' device, so that a CPU generator gives the same numbers on every device.
    """

    @property
    def observation_space(self) -> Any:
        """A ``gymnasium.spaces.Space``, the same for every task."""

    @property
    def action_space(self) -> Any:
        """A ``gymnasium.spaces.Space``, the same for every task."""

    @property
    def horizon(self) -> int:
        """Time limit in steps; an episode that is still running then is truncated."""

    def sample(self, tasks: int, *, generator: torch.Generator) -> Task:
        """Draw ``tasks`` tasks; every value has shape ``[T]``."""

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return initial states for rows of shape ``rows``; the values of ``task`` broadcast to it."""

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the observation of every row, ``[*rows, *observation_space.shape]``."""

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one step in every row. ``action`` is ``[*rows, *action_space.shape]``."""


class Benchmark(Protocol):
    """A family together with a training distribution and held-out splits that are disjoint from it."""

    @property
    def name(self) -> str:
        """The benchmark's name in reports."""

    @property
    def family(self) -> TaskFamily:
        """The environments, shared by all splits."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the held-out splits; ``"train"`` is never one of them."""

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> Task:
        """Draw tasks from ``"train"`` or from a held-out split; values ``[T]``."""

    def is_training(self, task: Task) -> Tensor:
        """Return which tasks training could have drawn, ``[T]`` bool, judging by their values alone."""

    def fingerprint(self) -> str:
        """Return a hash of everything that decides which tasks are training tasks."""


def expect_family(family: TaskFamily) -> None:
    """Check that ``family`` is a task family, and not, for example, the benchmark that holds it.

    Raises:
        TypeError: it is not a family.
    """
    if not hasattr(family, "step"):
        raise TypeError(f"expected a family, got {checks.told(family)}; for a benchmark, pass its .family")


def expect_benchmark(benchmark: Benchmark) -> None:
    """Check that ``benchmark`` is a benchmark. A family alone does not define which tasks are held out.

    Raises:
        TypeError: it is not a benchmark.
    """
    if not hasattr(benchmark, "splits"):
        do = "call it" if callable(benchmark) else "TaskBenchmark(name, family) makes one from a family"
        raise TypeError(f"benchmark: expected one with held-out splits, got {checks.told(benchmark)}; {do}")


class Batch(NamedTuple):
    """Episodes of one task, ``[H, N, ...]``, or of T tasks, ``[T, H, N, ...]``.

    All episodes start at the first step and are padded after their end; ``mask`` is 1 on real steps. A
    batch holds sampled data only, never an autograd graph.
    """

    observation: Tensor  # [H, N, *observation]
    action: Tensor  # [H, N, *action]
    distribution: Any  # the sampling policy's action distribution, a NamedTuple of [H, N, ...]
    log_prob: Tensor  # [H, N], log-probability of the action under the sampling policy
    reward: Tensor  # [H, N], 0 on padding
    mask: Tensor  # [H, N], 1.0 while the episode runs, 0.0 after its end
    terminated: Tensor  # [H, N] bool, true on the step that ended an episode by the rules of the task
    last_observation: Tensor  # [N, *observation] after the last step; bootstraps truncated episodes
    advantage: Tensor  # [H, N], 0 until an estimator fills it in
    value: Tensor  # [H, N], the baseline's prediction, 0 until an estimator fills it in
    live: Tensor  # [R] positions of the real steps, or [0] for all steps: see `metarl.packing.live_steps`

    @property
    def episode_return(self) -> Tensor:
        """Undiscounted return of every episode, ``[N]`` (or ``[T, N]``)."""
        return self.reward.sum(-2)

    @property
    def steps(self) -> Tensor:
        """Number of environment steps taken, without padding: one count per task."""
        return self.mask.sum((-2, -1))


class Trace(NamedTuple):
    """Everything recorded while exploring in one meta-iteration; enough to replay adaptation with a graph."""

    support: tuple[Batch, ...]  # K batches, each sampled with the parameters before that adaptation step
    query: Batch  # sampled with the adapted parameters
    outcome: Tensor  # [] per task: (return after adapting - other tasks' mean) / steps; credit for the exploring policy
    gain: Tensor  # [] per task: (return gained by adapting - other tasks' mean) / steps; credit for a stochastic rule
    noise: dict[str, Tensor]  # what a stochastic rule drew, by name; empty for other rules
    leads: tuple[Tensor, ...] = ()  # [N] per support batch: credit of each of its episodes; see `exploration.leads`
