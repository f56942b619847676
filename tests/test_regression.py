"""A reduced version of a table, trained anew, lands where it did when the table was made.

``python -m tests.test_regression`` prints the scores of the seeds below again. A new seed must lie in their 99 %
prediction interval, mean ± t · s · √(1 + 1/n): wide enough for luck, and far from what a broken part would leave.
"""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from experiments.contenders import contender
from experiments.evaluate import Protocol
from experiments.tables import TABLES

REDUCED = {"env_steps": 300_000}
PROTOCOL = Protocol("test", tasks=30, steps=1, episodes=5, score_episodes=5)
COMMITTED = {"cartpole-polarity": (273.2, 299.5, 331.5, 273.0, 252.5)}  # seeds 0 to 4; before adapting 21


def score(table: str, seed: int) -> float:
    """Held-out return after one step of a short training of the table's best column."""
    column = TABLES[table].columns["best"].changed(seed=seed, **REDUCED)
    measured = contender(column.contender).train(column.config)(PROTOCOL)
    return float(np.mean([row[1] for row in measured["sampled"]]))


def interval(scores: tuple[float, ...]) -> tuple[float, float]:
    """Where one more of the same kind falls in 99 of 100 cases."""
    n, middle, spread = len(scores), statistics.mean(scores), statistics.stdev(scores)
    reach = float(student.ppf(0.995, n - 1)) * spread * math.sqrt(1 + 1 / n)
    return middle - reach, middle + reach


@pytest.mark.parametrize("table", COMMITTED)
def test_a_reduced_table_comes_out_as_before(table: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = score(table, seed=len(COMMITTED[table]))
    finally:
        torch.set_num_threads(threads)
    low, high = interval(COMMITTED[table])
    assert low > 100.0, "the interval must tell a learner that adapts from one that does not"
    assert low <= found <= high


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, known in COMMITTED.items():
        print(name, [round(score(name, seed), 1) for seed in range(len(known))])
