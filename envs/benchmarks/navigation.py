"""Navigation benchmarks.

``navigation_fixed`` and ``navigation_varying`` follow a published protocol, and ``navigation_maml`` adds MAML's
published goals. ``navigation_halfcircle``, ``navigation_corners`` and ``navigation_grid`` are modelled on published
protocols; the others are this project's own.
"""

from __future__ import annotations

import math

import numpy as np

from ..grid_navigation import CELLS, GridNavigation
from ..navigation import Navigation
from ..point_mass import PointMass
from ..ranges import Choice, Distribution, LogRange, Range, Union
from ..ring_navigation import RingNavigation
from ..splits import TaskBenchmark
from ..walled_navigation import WalledNavigation
from .naming import variant


def navigation_fixed(action: str = "normalized", horizon: int = 100) -> TaskBenchmark:
    """Meta-SGD's navigation (Li et al. 2017, section 4.3): start at the origin, goals in ``[-0.5, 0.5]^2``.

    The paper trains on the whole square, so only the cells of validation and test are cut out of it.
    """
    beyond = Union(((-0.75, -0.5), (0.5, 0.75)))
    return TaskBenchmark(
        variant("navigation-fixed", action, "normalized"),
        Navigation(horizon, action=action),
        {"extrapolation": Navigation(horizon, action=action, goal_x=beyond, goal_y=beyond)},
    )


def navigation_maml(action: str = "normalized", horizon: int = 100) -> TaskBenchmark:
    """The fixed start, with MAML's 40 goals as the split ``published`` (Finn et al. 2017, table 4 and figure 4).

    The authors' code draws them with NumPy's legacy generator and seed 1.
    """
    published = np.random.RandomState(1)
    goals = published.uniform(-0.5, 0.5, (40, 2))
    columns = {"goal_x": goals[:, 0], "goal_y": goals[:, 1], "start_x": np.zeros(40), "start_y": np.zeros(40)}
    return TaskBenchmark(
        variant("navigation-maml", action, "normalized"),
        Navigation(horizon, action=action),
        listed={"published": {name: tuple(values.tolist()) for name, values in columns.items()}},
    )


def navigation_varying(action: str = "normalized", horizon: int = 100) -> TaskBenchmark:
    """Meta-SGD's second navigation protocol: start and goal both in ``[-0.5, 0.5]^2``."""
    start, beyond = Range(-0.5, 0.5), Union(((-0.75, -0.5), (0.5, 0.75)))
    return TaskBenchmark(
        variant("navigation-varying", action, "normalized"),
        Navigation(horizon, action=action, start_x=start, start_y=start),
        {
            "extrapolation": Navigation(
                horizon, action=action, start_x=start, start_y=start, goal_x=beyond, goal_y=beyond
            )
        },
    )


def navigation_holes(horizon: int = 100) -> TaskBenchmark:
    """Goals in ``[-0.5, 0.5]^2`` without the square ``[0.1, 0.3]^2``; extrapolation doubles every coordinate."""
    hole, beyond = Range(0.1, 0.3), Union(((-1.0, -0.5), (0.5, 1.0)))
    return TaskBenchmark(
        "navigation-holes",
        Navigation(horizon),
        {
            "interpolation": Navigation(horizon, goal_x=hole, goal_y=hole),
            "extrapolation": Navigation(horizon, goal_x=beyond, goal_y=beyond),
        },
    )


def navigation_halfcircle(reward: str = "disc", horizon: int = 20) -> TaskBenchmark:
    """PEARL's and VariBAD's half-circle: goals at distance 1 in ``[0, pi]``; extrapolation is the other half.

    PEARL has 20 steps, VariBAD 100. PEARL trains on 80 of 100 fixed goals; here, training uses the whole arc except
    for the held-out cells.
    """
    return TaskBenchmark(
        variant("navigation-halfcircle", reward, "disc"),
        RingNavigation(horizon, reward),
        {"extrapolation": RingNavigation(horizon, reward, angle=Range(-math.pi, 0))},
    )


def navigation_corners(reward: str = "cone", stride: float = 0.2, horizon: int = 100) -> TaskBenchmark:
    """Goals around the four corners of ProMP, ``(+-2, +-2)``; the corners themselves are a held-out split.

    The papers train and test on the same four tasks, which disjoint splits do not allow. Training therefore spreads
    each corner over 0.4 rad and 0.4 in distance, ``corners`` contains the four published tasks, and ``extrapolation``
    has goals half-way between corners. ES-MAML's variant is ``("bowl", stride=0.1)``.
    """
    quarters = (-0.75 * math.pi, -0.25 * math.pi, 0.25 * math.pi, 0.75 * math.pi)
    near = Union(tuple((quarter - 0.2, quarter + 0.2) for quarter in quarters))
    pi, half = math.pi, math.pi / 2
    between = Union(((-pi, 0.2 - pi), (-half - 0.2, 0.2 - half), (-0.2, 0.2), (half - 0.2, half + 0.2), (pi - 0.2, pi)))
    spread = Range(2.6, 3.0)

    def ring(angle: Distribution, radius: Distribution | float) -> RingNavigation:
        return RingNavigation(horizon, reward, reach=2.0, stride=stride, angle=angle, radius=radius)

    name = variant("navigation-corners", reward, "cone")
    return TaskBenchmark(
        name,
        ring(near, spread),
        {"corners": ring(Choice(quarters), math.sqrt(8)), "extrapolation": ring(between, spread)},
    )


def navigation_walls(horizon: int = 100) -> TaskBenchmark:
    """A wall between start and goal, its gap centred in ``[-0.4, 0.4]``; the hole is ``[0.1, 0.2]``."""
    beyond = Union(((-0.6, -0.4), (0.4, 0.6)))
    return TaskBenchmark(
        "navigation-walls",
        WalledNavigation(horizon),
        {
            "interpolation": WalledNavigation(horizon, gap_y=Range(0.1, 0.2)),
            "extrapolation": WalledNavigation(horizon, gap_y=beyond),
        },
    )


def navigation_momentum(horizon: int = 100) -> TaskBenchmark:
    """Goals in ``[-0.5, 0.5]^2`` for a point with momentum that loses 0.1 to 0.5 of its velocity per step."""
    beyond = Union(((0.05, 0.1), (0.5, 1.0)))
    return TaskBenchmark(
        "navigation-momentum",
        PointMass(horizon, friction=Range(0.1, 0.5)),
        {
            "interpolation": PointMass(horizon, friction=Range(0.25, 0.3)),
            "extrapolation": PointMass(horizon, friction=beyond),
        },
    )


def navigation_wind(horizon: int = 100) -> TaskBenchmark:
    """Goals in ``[-0.5, 0.5]^2`` in a constant hidden wind of up to 0.03 per step along each axis."""
    breeze, hole, beyond = Range(-0.03, 0.03), Range(0.01, 0.02), Union(((-0.05, -0.03), (0.03, 0.05)))
    return TaskBenchmark(
        "navigation-wind",
        PointMass(horizon, wind_x=breeze, wind_y=breeze),
        {
            "interpolation": PointMass(horizon, wind_x=hole, wind_y=hole),
            "extrapolation": PointMass(horizon, wind_x=beyond, wind_y=beyond),
        },
    )


def navigation_actuator(horizon: int = 100) -> TaskBenchmark:
    """One goal, (0.5, 0), and an actuator with hidden strength that is rotated by any angle.

    The hole is in the angle; extrapolation is in the strength, since a full circle has no outside.
    """
    turn, gain = Range(-math.pi, math.pi), LogRange(0.8, 2)

    def turned(rotation: Distribution, gain: Distribution) -> PointMass:
        return PointMass(horizon, rotation=rotation, gain=gain, goal_x=0.5, goal_y=0.0)

    return TaskBenchmark(
        "navigation-actuator",
        turned(turn, gain),
        {"interpolation": turned(Range(0.5, 1.0), gain), "extrapolation": turned(turn, LogRange(2, 4))},
    )


def navigation_grid(horizon: int = 15) -> TaskBenchmark:
    """VariBAD's GridNavi: 21 goals, of which training has 11, validation 5 and test 5.

    VariBAD trains and tests on all 21. Here a test goal never paid in training, so an agent that has learned the
    training prior exactly would search there last: the test measures adaptation against the prior.
    """
    return TaskBenchmark("navigation-grid", GridNavigation(horizon))


def navigation_gridstarts(horizon: int = 15) -> TaskBenchmark:
    """Any start and goal cell of the grid: held-out tasks are pairs, and every goal is trained from other starts."""
    cells = Choice(CELLS)
    return TaskBenchmark("navigation-gridstarts", GridNavigation(horizon, goal=cells, start=cells))
