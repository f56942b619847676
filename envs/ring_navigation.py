"""Goals in hidden directions, such as the half-circle and the four corners, with rewards of limited reach.

The goal lies at distance ``radius`` from the origin in the direction ``angle``; both are hidden. A point moves as in
``Navigation``, by at most ``stride`` per axis and step, and is rewarded for its position after the move. With d the
distance to the goal:

=============  ================================  ======================================================
``disc``       1 - d if d <= reach, else 0       PEARL (Rakelly et al. 2019, arXiv:1903.08254) and
                                                 VariBAD (Zintgraf et al. 2020, arXiv:1910.08348): goals
                                                 on the unit half-circle, reach 0.2
``cone``       max(reach - d, 0)                 ProMP (Rothfuss et al. 2019, arXiv:1810.06784), its code
                                                 for corners with momentum: reach 2
``bowl``       -min(d^2, reach^2)                ES-MAML (Song et al. 2020, arXiv:1910.01215), four
                                                 corners: -4 + max(0, 4 - d^2), reach 2
``progress``   decrease of d in the step, if     ProMP, its code for four corners: paid where the goal's
               in the goal's quarter, else 0     corner is the nearest, and not close to the start
``distance``   -d                                as in ``Navigation``
``squared``    -d^2                              as in ``Navigation``
=============  ================================  ======================================================

PEARL meta-trains on ``distance`` and tests on ``disc``; comparisons with it should state which was used.

``progress`` is implemented as published, but it is flawed: a step that leaves the quarter costs nothing, so stepping
out and in again is rewarded each time and pays more in total than walking to the goal. The other five rewards depend
on the position alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from .checks import chosen
from .family import State, Task, Transition
from .parameters import Parameter
from .plane import REWARDS as OPEN_REWARDS
from .plane import STRIDE, Plane
from .ranges import Distribution, Range

SILENCE = 0.5  # `progress` pays nothing within this city-block distance of the origin, as in ProMP's code


class Move(NamedTuple):
    """The arguments of a reward, for rows of any shape."""

    x: Tensor  # position after the move
    y: Tensor
    goal_x: Tensor
    goal_y: Tensor
    before: Tensor  # distance to the goal before the move
    distance: Tensor  # distance to the goal after the move
    reach: Tensor


def _disc(move: Move) -> Tensor:
    return (1 - move.distance) * (move.distance <= move.reach)


def _cone(move: Move) -> Tensor:
    return (move.reach - move.distance).clamp_min(0)


def _bowl(move: Move) -> Tensor:
    return -torch.minimum(move.distance, move.reach).square()


def _progress(move: Move) -> Tensor:
    # Within an eighth of a turn of the goal's direction; if goals are the corners of a square, this is where the
    # goal's corner is the nearest one.
    along = move.x * move.goal_x + move.y * move.goal_y
    across = move.x * move.goal_y - move.y * move.goal_x
    paid = (across.abs() <= along) & (move.x.abs() + move.y.abs() >= SILENCE)
    return (move.before - move.distance) * paid


def _open(name: str, move: Move) -> Tensor:
    return OPEN_REWARDS[name](move.x - move.goal_x, move.y - move.goal_y)


REWARDS: dict[str, Callable[[Move], Tensor]] = {
    "disc": _disc,
    "cone": _cone,
    "bowl": _bowl,
    "progress": _progress,
    **{name: partial(_open, name) for name in OPEN_REWARDS},
}


@final
class RingNavigation(Plane):
    """A point in the plane and a goal in a hidden direction; episodes end only by the time limit.

    The default is PEARL's sparse half-circle: goals at distance 1 in directions uniform in ``[0, pi]``, start at the
    origin, 20 steps. The four corners are ``RingNavigation(100, "cone", stride=0.2, reach=2, radius=8**0.5,
    angle=Choice((-3 * pi / 4, -pi / 4, pi / 4, 3 * pi / 4)))``. ProMP draws a start in ``[-0.2, 0.2]^2`` for every
    episode; here, ``start_x=Range(-0.2, 0.2)`` draws one for every task.

    Args:
        horizon: time limit in steps.
        reward: a name in ``REWARDS``.
        ranges: a number or distribution for any constant of ``RingNavigation.parameters``.

    Raises:
        ValueError: ``reward`` is unknown, ``reach`` exceeds 1 for ``disc`` (which would punish distances from 1 to
            ``reach``), or see ``Family``.
        TypeError: see ``Family``.
    """

    parameters: ClassVar = {
        "angle": Parameter(math.pi / 2, -2 * math.pi, 2 * math.pi, "rad", "direction of the goal from the x axis"),
        "radius": Parameter(1.0, 0.0, 100.0, "length", "distance of the goal from the origin"),
        "reach": Parameter(0.2, 0.0, 100.0, "length", "distance from the goal within which rewards depend on it"),
        "stride": Parameter(STRIDE, 1e-4, 10.0, "length", "longest move along one axis in one step"),
        "start_x": Parameter(0.0, -100.0, 100.0, "length", "start, first coordinate"),
        "start_y": Parameter(0.0, -100.0, 100.0, "length", "start, second coordinate"),
    }

    def __init__(self, horizon: int = 20, reward: str = "disc", **ranges: Distribution | float) -> None:
        super().__init__(horizon, {"angle": Range(0, math.pi), **ranges}, {"reward": reward})
        self._name, self._reward = reward, REWARDS[chosen("reward", reward, REWARDS)]
        if reward == "disc" and self.ranges["reach"].bounds[1] > 1:
            raise ValueError(
                f"reach: expected at most 1 for reward 'disc', got {self.ranges['reach'].bounds[1]}; shrink it"
            )

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Move, then compute the reward. ``action`` is ``[*rows, 2]``."""
        move_x, move_y = action.clamp(-1, 1).unbind(-1)
        x = torch.addcmul(state["x"], task["stride"], move_x)
        y = torch.addcmul(state["y"], task["stride"], move_y)
        reward = self._score(task, (state["x"], state["y"]), (x, y))
        return Transition({"x": x, "y": y}, reward, torch.zeros_like(reward, dtype=torch.bool))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact returns for each task, of the values' shape.

        ``ceiling``: move along each axis by ``stride`` or the remaining offset, if smaller. No policy can be nearer
        after any step, and all rewards but ``progress`` depend only on the distance and decrease with it, so this is
        optimal for every task. For ``progress`` it is not (see the module docstring), and this return is called
        ``direct`` instead. ``floor``: stand still.
        """
        exact = {name: values.double() for name, values in task.items()}
        goal_x, goal_y = _goal(exact)
        steps = self._steps(goal_x, first=0)  # [H + 1, ...], including the start
        walked = exact["stride"] * steps
        x = exact["start_x"] + torch.clamp(goal_x - exact["start_x"], -walked, walked)
        y = exact["start_y"] + torch.clamp(goal_y - exact["start_y"], -walked, walked)
        best = self._score(exact, (x[:-1], y[:-1]), (x[1:], y[1:])).sum(0)
        start = (exact["start_x"] + 0 * steps[1:], exact["start_y"] + 0 * steps[1:])
        still = self._score(exact, start, start).sum(0)
        name = "direct" if self._name == "progress" else "ceiling"
        return {name: best.to(task["angle"]), "floor": still.to(task["angle"])}

    def _score(self, task: Task, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
        """Return the reward of moving from one position to another."""
        goal_x, goal_y = _goal(task)
        earlier = torch.hypot(before[0] - goal_x, before[1] - goal_y)
        distance = torch.hypot(after[0] - goal_x, after[1] - goal_y)
        return self._reward(Move(*after, goal_x, goal_y, earlier, distance, task["reach"]))


def _goal(task: Task) -> tuple[Tensor, Tensor]:
    return task["radius"] * task["angle"].cos(), task["radius"] * task["angle"].sin()
