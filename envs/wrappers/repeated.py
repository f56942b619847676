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
    """Executes every action ``repeats`` times and sums the rewards; the agent observes the last state.

    Adds the constant ``repeats``, a whole number from 1 to ``most``. An episode that ends during the repeats ends
    there, without further reward. The horizon counts the agent's decisions, so a task with more repeats lasts longer.

    In every task, one step costs as much as ``most`` steps of the wrapped family: rows do not branch.

    Args:
        family: the family to wrap.
        most: the largest number of repeats that any task may have.
        repeats: a number or distribution.

    Raises:
        TypeError: ``family`` is live, so that all its rows must be stepped together, or see ``Wrapper``.
        ValueError: ``most`` is below 2, or see ``Wrapper``.
    """

    def __init__(self, family: Family, most: int = 4, repeats: Distribution | float = 1.0) -> None:
        refuse_live("Repeated", family, "whose rows can be stepped independently")
        self._most = whole("most of Repeated", most, 2)
        choices = tuple(float(count) for count in range(1, self._most + 1))
        own = Parameter(
            1.0, 1.0, float(self._most), "steps", "number of steps for which an action is repeated", choices=choices
        )
        super().__init__(family, {"repeats": own}, {"repeats": repeats}, settings={"most": self._most})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take up to ``repeats`` steps of the wrapped family."""
        moved = super().step(task, state, action)
        for taken in range(1, self._most):
            again = super().step(task, moved.state, action)
            going = (task["repeats"] > taken) & ~moved.terminated
            after = {name: torch.where(going, values, moved.state[name]) for name, values in again.state.items()}
            # torch.where, not a product with the mask: values after the end of an episode may be infinite.
            reward = torch.where(going, moved.reward + again.reward, moved.reward)
            moved = Transition(after, reward, moved.terminated | (going & again.terminated))
        return moved

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return an empty dict: returns now sum over a different number of steps."""
        return {}
