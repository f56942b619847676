"""Measure what each change of a setting is worth, one at a time, compared with the unchanged configuration.

    python experiments/ablate.py PRESET --vary discount=0.5,0.9 rule=maml,fomaml inner_loss=vpg --output results/NAME

Commas separate the values of a setting, an x the sizes of layers (``hidden=64x64,32``), and ``none`` is no value, or no
layers. ``--grid`` tries every combination, including the configuration's own values. Every variant is trained from the
same seeds for the same number of environment steps, and scored on the same held-out tasks with the same noise. Nothing
is tuned: a setting may be worth more together with others that suit it.

By default, scores are on *validation* tasks and from seeds of 1000 on, so that you can choose settings by them.
Scores on *test* tasks (``--split test``) may be reported if you do not choose by them: the best of many is partly luck,
and no better on other tasks. Finished jobs are kept in the output folder; the same command resumes an interrupted
ablation.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import figures
from experiments.build import build
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.contenders.budget import refuse_unequal
from experiments.errors import InputError, refuse_below_one, script
from experiments.evaluate import Protocol, equally_long, held_out_tasks
from experiments.jobs import run_all
from experiments.publishing import about_intervals, markdown, publish
from experiments.scoring import (
    ABLATION,
    HEAD,
    TUNING_SEED,
    Result,
    broken,
    cells,
    final,
    jobs_of,
    protocol,
    refuse_another,
    refuse_tuning_seeds,
)
from experiments.settings import changed, read, values, written
from metarl import DivergedError

REFERENCE = "reference"
REPORTABLE = {
    "validation": "Scores on validation tasks may choose settings; do not report them.",
    "test": "Whoever chooses settings by scores on test tasks must not report them.",
}


@dataclass(frozen=True)
class Options:
    """What to vary, and how thoroughly."""

    output: Path
    """folder for the results; an interrupted ablation is resumed there"""
    vary: tuple[str, ...] = ()
    """settings and the other values to try of each: field=value,value"""
    grid: bool = False
    """try every combination instead of one change at a time"""
    seeds: int = 5
    """number of training seeds, counted from --seed; on validation tasks, from 1000 + --seed"""
    split: str = "validation"
    """held-out split to score on; do not report test scores that you have chosen by"""
    held_out: int = 100
    """number of held-out tasks"""
    workers: int = 2
    """number of processes, with one thread each"""


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    if not options.vary:
        raise InputError("expected settings to vary, got none; pass --vary field=value,value")
    refuse_below_one(seeds=options.seeds, held_out=options.held_out, workers=options.workers)
    refuse_another(options.output, ABLATION, config.benchmark)
    configs = variants(config, options)
    # refuse what cannot run, or changes nothing, before hours of work
    setups = [build(one, torch.device("cpu")) for one in configs.values()]
    refuse_unread(given(argv), {field for setup in setups for field in setup.read})
    for field in read(options.vary):
        changing = [setup for setup in setups if getattr(setup.config, field) != getattr(config, field)]
        refuse_unread([field], {name for setup in changing for name in setup.read})
    held_out_tasks(setups[0].benchmark, Protocol(options.split, tasks=1))
    first = config.seed
    if options.split == "validation":
        first += TUNING_SEED
    else:
        refuse_tuning_seeds(first, options.seeds)
    seeds = range(first, first + options.seeds)
    jobs = {
        name: jobs_of(one, seeds, protocol(options.split, one, options.held_out), name) for name, one in configs.items()
    }
    finished = run_all([job for own in jobs.values() for job in own], options.output / "jobs", options.workers)
    results = {name: equally_long([finished[job.key] for job in own]) for name, own in jobs.items()}
    episodes = max(one.steps * one.episodes for one in configs.values())
    refuse_unequal(results, budget=config.env_steps, episodes=episodes)
    if broken(results[REFERENCE]):
        raise DivergedError("the reference diverged, so nothing can be compared with it; start from other settings")
    about = {"config": config.model_dump(mode="json"), "vary": options.vary, "results": results}
    publish(options.output, ABLATION, "\n".join(table(config, options, results)), about)
    whole = {name: found for name, found in results.items() if not broken(found)}
    figures.side_by_side(options.output, whole, reference=REFERENCE)


def variants(config: Config, options: Options) -> dict[str, Config]:
    """Return the configurations to train, by the changes made, the unchanged `REFERENCE` first.

    Raises:
        InputError: a value is the configuration's own; or see `experiments.settings`.
        ValidationError: see `experiments.settings`.
    """
    varied = {field: values(config, field, text) for field, text in read(options.vary).items()}
    for field, found in varied.items():
        for text, one in found.items():
            if one == config:
                raise InputError(f"{field}={text} is the value that the {REFERENCE} already has; leave it out")
    chosen = [{}, *({field: text} for field, found in varied.items() for text in found)]
    if options.grid:
        chosen = [
            {field: text for field, text in zip(varied, texts, strict=True) if text is not None}
            for texts in itertools.product(*([None, *found] for found in varied.values()))
        ]
    names = [", ".join(f"{field}={text}" for field, text in settings.items()) for settings in chosen]
    return {name or REFERENCE: changed(config, one) for name, one in zip(names, chosen, strict=True)}


def table(config: Config, options: Options, results: dict[str, list[Result]]) -> list[str]:
    """Return the lines of the table in Markdown, a row for every variant, and of the notes around it."""
    reference = results[REFERENCE]
    own = ", ".join(f"{field}={written(getattr(config, field))}" for field in read(options.vary))
    rows = [[name, *cells(found, reference)] for name, found in results.items()]
    return [
        f"{config.benchmark}, {config.env_steps:,} environment steps of training; the {REFERENCE}: {own}.",
        "",
        *markdown(("change", *HEAD, f"− {REFERENCE} (paired)"), rows),
        "",
        f"{options.seeds} seed{'s' * (options.seeds > 1)}, {options.held_out} {options.split} tasks; "
        f"{about_intervals(final(reference))}.",
        "Nothing is tuned: every variant has the reference's other settings, which may suit it less.",
        *([REPORTABLE[options.split]] if options.split in REPORTABLE else []),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
