"""Training on a wider range than one is tested on: a curriculum that is all there from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from .family import Family, Task
from .ranges import Distribution, Fixed
from .splits import TaskBenchmark, hashed


@final
@dataclass(frozen=True)
class Widened:
    """A benchmark whose training draws some constants more widely; what is held out stays as it was.

    Tasks that are easier in a constant that testing keeps fixed lead to the hard ones: goals that are felt from
    afar to goals that are felt from near by only. In all other constants training keeps out of the held-out cells.

    Args:
        name: how reports call it.
        of: the benchmark.
        ranges: what training draws these constants from instead; each is a fixed number in ``of``.

    Raises:
        ValueError: an unknown constant, one that ``of`` varies itself, or values that the equations do not hold for.
    """

    name: str
    of: TaskBenchmark
    ranges: Mapping[str, Distribution]

    def __post_init__(self) -> None:
        family = self.of.family
        for name, distribution in self.ranges.items():
            if not isinstance(family.ranges.get(name), Fixed):
                fixed = [known for known, one in family.ranges.items() if isinstance(one, Fixed)]
                raise ValueError(f"{self.name}: expected a constant that is fixed, {', '.join(fixed)}, got {name!r}")
            if not (parameter := family.parameters[name]).accepts(distribution):
                wanted = f"{parameter.valid} {parameter.unit}"
                raise ValueError(f"{self.name}: {name}: expected {wanted}, got {distribution}; correct the range")

    @property
    def family(self) -> Family:
        """The benchmark's."""
        return self.of.family

    @property
    def splits(self) -> tuple[str, ...]:
        """The benchmark's."""
        return self.of.splits

    def sample(self, split: str, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """As the benchmark draws them, and then the widened constants of training tasks."""
        task = self.of.sample(split, tasks, generator=generator)
        if split != "train":
            return task
        return task | {name: distribution.sample(tasks, generator) for name, distribution in self.ranges.items()}

    def is_training(self, task: Task) -> Tensor:
        """Which tasks training could have drawn, bool of the values' shape. A function of the values alone."""
        narrow = {name: torch.full_like(task[name], self._fixed(name)) for name in self.ranges}
        wide = [distribution.contains(task[name]) for name, distribution in self.ranges.items()]
        return self.of.is_training({**task, **narrow}) & torch.stack(wide).all(0)

    def _fixed(self, name: str) -> float:
        return self.of.family.ranges[name].bounds[0]

    def describe(self) -> dict[str, Any]:
        """Everything that decides which task belongs to which split, as plain JSON values."""
        return self.of.describe() | {"widened": {name: one.describe() for name, one in self.ranges.items()}}

    def fingerprint(self) -> str:
        """`hashed` description."""
        return hashed(self.describe())
