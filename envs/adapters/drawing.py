"""Pictures of one environment, drawn with NumPy only, without a display or graphics library.

Every primitive colours the pixels whose centres it covers, on a canvas with world coordinates: x to the right, y
upwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..acrobot import Acrobot
from ..cartpole import POSITION_LIMIT, CartPole
from ..family import Family
from ..grid_navigation import GridNavigation
from ..mountain_car import ROAD_END, WALL, ContinuousMountainCar, MountainCar
from ..navigation import Navigation
from ..pendulum import Pendulum
from ..point_mass import PointMass
from ..ring_navigation import RingNavigation
from ..walled_navigation import WalledNavigation
from ..wrappers import Changing, Shuffled, Trials, Wrapper
from ..wrappers.changing import CLOCK
from ..wrappers.controls import PREFIX

Frame = npt.NDArray[np.uint8]  # [HEIGHT, WIDTH, 3]
Point = tuple[float, float]
Numbers = Mapping[str, float]

WIDTH, HEIGHT = 300, 200  # pixels
BLACK, GREY, RED, GREEN, BLUE = (20, 20, 20), (190, 190, 190), (200, 60, 50), (60, 150, 80), (50, 90, 190)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """Settings of a picture.

    Attributes:
        scale: factor on ``WIDTH`` and ``HEIGHT``; larger pictures can be smoothed afterwards.
        past: earlier states of the episode, drawn as a trail if a point moves in the plane.
        reach: smallest visible distance from the origin of the plane, in its units; all frames of a film need the same.
    """

    scale: int = 1
    past: Sequence[Numbers] = ()
    reach: float = 0.5


PLAIN = View()
Drawing = Callable[[Numbers, Numbers, View], Frame]


class Canvas:
    """A white picture centred at ``centre``; ``height`` is its height in world units.

    Attributes:
        pixels: ``[scale * HEIGHT, scale * WIDTH, 3]`` uint8, the first row at the top.
    """

    def __init__(self, height: float, centre: Point = (0.0, 0.0), scale: int = 1) -> None:
        rows, columns = scale * HEIGHT, scale * WIDTH
        self.pixels: Frame = np.full((rows, columns, 3), 255, dtype=np.uint8)
        unit = height / rows
        self._x = centre[0] + unit * (np.arange(columns) + 0.5 - columns / 2)
        self._y = centre[1] - unit * (np.arange(rows) + 0.5 - rows / 2)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Colour everything within ``radius`` of ``centre``."""
        self.line(centre, centre, 2 * radius, colour)

    def box(self, low: Point, high: Point, colour: Colour) -> None:
        """Colour the rectangle between two corners."""
        self.pixels[self._window(low, high)] = colour

    def line(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """Colour everything within half of ``width`` of the straight line between two points."""
        radius = width / 2
        low = (min(start[0], end[0]) - radius, min(start[1], end[1]) - radius)
        high = (max(start[0], end[0]) + radius, max(start[1], end[1]) + radius)
        rows, columns = window = self._window(low, high)  # compute distances only in the bounding box
        dx, dy = end[0] - start[0], end[1] - start[1]
        x, y = self._x[None, columns] - start[0], self._y[rows, None] - start[1]
        square = dx * dx + dy * dy
        share = np.clip((x * dx + y * dy) / square, 0.0, 1.0) if square > 0 else 0.0
        inside = (x - share * dx) ** 2 + (y - share * dy) ** 2 <= width * width / 4
        self.pixels[window][inside] = colour

    def _window(self, low: Point, high: Point) -> tuple[slice, slice]:
        """Return the rows and columns of the pixels whose centres lie between two corners."""
        columns = np.searchsorted(self._x, low[0], "left"), np.searchsorted(self._x, high[0], "right")
        rows = np.searchsorted(-self._y, -high[1], "left"), np.searchsorted(-self._y, -low[1], "right")
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


def picture(
    family: Family, task: Numbers, state: Numbers, observation: npt.NDArray[np.float32], view: View = PLAIN
) -> Frame:
    """Draw the current state of one environment, ``[200, 300, 3]`` uint8, enlarged by the scale of the view.

    Args:
        family: determines what is drawn: the machine for the classic control families, the plane from above for
            points that move in it, and otherwise a bar for every number of the observation. For a wrapped family, the
            innermost family decides.
        task: the constants.
        state: the current state.
        observation: ``[...]``.
        view: settings of the picture.
    """
    draw = _drawing(family, state)
    if not draw:
        return _bars(np.ravel(observation), view)
    now = _episodes(family, state)  # a trail does not lead from the end of an episode to the start of the next
    past = [_inside(family, earlier)[1] for earlier in view.past if _episodes(family, earlier) == now]
    return draw(_in_effect(family, task, state), _inside(family, state)[1], replace(view, past=past))


def has_picture(family: Family, state: Numbers) -> bool:
    """Return whether the family has a picture other than bars for the numbers of the observation."""
    return _drawing(family, state) is not None


def _drawing(family: Family, state: Numbers) -> Drawing | None:
    family, state = _inside(family, state)
    return PICTURES.get(type(family)) or (_plane if {"x", "y"} <= state.keys() else None)


def _inside(family: Family, state: Numbers) -> tuple[Family, Numbers]:
    """Return the innermost family and its state, without the prefixes that wrappers may add to names."""
    own: Any = dict(state)
    while isinstance(family, Wrapper):
        own, family = family._state(own), family._family
    return family, own


def _episodes(family: Family, state: Numbers) -> list[float]:
    """Return the number of the current episode for every ``Trials`` around the innermost family."""
    own, found = dict[str, Any](state), []
    while isinstance(family, Wrapper):
        if isinstance(family, Trials):  # after the last step, the number is that of no episode
            found.append(min(own["episode"], family.episodes - 1))
        own, family = family._state(own), family._family
    return found


def reach(family: Family, states: Iterable[Numbers]) -> float:
    """Return the farthest coordinate of a point that moves in the plane, in any of these states, or 0."""
    inside = [_inside(family, state)[1] for state in states]
    return max((abs(own.get(axis, 0.0)) for own in inside for axis in "xy"), default=0.0)


def _in_effect(family: Family, task: Numbers, state: Numbers) -> Numbers:
    """Return the constants that the innermost family is stepped with now; some wrappers exchange them."""
    own: Any = dict(state)
    while isinstance(family, Wrapper):
        if isinstance(family, Shuffled):
            task = {**task, **{name: own[f"{PREFIX}{name}"] for name in family.parameters}}
        elif isinstance(family, Changing):
            constants = {name: torch.tensor(value) for name, value in task.items()}
            task = scalars(family._now(constants, torch.tensor(own[CLOCK])))
        own, family = family._state(own), family._family
    return task


def scalars(values: Mapping[str, Tensor], row: int | None = None) -> dict[str, float]:
    """Convert one row of tensors, or tensors of a single row, to Python numbers; leave out all that are not 0-d."""
    own = values if row is None else {name: value[row] for name, value in values.items()}
    return {name: value.item() for name, value in own.items() if value.dim() == 0}


def _cart_pole(task: Numbers, state: Numbers, view: View) -> Frame:
    canvas = Canvas(height=2 * POSITION_LIMIT * HEIGHT / WIDTH, centre=(0.0, 0.8), scale=view.scale)
    canvas.line((-POSITION_LIMIT, 0.0), (POSITION_LIMIT, 0.0), 0.02, GREY)
    x, length = state["x"], 2 * task["half_length"]
    canvas.box((x - 0.2, -0.1), (x + 0.2, 0.1), BLACK)
    tip = (x + length * math.sin(state["theta"]), 0.1 + length * math.cos(state["theta"]))
    canvas.line((x, 0.1), tip, 0.08, RED)
    return canvas.pixels


def _pendulum(task: Numbers, state: Numbers, view: View) -> Frame:
    canvas = Canvas(height=2.4 * task["length"], scale=view.scale)
    tip = (-task["length"] * math.sin(state["theta"]), task["length"] * math.cos(state["theta"]))
    canvas.line((0.0, 0.0), tip, 0.12 * task["length"], RED)
    canvas.disc((0.0, 0.0), 0.04 * task["length"], BLACK)
    return canvas.pixels


def _acrobot(task: Numbers, state: Numbers, view: View) -> Frame:
    """Draw links of length 1, as the goal height also assumes, whatever their real lengths."""
    canvas = Canvas(height=4.4, scale=view.scale)
    canvas.line((-5.0, task["goal_height"]), (5.0, task["goal_height"]), 0.03, GREEN)
    first, second = state["theta_1"], state["theta_1"] + state["theta_2"]
    elbow = (math.sin(first), -math.cos(first))
    tip = (elbow[0] + math.sin(second), elbow[1] - math.cos(second))
    canvas.line((0.0, 0.0), elbow, 0.15, BLUE)
    canvas.line(elbow, tip, 0.15, RED)
    return canvas.pixels


def _mountain_car(task: Numbers, state: Numbers, view: View) -> Frame:
    """Draw the road as sin(3 x), whose slope accelerates the car."""
    canvas = Canvas((ROAD_END - WALL) * HEIGHT / WIDTH, ((ROAD_END + WALL) / 2, 0.05), view.scale)

    def road(x: float) -> Point:
        return x, 0.45 * math.sin(3 * x)

    xs = [float(x) for x in np.linspace(WALL, ROAD_END, 41)]
    for left, right in zip(xs, xs[1:], strict=False):
        canvas.line(road(left), road(right), 0.015, GREY)
    canvas.disc(road(task["goal_position"]), 0.03, GREEN)
    canvas.disc(road(state["x"]), 0.05, RED)
    return canvas.pixels


def _grid(task: Numbers, state: Numbers, view: View) -> Frame:
    canvas = Canvas(height=6.0, centre=(2.0, 2.0), scale=view.scale)
    for x in range(5):
        for y in range(5):
            goal = task["goal"] == 5 * x + y
            canvas.box((x - 0.45, y - 0.45), (x + 0.45, y + 0.45), GREEN if goal else GREY)
    canvas.disc((state["x"], state["y"]), 0.3, RED)
    return canvas.pixels


def _plane(task: Numbers, state: Numbers, view: View) -> Frame:
    """Draw the point, its goal (which the agent may not see) and the wall, if there is one."""
    goal = (task.get("goal_x", 0.0), task.get("goal_y", 0.0))
    if {"angle", "radius"} <= task.keys():
        goal = (task["radius"] * math.cos(task["angle"]), task["radius"] * math.sin(task["angle"]))
    places = (*goal, task.get("start_x", 0.0), task.get("start_y", 0.0), state["x"], state["y"])
    extent = max(view.reach, *(abs(place) for place in places))  # keep everything in view
    canvas = Canvas(height=2.4 * extent, scale=view.scale)
    if {"gap_y", "gap_half_width"} <= task.keys():
        for side in (-1.0, 1.0):
            edge = task["gap_y"] + side * task["gap_half_width"]
            canvas.line((0.0, edge), (0.0, edge + side * 10 * extent), 0.02 * extent, BLACK)
    trail = [(past["x"], past["y"]) for past in (*view.past, state)]
    for start, end in zip(trail, trail[1:], strict=False):
        canvas.line(start, end, 0.015 * extent, BLUE)
    canvas.disc(goal, 0.05 * extent, GREEN)
    canvas.disc((state["x"], state["y"]), 0.05 * extent, RED)
    return canvas.pixels


def _bars(numbers: npt.NDArray[np.float32], view: View) -> Frame:
    """Draw a bar for every number, upwards if positive and downwards if negative, squashed by tanh."""
    canvas = Canvas(height=2.0, scale=view.scale)
    width = 2.0 * WIDTH / HEIGHT / len(numbers)
    for i, number in enumerate(numbers):
        left, end = -WIDTH / HEIGHT + i * width, float(np.tanh(number))
        canvas.box((left + 0.1 * width, min(0.0, end)), (left + 0.9 * width, max(0.0, end)), BLUE)
    canvas.line((-WIDTH / HEIGHT, 0.0), (WIDTH / HEIGHT, 0.0), 0.02, GREY)
    return canvas.pixels


PICTURES: dict[type[Family], Drawing] = {
    CartPole: _cart_pole,
    Pendulum: _pendulum,
    Acrobot: _acrobot,
    MountainCar: _mountain_car,
    ContinuousMountainCar: _mountain_car,
    GridNavigation: _grid,
    Navigation: _plane,
    RingNavigation: _plane,
    WalledNavigation: _plane,
    PointMass: _plane,
}
