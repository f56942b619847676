"""Environment families with named constants, and benchmarks over them. Knows nothing of learning."""

from .acrobot import Acrobot, acrobot_success
from .bandits import BernoulliBandit
from .benchmarks import (
    BENCHMARKS,
    acrobot_packer,
    bandit,
    cartpole_all,
    cartpole_all_inner,
    cartpole_packer,
    cartpole_packer_default,
    cartpole_packer_extremes,
    cartpole_polarity,
    cartpole_scrambled,
    cartpole_wide,
    mountain_car_packer,
    navigation_actuator,
    navigation_corners,
    navigation_fixed,
    navigation_grid,
    navigation_gridstarts,
    navigation_halfcircle,
    navigation_halfcircle_felt,
    navigation_holes,
    navigation_maml,
    navigation_momentum,
    navigation_varying,
    navigation_walls,
    navigation_wind,
    pendulum_packer,
    tabular_random,
)
from .cartpole import CartPole
from .cells import task_ids
from .coarse import Coarse
from .family import Family, Transition
from .gittins import bayes_value, gittins_index, gittins_table
from .grid_navigation import GridNavigation
from .mountain_car import ContinuousMountainCar, MountainCar, mountain_car_success
from .navigation import Navigation
from .parameters import Parameter
from .pendulum import Pendulum, pendulum_success
from .point_mass import PointMass
from .ranges import Choice, Distribution, Fixed, LogRange, LogUnion, Range, Union
from .ring_navigation import RingNavigation
from .splits import SameTasks, TaskBenchmark
from .tabular import TabularMDP
from .walled_navigation import WalledNavigation
from .widened import Widened
from .wrappers import (
    Changing,
    DeadActions,
    Delayed,
    NoisySensors,
    Repeated,
    Revealed,
    RewiredSensors,
    ScaledActions,
    ScaledReward,
    ScaledSensors,
    ShiftedReward,
    Shuffled,
    SwappedActions,
    Wrapper,
)

__all__ = [
    "Changing",
    "DeadActions",
    "Delayed",
    "NoisySensors",
    "Repeated",
    "Revealed",
    "RewiredSensors",
    "ScaledActions",
    "ScaledReward",
    "ScaledSensors",
    "ShiftedReward",
    "Shuffled",
    "SwappedActions",
    "Wrapper",
    "Coarse",
    "cartpole_all",
    "cartpole_all_inner",
    "cartpole_scrambled",
    "BernoulliBandit",
    "TabularMDP",
    "bandit",
    "bayes_value",
    "gittins_index",
    "gittins_table",
    "tabular_random",
    "CartPole",
    "task_ids",
    "Family",
    "Transition",
    "Navigation",
    "Parameter",
    "Choice",
    "Distribution",
    "Fixed",
    "LogRange",
    "LogUnion",
    "Range",
    "Union",
    "SameTasks",
    "TaskBenchmark",
    "BENCHMARKS",
    "acrobot_packer",
    "cartpole_packer",
    "cartpole_packer_default",
    "cartpole_packer_extremes",
    "cartpole_polarity",
    "cartpole_wide",
    "mountain_car_packer",
    "navigation_actuator",
    "navigation_corners",
    "navigation_fixed",
    "navigation_grid",
    "navigation_gridstarts",
    "navigation_halfcircle",
    "navigation_halfcircle_felt",
    "navigation_holes",
    "navigation_maml",
    "navigation_momentum",
    "navigation_varying",
    "navigation_walls",
    "navigation_wind",
    "pendulum_packer",
    "Acrobot",
    "acrobot_success",
    "ContinuousMountainCar",
    "MountainCar",
    "mountain_car_success",
    "Pendulum",
    "pendulum_success",
    "GridNavigation",
    "PointMass",
    "RingNavigation",
    "WalledNavigation",
    "Widened",
]
