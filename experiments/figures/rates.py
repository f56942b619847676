"""Learned step sizes, by parameter tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.figures.page import COLORS, INK, MUTED, Array, page
from metarl import Learner
from metarl.rules import Rates


def step_sizes(path: Path, learner: Learner) -> list[Path]:
    """Learned step sizes, one row a parameter tensor; nothing where the rule has learned none."""
    tables = [module() for module in learner.rule.modules() if isinstance(module, Rates)]
    rows = [(name.removeprefix("network."), rate.detach().cpu().double().flatten().numpy())
            for table in tables for name, rate in table.items()]  # fmt: skip
    if not rows:
        return []
    with page(path, f"Learned step sizes of {type(learner.rule).__name__}", (6.8, 1.7 + 0.48 * len(rows))) as (
        figure,
        files,
    ):
        axes = figure.add_subplot()
        rng = np.random.default_rng(0)
        for y, (_, rates) in enumerate(rows):
            _swarm(axes, y, rates, rng)
        axes.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
        _scale(axes, np.concatenate([rates for _, rates in rows]))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.set_title("one point a parameter; they spread where many are alike")
        axes.set_xlabel("step size")
        axes.set_ylabel("parameter tensor")
        handles = [
            Line2D([], [], color=COLORS[0], marker="o", linestyle="", markersize=5, label="positive"),
            Line2D([], [], color=COLORS[1], marker="o", linestyle="", markersize=5, label="negative: ascends the loss"),
            Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, markeredgewidth=2, label="median"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return files


def _swarm(axes: Axes, y: float, rates: Array, rng: np.random.Generator) -> None:
    """A point for every rate (of large tensors a sample), spread as wide as the rates are dense."""
    negative, shown = float((rates < 0).mean()), rates
    if len(rates) > 3000:
        shown = rng.choice(rates, 3000, replace=False)
    spread = np.zeros_like(shown)
    if len(shown) > 12 and np.ptp(shown) > 0:
        counts, edges = np.histogram(shown, 60)
        counts = np.convolve(counts, np.full(5, 0.2), "same")
        density = np.interp(shown, (edges[:-1] + edges[1:]) / 2, counts) / counts.max()
        spread = 0.36 * density * rng.uniform(-1, 1, len(shown))
    few = len(shown) <= 150
    axes.scatter(
        shown,
        y + spread,
        s=16 if few else 5,
        c=np.where(shown < 0, COLORS[1], COLORS[0]),
        alpha=0.7 if few else 0.3,
        linewidths=0,
        rasterized=True,  # thousands of points would make the SVG heavy
    )
    axes.plot(np.median(rates), y, marker="|", color=INK, markersize=15, markeredgewidth=2)
    share = "<1 %" if 0 < negative < 0.01 else f"{100 * negative:.0f} %"
    axes.annotate(
        f"{share} of {len(rates):,} negative",
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        color=COLORS[1] if negative else MUTED,
    )


def _scale(axes: Axes, rates: Array) -> None:
    """Linear, or linear only about zero where a few rates are far larger than most."""
    typical = float(np.quantile(np.abs(rates), 0.75))
    if typical > 0 and np.abs(rates).max() > 30 * typical:
        axes.set_xscale("symlog", linthresh=typical)
