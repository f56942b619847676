"""Actions that arrive late: what is given at step t acts at step t + delay."""

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
    """Every action acts ``delay`` steps after it was given; before the first one arrives, a neutral one acts.

    Adds the constant ``delay``, a whole number of steps from 0 to ``longest``. The actions under way are
    part of the state and are not observed: with a delay, an observation alone no longer tells what comes
    next.

    Args:
        family: what to wrap, with discrete actions or flat continuous ones.
        longest: the longest delay that any task may have, in steps.
        neutral: acts until the first action arrives: the number of a discrete action, or the value of every
            component of a continuous one. Of Acrobot and MountainCar, 1 does nothing; CartPole has no such
            action, and 0 pushes left.
        delay: a number or distribution.

    Raises:
        TypeError: other actions, or see ``Wrapper``.
        ValueError: ``longest`` below 1, a neutral action outside the action space, or see ``Wrapper``.
    """

    def __init__(
        self, family: Family, longest: int = 1, neutral: float = 0.0, delay: Distribution | float = 0.0
    ) -> None:
        longest = whole("longest of Delayed", longest)
        count = components("Delayed", family) or 1
        # One name for every step of delay and every component, the youngest action first.
        self._slots = [[f"delayed_{lag}_{part}" for part in range(count)] for lag in range(1, longest + 1)]
        self._neutral = neutral_action("Delayed", family, neutral)
        self._flat = bool(components("Delayed", family))
        choices = tuple(float(steps) for steps in range(longest + 1))
        delays = Parameter(0.0, 0.0, float(longest), "steps", "from giving an action to its effect", choices=choices)
        memory = tuple(name for slot in self._slots for name in slot)
        settings = {"longest": longest, "neutral": self._neutral}
        super().__init__(family, {"delay": delays}, {"delay": delay}, memory, settings)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """The wrapped family's first states, with neutral actions under way."""
        state = super().reset(task, rows, generator=generator)
        waiting = {name: task["delay"].new_full(rows, self._neutral) for slot in self._slots for name in slot}
        return state | waiting

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step under the action that arrives now; ``action`` joins those under way."""
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
        """``ceiling`` alone: whatever is done late could also be done in time. Random play starts otherwise."""
        return self._ceiling(task)
