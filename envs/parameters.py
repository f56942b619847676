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
        default: the value where nothing else is asked for.
        low: smallest valid value.
        high: largest valid value.
        unit: SI unit, or ``"1"``.
        doc: what it is, in a few words.
        choices: the only valid values, if just a few are; empty otherwise.
        whole: whether the whole part alone counts. Two tasks that differ in the rest are one to an agent, so splits
            look at the whole part too, and ranges must begin and end at whole numbers.
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
            raise ValueError(f"Parameter: expected a default {self.valid}, got {self.default}; correct one")

    @property
    def valid(self) -> str:
        """The valid values, in words for error messages."""
        if self.choices:
            return f"one of {self.choices}"
        return f"{'whole numbers ' if self.whole else ''}within [{self.low}, {self.high}]"

    def accepts(self, distribution: Distribution) -> bool:
        """Whether every value of the distribution is valid."""
        if self.choices:
            return all(low == high and low in self.choices for low, high in distribution.intervals)
        if self.whole and not all(float(end).is_integer() for ends in distribution.intervals for end in ends):
            return False
        low, high = distribution.bounds
        return self.low <= low and high <= self.high

    def covers(self, values: Tensor) -> Tensor:
        """Which values are valid, bool of the same shape; false for NaN and infinities."""
        valid: Distribution = Choice(self.choices) if self.choices else Range(self.low, self.high)
        return valid.contains(values)
