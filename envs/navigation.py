"""Two-dimensional navigation: a point moves to a goal that it cannot see.

The position changes by at most 0.1 per axis and step; the reward is minus the distance to the goal after the move, or
minus its square. The goal (and the start, if it varies) is the task.

Finn et al. (2017, arXiv:1703.03400) print the squared distance but ran the plain one, with actions normalised to
[-1, 1]; Li et al. (2017, arXiv:1707.09835) state the plain one, for a fixed and for a varying start. Returns of
different variants are not comparable, so the variant is part of the family.
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from gymnasium.spaces import Box
from torch import Tensor

from .checks import chosen
from .family import State, Task, Transition
from .parameters import Parameter
from .plane import STRIDE, BoxedGoal
from .ranges import Distribution, Range

# The largest action and the move per unit of action, by the name of the action scale.
ACTIONS: dict[str, tuple[float, float]] = {"normalized": (1.0, STRIDE), "raw": (STRIDE, 1.0)}


@final
class Navigation(BoxedGoal):
    """A point in the plane with a hidden goal and moves of at most 0.1 per axis.

    The episode starts at ``(start_x, start_y)`` and ends early once both offsets to the goal are smaller than ``box``
    after a move. By default goals are uniform in ``[-0.5, 0.5]^2`` and the start is the origin.

    Args:
        horizon: time limit in steps.
        reward: ``"distance"`` or ``"squared"``.
        action: ``"normalized"`` for the move ``0.1 clip(a, -1, 1)``, or ``"raw"`` for ``clip(a, -0.1, 0.1)``. With
            Gaussian policies the two differ a lot: unit noise saturates almost every raw action.
        box: half-width of the square around the goal that ends the episode; None never ends it.
        ranges: a number or distribution for any constant of ``Navigation.parameters``.

    Raises:
        ValueError: ``reward`` or ``action`` is unknown, ``box`` is not positive, or see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = {
        "goal_x": Parameter(0.0, -100.0, 100.0, "length", "goal, first coordinate"),
        "goal_y": Parameter(0.0, -100.0, 100.0, "length", "goal, second coordinate"),
        "start_x": Parameter(0.0, -100.0, 100.0, "length", "start, first coordinate"),
        "start_y": Parameter(0.0, -100.0, 100.0, "length", "start, second coordinate"),
    }

    action_space: Box  # the move (x, y), in the units chosen by ``action``; larger ones are clipped

    def __init__(
        self,
        horizon: int = 100,
        reward: str = "distance",
        action: str = "normalized",
        box: float | None = 0.01,
        **ranges: Distribution | float,
    ) -> None:
        square = {"goal_x": Range(-0.5, 0.5), "goal_y": Range(-0.5, 0.5)}
        super().__init__(horizon, {**square, **ranges}, reward, box, {"action": action})
        self._limit, self._scale = ACTIONS[chosen("action", action, ACTIONS)]
        self.action_space = Box(-self._limit, self._limit, (2,), dtype=np.float32)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Move, then reward the new position. ``action`` is ``[*rows, 2]``."""
        move_x, move_y = (action.clamp(-self._limit, self._limit) * self._scale).unbind(-1)
        return self._moved(task, state["x"] + move_x, state["y"] + move_y)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact returns of the best and of the motionless policy, each of the values' shape.

        ``ceiling``: move along each axis by 0.1 or the remaining offset, if smaller. After each step no policy can be
        nearer along either axis, none enters the box earlier, and no reward is positive, so this is optimal for every
        task. ``floor``: stand still (for one step only if the start lies in the box).
        """
        dx = (task["goal_x"] - task["start_x"]).double().abs()
        dy = (task["goal_y"] - task["start_y"]).double().abs()
        moved = STRIDE * self._steps(dx)  # [H, ...]
        greedy = self._sum_until_box((dx - moved).clamp_min(0), (dy - moved).clamp_min(0))
        still = self._sum_until_box(dx.expand(self.horizon, *dx.shape), dy.expand(self.horizon, *dy.shape))
        return {"ceiling": greedy.to(task["goal_x"]), "floor": still.to(task["goal_x"])}
