"""Wrappers, which turn a family into a variant of it; they nest in any order.

A wrapper declares what it varies as additional constants of the task. Like all constants, these are hidden from the
agent, and they are drawn, validated, hashed and split like those of the wrapped family. At the default constants a
wrapper changes nothing. The outermost wrapper is closest to the agent: actions pass through it first and observations
last.

Five add no constants: ``Trials`` joins several episodes into one, for agents with a memory; ``Slipping`` makes
training harder than the test; ``CentredReward`` rewards staying away from limits; ``Revealed`` shows the task to the
agent; and ``Shuffled`` reassigns the tasks at every reset.
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
