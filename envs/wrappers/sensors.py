"""Sensors that are swapped, turned around, weak or dead."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from ..family import Family, State, Task
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, channels
from .permutations import permutation

MOST_SENSORS = 5  # that may be rewired: 2^5 5! = 3840 ways are still named one by one


@final
class ScaledSensors(Wrapper):
    """Observations, each component times its own hidden gain: 1 as is, -1 flipped, 0 dead.

    Adds the constants ``sensor_0``, ``sensor_1``, ..., of size at most ``largest``.

    Args:
        family: what to wrap, with flat observations.
        largest: the largest gain that any task may have; it decides the observation space.
        ranges: a number or distribution for any gain.

    Raises:
        TypeError: other observations, or see ``Wrapper``.
        ValueError: ``largest`` below 1 or not finite, or see ``Wrapper``.
    """

    observation_space: Box  # wide enough for every gain

    def __init__(self, family: Family, largest: float = 1.0, **ranges: Distribution | float) -> None:
        space = channels("ScaledSensors", family)
        if not (math.isfinite(largest) and largest >= 1):
            raise ValueError(f"ScaledSensors: expected a finite largest gain of at least 1, got {largest}; correct it")
        self._names = [f"sensor_{number}" for number in range(space.shape[0])]
        own = {
            name: Parameter(1.0, -largest, largest, "1", f"gain of sensor {number}")
            for number, name in enumerate(self._names)
        }
        super().__init__(family, own, ranges, settings={"largest": float(largest)})
        ends = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float32) * np.float32(largest)
        self.observation_space = Box(-ends, ends, dtype=np.float32)

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation ``[*rows, sensors]``, scaled."""
        return super().observe(task, state) * torch.stack([task[name] for name in self._names], -1)

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's: what can be done does not change, only what is seen."""
        return self._references(task)


@final
class RewiredSensors(Wrapper):
    """Observations in another order and with other signs: sensor i shows ``sign[i] * observation[p[i]]``.

    Adds the constant ``wiring``, one whole number for a permutation p and the signs of all n sensors, from
    0, which changes nothing, to ``2^n n! - 1``: 384 wirings of four sensors, and 768 together with a polarity
    of the actuator. ``wiring // 2^n`` is the number of p in the order of ``itertools.permutations``. Of the
    n lowest bits, bit 0 turns all sensors around and bit i, from 1 on, sensor i besides. So the wirings 2k
    and 2k + 1 differ in the signs of all sensors.

    That matters for held-out wirings. Where the equations are symmetric, as CartPole's are, turning around all
    sensors and the actuator gives an environment that no agent can tell from the first. Of a pair (2k, 2k + 1)
    both or none should be trained on.

    Args:
        family: what to wrap, with flat observations of at most 5 numbers.
        wiring: a number, or a distribution such as ``Choice``.

    Raises:
        TypeError: other observations, or see ``Wrapper``.
        ValueError: too many sensors, or see ``Wrapper``.
    """

    observation_space: Box  # every sensor may show what any other showed, with either sign

    def __init__(self, family: Family, wiring: Distribution | float = 0.0) -> None:
        space = channels("RewiredSensors", family)
        self._count = space.shape[0]
        if self._count > MOST_SENSORS:
            raise ValueError(
                f"RewiredSensors: expected at most {MOST_SENSORS} sensors, got {self._count}; turn signs by "
                "ScaledSensors"
            )
        choices = tuple(float(number) for number in range(wirings(self._count)))
        own = Parameter(0.0, 0.0, choices[-1], "1", "number of the sensors' order and signs", choices=choices)
        super().__init__(family, {"wiring": own}, {"wiring": wiring})
        end = float(np.maximum(np.abs(space.low), np.abs(space.high)).max())
        self.observation_space = Box(-end, end, space.shape, dtype=np.float32)
        self._order, self._sign = _wired(torch.arange(len(choices)), self._count)  # looked up in every step

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation ``[*rows, sensors]``, rewired."""
        seen = super().observe(task, state)
        wiring = task["wiring"].long()
        order, sign = (  # not by brackets, which torch below 2.11 cannot lift over a single number
            table.to(seen.device).index_select(0, wiring.flatten()).reshape(*wiring.shape, -1)
            for table in (self._order, self._sign)
        )
        return seen.gather(-1, order.expand(seen.shape)) * sign

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's: what can be done does not change, only what is seen."""
        return self._references(task)


def _wired(number: Tensor, sensors: int) -> tuple[Tensor, Tensor]:
    """Orders and signs of wirings ``[W]``, int64 ``[W, sensors]`` each."""
    bits = torch.bitwise_and(number.unsqueeze(-1) >> torch.arange(sensors), 1)
    turned = torch.cat((bits[..., :1], bits[..., 1:] ^ bits[..., :1]), -1)
    return permutation(number >> sensors, sensors), 1 - 2 * turned


def wirings(sensors: int) -> int:
    """How many orders and signs so many sensors have, ``2^n n!``."""
    return (1 << sensors) * math.factorial(sensors)
