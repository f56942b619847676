"""Learning curves of fine-tuning: return against the environment steps spent on a held-out task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.figures.page import DASHED, INK, MUTED, Array, color_of, over, page
from metarl import stats


def finetuning(
    path: Path, benchmark: str, curves: Mapping[str, Mapping[str, Array]], results: Sequence[Mapping[str, Any]]
) -> list[Path]:
    """Draw learning curves of every way to start, and their paired differences to the first.

    Args:
        path: where to write, without a suffix.
        benchmark: name of the benchmark.
        curves: for every way, scores ``[seeds, tasks, points]`` with ``sampled`` and with ``mode`` actions.
        results: for every seed, ``env_steps`` ``[points]`` and the learner's ``own`` adaptation.
    """
    steps, colors = np.asarray(results[0]["env_steps"]), color_of(curves)
    seeds, tasks, _ = next(iter(curves.values()))["sampled"].shape
    with page(path, f"PPO on held-out tasks of {benchmark}", (10.6, 4.9)) as (figure, files):
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        for way, fields in curves.items():
            _band(left, steps, fields["sampled"], colors[way])
            left.plot(_place(steps, steps), fields["mode"].mean((0, 1)), color=colors[way], **DASHED)
        own, cost = (np.asarray([result["own"][field] for result in results]) for field in ("sampled", "env_steps"))
        left.plot(_place(cost.mean((0, 1)), steps)[-1], own[..., -1].mean(), "*", color=INK, markersize=13, zorder=5)
        left.set_ylabel("return of an episode")
        left.set_title(f"mean over {over(seeds, tasks)}" + ("; band: its 95 % interval" if seeds * tasks > 1 else ""))
        first, *others = curves
        right.axhline(0.0, color=INK, linewidth=1.0)
        for way in others:
            _band(right, steps, curves[way]["sampled"] - curves[first]["sampled"], colors[way])
        right.set_ylabel(f"return minus that {first}")
        right.set_title("paired by task and seed")
        for axes in (left, right):
            axes.set_xticks(_place(steps, steps), [f"{step:,}" for step in steps])
            axes.set_xlabel("environment steps on the task")
        handles = [Line2D([], [], color=colors[way], marker="o", label=way) for way in curves]
        handles.append(Line2D([], [], color=MUTED, label="most probable action", **DASHED))
        handles.append(Line2D([], [], color=INK, marker="*", linestyle="", markersize=11, label="metarl's own step"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return files


def _place(spent: Array, steps: Array) -> Array:
    """Return positions on the axis of environment steps: linear up to the first rollout, then one unit per doubling."""
    rollouts = np.asarray(spent, dtype=np.float64) / steps[1]
    return np.where(rollouts < 1.0, rollouts, 1.0 + np.log2(np.maximum(rollouts, 1.0)))


def _band(axes: Axes, steps: Array, scores: Array, color: str) -> None:
    """Draw the mean of scores ``[seeds, tasks, points]`` with a band of its interval, empty for a single score."""
    x = _place(steps, steps)
    mean, low, high = stats.sample_efficiency(scores, stats.mean, seed=0)
    axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0)
    axes.plot(x, mean, color=color, marker="o", markersize=5.5)
