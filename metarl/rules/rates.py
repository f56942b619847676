"""Learned step sizes: raw parameters, and the map that makes rates of them.

A rate is ``parameterisation(raw)``. *Free* rates may cross zero and turn a gradient's sign, as in the
Meta-SGD paper; *positive* ones are learned on a log scale; *bounded* ones stay inside an interval.
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
        """Rates of raw parameters, elementwise."""

    @abstractmethod
    def raw(self, rate: float) -> float:
        """The raw parameter of a rate.

        Raises:
            ValueError: the rate cannot be represented.
        """


def finite(rate: float) -> float:
    """The rate, unchanged.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not math.isfinite(rate):
        raise ValueError(f"a step size must be a finite number, got {rate}")
    return rate


@dataclass(frozen=True)
class Free(Parameterisation):
    """The rate itself is the parameter; it may become negative."""

    def rate(self, raw: Tensor) -> Tensor:
        """Unchanged."""
        return raw

    def raw(self, rate: float) -> float:
        """Unchanged; see `Parameterisation.raw`."""
        return finite(rate)


@dataclass(frozen=True)
class Positive(Parameterisation):
    """``rate = exp(raw)``: additive steps on ``raw`` multiply the rate."""

    def rate(self, raw: Tensor) -> Tensor:
        """See the class."""
        return raw.exp()

    def raw(self, rate: float) -> float:
        """``log(rate)``; see `Parameterisation.raw`."""
        if not finite(rate) > 0.0:
            raise ValueError(f"a positive step size must start above 0, got {rate}")
        return math.log(rate)


@dataclass(frozen=True)
class Bounded(Parameterisation):
    """``rate = low + (high - low) · sigmoid(raw)``: strictly inside ``(low, high)``."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Refuses an empty interval."""
        if not finite(self.low) < finite(self.high):
            raise ValueError(f"bounded step sizes need low < high, got ({self.low}, {self.high})")

    def rate(self, raw: Tensor) -> Tensor:
        """See the class."""
        return self.low + (self.high - self.low) * raw.sigmoid()

    def raw(self, rate: float) -> float:
        """The logit; see `Parameterisation.raw`."""
        if not self.low < finite(rate) < self.high:
            raise ValueError(f"the first step size must lie inside ({self.low}, {self.high}), got {rate}")
        share = (rate - self.low) / (self.high - self.low)
        return math.log(share / (1.0 - share))


class Table(nn.Module):
    """Learned tensors by name.

    ``nn.ParameterDict`` refuses dots and policy parameters are called ``network.head.weight``; here a dot
    is stored as a slash, which ``state_dict`` keeps.
    """

    def __init__(self, first: Mapping[str, Tensor]) -> None:
        """``first`` values by name; they are taken over, not copied."""
        super().__init__()
        for name, value in first.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value))

    def forward(self) -> dict[str, Tensor]:
        """The tensors by name, with their graph."""
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
        """Start every rate at ``initial``, or anywhere in ``(low, high)``, drawn from ``generator``.

        Uniformly in what is learned: the rate itself where it is free, its logarithm where it is positive, its logit
        where it is bounded.

        Raises:
            TypeError: a parameterisation or generator that is none.
            ValueError: a rate that is not finite or not representable, a range that is empty or without a generator.
        """
        given = parameterisation if parameterisation is not None else Free()
        checks.of_type("parameterisation", given, Parameterisation, "one such as Positive()")
        if generator is not None:
            checks.generator(generator)
        super().__init__({name: _first(given, shape, initial, generator) for name, shape in shapes.items()})
        self.parameterisation = given

    def forward(self) -> dict[str, Tensor]:
        """The rates by name, with their graph."""
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
                f"step sizes drawn from {initial} need a generator: pass generator=, or one for all, as initial=0.1"
            )
        if not initial[0] <= initial[1]:
            raise ValueError(f"step sizes are drawn from (low, high), got {initial}: turn it round")
        low, high = (parameterisation.raw(bound) for bound in initial)
        return low + (high - low) * torch.rand(shape, generator=generator)
    return torch.full(shape, float(parameterisation.raw(initial)))


def layer_of(name: str) -> str:
    """The layer a parameter belongs to: its name without the last part, or the name itself."""
    return name.rpartition(".")[0] or name
