"""Figures of a report about step sizes: learned, effective and tried ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from experiments.figures.canvas import SIZE, Drawn, decade_above, legend, panel, plain_numbers, short, visible
from experiments.figures.page import AFTER, COLORS, INK, MUTED, Array


def rates_by_step(path: Path, title: str, rates: Mapping[str, Array]) -> Drawn:
    """Draw the effective step sizes ``[K]`` of every parameter tensor against the adaptation step."""
    with panel(path, title) as (figure, drawn):
        axes = figure.add_subplot()
        every = np.concatenate([np.abs(line) for line in rates.values()])
        small = float(np.median(every[every > 0])) if (every > 0).any() else 1.0
        for i, line in enumerate(rates.values()):
            color = COLORS[i % len(COLORS)]
            axes.plot(np.arange(1, len(line) + 1), line, color=color, marker="o", markersize=5, linewidth=1.6)
        axes.axhline(0.0, color=INK, linewidth=0.9)
        if every.max() > 20 * small:
            axes.set_yscale("symlog", linthresh=decade_above(small))
            plain_numbers(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("adaptation step")
        axes.set_ylabel("effective step size")
        legend(figure, _tensor_handles(rates))
    return drawn


def rates_over_training(path: Path, steps: Array, mean: Array, low: Array, high: Array, negative: Array) -> Drawn:
    """Draw the learned step sizes during meta-training, and below them the share of negative ones.

    Args:
        path: where to write, without a suffix.
        steps: millions of environment steps ``[N]``.
        mean: mean of all step sizes ``[N]``.
        low: smallest step size ``[N]``.
        high: largest step size ``[N]``.
        negative: share of negative step sizes ``[N]``.
    """
    with panel(path, "Learned step sizes over meta-training", (SIZE[0], 3.6)) as (figure, drawn):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
        above.fill_between(steps, low, high, color=AFTER, alpha=0.2, linewidth=0)
        above.plot(steps, mean, color=AFTER)
        above.axhline(0.0, color=INK, linewidth=0.9)
        above.set_ylabel("step size")
        below.plot(steps, 100.0 * negative, color=COLORS[1])
        below.set_ylim(0.0, max(1.0, 110.0 * float(np.nanmax(np.nan_to_num(negative)))))
        below.yaxis.set_major_locator(MaxNLocator(3))
        below.set_ylabel("negative (%)")
        below.set_xlabel("environment steps (millions)")
    return drawn


def _tensor_handles(names: Mapping[str, Any]) -> list[Line2D]:
    return [
        Line2D([], [], color=COLORS[i % len(COLORS)], marker="o", label=name.removeprefix("network."))
        for i, name in enumerate(names)
    ]


def rate_strips(path: Path, rates: Mapping[str, Array]) -> Drawn:
    """Draw the learned step sizes of every parameter tensor: range, middle 90 %, middle half, and median."""
    with panel(path, "Learned step sizes by parameter tensor", (SIZE[0], 1.5 + 0.42 * len(rates))) as (figure, drawn):
        axes = figure.add_subplot()
        for y, values in enumerate(rates.values()):
            ends = np.quantile(values, [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0])
            axes.hlines(y, ends[0], ends[6], color=MUTED, linewidth=0.9)
            axes.hlines(y, ends[1], ends[5], color=AFTER, linewidth=3.0, alpha=0.55)
            axes.hlines(y, ends[2], ends[4], color=AFTER, linewidth=8.0)
            axes.plot(ends[3], y, marker="|", color=INK, markersize=13, markeredgewidth=2.0)
        axes.axvline(0.0, color=INK, linewidth=0.9, zorder=1)
        everything = np.concatenate(list(rates.values()))
        typical = float(np.quantile(np.abs(everything), 0.75))
        if typical > 0 and np.abs(everything).max() > 30 * typical:
            axes.set_xscale("symlog", linthresh=decade_above(typical))
            plain_numbers(axes.xaxis)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_yticks(range(len(rates)), [short(name.removeprefix("network.")) for name in rates])
        axes.set_ylim(len(rates) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("step size")
    return drawn


def tuning(path: Path, trials: Mapping[str, tuple[Array, Array, float]], colors: Mapping[str, str]) -> Drawn:
    """Draw the validation return against the step sizes tried, with the chosen one as a filled marker.

    Args:
        path: where to write, without a suffix.
        trials: step sizes ``[R]``, returns ``[R]`` and the chosen step size of every rule.
        colors: colours by rule.
    """
    with panel(path, "Step sizes tried on validation tasks") as (figure, drawn):
        axes = figure.add_subplot()
        for rule, (rates, returns, chosen) in trials.items():
            color = colors.get(rule, MUTED)
            axes.plot(rates, returns, color=color, linewidth=1.6, marker="o", markersize=6, markerfacecolor="#ffffff")
            best = np.isclose(rates, chosen)
            axes.plot(rates[best], returns[best], color=color, marker="o", markersize=8, linestyle="", zorder=4)
        every = np.concatenate([returns for _, returns, _ in trials.values()])
        low, high = visible(every)
        pad = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - pad, high + pad)
        grid = np.unique(np.concatenate([rates for rates, _, _ in trials.values()]))
        if (grid > 0).all():
            axes.set_xscale("log")
            shown = apart(grid)
            axes.set_xticks(shown, [f"{rate:g}" for rate in shown])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("(first) step size")
        axes.set_ylabel("return on validation tasks")
        handles = [Line2D([], [], color=colors.get(rule, MUTED), marker="o", label=rule) for rule in trials]
        legend(figure, handles)
    return drawn


def apart(grid: Array) -> Array:
    """Return the numbers of a sorted grid ``[R]`` whose labels fit on a logarithmic axis, including both ends."""
    room = 0.13 * np.log(grid[-1] / grid[0])
    kept = [grid[-1]]
    for value in grid[-2::-1]:
        if np.log(kept[-1] / value) >= room and (value == grid[0] or np.log(value / grid[0]) >= room):
            kept.append(value)
    return np.array(kept[::-1])
