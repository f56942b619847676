"""Compare update rules under one budget: common tasks, common noise, the same tuning effort, paired intervals.

    python experiments/compare.py cartpole-polarity --rules meta-sgd maml --seeds 5 --output results/NAME

Every rule's step size is first tuned on *validation* tasks over one grid; then every rule is trained from
every seed for the same number of environment steps, and scored on the same *test* tasks with the same
noise. Finished jobs are kept in the output folder: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import figures, runs
from experiments.build import build
from experiments.cli import parse_config
from experiments.config import Config
from experiments.errors import InputError, script
from experiments.evaluate import Protocol, measure, score_matrix
from experiments.jobs import key_of, run_all
from experiments.names import ALGORITHMS, RULES
from metarl import DivergedError, NonFiniteError, stats

KNOWN = tuple(RULES | ALGORITHMS)
FEW = 6  # curves that can be told apart in one picture; more are ranked
TUNING_SEED = 1000  # of the runs that choose a step size; never one of the reported seeds


@dataclass(frozen=True)
class Options:
    """What to compare."""

    output: Path
    """folder of the results; an interrupted comparison is continued there"""
    rules: tuple[str, ...] = ("meta-sgd", "maml")
    """rules by name, no-adaptation, reptile, or all; paired differences are against the last"""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """grid of (first) step sizes, the same for every rule"""
    seeds: int = 5
    """training seeds, counted from the configuration's"""
    held_out: int = 100
    """held-out tasks"""
    workers: int = 2
    """processes, one thread each"""


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation."""

    label: str
    config: Config
    protocol: Protocol

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.label}, rate {self.config.rate:g}, seed {self.config.seed}, {self.protocol.split}"

    @property
    def key(self) -> str:
        """Decides whether a finished job on the disk is this one."""
        return key_of(self.config.model_dump(mode="json"), vars(self.protocol))

    def run(self) -> dict[str, Any]:
        """Train within the budget and evaluate; one that diverges must not end the others."""
        try:
            return train_and_measure(self)
        except (DivergedError, NonFiniteError) as error:
            return {"diverged": str(error)}

    def summary(self, result: dict[str, Any]) -> str:
        """The score on held-out tasks."""
        return str(result.get("diverged") or score(self, result))


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    if options.rules == ("all",):
        options = replace(options, rules=tuple(sorted(KNOWN, key=lambda rule: rule == "maml")))  # the reference last
    unknown = [rule for rule in options.rules if rule not in KNOWN and ":" not in rule]
    if unknown or not options.rules or options.seeds < 1 or not options.rates:
        raise InputError(f"expected rules of {', '.join(KNOWN)}, or all, rates and seeds >= 1; got {options}")
    if config.seed <= TUNING_SEED < config.seed + options.seeds:
        raise InputError(f"seed {TUNING_SEED} tunes the step sizes and cannot be reported; choose another --seed")
    variants = {rule: variant(config, rule) for rule in options.rules}
    for chosen in variants.values():
        build(chosen, torch.device("cpu"))  # refuse what cannot run before hours of work
    options.output.mkdir(parents=True, exist_ok=True)
    tuned = tune(variants, options)
    jobs = [
        Job(rule, tuned[rule].model_copy(update={"seed": config.seed + i}), protocol("test", tuned[rule], options))
        for rule in options.rules
        for i in range(options.seeds)
    ]
    finished = run_all(jobs, options.output / "jobs", options.workers)
    results = {rule: [finished[job.key] for job in jobs if job.label == rule] for rule in options.rules}
    if any("diverged" in result for result in results[options.rules[-1]]):
        raise DivergedError(f"{options.rules[-1]} diverged, and the others are compared with it: name another one last")
    report(config, options, tuned, results)


def variant(config: Config, rule: str) -> Config:
    """The configuration of one contender."""
    return config.model_copy(update=ALGORITHMS.get(rule, {"rule": rule}))


def protocol(split: str, config: Config, options: Options) -> Protocol:
    """Adapt at test as often as in training, and two steps more to see where it goes."""
    return Protocol(split=split, tasks=options.held_out, steps=config.steps + 2 if config.steps else 0)


def tune(variants: dict[str, Config], options: Options) -> dict[str, Config]:
    """Each rule with the step size of the grid that is best on validation tasks after the trained number of steps."""
    jobs = [
        Job(
            rule, config.model_copy(update={"rate": rate, "seed": TUNING_SEED}), protocol("validation", config, options)
        )
        for rule, config in variants.items()
        for rate in (options.rates if config.steps else options.rates[:1])
    ]
    finished = run_all(jobs, options.output / "jobs", options.workers)
    chosen, trials = {}, []
    for rule, config in variants.items():
        scores = {job.config.rate: score(job, finished[job.key]) for job in jobs if job.label == rule}
        best = max(scores, key=lambda rate: scores[rate])
        chosen[rule] = config.model_copy(update={"rate": best})
        told = {rate: value if math.isfinite(value) else "diverged" for rate, value in scores.items()}
        trials.append({"rule": rule, "validation return by rate": told, "chosen": best})
    runs.write_json(options.output / "tuning.json", trials)
    return chosen


def score(job: Job, result: dict[str, Any]) -> float:
    """Mean held-out return after the trained number of steps; a diverged run is worse than any other."""
    return -math.inf if "diverged" in result else float(np.mean([row[job.config.steps] for row in result["sampled"]]))


def train_and_measure(job: Job) -> dict[str, Any]:
    """The evaluation of a learner trained within the job's budget."""
    runs.prepare_machine(threads=1)
    device, started = torch.device("cpu"), time.perf_counter()
    setup, spent, iterations = build(job.config, device), 0, 0
    for iteration, metrics in setup.train():
        spent, iterations = spent + int(metrics["env_steps"]), iteration
        if spent >= job.config.env_steps:
            break
    seconds = time.perf_counter() - started
    result = measure(job.config, setup, job.protocol, device)
    return result | {"seconds": round(seconds, 1), "iterations": iterations, "training_env_steps": spent}


def report(
    config: Config, options: Options, tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]
) -> None:
    """Write and print the table, the paired differences and the figure."""
    reference = options.rules[-1]
    after = f"after {config.steps} step" + "s" * (config.steps > 1)
    lines = [
        f"| rule | rate | step 0 | {after} | IQM | made worse | − {reference} (paired) |",
        "|---|" + "---:|" * 6,
    ]
    lines += [row(rule, reference, tuned, results) for rule in results]
    text = "\n".join(lines)
    print("\n" + text)
    (options.output / "table.md").write_text(text + "\n")
    runs.write_json(
        options.output / "comparison.json",
        {
            "config": config.model_dump(mode="json"),
            "rates": {rule: c.rate for rule, c in tuned.items()},
            "system": runs.system(torch.device("cpu")),
            "command": shlex.join(["python", *sys.argv]),
            "results": results,
        },
        indent=None,
    )
    whole = {rule: found for rule, found in results.items() if not broken(found)}
    steps = {rule: tuned[rule].steps for rule in whole}
    if len(whole) <= FEW:
        figures.comparison(options.output / "comparison", whole)
    else:
        figures.ranking(options.output / "ranking", whole, steps, reference=reference)
    figures.step_lengths(options.output / "step-lengths", whole)


def broken(results: list[dict[str, Any]]) -> int:
    """How many of the runs diverged."""
    return sum("diverged" in result for result in results)


def row(rule: str, reference: str, tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]) -> str:
    """One line of the table, in Markdown: after the trained number of steps."""
    config, after = tuned[rule], tuned[rule].steps
    if broken(results[rule]):
        what = f"{broken(results[rule])} of {len(results[rule])} seeds diverged"
        return f"| {rule} | {config.rate:g} | {what} |" + " – |" * 4
    scores, against = score_matrix(results[rule]), score_matrix(results[reference])
    mean = stats.interval(scores[..., after], stats.mean, seed=0)
    middle = stats.interval(scores[..., after], stats.iqm, seed=0)
    cells = [
        rule,
        f"{config.rate:g}" if config.steps else "–",
        f"{scores[..., 0].mean():.2f}",
        f"{mean.estimate:.2f} [{mean.low:.2f}, {mean.high:.2f}]" if config.steps else "–",
        f"{middle.estimate:.2f}",
        f"{stats.share_worse(scores[..., 0], scores[..., after]):.1%}" if config.steps else "–",
    ]
    if rule == reference:
        return "| " + " | ".join([*cells, "–"]) + " |"
    difference = stats.paired_interval(scores[..., after], against[..., tuned[reference].steps], stats.mean, seed=0)
    return (
        "| " + " | ".join([*cells, f"{difference.estimate:.2f} [{difference.low:.2f}, {difference.high:.2f}]"]) + " |"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
