"""Actuators that are weak, turned around, swapped or dead."""

from __future__ import annotations

import math
from typing import final

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .base import Wrapper, components, neutral_action, wrapped
from .permutations import permutation

MOST_ACTIONS = 6  # that may be swapped: 6! = 720 ways are still named one by one


@final
class ScaledActions(Wrapper):
    """Continuous actions, each component times its own hidden gain: 1 as is, -1 flipped, 0 dead.

    Adds the constants ``actuator_0``, ``actuator_1``, ... An action is first clipped to the action space, or
    a louder policy would make up for a weak actuator. A gain above 1 is felt where the wrapped family does
    not clip; where it does, the actuator saturates earlier. What the wrapped family charges for
    actions it charges for what the actuators do.

    Args:
        family: what to wrap, with flat continuous actions.
        ranges: a number or distribution for any gain.

    Raises:
        TypeError: other actions, or see ``Wrapper``.
        ValueError: see ``Wrapper``.
    """

    def __init__(self, family: Family, **ranges: Distribution | float) -> None:
        if not components("ScaledActions", family):
            raise TypeError("ScaledActions: expected continuous actions, got discrete ones; use SwappedActions")
        self._names = [f"actuator_{part}" for part in range(components("ScaledActions", family))]
        own = {
            name: Parameter(1.0, -10.0, 10.0, "1", f"gain of component {part} of the action")
            for part, name in enumerate(self._names)
        }
        super().__init__(family, own, ranges)
        space = family.action_space
        assert isinstance(space, Box)
        self._bounds = list(zip(space.low.tolist(), space.high.tolist(), strict=True))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step under the scaled action. ``action`` is ``[*rows, components]``."""
        # Bounds as Python numbers, component by component: a tensor of them would have to follow the device.
        parts = [part.clamp(*ends) for part, ends in zip(action.unbind(-1), self._bounds, strict=True)]
        scaled = [part * task[name].to(part.dtype) for part, name in zip(parts, self._names, strict=True)]
        return super().step(task, state, torch.stack(scaled, -1))

    def references(self, task: Task) -> dict[str, Tensor]:
        """``ceiling`` alone: no more can be done than with whole actuators, and random play does less."""
        return self._ceiling(task)


@final
class SwappedActions(Wrapper):
    """Discrete actions in another order: action ``a`` does what action ``p[a]`` of the wrapped family does.

    Adds the constant ``action_order``, the number of the permutation p in the order of
    ``itertools.permutations``: 0 is the identity; of two actions, 1 flips them.

    Args:
        family: what to wrap, with 2 to 6 discrete actions.
        action_order: a number, or a distribution such as ``Choice``.

    Raises:
        TypeError: other actions, or see ``Wrapper``.
        ValueError: too few or too many actions, or see ``Wrapper``.
    """

    def __init__(self, family: Family, action_order: Distribution | float = 0.0) -> None:
        self._count = _discrete("SwappedActions", family)
        if not 2 <= self._count <= MOST_ACTIONS:
            raise ValueError(f"SwappedActions: expected 2 to {MOST_ACTIONS} actions, got {self._count}; wrap another")
        choices = tuple(float(number) for number in range(math.factorial(self._count)))
        order = Parameter(0.0, 0.0, choices[-1], "1", "number of the permutation of the actions", choices=choices)
        super().__init__(family, {"action_order": order}, {"action_order": action_order})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step under action ``p[action]``. ``action`` is ``[*rows]`` of any dtype."""
        meaning = permutation(task["action_order"].long(), self._count)
        return super().step(task, state, _looked_up(meaning, action).to(action.dtype))

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's: whoever knows the order can do the same, and random play stays what it was."""
        return self._references(task)


@final
class DeadActions(Wrapper):
    """Discrete actions of which some do nothing: a neutral one acts in their place.

    Adds the constants ``dead_0``, ``dead_1``, ..., each 0 (alive) or 1 (dead). A dead component of
    continuous actions is ``ScaledActions`` with gain 0.

    Args:
        family: what to wrap, with discrete actions.
        neutral: the number of the action that acts in place of a dead one. Of Acrobot and MountainCar, 1 does
            nothing; CartPole has no such action, and 0 pushes left.
        ranges: a number or distribution for any constant added.

    Raises:
        TypeError: other actions, or see ``Wrapper``.
        ValueError: a neutral action that is none, or see ``Wrapper``.
    """

    def __init__(self, family: Family, neutral: int = 0, **ranges: Distribution | float) -> None:
        self._names = [f"dead_{number}" for number in range(_discrete("DeadActions", family))]
        self._neutral = neutral_action("DeadActions", family, neutral)
        own = {
            name: Parameter(0.0, 0.0, 1.0, "1", f"whether action {number} is dead", choices=(0.0, 1.0))
            for number, name in enumerate(self._names)
        }
        super().__init__(family, own, ranges, settings={"neutral": self._neutral})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step, under the neutral action where a dead one was given."""
        dead = _looked_up(torch.stack([task[name] for name in self._names], -1), action) > 0
        return super().step(task, state, action.masked_fill(dead, self._neutral))

    def references(self, task: Task) -> dict[str, Tensor]:
        """``ceiling`` alone: no more can be done than with all actions, and random play does otherwise."""
        return self._ceiling(task)


def _discrete(wrapper: str, family: Family) -> int:
    """How many discrete actions there are."""
    space = wrapped(wrapper, family).action_space
    if not isinstance(space, Discrete):
        raise TypeError(f"{wrapper}: expected discrete actions, got {space}; use ScaledActions")
    return int(space.n)


def _looked_up(table: Tensor, action: Tensor) -> Tensor:
    """Entries ``[*rows]`` of a table a task ``[..., actions]``."""
    rows = table.expand(*action.shape, table.shape[-1])
    return rows.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
