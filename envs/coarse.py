"""Which constants decide the split: draws as before, but in fewer cells.

By default every varied constant has a say in which split a task belongs to: a task whose wiring was
trained on is a test task as soon as its gravity falls in a test cell. Where one constant alone shall decide,
the others are given a single cell each; and where several values of a constant are the same thing to an
agent, they are given one cell together.
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
    """Another distribution in ``cells`` cells, however many bins a benchmark has.

    Args:
        of: what is drawn from.
        cells: 1, and the constant has no part in the split; or more. Choices are dealt to cells in their
            order, equally many to each where ``cells`` divides their number.

    Raises:
        ValueError: no cells, or more than there are choices.
    """

    of: Distribution
    cells: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        most = len(self.of.values) if isinstance(self.of, Choice) else self.cells
        if not 1 <= self.cells <= most:
            raise ValueError(f"Coarse: expected at least 1 cell and at most one a choice, got {self.cells}; correct it")

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Those of ``of``."""
        return self.of.intervals

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """The draws of ``of``, ``[count]``."""
        return self.of.sample(count, generator)

    def contains(self, values: Tensor) -> Tensor:
        """Which values ``of`` covers, bool of the values' shape."""
        return self.of.contains(values)

    def cell(self, values: Tensor, bins: int) -> Tensor:
        """Index in ``0..cells-1`` of each value's cell, int64; ``bins`` plays no part."""
        if isinstance(self.of, Choice):
            return self.of.cell(values, bins) * self.cells // len(self.of.values)
        return self.of.cell(values, self.cells)

    def describe(self) -> dict[str, Any]:
        """The distribution as plain JSON values."""
        return {"kind": type(self).__name__, "of": self.of.describe(), "cells": self.cells}
