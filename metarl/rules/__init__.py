"""Update rules: how an agent steps. One idea a file; each rule is an `UpdateRule` of two methods."""

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.clip import ClipByNorm, UnitNorm
from metarl.rules.combine import Chain, FirstOrder, Masked, PerStep
from metarl.rules.curvature import BlockDiagonal, MetaCurvature
from metarl.rules.exponentiated import Exponentiated
from metarl.rules.hypergradient import AdamHypergradient, Hypergradient
from metarl.rules.meta_sgd import MetaSGD
from metarl.rules.momentum import Momentum
from metarl.rules.offset import Offset
from metarl.rules.per_layer import PerLayerSGD
from metarl.rules.rates import Bounded, Free, Parameterisation, Positive, Rates, Table, layer_of
from metarl.rules.scheduled import GPSchedule, LSTMCell, LSTMSchedule, MLPSchedule, Schedule, Scheduled
from metarl.rules.sgd import SGD, LearnedSGD

__all__ = [
    "SGD",
    "AdamHypergradient",
    "BlockDiagonal",
    "Bounded",
    "Chain",
    "ClipByNorm",
    "Exponentiated",
    "FirstOrder",
    "Free",
    "GPSchedule",
    "Hypergradient",
    "LSTMCell",
    "LSTMSchedule",
    "LearnedSGD",
    "MLPSchedule",
    "Masked",
    "MetaCurvature",
    "MetaSGD",
    "Momentum",
    "Offset",
    "Parameterisation",
    "PerLayerSGD",
    "PerStep",
    "Positive",
    "Rates",
    "RuleState",
    "Schedule",
    "Scheduled",
    "Step",
    "Table",
    "UnitNorm",
    "UpdateRule",
    "layer_of",
]
