"""Sensors with noise and bias."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .. import counter
from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, channels

KEY, COUNT = "noise_key", "noise_count"


@final
class NoisySensors(Wrapper):
    """Adds to observations a bias, constant within a task, and normal noise, new at every step.

    Adds the constants ``noise_0``, ... (standard deviation) and ``bias_0``, ..., one of each per sensor, in the unit of
    that sensor. Each row draws a key at its reset; the noise of its t-th observation is computed from that key and t
    (see ``counter``). Observing a state twice therefore gives the same noise.

    Args:
        family: the family to wrap, with flat observations.
        ranges: a number or distribution for any constant added.

    Raises:
        TypeError: observations are not flat, or see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    observation_space: Box  # unbounded

    def __init__(self, family: Family, **ranges: Distribution | float) -> None:
        self._count = channels("NoisySensors", family).shape[0]
        self._noise = [f"noise_{number}" for number in range(self._count)]
        self._bias = [f"bias_{number}" for number in range(self._count)]
        noise = {name: Parameter(0.0, 0.0, 1e3, "sensor's", "standard deviation of the noise") for name in self._noise}
        bias = {name: Parameter(0.0, -1e3, 1e3, "sensor's", "bias added to the sensor") for name in self._bias}
        super().__init__(family, noise | bias, ranges, (KEY, COUNT))
        self.observation_space = Box(-np.inf, np.inf, (self._count,), dtype=np.float32)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the wrapped family's initial states and then draw a key for each row's noise."""
        state = super().reset(task, rows, generator=generator)
        key = counter.keys(rows, generator=generator).to(task["noise_0"].device)
        return state | {KEY: key, COUNT: torch.zeros_like(key)}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation ``[*rows, sensors]`` with bias and noise."""
        seen = super().observe(task, state)
        numbers = state[COUNT].unsqueeze(-1) * (2 * self._count) + torch.arange(2 * self._count, device=seen.device)
        uniform = counter.uniform(state[KEY].unsqueeze(-1), numbers, seen.dtype)
        standard = counter.normal(uniform[..., : self._count], uniform[..., self._count :])
        noise, bias = (torch.stack([task[name] for name in names], -1) for names in (self._noise, self._bias))
        return torch.addcmul(seen + bias, noise, standard)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family and advance the noise counter."""
        moved = super().step(task, state, action)
        return moved._replace(state=moved.state | {KEY: state[KEY], COUNT: state[COUNT] + 1})

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references: bounds stay valid, and blind and random play are unaffected.

        A ceiling that could be reached with exact observations may no longer be reachable.
        """
        return self._references(task)
