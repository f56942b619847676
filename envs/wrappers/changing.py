"""Physics that change in mid-life: some constants take other values from a given step of an episode on.

A family keeps nothing between episodes, so the change comes at the same step of every episode. For a change
between episodes no wrapper is needed: adapt to a task, then go on with another.
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
from .base import Wrapper, refuse_live

CLOCK = "changing_clock"
NEVER = 1e6  # steps


@final
class Changing(Wrapper):
    """Constants that are one thing before step ``change_at`` of an episode and another from that step on.

    Adds ``change_at``, in steps, and for each constant named a ``later_`` one with its own valid values:
    ``Changing(CartPole(), change_at=100, polarity=-1.0)`` adds ``later_polarity``, and the actuator of every
    episode turns around after 100 steps. Before and after are drawn independently. Steps are counted from
    0, in steps of the wrapped family, and of ``change_at`` the whole part counts; at 0 the change has come
    already when the episode starts. What the wrapped family shows is decided by the constants in force as well.

    Args:
        family: what to wrap.
        change_at: a number or distribution; a change after the horizon never comes, which is the default.
        later: by the name of a constant of ``family``, a number or distribution for what it changes to.

    Raises:
        TypeError: a live family, which reads its constants at the reset only, or see ``Wrapper``.
        ValueError: nothing changes, ``family`` has no such constant, or see ``Wrapper``.
    """

    def __init__(self, family: Family, change_at: Distribution | float = NEVER, **later: Distribution | float) -> None:
        refuse_live("Changing", family, "that reads its constants at every step")
        known = family.parameters
        if not later:
            raise ValueError(f"Changing: expected constants that change, got none; name some of {', '.join(known)}")
        refuse_unknown(f"Changing: {type(family).__name__}", "constant", later, known)
        self._later = {name: f"later_{name}" for name in known if name in later}
        own = {"change_at": Parameter(NEVER, 0.0, NEVER, "steps", "from the start to the change", whole=True)}
        for name, new in self._later.items():
            own[new] = replace(known[name], doc=f"{known[name].doc}, from the change on")
        ranges = {"change_at": change_at, **{new: later[name] for name, new in self._later.items()}}
        super().__init__(family, own, ranges, (CLOCK,))

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """The wrapped family's first states, at step 0."""
        clock = torch.zeros_like(task["change_at"])
        state = self._family.reset(self._now(task, clock), rows, generator=generator)
        return state | {CLOCK: clock.new_zeros(rows)}

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation under the constants in force."""
        return self._family.observe(self._now(task, state[CLOCK]), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step under the constants in force."""
        moved = self._family.step(self._now(task, state[CLOCK]), self._state(state), action)
        return moved._replace(state=moved.state | {CLOCK: state[CLOCK] + 1})

    def references(self, task: Task) -> dict[str, Tensor]:
        """None: the wrapped family's hold for one set of constants throughout an episode."""
        return {}

    def _now(self, task: Task, clock: Tensor) -> dict[str, Tensor]:
        """The wrapped family's constants at a step ``[*rows]``, all of that shape: it may stack them."""
        early = clock + 1 <= task["change_at"]  # the clock is whole, and so what is behind the point does not count
        now = self._task(task) | {name: torch.where(early, task[name], task[new]) for name, new in self._later.items()}
        return {name: values.expand(clock.shape) for name, values in now.items()}
