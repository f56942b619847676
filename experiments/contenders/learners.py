"""Contenders built from metarl's learners: meta-trained ones, and controls that could explain their success away.

Each is a function of a configuration. It trains within ``config.env_steps`` and returns a function that evaluates the
outcome on held-out tasks under a protocol, with results in the layout of `experiments.evaluate.measure`.
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
FRESH = 500_000  # added to a seed to get an initialization that no training started from


def meta_trained(config: Config) -> Measure:
    """Meta-train the learner that the configuration describes."""
    return learner_measured(*trained(config))


def untrained(config: Config) -> Measure:
    """Adapt a random initialization with the untrained rule, which shows what learning from scratch achieves."""
    return learner_measured(build(config, CPU), Spent())


def rule_alone(config: Config) -> Measure:
    """Combine the meta-trained rule with a fresh initialization, which shows which of the two has learned to adapt."""
    setup, spent = trained(config)
    fresh = build(config.model_copy(update={"seed": config.seed + FRESH}), CPU)
    setup.learner.policy.load_state_dict(fresh.learner.policy.state_dict())
    return learner_measured(setup, spent)


def fine_tuned(config: Config) -> Measure:
    """Train on all tasks without adapting, then adapt by plain gradient steps of size ``config.rate``."""
    setup, spent = trained(config.model_copy(update={"rule": "maml", "steps": 0}))
    adapting = build(config, CPU)
    adapting.learner.policy.load_state_dict(setup.learner.policy.state_dict())
    return learner_measured(adapting, spent)


def oracle(config: Config) -> Measure:
    """Train, without adapting, a policy that observes the task's constants and so need not adapt."""
    config = config.model_copy(update={"rule": "maml", "steps": 0})
    return learner_measured(*trained(config, Revealed))


def shuffled(config: Config) -> Measure:
    """Meta-train on tasks that change with every batch, so that there is nothing to adapt to."""
    setup, spent = trained(config, Shuffled)
    return learner_measured(replace(setup, benchmark=build_benchmark(config)), spent)


def trained(config: Config, wrap: Wrap | None = None) -> tuple[Setup, Spent]:
    """Build a setup and train its learner within the budget; return it with what was spent."""
    setup, spent = build(config, CPU, wrap), Spent()
    for _, metrics in setup.train():
        spent.add(metrics)
    return setup, spent


def learner_measured(setup: Setup, spent: Spent) -> Measure:
    """Return `measure` for a setup, with what was spent added, and ``reported``: the number of training's steps."""

    def under(protocol: Protocol) -> Result:
        own = as_trained(protocol, setup.config)
        return measure(setup, own) | spent.report() | {"reported": setup.config.steps}

    return under


def as_trained(protocol: Protocol, config: Config) -> Protocol:
    """Return the `resolved` protocol, without adaptation steps if the configuration trains without adapting."""
    return resolved(protocol if config.steps else replace(protocol, steps=0), config)
