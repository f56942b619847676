"""Named benchmarks, one function each, and a table of them.

Each function takes its time limit in steps, ``horizon``, which is part of the benchmark's fingerprint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..splits import TaskBenchmark
from .cartpole import (
    cartpole_packer,
    cartpole_packer_default,
    cartpole_packer_extremes,
    cartpole_polarity,
    cartpole_wide,
)
from .classic import acrobot_packer, mountain_car_packer, pendulum_packer
from .discrete import bandit, tabular_random
from .navigation import (
    navigation_actuator,
    navigation_corners,
    navigation_fixed,
    navigation_grid,
    navigation_gridstarts,
    navigation_halfcircle,
    navigation_holes,
    navigation_maml,
    navigation_momentum,
    navigation_varying,
    navigation_walls,
    navigation_wind,
)
from .variants import cartpole_all, cartpole_all_centred, cartpole_all_inner, cartpole_scrambled

BENCHMARKS: dict[str, Callable[..., TaskBenchmark]] = {
    "navigation-fixed": navigation_fixed,
    "navigation-varying": navigation_varying,
    "navigation-maml": navigation_maml,
    "navigation-maml-raw": functools.partial(navigation_maml, "raw"),
    "navigation-holes": navigation_holes,
    "navigation-halfcircle": navigation_halfcircle,
    "navigation-halfcircle-dense": functools.partial(navigation_halfcircle, "distance"),
    "navigation-corners": navigation_corners,
    "navigation-corners-dense": functools.partial(navigation_corners, "distance"),
    "navigation-walls": navigation_walls,
    "navigation-momentum": navigation_momentum,
    "navigation-wind": navigation_wind,
    "navigation-actuator": navigation_actuator,
    "navigation-grid": navigation_grid,
    "navigation-gridstarts": navigation_gridstarts,
    "cartpole-packer": cartpole_packer,
    "cartpole-packer-default": cartpole_packer_default,
    "cartpole-packer-extremes": cartpole_packer_extremes,
    "cartpole-wide": cartpole_wide,
    "cartpole-polarity": cartpole_polarity,
    "cartpole-all": cartpole_all,
    "cartpole-all-centred": cartpole_all_centred,
    "cartpole-all-inner": cartpole_all_inner,
    "cartpole-scrambled": cartpole_scrambled,
    "bandit-5": functools.partial(bandit, 5),
    "bandit-10": functools.partial(bandit, 10),
    "bandit-50": functools.partial(bandit, 50),
    "tabular-random": tabular_random,
    "pendulum-packer": pendulum_packer,
    "acrobot-packer": acrobot_packer,
    "mountain-car-packer": mountain_car_packer,
}

__all__ = [
    "BENCHMARKS",
    "acrobot_packer",
    "bandit",
    "cartpole_all",
    "cartpole_all_centred",
    "cartpole_all_inner",
    "cartpole_packer",
    "cartpole_packer_default",
    "cartpole_packer_extremes",
    "cartpole_polarity",
    "cartpole_scrambled",
    "cartpole_wide",
    "mountain_car_packer",
    "navigation_actuator",
    "navigation_corners",
    "navigation_fixed",
    "navigation_grid",
    "navigation_gridstarts",
    "navigation_halfcircle",
    "navigation_holes",
    "navigation_maml",
    "navigation_momentum",
    "navigation_varying",
    "navigation_walls",
    "navigation_wind",
    "pendulum_packer",
    "tabular_random",
]
