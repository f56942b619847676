"""Meta-optimizers improve a learner from a trace; most of them differentiate the replay ``learner(trace)``."""

from metarl.optimizers.base import MetaOptimizer, meta_loss
from metarl.optimizers.descent import Descent
from metarl.optimizers.evolution import Evolution
from metarl.optimizers.exponentiated import ExponentiatedGradient
from metarl.optimizers.reptile import Reptile
from metarl.optimizers.trust_region import TrustRegion, conjugate_gradient

__all__ = [
    "Descent",
    "Evolution",
    "ExponentiatedGradient",
    "MetaOptimizer",
    "Reptile",
    "TrustRegion",
    "conjugate_gradient",
    "meta_loss",
]
