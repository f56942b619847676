"""Control of which constants decide the split: the same draws, in fewer cells.

By default every varied constant influences which split a task belongs to: a task whose wiring was trained on may still
be a test task because of the cell of its gravity. To let a single constant decide, give each of the others a single
cell. If several values of a constant are the same to an agent, give them one common cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from .ranges import Choice, Distribution, Interval


@final
@dataclass(frozen=True)
class Coarse(Distribution):
    """Another distribution with ``cells`` cells, whatever the number of bins of the benchmark.

    Args:
        of: the distribution to draw from.
        cells: number of cells. With 1, the constant does not influence the split. Choices are assigned to cells in
            order, the same number to each if ``cells`` divides their number.

    Raises:
        ValueError: ``cells`` is below 1 or exceeds the number of choices.
    """

    of: Distribution
    cells: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        most = len(self.of.values) if isinstance(self.of, Choice) else self.cells
        if not 1 <= self.cells <= most:
            raise ValueError(
                f"Coarse: expected at least 1 cell and at most one per choice, got {self.cells}; correct it"
            )

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals of ``of``."""
        return self.of.intervals

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``[count]`` values from ``of``."""
        return self.of.sample(count, generator)

    def contains(self, values: Tensor) -> Tensor:
        """Return whether ``of`` covers each value, bool of the values' shape."""
        return self.of.contains(values)

    def cell(self, values: Tensor, bins: int) -> Tensor:
        """Return the cell index of each value, int64 in ``0..cells-1``; ``bins`` is ignored."""
        if isinstance(self.of, Choice):
            return self.of.cell(values, bins) * self.cells // len(self.of.values)
        return self.of.cell(values, self.cells)

    def describe(self) -> dict[str, Any]:
        """Return the distribution as plain JSON values."""
        return {"kind": type(self).__name__, "of": self.of.describe(), "cells": self.cells}
