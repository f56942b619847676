"""Base of the figures of runs: colours, style, and writing PNG and SVG without pyplot.

No display is needed, and matplotlib's global state is left unchanged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]
Results = Mapping[str, list[dict[str, Any]]]

# Okabe & Ito (2008): distinguishable with all common colour-vision deficiencies.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
BEFORE, AFTER, INK, MUTED = "#8C8C8C", COLORS[0], "#222222", "#5F5F5F"
SHOWN = 4  # number of episodes drawn per policy; more would hide each other
DASHED: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 1.4}
STYLE = {
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "lines.linewidth": 2.0,
    "svg.hashsalt": "metarl",  # equal figures give equal files
}


@contextmanager
def page(path: Path, title: str, size: tuple[float, float]) -> Iterator[tuple[Figure, list[Path]]]:
    """Yield a figure of ``size`` inches, and the PNG and SVG files that it is written to on leaving."""
    stem = path.with_suffix("") if path.suffix in {".png", ".svg"} else path
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    stem.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold")
        yield figure, files
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(file, dpi=150, facecolor="white", metadata=metadata)


def with_seeds(label: str, runs: Sequence[object]) -> str:
    """Return the label with the number of seeds if there are several."""
    return f"{label}, {len(runs)} seeds" if len(runs) > 1 else label


def level_label(name: str, level: float) -> str:
    """Return the label of the line of a reference score, such as ``floor −37.9`` or ``ceiling 0.83``."""
    return f"{name} {level:,.{2 if abs(level) < 10.0 else 1}f}".replace("-", "\N{MINUS SIGN}")


def over(seeds: int, tasks: int) -> str:
    """Say what a mean and its interval are over."""
    if seeds > 1 and tasks > 1:
        return f"{seeds} seeds and {tasks} tasks"
    many = f"{seeds} seeds, one task" if tasks == 1 else f"{tasks} tasks, one seed"
    return many if seeds * tasks > 1 else "one seed and task"


def color_of(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for every label, in their order; colours repeat after the last."""
    return dict(zip(labels, itertools.cycle(COLORS), strict=False))
