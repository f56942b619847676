"""The declaration of one constant of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from .ranges import Choice, Distribution, Fixed, Range


@final
@dataclass(frozen=True)
class Parameter:
    """Declaration of one constant of a family: its default and its physically valid values.

    Args:
        default: the value of the constant unless another is given.
        low: smallest valid value.
        high: largest valid value.
        unit: SI unit, or ``"1"``.
        doc: short description.
        choices: the valid values, if there are only a few; empty otherwise.
        whole: whether only the integer part matters. Two tasks that differ only in the fractional part are the same
            environment, so splits also use the integer part, and ranges must begin and end at integers.
    """

    default: float
    low: float
    high: float
    unit: str
    doc: str
    choices: tuple[float, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.accepts(Fixed(self.default)):
            raise ValueError(f"Parameter: expected a default {self.valid}, got {self.default}; correct one of them")

    @property
    def valid(self) -> str:
        """Description of the valid values for error messages."""
        if self.choices:
            return f"one of {self.choices}"
        return f"{'whole numbers ' if self.whole else ''}within [{self.low}, {self.high}]"

    def accepts(self, distribution: Distribution) -> bool:
        """Return whether every value of the distribution is valid."""
        if self.choices:
            return all(low == high and low in self.choices for low, high in distribution.intervals)
        if self.whole and not all(float(end).is_integer() for ends in distribution.intervals for end in ends):
            return False
        low, high = distribution.bounds
        return self.low <= low and high <= self.high

    def distinct(self, values: Tensor) -> Tensor:
        """Return what distinguishes values of this constant: the integer part if only that matters, or the values."""
        return values.float().floor() if self.whole else values

    def covers(self, values: Tensor) -> Tensor:
        """Return whether each value is valid, bool of the same shape; false for NaN and infinities."""
        valid: Distribution = Choice(self.choices) if self.choices else Range(self.low, self.high)
        return valid.contains(values)
