"""Rewards in other units, paid from another zero, or lowered for straying.

Neither of the first two changes which policy is best where episodes have a fixed length, but both change the size of
gradients and what a baseline must learn. Where a policy decides when an episode ends, a shift changes what
is best: enough of it makes a pole worth dropping.
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
from .base import Wrapper, refuse_live


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


@final
class CentredReward(Wrapper):
    """Rewards less what straying costs: 0 where all that is watched is zero, ``straying`` where all is at its limit.

    Where just staying within limits is rewarded, it also tells how much room was left:
    ``reward - straying * mean((value / limit)^2)`` after the step, each square at most 1.

    Args:
        family: what to wrap.
        limits: of what is watched, by its name in the state.
        straying: a positive number.

    Raises:
        TypeError: a live family, whose state has only tickets to watch, or see ``Wrapper``.
        ValueError: nothing to watch or an unknown name, a limit or cost that is not positive and finite, or see
            ``Wrapper``.
    """

    def __init__(self, family: Family, limits: Mapping[str, float], straying: float = 0.9) -> None:
        refuse_live("CentredReward", family, "whose state can be watched")
        for name, value in {**limits, "straying": straying}.items():
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"CentredReward: expected a positive {name}, got {value}; correct it")
        settings = {**{f"limit_{name}": float(limit) for name, limit in limits.items()}, "straying": float(straying)}
        super().__init__(family, {}, {}, settings=settings)
        generator = torch.Generator().manual_seed(0)
        known = family.reset(family.sample(1, generator=generator), (1,), generator=generator)
        if not limits or (unknown := [name for name in limits if name not in known]):
            came = repr(unknown[0]) if limits else "nothing"
            raise ValueError(
                f"CentredReward: expected limits of {', '.join(known)}, got {came}; name what is to be watched"
            )
        self._limits, self._straying = dict(limits), straying

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step, its reward lowered."""
        moved = super().step(task, state, action)
        strayed = [(moved.state[name] / limit).square().clamp_max(1.0) for name, limit in self._limits.items()]
        return moved._replace(reward=moved.reward - self._straying * torch.stack(strayed).mean(0))

    def references(self, task: Task) -> dict[str, Tensor]:
        """``ceiling`` alone: straying only costs."""
        return self._ceiling(task)
