"""Cart-pole: balance a pole on a cart that is pushed left or right by a force of fixed strength.

With total mass M = cart + pole, pole mass m, half-length l, push F, cart friction c and joint
friction p,

    u       = (F - c sgn(x') + m l theta'^2 sin theta) / M
    theta'' = (g sin theta - u cos theta - p theta' / (m l)) / (l (4/3 - m cos^2 theta / M))
    x''     = u - (m l / M) theta'' cos theta

(Barto, Sutton & Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control
problems", appendix), integrated by the explicit Euler method. Without friction these are the equations of Gymnasium's
CartPole-v1 at any value of the constants. The Coulomb force on the cart has constant size, as in that paper. Florian
(2007, "Correct equations for the dynamics of the cart-pole system") scales it with the normal force of the track,
which makes the equations implicit; this is not done here.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution

POSITION_LIMIT = 2.4  # m, as in Gymnasium
ANGLE_LIMIT = 12 * 2 * math.pi / 360  # rad, as in Gymnasium
ENDS = np.array([2 * POSITION_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], dtype=np.float32)  # bounds of the observation
START = 0.05  # half-width of the uniform start, for all four variables


@final
class CartPole(Family):
    """Gymnasium's CartPole-v1 with nine constants.

    The reward is 1 for every step, including the last one. The episode ends when ``|x| > 2.4 m`` or
    ``|theta| > 12 deg`` after a step. All four variables start uniformly in ``[-0.05, 0.05)``. Actions are 0 (left) and
    1 (right); ``polarity=-1`` swaps them.

    Args:
        horizon: time limit in steps.
        ranges: a number or distribution for any constant of ``CartPole.parameters``.

    Raises:
        ValueError: see ``Family``.
        TypeError: see ``Family``.

    >>> family = CartPole(half_length=1.0)
    >>> task = family.sample(2, generator=torch.Generator().manual_seed(0))
    >>> task["half_length"]
    tensor([1., 1.])
    """

    parameters: ClassVar = {
        "gravity": Parameter(9.8, 0.0, 1e3, "m/s^2", "gravitational acceleration"),
        "cart_mass": Parameter(1.0, 1e-3, 1e3, "kg", "mass of the cart"),
        "pole_mass": Parameter(0.1, 1e-4, 1e3, "kg", "mass of the pole"),
        "half_length": Parameter(0.5, 1e-3, 1e2, "m", "half the length of the pole"),
        "force_magnitude": Parameter(10.0, 0.0, 1e4, "N", "strength of the push"),
        "time_step": Parameter(0.02, 1e-5, 1.0, "s", "length of one Euler step"),
        "cart_friction": Parameter(0.0, 0.0, 1e3, "N", "size of the Coulomb friction between cart and track"),
        "pole_friction": Parameter(0.0, 0.0, 1e3, "N m s", "viscous friction of the joint"),
        "polarity": Parameter(1.0, -1.0, 1.0, "1", "sign of the actuator", choices=(-1.0, 1.0)),
    }

    observation_space = Box(-ENDS, ENDS, dtype=np.float32)  # (x, x_dot, theta, theta_dot) in m, m/s, rad, rad/s
    action_space = Discrete(2)  # 0 pushes left, 1 pushes right

    def __init__(self, horizon: int = 500, **ranges: Distribution | float) -> None:
        super().__init__(horizon, ranges)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Draw four independent uniform numbers per row, with device and dtype of the task's values."""
        draws = (2 * torch.rand((4, *rows), generator=generator, device=generator.device) - 1) * START
        x, x_dot, theta, theta_dot = draws.to(task["gravity"]).unbind(0)
        return {"x": x, "x_dot": x_dot, "theta": theta, "theta_dot": theta_dot}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the whole state, ``[*rows, 4]``; the constants stay hidden."""
        return torch.stack((state["x"], state["x_dot"], state["theta"], state["theta_dot"]), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one Euler step. ``action`` is ``[*rows]`` with values 0 and 1 of any dtype."""
        x, x_dot, theta, theta_dot = state["x"], state["x_dot"], state["theta"], state["theta_dot"]
        pole_mass, half_length, time_step = task["pole_mass"], task["half_length"], task["time_step"]
        sine, cosine = theta.sin(), theta.cos()
        total_mass = task["cart_mass"] + pole_mass
        moment = pole_mass * half_length

        # addcmul(a, b, c) = a + b c in one kernel; for small tensors the number of kernels determines the time.
        push = task["polarity"] * task["force_magnitude"] * (action * 2.0 - 1.0)
        force = torch.addcmul(push, task["cart_friction"], x_dot.sign(), value=-1)
        drive = torch.addcmul(force, moment * theta_dot.square(), sine) / total_mass
        coupling = moment / total_mass * cosine
        torque = torch.addcmul(task["gravity"] * sine, drive, cosine, value=-1)
        torque = torch.addcdiv(torque, task["pole_friction"] * theta_dot, moment, value=-1)
        angular = torque / torch.addcmul(half_length * (4 / 3), coupling, cosine, value=-1)
        linear = torch.addcmul(drive, coupling, angular, value=-1)

        after = {
            "x": torch.addcmul(x, time_step, x_dot),
            "x_dot": torch.addcmul(x_dot, time_step, linear),
            "theta": torch.addcmul(theta, time_step, theta_dot),
            "theta_dot": torch.addcmul(theta_dot, time_step, angular),
        }
        terminated = (after["x"].abs() > POSITION_LIMIT) | (after["theta"].abs() > ANGLE_LIMIT)
        return Transition(after, torch.ones_like(x), terminated)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the references for normalised scores, each of the values' shape.

        ``ceiling`` is the horizon, an upper bound; it is not attainable if the force is too weak or the time step too
        coarse to balance the pole. ``floor`` is 0, so that a normalised score is the fraction of the horizon survived
        (no policy scores below 1, because the last step is rewarded too).
        """
        ceiling = torch.full_like(task["gravity"], float(self.horizon))
        return {"ceiling": ceiling, "floor": torch.zeros_like(ceiling)}
