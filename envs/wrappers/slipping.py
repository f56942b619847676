"""Actions that are occasionally replaced by random ones."""

from __future__ import annotations

from typing import final

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from .. import counter
from ..family import Family, State, Task, Transition
from .base import Wrapper, components, holds

KEY, COUNT = "slip_key", "slip_count"


@final
class Slipping(Wrapper):
    """At every step, with a fixed probability, executes a uniformly drawn action instead of the one given.

    This is a way to train, not something to adapt to: an agent that must recover from random actions learns not to
    depend on its next action. The wrapper adds no constants, so a benchmark's tasks may be trained with it and tested
    without it (see ``scored_in``). The agent does not observe whether an action slipped, unless the wrapped family
    shows the executed action, as ``Trials`` would. Each row draws a key at its reset; whether its t-th step slips, and
    to which action, is computed from that key and t (see ``counter``).

    Args:
        family: the family to wrap, with discrete actions or flat, bounded continuous ones.
        chance: the probability of slipping, 0 to 1.

    Raises:
        TypeError: actions are of another kind, or see ``Wrapper``.
        ValueError: ``chance`` is not a probability, continuous actions are unbounded, ``family`` already slips, or see
            ``Wrapper``.
    """

    def __init__(self, family: Family, chance: float) -> None:
        if holds(family, Slipping):  # no constants that would clash; only the state's names would
            raise ValueError("Slipping: the wrapped family already slips; wrap it once, with one chance")
        self._parts = components("Slipping", family)
        space = family.action_space
        assert isinstance(space, (Box, Discrete))
        if isinstance(space, Box) and not space.is_bounded():
            raise ValueError(
                f"Slipping: expected bounded actions, to draw random ones, got {space}; wrap another family"
            )
        if not 0.0 <= chance <= 1.0:
            raise ValueError(f"Slipping: expected a chance from 0 to 1, got {chance}; give a probability")
        self._chance = float(chance)
        self._bounds = (
            list(zip(space.low.tolist(), space.high.tolist(), strict=True))
            if isinstance(space, Box)
            else [(0.0, float(space.n))]
        )
        super().__init__(family, {}, {}, (KEY, COUNT), {"chance": self._chance})

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the wrapped family's initial states and then draw a key for each row's slips."""
        state = super().reset(task, rows, generator=generator)
        key = counter.keys(rows, generator=generator).to(next(iter(state.values())).device)
        return state | {KEY: key, COUNT: torch.zeros_like(key)}

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family, with another action in the rows that slip."""
        numbers = len(self._bounds) + 1
        dtype = action.dtype if action.is_floating_point() else torch.float32
        first, *drawn = (
            counter.uniform(state[KEY], state[COUNT] * numbers + number, dtype) for number in range(numbers)
        )
        odd = [low + (high - low) * u for (low, high), u in zip(self._bounds, drawn, strict=True)]
        slips = first < self._chance
        if self._parts:
            acting = torch.where(slips.unsqueeze(-1), torch.stack(odd, -1), action)
        else:
            acting = torch.where(slips, odd[0].floor().to(action.dtype), action)  # the number of an action
        moved = super().step(task, state, acting)
        return moved._replace(state=moved.state | {KEY: state[KEY], COUNT: state[COUNT] + 1})

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: no more can be done than without slips; random play earns the same as before."""
        return self._ceiling(task)
