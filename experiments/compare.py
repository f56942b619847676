"""Compare update rules under one budget: common tasks, common noise, the same tuning effort, paired intervals.

    python experiments/compare.py cartpole-polarity --rules meta-sgd maml --seeds 5 --output results/NAME

Every rule's step size is first tuned on *validation* tasks over one grid (with ``--rate-lrs``, besides, the meta step
size of what it learns), but for rules of your own, which are called with the parameters alone and have step sizes of
their own; then every rule is trained from every seed for the same
number of environment steps, and scored on the same *test* tasks with the same noise. Finished jobs are kept in
the output folder: an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import figures, runs
from experiments.build import build
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.contenders import CONTENDERS, contender, refuse_live
from experiments.contenders.budget import refuse_unequal
from experiments.errors import InputError, script
from experiments.evaluate import Protocol, score_matrix
from experiments.jobs import benchmarks_of, key_of, run_all
from experiments.lookup import choose
from experiments.names import ALGORITHMS, RULES
from experiments.publishing import markdown, parts, publish, shown
from metarl import DivergedError, stats
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
FEW = 6  # curves that can be told apart in one picture; more are ranked
TUNING_SEED = 1000  # of the runs that choose a step size; never one of the reported seeds


@dataclass(frozen=True)
class Options:
    """What to compare."""

    output: Path
    """folder of the results; an interrupted comparison is continued there"""
    rules: tuple[str, ...] = ("meta-sgd", "maml")
    """rules and contenders by name, or the groups all and comparators; paired differences are against the last"""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """grid of (first) step sizes, the same for every rule; it takes the place of --rate"""
    rate_lrs: tuple[float, ...] = ()
    """grid of the step sizes by which a rule learns what it learns, such as rates; each rule's own unless given"""
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
        return f"{self.label}, {sizes(self.config)}, seed {self.config.seed}, {self.protocol.split}"

    @property
    def key(self) -> str:
        """Decides whether a finished job on the disk is this one."""
        plain = self.config.model_dump(mode="json")
        return key_of(self.label, plain, vars(self.protocol), benchmarks_of(self.config))

    def run(self) -> dict[str, Any]:
        """Train within the budget and measure."""
        return contender(self.label).train(self.config)(self.protocol)

    def summary(self, result: dict[str, Any]) -> str:
        """The score on held-out tasks."""
        return f"{score(result):.4g}"


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    names = expand(options.rules)
    if not names or not options.rates or min(options.seeds, options.held_out, options.workers) < 1:
        raise InputError(f"expected rules, rates, and seeds, held_out and workers >= 1; got {options}")
    if not all(0.0 < size < math.inf for size in (*options.rates, *options.rate_lrs)):
        raise InputError(f"expected positive rates and rate_lrs, got {options.rates} and {options.rate_lrs}")
    if "rate" in given(argv):
        raise InputError("--rate: step sizes are tuned; give a grid of them, such as --rates 0.1 0.3")
    refuse_another(options.output, config.benchmark)
    if config.seed <= TUNING_SEED < config.seed + options.seeds:
        raise InputError(f"seed {TUNING_SEED} tunes the step sizes and cannot be reported; choose another --seed")
    read: set[str] = set()
    for name in names:
        # refuse what cannot run before hours of work
        setup = build(contender(name).config(config), torch.device("cpu"))
        read |= setup.read
        if contender(name).restarts:
            refuse_live(name, setup.benchmark.family)
    refuse_unread(argv, read)
    options.output.mkdir(parents=True, exist_ok=True)
    tuned = tune(config, names, options)
    jobs = [
        Job(name, tuned[name].model_copy(update={"seed": config.seed + i}), protocol("test", config, options))
        for name in names
        for i in range(options.seeds)
    ]
    finished = run_all(jobs, options.output / "jobs", options.workers)
    results = {name: [finished[job.key] for job in jobs if job.label == name] for name in names}
    refuse_unequal(results, budget=config.env_steps, episodes=config.steps * config.episodes)
    if broken(results[names[-1]]):
        raise DivergedError(f"{names[-1]} diverged, and the others are compared with it: name another one last")
    report(config, options, tuned, results)


def refuse_another(output: Path, benchmark: str) -> None:
    """Check that results do not take the place of others.

    Raises:
        InputError: a run's folder, or one of a comparison on another benchmark.
    """
    if (output / "config.json").exists():
        raise InputError(f"{output} holds a run; choose another --output")
    try:
        there = json.loads((output / "comparison.json").read_text())["config"]["benchmark"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if there != benchmark:
        raise InputError(f"{output} holds a comparison on {there}, not on {benchmark}; choose another --output")


def expand(names: Sequence[str]) -> list[str]:
    """The names, with those of groups in their place, each once.

    Raises:
        InputError: an unknown name.
    """
    found = list(dict.fromkeys(one for name in names for one in GROUPS.get(name, (name,))))
    for name in found:
        if ":" not in name:
            choose("rule or contender", name, {**GROUPS, **CONTENDERS})
    return found


def protocol(split: str, config: Config, options: Options) -> Protocol:
    """Adapt at test as often as in training, and two steps more to see where it goes."""
    steps = config.steps + 2 if config.steps else 0
    return Protocol(split=split, tasks=options.held_out, steps=steps, episodes=config.episodes)


def tune(config: Config, names: Sequence[str], options: Options) -> dict[str, Config]:
    """Each contender with the step size of the grid that is best on validation tasks."""
    base, chosen, told = config.model_copy(update={"seed": TUNING_SEED}), {}, []
    validation = protocol("validation", config, options)
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
    """Notes on step sizes beyond which nothing was tried, in the direction that was better."""
    notes = []
    for name, configs in tried.items():
        for field in ("rate", "rate_lr"):
            sizes, best = sorted({getattr(config, field) or 0.0 for config in configs}), getattr(chosen[name], field)
            if len(sizes) > 1 and best in (sizes[0], sizes[-1]):
                which = "smallest" if best == sizes[0] else "largest"
                notes.append(f"note: the {field} of {name}, {best:g}, is the {which} that was tried")
    return notes


def trials(name: str, base: Config, options: Options) -> list[Config]:
    """What is tried for a contender: the product of both grids.

    One that learns nothing but its initialization gets as many trials, of a finer grid of rates between the same ends.
    """
    who = contender(name)
    rates = options.rates if who.tuned else options.rates[:1]
    if len(groups(build(who.config(base), torch.device("cpu")).learner, base.lr, None)) > 1:
        return [who.at(base, *pair) for pair in itertools.product(rates, options.rate_lrs or (None,))]
    if who.tuned and options.rate_lrs:
        finer = np.geomspace(min(rates), max(rates), len(rates) * len(options.rate_lrs))
        rates = tuple(float(f"{rate:.2g}") for rate in finer)
    return [who.at(base, rate).model_copy(update={"rate_lr": None}) for rate in rates]


def sizes(config: Config) -> str:
    """The step sizes that are tuned, as messages tell them."""
    return f"rate {config.rate:g}" + ("" if config.rate_lr is None else f", rate_lr {config.rate_lr:g}")


def score(result: dict[str, Any]) -> float:
    """Mean held-out return after what adaptation the contender is judged by; diverged is worse than anything."""
    return -math.inf if "diverged" in result else float(final([result]).mean())


def final(results: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Scores ``[seeds, tasks]`` after what adaptation the contender is judged by."""
    return score_matrix(results)[..., results[0]["reported"]]


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
    publish(options.output, "comparison.json", "\n".join(table(tuned, results)), about)
    whole = {name: found for name, found in results.items() if not broken(found)}
    if len(whole) <= FEW:
        figures.comparison(options.output / "comparison", whole)
    else:
        figures.ranking(options.output / "ranking", whole, reference=reference)
    figures.step_lengths(options.output / "step-lengths", whole)


def broken(results: list[dict[str, Any]]) -> int:
    """How many of the runs diverged."""
    return sum("diverged" in result for result in results)


def table(tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines in Markdown; the last contender is the reference."""
    reference = list(results)[-1]
    columns = ("rate", "rate_lr", "before", "after", "IQM", "made worse", "episodes", f"− {reference} (paired)")
    return markdown(("contender", *columns), [row(name, reference, tuned, results) for name in results])


def row(name: str, reference: str, tuned: dict[str, Config], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line of the table: before adapting, and after as much of it as the contender is judged by."""
    chosen = tuned[name]
    rate = f"{chosen.rate:g}" if contender(name).tuned else "–"
    rate_lr = "–" if chosen.rate_lr is None else f"{chosen.rate_lr:g}"
    if broken(results[name]):
        what = f"{broken(results[name])} of {len(results[name])} seeds diverged"
        return [name, rate, rate_lr, what, *"–––––"]
    first, scores = score_matrix(results[name])[..., 0], final(results[name])
    adapts = results[name][0]["reported"] > 0
    return [
        name,
        rate,
        rate_lr,
        f"{first.mean():.2f}",
        shown(scores),
        parts(scores, stats.iqm)[0],
        f"{stats.share_worse(first, scores):.1%}" if adapts else "–",
        f"{final_episodes(results[name]):g}",
        "–" if name == reference else shown(scores - final(results[reference])),
    ]


def final_episodes(results: list[dict[str, Any]]) -> float:
    """Episodes of a held-out task that the contender has adapted on when it is judged."""
    return float(results[0]["adaptation_episodes"][0][results[0]["reported"]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
