"""Shared by compare, ablate and tune: a training run with its score as a job, and the cells of tables of scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.config import Config
from experiments.contenders import contender
from experiments.errors import InputError
from experiments.evaluate import Protocol, score_matrix
from experiments.jobs import benchmarks_of, key_of
from experiments.publishing import parts, shown
from metarl import NonFiniteError, stats

TUNING_SEED = 1000  # first seed of the runs that choose settings; never one of the reported seeds
COMPARISON, ABLATION, SEARCH = "comparison.json", "ablation.json", "tune.json"
FINETUNING, ESTIMATES = "finetune.json", "estimators.json"
WHAT = {
    COMPARISON: "a comparison",
    ABLATION: "an ablation",
    SEARCH: "a search",
    FINETUNING: "a fine-tuning experiment",
    ESTIMATES: "a comparison of estimators",
}
"""Kind of results that a folder holds, by the name of the file in it."""
HEAD = ("before", "after", "IQM", "made worse", "episodes")
"""Headers of the columns of `cells`, except for the last."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation."""

    label: str
    config: Config
    protocol: Protocol
    told: str = ""
    """name in messages; label and step sizes if empty"""

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        told = self.told or ", ".join([self.label, *sizes(self.config, contender(self.label).tuned)])
        return f"{told}, seed {self.config.seed}, {self.protocol.split}"

    @property
    def key(self) -> str:
        """Identifies the job: a stored result with the same key is reused."""
        plain = self.config.model_dump(mode="json")
        return key_of(self.label, plain, vars(self.protocol), benchmarks_of(self.config))

    def run(self) -> Result:
        """Train within the budget and evaluate.

        If adapting diverges only beyond the trained steps, which `protocol` adds for show, they are left out.
        """
        measure, trained = contender(self.label).train(self.config), self.config.steps
        try:
            return measure(self.protocol)
        except NonFiniteError as error:
            if not 0 < trained < (self.protocol.steps or 0):
                raise
            print(f"note: {self.name}: measuring up to step {trained}, as trained for; beyond it: {error}", flush=True)
            return measure(replace(self.protocol, steps=trained))

    def summary(self, result: Result) -> str:
        """Return the score on held-out tasks as text."""
        return f"{score(result):.4g}"


def jobs_of(config: Config, seeds: Iterable[int], protocol: Protocol, told: str) -> list[Job]:
    """Return one job per seed that trains what the configuration describes."""
    return [Job("as-configured", config.model_copy(update={"seed": seed}), protocol, told) for seed in seeds]


def sizes(config: Config, tuned: bool) -> list[str]:
    """Return the step sizes as texts for messages: ``rate`` only if it is ``tuned``, ``rate_lr`` only if it is set."""
    rate = [f"rate {config.rate:g}"] if tuned else []
    return rate if config.rate_lr is None else [*rate, f"rate_lr {config.rate_lr:g}"]


def protocol(split: str, config: Config, tasks: int) -> Protocol:
    """Return a protocol that adapts for two steps more than in training, to show how adaptation continues.

    A learner trained without adapting takes no steps.
    """
    steps = config.steps + 2 if config.steps else 0
    return Protocol(split=split, tasks=tasks, steps=steps, episodes=config.episodes)


def score(result: Result) -> float:
    """Return the mean held-out return after the contender's reported adaptation step, or -inf if it diverged."""
    return -math.inf if "diverged" in result else float(final([result]).mean())


def final(results: list[Result]) -> NDArray[np.float64]:
    """Return the scores ``[seeds, tasks]`` after the contender's ``reported`` adaptation step."""
    return score_matrix(results)[..., results[0]["reported"]]


def broken(results: list[Result]) -> int:
    """Return how many of the runs diverged."""
    return sum("diverged" in result for result in results)


def cells(results: list[Result], reference: list[Result]) -> list[str]:
    """Return the cells of one contender's row: those of `HEAD`, and the paired difference to the reference."""
    if broken(results):
        return [f"{broken(results)} of {len(results)} seeds diverged", *"–––––"]
    first, scores = score_matrix(results)[..., 0], final(results)
    adapts = results[0]["reported"] > 0
    return [
        f"{first.mean():.2f}",
        shown(scores),
        parts(scores, stats.iqm)[0],
        f"{stats.share_worse(first, scores):.1%}" if adapts else "–",
        f"{final_episodes(results):g}",
        "–" if results is reference else shown(scores - final(reference)),
    ]


def final_episodes(results: list[Result]) -> float:
    """Return the number of episodes of a held-out task on which the contender adapts before its reported score."""
    return float(results[0]["adaptation_episodes"][0][results[0]["reported"]])


def refuse_another(output: Path, file: str, benchmark: str) -> None:
    """Check that writing results does not overwrite others.

    Args:
        output: folder of the results.
        file: their file name, one of `WHAT`.
        benchmark: name of their benchmark.

    Raises:
        InputError: the folder is a run's, or holds results of another kind or on another benchmark.
    """
    if (output / "config.json").exists():
        raise InputError(f"{output} holds a run; choose another --output")
    for other, what in WHAT.items():
        try:
            there = json.loads((output / other).read_text())["config"]["benchmark"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (other, there) != (file, benchmark):
            raise InputError(
                f"{output} holds {what} on {there}, not {WHAT[file]} on {benchmark}; choose another --output"
            )


def refuse_tuning_seeds(first: int, seeds: int, tuning: int = 1) -> None:
    """Check that no seed that chooses settings is reported.

    Args:
        first: first of the seeds to report.
        seeds: number of seeds to report.
        tuning: number of seeds that choose settings, from `TUNING_SEED` on.

    Raises:
        InputError: the two sets of seeds overlap.
    """
    if first < TUNING_SEED + tuning and TUNING_SEED < first + seeds:
        last = TUNING_SEED + tuning - 1
        tunes = f"seed {TUNING_SEED} tunes" if tuning == 1 else f"seeds {TUNING_SEED} to {last} tune"
        raise InputError(f"{tunes} settings and cannot be reported; choose another --seed")
