"""Acrobot: swing a two-link arm up with a motor at the elbow only.

The upper link hangs from a fixed joint at angle theta_1 from straight down; the lower link is at angle theta_2 from
the direction of the upper one. With masses m_1, m_2, length l of the upper link, centres of mass at distances c_1, c_2
from the upper ends of the links, moments of inertia I_1, I_2 about the centres of mass and elbow torque u, let

    h  = m_2 l c_2
    d2 = m_2 c_2^2 + I_2 + h cos theta_2
    d1 = m_1 c_1^2 + m_2 l^2 + I_1 + m_2 c_2^2 + I_2 + 2 h cos theta_2
    p2 = m_2 c_2 g sin(theta_1 + theta_2)
    p1 = (m_1 c_1 + m_2 l) g sin theta_1 + p2 - h (theta_2'^2 + 2 theta_1' theta_2') sin theta_2

    theta_2'' = (u + p1 d2 / d1 - h theta_1'^2 sin theta_2 - p2) / (m_2 c_2^2 + I_2 - d2^2 / d1)
    theta_1'' = -(d2 theta_2'' + p1) / d1

(Sutton & Barto 1998, "Reinforcement Learning", section 11.3; Sutton 1996 prints theta_2'' without its h
term), integrated over a step by one classical Runge-Kutta step of order four. These are the equations of
Gymnasium's Acrobot-v1 at any value of the constants. There is no constant for the length of the lower link, because
neither these equations nor Gymnasium's goal, which depends on the angles alone, contain it.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution

SPEED_LIMIT_1, SPEED_LIMIT_2 = 4 * math.pi, 9 * math.pi  # rad/s, as in Gymnasium
ENDS = np.array([1.0, 1.0, 1.0, 1.0, SPEED_LIMIT_1, SPEED_LIMIT_2], dtype=np.float32)  # bounds of the observation
START = 0.1  # half-width of the uniform start, for all four variables
NAMES = ("theta_1", "theta_2", "theta_1_dot", "theta_2_dot")


class _Arm(NamedTuple):
    """Products of a task's constants that the equations use, and the torque of this step."""

    upper: Tensor  # m_1 c_1^2 + m_2 l^2 + I_1
    lower: Tensor  # m_2 c_2^2 + I_2
    coupling: Tensor  # m_2 l c_2
    upper_weight: Tensor  # (m_1 c_1 + m_2 l) g
    lower_weight: Tensor  # m_2 c_2 g
    torque: Tensor


@final
class Acrobot(Family):
    """Gymnasium's Acrobot-v1 with twelve constants.

    The reward is -1 for every step, but 0 for the one that ends the episode. An episode ends when after a step
    ``-cos(theta_1) - cos(theta_1 + theta_2) > goal_height``; the left side is the height of the tip above the fixed
    joint in link lengths, with both links equally long. All four variables start uniformly in ``[-0.1, 0.1)``, with
    the arm hanging down. Actions 0, 1 and 2 apply negative, no and positive torque to the elbow; ``polarity=-1`` swaps
    0 and 2.

    The mass and moment of the lower link are given as ratios to those of the upper link, so that ``link_mass`` and
    ``link_moment`` each change both links, like the single moment in Gymnasium and the single mass in Packer et al.

    Args:
        horizon: time limit in steps.
        ranges: a number or distribution for any constant of ``Acrobot.parameters``.

    Raises:
        ValueError: see ``Family``.
        TypeError: see ``Family``.

    >>> family = Acrobot(link_mass=1.25)
    >>> family.sample(2, generator=torch.Generator().manual_seed(0))["link_mass"]
    tensor([1.2500, 1.2500])
    """

    parameters: ClassVar = {
        "gravity": Parameter(9.8, 0.0, 50.0, "m/s^2", "gravitational acceleration"),
        "link_length": Parameter(1.0, 0.1, 5.0, "m", "length of the upper link"),
        "link_mass": Parameter(1.0, 0.1, 10.0, "kg", "mass of the upper link"),
        "mass_ratio": Parameter(1.0, 0.1, 10.0, "1", "mass of the lower link divided by that of the upper link"),
        "centre_1": Parameter(0.5, 0.0, 5.0, "m", "from the fixed joint to the upper link's centre of mass"),
        "centre_2": Parameter(0.5, 0.0, 5.0, "m", "from the elbow to the lower link's centre of mass"),
        "link_moment": Parameter(1.0, 0.1, 10.0, "kg m^2", "upper link's moment of inertia about its centre of mass"),
        "moment_ratio": Parameter(
            1.0, 0.1, 10.0, "1", "moment of inertia of the lower link divided by that of the upper link"
        ),
        "torque": Parameter(1.0, 0.0, 100.0, "N m", "torque of the elbow's motor"),
        "time_step": Parameter(0.2, 1e-5, 0.5, "s", "length of one Runge-Kutta step"),
        "goal_height": Parameter(1.0, -1.9, 1.99, "1", "height of the tip that ends the episode, in link lengths"),
        "polarity": Parameter(1.0, -1.0, 1.0, "1", "sign of the motor", choices=(-1.0, 1.0)),
    }

    observation_space = Box(-ENDS, ENDS, dtype=np.float32)  # cosine and sine of both angles, both speeds in rad/s
    action_space = Discrete(3)  # negative, no and positive torque on the elbow

    def __init__(self, horizon: int = 500, **ranges: Distribution | float) -> None:
        super().__init__(horizon, ranges)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Draw four independent uniform numbers per row, with device and dtype of the task's values."""
        draws = (2 * torch.rand((4, *rows), generator=generator, device=generator.device) - 1) * START
        return dict(zip(NAMES, draws.to(task["gravity"]).unbind(0), strict=True))

    def observe(self, task: Task, state: State) -> Tensor:
        """Return directions and speeds of the links, ``[*rows, 6]``; the constants stay hidden."""
        first, second = state["theta_1"], state["theta_2"]
        directions = (first.cos(), first.sin(), second.cos(), second.sin())
        return torch.stack((*directions, state["theta_1_dot"], state["theta_2_dot"]), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one Runge-Kutta step. ``action`` is ``[*rows]`` with values 0, 1 and 2 of any dtype."""
        arm = _arm(task, action)
        start = torch.stack([state[name] for name in NAMES])  # [4, *rows]
        # The four stages of the classical method; addcmul(a, b, c) = a + b c in one kernel.
        time_step = task["time_step"]
        half = time_step / 2
        one = _slope(arm, start)
        two = _slope(arm, torch.addcmul(start, half, one))
        three = _slope(arm, torch.addcmul(start, half, two))
        four = _slope(arm, torch.addcmul(start, time_step, three))
        first, second, first_dot, second_dot = torch.addcmul(
            start, time_step / 6, one + 2 * (two + three) + four
        ).unbind(0)

        first, second = _wrap(first), _wrap(second)
        after = {
            "theta_1": first,
            "theta_2": second,
            "theta_1_dot": first_dot.clamp(-SPEED_LIMIT_1, SPEED_LIMIT_1),
            "theta_2_dot": second_dot.clamp(-SPEED_LIMIT_2, SPEED_LIMIT_2),
        }
        terminated = -first.cos() - (first + second).cos() > task["goal_height"]
        return Transition(after, terminated.to(first.dtype) - 1, terminated)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return bounds on the return of every policy, each of the values' shape.

        ``floor`` is minus the horizon, the return of every policy that never reaches the goal, such as one that does
        nothing. ``ceiling`` is 0, the return of an episode that ends with its first step; no realistic task attains it
        (at the default constants, pushing in the direction in which the lower link moves takes some 90 steps).
        """
        ceiling = torch.zeros_like(task["gravity"])
        return {"ceiling": ceiling, "floor": torch.full_like(ceiling, -float(self.horizon))}


def _arm(task: Task, action: Tensor) -> _Arm:
    """Compute the products that stay constant during a step."""
    mass_1, moment_1, gravity = task["link_mass"], task["link_moment"], task["gravity"]
    mass_2, moment_2 = mass_1 * task["mass_ratio"], moment_1 * task["moment_ratio"]
    centre_1, centre_2, length = task["centre_1"], task["centre_2"], task["link_length"]
    return _Arm(
        upper=mass_1 * centre_1.square() + mass_2 * length.square() + moment_1,
        lower=mass_2 * centre_2.square() + moment_2,
        coupling=mass_2 * length * centre_2,
        upper_weight=(mass_1 * centre_1 + mass_2 * length) * gravity,
        lower_weight=mass_2 * centre_2 * gravity,
        torque=task["polarity"] * task["torque"] * (action - 1.0),
    )


def _slope(arm: _Arm, values: Tensor) -> Tensor:
    """Return the time derivative ``[4, *rows]`` of angles and speeds ``[4, *rows]``."""
    first, second, first_dot, second_dot = values.unbind(0)
    swing = arm.coupling * second.cos()
    twist = arm.coupling * second.sin()
    d2 = arm.lower + swing
    d1 = arm.upper + d2 + swing
    p2 = arm.lower_weight * (first + second).sin()
    p1 = torch.addcmul(p2, arm.upper_weight, first.sin())
    p1 = torch.addcmul(p1, twist, second_dot * (second_dot + 2 * first_dot), value=-1)
    ratio = d2 / d1
    force = torch.addcmul(arm.torque - p2, ratio, p1)
    force = torch.addcmul(force, twist, first_dot.square(), value=-1)
    second_acc = force / torch.addcmul(arm.lower, arm.lower, ratio, value=-1).addcmul(swing, ratio, value=-1)
    first_acc = -torch.addcmul(p1, d2, second_acc) / d1
    return torch.stack((first_dot, second_dot, first_acc, second_acc))


def _wrap(angle: Tensor) -> Tensor:
    """Map an angle to ``[-pi, pi)``."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
