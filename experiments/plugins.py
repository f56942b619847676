"""What a user brings by import path: found, made from the run's seed, and looked at before the run begins."""

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
from metarl.losses import Loss
from metarl.policies import Policy
from metarl.rules import UpdateRule
from metarl.rules.base import refuse_misfit
from metarl.testing import check_loss, check_policy, check_rule
from metarl.testing.losses import Sizes
from metarl.types import TaskFamily

Made = TypeVar("Made")

UNUSED = "is learned but no"  # what may be so in the first steps alone, or by design


FIELDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "benchmark": ("benchmark", BENCHMARKS),
    "scored_in": ("benchmark", BENCHMARKS),
    "policy": ("policy", POLICIES),
    "rule": ("rule", RULES),
    "inner_loss": ("inner loss", INNER_LOSSES),
    "outer_loss": ("outer loss", LOSSES),
}
"""Fields of a configuration that may name what is no part of this project: its kind, and ours of that kind."""


def imports(config: Mapping[str, Any]) -> dict[str, str]:
    """By field, what a configuration names that is no part of this project: building it would import that."""
    named = {field: config[field] for field in FIELDS if config.get(field)}
    return {field: name for field, name in named.items() if is_plugin(FIELDS[field][0], name, FIELDS[field][1])}


def imported(config: Mapping[str, Any]) -> list[str]:
    """The same names, each once."""
    return list(dict.fromkeys(imports(config).values()))


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """Of the file of every module that `imports` tells of, by the name given; not of what it imports itself."""
    paths = {name: import_path(FIELDS[field][0], name) for field, name in imports(config).items()}
    return {name: _fingerprint(path.partition(":")[0]) for name, path in paths.items()}


@functools.cache  # a file edited later is not what this process has imported
def _fingerprint(module: str) -> str:
    file = importlib.import_module(module).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Global random numbers from the run's seed, afterwards as before: torch's layers draw their first weights so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, purpose).initial_seed())
        yield


def own_policy(config: Config, family: TaskFamily) -> Policy:
    """A policy that is not ours: what is found at its name, called with the spaces of observations and actions.

    Raises:
        InputError: it cannot be called so, gives no policy, or one that `metarl.testing.check_policy` finds fault with;
            or the scale of its inputs is not its own.
    """
    name = config.policy
    if config.scale_inputs:
        raise InputError(f"policy {name!r} scales its own inputs; pass --no-scale-inputs, or --policy mlp")
    found, spaces = choose_or_import("policy", name, POLICIES), (family.observation_space, family.action_space)
    if not callable(found):
        raise InputError(f"policy {name!r} is of type {type(found).__name__}; expected what makes one from spaces")
    with seeded(config.seed, "policy"):
        _refuse_faults(
            f"policy {name!r}", check_policy(found, *spaces), f"policy {name} --benchmark {config.benchmark}"
        )
    with seeded(config.seed, "policy"):
        policy: Policy = found(*spaces)
    return policy


def own_rule(config: Config, policy: Policy) -> UpdateRule:
    """A rule that is not ours: what is found at its name, called with the parameters it is to step.

    Raises:
        InputError: it cannot be called so, gives no rule, or one that `metarl.testing.check_rule` finds fault with.
    """
    name, params = config.rule, policy.initial()
    found = choose_or_import("rule", name, RULES)
    with seeded(config.seed, "rule"):
        try:
            rule = found(params)
        except Exception as error:  # whatever somebody else's code may raise
            raise InputError(
                f"rule {name!r}, called with the parameters it is to step, raised {type(error).__name__}: {error}; "
                "expected a function or class of them alone, as in examples/own_rule.py"
            ) from error
        if not isinstance(rule, UpdateRule):
            raise InputError(f"rule {name!r} gave a {type(rule).__name__}; expected a metarl.rules.UpdateRule")
        try:
            refuse_misfit(rule, params)
        except ValueError as error:
            raise InputError(f"rule {name!r}: {error}; see examples/own_rule.py") from error
        _refuse_faults(f"rule {name!r}", check_rule(found, params=params), f"rule {name}")
    return rule


def own_loss(kind: str, name: str, family: TaskFamily, *, seed: int) -> Loss:
    """A loss that is not ours: one, or a class that makes one without arguments.

    Raises:
        InputError: neither, or one that `metarl.testing.check_loss` finds fault with on this family's episodes.
    """
    found = choose_or_import(kind, name, LOSSES if kind == "outer loss" else INNER_LOSSES)
    if not callable(found):
        raise InputError(f"{kind} {name!r} is of type {type(found).__name__}; expected a loss, or its class")
    with seeded(seed, "objective"):
        told = check_loss(found, sizes=loss_sizes(family), discrete=isinstance(family.action_space, Discrete))
        _refuse_faults(f"{kind} {name!r}, of a loss or its class", told, f"loss {name}")
    with seeded(seed, "objective"):
        loss: Loss = found() if isinstance(found, type) else copy.deepcopy(found)  # a module may be built with again
    return loss


def loss_sizes(family: TaskFamily) -> Sizes:
    """What losses of this family's episodes read."""
    size, discrete = choices(family)
    sizes = Sizes(observation=family.observation_space.shape[0])
    return sizes._replace(choices=size) if discrete else sizes._replace(action=size)


def _refuse_faults(what: str, told: list[str], asked: str) -> None:
    faults = [line.replace("\n", " ") for line in told if UNUSED not in line]
    if faults:
        raise InputError(f"{what}: {faults[0]}; python experiments/check.py {asked} says what else is wrong")


def made(what: str, make: Callable[..., Made], **given: Any) -> Made:
    """``make(**given)``, somebody's.

    Raises:
        InputError: something that it does not say of wrong values itself.
    """
    try:
        return make(**given)
    except (ValueError, TypeError):
        raise
    except Exception as error:
        raise InputError(f"{what} cannot be made, {type(error).__name__}: {error}") from error
