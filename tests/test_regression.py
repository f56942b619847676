"""A reduced version of a table, trained again, scores as it did when the table was made.

``python -m tests.test_regression`` prints the scores of the seeds below again. A new seed must lie in their 99 %
prediction interval, mean ± t · s · √(1 + 1/n): wide enough for chance, and far from the scores of a broken part.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import t as student

from experiments.contenders import contender
from experiments.evaluate import Protocol, score_matrix
from experiments.tables import TABLES, Row


@dataclass(frozen=True)
class Reduced:
    """A short training of a table's best column, and how it went."""

    env_steps: int
    row: Row
    scores: tuple[float, ...]
    """of seeds 0, 1, ..."""
    without: float
    """what is scored without what matters: adapting, or scaled sensors"""


REDUCED = {
    "cartpole-polarity": Reduced(
        1_200_000,
        Row("", Protocol("test", 30, 1, 5, 5), 1),
        (499.5, 494.6, 500.0, 498.1, 477.8, 491.6, 488.6, 498.7, 497.4, 497.8),
        22.0,
    ),
    "cartpole-all": Reduced(
        3_500_000,
        Row("", Protocol("test", 30, 1, 5, 5), 1),
        (415.9, 499.5, 498.1, 494.4, 500.0, 494.3),
        28.0,
    ),
    "cartpole-scrambled": Reduced(
        1_000_000, Row("", Protocol("test", 30, 1, 20, 5), 1), (499.4, 496.8, 498.8, 499.7, 499.3, 499.5), 29.0
    ),
    "navigation-fixed": Reduced(
        1_600_000, Row("", Protocol("test", 60, 1, 20, 5), 1), (-5.76, -5.64, -5.76, -5.33, -5.05), -38.0
    ),
    "navigation-corners": Reduced(
        4_000_000, Row("", Protocol("test", 60, 1, 5, 5), 1), (128.3, 98.5, 114.3, 86.2, 107.4, 128.7), 17.5
    ),
    "navigation-halfcircle": Reduced(
        8_000_000, Row("", Protocol("test", 60, 1, 5, 5), 1), (5.83, 4.34, 3.97, 4.82, 4.24, 4.90), 1.05
    ),
    "packer-D": Reduced(
        1_500_000,
        Row("", Protocol("extrapolation", 300, 0, 10, 1), 0, score="upright"),
        (100.0, 99.7, 94.3, 100.0, 98.0, 99.0, 97.7, 98.3, 97.7, 98.3, 98.3, 100.0),
        74.0,
    ),
    "bandit-5": Reduced(
        1_600_000,
        Row("", Protocol("test", 300, 19, 5, 5), 19, score="earned"),
        (75.18, 75.99, 76.94, 76.26, 75.98),
        50.0,
    ),
}


def score(table: str, seed: int) -> float:
    """On held-out tasks, after a short training of the table's best column."""
    reduced = REDUCED[table]
    column = TABLES[table].columns["best"].changed(seed=seed, env_steps=reduced.env_steps)
    measured = contender(column.contender).train(column.config)(reduced.row.protocol)
    return float(reduced.row.scores(score_matrix([measured])).mean())


def interval(scores: tuple[float, ...]) -> tuple[float, float]:
    """Where one more of the same kind falls in 99 of 100 cases."""
    n, middle, spread = len(scores), statistics.mean(scores), statistics.stdev(scores)
    reach = float(student.ppf(0.995, n - 1)) * spread * math.sqrt(1 + 1 / n)
    return middle - reach, middle + reach


@pytest.mark.parametrize("table", REDUCED)
def test_a_reduced_table_comes_out_as_before(table: str) -> None:
    reduced = REDUCED[table]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = score(table, seed=len(reduced.scores))
    finally:
        torch.set_num_threads(threads)
    low, high = interval(reduced.scores)
    assert low > reduced.without, "the interval must tell a learner from one without what matters"
    assert low <= found <= high


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in REDUCED:
        print(name, [round(score(name, seed), 2) for seed in range(6)])
