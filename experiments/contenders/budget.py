"""What a contender has spent, and the refusal to compare those that have not spent alike."""

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
    """Counts environment steps and time of training; made when the training begins."""

    env_steps: int = 0
    iterations: int = 0
    last: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, metrics: Mapping[str, float]) -> None:
        """An iteration more, by its metrics."""
        self.last = int(metrics["env_steps"])
        self.env_steps += self.last
        self.iterations += 1
        self.seconds = time.perf_counter() - self.started

    def report(self) -> dict[str, Any]:
        """For the result."""
        return {
            "seconds": round(self.seconds, 1),
            "iterations": self.iterations,
            "training_env_steps": self.env_steps,
            "last_iteration_env_steps": self.last,
        }


def refuse_unequal(results: Mapping[str, Sequence[Mapping[str, Any]]], budget: int, episodes: int) -> None:
    """Look at what was done, not at what was asked for.

    A contender is stopped by the iteration that reaches the budget, so that its training must have been within the
    budget before that iteration. One that was not trained at all is said to be so and has spent nothing.

    Args:
        results: by contender, those of its seeds; runs that diverged are left out.
        budget: environment steps of training.
        episodes: of a held-out task, that may be adapted on.

    Raises:
        InputError: other tasks or scoring than the first one's, or another amount of training, or more adaptation.
    """
    runs = [(name, run) for name, found in results.items() for run in found if "diverged" not in run]
    for name, run in runs:
        first_name, first = runs[0]
        if any(run[key] != first[key] for key in MEASURED) or any(
            run["protocol"][key] != first["protocol"][key] for key in SCORED
        ):
            raise InputError(
                f"{name} and {first_name} were measured on other tasks or scored otherwise: not comparable"
            )
        spent, last = run["training_env_steps"], run["last_iteration_env_steps"]
        if spent and not spent - last < budget <= spent:
            raise InputError(
                f"{name}: expected training for {budget:,} environment steps, got {spent:,}: not comparable"
            )
        used = max(row[run["reported"]] for row in run["adaptation_episodes"])
        if used > episodes:
            raise InputError(
                f"{name}: expected {episodes} episodes of adaptation at most, got {used:g}: not comparable"
            )
