"""metarl: fast adaptation for reinforcement learning, with meta-learned step sizes.

The library contains no environments. Every meta-iteration goes through ``tasks -> explore -> replay -> improve``::

    for iteration, metrics in meta_train(learner, optimizer, benchmark, plan, ...):
        print(iteration, metrics["return/step_1"])

The core is `metarl.learner`; the README gives an overview.
"""

from metarl.action_baseline import ActionBaseline
from metarl.advantages import Advantages
from metarl.baselines import CrossFitted, LinearBaseline, ZeroBaseline
from metarl.errors import DivergedError, NonFiniteError
from metarl.evaluation import Adaptation, AdaptationCurve, TrainingTaskError, adapt, adaptation_curve, evaluate
from metarl.exploration import Plan, explore
from metarl.learner import Learner
from metarl.losses import (
    TMAML,
    Clipped,
    Dice,
    LoadedDice,
    PreUpdateCredit,
    WeightedSum,
    lvc,
    negative_entropy,
    sample_kl,
    vpg,
)
from metarl.optimizers import Descent, Evolution, ExponentiatedGradient, MetaOptimizer, Reptile, TrustRegion
from metarl.policies import MLP, CategoricalPolicy, GaussianPolicy, ModuleNetwork, Network, Policy
from metarl.rollouts import collect
from metarl.training import meta_step, meta_train
from metarl.types import Batch, Benchmark, Params, State, Task, TaskFamily, Trace, Transition

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "TMAML",
    "ActionBaseline",
    "Adaptation",
    "AdaptationCurve",
    "Advantages",
    "Batch",
    "Benchmark",
    "CategoricalPolicy",
    "Clipped",
    "CrossFitted",
    "Descent",
    "Dice",
    "DivergedError",
    "Evolution",
    "ExponentiatedGradient",
    "GaussianPolicy",
    "Learner",
    "LinearBaseline",
    "LoadedDice",
    "MetaOptimizer",
    "ModuleNetwork",
    "Network",
    "NonFiniteError",
    "Params",
    "Plan",
    "Policy",
    "PreUpdateCredit",
    "Reptile",
    "State",
    "Task",
    "TaskFamily",
    "Trace",
    "TrainingTaskError",
    "Transition",
    "TrustRegion",
    "WeightedSum",
    "ZeroBaseline",
    "adapt",
    "adaptation_curve",
    "collect",
    "evaluate",
    "explore",
    "lvc",
    "meta_step",
    "meta_train",
    "negative_entropy",
    "sample_kl",
    "vpg",
]
