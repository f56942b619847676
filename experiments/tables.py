"""The tables that `reproduce.py` makes, as data: what was published, how it was measured, what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.config import Config
from experiments.evaluate import Protocol
from experiments.presets import PRESETS

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One figure: how well held-out tasks went under a protocol."""

    label: str
    protocol: Protocol
    step: int
    """gradient steps after which to score"""
    published: str = "–"
    """what the source prints"""
    score: str = "after"
    """a name in ``SCORES``"""

    def scores(self, returns: Scores) -> Scores:
        """From mean returns ``[..., K + 1]`` before and after every step to scores ``[...]``."""
        return SCORES[self.score](self, returns)


def after(row: Row, returns: Scores) -> Scores:
    """The return after ``row.step`` steps, or after as many as there were."""
    return returns[..., min(row.step, returns.shape[-1] - 1)]


def earned(row: Row, returns: Scores) -> Scores:
    """The sum over all episodes: those of each of ``row.step`` adaptation steps, and as many with the result."""
    return (row.protocol.episodes or 1) * returns[..., : row.step + 1].sum(-1)


def upright(row: Row, returns: Scores) -> Scores:
    """Per cent that stay up by Packer's measure, 195 of 200 steps, where one episode scores a task."""
    return 100.0 * (after(row, returns) >= 195.0)


SCORES: dict[str, Callable[[Row, Scores], Scores]] = {"after": after, "earned": earned, "upright": upright}


@dataclass(frozen=True)
class Column:
    """Who is trained, and how; see `experiments.contenders`."""

    config: Config
    contender: str = "as-configured"

    def changed(self, **changes: object) -> Column:
        """The same with other fields of the configuration."""
        return Column(self.config.model_copy(update=changes), self.contender)


@dataclass(frozen=True)
class Table:
    """Columns are ways of ours, each trained from every seed; rows are what is measured of each."""

    about: str
    columns: Mapping[str, Column]
    rows: tuple[Row, ...]


def preset(name: str, contender: str = "as-configured", **changes: object) -> Column:
    """A preset with changes."""
    return Column(PRESETS[name][1].model_copy(update=changes), contender)


def episodes(*counts: int, split: str = "test", published: str = "–") -> tuple[Row, ...]:
    """One gradient step from several numbers of adaptation episodes."""
    return tuple(
        Row(f"{split}, one step from {n} episode{'s' * (n > 1)}", Protocol(split, 100, 1, n), 1, published)
        for n in counts
    )


NAVIGATION = Protocol("test", tasks=600, steps=1, episodes=20, score_episodes=20)

TABLES: dict[str, Table] = {
    "navigation-fixed": Table(
        "Meta-SGD, Table 4, fixed start (Li et al. 2017, arXiv:1707.09835): one step, 600 tasks. Published: MAML "
        "−9.12 ± 0.66, Meta-SGD −8.64 ± 0.68 (one run; the spread is over tasks)",
        {
            "best": preset("navigation-fixed-best", env_steps=8_000_000),
            "Meta-SGD": preset("navigation-fixed", env_steps=8_000_000),
            "MAML": preset("navigation-fixed", rule="maml", rate=0.1, env_steps=8_000_000),
        },
        (
            Row("before", NAVIGATION, 0),
            Row("after one step", NAVIGATION, 1, "−8.64 ± 0.68"),
        ),
    ),
    "cartpole-polarity": Table(
        "Sign and strength of the actuator hidden (this project's own): one gradient step",
        {
            "best": preset("cartpole-polarity-best"),
            "Meta-SGD": preset("cartpole-polarity"),
        },
        (*episodes(20, 5, 1), *episodes(20, split="extrapolation")),
    ),
    "cartpole-all": Table(
        "Everything about cart, pole and actuator hidden, with a delay (this project's own): one gradient step",
        {
            "best": preset("cartpole-all-best"),
            "Meta-SGD": preset("cartpole-all"),
        },
        (*episodes(20, 5, 1), *episodes(20, split="extrapolation")),
    ),
    "cartpole-scrambled": Table(
        "Besides, sensors permuted and sign-flipped, on wirings never trained on (this project's own)",
        {"best": preset("cartpole-scrambled")},
        tuple(
            Row(f"test, {k} step{'s' * (k > 1)} of 20 episodes", Protocol("test", 100, 3, 20), k) for k in range(1, 4)
        ),
    ),
}
