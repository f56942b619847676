"""Plug-ins: objects that users name by import path, made with the run's seed and checked before the run begins."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from gymnasium.spaces import Discrete

from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose_or_import, import_path, is_plugin
from experiments.names import BENCHMARKS, INNER_LOSSES, LOSSES, POLICIES, RULES, choices
from experiments.streams import stream
from metarl import checks
from metarl.losses import Loss
from metarl.policies import Policy
from metarl.rules import UpdateRule
from metarl.rules.base import refuse_misfit
from metarl.testing import check_loss, check_policy, check_rule
from metarl.testing.losses import Sizes
from metarl.testing.parameters import is_fault
from metarl.types import TaskFamily

Made = TypeVar("Made")


FIELDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "benchmark": ("benchmark", BENCHMARKS),
    "scored_in": ("benchmark", BENCHMARKS),
    "policy": ("policy", POLICIES),
    "rule": ("rule", RULES),
    "inner_loss": ("inner loss", INNER_LOSSES),
    "outer_loss": ("outer loss", LOSSES),
}
"""Configuration fields that may name a plug-in, each with its kind and the table of this project's own names."""


def imports(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the plug-ins that building a configuration would import, by field."""
    named = {field: config[field] for field in FIELDS if config.get(field)}
    return {field: name for field, name in named.items() if is_plugin(FIELDS[field][0], name, FIELDS[field][1])}


def imported(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the plug-ins that building a configuration would import, each once."""
    return list(dict.fromkeys(imports(config).values()))


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a hash of the module file of every plug-in of a configuration, by the plug-in's name.

    Modules that a plug-in imports in turn are not covered.
    """
    paths = {name: import_path(FIELDS[field][0], name) for field, name in imports(config).items()}
    return {name: _fingerprint(path.partition(":")[0]) for name, path in paths.items()}


@functools.cache  # if the file is edited later, this process still has the old module imported
def _fingerprint(module: str) -> str:
    file = importlib.import_module(module).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Seed torch's global generator from the run's seed, and restore it at the end.

    Modules of torch draw their initial weights from that generator.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, purpose).initial_seed())
        yield


def own_policy(config: Config, family: TaskFamily) -> Policy:
    """Return a policy from a plug-in, which is called with the observation space and the action space.

    Raises:
        InputError: it cannot be called that way, or does not return a policy, or `metarl.testing.check_policy` finds a
            fault; or the configuration has ``scale_inputs``, which a plug-in does itself.
    """
    name = config.policy
    if config.scale_inputs:
        raise InputError(f"policy {name!r} scales its own inputs; pass --no-scale-inputs, or --policy mlp")
    found, spaces = choose_or_import("policy", name, POLICIES), (family.observation_space, family.action_space)
    if not callable(found):
        raise InputError(
            f"policy {name!r} is of type {type(found).__name__}; expected a function or class that takes the "
            "observation space and the action space"
        )
    with seeded(config.seed, "policy"):
        _refuse_faults(
            f"policy {name!r}", check_policy(found, *spaces), f"policy {name} --benchmark {config.benchmark}"
        )
    with seeded(config.seed, "policy"):
        policy: Policy = found(*spaces)
    return policy


def own_rule(config: Config, policy: Policy) -> UpdateRule:
    """Return an update rule from a plug-in, which is called with the parameters that it will update.

    Raises:
        InputError: it cannot be called that way, or does not return a rule, or `metarl.testing.check_rule` finds a
            fault.
    """
    name, params = config.rule, policy.initial()
    found = choose_or_import("rule", name, RULES)
    with seeded(config.seed, "rule"):
        try:
            rule = found(params)
        except Exception as error:  # third-party code may raise anything
            raise InputError(
                f"rule {name!r}, called with the policy's parameters, raised {checks.raised(error)}; "
                "expected a function or class that needs nothing else, as in examples/own_rule.py"
            ) from error
        if not isinstance(rule, UpdateRule):
            raise InputError(f"rule {name!r} returned a {type(rule).__name__}; expected a metarl.rules.UpdateRule")
        try:
            refuse_misfit(rule, params)
        except ValueError as error:
            raise InputError(f"rule {name!r}: {error}; see examples/own_rule.py") from error
        _refuse_faults(f"rule {name!r}", check_rule(found, params=params), f"rule {name}")
    return rule


def own_loss(kind: str, name: str, family: TaskFamily, *, seed: int) -> Loss:
    """Return a loss from a plug-in, which is a loss or a class that makes one without arguments.

    Raises:
        InputError: it is neither, or `metarl.testing.check_loss` finds a fault with episodes of this family's sizes.
    """
    found = choose_or_import(kind, name, LOSSES if kind == "outer loss" else INNER_LOSSES)
    if not callable(found):
        raise InputError(f"{kind} {name!r} is of type {type(found).__name__}; expected a loss, or its class")
    with seeded(seed, "objective"):
        told = check_loss(found, sizes=loss_sizes(family), discrete=isinstance(family.action_space, Discrete))
        _refuse_faults(f"{kind} {name!r} (expected a loss or its class)", told, f"loss {name}")
    with seeded(seed, "objective"):
        loss: Loss = found() if isinstance(found, type) else copy.deepcopy(found)  # runs must not share a module
    return loss


def loss_sizes(family: TaskFamily) -> Sizes:
    """Return the sizes of observations and actions of a family's episodes, for checks of losses."""
    size, discrete = choices(family)
    sizes = Sizes(observation=family.observation_space.shape[0])
    return sizes._replace(choices=size) if discrete else sizes._replace(action=size)


def _refuse_faults(what: str, told: list[str], asked: str) -> None:
    faults = [line.replace("\n", " ") for line in told if is_fault(line)]
    if faults:
        raise InputError(f"{what}: {faults[0]}; python experiments/check.py {asked} says what else is wrong")


def made(what: str, make: Callable[..., Made], **given: Any) -> Made:
    """Return ``make(**given)``, a call of third-party code; its ValueError and TypeError pass through.

    Raises:
        InputError: the call raised anything else; the message begins with ``what``.
    """
    try:
        return make(**given)
    except (ValueError, TypeError):
        raise
    except Exception as error:
        raise InputError(f"{what} cannot be made, {checks.raised(error)}") from error
