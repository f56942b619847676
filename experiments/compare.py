"""Compare update rules under one budget: common tasks, common noise, equal tuning effort, paired intervals.

    python experiments/compare.py cartpole-polarity --rules meta-sgd maml --seeds 5 --output results/NAME

First, every rule's step size is tuned on *validation* tasks over one grid; ``--rate-lrs`` also tunes the meta step size
of what the rule learns. Your own rules set their own step sizes, as they are called with the parameters alone. Then
every rule is trained from every seed for the same number of environment steps, and scored on the same *test* tasks with
the same noise. Finished jobs are kept in the output folder; the same command resumes an interrupted comparison.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import figures, runs
from experiments.build import build
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.contenders import CONTENDERS, contender, refuse_live, refuse_policy
from experiments.contenders.budget import refuse_unequal
from experiments.errors import InputError, refuse_below_one, script
from experiments.evaluate import equally_long
from experiments.jobs import run_all
from experiments.lookup import choose
from experiments.names import ALGORITHMS, RULES
from experiments.publishing import markdown, publish
from experiments.scoring import (
    COMPARISON,
    HEAD,
    TUNING_SEED,
    Job,
    broken,
    cells,
    protocol,
    refuse_another,
    refuse_tuning_seeds,
    score,
)
from metarl import DivergedError
from metarl.optimizers.base import groups

COMPARATORS = (
    "no-adaptation",
    "from-scratch",
    "fine-tuned",
    "rule-alone",
    "shuffled-tasks",
    "oracle",
    "rl2",
    "ppo-from-scratch",
    "ppo-randomized",
    "ppo-fine-tuned",
    "recurrent-ppo",
)
GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(sorted({**RULES, **ALGORITHMS}, key=lambda rule: rule == "maml")),  # the reference last
    "comparators": COMPARATORS,
}


@dataclass(frozen=True)
class Options:
    """What to compare."""

    output: Path
    """folder for the results; an interrupted comparison is resumed there"""
    rules: tuple[str, ...] = ("meta-sgd", "maml")
    """rules and control baselines by name, or the groups all and comparators; the last is the reference"""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """grid of (initial) step sizes, the same for every rule; replaces --rate"""
    rate_lrs: tuple[float, ...] = ()
    """grid of meta step sizes of what a rule learns, such as rates; defaults to each rule's own"""
    seeds: int = 5
    """number of training seeds, counted from --seed"""
    held_out: int = 100
    """number of held-out tasks"""
    workers: int = 2
    """number of processes, with one thread each"""


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    names = expand(options.rules)
    if not names or not options.rates:
        raise InputError(f"expected at least one of --{'rates' if names else 'rules'}, got none")
    refuse_below_one(seeds=options.seeds, held_out=options.held_out, workers=options.workers)
    if not all(0.0 < size < math.inf for size in (*options.rates, *options.rate_lrs)):
        raise InputError(f"expected positive rates and rate_lrs, got {options.rates} and {options.rate_lrs}")
    if "rate" in given(argv):
        raise InputError("--rate: step sizes are tuned; give a grid of them, such as --rates 0.1 0.3")
    if "rule" in given(argv) and all("rule" in contender(name).changes for name in names):
        raise InputError("--rule has no effect, since every contender here sets its own rule; name rules with --rules")
    refuse_another(options.output, COMPARISON, config.benchmark)
    refuse_tuning_seeds(config.seed, options.seeds)
    read: set[str] = set()
    for name in names:
        # refuse what cannot run before hours of work
        setup = build(contender(name).config(config), torch.device("cpu"))
        read |= setup.read
        refuse_policy(name, config)
        if contender(name).restarts:
            refuse_live(name, setup.benchmark.family)
    refuse_unread(given(argv), read)
    options.output.mkdir(parents=True, exist_ok=True)
    tuned = tune(config, names, options)
    jobs = [
        Job(name, tuned[name].model_copy(update={"seed": config.seed + i}), protocol("test", config, options.held_out))
        for name in names
        for i in range(options.seeds)
    ]
    finished = run_all(jobs, options.output / "jobs", options.workers)
    results = {name: equally_long([finished[job.key] for job in jobs if job.label == name]) for name in names}
    refuse_unequal(results, budget=config.env_steps, episodes=config.steps * config.episodes)
    if broken(results[names[-1]]):
        raise DivergedError(
            f"{names[-1]} diverged, and the others are compared with it, as it is named last; name another one last"
        )
    report(config, options, tuned, results)


def expand(names: Sequence[str]) -> list[str]:
    """Return the names with groups replaced by their members, each name once.

    Raises:
        InputError: a name is unknown.
    """
    found = list(dict.fromkeys(one for name in names for one in GROUPS.get(name, (name,))))
    for name in found:
        if ":" not in name:
            choose("rule or contender", name, {**GROUPS, **CONTENDERS})
    return found


def tune(config: Config, names: Sequence[str], options: Options) -> dict[str, Config]:
    """Return each contender's configuration with the step sizes of the grids that are best on validation tasks."""
    base, chosen, told = config.model_copy(update={"seed": TUNING_SEED}), {}, []
    validation = protocol("validation", config, options.held_out)
    jobs = {name: [Job(name, trial, validation) for trial in trials(name, base, options)] for name in names}
    finished = run_all([job for own in jobs.values() for job in own], options.output / "jobs", options.workers)
    for name, own in jobs.items():
        best = max(own, key=lambda job: score(finished[job.key])).config
        chosen[name] = best.model_copy(update={"seed": config.seed})
        for rate_lr in dict.fromkeys(job.config.rate_lr for job in own):
            scores = {job.config.rate: score(finished[job.key]) for job in own if job.config.rate_lr == rate_lr}
            found = {rate: value if math.isfinite(value) else "diverged" for rate, value in scores.items()}
            tried = {"rule": name, "validation return by rate": found, "chosen": None}
            if rate_lr == best.rate_lr:
                tried["chosen"] = best.rate
            told.append(tried | ({"rate_lr": rate_lr} if options.rate_lrs else {}))
    runs.write_json(options.output / "tuning.json", told)
    for line in ends({name: [job.config for job in own] for name, own in jobs.items()}, chosen):
        print(line)
    return chosen


def ends(tried: Mapping[str, Sequence[Config]], chosen: Mapping[str, Config]) -> list[str]:
    """Return notes on chosen step sizes that lie at an end of what was tried."""
    notes = []
    for name, configs in tried.items():
        for field in ("rate", "rate_lr"):
            sizes, best = sorted({getattr(config, field) or 0.0 for config in configs}), getattr(chosen[name], field)
            if len(sizes) > 1 and best in (sizes[0], sizes[-1]):
                which = "smallest" if best == sizes[0] else "largest"
                notes.append(f"note: the {field} of {name}, {best:g}, is the {which} tried; extend the grid")
    return notes


def trials(name: str, base: Config, options: Options) -> list[Config]:
    """Return the configurations to try for a contender: the product of the grids of rates and meta step sizes.

    A contender that learns only its initialization has no ``rate_lr`` to tune. It gets equally many trials, on a finer
    grid of rates between the same ends.
    """
    who = contender(name)
    rates = options.rates if who.tuned else options.rates[:1]
    if len(groups(build(who.config(base), torch.device("cpu")).learner, base.lr, None)) > 1:
        return [who.at(base, *pair) for pair in itertools.product(rates, options.rate_lrs or (None,))]
    if who.tuned and options.rate_lrs:
        finer = np.geomspace(min(rates), max(rates), len(rates) * len(options.rate_lrs))
        rates = tuple(float(f"{rate:.2g}") for rate in finer)
    return [who.at(base, rate).model_copy(update={"rate_lr": None}) for rate in rates]


def report(
    config: Config, options: Options, tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]
) -> None:
    """Write and print the table, the paired differences and the figure."""
    reference = list(results)[-1]
    about = {
        "config": config.model_dump(mode="json"),
        "rates": {name: chosen.rate for name, chosen in tuned.items()},
        "rate_lrs": {name: chosen.rate_lr for name, chosen in tuned.items()},
        "results": results,
    }
    publish(options.output, COMPARISON, "\n".join(table(tuned, results)), about)
    whole = {name: found for name, found in results.items() if not broken(found)}
    if any(contender(name).remembers for name in whole):  # its columns count episodes, others' count steps
        figures.ranking(options.output / "ranking", whole, reference=reference)
    else:
        figures.side_by_side(options.output, whole, reference=reference)
    figures.step_lengths(options.output / "step-lengths", whole)


def table(tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of the table in Markdown; the last contender is the reference."""
    reference = list(results)[-1]
    head = ("contender", "rate", "rate_lr", *HEAD, f"− {reference} (paired)")
    return markdown(head, [row(name, reference, tuned, results) for name in results])


def row(name: str, reference: str, tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return a contender's row: its step sizes, and its scores before adapting and after its reported step."""
    chosen = tuned[name]
    rate = f"{chosen.rate:g}" if contender(name).tuned else "–"
    rate_lr = "–" if chosen.rate_lr is None else f"{chosen.rate_lr:g}"
    return [name, rate, rate_lr, *cells(results[name], results[reference])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
