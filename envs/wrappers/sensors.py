"""Sensors that are swapped, reversed, weak or dead."""

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

MOST_SENSORS = 5  # largest number of sensors to rewire: the 2^5 5! = 3840 wirings are enumerated as valid values


@final
class ScaledSensors(Wrapper):
    """Multiplies each component of an observation by its own hidden gain: 1 unchanged, -1 flipped, 0 dead.

    Adds the constants ``sensor_0``, ``sensor_1``, ..., each between ``-largest`` and ``largest``.

    Args:
        family: the family to wrap, with flat observations.
        largest: the largest absolute gain that any task may have; it determines the observation space.
        ranges: a number or distribution for any gain.

    Raises:
        TypeError: observations are not flat, or see ``Wrapper``.
        ValueError: ``largest`` is below 1 or not finite, or see ``Wrapper``.
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
        with np.errstate(over="ignore"):  # bounds near the largest float32 may overflow to infinity, meaning no bound
            ends = np.maximum(np.abs(space.low), np.abs(space.high)).astype(np.float32) * np.float32(largest)
        self.observation_space = Box(-ends, ends, dtype=np.float32)

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation ``[*rows, sensors]``, scaled."""
        return super().observe(task, state) * torch.stack([task[name] for name in self._names], -1)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references: only observations change, not what can be achieved."""
        return self._references(task)


@final
class RewiredSensors(Wrapper):
    """Permutes observations and flips their signs: sensor i shows ``sign[i] * observation[p[i]]``.

    Adds the constant ``wiring``, an integer that encodes a permutation p and the signs of all n sensors, from 0, which
    changes nothing, to ``2^n n! - 1``: 384 wirings of four sensors, or 768 environments when combined with the polarity
    of the actuator. ``wiring // 2^n`` is the index of p in the order of ``itertools.permutations``. Of the n lowest
    bits, bit 0 flips all sensors, and bit i, for i from 1, additionally flips sensor i. The wirings 2k and 2k + 1 thus
    differ in the signs of all sensors.

    This matters for held-out wirings. If the equations are symmetric, as CartPole's are, flipping all sensors and the
    actuator gives an environment that no agent can distinguish from the original. Train on both wirings of a pair
    (2k, 2k + 1) or on neither.

    Args:
        family: the family to wrap, with flat observations of at most 5 numbers.
        wiring: a number, or a distribution such as ``Choice``.

    Raises:
        TypeError: observations are not flat, or see ``Wrapper``.
        ValueError: there are too many sensors, or see ``Wrapper``.
    """

    observation_space: Box  # wide enough for any sensor in any place, with either sign

    def __init__(self, family: Family, wiring: Distribution | float = 0.0) -> None:
        space = channels("RewiredSensors", family)
        self._count = space.shape[0]
        if self._count > MOST_SENSORS:
            raise ValueError(
                f"RewiredSensors: expected at most {MOST_SENSORS} sensors, got {self._count}; flip signs with "
                "ScaledSensors"
            )
        choices = tuple(float(number) for number in range(wirings(self._count)))
        own = Parameter(0.0, 0.0, choices[-1], "1", "index of the order and signs of the sensors", choices=choices)
        super().__init__(family, {"wiring": own}, {"wiring": wiring})
        end = float(np.maximum(np.abs(space.low), np.abs(space.high)).max())
        self.observation_space = Box(-end, end, space.shape, dtype=np.float32)
        self._order, self._sign = _wired(torch.arange(len(choices)), self._count)  # looked up in every step

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation ``[*rows, sensors]``, rewired."""
        seen = super().observe(task, state)
        wiring = task["wiring"].long()
        order, sign = (  # index_select, because vmap of table[wiring] fails for 0-d wirings in torch below 2.11
            table.to(seen.device).index_select(0, wiring.flatten()).reshape(*wiring.shape, -1)
            for table in (self._order, self._sign)
        )
        return seen.gather(-1, order.expand(seen.shape)) * sign

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references: only observations change, not what can be achieved."""
        return self._references(task)


def _wired(number: Tensor, sensors: int) -> tuple[Tensor, Tensor]:
    """Decode wirings ``[W]`` to orders and signs, int64 ``[W, sensors]`` each."""
    bits = torch.bitwise_and(number.unsqueeze(-1) >> torch.arange(sensors), 1)
    turned = torch.cat((bits[..., :1], bits[..., 1:] ^ bits[..., :1]), -1)
    return permutation(number >> sensors, sensors), 1 - 2 * turned


def wirings(sensors: int) -> int:
    """Return the number of wirings of n sensors, ``2^n n!``."""
    return (1 << sensors) * math.factorial(sensors)
