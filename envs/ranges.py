"""Distributions of one constant.

A distribution draws values, reports which values it covers and quantises them into fine cells. Values are drawn in
float64 and stored as float32. Coverage and cells are computed from the float32 value by comparisons alone, so that a
stored task gives the same answer on CPU and GPU.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from itertools import accumulate
from numbers import Real
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

Interval = tuple[float, float]


def stored(value: float) -> float:
    """Return ``value`` rounded to float32, as a tensor stores it, as a Python float."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def plain(value: Any) -> Any:
    """Convert a NumPy number, or a tuple of them, to Python numbers for JSON; return anything else unchanged."""
    if isinstance(value, tuple):
        return tuple(plain(part) for part in value)
    return value.item() if isinstance(value, np.number) else value


class Distribution(ABC):
    """The distribution of the values of one constant."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, plain(value))  # subclasses are frozen dataclasses

    @property
    @abstractmethod
    def intervals(self) -> tuple[Interval, ...]:
        """The closed intervals ``(low, high)`` that contain all values; a single point is ``(value, value)``."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count]`` float32 values on the generator's device, uniform over the intervals."""
        return _uniform(self.intervals, count, generator).float()

    @property
    def bounds(self) -> Interval:
        """Smallest and largest possible value."""
        return min(low for low, _ in self.intervals), max(high for _, high in self.intervals)

    def contains(self, values: Tensor) -> Tensor:
        """Return whether each value lies in one of the intervals, bool of the values' shape; false for NaN."""
        exact = values.float().double()
        inside = torch.zeros_like(exact, dtype=torch.bool)
        for low, high in self.intervals:
            inside = inside | ((exact >= stored(low)) & (exact <= stored(high)))
        return inside

    def cell(self, values: Tensor, bins: int) -> Tensor:
        """Return the cell index of each value, int64 in ``0..bins-1``; values outside fall into the end cells."""
        # Edges are computed on the CPU and rounded to float32, so that a value falls into the same cell on
        # every machine even if the last bit of ``exp`` differs.
        edges = self._edges(torch.arange(1, bins, dtype=torch.float64) / bins).float().to(values.device)
        return torch.bucketize(values.float().contiguous(), edges, right=True)

    def _edges(self, fraction: Tensor) -> Tensor:
        low, high = self.bounds
        return low + (high - low) * fraction

    def describe(self) -> dict[str, Any]:
        """Return the distribution's kind and numbers as plain JSON values."""
        return {"kind": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


def _uniform(intervals: tuple[Interval, ...], count: int, generator: torch.Generator) -> Tensor:
    """Draw ``[count]`` float64 values uniformly from a union of intervals, weighted by length."""
    device = generator.device
    low, high = torch.tensor(intervals, dtype=torch.float64, device=device).unbind(-1)
    ends = torch.tensor([*accumulate(b - a for a, b in intervals)], dtype=torch.float64, device=device)
    position = torch.rand(count, generator=generator, dtype=torch.float64, device=device) * ends[-1]
    index = torch.bucketize(position, ends[:-1], right=True)
    starts = ends - (high - low)
    return torch.minimum(low[index] + (position - starts[index]), high[index])  # rounding could exceed the interval


def _check_intervals(kind: str, intervals: tuple[Interval, ...]) -> None:
    if not (isinstance(intervals, tuple | list) and all(_is_pair(part) for part in intervals)):
        raise TypeError(f"{kind}: expected intervals (low, high) of numbers, got {intervals!r}; give pairs of floats")
    if not intervals:
        raise ValueError(f"{kind}: expected at least one interval (low, high), got none; give one")
    for low, high in intervals:
        if not (math.isfinite(stored(low)) and math.isfinite(stored(high)) and low <= high):
            raise ValueError(f"{kind}: expected finite low <= high, got ({low}, {high}); swap or correct the ends")
    for (_, before), (after, _) in zip(intervals, intervals[1:], strict=False):
        if before > after:
            raise ValueError(f"{kind}: expected ascending disjoint intervals, got {intervals}; sort or merge them")


def _is_pair(part: object) -> bool:
    return isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(end, Real) for end in part)


def _check_lengths(kind: str, parts: tuple[Interval, ...]) -> None:
    for low, high in parts:
        if low == high:
            raise ValueError(
                f"{kind}: expected intervals with low < high, got ({low}, {high}), which would never be drawn;"
                " use Choice for single values"
            )


def _check_positive(kind: str, intervals: tuple[Interval, ...]) -> None:
    if intervals[0][0] <= 0:
        raise ValueError(f"{kind}: expected low > 0 for a log scale, got {intervals[0][0]}; use a linear range")


def _log(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    return tuple((math.log(low), math.log(high)) for low, high in intervals)


@final
@dataclass(frozen=True)
class Fixed(Distribution):
    """Always the same value."""

    value: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_intervals("Fixed", self.intervals)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """One point."""
        return ((self.value, self.value),)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return ``[count]`` copies of the value, without using the generator's random numbers."""
        return torch.full((count,), self.value, dtype=torch.float32, device=generator.device)


@final
@dataclass(frozen=True)
class Range(Distribution):
    """Uniform in ``[low, high]``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_intervals("Range", self.intervals)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """One interval."""
        return ((self.low, self.high),)


@final
@dataclass(frozen=True)
class Union(Distribution):
    """Uniform over several intervals, each weighted by its length."""

    parts: tuple[Interval, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_intervals("Union", self.intervals)
        _check_lengths("Union", self.intervals)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The parts."""
        return self.parts


@final
@dataclass(frozen=True)
class LogRange(Distribution):
    """Log-uniform in ``[low, high]``, with ``low > 0``."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_intervals("LogRange", self.intervals)
        _check_positive("LogRange", self.intervals)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """One interval."""
        return ((self.low, self.high),)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count]`` log-uniform values."""
        return _uniform(_log(self.intervals), count, generator).exp().clamp(*self.bounds).float()

    def _edges(self, fraction: Tensor) -> Tensor:
        return self.low * (self.high / self.low) ** fraction


@final
@dataclass(frozen=True)
class LogUnion(Distribution):
    """Log-uniform over several positive intervals, each weighted by the ratio ``log(high / low)``."""

    parts: tuple[Interval, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_intervals("LogUnion", self.intervals)
        _check_positive("LogUnion", self.intervals)
        _check_lengths("LogUnion", self.intervals)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The parts."""
        return self.parts

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count]`` values, log-uniform over the union."""
        return _uniform(_log(self.intervals), count, generator).exp().clamp(*self.bounds).float()

    def _edges(self, fraction: Tensor) -> Tensor:
        low, high = self.bounds
        return low * (high / low) ** fraction


@final
@dataclass(frozen=True)
class Choice(Distribution):
    """One of a few distinct, equally likely values. The cell of a value is its index among the choices."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.values, tuple | list):
            raise TypeError(f"Choice: expected a tuple of values, got {self.values!r}; write Choice((1.0, 2.0))")
        if not self.values:
            raise ValueError("Choice: expected one or more values, got none; give one")
        for interval in self.intervals:
            _check_intervals("Choice", (interval,))
        if len({stored(value) for value in self.values}) != len(self.values):
            raise ValueError(f"Choice: expected distinct values, got {self.values}; remove repetitions")

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """One point per choice."""
        return tuple((value, value) for value in self.values)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count]`` values."""
        device = generator.device
        index = torch.randint(len(self.values), (count,), generator=generator, device=device)
        return torch.tensor(self.values, dtype=torch.float32, device=device)[index]

    def cell(self, values: Tensor, bins: int) -> Tensor:
        """Return the index of the nearest choice, int64; ``bins`` is ignored."""
        choices = torch.tensor(self.values, dtype=torch.float64, device=values.device)
        return (values.float().double().unsqueeze(-1) - choices).abs().argmin(-1)
