"""Shared by the single and the vector environment: sources of tasks and random numbers, and checks of actions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from torch import Tensor

from ..checks import chosen, refuse_unknown
from ..family import Family, Task
from ..splits import TaskBenchmark

Source = Family | TaskBenchmark
Values = Mapping[str, Any]  # constants by name: numbers, or arrays with one number per row
OPTIONS = ("task",)
TRIES = 300  # draws before pinned constants are considered to leave no task in a split
Indices = npt.NDArray[np.int64]


class Tasks:
    """Tasks of many rows, drawn from a family or from a split of a benchmark, with constants optionally pinned.

    Pinning a constant may move a task to another split of the benchmark, so tasks are redrawn until they belong to the
    requested split with the pinned values.

    Args:
        source: a family, from whose ranges tasks are drawn, or a benchmark.
        split: split of the benchmark: ``"train"`` or a held-out split.
        pinned: constants with given values, which are not drawn.
        count: number of rows.

    Attributes:
        pins: pinned values ``[count]`` by constant, NaN where nothing is pinned.

    Raises:
        ValueError: there is no such split, or a pinned constant does not exist or has an invalid value.
        TypeError: ``source`` is neither a family nor a benchmark, ``pinned`` is not a mapping, or a pinned value is not
            a number.
    """

    def __init__(self, source: Source, split: str, pinned: Values | None, count: int) -> None:
        if not isinstance(source, Source):
            raise TypeError(f"expected a Family or a TaskBenchmark, got {source!r}; give CartPole() or cartpole_wide()")
        known = ("train", *source.splits) if not isinstance(source, Family) else ("train",)
        self.family = source if isinstance(source, Family) else source.family
        self._source, self._split, self._count = source, chosen("split", split, known), count
        self.pins = {name: torch.full((count,), torch.nan) for name in self.family.parameters}  # NaN: not pinned
        if pinned is not None and not isinstance(pinned, Mapping):
            raise TypeError(f"task: expected constants by name, got {pinned!r}; give {{'gravity': 12.0}}")
        self.pin(pinned or {}, np.arange(count))

    def pin(self, values: Values, rows: Indices) -> None:
        """Replace the pinned values in these rows; each value is one number, or ``[count]``: one per existing row."""
        given = {name: _numbers(name, value, self._count) for name, value in values.items()}
        self.family.validate({**self.family.sample(self._count, generator=torch.Generator().manual_seed(0)), **given})
        index, free = torch.from_numpy(rows), torch.full((self._count,), torch.nan)
        # Not in place, so that callers can restore the previous pins.
        self.pins = {name: pins.index_copy(0, index, given.get(name, free)[index]) for name, pins in self.pins.items()}

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw ``count`` tasks ``[count]``, without the pinned values."""
        if not isinstance(self._source, Family):
            return self._source.sample(self._split, count, generator=generator)
        return self._source.sample(count, generator=generator)

    def keep(self, task: Task, rows: Indices, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the tasks ``[len(rows)]`` of these rows, redrawn where pinned values move them out of the split.

        Raises:
            ValueError: the pinned values leave next to no task in the split.
        """
        kept, index = dict(task), torch.from_numpy(rows)
        pins = {name: pins[index] for name, pins in self.pins.items()}
        if isinstance(self._source, Family) or all(bool(values.isnan().all()) for values in pins.values()):
            return kept
        for _ in range(TRIES):
            wrong = (~self._source.belongs(self._split, _pinned(kept, pins))).nonzero().flatten()
            if not len(wrong):
                return kept
            drawn = self.draw(len(wrong), generator)
            kept = {name: values.index_copy(0, wrong, drawn[name]) for name, values in kept.items()}
        first = {name: values[wrong[0]].item() for name, values in pins.items()}
        shown = ", ".join(f"{name}={value:g}" for name, value in first.items() if not math.isnan(value))
        raise ValueError(
            f"task: expected pinned values for which {self._source.name} has tasks of {self._split!r}, got {shown},"
            f" which left none in {TRIES} draws; pin other values or fewer, or pass its family, which has no splits"
        )

    def put(self, task: Task) -> dict[str, Tensor]:
        """Return new tensors with the tasks of all rows and the pinned values inserted."""
        return _pinned(task, self.pins)


def _pinned(task: Task, pins: Task) -> dict[str, Tensor]:
    return {name: torch.where(values.isnan(), task[name], values) for name, values in pins.items()}


def _numbers(name: str, value: Any, count: int) -> Tensor:
    try:
        values = torch.as_tensor(np.asarray(value, dtype=np.float32))
        return values.expand(count).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a number or {count} of them, got {value!r}; give one number") from error


def known_options(options: Mapping[str, Any] | None, known: Sequence[str] = OPTIONS) -> dict[str, Any]:
    """Return a copy of the options of ``reset``.

    Raises:
        TypeError: the options are not a mapping.
        ValueError: an option is unknown.
    """
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset: expected options by name, such as {{'task': 'sample'}}, got {options!r}; give a dict")
    given = dict(options or {})
    refuse_unknown("reset", "option", given, known)
    return given


def stream(numbers: np.random.Generator) -> torch.Generator:
    """Return a torch generator seeded with the next number of Gymnasium's generator."""
    return torch.Generator().manual_seed(int(numbers.integers(2**63 - 1)))


class Streams:
    """Random numbers for many rows: one stream for all rows, or one stream per row.

    One shared stream is fast: rows that start together are drawn together. With one stream per row, the numbers of a
    row depend only on its own seed, as if it were a separate environment.
    """

    def __init__(self) -> None:
        self._shared: torch.Generator | None = None
        self._each: dict[int, torch.Generator] = {}

    @property
    def shared(self) -> bool:
        """Whether all rows share one stream."""
        return self._shared is not None

    def copy(self) -> Streams:
        """Return a copy to restore from; seeding the original later does not change it."""
        other = Streams()
        other._shared, other._each = self._shared, dict(self._each)
        return other

    def seed(self, numbers: np.random.Generator) -> None:
        """Use one stream for all rows from here on."""
        self._shared, self._each = stream(numbers), {}

    def seed_row(self, row: int, numbers: np.random.Generator) -> None:
        """Seed the stream of one row and use one stream per row from here on."""
        self._shared = None
        self._each[row] = stream(numbers)

    def has(self, row: int) -> bool:
        """Return whether there is a stream for this row."""
        return self.shared or row in self._each

    def draw(self, rows: Indices, draw: Callable[[Indices, torch.Generator], Task]) -> dict[str, Tensor]:
        """Return the tensors ``[len(rows)]`` of ``draw(rows, generator)``, drawn together or row by row."""
        if self._shared is not None:
            return dict(draw(rows, self._shared))
        parts = [draw(rows[i : i + 1], self._each[int(row)]) for i, row in enumerate(rows)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def own_spaces(family: Family) -> tuple[Space[Any], Space[Any]]:
    """Return copies of a family's observation and action space, since each has a random state that must not be shared.

    Gymnasium warns about constant observations (the bandits' 1), so the lower bound of these is lowered by 1.

    Raises:
        TypeError: the elements of a space are not arrays of numbers.
        ValueError: discrete actions are not counted from 0.
    """
    for what, space in (("observation", family.observation_space), ("action", family.action_space)):
        if not isinstance(space, Box | Discrete | MultiBinary | MultiDiscrete):
            raise TypeError(f"expected an {what} space of numbers, such as a Box, got {space}; flatten it")
    if isinstance(family.action_space, Discrete) and family.action_space.start != 0:
        raise ValueError(f"expected actions that are counted from 0, got {family.action_space}; give Discrete(n)")
    seen, acts = copy.deepcopy(family.observation_space), copy.deepcopy(family.action_space)
    if isinstance(seen, Box) and (seen.low == seen.high).any():
        seen = Box(np.where(seen.low == seen.high, seen.low - 1, seen.low), seen.high, dtype=seen.dtype.type)
    return seen, acts


def read_action(space: Space[Any], action: Any, rows: tuple[int, ...]) -> Tensor:
    """Convert an action ``[*rows, *space.shape]`` to a tensor.

    Raises:
        ValueError: the action has the wrong shape, is not finite or does not exist.
    """
    given = np.asarray(action)
    expected = (*rows, *(space.shape or ()))
    if given.shape != expected:
        raise ValueError(f"action: expected shape {expected}, got {given.shape}; see action_space")
    if not isinstance(space, Box):
        low, count = _numbered(space)
        if given.dtype.kind not in "iu" or ((given < low) | (given >= low + count)).any():
            raise ValueError(
                f"action: expected integers from {low} to {low + count - 1}, got {given}; see action_space"
            )
        return torch.from_numpy(given.astype(np.int64))
    if given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise ValueError(f"action: expected finite numbers, got {given}; check the policy")
    return torch.from_numpy(given.astype(np.float32))


def _numbered(space: Space[Any]) -> tuple[Any, Any]:
    """Return the lowest number of each part of a space of integers, and how many there are."""
    if isinstance(space, Discrete):
        return 0, int(space.n)  # `own_spaces` refuses others
    return (space.start, space.nvec) if isinstance(space, MultiDiscrete) else (0, 2)


def time_limit(family: Family, max_episode_steps: int | None) -> int | None:
    """Return the number of steps after which an episode is truncated; None for never.

    Args:
        family: provides the default, its horizon.
        max_episode_steps: None for the family's horizon, -1 for no limit, as in ``gymnasium.make``.

    Raises:
        TypeError: ``max_episode_steps`` is not an integer.
        ValueError: ``max_episode_steps`` is 0, or negative other than -1.
    """
    if max_episode_steps is None:
        return family.horizon
    if not isinstance(max_episode_steps, Integral):
        raise TypeError(f"max_episode_steps: expected an integer, got {max_episode_steps!r}; give an int")
    if max_episode_steps == -1:
        return None
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps: expected at least 1, or -1 for no limit, got {max_episode_steps}")
    return int(max_episode_steps)
