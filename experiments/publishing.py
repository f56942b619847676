"""Publish scores: format them with intervals, as Markdown tables, stored beside the data they were made from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import runs
from metarl import stats

Scores = NDArray[np.float64]
"""Scores ``[seeds, tasks]``."""


def parts(scores: Scores, statistic: stats.Statistic = stats.mean, *, digits: int = 2) -> tuple[str, str]:
    """Return the statistic and its 95 % interval as text; the interval of a single score is a dash."""
    if scores.size < 2:
        return f"{float(statistic(scores)):.{digits}f}", "–"
    found = stats.interval(scores, statistic, seed=0)
    return f"{found.estimate:.{digits}f}", f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"


def shown(scores: Scores, *, digits: int = 2) -> str:
    """Return the mean and its interval as the text of one cell."""
    return " ".join(part for part in parts(scores, digits=digits) if part != "–")


def about_intervals(scores: Scores) -> str:
    """Say what the 95 % intervals are over, or that a single score has none."""
    if scores.size < 2:
        return "one seed and task, without intervals"
    return f"95 % intervals over {stats.interval(scores, stats.mean, resamples=100, seed=0).over}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose first column is text and whose others are numbers."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:]]


def publish(folder: Path, name: str, text: str, about: Mapping[str, Any]) -> None:
    """Write a table to ``table.md`` and what it was made of to the JSON file ``name``, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    made = {"command": shlex.join(["python", *sys.argv]), "system": runs.system(torch.device("cpu"))}
    runs.write_json(folder / name, made | dict(about), indent=None)
    print("\n" + text)  # last: not every terminal can show it
