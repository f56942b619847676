"""Figure of a hyper-parameter search: the score of every trial against each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.figures.canvas import panel, plain_numbers, short, visible
from experiments.figures.page import COLORS, MUTED, Array
from experiments.settings import Range, Space

WIDTH, HEIGHT, COLUMNS = 2.7, 2.4, 3  # size of a setting's panel in inches, and most panels side by side


def tuning(path: Path, where: Space, settings: Sequence[Mapping[str, str]], scores: Sequence[float]) -> list[Path]:
    """Draw a panel per setting, with the best trial marked, and trials without a score as crosses at the bottom.

    Args:
        path: where to write, without a suffix.
        where: the search space.
        settings: settings of every trial, as written on a command line.
        scores: score of every trial; minus infinity if it has none.
    """
    columns = min(COLUMNS, len(where))
    rows = -(-len(where) // columns)
    values = np.asarray(scores)
    low, high = visible(values[np.isfinite(values)])
    pad = 0.08 * (high - low) or 1.0
    size = (max(4.2, WIDTH * columns + 0.5), HEIGHT * rows + 0.6)
    with panel(path, "Return on validation tasks, one point per trial", size) as (figure, drawn):
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).reshape(-1)
        for axes, (field, one) in zip(panels, where.items(), strict=False):
            _draw(axes, one, [each[field] for each in settings], np.maximum(values, low - pad), low)
            axes.set_xlabel(short(field))
        for axes in panels[len(where) :]:
            axes.set_visible(False)
        panels[0].set_ylim(low - 1.5 * pad, high + pad)
        figure.supylabel("return of an episode", fontsize=10, color=MUTED)
        if np.min(values) < low:
            figure.supxlabel("crosses: far below, or no score", fontsize=10, color=MUTED)
    return drawn.files


def _draw(axes: Axes, where: Range | tuple[str, ...], texts: Sequence[str], scores: Array, low: float) -> None:
    """Draw one setting; scores below ``low``, or missing ones, are drawn as crosses."""
    if isinstance(where, Range):
        x = np.asarray([float(text) for text in texts])
        if where.logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(where.low / 1.2, 1.2 * where.high)  # holds at least one power of ten, and these have labels
            plain_numbers(axes.xaxis)
        elif where.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        x = np.asarray([where.index(text) for text in texts], dtype=np.float64)
        axes.set_xticks(range(len(where)), [short(text) for text in where])
        axes.set_xlim(-0.5, len(where) - 0.5)
    seen, best = scores >= low, int(np.argmax(scores))
    axes.plot(x[seen], scores[seen], "o", color=COLORS[0], markersize=4.5, alpha=0.7)
    axes.plot(x[~seen], scores[~seen], "x", color=MUTED, markersize=5.0)
    axes.plot(x[best], scores[best], "o", color=COLORS[1], markersize=7.0)
