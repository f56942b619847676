"""Paths of 2-D navigation before and after one gradient step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from envs import Navigation
from experiments.build import Setup
from experiments.evaluate import Protocol, held_out_tasks
from experiments.figures.page import AFTER, BEFORE, COLORS, INK, SHOWN, Array, page
from experiments.streams import stream
from metarl import Batch
from metarl.evaluation import Adaptation, adapt
from metarl.rollouts import collect, to_device
from metarl.types import Params, Task


@torch.no_grad()
def before_and_after(setup: Setup, task: Task, episodes: int, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Adapt by one gradient step; return the batch ``[T, H, N, ...]`` that it used and fresh ``episodes`` after it."""
    learner, family, task = setup.learner, setup.benchmark.family, to_device(task, setup.device)
    adaptation = Adaptation.like(setup.plan, steps=1)
    *_, (params, before) = adapt(learner, family, task, adaptation, generator=generator)
    assert before is not None  # since a step was taken
    after = collect(learner.policy, params, family, task, episodes, generator=generator)
    return before, after


def first_tasks(setup: Setup, tasks: int) -> Params:
    """Return the first of the held-out tasks that runs are scored on, so that figures show tasks of the results."""
    scored = held_out_tasks(setup.benchmark, Protocol(tasks=max(tasks, Protocol.tasks)))
    return {name: value[:tasks] for name, value in scored.items()}


def paths_in_the_plane(path: Path, setup: Setup, tasks: int = 6) -> list[Path]:
    """Draw paths of 2-D navigation on held-out tasks before and after one gradient step; nothing for other families."""
    if not isinstance(setup.benchmark.family, Navigation):
        return []
    task = first_tasks(setup, tasks)
    noise = stream(Protocol().seed, "paths", setup.device)
    before, after = before_and_after(setup, task, SHOWN, noise)
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
    """Return half the side of a square around the origin that holds every goal and start and nearly all positions."""
    fixed = torch.cat([task[name].abs() for name in ("goal_x", "goal_y", "start_x", "start_y")])
    seen = torch.cat([batch.observation[batch.mask.bool()].abs().flatten().cpu() for batch in (before, after)])
    return float(torch.maximum(1.25 * fixed.max(), 1.2 * torch.tensor(np.quantile(seen.numpy(), 0.995))))


def walks(batch: Batch, task: Task, index: int) -> list[Array]:
    """Return the positions ``[steps + 1, 2]`` of every episode of one task, including the last position.

    The last position of an episode that terminates in the box around the goal is not in the batch, so the goal itself
    takes its place.
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
    """Mark start and goal, and set equal axes with few ticks."""
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
