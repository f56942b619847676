"""Actuators that are weak, reversed, swapped or dead."""

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

MOST_ACTIONS = 6  # largest number of actions to permute: the 6! = 720 orders are enumerated as valid values


@final
class ScaledActions(Wrapper):
    """Multiplies each component of a continuous action by its own hidden gain: 1 unchanged, -1 flipped, 0 dead.

    Adds the constants ``actuator_0``, ``actuator_1``, ... Actions are first clipped to the action space; otherwise a
    policy could make up for a weak actuator with larger actions. A gain above 1 takes full effect if the wrapped
    family does not clip; if it does, the actuator saturates earlier. Any action cost of the wrapped family is charged
    for the scaled action.

    Args:
        family: the family to wrap, with flat continuous actions.
        ranges: a number or distribution for any gain.

    Raises:
        TypeError: actions are not of this kind, or see ``Wrapper``.
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
        """Step the wrapped family with the scaled action. ``action`` is ``[*rows, components]``."""
        # Bounds are Python numbers, applied per component: a tensor would have to be moved to the action's device.
        parts = [part.clamp(*ends) for part, ends in zip(action.unbind(-1), self._bounds, strict=True)]
        scaled = [part * task[name].to(part.dtype) for part, name in zip(parts, self._names, strict=True)]
        return super().step(task, state, torch.stack(scaled, -1))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: scaled actuators allow no more than intact ones, and random play earns less."""
        return self._ceiling(task)


@final
class SwappedActions(Wrapper):
    """Permutes discrete actions: action ``a`` does what action ``p[a]`` of the wrapped family does.

    Adds the constant ``action_order``, the index of the permutation p in the order of ``itertools.permutations``: 0 is
    the identity; with two actions, 1 swaps them.

    Args:
        family: the family to wrap, with 2 to 6 discrete actions.
        action_order: a number, or a distribution such as ``Choice``.

    Raises:
        TypeError: actions are not discrete, or see ``Wrapper``.
        ValueError: there are too few or too many actions, or see ``Wrapper``.
    """

    def __init__(self, family: Family, action_order: Distribution | float = 0.0) -> None:
        self._count = _discrete("SwappedActions", family)
        if not 2 <= self._count <= MOST_ACTIONS:
            raise ValueError(f"SwappedActions: expected 2 to {MOST_ACTIONS} actions, got {self._count}; wrap another")
        choices = tuple(float(number) for number in range(math.factorial(self._count)))
        order = Parameter(0.0, 0.0, choices[-1], "1", "index of the permutation of the actions", choices=choices)
        super().__init__(family, {"action_order": order}, {"action_order": action_order})

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family with action ``p[action]``. ``action`` is ``[*rows]`` of any dtype."""
        meaning = permutation(task["action_order"].long(), self._count)
        return super().step(task, state, _looked_up(meaning, action).to(action.dtype))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references: an agent that knows the order can do the same as before."""
        return self._references(task)


@final
class DeadActions(Wrapper):
    """Disables some discrete actions: a neutral action is executed in their place.

    Adds the constants ``dead_0``, ``dead_1``, ..., each 0 (alive) or 1 (dead). For a dead component of continuous
    actions, use ``ScaledActions`` with gain 0.

    Args:
        family: the family to wrap, with discrete actions.
        neutral: the number of the action that replaces a dead one. In Acrobot and MountainCar, action 1 does nothing;
            CartPole has no such action, and 0 pushes left.
        ranges: a number or distribution for any constant added.

    Raises:
        TypeError: actions are not discrete, or see ``Wrapper``.
        ValueError: ``neutral`` is not an action of the family, or see ``Wrapper``.
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
        """Step the wrapped family, with the neutral action in place of a dead one."""
        dead = _looked_up(torch.stack([task[name] for name in self._names], -1), action) > 0
        return super().step(task, state, action.masked_fill(dead, self._neutral))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling``: no more can be done than with all actions, and random play has another return."""
        return self._ceiling(task)


def _discrete(wrapper: str, family: Family) -> int:
    """Return the number of discrete actions."""
    space = wrapped(wrapper, family).action_space
    if not isinstance(space, Discrete):
        raise TypeError(f"{wrapper}: expected discrete actions, got {space}; use ScaledActions")
    return int(space.n)


def _looked_up(table: Tensor, action: Tensor) -> Tensor:
    """Look up each action ``[*rows]`` in a per-task table ``[..., actions]``; return ``[*rows]``."""
    rows = table.expand(*action.shape, table.shape[-1])
    return rows.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
