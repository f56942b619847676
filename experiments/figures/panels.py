"""Figures of a report: narrow, so that they can be read on a phone and side by side on a wide screen.

Each is drawn once and stored in three forms: PNG and SVG files with a title, and an SVG to embed in a page. The latter
has no background and takes its colours from the page (``var(--ink)``, ``var(--c0)``, ...), so that it also suits a dark
page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.figures.canvas import GRID, SIZE, Drawn, decade_above, legend, panel, plain_numbers, short, visible
from experiments.figures.page import AFTER, BEFORE, COLORS, DASHED, INK, MUTED, Array, Results, level_label
from metarl import stats
from metarl.stats import Interval, Profile


def curves(path: Path, results: Results, steps: int, colors: Mapping[str, str]) -> Drawn:
    """Draw the return against adaptation steps, shading steps beyond the trained number of ``steps``.

    The curve of a rule that breaks, or gets worse beyond the trained steps, may leave the axes at the bottom, so that
    the others are not squeezed into the top. Curves never leave them at the top.

    Args:
        path: where to write, without a suffix.
        results: results of `experiments.evaluate.measure` for every seed, by label.
        steps: number of adaptation steps in training.
        colors: colours by label.
    """
    longest = max(len(runs[0]["sampled"][0]) for runs in results.values()) - 1
    found = {label: _curve(runs, longest) for label, runs in results.items()}
    low, high = visible(np.concatenate([curve.mean[: steps + 1] for curve in found.values()]))
    high = max(high, *(float(np.max(line)) for curve in found.values() for line in (curve.mean, curve.mode)))
    pad = 0.12 * (high - low) or 1.0
    references = {name: float(np.mean(v)) for name, v in next(iter(results.values()))[0]["references"].items()}
    near = {name: level for name, level in references.items() if low - 4 * pad <= level <= high + 4 * pad}
    limits = (min([low, *near.values()]) - pad, max([high, *near.values()]) + pad)
    with panel(path, "Return after 0, 1, ... gradient steps on a new task") as (figure, drawn):
        axes = figure.add_subplot()
        if steps < longest:
            axes.axvspan(steps, longest + 0.1, color=GRID, alpha=0.5, linewidth=0, zorder=0)
        for label, curve in found.items():
            _draw_curve(axes, curve, colors[label])
        for name, level in near.items():
            axes.axhline(level, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
            side: Any = ("bottom", 2) if level >= high or len(near) == 1 else ("top", -2)
            axes.annotate(
                level_label(name, level),
                (0.99, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, side[1]),
                textcoords="offset points",
                ha="right",
                va=side[0],
                fontsize=9,
                color=MUTED,
            )
        axes.set(xlim=(-0.1, longest + 0.1), ylim=limits)
        axes.xaxis.set_major_locator(FixedLocator([0]) if longest == 0 else MaxNLocator(integer=True))
        axes.set_xlabel("gradient steps on the new task")
        axes.set_ylabel("return of an episode")
        handles = [Line2D([], [], color=colors[label], marker="o", markersize=5, label=label) for label in results]
        handles.append(Line2D([], [], color=MUTED, label="most probable action", **DASHED))
        legend(figure, handles)
    return drawn


class Curve(NamedTuple):
    """Returns after 0, 1, ... steps ``[K + 1]``: mean, ends of its interval, and with the most probable action."""

    mean: Array
    low: Array
    high: Array
    mode: Array
    """mean return with the most probable action"""


def _curve(runs: Sequence[Mapping[str, Any]], longest: int) -> Curve:
    """Return means over seeds and tasks with the ends of their intervals."""
    sampled, mode = (np.asarray([run[name] for run in runs], dtype=np.float64) for name in ("sampled", "mode"))
    if sampled.shape[-1] == 1:  # does not adapt: the same after any number of steps
        sampled, mode = (np.repeat(scores, longest + 1, -1) for scores in (sampled, mode))
    return Curve(*stats.sample_efficiency(sampled, stats.mean, seed=0), mode.mean((0, 1)))


def _draw_curve(axes: Axes, curve: Curve, color: str) -> None:
    """Draw a line with its band."""
    x = np.arange(len(curve.mean))
    axes.fill_between(x, curve.low, curve.high, color=color, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(x, curve.mode, color=color, zorder=3, **DASHED)
    axes.plot(x, curve.mean, color=color, marker="o", markersize=5.5, zorder=4)


class Paid(NamedTuple):
    """A contender of `costs`: its costs ``[K + 1]``, the returns for them, and the column that counts."""

    cost: Array
    found: stats.Curve
    after: int


def costs(path: Path, title: str, lines: Mapping[str, Paid], label: str, colors: Mapping[str, str]) -> Drawn:
    """Draw sample efficiency on a new task: return against the cost of adapting so far.

    Args:
        path: where to write, without a suffix.
        title: title of the figure.
        lines: lines by label; one with a single point does not adapt, and is drawn as a horizontal line.
        label: label of the axis of costs.
        colors: colours by label.
    """
    every = np.concatenate([line.cost for line in lines.values()])
    low, high = visible(np.concatenate([line.found.estimate[: line.after + 1] for line in lines.values()]))
    high = max(high, *(float(line.found.estimate.max()) for line in lines.values()))
    pad = 0.12 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    with panel(path, title) as (figure, drawn):
        axes = figure.add_subplot()
        for name, (cost, found, after) in lines.items():
            if len(cost) == 1:
                axes.axhline(found.estimate[0], color=colors[name], linewidth=1.8, linestyle=(0, (5, 2)))
                continue
            axes.fill_between(cost, found.low, found.high, color=colors[name], alpha=0.18, linewidth=0)
            axes.plot(cost, found.estimate, color=colors[name], marker="o", markersize=4.5)
            axes.plot(cost[after], found.estimate[after], color=colors[name], marker="o", markersize=8.5)
        paid = every[every > 0]
        if paid.size and paid.max() > 30 * paid.min():
            axes.set_xscale("symlog", linthresh=decade_above(float(paid.min()) / 10.0), linscale=0.5)
            plain_numbers(axes.xaxis)
        axes.set(ylim=limits, xlim=(0.0, None))
        axes.set_xlabel(label)
        axes.set_ylabel("return of an episode")
        looks = {name: "-" if len(line.cost) > 1 else (0, (5, 2)) for name, line in lines.items()}
        legend(figure, [Line2D([], [], color=colors[name], linestyle=look, label=name) for name, look in looks.items()])
    return drawn


class Row(NamedTuple):
    """A row of a `forest`: an estimate, and optionally an earlier one, drawn in grey."""

    name: str
    found: Interval
    color: str
    before: Interval | None = None


def forest(path: Path, title: str, rows: Sequence[Row], label: str, *, line: float | None = None) -> Drawn:
    """Draw estimates with their intervals, one per row.

    Args:
        path: where to write, without a suffix.
        title: title of the figure.
        rows: rows from top to bottom.
        label: label of the axis.
        line: a value to compare with, drawn as a dotted line.
    """
    with panel(path, title, (SIZE[0], 1.3 + 0.34 * len(rows))) as (figure, drawn):
        axes = figure.add_subplot()
        _limits(axes, [found for row in rows for found in (row.found, row.before) if found is not None], line)
        for y, row in enumerate(rows):
            if row.before is not None:
                axes.hlines(y, row.before.estimate, row.found.estimate, color=GRID, linewidth=5.0, zorder=1)
                _estimate(axes, y, row.before, BEFORE)
            _estimate(axes, y, row.found, row.color)
        low, high = axes.get_xlim()
        if line is not None and low <= line <= high:
            axes.axvline(line, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        axes.set_yticks(range(len(rows)), [short(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=9, labelcolor=INK)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
    return drawn


def _estimate(axes: Axes, y: float, found: Interval, color: str) -> None:
    """Draw a point with its interval, or an arrow at the left edge for a point that lies beyond it."""
    low = axes.get_xlim()[0]
    axes.hlines(y, found.low, found.high, color=color, linewidth=2.2, zorder=3)
    inside = low <= found.estimate
    marker, size = ("o", 6.5) if inside else ("<", 8.0)
    at = found.estimate if inside else low
    axes.plot(at, y, color=color, marker=marker, markersize=size, clip_on=False, zorder=4)


def _limits(axes: Axes, found: Sequence[Interval], line: float | None) -> None:
    """Fit the axis to all intervals, but cut off those that are far longer or lower than the rest."""
    found = [one._replace(low=one.estimate, high=one.estimate) if np.isnan(one.low) else one for one in found]
    estimates = np.array([one.estimate for one in found])
    low, high = visible(estimates)
    usual = float(np.median([one.high - one.low for one in found]))
    reach = max(1.2 * usual, 0.35 * (high - low))
    left = max(min(one.low for one in found), low - reach)
    right = min(max(one.high for one in found), high + reach)
    if line == 0.0:  # differences have to be seen relative to zero
        left, right = min(left, line), max(right, line)
    pad = 0.05 * (right - left) or 1.0
    axes.set_xlim(left - pad, right + pad)


def scatter(path: Path, title: str, before: Array, after: Array, after_words: str) -> Drawn:
    """Draw every task's return after adapting against the one before.

    Args:
        path: where to write, without a suffix.
        title: title of the figure.
        before: returns before adapting ``[tasks]``, mean over seeds.
        after: returns after adapting ``[tasks]`` on the same tasks.
        after_words: how it adapted, for the label of the axis.
    """
    worse = after < before
    across, up = (before.min(), before.max()), (after.min(), after.max())
    ends = min(across[0], up[0]), max(across[1], up[1])
    apart = min(across[1], up[1]) - max(across[0], up[0]) < 0.2 * (ends[1] - ends[0])
    with panel(path, title, (SIZE[0], 3.7)) as (figure, drawn):
        axes = figure.add_subplot()
        axes.axline((ends[0], ends[0]), slope=1.0, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        for chosen, color in ((~worse, AFTER), (worse, COLORS[1])):
            axes.scatter(before[chosen], after[chosen], s=24, color=color, alpha=0.7, linewidths=0, zorder=2)
        if apart:  # equal axes would leave most of the figure empty
            axes.set(xlim=_padded(*across), ylim=_padded(*up))
        else:
            axes.set(xlim=_padded(*ends), ylim=_padded(*ends), aspect="equal")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("return before adapting")
        axes.set_ylabel(f"return {after_words}")
        handles = [
            Line2D([], [], color=AFTER, marker="o", linestyle="", label=f"no worse: {int((~worse).sum())} tasks"),
            Line2D([], [], color=COLORS[1], marker="o", linestyle="", label=f"worse: {int(worse.sum())} tasks"),
        ]
        legend(figure, handles)
    return drawn


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def by_constant(path: Path, name: str, groups: Mapping[str, tuple[Array, Array, str]], *, log: bool) -> Drawn:
    """Draw every task's return after adapting against one of its constants.

    Args:
        path: where to write, without a suffix.
        name: name of the constant, with its unit.
        groups: for every split, the constant ``[tasks]``, the return ``[tasks]`` and a colour.
        log: whether the constant's axis is logarithmic.
    """
    with panel(path, f"Return after adapting, by {name}", (SIZE[0], 3.7)) as (figure, drawn):
        axes = figure.add_subplot()
        for values, returns, color in groups.values():
            axes.scatter(values, returns, s=20, color=color, alpha=0.65, linewidths=0)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("return after adapting")
        handles = [
            Line2D([], [], color=color, marker="o", linestyle="", label=split)
            for split, (_, _, color) in groups.items()
        ]
        legend(figure, handles)
    return drawn


def profiles(path: Path, found: Mapping[str, Profile], points: Array, colors: Mapping[str, str], label: str) -> Drawn:
    """Draw performance profiles: the share of seed-task pairs above every score, with bands.

    Args:
        path: where to write, without a suffix.
        found: profiles by label.
        points: the scores ``[N]`` at which the profiles are given.
        colors: colours by label.
        label: label of the axis of scores.
    """
    with panel(path, "Share of tasks that score more than ...") as (figure, drawn):
        axes = figure.add_subplot()
        for name, profile in found.items():
            axes.fill_between(points, profile.low, profile.high, color=colors[name], alpha=0.18, linewidth=0)
            axes.plot(points, profile.share, color=colors[name])
        axes.set(xlim=(points[0], points[-1]), ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        axes.set_xlabel(label)
        axes.set_ylabel("share of tasks and seeds")
        handles = [Line2D([], [], color=colors[name], label=name) for name in found]
        legend(figure, handles)
    return drawn


class Learned(NamedTuple):
    """A line of `learning`: returns on training tasks ``[N]``, with intervals if there are several seeds."""

    label: str
    color: str
    style: str
    cost: Array
    found: stats.Curve


def learning(path: Path, lines: Sequence[Learned], label: str) -> Drawn:
    """Draw sample efficiency of meta-training: return on training tasks against the cost of training so far.

    Args:
        path: where to write, without a suffix.
        lines: lines of every contender, before and after adapting.
        label: label of the axis of costs.
    """
    with panel(path, "Meta-training: return on training tasks") as (figure, drawn):
        axes = figure.add_subplot()
        for line in lines:
            if (line.found.low < line.found.high).any():
                axes.fill_between(line.cost, line.found.low, line.found.high, color=line.color, alpha=0.2, linewidth=0)
            axes.plot(line.cost, line.found.estimate, color=line.color, linestyle=line.style, linewidth=1.8)
        low, high = visible(np.concatenate([line.found.estimate for line in lines]))
        pad = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - pad, high + pad)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(label)
        axes.set_ylabel("return of an episode")
        shown = {line.label: (line.color, line.style) for line in lines}
        handles = [Line2D([], [], color=c, linestyle=s, label=label) for label, (c, s) in shown.items()]
        legend(figure, handles)
    return drawn


def paths_by_step(
    path: Path, title: str, walks: Sequence[Sequence[Array]], start: Array, goal: Array, limit: float
) -> Drawn:
    """Draw paths in the plane on one task, in a square panel for every number of adaptation steps.

    Args:
        path: where to write, without a suffix.
        title: title of the figure.
        walks: positions ``[time, 2]`` of every episode after 0, 1, ... steps.
        start: start position ``[2]``.
        goal: goal position ``[2]``.
        limit: half the side of a panel, in units of length.
    """
    columns = min(2, len(walks))
    rows = -(-len(walks) // columns)
    with panel(path, title, (SIZE[0], 0.6 + rows * SIZE[0] / columns * 0.98)) as (figure, drawn):
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(walks) :]:
            axes.set_visible(False)
        for k, (axes, episodes) in enumerate(zip(grid.flat, walks, strict=False)):
            color = AFTER if k else BEFORE
            for walk in episodes:
                axes.plot(*walk.T, color=color, linewidth=1.0, alpha=0.75)
            axes.plot(*start, "o", color=INK, markersize=6, zorder=5)
            axes.plot(*goal, "*", color=COLORS[1], markersize=15, markeredgecolor="#ffffff", zorder=6)
            axes.set_title("before adapting" if not k else f"after {k} step{'s' * (k > 1)}")
            axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit))
            axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
            axes.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        handles = [
            Line2D([], [], color=INK, marker="o", linestyle="", markersize=6, label="start"),
            Line2D([], [], color=COLORS[1], marker="*", linestyle="", markersize=12, label="goal (hidden)"),
        ]
        legend(figure, handles)
    return drawn
