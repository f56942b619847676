"""Named benchmarks, one function each, and a table of them.

``navigation_fixed``, ``navigation_varying`` and ``cartpole_packer`` follow published protocols;
``navigation_holes``, ``cartpole_wide`` and ``cartpole_polarity`` are this project's own. Each takes
its time limit in steps, ``horizon``, which is part of its fingerprint.
"""

from __future__ import annotations

from collections.abc import Callable

from .cartpole import CartPole
from .navigation import Navigation
from .ranges import Choice, Distribution, LogRange, LogUnion, Range, Union
from .splits import TaskBenchmark


def navigation_fixed(action: str = "normalized", horizon: int = 100) -> TaskBenchmark:
    """Meta-SGD's navigation (Li et al. 2017, section 4.3): start at the origin, goals in ``[-0.5, 0.5]^2``.

    The paper trains on the whole square, so nothing but the test cells is cut out of it.
    """
    beyond = Union(((-0.75, -0.5), (0.5, 0.75)))
    return TaskBenchmark(
        _variant("navigation-fixed", action),
        Navigation(horizon, action=action),
        {"extrapolation": Navigation(horizon, action=action, goal_x=beyond, goal_y=beyond)},
    )


def navigation_varying(action: str = "normalized", horizon: int = 100) -> TaskBenchmark:
    """Meta-SGD's second navigation: start and goal both in ``[-0.5, 0.5]^2``."""
    start, beyond = Range(-0.5, 0.5), Union(((-0.75, -0.5), (0.5, 0.75)))
    return TaskBenchmark(
        _variant("navigation-varying", action),
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


def cartpole_packer(horizon: int = 200) -> TaskBenchmark:
    """Packer et al. (2018, arXiv:1810.12282), CartPole: train on R, hold out the default D and the extremes E."""
    return TaskBenchmark(
        "cartpole-packer",
        CartPole(horizon, force_magnitude=Range(5, 15), half_length=Range(0.25, 0.75), pole_mass=Range(0.05, 0.5)),
        {
            "default": CartPole(horizon),
            "extrapolation": CartPole(
                200,
                force_magnitude=Union(((1, 5), (15, 20))),
                half_length=Union(((0.05, 0.25), (0.75, 1.0))),
                pole_mass=Union(((0.01, 0.05), (0.5, 1.0))),
            ),
        },
    )


def cartpole_wide(horizon: int = 500) -> TaskBenchmark:
    """500 steps, five constants varied widely; poles of middling length are a hole, the extremes lie beyond.

    The extremes are mild enough for a force at its weakest to hold up the heaviest cart and pole.
    """
    ranges: dict[str, Distribution] = {
        "gravity": Range(5, 15),
        "cart_mass": Range(0.5, 2),
        "pole_mass": Range(0.05, 0.5),
        "half_length": Range(0.25, 1),
        "force_magnitude": Range(5, 20),
    }
    beyond: dict[str, Distribution] = {
        "gravity": Union(((3, 5), (15, 18))),
        "cart_mass": Union(((0.4, 0.5), (2, 2.5))),
        "pole_mass": Union(((0.03, 0.05), (0.5, 0.6))),
        "half_length": Union(((0.2, 0.25), (1, 1.4))),
        "force_magnitude": Union(((4, 5), (20, 24))),
    }
    hole = ranges | {"half_length": Range(0.6, 0.75)}
    return TaskBenchmark(
        "cartpole-wide",
        CartPole(horizon, **ranges),
        {"interpolation": CartPole(horizon, **hole), "extrapolation": CartPole(horizon, **beyond)},
    )


def cartpole_polarity(horizon: int = 500) -> TaskBenchmark:
    """500 steps of default physics: which way does the actuator push, and how hard?

    Strengths are log-uniform within a third and three times the default 10 N; the hole is around the
    default; extrapolation takes a quarter to a third and three to four times.
    """
    sign = Choice((-1.0, 1.0))
    return TaskBenchmark(
        "cartpole-polarity",
        CartPole(horizon, polarity=sign, force_magnitude=LogRange(10 / 3, 30)),
        {
            "interpolation": CartPole(horizon, polarity=sign, force_magnitude=LogRange(8, 12.5)),
            "extrapolation": CartPole(horizon, polarity=sign, force_magnitude=LogUnion(((2.5, 10 / 3), (30, 40)))),
        },
    )


def _variant(name: str, action: str) -> str:
    """The published variant has the plain name."""
    return name if action == "normalized" else f"{name}-{action}"


BENCHMARKS: dict[str, Callable[..., TaskBenchmark]] = {
    "navigation-fixed": navigation_fixed,
    "navigation-varying": navigation_varying,
    "navigation-holes": navigation_holes,
    "cartpole-packer": cartpole_packer,
    "cartpole-wide": cartpole_wide,
    "cartpole-polarity": cartpole_polarity,
}
