"""CartPole benchmarks: one published protocol with variants, and two of this project."""

from __future__ import annotations

from ..cartpole import CartPole
from ..ranges import Choice, Distribution, LogRange, LogUnion, Range, Union
from ..splits import TaskBenchmark

FORCE = Range(5, 15)  # force in Packer's R, in newtons


def cartpole_packer(horizon: int = 200) -> TaskBenchmark:
    """Packer et al. (2018, arXiv:1810.12282), CartPole: train on R, hold out the default D and the extremes E."""
    return TaskBenchmark(
        "cartpole-packer",
        _within(horizon),
        {"default": CartPole(horizon), "extrapolation": _extremes(horizon)},
    )


def cartpole_packer_default(horizon: int = 200) -> TaskBenchmark:
    """`cartpole_packer` trained on D: the default constants within 1 %, so that there are tasks to hold out.

    The split ``range`` is R without forces within 1 % of the default.
    """

    def about(value: float) -> Range:
        return Range(0.99 * value, 1.01 * value)

    default = CartPole(horizon, force_magnitude=about(10), half_length=about(0.5), pole_mass=about(0.1))
    around = Union(((5, 9.9), (10.1, 15)))
    return TaskBenchmark(
        "cartpole-packer-default",
        default,
        {"range": _within(horizon, force_magnitude=around), "extrapolation": _extremes(horizon)},
    )


def cartpole_packer_extremes(horizon: int = 200) -> TaskBenchmark:
    """`cartpole_packer` trained on E, with D and R, which lie inside, as held-out splits."""
    return TaskBenchmark(
        "cartpole-packer-extremes",
        _extremes(horizon),
        {"default": CartPole(horizon), "range": _within(horizon)},
    )


def _within(horizon: int, force_magnitude: Distribution = FORCE) -> CartPole:
    """Return Packer's R."""
    return CartPole(horizon, force_magnitude=force_magnitude, half_length=Range(0.25, 0.75), pole_mass=Range(0.05, 0.5))


def _extremes(horizon: int) -> CartPole:
    """Return Packer's E: all constants outside R at once."""
    return CartPole(
        horizon,
        force_magnitude=Union(((1, 5), (15, 20))),
        half_length=Union(((0.05, 0.25), (0.75, 1.0))),
        pole_mass=Union(((0.01, 0.05), (0.5, 1.0))),
    )


def cartpole_wide(horizon: int = 500) -> TaskBenchmark:
    """500 steps and five widely varied constants; a range of pole lengths is a hole, extrapolation lies outside.

    The extremes are moderate enough that the weakest force can still balance the heaviest cart and pole.
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
    """500 steps of default physics with a hidden direction and strength of the actuator.

    Strengths are log-uniform from a third to three times the default 10 N. The hole is around the default;
    extrapolation covers a quarter to a third and three to four times the default.
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
