"""Update rules: how an agent steps. One rule a file; each is an `UpdateRule` of two methods."""

from metarl.rules.base import RuleState, UpdateRule
from metarl.rules.clip import ClipByNorm
from metarl.rules.combine import Chain, FirstOrder, Masked
from metarl.rules.meta_sgd import MetaSGD
from metarl.rules.per_layer import PerLayerSGD
from metarl.rules.per_step import PerStepSGD
from metarl.rules.rates import Bounded, Free, Parameterisation, Positive, Rates, layer_of
from metarl.rules.sgd import SGD, LearnedSGD

__all__ = [
    "SGD",
    "Bounded",
    "Chain",
    "ClipByNorm",
    "FirstOrder",
    "Free",
    "LearnedSGD",
    "Masked",
    "MetaSGD",
    "Parameterisation",
    "PerLayerSGD",
    "PerStepSGD",
    "Positive",
    "Rates",
    "RuleState",
    "UpdateRule",
    "layer_of",
]
