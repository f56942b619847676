"""Contenders that a comparison can include, by name: learners with every rule, and fair comparators."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.config import Config
from experiments.contenders import learners
from experiments.contenders.learners import Measure, Train
from experiments.errors import InputError
from experiments.names import ALGORITHMS, RULES
from metarl.types import TaskFamily


@dataclass(frozen=True)
class Contender:
    """A participant of a comparison.

    Attributes:
        train: trains within the configuration's budget; returns a function that evaluates the outcome under a
            protocol.
        changes: configuration fields that define this contender.
        unit: step size that corresponds to 1 on the common grid, such as 1e-3 for Adam.
        tuned: whether its result depends on the step size.
        remembers: whether it adapts by remembering episodes; its scores are then by number of episodes played and not
            by gradient steps.
        restarts: whether its rows restart episodes one by one, which families that live outside of torch cannot do.
        own_network: whether it builds its own network, a multi-layer perceptron or a recurrent one, instead of the
            configured policy.
    """

    train: Train = learners.meta_trained
    changes: Mapping[str, Any] = field(default_factory=dict)
    unit: float = 1.0
    tuned: bool = True
    remembers: bool = False
    restarts: bool = False
    own_network: bool = False

    def config(self, base: Config) -> Config:
        """Return the comparison's configuration with this contender's changes."""
        return base.model_copy(update=dict(self.changes))

    def at(self, base: Config, rate: float, rate_lr: float | None = None) -> Config:
        """Return its configuration with step sizes of the common grids; without ``rate_lr`` it keeps its own."""
        own = self.config(base)
        return own.model_copy(update={"rate": rate * self.unit, "rate_lr": own.rate_lr if rate_lr is None else rate_lr})


def _from(module: str, name: str) -> Train:
    """Return a training function that imports its module when called, as stable-baselines3 takes long to import."""

    def train(config: Config) -> Measure:
        found: Train = getattr(importlib.import_module(f"experiments.contenders.{module}"), name)
        return found(config)

    return train


PLAIN = {"rule": "maml"}
OWN: dict[str, Any] = {"unit": 1e-3, "own_network": True}  # trained by Adam
CONTENDERS: dict[str, Contender] = {
    **{rule: Contender(changes={"rule": rule}) for rule in RULES},
    **{name: Contender(changes=changes) for name, changes in ALGORITHMS.items()},
    "as-configured": Contender(),
    "no-adaptation": Contender(changes={**PLAIN, "steps": 0}, tuned=False),
    "from-scratch": Contender(learners.untrained, PLAIN),
    "rule-alone": Contender(learners.rule_alone),
    "fine-tuned": Contender(learners.fine_tuned, PLAIN),
    "shuffled-tasks": Contender(learners.shuffled),
    "oracle": Contender(learners.oracle, PLAIN, tuned=False),
    "lqr": Contender(_from("control", "lqr"), PLAIN, tuned=False),
    "rl2": Contender(_from("memory", "rl2"), PLAIN, remembers=True, restarts=True, **OWN),
    "ppo-from-scratch": Contender(_from("sb3", "ppo_from_scratch"), PLAIN, **OWN),
    "ppo-randomized": Contender(_from("sb3", "ppo_randomized"), {**PLAIN, "steps": 0}, restarts=True, **OWN),
    "ppo-fine-tuned": Contender(_from("sb3", "ppo_fine_tuned"), PLAIN, restarts=True, **OWN),
    "recurrent-ppo": Contender(_from("sb3", "recurrent_ppo"), PLAIN, remembers=True, restarts=True, **OWN),
}


def contender(name: str) -> Contender:
    """Return the contender with a name; ``package.module:NAME`` is a plug-in rule, which sets its own step sizes."""
    return CONTENDERS[name] if name in CONTENDERS else Contender(changes={"rule": name}, tuned=":" not in name)


def refuse_policy(who: str, config: Config) -> None:
    """Check that a contender can use the configured policy.

    Raises:
        InputError: it has its own network and the policy is not the default ``mlp``.
    """
    if contender(who).own_network and config.policy != "mlp":
        raise InputError(
            f"{who} has its own network: expected --policy mlp, got {config.policy}; leave out either {who} or --policy"
        )


def refuse_inner_loss(who: str, config: Config, alike: Collection[str]) -> None:
    """Check that what steps by a plain policy gradient continues a learner that adapts by the same.

    Raises:
        InputError: the inner loss is not one of ``alike``, whose gradients are, or has an action baseline.
    """
    if config.inner_loss not in alike or config.action_baseline:
        told, more = (" with an action baseline", " --no-action-baseline") if config.action_baseline else ("", "")
        raise InputError(
            f"expected an inner loss with the gradient of {who}, {' or '.join(alike)}, got "
            f"{config.inner_loss}{told}; pass --inner-loss lvc{more}"
        )


def refuse_live(who: str, family: TaskFamily) -> None:
    """Check, before hours of training, that a family can restart the episodes of its rows one by one.

    Raises:
        InputError: its episodes live outside of torch, where all rows begin together.
    """
    if getattr(family, "live", False):
        raise InputError(
            f"{who} restarts episodes one by one: expected a family of tensors, got {type(family).__name__}, which "
            f"runs outside torch and restarts all episodes together; choose another benchmark, or leave {who} out"
        )
