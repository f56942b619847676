"""Figures and animations of runs.

Every figure function takes a path without suffix and writes a PNG and an SVG of that name. It draws only what it has
the inputs for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.build import Setup
from experiments.figures.curves import adaptation_curves, comparison
from experiments.figures.estimators import estimators
from experiments.figures.learning import learning_curve
from experiments.figures.page import Results
from experiments.figures.plane import paths_in_the_plane
from experiments.figures.rate_panels import rate_strips
from experiments.figures.rules import ranking, step_lengths
from experiments.learned import rate_tables

__all__ = [
    "adaptation_curves",
    "comparison",
    "draw_run",
    "estimators",
    "learning_curve",
    "paths_in_the_plane",
    "ranking",
    "side_by_side",
    "step_lengths",
]

FEW = 6  # most contenders whose curves can be told apart in one figure; more are drawn as a ranking


def side_by_side(folder: Path, results: Results, *, reference: str) -> list[Path]:
    """Draw adaptation curves of a few contenders and their differences to the reference, or a ranking of many."""
    if len(results) <= FEW:
        return comparison(folder / "comparison", results, reference=reference)
    return ranking(folder / "ranking", results, reference=reference)


def draw_run(folder: Path, setup: Setup, result: Mapping[str, Any] | None = None) -> list[Path]:
    """Draw a run and its evaluation into ``folder/figures``, leaving out figures that lack their inputs."""
    target, name = folder / "figures", setup.config.rule
    files: list[Path] = []
    if result is not None:
        files += adaptation_curves(target / f"adaptation-{result['split']}", {name: [result]})
        files += step_lengths(target / f"step-lengths-{result['split']}", {name: [result]})
    if (folder / "metrics.jsonl").exists():
        files += learning_curve(target / "learning", {name: [folder]}, scored_in=setup.config.scored_in)
    rates = {tensor: values.cpu().double().numpy() for tensor, values in rate_tables(setup.learner).items()}
    if rates:
        files += rate_strips(target / "step-sizes", rates).files
    files += paths_in_the_plane(target / "paths", setup)
    if files:
        print(f"figures in {target}: {', '.join(file.name for file in files if file.suffix == '.png')}")
    return files
