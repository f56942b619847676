"""Upper and lower references for adaptation: the task is shown to the agent, or it cannot be identified at all."""

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
    """Shows the task's constants to the agent: the oracle that an adapted policy is compared with.

    Every constant that varies is appended to the observation, scaled linearly so that its range maps to [-1, 1]; values
    outside the range are extrapolated. Adds no constants.

    Args:
        family: the family to wrap, with flat observations.

    Raises:
        TypeError: observations are not flat, or see ``Wrapper``.
        ValueError: no constant of the family varies, or its tasks are shuffled, so that a row plays another task than
            the one that would be shown.
    """

    observation_space: Box  # the wrapped family's, then a number for every constant that varies

    def __init__(self, family: Family) -> None:
        seen = channels("Revealed", family)
        if holds(family, Shuffled):
            raise ValueError("Revealed: expected tasks in their order, got shuffled ones; use Shuffled(Revealed(...))")
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
        with np.errstate(over="ignore"):  # limits near the largest float32 may overflow to infinity, meaning no bound
            low, high = np.asarray(ends).astype(np.float32).T
        self.observation_space = Box(
            np.concatenate([seen.low, low]), np.concatenate([seen.high, high]), dtype=np.float32
        )

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation and the constants, ``[*rows, sensors + constants]``."""
        seen = super().observe(task, state)
        shown = [
            ((task[name] - middle) / half).expand(seen.shape[:-1]) for name, (middle, half) in self._scales.items()
        ]
        return torch.cat([seen, torch.stack(shown, -1).to(seen.dtype)], -1)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: what can be achieved does not change, but the agent knows more."""
        return self._ceiling(task)


@final
class Shuffled(Wrapper):
    """Reassigns the tasks to rows at every reset, so that one batch teaches nothing about the next.

    This is the control for adaptation itself. A learner trained on it sees the same environments equally often but has
    nothing to adapt to, so whatever it gains on held-out tasks is not due to adaptation. The tasks are permuted along
    the first dimension of the rows: the tasks of a meta-iteration. Adds no constants.

    Args:
        family: the family to wrap.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: ``family`` is already shuffled.
    """

    def __init__(self, family: Family) -> None:
        if holds(family, Shuffled):  # the state's names would clash
            raise ValueError("Shuffled: the wrapped family is already shuffled; shuffle it only once")
        known = wrapped("Shuffled", family).parameters
        super().__init__(family, {}, {}, tuple(f"{PREFIX}{name}" for name in known))

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return initial states of the permuted tasks, whose constants become part of the state."""
        count = rows[0] if rows else 1
        order = torch.randperm(count, generator=generator, device=generator.device)
        dealt = {}
        for name, values in self._task(task).items():
            spread = values.expand(rows)
            dealt[name] = spread[order.to(spread.device)] if rows else spread.clone()
        state = self._family.reset(dealt, rows, generator=generator)
        return state | {f"{PREFIX}{name}": values for name, values in dealt.items()}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation in the task assigned at the reset."""
        return self._family.observe(_dealt(state), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family in the task assigned at the reset."""
        moved = self._family.step(_dealt(state), self._state(state), action)
        kept = {name: values for name, values in state.items() if name in self._memory}
        return moved._replace(state=moved.state | kept)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return an empty dict: the task given here is not the one that the row plays."""
        return {}


def _dealt(state: State) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): values for name, values in state.items() if name.startswith(PREFIX)}
