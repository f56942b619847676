"""Variants by wrapping: each takes a family and gives a family, and they nest in any order.

What a wrapper adds is declared as constants of the task, hidden from the agent like all others; they are
drawn, validated, hashed and split like the wrapped family's own. At the default constants a wrapper changes
nothing. The outermost wrapper is the nearest to the agent: its action passes through that wrapper first,
and its observation last.

Five add no constants: ``Trials`` joins several episodes into one, for agents with a memory, ``Slipping`` makes
training harder than the test, ``CentredReward`` asks for room to spare, ``Revealed`` shows the task, and ``Shuffled``
deals the tasks anew.
"""

from __future__ import annotations

from .actions import DeadActions, ScaledActions, SwappedActions
from .base import Wrapper
from .changing import Changing
from .controls import Revealed, Shuffled
from .delayed import Delayed
from .noise import NoisySensors
from .repeated import Repeated
from .rewards import CentredReward, ScaledReward, ShiftedReward
from .sensors import RewiredSensors, ScaledSensors
from .slipping import Slipping
from .trials import Trials

__all__ = [
    "DeadActions",
    "ScaledActions",
    "SwappedActions",
    "Wrapper",
    "Changing",
    "Delayed",
    "NoisySensors",
    "Repeated",
    "Revealed",
    "CentredReward",
    "ScaledReward",
    "ShiftedReward",
    "Shuffled",
    "RewiredSensors",
    "ScaledSensors",
    "Slipping",
    "Trials",
]
