"""Return against adaptation steps on held-out tasks, for one learner and for a comparison of rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.evaluate import score_matrix
from experiments.figures.page import DASHED, INK, MUTED, Array, Results, color_of, level_label, over, page, with_seeds
from metarl import stats


def adaptation_curves(path: Path, results: Results) -> list[Path]:
    """Draw the return against adaptation steps on held-out tasks.

    Args:
        path: where to write, without a suffix.
        results: results of `experiments.evaluate.measure` for every seed, by label.
    """
    results = {label: runs for label, runs in results.items() if runs}
    if not results:
        return []
    first = next(iter(results.values()))[0]
    with page(path, _held_out_title(first), (6.4, 4.4)) as (figure, files):
        axes = figure.add_subplot()
        handles = draw_curves(axes, results)
        axes.set_title(_band_note(results))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return files


def draw_curves(axes: Axes, results: Results) -> list[Any]:
    """Draw curves with bands and reference lines on ``axes``; return the legend's entries."""
    first = next(iter(results.values()))[0]
    handles: list[Any] = []
    colors = color_of(results)
    columns = max(len(runs[0]["sampled"][0]) for runs in results.values())
    for label, runs in results.items():
        color = colors[label]
        sampled, mode = (_lasting(score_matrix(runs, field), columns) for field in ("sampled", "mode"))
        steps = np.arange(sampled.shape[-1])
        if len(results) == 1 and sampled.shape[1] <= 100:
            faint = {"color": color, "alpha": 0.13, "linewidth": 0.8, "zorder": 1}
            axes.plot(steps, sampled.mean(0).T, **faint)
            handles.append(Line2D([], [], **{**faint, "alpha": 0.4}, label="single tasks"))
        _, low, high = stats.sample_efficiency(sampled, stats.mean, seed=0)
        axes.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0, zorder=2)
        style = {"color": color, "marker": "o", "markersize": 5.5, "zorder": 3}
        axes.plot(steps, sampled.mean((0, 1)), **style)
        axes.plot(steps, mode.mean((0, 1)), color=color, zorder=3, **DASHED)
        handles.append(Line2D([], [], color=color, marker="o", label=with_seeds(label, runs)))
    handles.append(Line2D([], [], color=MUTED, label="most probable action", **DASHED))
    _reference_lines(axes, first["references"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("gradient steps on the new task" + _each(results))
    axes.set_ylabel("return of an episode")
    return handles


def _each(results: Results) -> str:
    """Say how many episodes a step is taken on; empty if not known, or not the same for all that adapt."""
    adapting = [runs[0] for runs in results.values() if len(runs[0]["sampled"][0]) > 1]
    told = {run["protocol"].get("episodes") for run in adapting}
    episodes = told.pop() if len(told) == 1 else None
    return f" ({episodes} episode{'s' * (episodes > 1)} each)" if episodes else ""


def _lasting(scores: Array, columns: int) -> Array:
    """Repeat the single score of a policy that does not adapt, since it is the same after any number of steps."""
    return np.repeat(scores, columns, -1) if scores.shape[-1] == 1 else scores


def _reference_lines(axes: Axes, references: Mapping[str, Sequence[float]]) -> None:
    """Draw the mean ceiling and floor of the tasks, unless they would squeeze the curves into a corner."""
    low, high = axes.get_ylim()
    reach = 0.8 * (high - low)
    means = {name: float(np.mean(values)) for name, values in references.items()}
    levels = {name: level for name, level in means.items() if low - reach <= level <= high + reach}
    for level in levels.values():
        axes.axhline(level, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
    low, high = axes.get_ylim()
    close = np.ptp(list(levels.values())) < 0.1 * (high - low) if levels else False
    for name, level in levels.items():
        axes.annotate(
            level_label(name, level),
            (1.015, level),
            xycoords=("axes fraction", "data"),
            # labels of lines that are close together are placed away from each other
            va="center" if not close else "bottom" if level == max(levels.values()) else "top",
            fontsize=9,
            color=MUTED,
        )


def _held_out_title(result: Mapping[str, Any]) -> str:
    tasks = len(result["sampled"])
    split = "a task of your own" if result["split"] == "constants" else f"{tasks} held-out tasks ({result['split']})"
    return f"Adaptation on {result['benchmark']}: {split}"


def _band_note(results: Results) -> str:
    """Say what the curves and their bands show."""
    runs = next(iter(results.values()))
    seeds, tasks = max(len(r) for r in results.values()), len(runs[0]["sampled"])
    if seeds * tasks < 2:
        return "sampled actions"
    return f"mean over {over(seeds, tasks)}; band: its 95 % interval"


def comparison(path: Path, results: Results, *, reference: str | None = None) -> list[Path]:
    """Draw adaptation curves of several labels, and their paired differences to one of them.

    Differences are taken task by task and seed by seed, so that the difficulty of tasks cancels.

    Args:
        path: where to write, without a suffix.
        results: results of `experiments.evaluate.measure` for every seed, by label.
        reference: the label to subtract; defaults to the last.
    """
    results = {label: runs for label, runs in results.items() if runs}
    if len(results) < 2:
        return adaptation_curves(path, results)
    reference = list(results)[-1] if reference is None else reference
    with page(path, _held_out_title(results[reference][0]), (10.6, 4.7)) as (figure, files):
        figure.get_layout_engine().set(wspace=0.05)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        handles = draw_curves(left, results)
        left.set_title(_band_note(results))
        _differences(right, results, reference)
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return files


def _differences(axes: Axes, results: Results, reference: str) -> None:
    """Draw every label's return minus the reference's, as points with intervals, side by side at every step."""
    axes.axhline(0.0, color=INK, linewidth=1.0)
    others, colors = [label for label in results if label != reference], color_of(results)
    for i, label in enumerate(others):
        for k, (a, b) in enumerate(_pairs(results[label], results[reference])):
            found = stats.paired_interval(a, b, stats.mean, seed=0)
            x = k + 0.12 * (i - (len(others) - 1) / 2)
            axes.vlines(x, found.low, found.high, color=colors[label], linewidth=2.0)
            axes.plot(x, found.estimate, "o", color=colors[label], markersize=6.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("gradient steps on the new task")
    axes.set_ylabel(f"return minus that of {reference}")
    axes.set_title("paired by task and seed; bars: 95 % interval")


def _pairs(runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> Iterator[tuple[Array, Array]]:
    """Yield the scores ``[seeds, tasks]`` of both after 0, 1, ... steps on common seeds; nothing if tasks differ."""
    theirs = {run["seed"]: run for run in reference}
    shared = [run for run in runs if run["seed"] in theirs]
    same = runs[0]["task"] == reference[0]["task"] and runs[0]["fingerprint"] == reference[0]["fingerprint"]
    if not shared or not same or len(shared) * len(runs[0]["sampled"]) < 2:
        return
    ours, others = score_matrix(shared), score_matrix([theirs[run["seed"]] for run in shared])
    columns = max(ours.shape[-1], others.shape[-1])
    ours, others = _lasting(ours, columns), _lasting(others, columns)
    for k in range(min(ours.shape[-1], others.shape[-1])):
        yield ours[..., k], others[..., k]
