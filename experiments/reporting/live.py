"""Views that need the trained learner itself, loaded from its checkpoint: step sizes, paths and an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from envs import CartPole, Navigation
from experiments import enjoy, runs
from experiments.build import Setup, find_benchmark
from experiments.errors import InputError
from experiments.evaluate import Protocol
from experiments.figures.animations import animate_cartpole, animate_navigation
from experiments.figures.page import SHOWN, Array
from experiments.figures.plane import first_tasks, walks
from experiments.learned import LOOKED_AT, Reinforced, rate_tables, reinforced
from experiments.lookup import is_plugin
from experiments.names import BENCHMARKS
from experiments.reporting.sources import Contender, Missing
from experiments.reporting.tables import clean
from experiments.streams import stream
from metarl.checkpoints import CheckpointError
from metarl.evaluation import Adaptation, adapt
from metarl.rollouts import collect, to_device

CPU = torch.device("cpu")
Plane = tuple[list[list[Array]], Array, Array, float]
"""Paths ``[time, 2]`` of every episode after 0, 1, ... steps, start, goal, and half the side of the figure."""

UNREADABLE = (InputError, CheckpointError, ValidationError, OSError, KeyError, TypeError, ValueError, RuntimeError)


class Live:
    """The learner of a run folder, loaded on first use.

    Args:
        folders: folders of a run and of its other seeds; the first is shown.
        plugins: import paths that the run may import.
        moving: whether to make animations.
    """

    def __init__(self, folders: Sequence[Path], *, plugins: Sequence[str] = (), moving: bool = True) -> None:
        self.missing: Missing = []
        self._folder = folders[0] if folders else None
        self._plugins, self._moving = tuple(plugins), moving
        self._setup: Setup | None = None
        self._tried = False

    def setup(self) -> Setup | None:
        """Load the run from its last checkpoint; return None and add to ``missing`` if that is not possible."""
        if not self._tried and self._folder is not None:
            self._tried = True
            try:
                self._setup, _ = runs.load(self._folder, CPU, plugins=self._plugins)
            except UNREADABLE as error:
                what = f"no checkpoint of {self._folder.name} can be used ({clean(error, 160)})"
                self.missing.append((what, "step sizes, paths and animations are left out"))
        return self._setup

    def family(self, contender: Contender) -> Any:
        """Return the contender's family, which knows its training ranges.

        Return None if it is not available, has no ranges, or is not the one that was scored.
        """
        name, horizon = contender.config.get("benchmark"), contender.config.get("horizon")
        results = [result for found in contender.results.values() for result in found]
        if not isinstance(name, str) or (is_plugin("benchmark", name, BENCHMARKS) and name not in self._plugins):
            return None
        try:
            benchmark = find_benchmark(name, horizon)
            same = all(result["fingerprint"] == benchmark.fingerprint() for result in results)
        except (InputError, AttributeError, TypeError, ValueError):
            return None
        known = same and hasattr(benchmark.family, "ranges") and hasattr(benchmark.family, "parameters")
        return benchmark.family if known else None

    def rate_tables(self) -> dict[str, Array]:
        """Return learned step sizes by parameter tensor, flattened; empty if the rule has no table of them."""
        setup = self.setup()
        tables = rate_tables(setup.learner) if setup else {}
        return {name: rates.cpu().double().numpy() for name, rates in tables.items()}

    def reinforced(self) -> Reinforced | None:
        """Return a learned reward or advantage beside the given one on held-out tasks, or None if none is learned."""
        setup = self.setup()
        if setup is None or not setup.config.steps:
            return None
        return reinforced(setup, first_tasks(setup, LOOKED_AT), seed=Protocol().seed)

    @torch.no_grad()
    def planes(self, tasks: int) -> list[Plane]:
        """Return paths of 2-D navigation on held-out tasks after every step; empty for other families."""
        setup = self.setup()
        if setup is None or not isinstance(setup.benchmark.family, Navigation) or not setup.config.steps:
            return []
        task = first_tasks(setup, tasks)
        noise, on = stream(Protocol().seed, "paths by step", CPU), to_device(task, CPU)
        learner, family, plan = setup.learner, setup.benchmark.family, setup.plan
        adaptation = Adaptation.like(plan)
        stages = list(adapt(learner, family, on, adaptation, generator=noise))
        batches = [stage.batch for stage in stages if stage.batch is not None]
        batches.append(collect(learner.policy, stages[-1].params, family, on, plan.episodes, generator=noise))
        found = []
        for i in range(tasks):
            paths = [walks(batch, task, i)[:SHOWN] for batch in batches]
            start, goal = (np.array([float(task[f"{what}_{axis}"][i]) for axis in "xy"]) for what in ("start", "goal"))
            every = np.abs(np.concatenate([walk for episodes in paths for walk in episodes]))
            limit = max(1.3 * float(np.abs([*start, *goal]).max()), 1.1 * float(np.quantile(every, 0.995)))
            found.append((paths, start, goal, limit))
        return found

    @property
    def side_by_side(self) -> bool:
        """Whether `animate` shows before and after side by side."""
        return self._setup is not None and type(self._setup.benchmark.family) in (CartPole, Navigation)

    def _film(self, path: Path, setup: Setup) -> Path | None:
        """Write the animation that `experiments/enjoy.py` makes of the first held-out task; None if it cannot."""
        try:
            task = enjoy.one_held_out(setup.benchmark, "test", 0, ())
            enjoy.refuse_without_picture(setup, task)
        except InputError:
            return None
        film = enjoy.make_film(setup, task, enjoy.Options(path))
        return enjoy.write(path, film)

    def animate(self, path: Path) -> tuple[Path, Path] | None:
        """Write a GIF of one held-out task and its last frame as PNG; None for families that cannot be drawn.

        CartPole and Navigation are shown before and after side by side, other families one stage after another.
        """
        setup = self.setup() if self._moving else None
        if setup is None or not setup.config.steps:
            return None
        make = {CartPole: animate_cartpole, Navigation: animate_navigation}.get(type(setup.benchmark.family))
        file = make(path, setup) if make is not None else self._film(path, setup)
        if file is None:
            return None
        still = file.with_suffix(".png")
        with Image.open(file) as image:
            image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
            image.convert("RGB").quantize(64).save(still, optimize=True)
        return file, still
