"""W3: how long does it take until held-out tasks are solved after one adaptation step?

    python -m benchmarks.time_to_result [--seeds 1 2 3] [--limit 600] [--compile] [--output results/...json]

Meta-trains with a preset's configuration like ``experiments/train.py``. At regular intervals it evaluates the mean
return over held-out ``validation`` tasks after one adaptation step, on separate episodes and with the same tasks and
noise every time. The target is reached at the first evaluation that exceeds it. Reported are the seconds of training
until then (compiling included), and the total with evaluations. A run that does not reach the target within the limit
of training seconds is reported as not reached, with its best score.

The document: a ``table`` of runs with ``preset``, ``seed``, ``target``, ``every``, ``limit``, ``tasks``,
``compiled``, ``status``, ``training seconds``, ``total seconds``, ``iterations``, ``environment steps`` and ``scores``,
one per evaluation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import common
from experiments.build import Setup, build
from experiments.cli import preset
from experiments.config import Config
from experiments.errors import InputError, script
from experiments.evaluate import Protocol, measure
from metarl import DivergedError, NonFiniteError

TARGETS = {"navigation-fixed": -12.0, "navigation-fixed-best": -12.0, "cartpole-wide": 475.0}
"""Mean return to exceed, by preset."""


@dataclass(frozen=True)
class Look:
    """How a run is evaluated, and when it stops."""

    target: float
    every: int = 10  # iterations between evaluations
    limit: float = 600.0  # training seconds
    tasks: int = 100  # held-out tasks


class Clock:
    """Counts seconds and steps of a run, and collects its scores."""

    def __init__(self) -> None:
        """Start with nothing spent."""
        self.began = time.perf_counter()
        self.training = self.env_steps = 0.0
        self.iterations = 0
        self.scores: list[float] = []

    def report(self, status: str) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return {
            "status": status,
            "training seconds": self.training,
            "total seconds": time.perf_counter() - self.began,
            "iterations": self.iterations,
            "environment steps": self.env_steps,
            "scores": self.scores,
        }


def score(setup: Setup, look: Look) -> float:
    """Return the mean return over held-out validation tasks after one adaptation step, with sampled actions."""
    result = measure(setup, Protocol(split="validation", tasks=look.tasks, steps=1))
    return statistics.mean(curve[1] for curve in result["sampled"])


def watch(config: Config, look: Look, device: torch.device) -> dict[str, Any]:
    """Train until the target is reached, the limit is used up, or the run diverges."""
    clock = Clock()
    setup = build(config, device)
    run = setup.train()
    while True:
        try:
            for _ in range(look.every):
                if clock.env_steps < config.env_steps:
                    clock.training += common.seconds(lambda: advance(run, clock), device)
            clock.scores.append(score(setup, look))
        except (DivergedError, NonFiniteError) as error:
            return clock.report("diverged") | {"error": str(error)}
        if clock.scores[-1] > look.target:
            return clock.report("reached")
        if clock.training >= look.limit or clock.env_steps >= config.env_steps:
            return clock.report("not reached")


def advance(run: Any, clock: Clock) -> None:
    """Advance the run by one iteration."""
    clock.iterations, metrics = next(run)
    clock.env_steps += metrics["env_steps"]


def row(name: str, seed: int, look: Look, result: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    reached = result["status"] == "reached"
    scores = result["scores"]
    return [
        name,
        f"{look.target:g}",
        str(seed),
        f"{result['training seconds']:.1f}" if reached else result["status"],
        f"{result['total seconds']:.1f}" if reached else f"{result['training seconds']:.1f} s spent",
        str(result["iterations"]),
        f"{result['environment steps']:,.0f}",
        f"{scores[-1]:.2f}" if scores else "-",
        f"{max(scores):.2f}" if scores else "-",
    ]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = common.options(__doc__)
    parser.add_argument("--presets", nargs="+", choices=tuple(TARGETS), default=tuple(TARGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--every", type=int, default=Look.every, help="iterations between two evaluations (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=float, default=Look.limit, help="seconds of training per run (default: %(default)s)"
    )
    parser.add_argument("--tasks", type=int, default=Look.tasks, help="number of held-out tasks (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="train with compiled programs")
    arguments = parser.parse_args(argv)
    if min(arguments.every, arguments.tasks) < 1 or not arguments.limit > 0:
        raise InputError("--every and --tasks must be at least 1, and --limit above 0")
    return arguments


@script
def main(argv: list[str]) -> None:
    arguments = parse(argv)
    device = common.prepare(arguments)
    table, lines = [], []
    for name in arguments.presets:
        look = Look(TARGETS[name], arguments.every, arguments.limit, arguments.tasks)
        for seed in arguments.seeds:
            config = preset(name).model_copy(update={"seed": seed, "compile": arguments.compile})
            result = watch(config, look, device)
            table.append({"preset": name, "seed": seed, **vars(look), "compiled": arguments.compile, **result})
            lines.append(row(name, seed, look, result))
            common.write(arguments.output, device, table=table)  # after every run, so that a later failure loses none
    head = ["", "target", "seed", "training s", "with evaluations s", "iterations", "steps", "last score", "best score"]
    common.show(head, lines, device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
