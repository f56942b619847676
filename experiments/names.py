"""Tables of everything that a configuration can name, one per kind; `experiments.lookup` looks names up in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from gymnasium.spaces import Discrete

from envs import benchmarks as b
from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose
from experiments.streams import stream
from metarl import losses
from metarl.action_baseline import ActionBaseline
from metarl.advantages import Advantages
from metarl.baselines import Baseline, CrossFitted, LinearBaseline, ZeroBaseline
from metarl.learned_signals import LearnedAdvantage, LearnedLoss, LearnedReward
from metarl.learner import Learner
from metarl.objectives import LearnedObjective, WarmStart
from metarl.optimizers import Descent, Evolution, ExponentiatedGradient, MetaOptimizer, Reptile, TrustRegion
from metarl.rules import (
    SGD,
    AdamHypergradient,
    BlockDiagonal,
    Bounded,
    Chain,
    Exponentiated,
    FirstOrder,
    Foresight,
    Free,
    GPSchedule,
    Hypergradient,
    LearnedSGD,
    LSTMOptimizer,
    LSTMSchedule,
    Masked,
    MetaCurvature,
    MetaLSTM,
    MetaSGD,
    MLPSchedule,
    Momentum,
    Offset,
    Parameterisation,
    PerLayerSGD,
    PerStep,
    Positive,
    RLSchedule,
    Schedule,
    Scheduled,
    UnitNorm,
    UpdateRule,
    WhitenedInputs,
    WhitenedOutputs,
    affine_layers,
    part_of,
)
from metarl.transitions import TransitionNetwork
from metarl.types import Params, TaskFamily

BENCHMARKS: dict[str, Callable[..., Any]] = b.BENCHMARKS

POLICIES = {"mlp": "a multi-layer perceptron, which `experiments.build` fits to the family"}

PARAMETERISATIONS: dict[str, Callable[[Config], Parameterisation]] = {
    "free": lambda c: Free(),
    "positive": lambda c: Positive(),
    "bounded": lambda c: Bounded(0.0, c.max_rate),
}


def _parameterisation(config: Config) -> Parameterisation:
    return PARAMETERISATIONS[config.parameterisation](config)


def _learned_rate(config: Config) -> UpdateRule:
    return LearnedSGD(config.rate, parameterisation=_parameterisation(config))


def _per_layer(config: Config, params: Params) -> UpdateRule:
    return PerLayerSGD(params, initial=config.rate, parameterisation=_parameterisation(config))


def _meta_sgd(config: Config, params: Params) -> UpdateRule:
    return MetaSGD(params, initial=config.rate, parameterisation=_parameterisation(config))


RULES: dict[str, Callable[[Config, Params], UpdateRule]] = {
    "meta-sgd": _meta_sgd,
    "maml": lambda c, params: SGD(c.rate),
    "maml-halving": lambda c, params: PerStep(SGD(c.rate), SGD(c.rate / 2.0)),  # as in MAML's test on navigation
    "fomaml": lambda c, params: FirstOrder(SGD(c.rate)),
    "learned-rate": lambda c, params: _learned_rate(c),
    "per-layer": _per_layer,
    "per-step": lambda c, params: PerStep(*(_per_layer(c, params) for _ in range(max(1, c.steps)))),
    "per-step-meta-sgd": lambda c, params: PerStep(*(_meta_sgd(c, params) for _ in range(max(1, c.steps)))),
    "offset": lambda c, params: Offset(_learned_rate(c), params),
    "offset-meta-sgd": lambda c, params: Offset(_meta_sgd(c, params), params),
    # one step only: the adapted policy has little noise, so that a second step would be huge
    "offset-once": lambda c, params: PerStep(Offset(_meta_sgd(c, params), params), SGD(0.0)),
    "learned-exploration": lambda c, params: Offset(  # of Gaussian policies; others have no ``log_std``
        _learned_rate(c), {name: leaf for name, leaf in params.items() if name == "log_std"}
    ),
    "momentum": lambda c, params: Chain(Momentum(), _meta_sgd(c, params)),
    "meta-curvature": lambda c, params: Chain(MetaCurvature(params), _learned_rate(c)),
    "block-diagonal": lambda c, params: Chain(BlockDiagonal(params), _learned_rate(c)),
    "whitened": lambda c, params: Chain(_whitened(params), SGD(c.rate)),
    "whitened-meta-sgd": lambda c, params: Chain(_whitened(params), _meta_sgd(c, params)),
    "whitened-layers": lambda c, params: Chain(
        WhitenedInputs(params, affine_layers(params), ridge=0.1),
        _meta_sgd(c, params),
    ),
    "whitened-outputs": lambda c, params: Chain(WhitenedOutputs(params), SGD(c.rate)),
    "foresight": lambda c, params: Chain(_foresight(params), _meta_sgd(c, params)),
    "whitened-offset": lambda c, params: Chain(_whitened(params), Offset(_meta_sgd(c, params), params)),
    "unit-norm": lambda c, params: Chain(UnitNorm(), _meta_sgd(c, params)),
    "anil": lambda c, params: Masked(SGD(c.rate), "head", params),
    "anil-meta-sgd": lambda c, params: Masked(_meta_sgd(c, part_of(params, "head")), "head", params),
    "boil": lambda c, params: Masked(SGD(c.rate), "hidden", params),
    "cavia": lambda c, params: _cavia(c, params),
    "first-order-meta-sgd": lambda c, params: FirstOrder(_meta_sgd(c, params)),
    "mlp-schedule": lambda c, params: _scheduled(c, MLPSchedule(generator=stream(c.seed, "rule"))),
    "lstm-schedule": lambda c, params: _scheduled(c, LSTMSchedule(generator=stream(c.seed, "rule"))),
    "gp-schedule": lambda c, params: _scheduled(c, GPSchedule(len(params), steps=max(2, c.steps))),
    "rl-schedule": lambda c, params: FirstOrder(
        _scheduled(c, RLSchedule(steps=max(1, c.steps), generator=stream(c.seed, "rule")))
    ),
    "lstm-optimizer": lambda c, params: FirstOrder(
        LSTMOptimizer(rate=c.rate, generator=stream(c.seed, "rule")),
    ),
    "meta-lstm": lambda c, params: FirstOrder(
        MetaLSTM(c.rate, limit=c.max_rate, generator=stream(c.seed, "rule")),
    ),
    "hypergradient": lambda c, params: Hypergradient(c.rate, rate_lr=c.online_rate),
    "adam-hypergradient": lambda c, params: AdamHypergradient(c.rate, rate_lr=c.online_rate),
    "exponentiated": lambda c, params: Exponentiated(c.rate, gain_lr=c.online_rate, scale_lr=c.online_rate),
}


def _whitened(params: Params) -> UpdateRule:
    return WhitenedInputs(params, affine_layers(params)[:1])


def _foresight(params: Params) -> UpdateRule:
    layers = affine_layers(params)
    return Foresight(WhitenedInputs(params, layers, ridge=0.2), params, layers[0], horizon=50.0)


def _cavia(config: Config, params: Params) -> UpdateRule:
    if config.context == 0:
        raise InputError("the rule cavia adapts context inputs, and the policy has none; pass --context 5, for example")
    return Masked(SGD(config.rate), "context", params)


def _scheduled(config: Config, schedule: Schedule) -> UpdateRule:
    return Scheduled(_learned_rate(config), schedule)


ALGORITHMS: dict[str, dict[str, Any]] = {
    "no-adaptation": {"rule": "maml", "steps": 0},
    "cavia": {"rule": "cavia", "context": 5},
    "positive-meta-sgd": {"rule": "meta-sgd", "parameterisation": "positive"},
    **{
        rule: {"rule": rule, "rate_lr": 3e-3}  # these learn the weights of networks, not step sizes
        for rule in ("mlp-schedule", "lstm-schedule", "rl-schedule", "lstm-optimizer", "meta-lstm")
    },
    "learned-objective": {"rule": "learned-exploration", "inner_loss": "learned"},
    "warm-start": {"rule": "learned-rate", "inner_loss": "warm-start", "rate_lr": 3e-3},
    "norml": {"rule": "offset-meta-sgd", "inner_loss": "learned-advantage", "rate_lr": 3e-3},
    "exponentiated-meta-sgd": {"rule": "meta-sgd", "meta_optimizer": "exponentiated"},
    "es-maml": {"rule": "maml", "meta_optimizer": "evolution", "tasks": 5},
    "reptile": {"rule": "maml", "meta_optimizer": "reptile", "lr": 0.1},
}
"""Algorithms that are more than a rule: for each, the configuration fields that define it."""

LOSSES: dict[str, Callable[[Config], losses.Loss]] = {
    "vpg": lambda c: losses.vpg,
    "lvc": lambda c: losses.lvc,
    "dice": lambda c: losses.Dice(c.discount),
    "tmaml": lambda c: losses.TMAML(c.discount),
    "loaded-dice": lambda c: losses.LoadedDice(),
    "clipped": lambda c: losses.Clipped(c.clip),
    "surrogate": lambda c: losses.surrogate,
}


def _learned_advantage(config: Config, family: TaskFamily) -> losses.Loss:
    return LearnedAdvantage(_reinforcing(config), _judge(config, family, more=1))


def _learned_reward(config: Config, family: TaskFamily) -> losses.Loss:
    return LearnedReward(_reinforcing(config), _judge(config, family), support_advantages(config))


def _learned_loss(config: Config, family: TaskFamily) -> losses.Loss:
    size, discrete = choices(family)
    return LearnedLoss(_reinforcing(config), _judge(config, family, more=1 + (size if discrete else 2 * size)))


def _reinforcing(config: Config) -> losses.Loss:
    """Return the loss to which a learned signal supplies advantages.

    It is the plain policy gradient with pre-update credit, which other losses already contain and would count twice.
    """
    return seeing_actions(config, losses.vpg if config.credit or config.coverage else losses.lvc)


def seeing_actions(config: Config, loss: losses.Loss) -> losses.Loss:
    """Return the loss, with a baseline that sees the action if ``action_baseline`` is set.

    Raises:
        InputError: the loss uses more than each step's own advantage.
    """
    if not config.action_baseline:
        return loss
    if loss not in (losses.vpg, losses.lvc):
        raise InputError(
            "--action-baseline: expected an inner loss that uses advantages (vpg, lvc or a learned one), got "
            f"{config.inner_loss}; leave it out, or pass --no-action-baseline if the preset sets it"
        )
    return ActionBaseline(loss)


def _judge(config: Config, family: TaskFamily, more: int = 0) -> TransitionNetwork:
    size, discrete = choices(family)
    return TransitionNetwork(
        family.observation_space.shape[0],
        size if config.signal_actions else 0,
        discrete=discrete,
        more=more,
        effects=config.signal_effects,
        hidden=config.signal_hidden,
        generator=stream(config.seed, "objective"),
    )


def choices(family: TaskFamily) -> tuple[int, bool]:
    """Return the number of discrete actions and True, or the size of a continuous action and False."""
    actions = family.action_space
    discrete = isinstance(actions, Discrete)
    return int(actions.n) if discrete else actions.shape[0], discrete


INNER_LOSSES: dict[str, Callable[[Config, TaskFamily], losses.Loss]] = {
    **{name: lambda c, family, make=make: seeing_actions(c, make(c)) for name, make in LOSSES.items()},
    "learned": lambda c, family: LearnedObjective(_reinforcing(c), _within_reach(support_advantages(c))),
    "warm-start": lambda c, family: LearnedObjective(
        _reinforcing(c),
        _within_reach(support_advantages(c)),
        warm_start=WarmStart(generator=stream(c.seed, "objective")),
    ),
    "learned-advantage": _learned_advantage,
    "learned-reward": _learned_reward,
    "learned-loss": _learned_loss,
}
"""Inner losses. Learned ones must not be outer losses, too: they would learn to be easy to minimise."""

BASELINES: dict[str, Callable[[LinearBaseline], Baseline]] = {
    "linear": lambda linear: linear,
    "cross-fitted": CrossFitted,
    "zero": lambda linear: ZeroBaseline(),
}


def _descent(config: Config, learner: Learner, **more: Any) -> Descent:
    optimizer = Descent(
        learner,
        lr=config.lr,
        rate_lr=config.rate_lr,
        epochs=config.epochs,
        minibatches=config.minibatches,
        max_norm=config.max_norm,
        **more,
    )
    optimizer.patience = config.patience
    return optimizer


def support_advantages(config: Config) -> Advantages:
    """Return the advantages of the inner loss, which are the starting point of learned ones."""
    return Advantages(
        config.discount,
        config.decay,
        _baseline(config, "episodes"),
        normalize=config.normalize,
        time_limit=config.time_limit,
    )


def _within_reach(advantages: Advantages) -> Advantages:
    """Clamp discount and decay away from 0 and 1, where a gradient could hardly move them."""
    low, high = 0.01, 0.999
    discount, decay = (min(max(value, low), high) for value in (advantages.discount, advantages.decay))
    return replace(advantages, discount=discount, decay=decay)


def query_advantages(config: Config) -> Advantages:
    """Return the advantages of the outer loss."""
    return Advantages(
        config.query_discount,
        config.query_decay,
        _baseline(config, "query_episodes"),
        scale=config.query_scale,
        time_limit=config.time_limit,
    )


def _baseline(config: Config, counted: str) -> Baseline:
    """Return the configured baseline; the field ``counted`` holds the number of episodes that it will get.

    Raises:
        InputError: the baseline is unknown, or splits the episodes into halves and their number is odd.
    """
    baseline: Baseline = choose("baseline", config.baseline, BASELINES)(
        LinearBaseline(time=config.time_limit == "terminal")
    )
    if isinstance(baseline, CrossFitted) and (episodes := getattr(config, counted)) % 2:
        raise InputError(
            f"baseline cross-fitted halves the episodes: expected an even number of {counted}, got {episodes}"
        )
    return baseline


def _reptile(config: Config, learner: Learner) -> Reptile:
    """Return Reptile, which learns the initialization only.

    Raises:
        InputError: the inner loss has parameters to learn.
    """
    if isinstance(learner.inner, torch.nn.Module) and next(learner.inner.parameters(), None) is not None:
        raise InputError(
            f"reptile trains only the initialization, and inner loss {config.inner_loss!r} has parameters to learn; "
            "use --meta-optimizer descent"
        )
    return Reptile(step_size=config.lr)


META_OPTIMIZERS: dict[str, Callable[[Config, Learner], MetaOptimizer]] = {
    "descent": _descent,
    "exponentiated": lambda c, learner: _descent(c, learner, rate_optimizer=ExponentiatedGradient),
    "evolution": lambda c, learner: Evolution(
        learner, lr=c.lr, rate_lr=c.rate_lr, perturbation=c.perturbation, pairs=c.pairs
    ),
    "trust-region": lambda c, learner: TrustRegion(max_kl=c.max_kl),
    "reptile": _reptile,
}

Variant = Callable[[Learner], Learner]
ESTIMATORS: dict[str, Variant] = {
    "first-order": lambda learner: _estimating(learner, losses.vpg, FirstOrder(learner.rule)),
    "vpg": lambda learner: _estimating(learner, losses.vpg),
    "lvc": lambda learner: _estimating(learner, losses.lvc),
    "loaded-dice-half": lambda learner: _estimating(learner, losses.LoadedDice(0.5)),
    "loaded-dice": lambda learner: _estimating(learner, losses.LoadedDice(1.0)),
    "credit": lambda learner: _estimating(learner, losses.vpg, credit=losses.PreUpdateCredit()),
}
"""Ways to estimate one learner's meta-gradient: all take the same adaptation step and differentiate it differently."""


def _estimating(
    learner: Learner,
    inner: losses.Loss,
    rule: UpdateRule | None = None,
    credit: losses.PreUpdateCredit | None = None,
) -> Learner:
    chosen = learner.rule if rule is None else rule
    return Learner(
        learner.policy, chosen, inner=inner, outer=learner.outer, credit=credit, every_step=learner.every_step
    )


ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
