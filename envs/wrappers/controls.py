"""Two ends to measure adaptation between: tasks that need not be found out, and tasks that cannot be."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from ..family import Family, State, Task, Transition
from .base import Wrapper, channels, holds, wrapped

PREFIX = "shuffled_"


@final
class Revealed(Wrapper):
    """The task's constants are shown: the oracle that an adapted policy is compared with.

    Every constant that varies is put after the observation, scaled so that its range is [-1, 1]; beyond
    the range it goes on linearly. Adds no constants.

    Args:
        family: what to wrap, with flat observations.

    Raises:
        TypeError: other observations, or see ``Wrapper``.
        ValueError: a family of which nothing varies has nothing to show.
    """

    observation_space: Box  # the wrapped family's, then a number for every constant that varies

    def __init__(self, family: Family) -> None:
        seen = channels("Revealed", family)
        bounds = {name: distribution.bounds for name, distribution in family.ranges.items()}
        self._scales = {
            name: ((low + high) / 2, (high - low) / 2) for name, (low, high) in bounds.items() if low < high
        }
        if not self._scales:
            raise ValueError(
                f"Revealed: expected constants that vary, {type(family).__name__} has none; give it ranges"
            )
        super().__init__(family, {}, {})
        ends = [
            ((family.parameters[name].low - middle) / half, (family.parameters[name].high - middle) / half)
            for name, (middle, half) in self._scales.items()
        ]
        with np.errstate(over="ignore"):  # a constant may be as large as a float32: no bound then
            low, high = np.asarray(ends).astype(np.float32).T
        self.observation_space = Box(
            np.concatenate([seen.low, low]), np.concatenate([seen.high, high]), dtype=np.float32
        )

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation and the constants, ``[*rows, sensors + constants]``."""
        seen = super().observe(task, state)
        shown = [
            ((task[name] - middle) / half).expand(seen.shape[:-1]) for name, (middle, half) in self._scales.items()
        ]
        return torch.cat([seen, torch.stack(shown, -1).to(seen.dtype)], -1)

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's ceiling: what can be done does not change, but more is known."""
        return self._ceiling(task)


@final
class Shuffled(Wrapper):
    """Every time episodes start, the tasks are dealt anew among the rows: what one batch taught is no use to the next.

    The control for adaptation itself. A learner trained on it sees the same environments as often and has
    nothing to adapt to, so that what it gains on held-out tasks is not owed to adapting. The tasks
    are dealt along the first of the rows' dimensions, which are the tasks of a meta-iteration. Adds no constants.

    Args:
        family: what to wrap.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: a family that is shuffled already.
    """

    def __init__(self, family: Family) -> None:
        if holds(family, Shuffled):  # the names of what is dealt would clash
            raise ValueError("Shuffled: the wrapped family is shuffled already; shuffle it once")
        known = wrapped("Shuffled", family).parameters
        super().__init__(family, {}, {}, tuple(f"{PREFIX}{name}" for name in known))

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """First states of the tasks as they have been dealt; the deal stays with the state."""
        count = rows[0] if rows else 1
        order = torch.randperm(count, generator=generator, device=generator.device)
        dealt = {}
        for name, values in self._task(task).items():
            spread = values.expand(rows)
            dealt[name] = spread[order.to(spread.device)] if rows else spread.clone()
        state = self._family.reset(dealt, rows, generator=generator)
        return state | {f"{PREFIX}{name}": values for name, values in dealt.items()}

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation in the task dealt."""
        return self._family.observe(_dealt(state), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step in the task dealt."""
        moved = self._family.step(_dealt(state), self._state(state), action)
        kept = {name: values for name, values in state.items() if name in self._memory}
        return moved._replace(state=moved.state | kept)

    def references(self, task: Task) -> dict[str, Tensor]:
        """None: the task that a row is asked about is not the one it plays."""
        return {}


def _dealt(state: State) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): values for name, values in state.items() if name.startswith(PREFIX)}
