"""Arithmetic of task sets: cells, a hash of cells, and intervals.

Every task falls in a cell, the vector of its constants' cell indices. Whole cells are dealt to the
splits by a hash that is salted with the benchmark's name. Membership is thus a function of a task's
values alone: no list of tasks is kept, and no seed can make a test task a training task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .coarse import Coarse
from .counter import mix
from .family import Family, Task
from .ranges import Choice, Distribution, stored

BUCKETS = 8  # shares of the cells that the hash deals out


def task_ids(task: Task) -> list[str]:
    """A name for each task of ``[T]`` values: the first 16 hex digits of SHA-256 over names and float32 values."""
    names = sorted(task)
    rows = torch.stack([task[name].detach().float().cpu() + 0.0 for name in names], -1)  # -0 and 0 are one task
    header = "\0".join(names).encode()
    return [hashlib.sha256(header + row.numpy().tobytes()).hexdigest()[:16] for row in rows]


def salt(name: str) -> int:
    """A signed 64-bit number from a name, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def bucket(index: Tensor, start: int) -> Tensor:
    """Hash vectors of cell indices ``[..., C]`` (int64) to ``0..7``, evenly. ``start`` is the salt."""
    state = torch.full_like(index[..., 0], start)
    for column in index.unbind(-1):
        state = mix(state + column)
    return torch.bitwise_and(state, BUCKETS - 1)


def indices(family: Family, task: Task, bins: int) -> Tensor:
    """Cell indices of every constant with respect to the family's ranges, ``[..., C]`` in declared order."""
    return torch.stack([_cell(family, name, task[name], bins) for name in family.ranges], -1)


def _cell(family: Family, name: str, values: Tensor, bins: int) -> Tensor:
    """Cells of one constant's values; no cell's edge may part values that are the same environment."""
    counted = values.float().floor() if family.parameters[name].whole else values
    return family.ranges[name].cell(counted, bins)


def in_hole(hole: Family, train: Family, index: Tensor, bins: int) -> Tensor:
    """Which training cells ``[..., C]`` touch the hole. Whole cells are cut out, so a point is a hole too."""
    touched = torch.ones_like(index[..., 0], dtype=torch.bool)
    for column, (name, distribution) in zip(index.unbind(-1), hole.ranges.items(), strict=True):
        inside = torch.zeros_like(touched)
        for ends in distribution.intervals:
            low, high = _cell(train, name, torch.tensor(ends), bins).tolist()
            inside = inside | ((column >= low) & (column <= high))
        touched = touched & inside
    return touched


def lies_inside(inner: Family, outer: Family) -> bool:
    """Whether every constant's intervals lie within those of ``outer``."""
    return all(
        any(stored(low) <= stored(a) and stored(b) <= stored(high) for low, high in outer.ranges[name].intervals)
        for name, distribution in inner.ranges.items()
        for a, b in distribution.intervals
    )


def lies_apart(one: Family, other: Family) -> bool:
    """Whether some constant's intervals overlap nowhere (a shared end point has no weight and is allowed)."""
    return any(_apart(distribution, other.ranges[name]) for name, distribution in one.ranges.items())


def _apart(one: Distribution, other: Distribution) -> bool:
    def clear(a: tuple[float, float], b: tuple[float, float]) -> bool:
        low, high = stored(max(a[0], b[0])), stored(min(a[1], b[1]))
        return low > high or (low == high and a[0] < a[1] and b[0] < b[1])

    return all(clear(a, b) for a in one.intervals for b in other.intervals)


def varied(family: Family) -> Mapping[str, Distribution]:
    """The constants that differ between tasks."""
    return {
        name: distribution
        for name, distribution in family.ranges.items()
        if distribution.bounds[0] < distribution.bounds[1]
    }


def distinct(family: Family, bins: int) -> int:
    """How many cells the family's tasks can fall in, at most."""
    count = 1
    for name, distribution in varied(family).items():
        low, high = distribution.bounds
        if isinstance(distribution, Choice | Coarse):
            count *= len(distribution.values) if isinstance(distribution, Choice) else distribution.cells
        else:
            count *= min(bins, int(high - low) + 1) if family.parameters[name].whole else bins
    return count
