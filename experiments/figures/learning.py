"""Learning curves: return on training tasks against environment steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.figures.page import BEFORE, Array, color_of, page, with_seeds

OTHER_REWARDS = "after adapting in other units, as scored in"


def learning_curve(path: Path, runs: Mapping[str, list[Path]], *, scored_in: str | None = None) -> list[Path]:
    """Draw the return on training tasks against environment steps, before and after adapting.

    Args:
        path: where to write, without a suffix.
        runs: run folders with a ``metrics.jsonl`` by label, one per seed; those of one iteration have no curve.
        scored_in: benchmark whose rewards score the adapted policy in training, if it is not the training benchmark.
    """
    read = {label: map(read_metrics, folders) for label, folders in runs.items()}
    found = {label: [m for m in own if m and len(m["env_steps_total"]) > 1] for label, own in read.items()}
    found = {label: metrics for label, metrics in found.items() if metrics}
    if not found:
        return []
    with page(path, "Meta-training: return on training tasks", (6.4, 4.4)) as (figure, files):
        axes = figure.add_subplot()
        handles: list[Any] = []
        for label, metrics in found.items():
            for key, words in _first_and_last(metrics[0]).items():
                color, style = color_of(found)[label], "-"
                if key == "return/step_0" and len(found) == 1:
                    color = BEFORE
                elif key == "return/step_0":
                    style = ":"
                _draw_learning(axes, metrics, key, color, style)
                name = words if len(found) == 1 else f"{with_seeds(label, metrics)}, {words}"
                handles.append(Line2D([], [], color=color, linestyle=style, label=name))
        title = f"not held-out performance; {_spread_note(found)}"
        axes.set_title(f"{title}\n{OTHER_REWARDS} {scored_in}" if scored_in else title)
        axes.set_xlabel("environment steps, adaptation included (millions)")
        axes.set_ylabel("return of an episode")
        axes.set_xlim(left=0.0)
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return files


def _first_and_last(metrics: Mapping[str, Array]) -> dict[str, str]:
    """Return the keys of the returns before and after all adaptation steps, with their texts in the legend."""
    steps = max(int(key.rpartition("_")[2]) for key in metrics if key.startswith("return/step_"))
    words = {"return/step_0": "before adapting" if steps else "without adapting"}
    return words | ({f"return/step_{steps}": f"after {steps} gradient step{'s' * (steps > 1)}"} if steps else {})


def _spread_note(found: Mapping[str, list[dict[str, Array]]]) -> str:
    seeds = [len(metrics) for metrics in found.values()]
    if max(seeds) > 1:
        return "smoothed mean of the seeds; band: lowest to highest seed"
    return "one seed, smoothed; faint: every iteration"


def read_metrics(folder: Path, more: Sequence[str] = ()) -> dict[str, Array]:
    """Read columns of a run's ``metrics.jsonl``: returns, environment steps, and those in ``more`` if they exist.

    Returns:
        Columns by name, empty without rows. Numbers that were not finite are NaN.
    """
    file = folder / "metrics.jsonl"
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    wanted = [key for key in (rows[0] if rows else {}) if key.startswith("return/step_")]
    if not wanted or "env_steps_total" not in rows[0]:
        return {}
    return {
        key: np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=np.float64)
        for key in ("env_steps_total", *wanted, *(name for name in more if name in rows[0]))
    }


def _draw_learning(axes: Axes, metrics: list[dict[str, Array]], key: str, color: str, style: str) -> None:
    """Draw the mean over seeds of smoothed curves, interpolated to common points.

    The band spans the seeds; a single seed shows every iteration instead.
    """
    curves = [(m["env_steps_total"] / 1e6, m[key]) for m in metrics if key in m]
    curves = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in curves]
    curves = [(x, y) for x, y in curves if len(x)]
    if not curves:
        return
    grid = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), 300)
    smooth = np.array([np.interp(grid, x, running_mean(y)) for x, y in curves])
    if len(curves) == 1:
        axes.plot(*curves[0], color=color, alpha=0.25, linewidth=0.8)
    else:
        axes.fill_between(grid, smooth.min(0), smooth.max(0), color=color, alpha=0.2, linewidth=0)
    axes.plot(grid, smooth.mean(0), color=color, linestyle=style)


def running_mean(values: Array) -> Array:
    """Return the centred running mean over a twentieth of the values; the window shrinks at the ends."""
    window = np.ones(max(1, len(values) // 20))
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts
