"""Figures of runs: adaptation curves, learning curves, step sizes, paths, and rules compared.

Every function takes a path and writes a PNG and an SVG beside each other under that name. Figures are built without
pyplot, so that no display is needed and no global state is left behind.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from envs import Navigation
from experiments.build import Setup, stream
from experiments.config import Config
from experiments.evaluate import Protocol, held_out_tasks, score_matrix
from metarl import Batch, Learner, stats
from metarl.rollouts import collect, to_device
from metarl.rules import Rates
from metarl.trees import tree_detach
from metarl.types import Params, Task

Array = NDArray[np.float64]
Results = Mapping[str, list[dict[str, Any]]]

# Okabe & Ito (2008): told apart with any of the common colour-vision deficiencies.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BEFORE, AFTER, INK, MUTED = "#8C8C8C", COLORS[0], "#222222", "#5F5F5F"
SHOWN = 4  # episodes drawn of a policy: more of them hide each other
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
    "svg.hashsalt": "metarl",  # the same picture is the same file
}


@contextmanager
def page(path: Path, title: str, size: tuple[float, float]) -> Iterator[tuple[Figure, list[Path]]]:
    """A figure of ``size`` inches, and the files it is written to at the end."""
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


def draw_run(folder: Path, config: Config, setup: Setup, device: torch.device) -> list[Path]:
    """Draw what a run folder has the inputs for, into ``folder/figures``; what is missing is left out."""
    target, name = folder / "figures", config.rule
    files: list[Path] = []
    for source in sorted((folder / "evaluation").glob("*.json")):
        result = json.loads(source.read_text())
        files += adaptation_curves(target / f"adaptation-{source.stem}", {name: [result]})
    if (folder / "metrics.jsonl").exists():
        files += learning_curve(target / "learning", {name: [folder]})
    files += step_sizes(target / "step-sizes", setup.learner)
    files += paths_in_the_plane(target / "paths", setup, device)
    if files:
        print(f"figures: {target}")
    return files


# --- adaptation curves ------------------------------------------------------------------------------------------


def adaptation_curves(path: Path, results: Results) -> list[Path]:
    """Return against adaptation steps on held-out tasks.

    Args:
        path: where to write, without a suffix.
        results: by label, what `experiments.evaluate.measure` returned for every seed.
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
    """Curves with bands and reference lines on ``axes``; returns the legend's entries."""
    first = next(iter(results.values()))[0]
    handles: list[Any] = []
    colors = _colors(results)
    columns = max(len(runs[0]["sampled"][0]) for runs in results.values())
    for label, runs in results.items():
        color = colors[label]
        sampled, mode = (_lasting(score_matrix(runs, field), columns) for field in ("sampled", "mode"))
        steps = np.arange(sampled.shape[-1])
        if len(results) == 1 and sampled.shape[1] <= 100:
            faint = {"color": color, "alpha": 0.13, "linewidth": 0.8, "zorder": 1}
            axes.plot(steps, sampled.mean(0).T, **faint)
            handles.append(Line2D([], [], **{**faint, "alpha": 0.4}, label="single tasks"))
        low, high = _bands(sampled)
        axes.fill_between(steps, low, high, color=color, alpha=0.25, linewidth=0, zorder=2)
        style = {"color": color, "marker": "o", "markersize": 5.5, "zorder": 3}
        axes.plot(steps, sampled.mean((0, 1)), **style)
        axes.plot(steps, mode.mean((0, 1)), color=color, zorder=3, **DASHED)
        handles.append(Line2D([], [], color=color, marker="o", label=_with_seeds(label, runs)))
    handles.append(Line2D([], [], color=MUTED, label="most probable action", **DASHED))
    _reference_lines(axes, first["references"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    episodes = first["protocol"].get("episodes")
    axes.set_xlabel("gradient steps on the new task" + (f" ({episodes} episodes each)" if episodes else ""))
    axes.set_ylabel("return of an episode")
    return handles


def _lasting(scores: Array, columns: int) -> Array:
    """A policy that does not adapt, scored once, is worth the same after any number of steps."""
    return np.repeat(scores, columns, -1) if scores.shape[-1] == 1 else scores


def _bands(scores: Array) -> tuple[Array, Array]:
    """Ends ``[K + 1]`` of the 95 % interval of the mean of ``[seeds, tasks, K + 1]``; one score has no width."""
    if scores[..., 0].size < 2:
        flat = scores.mean((0, 1))
        return flat, flat
    found = [stats.interval(scores[..., k], stats.mean, seed=0) for k in range(scores.shape[-1])]
    return np.array([f.low for f in found]), np.array([f.high for f in found])


def _reference_lines(axes: Axes, references: Mapping[str, Sequence[float]]) -> None:
    """Ceiling and floor, means over tasks, where they do not squeeze the curves into a corner of the picture."""
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
            f"{name} {level:,.1f}".replace("-", "\N{MINUS SIGN}"),
            (1.015, level),
            xycoords=("axes fraction", "data"),
            # words beside lines that are close lean away from each other
            va="center" if not close else "bottom" if level == max(levels.values()) else "top",
            fontsize=9,
            color=MUTED,
        )


def _held_out_title(result: Mapping[str, Any]) -> str:
    tasks = len(result["sampled"])
    split = "a task of your own" if result["split"] == "constants" else f"{tasks} held-out tasks ({result['split']})"
    return f"Adaptation on {result['benchmark']}: {split}"


def _band_note(results: Results) -> str:
    """What the band is; nothing where there is none."""
    runs = next(iter(results.values()))
    seeds, tasks = max(len(r) for r in results.values()), len(runs[0]["sampled"])
    if seeds * tasks < 2:
        return "sampled actions"
    over = f"{seeds} seeds and {tasks} tasks" if seeds > 1 and tasks > 1 else f"{tasks} tasks, one seed"
    if tasks == 1:
        over = f"{seeds} seeds, one task"
    return f"mean over {over}; band: its 95 % interval"


def _with_seeds(label: str, runs: Sequence[object]) -> str:
    return f"{label}, {len(runs)} seeds" if len(runs) > 1 else label


def _colors(labels: Iterable[str]) -> dict[str, str]:
    return dict(zip(labels, itertools.cycle(COLORS), strict=False))


# --- comparing rules --------------------------------------------------------------------------------------------


def comparison(path: Path, results: Results, *, reference: str | None = None) -> list[Path]:
    """Adaptation curves of several labels, and their paired differences to one of them.

    Differences are taken task by task and seed by seed, so that hard tasks cancel.

    Args:
        path: where to write, without a suffix.
        results: by label, what `experiments.evaluate.measure` returned for every seed.
        reference: the label to subtract; the last unless given.
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
    """Points with intervals of each label's return minus the reference's, side by side at every step."""
    axes.axhline(0.0, color=INK, linewidth=1.0)
    others, colors = [label for label in results if label != reference], _colors(results)
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
    """Scores ``[seeds, tasks]`` of both after 0, 1, ... steps, on common seeds and tasks; nothing without them."""
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


# --- learning curves --------------------------------------------------------------------------------------------


def learning_curve(path: Path, runs: Mapping[str, list[Path]]) -> list[Path]:
    """Return on the training tasks against environment steps, before and after adapting.

    Args:
        path: where to write, without a suffix.
        runs: by label, run folders with a ``metrics.jsonl``, one a seed.
    """
    found = {label: [m for m in map(read_metrics, folders) if m] for label, folders in runs.items()}
    found = {label: metrics for label, metrics in found.items() if metrics}
    if not found:
        return []
    with page(path, "Meta-training: return on training tasks", (6.4, 4.4)) as (figure, files):
        axes = figure.add_subplot()
        handles: list[Any] = []
        for label, metrics in found.items():
            for key, words in _first_and_last(metrics[0]).items():
                color, style = _colors(found)[label], "-"
                if key == "return/step_0" and len(found) == 1:
                    color = BEFORE
                elif key == "return/step_0":
                    style = ":"
                _draw_learning(axes, metrics, key, color, style)
                name = words if len(found) == 1 else f"{_with_seeds(label, metrics)}, {words}"
                handles.append(Line2D([], [], color=color, linestyle=style, label=name))
        axes.set_title(f"not held-out performance; {_spread_note(found)}")
        axes.set_xlabel("environment steps, adaptation included (millions)")
        axes.set_ylabel("return of an episode")
        axes.set_xlim(left=0.0)
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return files


def _first_and_last(metrics: Mapping[str, Array]) -> dict[str, str]:
    """The returns before and after all adaptation steps, with words for the legend."""
    steps = max(int(key.rpartition("_")[2]) for key in metrics if key.startswith("return/step_"))
    words = {"return/step_0": "before adapting" if steps else "without adapting"}
    return words | ({f"return/step_{steps}": f"after {steps} gradient step{'s' * (steps > 1)}"} if steps else {})


def _spread_note(found: Mapping[str, list[dict[str, Array]]]) -> str:
    seeds = [len(metrics) for metrics in found.values()]
    if max(seeds) > 1:
        return "smoothed mean of the seeds; band: lowest to highest seed"
    return "one seed, smoothed; faint: every iteration"


def read_metrics(folder: Path) -> dict[str, Array]:
    """Columns of a run's ``metrics.jsonl`` by name; numbers that were not finite are NaN; empty without rows."""
    file = folder / "metrics.jsonl"
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    wanted = [key for key in (rows[0] if rows else {}) if key.startswith("return/step_")]
    if not wanted or "env_steps_total" not in rows[0]:
        return {}
    return {
        key: np.array([np.nan if row.get(key) is None else row[key] for row in rows], dtype=np.float64)
        for key in ("env_steps_total", *wanted)
    }


def _draw_learning(axes: Axes, metrics: list[dict[str, Array]], key: str, color: str, style: str) -> None:
    """The mean over seeds of smoothed curves on common points; a single seed also shows every iteration."""
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
    """Centred mean over a twentieth of the values; the window shrinks at the ends."""
    window = np.ones(max(1, len(values) // 20))
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts


# --- step sizes -------------------------------------------------------------------------------------------------


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


# --- paths ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def before_and_after(
    setup: Setup, task: Task, episodes: int, generator: torch.Generator, device: torch.device
) -> tuple[Batch, Batch]:
    """The episodes that one gradient step is taken on, and fresh ``episodes`` after it; both ``[T, H, N, ...]``."""
    learner, family, task = setup.learner, setup.benchmark.family, to_device(task, device)
    shared, state = learner.start()
    params = tree_detach(shared)
    before = collect(learner.policy, params, family, task, setup.plan.episodes, generator=generator)
    step = torch.vmap(learner.step, in_dims=(None, None, 0))
    params, _ = step(params, state, setup.plan.support(before))
    after = collect(learner.policy, tree_detach(params), family, task, episodes, generator=generator)
    return before, after


def first_tasks(setup: Setup, tasks: int) -> Params:
    """The first of the held-out tasks that runs are scored on, so that a picture shows a task of the results."""
    scored = held_out_tasks(setup.benchmark, Protocol(tasks=max(tasks, Protocol.tasks)))
    return {name: value[:tasks] for name, value in scored.items()}


def paths_in_the_plane(path: Path, setup: Setup, device: torch.device, tasks: int = 6) -> list[Path]:
    """Paths of 2-D navigation before and after one gradient step on held-out tasks; nothing for other families."""
    if not isinstance(setup.benchmark.family, Navigation):
        return []
    task = first_tasks(setup, tasks)
    noise = stream(Protocol().seed, "paths", device)
    before, after = before_and_after(setup, task, SHOWN, noise, device)
    rows, columns = -(-tasks // 3), min(tasks, 3)
    size = (2.5 * columns + 0.8, 2.5 * rows + 1.5)
    with page(path, f"Paths on held-out tasks of {setup.benchmark.name}", size) as (figure, files):
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[tasks:]:
            axes.set_visible(False)
        for i, axes in enumerate(grid.flat[:tasks]):
            for walk in walks(before, task, i)[:SHOWN]:
                axes.plot(*walk.T, color=BEFORE, linewidth=0.8, alpha=0.6)
            for walk in walks(after, task, i):
                axes.plot(*walk.T, color=AFTER, linewidth=0.9, alpha=0.7)
            _mark(axes, task, i)
            axes.label_outer()
        limit = extent(before, after, task)
        grid[0, 0].set(xlim=(-limit, limit), ylim=(-limit, limit))
        figure.legend(handles=_path_handles(setup.plan.episodes), loc="outside lower center", ncols=2)
    return files


def extent(before: Batch, after: Batch, task: Task) -> float:
    """Half the width of a square about the origin that shows every goal and start and nearly all positions."""
    fixed = torch.cat([task[name].abs() for name in ("goal_x", "goal_y", "start_x", "start_y")])
    seen = torch.cat([batch.observation[batch.mask.bool()].abs().flatten().cpu() for batch in (before, after)])
    return float(torch.maximum(1.25 * fixed.max(), 1.2 * torch.tensor(np.quantile(seen.numpy(), 0.995))))


def walks(batch: Batch, task: Task, index: int) -> list[Array]:
    """Positions ``[steps + 1, 2]`` of every episode of one task, the last one included.

    The position that ends an episode in the box is not in the batch; it is the goal to within the box.
    """
    goal = torch.stack((task["goal_x"], task["goal_y"]), -1)[index]
    found = []
    for n in range(batch.mask.shape[-1]):
        length = int(batch.mask[index, :, n].sum())
        ended = bool(batch.terminated[index, :, n].any())
        last = goal if ended else batch.last_observation[index, n].cpu()
        seen = batch.observation[index, :length, n].cpu()
        found.append(torch.cat((seen, last[None])).double().numpy())
    return found


def _mark(axes: Axes, task: Task, index: int) -> None:
    """Start and goal, equal axes and few ticks."""
    start, goal = ((float(task[f"{what}_x"][index]), float(task[f"{what}_y"][index])) for what in ("start", "goal"))
    axes.plot(*start, "o", color=INK, markersize=6, zorder=5)
    axes.plot(*goal, "*", color=COLORS[1], markersize=14, markeredgecolor="white", zorder=6)
    axes.set_aspect("equal")
    axes.set(xlabel="x (length)", ylabel="y (length)")
    axes.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
    axes.yaxis.set_major_locator(MaxNLocator(4, symmetric=True))


def _path_handles(episodes: int) -> list[Any]:
    return [
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=6, label="start"),
        Line2D([], [], color=COLORS[1], marker="*", linestyle="", markersize=12, label="goal (hidden)"),
        Line2D([], [], color=BEFORE, label=f"before adapting: {min(SHOWN, episodes)} of {episodes} episodes"),
        Line2D([], [], color=AFTER, label=f"after one gradient step on all {episodes}: {SHOWN} episodes"),
    ]
