"""Figures of a report: narrow, so that they can be read on a phone and stand side by side on a desk.

Each is drawn once and kept three times: PNG and SVG files with a title, and an SVG to be put into a page, which has no
background and whose colours are the page's (``var(--ink)``, ``var(--c0)``, ...), so that it follows a dark page.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from experiments.figures.page import AFTER, BEFORE, COLORS, DASHED, INK, MUTED, STYLE, Array, Results
from metarl import stats
from metarl.stats import Interval, Profile

SIZE = (4.2, 3.3)  # inches; a phone is about as wide
NARROW = {
    **STYLE,
    "font.size": 10.5,
    "axes.titlesize": 10.0,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",  # words stay words: they are found, read aloud and set in the page's own type
    "text.parse_math": False,  # a rule may be called $x$
}
LONGEST = 24  # letters of a label in a figure
GRID = STYLE["grid.color"]
THEME = {
    **{color.lower(): f"var(--c{i})" for i, color in enumerate(COLORS)},
    INK.lower(): "var(--ink)",
    MUTED.lower(): "var(--muted)",
    BEFORE.lower(): "var(--before)",
    str(GRID).lower(): "var(--grid)",
    "#ffffff": "var(--paper)",
}


@dataclass
class Drawn:
    """A figure: what it is called, its files, and the SVG for a page."""

    name: str
    title: str
    files: list[Path] = field(default_factory=list)
    svg: str = ""


@contextmanager
def panel(path: Path, title: str, size: tuple[float, float] = SIZE) -> Iterator[tuple[Figure, Drawn]]:
    """A figure of ``size`` inches; at the end it is written beside ``path``, and its page's SVG is made."""
    drawn = Drawn(path.name, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(NARROW), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the PNG's font lacks
        figure = Figure(figsize=size, layout="constrained")
        yield figure, drawn
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        drawn.svg = themed(buffer.getvalue(), drawn.name, title)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11.0, fontweight="bold")
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else {}
            file = path.with_name(f"{path.name}.{kind}")
            figure.savefig(file, dpi=160, facecolor="white", metadata=metadata)
            drawn.files.append(file)


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Below the axes. Matplotlib hides labels that start with an underscore; rules may be called so."""
    for handle in handles:
        label = _short(str(handle.get_label()))
        handle.set_label(f" {label}" if label.startswith("_") else label)
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _short(label: str) -> str:
    """A label that leaves room for the picture."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def themed(svg: str, prefix: str, title: str) -> str:
    """An SVG document made part of a page: no header, the page's colours and type, names of its own.

    Args:
        svg: as matplotlib writes it.
        prefix: put before every id, so that two figures of a page do not share one.
        title: read aloud instead of the picture.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    rest = re.sub(r"<!--.*?-->", "", rest, flags=re.S)
    rest = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend)[^"]*"', "", rest)
    own = re.sub(r"\W", "-", prefix)
    rest = re.sub(r' id="', f' id="{own}-', rest)
    rest = re.sub(r'(?:xlink:)?href="#', f'href="#{own}-', rest).replace("url(#", f"url(#{own}-")
    rest = re.sub(r"(?:font-family: |(?<=px ))'[^;\"]*sans-serif", _without_family, rest)
    for color, variable in THEME.items():
        rest = rest.replace(color, variable)
    rest = re.sub(r"\n\s*", "\n", rest)
    box_text = box.group(1) if box else ""
    return f'<svg viewBox="{box_text}" role="img" aria-label="{html.escape(title)}">{rest}'


def _without_family(match: re.Match[str]) -> str:
    """Matplotlib's fonts replaced by the page's."""
    return "font-family: inherit" if match.group(0).startswith("font-family") else "inherit"


def curves(path: Path, results: Results, steps: int, colors: Mapping[str, str]) -> Drawn:
    """Return against adaptation steps, with what lies beyond the trained number of ``steps`` shaded.

    A rule that breaks, or one that overshoots beyond the steps it was trained for, leaves the picture downwards
    rather than squeeze the others into its top.

    Args:
        path: where to write, without a suffix.
        results: by label, what `experiments.evaluate.measure` returned for every seed.
        steps: adaptation steps in training.
        colors: by label.
    """
    longest = max(len(runs[0]["sampled"][0]) for runs in results.values()) - 1
    found = {label: _curve(runs, longest) for label, runs in results.items()}
    low, high = visible(np.concatenate([curve.mean[: steps + 1] for curve in found.values()]))
    pad = 0.12 * (high - low) or 1.0
    references = {name: float(np.mean(v)) for name, v in next(iter(results.values()))[0]["references"].items()}
    near = {name: level for name, level in references.items() if low - 4 * pad <= level <= high + 4 * pad}
    limits = (min([low, *near.values()]) - pad, max([high, *near.values()]) + pad)
    with panel(path, "Return after 0, 1, ... gradient steps on a new task") as (figure, drawn):
        axes = figure.add_subplot()
        if steps < longest:
            axes.axvspan(steps, longest + 0.1, color=GRID, alpha=0.5, linewidth=0, zorder=0)
        for label, curve in found.items():
            _draw_curve(axes, curve, colors[label], limits)
        for name, level in near.items():
            axes.axhline(level, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
            told = f"{name} {level:,.1f}".replace("-", "\N{MINUS SIGN}")
            side: Any = ("bottom", 2) if level >= high or len(near) == 1 else ("top", -2)
            axes.annotate(
                told,
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("gradient steps on the new task")
        axes.set_ylabel("return of an episode")
        handles = [Line2D([], [], color=colors[label], marker="o", markersize=5, label=label) for label in results]
        handles.append(Line2D([], [], color=MUTED, label="most probable action", **DASHED))
        _legend(figure, handles)
    return drawn


class Curve(NamedTuple):
    """Returns after 0, 1, ... steps, ``[K + 1]`` each."""

    mean: Array
    low: Array
    high: Array
    mode: Array
    """of the most probable action"""


def _curve(runs: Sequence[Mapping[str, Any]], longest: int) -> Curve:
    """Means over seeds and tasks with the ends of their interval."""
    sampled, mode = (np.asarray([run[name] for run in runs], dtype=np.float64) for name in ("sampled", "mode"))
    if sampled.shape[-1] == 1:  # what does not adapt stays as it is
        sampled, mode = (np.repeat(scores, longest + 1, -1) for scores in (sampled, mode))
    mean = sampled.mean((0, 1))
    low, high = mean, mean
    if sampled[..., 0].size > 1:
        columns = [stats.interval(sampled[..., k], stats.mean, seed=0) for k in range(sampled.shape[-1])]
        low, high = (np.array([getattr(one, end) for one in columns]) for end in ("low", "high"))
    return Curve(mean, low, high, mode.mean((0, 1)))


def _draw_curve(axes: Axes, curve: Curve, color: str, limits: tuple[float, float]) -> None:
    """A line with its band, unless the band would cover the whole picture and say nothing."""
    x = np.arange(len(curve.mean))
    if not ((curve.low < limits[0]) & (curve.high > limits[1] - 0.1 * (limits[1] - limits[0]))).any():
        axes.fill_between(x, curve.low, curve.high, color=color, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(x, curve.mode, color=color, zorder=3, **DASHED)
    axes.plot(x, curve.mean, color=color, marker="o", markersize=5.5, zorder=4)


def visible(values: Array) -> tuple[float, float]:
    """The range of returns worth a picture: from the best down to all of them, unless some are very far below."""
    best, middle = float(np.max(values)), float(np.median(values))
    worst = float(np.min(values))
    return (max(worst, middle - 4.0 * (best - middle)) if best > middle else worst), best


class Row(NamedTuple):
    """An estimate of a `forest`, and perhaps an earlier one beside it, in grey."""

    name: str
    found: Interval
    color: str
    before: Interval | None = None


def forest(path: Path, title: str, rows: Sequence[Row], label: str, *, line: float | None = None) -> Drawn:
    """Estimates with their intervals, one row each.

    Args:
        path: where to write, without a suffix.
        title: of the figure.
        rows: from top to bottom.
        label: of the axis.
        line: a value to compare with, drawn dotted.
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
        axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=9, labelcolor=INK)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(label)
    return drawn


def _estimate(axes: Axes, y: float, found: Interval, color: str) -> None:
    """A point with its interval; an arrow at the left end for a point that lies beyond it."""
    low = axes.get_xlim()[0]
    axes.hlines(y, found.low, found.high, color=color, linewidth=2.2, zorder=3)
    inside = low <= found.estimate
    marker, size = ("o", 6.5) if inside else ("<", 8.0)
    at = found.estimate if inside else low
    axes.plot(at, y, color=color, marker=marker, markersize=size, clip_on=False, zorder=4)


def _limits(axes: Axes, found: Sequence[Interval], line: float | None) -> None:
    """All intervals, unless some are far longer or far lower than the rest."""
    estimates = np.array([one.estimate for one in found])
    low, high = visible(estimates)
    usual = float(np.median([one.high - one.low for one in found]))
    reach = max(1.2 * usual, 0.35 * (high - low))
    left = max(min(one.low for one in found), low - reach)
    right = min(max(one.high for one in found), high + reach)
    if line == 0.0:  # a difference is read against nothing at all
        left, right = min(left, line), max(right, line)
    pad = 0.05 * (right - left) or 1.0
    axes.set_xlim(left - pad, right + pad)


def scatter(path: Path, title: str, before: Array, after: Array, after_words: str) -> Drawn:
    """Every task's return after adapting against the one before.

    Args:
        path: where to write, without a suffix.
        title: of the figure.
        before: ``[tasks]``, mean over seeds.
        after: ``[tasks]``, the same tasks.
        after_words: what happened between, for the label of the axis.
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
        if apart:  # one square for both would leave most of it empty
            axes.set(xlim=_padded(*across), ylim=_padded(*up))
        else:
            axes.set(xlim=_padded(*ends), ylim=_padded(*ends), aspect="equal")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("return before adapting")
        axes.set_ylabel(f"return {after_words}")
        handles = [
            Line2D([], [], color=AFTER, marker="o", linestyle="", label=f"better: {int((~worse).sum())} tasks"),
            Line2D([], [], color=COLORS[1], marker="o", linestyle="", label=f"worse: {int(worse.sum())} tasks"),
        ]
        _legend(figure, handles)
    return drawn


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or 1.0
    return float(low - pad), float(high + pad)


def by_constant(path: Path, name: str, groups: Mapping[str, tuple[Array, Array, str]], *, log: bool) -> Drawn:
    """Every task's return after adapting against one of its constants.

    Args:
        path: where to write, without a suffix.
        name: of the constant, with its unit.
        groups: by split, the constant ``[tasks]``, the return ``[tasks]`` and a colour.
        log: whether the constant is drawn on a logarithmic scale.
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
        _legend(figure, handles)
    return drawn


def profiles(path: Path, found: Mapping[str, Profile], points: Array, colors: Mapping[str, str], label: str) -> Drawn:
    """Share of seed-task pairs above every score, with bands.

    Args:
        path: where to write, without a suffix.
        found: by label.
        points: the scores ``[N]``.
        colors: by label.
        label: of the axis of scores.
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
        _legend(figure, handles)
    return drawn


def rates_by_step(path: Path, title: str, rates: Mapping[str, Array]) -> Drawn:
    """The effective step size of every parameter tensor ``[K]`` at each adaptation step."""
    with panel(path, title) as (figure, drawn):
        axes = figure.add_subplot()
        every = np.concatenate([np.abs(line) for line in rates.values()])
        small = float(np.median(every[every > 0])) if (every > 0).any() else 1.0
        for i, line in enumerate(rates.values()):
            color = COLORS[i % len(COLORS)]
            axes.plot(np.arange(1, len(line) + 1), line, color=color, marker="o", markersize=5, linewidth=1.6)
        axes.axhline(0.0, color=INK, linewidth=0.9)
        if every.max() > 20 * small:
            axes.set_yscale("symlog", linthresh=small)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("adaptation step")
        axes.set_ylabel("effective step size")
        _legend(figure, _tensor_handles(rates))
    return drawn


def _tensor_handles(names: Mapping[str, Any]) -> list[Line2D]:
    return [
        Line2D([], [], color=COLORS[i % len(COLORS)], marker="o", label=name.removeprefix("network."))
        for i, name in enumerate(names)
    ]


def rate_strips(path: Path, rates: Mapping[str, Array]) -> Drawn:
    """The learned step sizes of every parameter tensor: all, the middle 90 % and half of them, and the median."""
    with panel(path, "Learned step sizes by parameter tensor", (SIZE[0], 1.3 + 0.42 * len(rates))) as (figure, drawn):
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
            axes.set_xscale("symlog", linthresh=typical)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_yticks(range(len(rates)), [_short(name.removeprefix("network.")) for name in rates])
        axes.set_ylim(len(rates) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("step size")
    return drawn


def tuning(path: Path, trials: Mapping[str, tuple[Array, Array, float]], colors: Mapping[str, str]) -> Drawn:
    """Validation return against the step size tried, the chosen one filled.

    Args:
        path: where to write, without a suffix.
        trials: by rule, step sizes ``[R]``, returns ``[R]`` and the chosen step size.
        colors: by rule.
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
            axes.set_xticks(grid, [f"{rate:g}" for rate in grid])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("(first) step size")
        axes.set_ylabel("return on validation tasks")
        handles = [Line2D([], [], color=colors.get(rule, MUTED), marker="o", label=rule) for rule in trials]
        _legend(figure, handles)
    return drawn


def learning(path: Path, lines: Sequence[tuple[str, str, str, Array, Array]]) -> Drawn:
    """Return on training tasks against environment steps.

    Args:
        path: where to write, without a suffix.
        lines: label, colour, line style, environment steps ``[N]`` and returns ``[N]``.
    """
    with panel(path, "Meta-training: return on training tasks") as (figure, drawn):
        axes = figure.add_subplot()
        for _, color, style, steps, returns in lines:
            axes.plot(steps / 1e6, returns, color=color, linestyle=style, linewidth=1.8)
        low, high = visible(np.concatenate([returns for *_, returns in lines]))
        pad = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - pad, high + pad)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("environment steps (millions)")
        axes.set_ylabel("return of an episode")
        shown = {label: (color, style) for label, color, style, _, _ in lines}
        handles = [Line2D([], [], color=c, linestyle=s, label=label) for label, (c, s) in shown.items()]
        _legend(figure, handles)
    return drawn


def paths_by_step(
    path: Path, title: str, walks: Sequence[Sequence[Array]], start: Array, goal: Array, limit: float
) -> Drawn:
    """Paths in the plane on one task, a square for every number of adaptation steps.

    Args:
        path: where to write, without a suffix.
        title: of the figure.
        walks: after 0, 1, ... steps, positions ``[time, 2]`` of each episode.
        start: ``[2]``.
        goal: ``[2]``.
        limit: half the side of a square.
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
        _legend(figure, handles)
    return drawn
