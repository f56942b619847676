"""What the single and the vector environment share: where tasks and random numbers come from, and what actions pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
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
Values = Mapping[str, Any]  # constants by name: numbers, or arrays with one number a row
OPTIONS = ("task",)
TRIES = 300  # draws before pinned constants are taken to leave no task of a split
Indices = npt.NDArray[np.int64]


class Tasks:
    """Tasks of many rows, drawn from a family or from a split of a benchmark, some constants pinned by hand.

    A pinned constant moves a task to another place in the benchmark, so tasks are drawn until they belong to the split
    there.

    Args:
        source: a family, whose ranges are drawn from; or a benchmark.
        split: of the benchmark: ``"train"`` or a held-out split.
        pinned: constants that are not drawn.
        count: how many rows.

    Attributes:
        pins: what is pinned by the name of every constant, ``[count]``; NaN where nothing is.

    Raises:
        ValueError: no such split, or a pinned constant that does not exist or cannot have that value.
        TypeError: a source that is neither, or a pinned value that is no number.
    """

    def __init__(self, source: Source, split: str, pinned: Values | None, count: int) -> None:
        if not isinstance(source, Source):
            raise TypeError(f"expected a Family or a TaskBenchmark, got {source!r}; give CartPole() or cartpole_wide()")
        known = ("train", *source.splits) if not isinstance(source, Family) else ("train",)
        self.family = source if isinstance(source, Family) else source.family
        self._source, self._split, self._count = source, chosen("split", split, known), count
        self.pins = {name: torch.full((count,), torch.nan) for name in self.family.parameters}  # NaN: not pinned
        self.pin(pinned or {}, np.arange(count))

    def pin(self, values: Values, rows: Indices) -> None:
        """Replace what is pinned in these rows; each value is one number, or one for each of all rows."""
        given = {name: _numbers(name, value, self._count) for name, value in values.items()}
        self.family.validate({**self.family.sample(self._count, generator=torch.Generator().manual_seed(0)), **given})
        index, free = torch.from_numpy(rows), torch.full((self._count,), torch.nan)
        # Never written in place: whoever kept the pins from before can put them back.
        self.pins = {name: pins.index_copy(0, index, given.get(name, free)[index]) for name, pins in self.pins.items()}

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``count`` tasks ``[count]``, nothing pinned yet."""
        if not isinstance(self._source, Family):
            return self._source.sample(self._split, count, generator=generator)
        return self._source.sample(count, generator=generator)

    def keep(self, task: Task, rows: Indices, generator: torch.Generator) -> dict[str, Tensor]:
        """``task``, one ``[len(rows)]`` of these rows, drawn anew where what is pinned takes it out of the split.

        Raises:
            ValueError: with what is pinned there is next to no task of the split.
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
            f"task: expected constants that leave {self._source.name} a task of {self._split!r}, got {shown}, which"
            f" left none in {TRIES} draws; pin other values or fewer, or give its family, which has no splits"
        )

    def put(self, task: Task) -> dict[str, Tensor]:
        """The tasks of all rows with what is pinned in its place; nothing of the result is shared."""
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
    """A copy of what ``reset`` was given.

    Raises:
        ValueError: an option that means nothing here.
    """
    given = dict(options or {})
    refuse_unknown("reset", "option", given, known)
    return given


def stream(numbers: np.random.Generator) -> torch.Generator:
    """A torch generator seeded with the next number of Gymnasium's."""
    return torch.Generator().manual_seed(int(numbers.integers(2**63 - 1)))


class Streams:
    """Random numbers for many rows: one stream for all of them, or a stream a row.

    One stream is fast: rows that start together are drawn together. With a stream a row, what a row draws
    depends on its own seed only, as if it were an environment of its own.
    """

    def __init__(self) -> None:
        self._shared: torch.Generator | None = None
        self._each: dict[int, torch.Generator] = {}

    @property
    def shared(self) -> bool:
        """Whether there is one stream."""
        return self._shared is not None

    def copy(self) -> Streams:
        """The same streams, to go back to; what is seeded later is not among them."""
        other = Streams()
        other._shared, other._each = self._shared, dict(self._each)
        return other

    def seed(self, numbers: np.random.Generator) -> None:
        """One stream from here on."""
        self._shared, self._each = stream(numbers), {}

    def seed_row(self, row: int, numbers: np.random.Generator) -> None:
        """A stream a row from here on."""
        self._shared = None
        self._each[row] = stream(numbers)

    def has(self, row: int) -> bool:
        """Whether the row's numbers can be drawn."""
        return self.shared or row in self._each

    def draw(self, rows: Indices, draw: Callable[[Indices, torch.Generator], Task]) -> dict[str, Tensor]:
        """What ``draw(rows, generator)`` returns, ``[len(rows)]`` each, drawn together or row by row."""
        if self._shared is not None:
            return dict(draw(rows, self._shared))
        parts = [draw(rows[i : i + 1], self._each[int(row)]) for i, row in enumerate(rows)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def own_spaces(family: Family) -> tuple[Space[Any], Space[Any]]:
    """Copies of a family's observation and action space: each has random numbers, which environments must not share.

    Gymnasium warns of observations that are constant (the bandits' 1), so their bounds are widened by 1.

    Raises:
        TypeError: a space whose elements are no arrays of numbers.
        ValueError: discrete actions that are not counted from 0.
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
    """An action ``[*rows, *space.shape]`` as a tensor.

    Raises:
        ValueError: another shape, a number that is not finite, or an action that does not exist.
    """
    given = np.asarray(action)
    expected = (*rows, *(space.shape or ()))
    if given.shape != expected:
        raise ValueError(f"action: expected shape {expected}, got {given.shape}; see action_space")
    if isinstance(space, Discrete):
        if given.dtype.kind not in "iu" or ((given < 0) | (given >= space.n)).any():
            raise ValueError(f"action: expected integers from 0 to {space.n - 1}, got {given}; see action_space")
        return torch.from_numpy(given.astype(np.int64))
    if given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise ValueError(f"action: expected finite numbers, got {given}; check the policy")
    return torch.from_numpy(given.astype(np.float32))


def time_limit(family: Family, max_episode_steps: int | None) -> int | None:
    """Steps after which an episode is truncated; None for never.

    Args:
        family: its horizon holds where nothing else is asked for.
        max_episode_steps: None for the family's, -1 for no limit, as in ``gymnasium.make``.

    Raises:
        ValueError: 0, or a negative number other than -1.
    """
    if max_episode_steps is None:
        return family.horizon
    if max_episode_steps == -1:
        return None
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps: expected at least 1, or -1 for no limit, got {max_episode_steps}")
    return int(max_episode_steps)
