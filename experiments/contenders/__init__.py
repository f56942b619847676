"""Everybody who can take part in a comparison, by name: learners of every rule, and honest comparators."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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
    """How somebody takes part.

    Attributes:
        train: within the configuration's budget; returns what measures the outcome under a protocol.
        changes: fields of the configuration that make this contender.
        unit: what a step size of 1 on the common grid means to it: 1e-3 for Adam's.
        tuned: whether its result depends on the step size.
        remembers: whether it adapts by playing: its scores are by episodes played, and not by gradient steps.
        own_network: whether it has a network of its own, a multi-layer perceptron or one that remembers.
        restarts: whether it begins episodes again one by one, which families that live outside of torch cannot.
    """

    train: Train = learners.meta_trained
    changes: Mapping[str, Any] = field(default_factory=dict)
    unit: float = 1.0
    tuned: bool = True
    remembers: bool = False
    restarts: bool = False
    own_network: bool = False

    def config(self, base: Config) -> Config:
        """The comparison's configuration as it is for this contender."""
        return base.model_copy(update=dict(self.changes))

    def at(self, base: Config, rate: float, rate_lr: float | None = None) -> Config:
        """The same with step sizes of the common grids: its own ``rate_lr`` unless one is given."""
        own = self.config(base)
        return own.model_copy(update={"rate": rate * self.unit, "rate_lr": own.rate_lr if rate_lr is None else rate_lr})


def _from(module: str, name: str) -> Train:
    """A contender whose module is imported when it is asked for: not everybody waits for stable-baselines3."""

    def train(config: Config) -> Measure:
        found: Train = getattr(importlib.import_module(f"experiments.contenders.{module}"), name)
        return found(config)

    return train


PLAIN = {"rule": "maml"}
OWN: dict[str, Any] = {"unit": 1e-3, "own_network": True}  # as Adam's step sizes are
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
    """By name; a path ``package.module:NAME`` is a rule of the user's, with step sizes of its own."""
    return CONTENDERS[name] if name in CONTENDERS else Contender(changes={"rule": name}, tuned=":" not in name)


def refuse_policy(who: str, config: Config) -> None:
    """Look whether a contender can have the policy that is asked for.

    Raises:
        InputError: it has a network of its own.
    """
    if contender(who).own_network and config.policy != "mlp":
        raise InputError(f"{who} has a network of its own: expected --policy mlp, got {config.policy}; leave one out")


def refuse_live(who: str, family: TaskFamily) -> None:
    """Look whether rows can begin episodes again one by one, before hours of training.

    Raises:
        InputError: episodes that live outside of torch, whose rows all begin together.
    """
    if getattr(family, "live", False):
        raise InputError(
            f"{who} begins episodes again one by one: expected a family of tensors, got {type(family).__name__}, which "
            "plays outside of torch and begins them together; choose another benchmark, or do without"
        )
