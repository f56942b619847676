"""Figure of meta-gradient estimators: how far they agree, and how noisy each is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures.page import COLORS, INK, page
from metarl.diagnostics import Estimates, cosines


def estimators(path: Path, estimates: Mapping[str, Estimates]) -> list[Path]:
    """Draw the cosines between the estimators' means beside the noise of one batch.

    Args:
        path: where to write, without a suffix.
        estimates: estimates by name of the estimator.
    """
    names, table = list(estimates), cosines(estimates).numpy()
    count = len(names)
    with page(path, "Meta-gradient estimators on the same batches", (10.4, 1.9 + 0.5 * count)) as (figure, files):
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
        left.imshow(table, vmin=-1.0, vmax=1.0, cmap="RdBu")
        left.grid(False)
        left.set_xticks(range(count), names, rotation=35, ha="right")
        left.set_yticks(range(count), names)
        for i, j in np.ndindex(table.shape):
            color = "white" if abs(table[i, j]) > 0.6 else INK
            left.annotate(f"{table[i, j]:.2f}", (j, i), ha="center", va="center", color=color, fontsize=9)
        left.set_title("cosine of the means; diagonal: of two halves of the batches")
        noise = [min(one.noise, 1e4) for one in estimates.values()]
        right.barh(range(count), noise, color=COLORS[0])
        for i, one in enumerate(estimates.values()):
            words = f"{one.noise:.2f}, {1000 * one.seconds:,.0f} ms" if one.noise < 1e4 else "all noise"
            right.annotate(f" {words}", (noise[i], i), va="center", fontsize=9, color=INK)
        right.set_xscale("log")
        right.set_xlim(min(0.5, 0.8 * min(noise)), 30 * max(noise))
        right.set_yticks(range(count), [])
        right.set_ylim(count - 0.5, -0.5)
        right.grid(False, axis="y")
        right.set_title("noise of one batch relative to the mean, and cost")
        right.set_xlabel("standard deviation / length of the mean")
    return files
