"""Pendulum: swing a rod up and hold it there, with a motor too weak to lift it directly.

A uniform rod of mass m and length l turns about one end, where its moment of inertia is m l^2 / 3. With the angle theta
measured from upright, motor torque u and friction p of the joint,

    theta'' = 3 g sin(theta) / (2 l) + 3 (u - p theta') / (m l^2)

integrated by the semi-implicit Euler method: first the speed, which is clipped to 8 rad/s, then the angle with the new
speed. Without friction these are the equations of Gymnasium's Pendulum-v1 at any value of the constants.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution

SPEED_LIMIT = 8.0  # rad/s, as in Gymnasium
FULL_ACTION = 2.0  # the action for full torque, as in Gymnasium
ENDS = np.array([1.0, 1.0, SPEED_LIMIT], dtype=np.float32)  # bounds of the observation
START_ANGLE, START_SPEED = math.pi, 1.0  # half-widths of the uniform start, rad and rad/s
SPEED_COST, TORQUE_COST = 0.1, 0.001  # relative to 1 for the squared angle, as in Gymnasium


@final
class Pendulum(Family):
    """Gymnasium's Pendulum-v1 with seven constants.

    The reward is ``-(theta^2 + 0.1 theta'^2 + 0.001 u^2)``, with the state before the step, theta in ``[-pi, pi)`` and
    the torque u of the step. Episodes end only by the time limit. The angle starts uniformly in ``[-pi, pi)``, the
    speed in ``[-1, 1)``.

    The action is ``[*rows, 1]``. An action of 2 gives ``max_torque`` and -2 its opposite; larger ones are clipped. At
    the default of 2 N m the action is thus the torque, as in Gymnasium. If ``max_torque`` differs from task to task,
    the action space stays the same, and a stronger motor responds to the same action with more torque. ``polarity=-1``
    reverses the motor.

    Args:
        horizon: time limit in steps.
        ranges: a number or distribution for any constant of ``Pendulum.parameters``.

    Raises:
        ValueError: see ``Family``.
        TypeError: see ``Family``.

    >>> family = Pendulum(length=1.25)
    >>> family.sample(2, generator=torch.Generator().manual_seed(0))["length"]
    tensor([1.2500, 1.2500])
    """

    parameters: ClassVar = {
        "gravity": Parameter(10.0, 0.0, 1e3, "m/s^2", "gravitational acceleration"),
        "mass": Parameter(1.0, 1e-3, 1e3, "kg", "mass of the rod"),
        "length": Parameter(1.0, 1e-2, 1e2, "m", "length of the rod"),
        "max_torque": Parameter(2.0, 0.0, 1e3, "N m", "torque of the motor at full action"),
        "time_step": Parameter(0.05, 1e-5, 1.0, "s", "length of one Euler step"),
        "friction": Parameter(0.0, 0.0, 1e3, "N m s", "viscous friction of the joint"),
        "polarity": Parameter(1.0, -1.0, 1.0, "1", "sign of the motor", choices=(-1.0, 1.0)),
    }

    observation_space = Box(-ENDS, ENDS, dtype=np.float32)  # (cos theta, sin theta, theta_dot), the last in rad/s
    action_space = Box(-FULL_ACTION, FULL_ACTION, (1,), dtype=np.float32)  # from full negative to full positive torque

    def __init__(self, horizon: int = 200, **ranges: Distribution | float) -> None:
        super().__init__(horizon, ranges)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Draw angle and speed, uniform and independent, with device and dtype of the task's values."""
        draws = 2 * torch.rand((2, *rows), generator=generator, device=generator.device) - 1
        theta, theta_dot = draws.to(task["gravity"]).unbind(0)
        return {"theta": theta * START_ANGLE, "theta_dot": theta_dot * START_SPEED}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return direction and speed of the rod, ``[*rows, 3]``; the constants stay hidden."""
        theta = state["theta"]
        return torch.stack((theta.cos(), theta.sin(), state["theta_dot"]), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one semi-implicit Euler step. ``action`` is ``[*rows, 1]``."""
        theta, theta_dot = state["theta"], state["theta_dot"]
        share = action.squeeze(-1).clamp(-FULL_ACTION, FULL_ACTION) / FULL_ACTION
        torque = task["polarity"] * task["max_torque"] * share

        # addcmul(a, b, c) = a + b c in one kernel; for small tensors the number of kernels determines the time.
        off = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
        cost = off.square() + SPEED_COST * theta_dot.square() + TORQUE_COST * torque.square()
        driven = torch.addcmul(torque, task["friction"], theta_dot, value=-1)
        inertia = task["mass"] * task["length"].square() / 3
        falling = 1.5 * task["gravity"] / task["length"] * theta.sin()
        speed = torch.addcmul(theta_dot, task["time_step"], falling + driven / inertia)
        speed = speed.clamp(-SPEED_LIMIT, SPEED_LIMIT)

        after = {"theta": torch.addcmul(theta, task["time_step"], speed), "theta_dot": speed}
        return Transition(after, -cost, torch.zeros_like(cost, dtype=torch.bool))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return bounds on the return of every policy, each of the values' shape.

        ``ceiling`` is 0, the return of a rod that starts upright and at rest: the least upper bound. ``floor`` assumes
        the largest angle, speed and torque at every step. Both are exact bounds; at the default constants, a rod
        without torque scores 0.63 of the way from floor to ceiling, on average.
        """
        ceiling = torch.zeros_like(task["max_torque"])
        worst = math.pi**2 + SPEED_COST * SPEED_LIMIT**2 + TORQUE_COST * task["max_torque"].square()
        return {"ceiling": ceiling, "floor": -self.horizon * worst}
