"""Navigation with physics: a point with momentum and friction, in wind, with a rotated actuator.

With position p, velocity v, action a clipped to [-1, 1] per axis, friction f, gain g, rotation matrix R
and wind w,

    v' = (1 - f) v + 0.1 g R a
    p' = p + v' + w

With friction 1 nothing remains of the old velocity, and the default constants give the moves of ``Navigation``. With
friction 0 it is the double integrator of ProMP's code for corners with momentum (Rothfuss et al. 2019,
arXiv:1810.06784), started at rest. Wind, rotation and gain are additions of this project: the rotation corresponds to
CartPole's polarity, with a full circle instead of two signs. Episodes end only by the time limit.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .checks import chosen
from .family import State, Task, Transition
from .parameters import Parameter
from .plane import REWARDS, STRIDE, Plane
from .ranges import Distribution, Range

CALM = 0.05  # strongest wind along an axis
WEAK = CALM * math.sqrt(2) / STRIDE  # smallest gain with which the point can still hold its position in that wind


@final
class PointMass(Plane):
    """A point with velocity, a hidden goal and hidden constants of motion.

    By default the point starts at rest at the origin, goals are uniform in ``[-0.5, 0.5]^2`` and everything else is as
    in ``Navigation``. The observed velocity does not include the wind. An action is the thrust along both axes of the
    actuator.

    Args:
        horizon: time limit in steps.
        reward: ``"distance"`` or ``"squared"``, for the offset to the goal after the move.
        ranges: a number or distribution for any constant of ``PointMass.parameters``.

    Raises:
        ValueError: ``reward`` is unknown, or see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = {
        "friction": Parameter(1.0, 0.0, 1.0, "1", "share of the velocity lost in one step"),
        "gain": Parameter(1.0, WEAK, 100.0, "1", "strength of the actuator"),
        "rotation": Parameter(0.0, -2 * math.pi, 2 * math.pi, "rad", "angle by which the actuator is turned"),
        "wind_x": Parameter(0.0, -CALM, CALM, "length/step", "drift, first coordinate"),
        "wind_y": Parameter(0.0, -CALM, CALM, "length/step", "drift, second coordinate"),
        "goal_x": Parameter(0.0, -100.0, 100.0, "length", "goal, first coordinate"),
        "goal_y": Parameter(0.0, -100.0, 100.0, "length", "goal, second coordinate"),
        "start_x": Parameter(0.0, -100.0, 100.0, "length", "start, first coordinate"),
        "start_y": Parameter(0.0, -100.0, 100.0, "length", "start, second coordinate"),
    }

    observation_space = Box(-np.inf, np.inf, (4,), dtype=np.float32)  # (x, y, v_x, v_y), lengths and lengths per step

    def __init__(self, horizon: int = 100, reward: str = "distance", **ranges: Distribution | float) -> None:
        square = {"goal_x": Range(-0.5, 0.5), "goal_y": Range(-0.5, 0.5)}
        super().__init__(horizon, {**square, **ranges}, {"reward": reward})
        self._name, self._reward = reward, REWARDS[chosen("reward", reward, REWARDS)]

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Put every row at the start, at rest; draws no random numbers."""
        start = super().reset(task, rows, generator=generator)
        return start | {"v_x": torch.zeros_like(start["x"]), "v_y": torch.zeros_like(start["y"])}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return position and velocity, ``[*rows, 4]``; goal and constants stay hidden."""
        return torch.stack((state["x"], state["y"], state["v_x"], state["v_y"]), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Push, move, then reward the new position. ``action`` is ``[*rows, 2]``."""
        push_x, push_y = _turn(task["rotation"], *(action.clamp(-1, 1) * STRIDE).unbind(-1))
        kept = 1 - task["friction"]
        v_x = kept * state["v_x"] + task["gain"] * push_x
        v_y = kept * state["v_y"] + task["gain"] * push_y
        x, y = state["x"] + v_x + task["wind_x"], state["y"] + v_y + task["wind_y"]
        reward = self._reward(x - task["goal_x"], y - task["goal_y"])
        after = {"x": x, "y": y, "v_x": v_x, "v_y": v_y}
        return Transition(after, reward, torch.zeros_like(reward, dtype=torch.bool))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return reference returns for each task, of the values' shape.

        ``ceiling`` is an upper bound. Let c_t be the distance covered by t steps of full thrust along each axis of the
        actuator, e the offset to the goal and w the wind, both in the actuator's frame. After t steps, no policy can
        be nearer than ``max(|e - w t| - c_t, 0)`` per axis; the bound is the sum of the rewards at these offsets. It
        is attained if the point can stop in one step, for which ``(1 - f) / f + |w| / (0.1 g) <= 1`` suffices: in every
        task at friction 1, and without wind from friction 1/2 on. With less friction the point must brake or overshoot
        and may not attain it.

        ``floor`` is the exact return without thrust. ``random``, only for the squared distance, is the exact expected
        return of actions uniform in ``[-1, 1]^2``.
        """
        exact = {name: values.double() for name, values in task.items()}
        dx, dy = exact["goal_x"] - exact["start_x"], exact["goal_y"] - exact["start_y"]
        steps = self._steps(dx)  # [H, ...]
        drift_x, drift_y = dx - exact["wind_x"] * steps, dy - exact["wind_y"] * steps
        kick = STRIDE * exact["gain"] * ((1 - exact["friction"]) ** (steps - 1)).cumsum(0)  # distance due to one push
        ahead, aside = (way.abs() - kick.cumsum(0) for way in _turn(-exact["rotation"], drift_x, drift_y))
        values = {
            "ceiling": self._reward(ahead.clamp_min(0), aside.clamp_min(0)).sum(0),
            "floor": self._reward(drift_x, drift_y).sum(0),
        }
        if self._name == "squared":
            # Independent pushes of variance 1/3 along each axis add variance to the position around its drift.
            values["random"] = values["floor"] - (2 / 3 * kick.square()).cumsum(0).sum(0)
        return {name: value.to(task["goal_x"]) for name, value in values.items()}


def _turn(angle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate vectors counterclockwise."""
    cosine, sine = angle.cos(), angle.sin()
    return cosine * x - sine * y, sine * x + cosine * y
