"""Figure of a learned reward or advantage against the given one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from experiments.figures.canvas import Drawn, panel
from experiments.figures.page import COLORS, INK, MUTED, Array

POINTS = 3000  # most points drawn; more would make the SVG too large
BINS = 24
LEAST = 20  # fewest steps in a bin for its mean to be drawn


def reinforced(path: Path, name: str, given: Array, corrected: Array) -> Drawn:
    """Draw a point for every step, the mean over bins of given values, and a line that stands for no correction.

    Args:
        path: where to write, without a suffix.
        name: reward or advantage.
        given: values that the inner loss was given ``[steps]``.
        corrected: values that it reinforced ``[steps]``.
    """
    shown = np.random.default_rng(0).permutation(len(given))[:POINTS]
    with panel(path, f"What is reinforced for each {name}") as (figure, drawn):
        axes = figure.add_subplot()
        axes.scatter(given[shown], corrected[shown], s=4, color=COLORS[0], alpha=0.3, linewidths=0, rasterized=True)
        low, high = float(given.min()), float(given.max())
        axes.plot([low, high], [low, high], color=MUTED, linestyle=(0, (1, 2)), zorder=0)
        axes.plot(*means(given, corrected), color=INK, linewidth=1.6)
        axes.set_xlabel(f"{name} as given")
        axes.set_ylabel(f"{name} as corrected")
        handles = [
            Line2D([], [], color=COLORS[0], marker="o", linestyle="", markersize=5, label="a step"),
            Line2D([], [], color=INK, label="mean"),
            Line2D([], [], color=MUTED, linestyle=":", label="no correction"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return drawn


def means(given: Array, corrected: Array) -> tuple[Array, Array]:
    """Return the means ``[bins]`` of both in equally wide bins of given values, for bins with enough steps."""
    edges = np.linspace(given.min(), given.max(), BINS + 1)
    number = np.clip(np.digitize(given, edges) - 1, 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, one, BINS) for one in (given, corrected)]
    enough = counts >= min(LEAST, counts.max())
    x, y = (one[enough] / counts[enough] for one in sums)
    return x, y


def explained(given: Array, corrected: Array) -> float:
    """Return the share of the corrected values' variance that a quadratic of the given ones explains.

    It is NaN if the corrected values do not vary.
    """
    spread = corrected.var()
    if not spread > 0.0:
        return float("nan")
    terms = np.stack([given**0, given, given**2], -1)
    rest = corrected - terms @ np.linalg.lstsq(terms, corrected, rcond=None)[0]
    return float(1.0 - rest.var() / spread)
