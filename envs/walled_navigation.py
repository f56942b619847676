"""Navigation with a wall between start and goal that has a hidden gap.

The wall is the line x = 0 except for ``|y - gap_y| <= gap_half_width``. A step moves first along y and then along x;
if the move along x would cross the wall outside the gap, it is skipped, and the point stays on its side. Rewards and
the end of an episode are as in ``Navigation``. The distance pulls the point against the wall, so an agent has to search
for the gap without a reward for doing so.

ProMP's code (Rothfuss et al. 2019, arXiv:1810.06784) has two circular walls with gaps; a single straight wall keeps the
idea and has an optimum that can be computed.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from .family import State, Task, Transition
from .parameters import Parameter
from .plane import STRIDE, BoxedGoal
from .ranges import Distribution, Range


@final
class WalledNavigation(BoxedGoal):
    """A point left of a wall, a goal right of it, and a gap whose place depends on the task.

    By default the point starts at ``(-0.5, 0)``, the goal is ``(0.5, 0)`` and the gap is 0.2 wide, with its centre
    uniform in ``[-0.4, 0.4]``. The episode ends early once both offsets to the goal are smaller than ``box``.

    Args:
        horizon: time limit in steps.
        reward: ``"distance"`` or ``"squared"``.
        box: half-width of the square around the goal that ends the episode; None never ends it.
        ranges: a number or distribution for any constant of ``WalledNavigation.parameters``.

    Raises:
        ValueError: ``reward`` is unknown, ``box`` is not positive, or see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = {
        "gap_y": Parameter(0.0, -100.0, 100.0, "length", "middle of the gap"),
        "gap_half_width": Parameter(0.1, 0.0, 100.0, "length", "half the width of the gap"),
        "goal_x": Parameter(0.5, 1e-3, 100.0, "length", "goal, distance from the wall"),
        "goal_y": Parameter(0.0, -100.0, 100.0, "length", "goal, coordinate along the wall"),
        "start_x": Parameter(-0.5, -100.0, 0.0, "length", "start, minus the distance from the wall"),
        "start_y": Parameter(0.0, -100.0, 100.0, "length", "start, coordinate along the wall"),
    }

    def __init__(
        self,
        horizon: int = 100,
        reward: str = "distance",
        box: float | None = 0.01,
        **ranges: Distribution | float,
    ) -> None:
        super().__init__(horizon, {"gap_y": Range(-0.4, 0.4), **ranges}, reward, box)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Move along y, then along x unless the wall blocks it. ``action`` is ``[*rows, 2]``."""
        move_x, move_y = (action.clamp(-1, 1) * STRIDE).unbind(-1)
        x, y = state["x"] + move_x, state["y"] + move_y
        crosses = (x > 0) != (state["x"] > 0)  # the line x = 0 counts as the side of the start
        closed = (y - task["gap_y"]).abs() > task["gap_half_width"]
        x = torch.where(crosses & closed, state["x"], x)
        return self._moved(task, x, y)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact returns for each task, of the values' shape.

        ``ceiling``: the best policy, as the maximum over the step in which it first passes the wall, if ever.
        ``blocked``: the best policy that never passes the wall. ``floor``: stand still.
        """
        exact = {name: values.double() for name, values in task.items()}
        dx, dy = (exact["goal_x"] - exact["start_x"]), (exact["goal_y"] - exact["start_y"])
        still = self._sum_until_box(dx.expand(self.horizon, *dx.shape), dy.expand(self.horizon, *dy.shape))
        blocked = self._best_return(exact, None)
        ceiling = blocked
        for passing in range(1, self.horizon + 1):
            ceiling = torch.maximum(ceiling, self._best_return(exact, passing))
        values = {"ceiling": ceiling, "blocked": blocked, "floor": still}
        return {name: value.to(task["gap_y"]) for name, value in values.items()}

    def _best_return(self, task: Task, passing: int | None) -> Tensor:
        """Return the best return of policies that first pass the wall in step ``passing``; -inf if there are none.

        After every step each coordinate lies in an interval determined by the longest move; passing also requires y to
        be in the gap at that step and x to be left of the wall before it. The ends of the intervals move by at most one
        stride per step, and therefore so does the point of each interval that is nearest to the goal. These points
        thus form a feasible path, and no path is nearer along either axis at any time.
        """
        steps = self._steps(task["gap_y"])  # [H, ...]
        x = (task["start_x"] + STRIDE * steps).clamp_max(0)
        low, high = task["start_y"] - STRIDE * steps, task["start_y"] + STRIDE * steps
        possible = torch.ones_like(task["gap_y"], dtype=torch.bool)
        if passing is not None:
            before = (task["start_x"] + STRIDE * (passing - 1)).clamp_max(0)
            beyond = torch.minimum(before + STRIDE * (steps - passing + 1), task["goal_x"])
            x = torch.where(steps < passing, x, beyond)
            room = task["gap_half_width"] + STRIDE * (steps - passing).abs()
            low, high = torch.maximum(low, task["gap_y"] - room), torch.minimum(high, task["gap_y"] + room)
            possible = (before + STRIDE > 0) & (low <= high).all(0)
        y = torch.minimum(torch.maximum(task["goal_y"], low), high)
        total = self._sum_until_box(task["goal_x"] - x, task["goal_y"] - y)
        return torch.where(possible, total, -math.inf)
