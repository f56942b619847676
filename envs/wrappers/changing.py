"""Dynamics that change within an episode: some constants take other values from a given step on.

A family keeps no state between episodes, so the change happens at the same step of every episode. A change between
episodes needs no wrapper: adapt to one task, then continue with another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from ..checks import refuse_unknown
from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, holds, refuse_live
from .controls import Shuffled

CLOCK = "changing_clock"
NEVER = 1e6  # steps


@final
class Changing(Wrapper):
    """Gives constants one value before step ``change_at`` of an episode and another from that step on.

    Adds ``change_at``, in steps, and for each constant named in ``later`` a constant ``later_<name>`` with the same
    valid values: ``Changing(CartPole(), change_at=100, polarity=-1.0)`` adds ``later_polarity``, and the actuator
    reverses after 100 steps of every episode. The values before and after are drawn independently.

    Steps are counted from 0, in steps of the wrapped family; a fractional part of ``change_at`` is ignored. With 0, the
    change is in effect from the start of the episode. Observations also use the constants currently in effect.

    Args:
        family: the family to wrap.
        change_at: a number or distribution. By default it is beyond every horizon, so the change never happens.
        later: for the name of a constant of ``family``, a number or distribution for its later value.

    Raises:
        TypeError: ``family`` is live and reads its constants only at the reset, or see ``Wrapper``.
        ValueError: nothing changes, ``family`` has no such constant, its tasks are shuffled, so that each row keeps the
            constants that it was dealt at the reset, or see ``Wrapper``.
    """

    def __init__(self, family: Family, change_at: Distribution | float = NEVER, **later: Distribution | float) -> None:
        refuse_live("Changing", family, "that reads its constants at every step")
        if holds(family, Shuffled):
            raise ValueError("Changing: expected tasks in their order, got shuffled ones; use Shuffled(Changing(...))")
        known = family.parameters
        if not later:
            raise ValueError(f"Changing: expected constants that change, got none; name some of {', '.join(known)}")
        refuse_unknown(f"Changing: {type(family).__name__}", "constant", later, known)
        self._later = {name: f"later_{name}" for name in known if name in later}
        own = {
            "change_at": Parameter(
                NEVER, 0.0, NEVER, "steps", "steps from the start of an episode to the change", whole=True
            )
        }
        for name, new in self._later.items():
            own[new] = replace(known[name], doc=f"{known[name].doc}, from the change on")
        ranges = {"change_at": change_at, **{new: later[name] for name, new in self._later.items()}}
        super().__init__(family, own, ranges, (CLOCK,))

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the wrapped family's initial states, with the step counter at 0."""
        clock = torch.zeros_like(task["change_at"])
        state = self._family.reset(self._now(task, clock), rows, generator=generator)
        return state | {CLOCK: clock.new_zeros(rows)}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation with the constants currently in effect."""
        return self._family.observe(self._now(task, state[CLOCK]), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family with the constants currently in effect."""
        moved = self._family.step(self._now(task, state[CLOCK]), self._state(state), action)
        return moved._replace(state=moved.state | {CLOCK: state[CLOCK] + 1})

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return an empty dict: the wrapped family's references assume the same constants throughout an episode."""
        return {}

    def _now(self, task: Task, clock: Tensor) -> dict[str, Tensor]:
        """Return the constants in effect at step ``clock`` ``[*rows]``, all of that shape: families may stack them."""
        early = clock + 1 <= task["change_at"]  # the clock is an integer, so a fractional part has no effect
        now = self._task(task) | {name: torch.where(early, task[name], task[new]) for name, new in self._later.items()}
        return {name: values.expand(clock.shape) for name, values in now.items()}
