"""Rewards that are scaled, shifted, or reduced by a penalty for straying from the centre.

With episodes of fixed length, neither scale nor shift changes which policy is best, but both change the size of
gradients and what a baseline must learn. If the policy influences when an episode ends, a shift may change the best
policy: with a large enough cost per step, dropping the pole is best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, holds, refuse_live
from .trials import Trials


@final
class ScaledReward(Wrapper):
    """Multiplies rewards by the hidden constant ``reward_scale``, which is positive.

    Args:
        family: the family to wrap.
        reward_scale: a number or distribution.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    def __init__(self, family: Family, reward_scale: Distribution | float = 1.0) -> None:
        own = Parameter(1.0, 1e-6, 1e6, "1", "factor on the reward")
        super().__init__(family, {"reward_scale": own}, {"reward_scale": reward_scale})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family and scale its reward."""
        moved = super().step(task, state, action)
        return moved._replace(reward=moved.reward * task["reward_scale"])

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references, scaled: returns are linear in rewards, and the scale is positive."""
        return {name: values * task["reward_scale"] for name, values in self._references(task).items()}


@final
class ShiftedReward(Wrapper):
    """Adds the hidden constant ``reward_shift`` to the reward of every step.

    Args:
        family: the family to wrap.
        reward_shift: a number or distribution.

    Raises:
        TypeError: see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    def __init__(self, family: Family, reward_shift: Distribution | float = 0.0) -> None:
        own = Parameter(0.0, -1e6, 1e6, "reward", "added to the reward of every step")
        super().__init__(family, {"reward_shift": own}, {"reward_shift": reward_shift})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family and shift its reward."""
        moved = super().step(task, state, action)
        return moved._replace(reward=moved.reward + task["reward_shift"])

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return an empty dict: the shift counts once per step, and episode lengths are not known in advance."""
        return {}


@final
class CentredReward(Wrapper):
    """Subtracts a cost for straying: 0 if all watched variables are zero, ``straying`` if all are at their limits.

    If an environment rewards only staying within limits, this reward also shows how much room was left:
    ``reward - straying * mean((value / limit)^2)`` after the step, each square at most 1.

    Args:
        family: the family to wrap.
        limits: the limits of the watched state variables, by their names in the state.
        straying: the largest cost per step; positive.

    Raises:
        TypeError: ``family`` is live, so that its state has no variables to watch, or see ``Wrapper``.
        ValueError: ``limits`` is empty or has an unknown name, a limit or ``straying`` is not positive and finite,
            ``family`` has trials, in which the last state of an episode is replaced by the next one's first, or see
            ``Wrapper``.
    """

    def __init__(self, family: Family, limits: Mapping[str, float], straying: float = 0.9) -> None:
        refuse_live("CentredReward", family, "whose state holds variables")
        if holds(family, Trials):  # whose state after the last step of an episode is the start of the next
            raise ValueError("CentredReward: expected single episodes, got trials; use Trials(CentredReward(...))")
        for name, value in {**limits, "straying": straying}.items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"CentredReward: expected a positive {name}, got {value}; correct it")
        settings = {**{f"limit_{name}": float(limit) for name, limit in limits.items()}, "straying": float(straying)}
        super().__init__(family, {}, {}, settings=settings)
        generator = torch.Generator().manual_seed(0)
        known = family.reset(family.sample(1, generator=generator), (1,), generator=generator)
        if not limits or (unknown := [name for name in limits if name not in known]):
            came = repr(unknown[0]) if limits else "nothing"
            raise ValueError(f"CentredReward: expected limits of {', '.join(known)}, got {came}; name state variables")
        self._limits, self._straying = dict(limits), straying

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family and subtract the cost from its reward."""
        moved = super().step(task, state, action)
        strayed = [(moved.state[name] / limit).square().clamp_max(1.0) for name, limit in self._limits.items()]
        return moved._replace(reward=moved.reward - self._straying * torch.stack(strayed).mean(0))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: the cost can only lower returns."""
        return self._ceiling(task)
