"""Delayed actions: an action given at step t takes effect at step t + delay."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..checks import whole
from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, components, neutral_action


@final
class Delayed(Wrapper):
    """Executes every action ``delay`` steps after it was given; until the first one is due, a neutral action acts.

    Adds the constant ``delay``, a whole number of steps from 0 to ``longest``. Pending actions are part of the state
    and are not observed: with a delay, the observations are no longer Markov.

    Args:
        family: the family to wrap, with discrete or flat continuous actions.
        longest: the longest delay that any task may have, in steps.
        neutral: the action executed until the first one is due: the number of a discrete action, or the value of every
            component of a continuous one. In Acrobot and MountainCar, action 1 does nothing; CartPole has no such
            action, and 0 pushes left.
        delay: a number or distribution.

    Raises:
        TypeError: actions are of another kind, or see ``Wrapper``.
        ValueError: ``longest`` is below 1, ``neutral`` is outside the action space, or see ``Wrapper``.
    """

    def __init__(
        self, family: Family, longest: int = 1, neutral: float = 0.0, delay: Distribution | float = 0.0
    ) -> None:
        longest = whole("longest of Delayed", longest)
        count = components("Delayed", family) or 1
        # One name for every step of delay and every component, the latest action first.
        self._slots = [[f"delayed_{lag}_{part}" for part in range(count)] for lag in range(1, longest + 1)]
        self._neutral = neutral_action("Delayed", family, neutral)
        self._flat = bool(components("Delayed", family))
        choices = tuple(float(steps) for steps in range(longest + 1))
        delays = Parameter(0.0, 0.0, float(longest), "steps", "steps from an action to its effect", choices=choices)
        memory = tuple(name for slot in self._slots for name in slot)
        settings = {"longest": longest, "neutral": self._neutral}
        super().__init__(family, {"delay": delays}, {"delay": delay}, memory, settings)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the wrapped family's initial states, with neutral actions pending."""
        state = super().reset(task, rows, generator=generator)
        waiting = {name: task["delay"].new_full(rows, self._neutral) for slot in self._slots for name in slot}
        return state | waiting

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family with the action that is due now, and add ``action`` to the pending ones."""
        delay = task["delay"]
        given = action.unbind(-1) if self._flat else (action,)
        acting = list(given)
        for lag, slot in enumerate(self._slots, 1):
            late = delay == lag
            acting = [torch.where(late, state[name].to(new.dtype), new) for name, new in zip(slot, acting, strict=True)]
        moved = super().step(task, state, torch.stack(acting, -1) if self._flat else acting[0])
        waiting = {name: new.to(delay.dtype) for name, new in zip(self._slots[0], given, strict=True)}
        for younger, older in zip(self._slots, self._slots[1:], strict=False):
            waiting |= {name: state[source] for name, source in zip(older, younger, strict=True)}
        return moved._replace(state=moved.state | waiting)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: what is done late could be done in time. Random play starts with neutral actions."""
        return self._ceiling(task)
