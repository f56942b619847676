"""Base classes of navigation in the plane: moves, rewards, observations, and the box around the goal."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .checks import chosen
from .family import Family, Setting, State, Task, Transition
from .ranges import Distribution

STRIDE = 0.1  # longest move along one axis in one step


def _distance(dx: Tensor, dy: Tensor) -> Tensor:
    return -torch.hypot(dx, dy)


def _squared(dx: Tensor, dy: Tensor) -> Tensor:
    return -(dx.square() + dy.square())


# Rewards as functions of the offset to the goal along each axis.
REWARDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"distance": _distance, "squared": _squared}


class Plane(Family, ABC):
    """A point that starts at the task's ``(start_x, start_y)`` and observes only its position."""

    observation_space = Box(-np.inf, np.inf, (2,), dtype=np.float32)  # the position (x, y)
    action_space: Box = Box(-1.0, 1.0, (2,), dtype=np.float32)  # the move (x, y) in strides; larger moves are clipped

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Put every row at the start; draws no random numbers."""
        return {"x": task["start_x"].expand(rows).clone(), "y": task["start_y"].expand(rows).clone()}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the position, ``[*rows, 2]``; the task stays hidden."""
        return torch.stack((state["x"], state["y"]), -1)

    def _steps(self, like: Tensor, first: int = 1) -> Tensor:
        """Return the step numbers from ``first`` to the horizon, float64 ``[H, ...]``, to broadcast with ``like``."""
        steps = torch.arange(first, self.horizon + 1, dtype=torch.float64, device=like.device)
        return steps.reshape(-1, *[1] * like.dim())


class BoxedGoal(Plane, ABC):
    """A point that is rewarded for its offset to the goal and whose episode may end near the goal.

    Args:
        horizon: time limit in steps.
        ranges: see ``Family``.
        reward: a name in ``REWARDS``.
        box: half-width of the square around the goal that ends the episode; None never ends it.
        settings: further choices that ``describe`` includes.

    Raises:
        ValueError: ``reward`` is unknown, ``box`` is not positive, or see ``Family``.
        TypeError: see ``Family``.
    """

    def __init__(
        self,
        horizon: int,
        ranges: Mapping[str, Distribution | float],
        reward: str,
        box: float | None,
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        super().__init__(horizon, ranges, {"reward": reward, **(settings or {}), "box": box})
        self._reward = REWARDS[chosen("reward", reward, REWARDS)]
        if box is not None and not (math.isfinite(box) and box > 0):
            raise ValueError(f"box: expected a positive half-width or None, got {box}; None never terminates")
        self._box = 0.0 if box is None else box  # no offset is smaller than 0

    def _arrived(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Return whether the offsets lie in the box."""
        return torch.maximum(dx.abs(), dy.abs()) < self._box

    def _moved(self, task: Task, x: Tensor, y: Tensor) -> Transition:
        """Return the transition to a position."""
        dx, dy = x - task["goal_x"], y - task["goal_y"]
        return Transition({"x": x, "y": y}, self._reward(dx, dy), self._arrived(dx, dy))

    def _sum_until_box(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Sum the rewards of offsets ``[H, ...]`` up to and including the first step in the box."""
        arrived = self._arrived(dx, dy)
        earlier = torch.cat((torch.zeros_like(arrived[:1]), arrived[:-1])).cumsum(0) > 0
        return (self._reward(dx, dy) * ~earlier).sum(0)
