"""Rewards in other units, or paid from another zero.

Neither changes which policy is best where episodes have a fixed length, but both change the size of
gradients and what a baseline must learn. Where a policy decides when an episode ends, a shift changes what
is best: enough of it makes a pole worth dropping.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper


@final
class ScaledReward(Wrapper):
    """Rewards times the hidden constant ``reward_scale``, which is positive.

    Args:
        family: what to wrap.
        reward_scale: a number or distribution.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    def __init__(self, family: Family, reward_scale: Distribution | float = 1.0) -> None:
        own = Parameter(1.0, 1e-6, 1e6, "1", "what a reward of 1 becomes")
        super().__init__(family, {"reward_scale": own}, {"reward_scale": reward_scale})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step, its reward scaled."""
        moved = super().step(task, state, action)
        return moved._replace(reward=moved.reward * task["reward_scale"])

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's, scaled: a return is linear in the rewards, and the scale keeps their order."""
        return {name: values * task["reward_scale"] for name, values in self._references(task).items()}


@final
class ShiftedReward(Wrapper):
    """Rewards plus the hidden constant ``reward_shift``, at every step.

    Args:
        family: what to wrap.
        reward_shift: a number or distribution.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    def __init__(self, family: Family, reward_shift: Distribution | float = 0.0) -> None:
        own = Parameter(0.0, -1e6, 1e6, "reward", "paid at every step besides")
        super().__init__(family, {"reward_shift": own}, {"reward_shift": reward_shift})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step, its reward shifted."""
        moved = super().step(task, state, action)
        return moved._replace(reward=moved.reward + task["reward_shift"])

    def references(self, task: Task) -> dict[str, Tensor]:
        """None: the shift counts once a step, and how long an episode lasts is not known beforehand."""
        return {}
