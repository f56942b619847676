"""Update rules turn gradients into parameter updates. One idea per file; a rule is an `UpdateRule` with two methods."""

from metarl.rules.base import RuleState, Step, UpdateRule, decided, draw_noise, kept
from metarl.rules.clip import ClipByNorm, UnitNorm
from metarl.rules.combine import Chain, FirstOrder, Masked, PerStep, part_of
from metarl.rules.curvature import BlockDiagonal, MetaCurvature
from metarl.rules.exponentiated import Exponentiated
from metarl.rules.foresight import Foresight
from metarl.rules.hypergradient import AdamHypergradient, Hypergradient
from metarl.rules.learned_optimizers import LSTMOptimizer, MetaLSTM
from metarl.rules.meta_sgd import MetaSGD
from metarl.rules.momentum import Momentum
from metarl.rules.networks import LSTMCell
from metarl.rules.offset import Offset
from metarl.rules.per_layer import PerLayerSGD
from metarl.rules.rates import Bounded, Free, Parameterisation, Positive, Rates, Table, layer_of
from metarl.rules.reinforced import RLSchedule
from metarl.rules.scheduled import GPSchedule, LSTMSchedule, MLPSchedule, Schedule, Scheduled
from metarl.rules.sgd import SGD, LearnedSGD
from metarl.rules.whitening import WhitenedInputs, WhitenedOutputs, affine_layers

__all__ = [
    "SGD",
    "AdamHypergradient",
    "BlockDiagonal",
    "Bounded",
    "Chain",
    "ClipByNorm",
    "Exponentiated",
    "FirstOrder",
    "Foresight",
    "Free",
    "GPSchedule",
    "Hypergradient",
    "LSTMCell",
    "LSTMOptimizer",
    "LSTMSchedule",
    "LearnedSGD",
    "MLPSchedule",
    "Masked",
    "MetaCurvature",
    "MetaLSTM",
    "MetaSGD",
    "Momentum",
    "Offset",
    "Parameterisation",
    "PerLayerSGD",
    "PerStep",
    "Positive",
    "RLSchedule",
    "Rates",
    "RuleState",
    "Schedule",
    "Scheduled",
    "Step",
    "Table",
    "UnitNorm",
    "UpdateRule",
    "WhitenedInputs",
    "WhitenedOutputs",
    "affine_layers",
    "decided",
    "draw_noise",
    "kept",
    "layer_of",
    "part_of",
]
