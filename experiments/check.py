"""Explain in plain words what is wrong with your own family of environments, policy, update rule or loss.

    python experiments/check.py family NAME [--horizon 100]    (a benchmark or family, or what makes one)
    python experiments/check.py policy NAME [--benchmark cartpole-polarity]    (for its observations and actions)
    python experiments/check.py rule NAME
    python experiments/check.py loss NAME [--benchmark cartpole-polarity]

NAME is that of a part of metarl or of an installed package, or package.module:NAME. Exit code 0 if nothing was found, 1
with findings, 2 if there is nothing to check.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from gymnasium.spaces import Discrete
from torch import nn

from experiments.build import build_benchmark, build_policy, find_benchmark
from experiments.cli import parse
from experiments.config import Config
from experiments.errors import InputError, script
from experiments.lookup import choose, choose_or_import
from experiments.names import INNER_LOSSES, POLICIES, RULES
from experiments.plugins import loss_sizes, seeded
from metarl.testing import check_family, check_loss, check_policy, check_rule

FOUND = 1


@dataclass(frozen=True)
class Options:
    """What to check."""

    kind: Annotated[str, tyro.conf.Positional] = ""
    """family, policy, rule or loss"""
    name: Annotated[str, tyro.conf.Positional] = ""
    """name, or package.module:NAME"""
    horizon: int | None = None
    """for a family: time limit in steps; defaults to its own"""
    benchmark: str | None = None
    """for a policy or a loss: benchmark with its observations and actions; navigation-fixed if omitted for a policy"""


def main(argv: list[str]) -> int:
    found: list[str] = []
    return script(lambda given: found.extend(check(given)))(argv) or (FOUND if found else 0)


def check(argv: list[str]) -> list[str]:
    """Check what the command line names; print and return the findings, one line each."""
    options = parse(Options, argv, __doc__)
    if not options.kind:
        raise InputError(f"expected what to check, {', '.join(KINDS)}, and its name; see --help")
    look: Callable[[Options], list[str]] = choose("kind", options.kind, KINDS)
    if not options.name:
        raise InputError(f"expected a {options.kind} to check, by name or package.module:NAME; see --help")
    for flag, kinds in (("horizon", ("family",)), ("benchmark", ("policy", "loss"))):
        if getattr(options, flag) is not None and options.kind not in kinds:
            raise InputError(f"--{flag} is for a {' or a '.join(kinds)}; leave it out")
    found = look(options)
    for line in found:
        print(f"- {line}")
    print(f"{options.name}: " + (f"{len(found)} finding(s)" if found else "nothing found"))
    return found


def look_at_family(options: Options) -> list[str]:
    try:
        made = find_benchmark(options.name, options.horizon)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    family = getattr(made, "family", made)
    if not hasattr(family, "step"):
        raise InputError(f"{options.name!r} is of type {type(made).__name__}; expected a benchmark or a family")
    return check_family(family)


def look_at_policy(options: Options) -> list[str]:
    config = Config(benchmark=options.benchmark or Config().benchmark)
    benchmark = build_benchmark(config)
    found = choose_or_import("policy", options.name, POLICIES)
    make = (lambda *_: build_policy(config, benchmark)) if options.name in POLICIES else found
    spaces = benchmark.family.observation_space, benchmark.family.action_space
    with seeded(config.seed, "policy"):
        return check_policy(_callable(options, make), *spaces)


def look_at_rule(options: Options) -> list[str]:
    found = choose_or_import("rule", options.name, RULES)
    make = (lambda params: found(Config(), params)) if options.name in RULES else found
    return check_rule(_callable(options, make))


def look_at_loss(options: Options) -> list[str]:
    config = Config(benchmark=options.benchmark or Config().benchmark)
    family = build_benchmark(config).family
    found = choose_or_import("inner loss", options.name, INNER_LOSSES)
    if options.name in INNER_LOSSES:  # learned ones need the benchmark's observations and actions
        found = found(config, family)
    elif options.benchmark is None:
        return check_loss(_callable(options, found))
    discrete = isinstance(family.action_space, Discrete)
    return check_loss(_callable(options, found), sizes=loss_sizes(family), discrete=discrete)


def _callable(options: Options, found: Any) -> Any:
    # torch's modules can be called, but only losses are used as objects: rules and policies are made for each run
    if not callable(found) or (options.kind != "loss" and isinstance(found, nn.Module)):
        raise InputError(f"{options.name!r} is of type {type(found).__name__}; expected {EXPECTED[options.kind]}")
    return found


EXPECTED = {
    "policy": "a function or class that makes a policy from the observation space and the action space",
    "rule": "a function or class that makes a rule from the policy's parameters",
    "loss": "a loss, or its class",
}


KINDS: dict[str, Callable[[Options], list[str]]] = {
    "family": look_at_family,
    "policy": look_at_policy,
    "rule": look_at_rule,
    "loss": look_at_loss,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
