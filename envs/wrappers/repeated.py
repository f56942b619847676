"""Frame skip: each action is held for several steps of the wrapped family."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..checks import whole
from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, refuse_live


@final
class Repeated(Wrapper):
    """Every action is repeated ``repeats`` times, and the rewards are added up; the agent sees the last state.

    Adds the constant ``repeats``, a whole number from 1 to ``most``. An episode that ends during the repeats
    ends there, and is paid no further. The horizon counts the agent's decisions, so that a task with more
    repeats lasts longer.

    Every step takes as long as ``most`` steps of the wrapped family, in every task: rows do not branch.

    Args:
        family: what to wrap.
        most: the most repeats that any task may have.
        repeats: a number or distribution.

    Raises:
        TypeError: a live family, of which no row can stay behind, or see ``Wrapper``.
        ValueError: ``most`` below 2, or see ``Wrapper``.
    """

    def __init__(self, family: Family, most: int = 4, repeats: Distribution | float = 1.0) -> None:
        refuse_live("Repeated", family, "of which some rows can stay behind the others")
        self._most = whole("most of Repeated", most, 2)
        choices = tuple(float(count) for count in range(1, self._most + 1))
        own = Parameter(1.0, 1.0, float(self._most), "steps", "for which an action is held", choices=choices)
        super().__init__(family, {"repeats": own}, {"repeats": repeats}, settings={"most": self._most})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Up to ``repeats`` of the wrapped family's steps."""
        moved = super().step(task, state, action)
        for taken in range(1, self._most):
            again = super().step(task, moved.state, action)
            going = (task["repeats"] > taken) & ~moved.terminated
            after = {name: torch.where(going, values, moved.state[name]) for name, values in again.state.items()}
            # Chosen, not multiplied: what runs on after its end may be infinite.
            reward = torch.where(going, moved.reward + again.reward, moved.reward)
            moved = Transition(after, reward, moved.terminated | (going & again.terminated))
        return moved

    def references(self, task: Task) -> dict[str, Tensor]:
        """None: a return is now a sum over other numbers of steps."""
        return {}
