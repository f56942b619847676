"""Count what contenders spend, and refuse to compare contenders that have not spent the same."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.errors import InputError

MEASURED = ("fingerprint", "split", "task")
SCORED = ("split", "tasks", "score_episodes", "seed", "constants")


@dataclass
class Spent:
    """Counts environment steps and time of training; create it when training begins."""

    env_steps: int = 0
    iterations: int = 0
    last: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add an iteration, given its metrics."""
        self.last = int(metrics["env_steps"])
        self.env_steps += self.last
        self.iterations += 1
        self.seconds = time.perf_counter() - self.started

    def report(self) -> dict[str, Any]:
        """Return the counts as entries of the result."""
        return {
            "seconds": round(self.seconds, 1),
            "iterations": self.iterations,
            "training_env_steps": self.env_steps,
            "last_iteration_env_steps": self.last,
        }


def refuse_unequal(results: Mapping[str, Sequence[Mapping[str, Any]]], budget: int, episodes: int) -> None:
    """Check from the results, not from what was requested, that contenders trained and were scored alike.

    Training ends with the iteration that reaches the budget, so that the steps before that iteration must be within
    the budget. A contender that needs no training has spent nothing, which is allowed.

    Args:
        results: results of every contender's seeds; runs that diverged are skipped.
        budget: environment steps of training.
        episodes: most episodes of a held-out task that may be used to adapt.

    Raises:
        InputError: a run differs from the first in its tasks or scoring, has another amount of training, or adapts on
            too many episodes.
    """
    runs = [(name, run) for name, found in results.items() for run in found if "diverged" not in run]
    for name, run in runs:
        first_name, first = runs[0]
        if any(run[key] != first[key] for key in MEASURED) or any(
            run["protocol"][key] != first["protocol"][key] for key in SCORED
        ):
            raise InputError(
                f"{name} and {first_name} were evaluated on different tasks or scored differently: not comparable"
            )
        spent, last = run["training_env_steps"], run["last_iteration_env_steps"]
        if spent and not spent - last < budget <= spent:
            raise InputError(
                f"{name}: expected training for {budget:,} environment steps, got {spent:,}: not comparable"
            )
        used = max(row[run["reported"]] for row in run["adaptation_episodes"])
        if used > episodes:
            raise InputError(
                f"{name}: expected at most {episodes} episodes of adaptation, got {used:g}: not comparable"
            )
