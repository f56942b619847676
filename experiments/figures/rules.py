"""Figures of many rules side by side: their returns after adapting, and how far they step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.evaluate import score_matrix
from experiments.figures.page import COLORS, INK, MUTED, Results, color_of, over, page
from metarl import stats


def ranking(path: Path, results: Results, *, reference: str) -> list[Path]:
    """Draw the reported return of every contender after adapting, with its interval, the best first.

    Args:
        path: where to write, without a suffix.
        results: results of every seed by contender; their ``reported`` is the column that is drawn.
        reference: contender whose return is marked by a line, to compare the others with.
    """
    scores = {rule: score_matrix(runs)[..., [runs[0]["reported"]]] for rule, runs in results.items()}
    found = {rule: stats.sample_efficiency(one, stats.mean, seed=0) for rule, one in scores.items()}
    if not found:
        return []
    order = sorted(found, key=lambda rule: -float(found[rule].estimate[0]))
    best, worst = float(found[order[0]].high[0]), min(float(one.low[0]) for one in found.values())
    with page(path, "Return after adapting", (7.4, 1.6 + 0.3 * len(order))) as (figure, files):
        axes = figure.add_subplot()
        for y, rule in enumerate(order):
            one, color = found[rule], COLORS[1] if rule == reference else COLORS[0]
            axes.hlines(y, one.low, one.high, color=color, linewidth=2.0)
            axes.plot(one.estimate, y, "o", color=color, markersize=6.0)
        axes.axvline(found[reference].estimate[0], color=COLORS[1], linewidth=1.0, linestyle=(0, (3, 2)), zorder=0)
        if best - worst > 100.0 and worst < 10.0 * min(best, 0.0):  # a broken rule must not squeeze the others
            straight = max(1.0, 2.0 * abs(best))
            axes.set_xscale("symlog", linthresh=straight)
            axes.set_xlim(right=max(0.0, best) + 0.05 * max(1.0, abs(best)))
            powers = [-(10.0**k) for k in range(math.ceil(math.log10(straight)), math.floor(math.log10(-worst)) + 1)]
            if powers:
                axes.set_xticks([*powers, 0.0], [f"{tick:g}".replace("-", "−") for tick in (*powers, 0.0)])
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.grid(False, axis="y")
        seeds, tasks = len(results[order[0]]), len(results[order[0]][0]["sampled"])
        told = "mean and 95 % interval" if seeds * tasks > 1 else "mean"
        axes.set_title(f"held-out tasks; {told} over {over(seeds, tasks)}")
        axes.set_xlabel("return of an episode")
    return files


def step_lengths(path: Path, results: Results) -> list[Path]:
    """Draw the effective step size of every parameter tensor at every step, in a panel per rule; see `effective_rates`.

    Args:
        path: where to write, without a suffix.
        results: results of `experiments.evaluate.measure` for every seed, by rule.
    """
    rates = {rule: [run["learned"]["effective rates"] for run in runs if "effective rates" in run.get("learned", {})]
             for rule, runs in results.items()}  # fmt: skip
    rates = {rule: found for rule, found in rates.items() if found}
    if not rates:
        return []
    columns = min(4, len(rates))
    rows = -(-len(rates) // columns)
    tensors = list(dict.fromkeys(name for found in rates.values() for name in found[0]))
    colors = color_of(tensors)
    size = max(5.0, 2.9 * columns + 0.6), max(4.2, 2.2 * rows + 1.2)  # a single panel needs room for title and legend
    with page(path, "How far each rule steps", size) as (figure, files):
        panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).reshape(-1)
        for axes, (rule, seeds) in zip(panels, rates.items(), strict=False):
            for name in tensors:
                lines = np.array([seed[name] for seed in seeds if name in seed])
                if not lines.size:
                    continue
                x = np.arange(1, lines.shape[1] + 1)
                axes.plot(x, np.median(lines, 0), color=colors[name], marker="o", markersize=3.5, linewidth=1.4)
            axes.axhline(0.0, color=INK, linewidth=0.8)
            axes.set_yscale("symlog", linthresh=0.01)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            negative = [run["learned"].get("meta/rate_negative") for run in results[rule]]
            share = [value for value in negative if value is not None]
            axes.set_title(rule + (f", {100 * np.mean(share):.0f} % negative" if share else ""), fontsize=9)
        for axes in panels[len(rates) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(rates) - columns) : len(rates)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("adaptation step")
        handles = [
            Line2D([], [], color=colors[name], marker="o", label=name.removeprefix("network.")) for name in tensors
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, columns + 1, len(handles)))
        figure.supylabel("step size along the gradient,\nmedian of seeds and tasks", fontsize=10, color=MUTED)
    return files
