"""Cells of task space, their assignment to splits by a hash, and comparisons of ranges.

Every task falls into a cell, given by the vector of its constants' cell indices. Whole cells are assigned to splits by
a hash that is salted with the benchmark's name. Membership thus depends on a task's values alone: no list of tasks is
stored, and no seed can turn a test task into a training task.
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

BUCKETS = 8  # the hash divides the cells into this many equal shares


def task_ids(task: Task) -> list[str]:
    """Return an id for each task of ``[T]`` values: the first 16 hex digits of SHA-256 of names and float32 values."""
    names = sorted(task)
    rows = torch.stack([task[name].detach().float().cpu() + 0.0 for name in names], -1)  # + 0.0 turns -0 into 0
    header = "\0".join(names).encode()
    return [hashlib.sha256(header + row.numpy().tobytes()).hexdigest()[:16] for row in rows]


def salt(name: str) -> int:
    """Hash a name to a signed 64-bit number, the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def bucket(index: Tensor, start: int) -> Tensor:
    """Hash vectors of cell indices ``[..., C]`` (int64) evenly to ``0..7``. ``start`` is the salt."""
    state = torch.full_like(index[..., 0], start)
    for column in index.unbind(-1):
        state = mix(state + column)
    return torch.bitwise_and(state, BUCKETS - 1)


def indices(family: Family, task: Task, bins: int) -> Tensor:
    """Return the cell index of every constant within the family's ranges, ``[..., C]`` in declared order."""
    return torch.stack([_cell(family, name, task[name], bins) for name in family.ranges], -1)


def _cell(family: Family, name: str, values: Tensor, bins: int) -> Tensor:
    """Return the cells of one constant's values; values that are the same environment get the same cell."""
    return family.ranges[name].cell(family.parameters[name].distinct(values), bins)


def in_hole(hole: Family, train: Family, index: Tensor, bins: int) -> Tensor:
    """Return which training cells ``[..., C]`` touch the hole. Whole cells are cut out, so a hole may be a point."""
    touched = torch.ones_like(index[..., 0], dtype=torch.bool)
    for column, (name, distribution) in zip(index.unbind(-1), hole.ranges.items(), strict=True):
        inside = torch.zeros_like(touched)
        for ends in distribution.intervals:
            low, high = _cell(train, name, torch.tensor(ends), bins).tolist()
            inside = inside | ((column >= low) & (column <= high))
        touched = touched & inside
    return touched


def lies_inside(inner: Family, outer: Family) -> bool:
    """Return whether every constant's intervals lie within those of ``outer``."""
    return all(
        any(stored(low) <= stored(a) and stored(b) <= stored(high) for low, high in outer.ranges[name].intervals)
        for name, distribution in inner.ranges.items()
        for a, b in distribution.intervals
    )


def lies_apart(one: Family, other: Family) -> bool:
    """Return whether some constant's intervals are disjoint; a shared end point has measure zero and is allowed."""
    return any(_apart(distribution, other.ranges[name]) for name, distribution in one.ranges.items())


def _apart(one: Distribution, other: Distribution) -> bool:
    def clear(a: tuple[float, float], b: tuple[float, float]) -> bool:
        low, high = stored(max(a[0], b[0])), stored(min(a[1], b[1]))
        return low > high or (low == high and a[0] < a[1] and b[0] < b[1])

    return all(clear(a, b) for a in one.intervals for b in other.intervals)


def varied(family: Family) -> Mapping[str, Distribution]:
    """Return the constants that differ between tasks."""
    return {
        name: distribution
        for name, distribution in family.ranges.items()
        if distribution.bounds[0] < distribution.bounds[1]
    }


def distinct(family: Family, bins: int) -> int:
    """Return an upper bound on the number of cells that the family's tasks can fall into."""
    count = 1
    for name, distribution in varied(family).items():
        low, high = distribution.bounds
        if isinstance(distribution, Choice | Coarse):
            count *= len(distribution.values) if isinstance(distribution, Choice) else distribution.cells
        else:
            count *= min(bins, int(high - low) + 1) if family.parameters[name].whole else bins
    return count
