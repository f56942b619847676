"""What comparing, ablating and tuning share: one training run and its score as a job, and how tables tell scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
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
from metarl import stats

TUNING_SEED = 1000  # the first of the runs that choose settings; never one of the reported seeds
COMPARISON, ABLATION, SEARCH = "comparison.json", "ablation.json", "tune.json"
WHAT = {COMPARISON: "a comparison", ABLATION: "an ablation", SEARCH: "a search"}
"""What a folder of results holds, by the file that tells it"""
HEAD = ("before", "after", "IQM", "made worse", "episodes")
"""Columns of `cells`, but for the last"""

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation."""

    label: str
    config: Config
    protocol: Protocol
    told: str = ""
    """what messages call it by; its label and step sizes unless given"""

    @property
    def name(self) -> str:
        """How messages call it."""
        told = self.told or ", ".join([self.label, *sizes(self.config, contender(self.label).tuned)])
        return f"{told}, seed {self.config.seed}, {self.protocol.split}"

    @property
    def key(self) -> str:
        """Decides whether a finished job on the disk is this one."""
        plain = self.config.model_dump(mode="json")
        return key_of(self.label, plain, vars(self.protocol), benchmarks_of(self.config))

    def run(self) -> Result:
        """Train within the budget and measure."""
        return contender(self.label).train(self.config)(self.protocol)

    def summary(self, result: Result) -> str:
        """The score on held-out tasks."""
        return f"{score(result):.4g}"


def jobs_of(config: Config, seeds: Iterable[int], protocol: Protocol, told: str) -> list[Job]:
    """What the configuration describes, from every seed."""
    return [Job("as-configured", config.model_copy(update={"seed": seed}), protocol, told) for seed in seeds]


def sizes(config: Config, tuned: bool) -> list[str]:
    """The step sizes that are tuned, as messages tell them; a rule that is not tuned has a rate of its own, or none."""
    rate = [f"rate {config.rate:g}"] if tuned else []
    return rate if config.rate_lr is None else [*rate, f"rate_lr {config.rate_lr:g}"]


def protocol(split: str, config: Config, tasks: int) -> Protocol:
    """Adapt at test as often as in training, and two steps more to see where it goes."""
    steps = config.steps + 2 if config.steps else 0
    return Protocol(split=split, tasks=tasks, steps=steps, episodes=config.episodes)


def score(result: Result) -> float:
    """Mean held-out return after what adaptation the contender is judged by; diverged is worse than anything."""
    return -math.inf if "diverged" in result else float(final([result]).mean())


def final(results: list[Result]) -> NDArray[np.float64]:
    """Scores ``[seeds, tasks]`` after what adaptation the contender is judged by."""
    return score_matrix(results)[..., results[0]["reported"]]


def broken(results: list[Result]) -> int:
    """How many of the runs diverged."""
    return sum("diverged" in result for result in results)


def cells(results: list[Result], reference: list[Result]) -> list[str]:
    """Of one contender's line: `HEAD`, and the paired difference to the reference, unless it is that itself."""
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
    """Episodes of a held-out task that the contender has adapted on when it is judged."""
    return float(results[0]["adaptation_episodes"][0][results[0]["reported"]])


def refuse_another(output: Path, file: str, benchmark: str) -> None:
    """Check that results do not take the place of others.

    Args:
        output: their folder.
        file: one of `WHAT`, that tells them.
        benchmark: what they are on.

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
    """Check that what chooses settings is not reported.

    Args:
        first: of the seeds to be reported.
        seeds: how many these are.
        tuning: how many choose settings, from `TUNING_SEED` on.

    Raises:
        InputError: some are both.
    """
    if first < TUNING_SEED + tuning and TUNING_SEED < first + seeds:
        last = TUNING_SEED + tuning - 1
        tunes = f"seed {TUNING_SEED} tunes" if tuning == 1 else f"seeds {TUNING_SEED} to {last} tune"
        raise InputError(f"{tunes} settings and cannot be reported; choose another --seed")
