"""Learned step sizes: raw parameters and the map that turns them into rates.

A rate is ``parameterisation.rate(raw)``. *Free* rates may become negative and reverse a gradient, as in the Meta-SGD
paper; *positive* ones are learned on a log scale; *bounded* ones stay inside an interval.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metarl import checks


class Parameterisation(ABC):
    """An invertible map from unconstrained numbers to rates."""

    @abstractmethod
    def rate(self, raw: Tensor) -> Tensor:
        """Return the rates of raw parameters, elementwise."""

    @abstractmethod
    def raw(self, rate: float) -> float:
        """Return the raw parameter of a rate.

        Raises:
            ValueError: the rate cannot be represented.
        """


def finite(rate: float) -> float:
    """Return the rate unchanged if it is finite.

    Raises:
        TypeError: the rate is not a number.
        ValueError: the rate is NaN or infinite.
    """
    try:
        known = math.isfinite(rate)
    except TypeError as error:
        raise TypeError(f"a step size must be a number, got {checks.told(rate)}") from error
    if not known:
        raise ValueError(f"a step size must be a finite number, got {rate}")
    return rate


@dataclass(frozen=True)
class Free(Parameterisation):
    """The rate itself is the parameter; it may become negative."""

    def rate(self, raw: Tensor) -> Tensor:
        """Return ``raw`` unchanged."""
        return raw

    def raw(self, rate: float) -> float:
        """Return ``rate`` unchanged; see `Parameterisation.raw`."""
        return finite(rate)


@dataclass(frozen=True)
class Positive(Parameterisation):
    """``rate = exp(raw)``: additive steps on ``raw`` multiply the rate."""

    def rate(self, raw: Tensor) -> Tensor:
        """Return ``exp(raw)``."""
        return raw.exp()

    def raw(self, rate: float) -> float:
        """Return ``log(rate)``; see `Parameterisation.raw`."""
        if not finite(rate) > 0.0:
            raise ValueError(f"a positive step size must start above 0, got {rate}")
        return math.log(rate)


@dataclass(frozen=True)
class Bounded(Parameterisation):
    """``rate = low + (high - low) · sigmoid(raw)``: strictly inside ``(low, high)``."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check that the interval is not empty."""
        if not finite(self.low) < finite(self.high):
            raise ValueError(f"bounded step sizes need low < high, got ({self.low}, {self.high})")

    def rate(self, raw: Tensor) -> Tensor:
        """Return the rate of the class's equation."""
        return self.low + (self.high - self.low) * raw.sigmoid()

    def raw(self, rate: float) -> float:
        """Return the logit of the rate's position in the interval; see `Parameterisation.raw`."""
        if not self.low < finite(rate) < self.high:
            raise ValueError(f"the initial step size must lie inside ({self.low}, {self.high}), got {rate}")
        share = (rate - self.low) / (self.high - self.low)
        return math.log(share / (1.0 - share))


class Table(nn.Module):
    """Learned tensors by name.

    Policy parameters have names with dots, such as ``network.head.weight``, which ``nn.ParameterDict`` refuses. Dots
    are therefore stored as slashes, also in ``state_dict``.
    """

    def __init__(self, first: Mapping[str, Tensor]) -> None:
        """``first`` holds the initial values by name; they are not copied."""
        super().__init__()
        for name, value in first.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value))

    def forward(self) -> dict[str, Tensor]:
        """Return the tensors by name; gradients flow through them."""
        return {name.replace("/", "."): value for name, value in self.named_parameters(recurse=False)}


class Rates(Table):
    """A table of learned rates."""

    def __init__(
        self,
        shapes: Mapping[str, torch.Size | tuple[int, ...]],
        *,
        initial: float | tuple[float, float],
        parameterisation: Parameterisation | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Start every rate at ``initial``, or draw it from ``initial = (low, high)`` with ``generator``.

        Draws are uniform in the raw parameter: in the rate itself if it is free, in its logarithm if it is positive,
        in its logit if it is bounded.

        Raises:
            TypeError: ``parameterisation`` or ``generator`` is of the wrong type.
            ValueError: a rate is not finite or cannot be represented, or a range is reversed or comes without a
                generator.
        """
        given = parameterisation if parameterisation is not None else Free()
        checks.of_type("parameterisation", given, Parameterisation, "a Parameterisation, such as Positive()")
        if generator is not None:
            checks.generator(generator)
        super().__init__({name: _first(given, shape, initial, generator) for name, shape in shapes.items()})
        self.parameterisation = given

    def forward(self) -> dict[str, Tensor]:
        """Return the rates by name; gradients flow through them."""
        return {name: self.parameterisation.rate(raw) for name, raw in super().forward().items()}


def _first(
    parameterisation: Parameterisation,
    shape: tuple[int, ...],
    initial: float | tuple[float, float],
    generator: torch.Generator | None,
) -> Tensor:
    if isinstance(initial, tuple):
        if generator is None:
            raise ValueError(
                f"step sizes drawn from {initial} need a generator: pass generator=, or one number, as in initial=0.1"
            )
        if not initial[0] <= initial[1]:
            raise ValueError(f"step sizes are drawn from (low, high), got {initial}: swap the ends")
        low, high = (parameterisation.raw(bound) for bound in initial)
        return low + (high - low) * torch.rand(shape, generator=generator)
    return torch.full(shape, float(parameterisation.raw(initial)))


def layer_of(name: str) -> str:
    """Return the layer of a parameter: its name without the last dotted part, or the whole name if it has no dot."""
    return name.rpartition(".")[0] or name
