"""Mountain car: a car too weak to climb the hill directly must first gain speed on the opposite slope.

The height of the road is proportional to sin(3 x). With push u, force f, gravity g and rolling friction r,

    v <- (1 - r) v + f u - g cos(3 x),  clipped to 0.07
    x <- x + v,                         clipped to [-1.2, 0.6]

and the wall at -1.2 stops the car (Moore 1990, "Efficient memory-based learning for robot control";
Singh & Sutton 1996, "Reinforcement learning with replacing eligibility traces"). Without friction these
are the equations of Gymnasium's MountainCar-v0 and MountainCarContinuous-v0 at any value of the constants.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution

WALL, ROAD_END = -1.2, 0.6  # as in Gymnasium
SPEED_LIMIT = 0.07  # length per step, as in Gymnasium
LOW, HIGH = (np.array(ends, dtype=np.float32) for ends in ((WALL, -SPEED_LIMIT), (ROAD_END, SPEED_LIMIT)))
START_LOW, START_HIGH = -0.6, -0.4  # ends of the uniform start, around the valley at -pi/6
PRIZE, PUSH_COST = 100.0, 0.1  # rewards of the continuous car, as in Gymnasium


def _constants(force: float, gravity: float, goal: float) -> dict[str, Parameter]:
    """Declare the constants of both cars, which differ only in defaults."""
    # Gravity above 0.1 is too strong for the step length; a goal left of -0.3 can be reached by rolling freely;
    # a goal exactly at the end of the road, 0.6, may be missed because of rounding.
    return {
        "force": Parameter(force, 0.0, 1.0, "length/step^2", "acceleration at full push"),
        "gravity": Parameter(gravity, 0.0, 0.1, "length/step^2", "acceleration where the road is steepest"),
        "goal_position": Parameter(goal, -0.3, 0.59, "length", "position at which the episode ends"),
        "goal_velocity": Parameter(
            0.0, -SPEED_LIMIT, 0.069, "length/step", "smallest velocity at which the episode ends there"
        ),
        "friction": Parameter(0.0, 0.0, 1.0, "1/step", "share of the velocity lost in one step"),
        "polarity": Parameter(1.0, -1.0, 1.0, "1", "sign of the engine", choices=(-1.0, 1.0)),
    }


class _Car(Family, ABC):
    """The dynamics shared by both cars."""

    observation_space = Box(LOW, HIGH, dtype=np.float32)  # (x, v): position and velocity per step

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Draw positions uniformly in ``[-0.6, -0.4)``, at rest, with device and dtype of the task's values."""
        share = torch.rand(rows, generator=generator, device=generator.device).to(task["force"])
        return {"x": START_LOW + (START_HIGH - START_LOW) * share, "v": torch.zeros_like(share)}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return position and velocity, ``[*rows, 2]``; the constants stay hidden."""
        return torch.stack((state["x"], state["v"]), -1)

    def _roll(self, task: Task, state: State, push: Tensor) -> tuple[State, Tensor]:
        """Take a step with a push ``[*rows]`` in ``[-1, 1]``; return the next state and whether it is the goal."""
        rolling = state["v"] * (1 - task["friction"])
        pushed = rolling + task["polarity"] * task["force"] * push
        # addcmul(a, b, c) = a + b c in one kernel; for small tensors the number of kernels determines the time.
        v = torch.addcmul(pushed, task["gravity"], (3 * state["x"]).cos(), value=-1).clamp(-SPEED_LIMIT, SPEED_LIMIT)
        moved = state["x"] + v
        x = moved.clamp(WALL, ROAD_END)
        v = v.masked_fill((moved <= WALL) & (v < 0), 0.0)
        return {"x": x, "v": v}, (x >= task["goal_position"]) & (v >= task["goal_velocity"])


@final
class MountainCar(_Car):
    """Gymnasium's MountainCar-v0 with six constants.

    The reward is -1 for every step, including the last one. The episode ends when after a step ``x >= goal_position``
    and ``v >= goal_velocity``. The car starts at rest, uniformly in ``[-0.6, -0.4)``. Actions are 0 (push left),
    1 (coast) and 2 (push right); ``polarity=-1`` swaps 0 and 2.

    Args:
        horizon: time limit in steps.
        ranges: a number or distribution for any constant of ``MountainCar.parameters``.

    Raises:
        ValueError: see ``Family``.
        TypeError: see ``Family``.

    >>> family = MountainCar(goal_position=0.25)
    >>> family.sample(2, generator=torch.Generator().manual_seed(0))["goal_position"]
    tensor([0.2500, 0.2500])
    """

    parameters: ClassVar = _constants(force=0.001, gravity=0.0025, goal=0.5)

    action_space = Discrete(3)  # 0 pushes left, 1 coasts, 2 pushes right

    def __init__(self, horizon: int = 200, **ranges: Distribution | float) -> None:
        super().__init__(horizon, ranges)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one step. ``action`` is ``[*rows]`` with values 0, 1 and 2 of any dtype."""
        after, terminated = self._roll(task, state, action - 1.0)
        return Transition(after, -torch.ones_like(after["x"]), terminated)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return bounds on the return of every policy, each of the values' shape.

        ``floor`` is minus the horizon, the return of every policy that does not reach the goal, such as coasting.
        ``ceiling`` is minus the number of steps that a car would need from -0.4 if engine and slope pushed it forward
        all the way. It cannot be attained: at the default constants it is 23 steps, whereas pushing in the direction
        of motion takes about 119.
        """
        full = (task["force"] + task["gravity"]).double()
        steps = torch.arange(1, self.horizon + 1, dtype=torch.float64, device=full.device)
        speed = (steps.reshape(-1, *[1] * full.dim()) * full).clamp_max(SPEED_LIMIT)  # [H, ...]
        short = START_HIGH + speed.cumsum(0) < task["goal_position"].double()
        earliest = (short.sum(0) + 1).clamp_max(self.horizon).to(task["force"])
        return {"ceiling": -earliest, "floor": torch.full_like(earliest, -float(self.horizon))}


@final
class ContinuousMountainCar(_Car):
    """Gymnasium's MountainCarContinuous-v0 with six constants.

    The push is the action, clipped to [-1, 1]. The reward of a step is ``-0.1 a^2``, where a is the action before
    clipping (as in Gymnasium), plus 100 for the step that reaches the goal. Everything else is as in ``MountainCar``,
    except for the defaults of force and goal.

    Args:
        horizon: time limit in steps.
        ranges: a number or distribution for any constant of ``ContinuousMountainCar.parameters``.

    Raises:
        ValueError: see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = _constants(force=0.0015, gravity=0.0025, goal=0.45)

    action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)  # from -1, full push left, to 1, full push right

    def __init__(self, horizon: int = 999, **ranges: Distribution | float) -> None:
        super().__init__(horizon, ranges)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one step. ``action`` is ``[*rows, 1]``."""
        push = action.squeeze(-1)
        after, terminated = self._roll(task, state, push.clamp(-1, 1))
        prize = PRIZE * terminated.to(after["x"].dtype)
        return Transition(after, torch.add(prize, push.square(), alpha=-PUSH_COST), terminated)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the references for normalised scores, each of the values' shape.

        ``ceiling`` is 100, the return of reaching the goal without a push: an upper bound. ``floor`` is 0, the exact
        return of never pushing, since no valid goal can be reached that way; pushing in vain scores less.
        """
        ceiling = torch.full_like(task["force"], PRIZE)
        return {"ceiling": ceiling, "floor": torch.zeros_like(ceiling)}
