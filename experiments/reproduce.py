"""Reproduce one of the project's tables: train every column from every seed, measure every row on held-out tasks.

    python experiments/reproduce.py navigation-fixed --seeds 10

Writes to ``results/reproduce-TABLE/``: the table, and ``reproduction.json.gz`` with the scores of every seed and task
and what made them. Finished runs are kept; the same command resumes an interrupted table. Rows and columns are data,
in ``tables.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from experiments.build import build
from experiments.cli import parse
from experiments.contenders import contender
from experiments.errors import InputError, script
from experiments.evaluate import Protocol, score_matrix
from experiments.jobs import benchmarks_of, key_of, run_all
from experiments.lookup import choose
from experiments.publishing import about_intervals, markdown, publish, shown
from experiments.scoring import TUNING_SEED
from experiments.tables import TABLES, Column, Row, Table


@dataclass(frozen=True)
class Options:
    """Which table to make, and how thoroughly."""

    table: Annotated[str, tyro.conf.Positional]
    """name of the table; an unknown name lists them"""
    seeds: int = 10
    """number of training seeds, counted from 0"""
    columns: tuple[str, ...] = ()
    """train only these columns; defaults to all"""
    workers: int = 2
    """number of processes, with one thread each"""
    output: Path | None = None
    """folder for the results; defaults to results/reproduce-TABLE"""
    env_steps: int | None = None
    """a different training budget for every column, for trying the command out, not for reporting"""


@dataclass(frozen=True)
class Job:
    """One training run, evaluated under several protocols."""

    label: str
    column: Column
    protocols: tuple[Protocol, ...]

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"{self.label}, seed {self.column.config.seed}"

    @property
    def key(self) -> str:
        """Identifies the job: a stored result with the same key is reused."""
        config = self.column.config.model_dump(mode="json")
        protocols = [asdict(one) for one in self.protocols]
        return key_of(self.column.contender, config, protocols, benchmarks_of(self.column.config))

    def run(self) -> dict[str, Any]:
        """Train within the budget, then evaluate under every protocol."""
        measure = contender(self.column.contender).train(self.column.config)
        measures = [measure(one) for one in self.protocols]
        told = {name: measures[0][name] for name in ("seed", "seconds", "training_env_steps")}
        return told | {"measures": measures}

    def summary(self, result: dict[str, Any]) -> str:
        """Return the mean returns after every number of steps for each protocol, as text."""
        means = [np.mean(one["sampled"], axis=0).round(2).tolist() for one in result["measures"]]
        return f"{means} in {result['seconds']:.0f} s"


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    table: Table = choose("table", options.table, TABLES)
    if not 1 <= options.seeds <= TUNING_SEED:
        raise InputError(f"expected 1 to {TUNING_SEED} seeds, got {options.seeds}")
    if options.workers < 1 or (options.env_steps is not None and options.env_steps < 1):
        raise InputError(f"expected workers and env_steps >= 1, got {options.workers} and {options.env_steps}")
    if options.env_steps is not None and options.output is None:
        raise InputError("--env-steps makes a trial run, which must not overwrite the table's folder; pass an --output")
    output = options.output if options.output is not None else Path("results") / f"reproduce-{options.table}"
    protocols = tuple(dict.fromkeys(row.protocol for row in table.rows))
    changes = {} if options.env_steps is None else {"env_steps": options.env_steps}
    chosen = options.columns or tuple(table.columns)
    columns = {name: choose("column", name, table.columns).changed(**changes) for name in chosen}
    jobs = [
        Job(name, column.changed(seed=seed), protocols)
        for name, column in columns.items()
        for seed in range(options.seeds)
    ]
    for job in jobs[:: options.seeds]:
        build(job.column.config, torch.device("cpu"))  # refuse what cannot run before hours of work
    finished = run_all(jobs, output / "jobs", options.workers)
    results = {name: [finished[job.key] for job in jobs if job.label == name] for name in columns}
    about = {
        "about": table.about,
        "columns": {
            name: {"contender": column.contender} | column.config.model_dump(mode="json")
            for name, column in columns.items()
        },
        "rows": [asdict(row) for row in table.rows],
        "held_out": {name: held_out(found) for name, found in results.items()},
        "results": {name: [briefly(run) for run in found] for name, found in results.items()},
    }
    publish(output, "reproduction.json.gz", "\n".join(lines(table, protocols, whole(about))), about)


SCORED = ("sampled", "mode", "adaptation_steps")
COMMON = ("benchmark", "fingerprint", "protocol", "task", "references")


def held_out(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each protocol, what the runs of a column were evaluated on, which is the same for every seed."""
    for run in found:
        if "measures" in run:
            return [{name: rounded(one[name]) for name in COMMON} for one in run["measures"]]
    return []


def briefly(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run without what it has in common with other seeds, its scores rounded to six digits."""
    if "measures" not in run:
        return run
    return run | {"measures": [{name: rounded(one[name]) for name in SCORED} for one in run["measures"]]}


def whole(about: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of a stored reproduction, completed with what is common to the runs of their column."""

    def again(run: dict[str, Any], common: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if "measures" not in run:
            return run
        return run | {"measures": [one | own for one, own in zip(common, run["measures"], strict=True)]}

    return {name: [again(run, about["held_out"][name]) for run in found] for name, found in about["results"].items()}


def rounded(value: Any) -> Any:
    """Return plain JSON values with floats rounded to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return value


def lines(table: Table, protocols: Sequence[Protocol], results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of the table in Markdown, with intervals and paired differences to the last column."""
    names = list(results)
    head = ["", "published", *names, "ceiling", *(f"{name} − {names[-1]}, paired" for name in names[:-1])]
    rows: list[list[str]] = []
    every: list[Any] = []
    for row in table.rows:
        at = list(protocols).index(row.protocol)
        scores = [scores_of(results[name], at, row) for name in names]
        every += scores
        cells = [row.label, row.published, *map(cell, scores), ceiling(results, at, row)]
        rows.append(cells + [difference(one, scores[-1]) for one in scores[:-1]])
    minutes = [
        np.mean([run["seconds"] for run in found if "seconds" in run] or [0.0]) / 60 for found in results.values()
    ]
    took = ", ".join(f"{name} {value:.1f}" for name, value in zip(names, minutes, strict=True))
    told = " and ".join(sorted({about_intervals(one) for one in every if not isinstance(one, str)})) or "no intervals"
    return [
        f"{table.about}.",
        "",
        *markdown(head, rows),
        "",
        f"{len(results[names[0]])} seeds; {told}; minutes of one core a run: {took}.",
    ]


def scores_of(found: Sequence[dict[str, Any]], at: int, row: Row) -> Any:
    """Return the scores ``[seeds, tasks]`` of a row under protocol number ``at``, or a text why there are none."""
    broken = sum("diverged" in run for run in found)
    if broken:
        return f"{broken} of {len(found)} seeds diverged"
    return row.scores(score_matrix([run["measures"][at] for run in found]))


def cell(scores: Any) -> str:
    """Return the mean and its interval as text, or the text why there are no scores."""
    return scores if isinstance(scores, str) else shown(scores)


def difference(scores: Any, reference: Any) -> str:
    """Return the paired difference and its interval as text; a dash unless both have scores."""
    if isinstance(scores, str) or isinstance(reference, str):
        return "–"
    return shown(scores - reference)


def ceiling(results: dict[str, list[dict[str, Any]]], at: int, row: Row) -> str:
    """Return the row's score if every episode reached its task's ceiling; a dash if the family does not know it."""
    for found in results.values():
        for run in found:
            if "measures" in run and "ceiling" in run["measures"][at]["references"]:
                best = np.asarray(run["measures"][at]["references"]["ceiling"])
                return f"{row.scores(np.repeat(best[:, None], row.step + 1, -1)).mean():.2f}"
    return "–"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
