"""Further classic control benchmarks of Packer et al. (2018): train on R, hold out the default D and the extremes E."""

from __future__ import annotations

from ..acrobot import Acrobot
from ..mountain_car import MountainCar
from ..pendulum import Pendulum
from ..ranges import Range, Union
from ..splits import TaskBenchmark


def pendulum_packer(horizon: int = 200) -> TaskBenchmark:
    """Packer et al. (2018, arXiv:1810.12282), Pendulum: train on R, hold out the default D and the extremes E.

    Their code clips the speed after updating the angle, as Gym did at the time; here it is clipped before.
    """
    within, beyond = Range(0.75, 1.25), Union(((0.5, 0.75), (1.25, 1.5)))
    return TaskBenchmark(
        "pendulum-packer",
        Pendulum(horizon, length=within, mass=within),
        {"default": Pendulum(horizon), "extrapolation": Pendulum(horizon, length=beyond, mass=beyond)},
    )


def acrobot_packer(horizon: int = 500) -> TaskBenchmark:
    """Packer et al. (2018, arXiv:1810.12282), Acrobot: train on R, hold out the default D and the extremes E.

    Length, mass and moment each change both links at once. The centres of mass do not change.
    """
    within, beyond = Range(0.75, 1.25), Union(((0.5, 0.75), (1.25, 1.5)))
    return TaskBenchmark(
        "acrobot-packer",
        Acrobot(horizon, link_length=within, link_mass=within, link_moment=within),
        {
            "default": Acrobot(horizon),
            "extrapolation": Acrobot(horizon, link_length=beyond, link_mass=beyond, link_moment=beyond),
        },
    )


def mountain_car_packer(horizon: int = 200) -> TaskBenchmark:
    """Packer et al. (2018, arXiv:1810.12282), MountainCar: train on R, hold out the default D and the extremes E.

    Their mass of the car multiplies the slope, so it corresponds to the constant ``gravity`` here.
    """
    return TaskBenchmark(
        "mountain-car-packer",
        MountainCar(horizon, force=Range(0.0005, 0.005), gravity=Range(0.001, 0.005)),
        {
            "default": MountainCar(horizon),
            "extrapolation": MountainCar(
                horizon,
                force=Union(((0.0001, 0.0005), (0.005, 0.01))),
                gravity=Union(((0.0005, 0.001), (0.005, 0.01))),
            ),
        },
    )
