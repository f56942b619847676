"""A benchmark: a training distribution and held-out splits that contain no training task.

``validation`` and ``test`` each own an eighth of the cells of the training range (see ``cells``); ``train`` never
draws from these cells. Further splits are given as separate families. A split inside the training range is a hole: it
is cut out of training, validation and test, and measures interpolation. A split outside the range measures
extrapolation. A split may also be a published list of tasks; training, validation and test avoid the cells of these
tasks.

Whether a task belongs to a split depends on its values, not on seeds. Test tasks may be close to training tasks, one
cell apart: they measure generalisation within the distribution.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from . import cells
from .checks import refuse_seed, refuse_unknown, whole
from .family import Family, Task
from .ranges import plain

SAME_RANGE = {"test": 0, "validation": 1}  # the hash bucket that each split owns; training owns the rest
FEW = 64  # cells; with more, a bucket is hardly ever empty: 0.875^64 is 0.0002
ROUNDS = 1000  # redraws before a split is considered empty


@final
@dataclass(frozen=True)
class TaskBenchmark:
    """A family with a training distribution and disjoint held-out splits.

    Args:
        name: name in reports; it also salts the hash that assigns cells to splits.
        train: the training family. Its range contains training, validation and test tasks, so draw tasks from the
            benchmark, never from this family.
        heldout: further splits by name, families of the same environments: each lies either entirely inside the
            training range (a hole) or outside it in at least one constant.
        listed: further splits by name, each a list of tasks: for every constant, one value per task.
        bins: cells per varied constant.

    Raises:
        TypeError: a family is not an ``envs.Family``.
        ValueError: a split's family differs from ``train`` in more than ranges; a split's name is reserved; a split
            overlaps the training range in part; a list of tasks is empty, lacks values or has tasks that are invalid
            for the family; or the training range is too small to be split.
    """

    name: str
    train: Family
    heldout: Mapping[str, Family] = field(default_factory=dict)
    listed: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    bins: int = 1024

    def __post_init__(self) -> None:
        if not isinstance(self.train, Family):
            raise TypeError(
                f"{self.name}: expected an envs.Family, whose ranges can be split, got {type(self.train).__name__}; "
                "write your own benchmark for it, see metarl.types.Benchmark"
            )
        if self.bins < 2:
            raise ValueError(f"{self.name}: expected at least 2 bins, got {self.bins}; give more")
        for split, family in self.heldout.items():
            self._check(split, family)
        for split in self.listed:
            if split in ("train", *SAME_RANGE, *self.heldout):
                raise ValueError(f"{self.name}: split name {split!r} is taken; choose another")
            lengths = {constant: len(values) for constant, values in self.listed[split].items()}
            if not all(lengths.values()) or len(set(lengths.values())) > 1:
                raise ValueError(
                    f"{self.name}: expected one or more values for every constant of the listed split {split!r}, the"
                    f" same number for each, got {lengths}; give one value per task"
                )
            self.family.validate(self._list(split))
        for split in ("train", *SAME_RANGE):
            try:
                self.sample(split, 1, generator=torch.Generator().manual_seed(0))
            except RuntimeError as error:
                count = cells.distinct(self.train, self.bins)
                raise ValueError(
                    f"{self.name}: expected a training range that leaves tasks for {split!r}, got {count} distinct"
                    f" cells, none of which remain; {_remedy(count)}vary a continuous constant, or shrink the holes"
                ) from error

    def _check(self, split: str, family: Family) -> None:
        if split in ("train", *SAME_RANGE):
            raise ValueError(f"{self.name}: split name {split!r} is reserved; choose another")
        if not isinstance(family, Family):
            raise TypeError(
                f"{self.name}: split {split!r}: expected a family like train with other ranges, got {family!r}; "
                f"give a {type(self.train).__name__}, or list the tasks with listed="
            )
        ours, theirs = self.train.describe() | {"ranges": 0}, family.describe() | {"ranges": 0}
        if ours != theirs:
            names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
            other = [f"{name} {theirs.get(name)!r} instead of {ours.get(name)!r}" for name in names]
            raise ValueError(
                f"{self.name}: split {split!r} must differ from train in ranges only, got {'; '.join(other)}"
            )
        if self.train.ranges.keys() != family.ranges.keys():
            raise ValueError(
                f"{self.name}: split {split!r}: expected the constants of train, {', '.join(self.train.ranges)}, got "
                f"{', '.join(family.ranges)}; give constants that do not vary as numbers"
            )
        if not (cells.lies_inside(family, self.train) or cells.lies_apart(family, self.train)):
            raise ValueError(
                f"{self.name}: split {split!r} partly overlaps the training range; put it entirely inside (a hole)"
                " or outside in at least one constant"
            )

    @property
    def family(self) -> Family:
        """The environments, shared by all splits."""
        return self.train

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the held-out splits."""
        return ("validation", "test", *self.heldout, *self.listed)

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw tasks of ``"train"`` or of a held-out split, ``[T]`` float32 on the generator's device.

        Draws are repeated until enough tasks fall into the split. From a list, every task is drawn once, in random
        order, before any is drawn again.

        Raises:
            ValueError: there is no such split, or ``tasks`` is below 1.
            RuntimeError: the split contains next to no tasks.
        """
        refuse_unknown(self.name, "split", [split], ("train", *self.splits))
        if split in self.listed:
            return self._deal(self._list(split), tasks, generator)
        family = self.heldout.get(split, self.train)
        kept = family.sample(tasks, generator=generator)
        kept = _select(kept, self.belongs(split, kept))
        for _ in range(ROUNDS):
            if (missing := tasks - len(next(iter(kept.values())))) <= 0:
                return {name: values[:tasks] for name, values in kept.items()}
            drawn = family.sample(2 * missing + 16, generator=generator)
            drawn = _select(drawn, self.belongs(split, drawn))
            kept = {name: torch.cat((values, drawn[name])) for name, values in kept.items()}
        raise RuntimeError(f"{self.name}: {ROUNDS} rounds found fewer than {tasks} tasks of {split!r}; widen the range")

    def is_training(self, task: Task) -> Tensor:
        """Return whether training could draw each task, bool of the values' shape. Depends on the values alone.

        Raises:
            ValueError: a constant is missing or unknown.
        """
        return self.belongs("train", task)

    def belongs(self, split: str, task: Task) -> Tensor:
        """Return whether each task belongs to a split, bool of the values' shape. Depends on the values alone.

        Raises:
            ValueError: there is no such split, or a constant is missing or unknown.
        """
        refuse_unknown(self.name, "split", [split], ("train", *self.splits))
        if split in self.heldout:
            return self.heldout[split].contains(task) & ~self.is_training(task)
        ranged = self.train.contains(task)
        if split in self.listed:
            listed = self._list(split).items()
            same = [task[name].float().unsqueeze(-1) == column.to(task[name].device) for name, column in listed]
            return torch.stack(same).all(0).any(-1)
        indices = cells.indices(self.train, task, self.bins)
        for name in self.listed:
            near = cells.indices(self.train, self._list(name), self.bins).to(indices.device)
            ranged = ranged & ~(indices.unsqueeze(-2) == near).all(-1).any(-1)
        for family in self.heldout.values():
            if cells.lies_inside(family, self.train):
                ranged = ranged & ~cells.in_hole(family, self.train, indices, self.bins)
        bucket = cells.bucket(indices, cells.salt(self.name))
        owned = bucket >= len(SAME_RANGE) if split == "train" else bucket == SAME_RANGE[split]
        return ranged & owned

    def _list(self, split: str) -> dict[str, Tensor]:
        return {name: torch.tensor(values, dtype=torch.float32) for name, values in self.listed[split].items()}

    def _deal(self, task: Task, tasks: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw from a list without replacement, starting a new shuffle whenever the list is used up."""
        whole("tasks", tasks)
        refuse_seed(generator)
        count = len(next(iter(task.values())))
        decks = [
            torch.randperm(count, generator=generator, device=generator.device) for _ in range(math.ceil(tasks / count))
        ]
        order = torch.cat(decks)[:tasks]
        return {name: values.to(order.device)[order] for name, values in task.items()}

    def describe(self) -> dict[str, Any]:
        """Return everything that decides which task belongs to which split, as plain JSON values."""
        lists = {name: {k: list(plain(tuple(v))) for k, v in columns.items()} for name, columns in self.listed.items()}
        return {
            "name": self.name,
            "train": self.train.describe(),
            "heldout": {name: family.describe() for name, family in self.heldout.items()},
            **({"listed": lists} if lists else {}),
            "bins": self.bins,
            "buckets": {"count": cells.BUCKETS, **SAME_RANGE},
        }

    def fingerprint(self) -> str:
        """Return the hash of the description; see `hashed`."""
        return hashed(self.describe())


@final
@dataclass(frozen=True)
class SameTasks:
    """A benchmark's tasks and splits with different environments, for example with the task revealed or shuffled.

    Args:
        of: the benchmark that provides tasks and splits.
        family: the environments. They must have the same constants, for example a wrapper that adds none.

    Raises:
        ValueError: the family has other constants.
    """

    of: TaskBenchmark
    family: Family

    def __post_init__(self) -> None:
        ours, theirs = set(self.family.parameters), set(self.of.family.parameters)
        if ours != theirs:
            raise ValueError(
                f"{self.of.name}: expected a family with the same constants, {', '.join(sorted(ours ^ theirs))} differ;"
                " wrap the benchmark's own family in a wrapper that adds none"
            )

    @property
    def name(self) -> str:
        """The benchmark's name."""
        return self.of.name

    @property
    def splits(self) -> tuple[str, ...]:
        """The benchmark's held-out splits."""
        return self.of.splits

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw tasks as the benchmark does; see `TaskBenchmark.sample`."""
        return self.of.sample(split, tasks, generator=generator)

    def is_training(self, task: Task) -> Tensor:
        """Return whether training could draw each task; see `TaskBenchmark.is_training`."""
        return self.of.is_training(task)

    def fingerprint(self) -> str:
        """Return the benchmark's fingerprint, since the same tasks are training tasks."""
        return self.of.fingerprint()


def hashed(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain JSON values in hex, the same in every process and on every machine."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _remedy(count: int) -> str:
    """Return advice for error messages about a split left empty by too few cells; empty if there are many cells."""
    if count < 1 + len(SAME_RANGE):
        return f"{1 + len(SAME_RANGE)} splits need at least {1 + len(SAME_RANGE)} cells; "
    if count > FEW:
        return ""
    return (
        "the benchmark's name determines the cells of each split, and with so few cells this name leaves a split empty:"
        " try another name, or write a benchmark that lists the tasks of all splits, see metarl.types.Benchmark; or "
    )


def _select(task: Task, mask: Tensor) -> dict[str, Tensor]:
    return {name: values[mask] for name, values in task.items()}
