"""Environment families with named constants, and benchmarks over them. Knows nothing of learning."""

from .benchmarks import (
    BENCHMARKS,
    cartpole_packer,
    cartpole_polarity,
    cartpole_wide,
    navigation_fixed,
    navigation_holes,
    navigation_varying,
)
from .cartpole import CartPole
from .cells import task_ids
from .family import Family, Transition
from .navigation import Navigation
from .parameters import Parameter
from .ranges import Choice, Distribution, Fixed, LogRange, LogUnion, Range, Union
from .splits import TaskBenchmark

__all__ = [
    "BENCHMARKS",
    "CartPole",
    "Choice",
    "Distribution",
    "Family",
    "Fixed",
    "LogRange",
    "LogUnion",
    "Navigation",
    "Parameter",
    "Range",
    "TaskBenchmark",
    "Transition",
    "Union",
    "cartpole_packer",
    "cartpole_polarity",
    "cartpole_wide",
    "navigation_fixed",
    "navigation_holes",
    "navigation_varying",
    "task_ids",
]
