"""Contenders made of our own learners: the meta-trained ones, and what could explain their success away.

Each is a function of a configuration: it trains within ``config.env_steps`` and returns what measures the outcome under
a protocol, on held-out tasks, in the layout of `experiments.evaluate.measure`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from envs.wrappers import Revealed, Shuffled
from experiments.build import Setup, Wrap, build, build_benchmark
from experiments.config import Config
from experiments.contenders.budget import Spent
from experiments.evaluate import Protocol, measure, resolved

CPU = torch.device("cpu")
Result = dict[str, Any]
Measure = Callable[[Protocol], Result]
Train = Callable[[Config], Measure]
FRESH = 500_000  # added to a seed: an initialization that no training started from


def meta_trained(config: Config) -> Measure:
    """The learner that the configuration describes."""
    return learner_measured(*trained(config))


def untrained(config: Config) -> Measure:
    """A random initialization, adapted by the rule as it begins: what learning from scratch is worth."""
    return learner_measured(build(config, CPU), Spent())


def rule_alone(config: Config) -> Measure:
    """The learned rule on a fresh initialization: which of the two has learned to adapt?"""
    setup, spent = trained(config)
    fresh = build(config.model_copy(update={"seed": config.seed + FRESH}), CPU)
    setup.learner.policy.load_state_dict(fresh.learner.policy.state_dict())
    return learner_measured(setup, spent)


def fine_tuned(config: Config) -> Measure:
    """Trained on all tasks without adapting, then adapted by plain gradient steps of size ``config.rate``."""
    setup, spent = trained(config.model_copy(update={"rule": "maml", "steps": 0}))
    adapting = build(config, CPU)
    adapting.learner.policy.load_state_dict(setup.learner.policy.state_dict())
    return learner_measured(adapting, spent)


def oracle(config: Config) -> Measure:
    """Told the task's constants, it need not adapt: trained on all tasks and scored as it is."""
    config = config.model_copy(update={"rule": "maml", "steps": 0})
    return learner_measured(*trained(config, Revealed))


def shuffled(config: Config) -> Measure:
    """Meta-trained on tasks that change with every batch, so that there is nothing to adapt to."""
    setup, spent = trained(config, Shuffled)
    return learner_measured(replace(setup, benchmark=build_benchmark(config)), spent)


def trained(config: Config, wrap: Wrap | None = None) -> tuple[Setup, Spent]:
    """A setup whose learner has been trained within the budget."""
    setup, spent = build(config, CPU, wrap), Spent()
    for _, metrics in setup.train():
        spent.add(metrics)
    return setup, spent


def learner_measured(setup: Setup, spent: Spent) -> Measure:
    """`measure`, with what was spent, and the column to be judged by: after the steps it was meant to take."""

    def under(protocol: Protocol) -> Result:
        own = as_trained(protocol, setup.config)
        return measure(setup, own) | spent.report() | {"reported": setup.config.steps}

    return under


def as_trained(protocol: Protocol, config: Config) -> Protocol:
    """`resolved`; one that was not trained to adapt does not adapt, whatever the protocol asks of others."""
    return resolved(protocol if config.steps else replace(protocol, steps=0), config)
