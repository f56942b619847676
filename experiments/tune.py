"""Search for hyper-parameters on validation tasks; each trial is chosen from the results of those before it.

    python experiments/tune.py PRESET --search rate=0.03..3 lr=1e-4..1e-2 decay=0.8,0.9,1.0 --trials 30 --output DIR

Two dots separate the ends of a range, commas values, an x the sizes of layers (``hidden=32x32,64x64``), and ``none``
is no value, or no layers. Floats above zero are searched on a logarithmic scale if the ends differ by a factor of ten
or more.

Optuna's TPE chooses the trials, the first ten at random. They train with seeds from 1000 on, which are never reported,
and are scored on *validation* tasks by the return after as much adaptation as in training. A trial that diverges counts
as worse than any other.

Finished trials are kept in the output folder: the same command resumes an interrupted search, and more ``--trials``
extend it. The choices are reproducible for the same number of ``--workers``, as that many trials are chosen at a time.
The choices are drawn from ``--seed``, which is also the seed of the configuration written to ``best.json``.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import runs
from experiments.build import build
from experiments.cli import given, parse_config, refuse_unread, start
from experiments.config import Config
from experiments.errors import InputError, refuse_below_one, script
from experiments.evaluate import Protocol, held_out_tasks
from experiments.figures.tuning import tuning
from experiments.jobs import Work, crew
from experiments.plugins import imports
from experiments.publishing import about_intervals, markdown, publish, shown
from experiments.scoring import (
    SEARCH,
    TUNING_SEED,
    Job,
    Result,
    final,
    jobs_of,
    refuse_another,
    refuse_tuning_seeds,
    score,
)
from experiments.settings import Range, Space, changed, space
from metarl import DivergedError

SHOWN = 10  # most trials in the table


@dataclass(frozen=True)
class Options:
    """Where to search, and how long."""

    output: Path
    """folder for the results; an interrupted search is resumed there"""
    search: tuple[str, ...] = ()
    """settings and where to search for each: field=low..high or field=value,value"""
    trials: int = 30
    """number of configurations to try, including those already tried"""
    seeds: int = 1
    """training seeds per trial, counted from 1000; a trial's score is their mean"""
    held_out: int = 100
    """number of validation tasks"""
    workers: int = 1
    """trials at a time, in processes with one thread each; changes which trials are chosen"""


@dataclass(frozen=True)
class Trial:
    """A trial: its settings, and their results from every seed."""

    number: int
    settings: Mapping[str, str]
    config: Config
    results: list[Result]
    refused: str | None = None
    """why it was not trained; None if it was"""

    @property
    def score(self) -> float:
        """Mean score over seeds; minus infinity if the trial has none."""
        return -math.inf if self.fault else float(np.mean([score(result) for result in self.results]))

    @property
    def fault(self) -> str | None:
        """Why it has no score; None if it has one."""
        return self.refused or next((result["diverged"] for result in self.results if "diverged" in result), None)

    def about(self) -> dict[str, Any]:
        """Return a record of the trial as plain JSON values."""
        values = {field: getattr(self.config, field) for field in self.settings}
        told = {"without score": self.fault} if self.fault else {"score": self.score}
        return {"trial": self.number, "settings": values, **told}


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    where = space(config, options.search)
    if both := sorted(given(argv) & set(where)):
        raise InputError(f"{both[0]} is searched: leave --{both[0].replace('_', '-')} out")
    refuse(config, where, options, given(argv))
    trials = search(config, where, options)
    ranked = sorted((trial for trial in trials if not trial.fault), key=lambda trial: -trial.score)
    if not ranked:
        raise DivergedError(
            f"none of {len(trials)} trials has a score, the first because of: {trials[0].fault}; search other values"
        )
    best = ranked[0].config
    runs.write_json(options.output / "best.json", best.model_dump(mode="json"))
    about = {
        "config": config.model_dump(mode="json"),
        "search": options.search,
        "seeds": [TUNING_SEED + i for i in range(options.seeds)],
        "trials": [trial.about() for trial in trials],
        "best": ranked[0].number,
    }
    text = [*table(config, options, ranked), *advice(best, argv[0], start(argv[0], argv), options.output)]
    publish(options.output, SEARCH, "\n".join(text), about)
    tuning(options.output / "tune", where, [trial.settings for trial in trials], [trial.score for trial in trials])


def refuse(config: Config, where: Space, options: Options, told: Collection[str] = ()) -> None:
    """Check, before hours of work, that the search can run.

    Each value must be valid when it alone is changed in the configuration; invalid combinations are only found when
    they are tried.

    Raises:
        InputError: there is nothing to search; a count is too small; other results would be overwritten; a tuning seed
            would be reported; a value cannot be built; a setting has no effect; the benchmark has no validation tasks;
            or Optuna is not installed.
    """
    if not where:
        raise InputError("expected settings to search, got none; pass --search field=low..high or field=value,value")
    refuse_below_one(trials=options.trials, seeds=options.seeds, held_out=options.held_out, workers=options.workers)
    refuse_another(options.output, SEARCH, config.benchmark)
    refuse_tuning_seeds(config.seed, 1, tuning=options.seeds)
    setups = [
        build(changed(config, {field: text}), torch.device("cpu"))
        for field, one in where.items()
        for text in ((one.text(one.low), one.text(one.high)) if isinstance(one, Range) else one)
    ]
    refuse_unread({*told, *where}, {field for setup in setups for field in setup.read})
    held_out_tasks(setups[0].benchmark, Protocol("validation", tasks=1))
    try:
        import optuna  # noqa: F401 (only in functions, since it may not be installed)
    except ImportError as error:
        raise InputError("a search needs optuna, which is not installed; pip install -e '.[tune]'") from error


def search(config: Config, where: Space, options: Options) -> list[Trial]:
    """Run all trials, as many at a time as there are workers.

    To resume a search, the finished trials are chosen again and their stored results reused, which brings the sampler
    back to its former state.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # jobs print their results themselves
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.seed))
    distributions = {field: _distribution(one) for field, one in where.items()}
    trials: list[Trial] = []
    with crew(options.output / "jobs", options.workers) as work:
        while len(trials) < options.trials:
            count = min(options.workers, options.trials - len(trials))
            asked = [study.ask(distributions) for _ in range(count)]
            told = tried({one.number + 1: written_in(where, one.params) for one in asked}, work, config, options)
            for one, trial in zip(asked, told, strict=True):
                study.tell(one, trial.score)
            trials += told
    return trials


def _distribution(where: Range | tuple[str, ...]) -> Any:
    """Return Optuna's distribution for a range or a choice."""
    from optuna import distributions

    if not isinstance(where, Range):
        return distributions.CategoricalDistribution(where)
    if where.whole:
        return distributions.IntDistribution(int(where.low), int(where.high))
    return distributions.FloatDistribution(where.low, where.high, log=where.logarithmic)


def written_in(where: Space, params: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that Optuna chose as written on a command line."""
    return {field: one.text(params[field]) if isinstance(one, Range) else params[field] for field, one in where.items()}


def tried(settings: Mapping[int, Mapping[str, str]], work: Work, config: Config, options: Options) -> list[Trial]:
    """Run numbered trials in parallel; invalid combinations of settings have no score, like those that diverge."""
    configs = {number: changed(config, one) for number, one in settings.items()}
    faults = {number: _fault(one) for number, one in configs.items()}
    seeds = range(TUNING_SEED, TUNING_SEED + options.seeds)
    jobs: dict[int, list[Job]] = {}
    for number, one in configs.items():
        scored = Protocol("validation", options.held_out, one.steps, one.episodes)
        told = f"trial {number}, " + ", ".join(f"{field}={text}" for field, text in settings[number].items())
        jobs[number] = [] if faults[number] else jobs_of(one, seeds, scored, told)
        if faults[number]:
            print(f"{told}: {faults[number]}", flush=True)
    finished = work([job for own in jobs.values() for job in own])
    return [
        Trial(number, settings[number], one, [finished[job.key] for job in jobs[number]], faults[number])
        for number, one in configs.items()
    ]


def _fault(config: Config) -> str | None:
    """Return why the configuration cannot be built, or None if it can."""
    try:
        build(config, torch.device("cpu"))
    except InputError as error:
        return str(error)
    return None


def table(config: Config, options: Options, trials: Sequence[Trial]) -> list[str]:
    """Return the lines of a Markdown table of the best trials that have a score, no settings twice, and its notes."""
    distinct: dict[Config, Trial] = {}
    for trial in trials:
        distinct.setdefault(trial.config, trial)
    best = list(distinct.values())[:SHOWN]
    rows = [[str(one.number), *one.settings.values(), shown(final(one.results))] for one in best]
    return [
        f"{config.benchmark}, {config.env_steps:,} environment steps of training: the best of {options.trials} trials, "
        f"of which {options.trials - len(trials)} have no score.",
        "",
        *markdown(("trial", *best[0].settings, "validation return"), rows),
        "",
        f"{options.seeds} seed{'s' * (options.seeds > 1)} from {TUNING_SEED} on, {options.held_out} validation tasks; "
        f"{about_intervals(final(trials[0].results))}.",
        "The best of many trials is partly luck: report its scores with other seeds and on test tasks.",
    ]


def advice(best: Config, start: str, known: Config, output: Path) -> list[str]:
    """Return lines that tell how to train with the best settings.

    Args:
        best: the configuration with the best settings.
        start: preset or file that the command line begins with.
        known: its configuration.
        output: folder of ``best.json``.
    """
    command = ["python", "experiments/train.py"]
    allowed = [word for field, name in imports(vars(best)).items() for word in (f"--{field.replace('_', '-')}", name)]
    return [
        "",
        "To train with the best settings, which best.json holds:",
        "",
        "    " + shlex.join([*command, start, *flags(best, known)]),
        "    " + shlex.join([*command, str(output / "best.json"), *allowed]),
    ]


def flags(config: Config, start: Config) -> list[str]:
    """Return the flags that turn the configuration ``start`` into ``config``, without those that have no effect."""
    found, read = list[str](), build(config, torch.device("cpu")).read
    for field, value in config:
        name = field.replace("_", "-")
        if value == getattr(start, field) or field not in read:
            continue
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
