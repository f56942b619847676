"""The tables that `reproduce.py` makes, as data: published results, how they were measured, and our counterparts."""

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
    """One row of a table: a score of held-out tasks under a protocol."""

    label: str
    protocol: Protocol
    step: int
    """number of gradient steps after which to score"""
    published: str = "–"
    """result as printed in the source"""
    score: str = "after"
    """kind of score, a key of ``SCORES``"""

    def scores(self, returns: Scores) -> Scores:
        """Turn mean returns ``[..., K + 1]`` before and after every step into scores ``[...]``."""
        return SCORES[self.score](self, returns)


def after(row: Row, returns: Scores) -> Scores:
    """Return the mean return after ``row.step`` steps, or after the last step if there are fewer."""
    return returns[..., min(row.step, returns.shape[-1] - 1)]


def earned(row: Row, returns: Scores) -> Scores:
    """Return the sum of returns over the episodes of ``row.step`` adaptation steps and as many after the last step."""
    return (row.protocol.episodes or 1) * returns[..., : row.step + 1].sum(-1)


def upright(row: Row, returns: Scores) -> Scores:
    """Return 100 for a task whose single episode lasts 195 of 200 steps, else 0: Packer's measure in per cent."""
    return 100.0 * (after(row, returns) >= 195.0)


SCORES: dict[str, Callable[[Row, Scores], Scores]] = {"after": after, "earned": earned, "upright": upright}


@dataclass(frozen=True)
class Column:
    """A contender and its configuration; see `experiments.contenders`."""

    config: Config
    contender: str = "as-configured"

    def changed(self, **changes: object) -> Column:
        """Return the column with some fields of the configuration changed."""
        return Column(self.config.model_copy(update=changes), self.contender)


@dataclass(frozen=True)
class Table:
    """A table whose columns are contenders, each trained from every seed, and whose rows are scores of each."""

    about: str
    columns: Mapping[str, Column]
    rows: tuple[Row, ...]


def preset(name: str, contender: str = "as-configured", **changes: object) -> Column:
    """Return a column that trains a preset with changed fields."""
    return Column(PRESETS[name][1].model_copy(update=changes), contender)


def episodes(*counts: int, split: str = "test", published: str = "–") -> tuple[Row, ...]:
    """Return rows that score one gradient step from several numbers of adaptation episodes."""
    return tuple(
        Row(f"{split}, one step from {n} episode{'s' * (n > 1)}", Protocol(split, 100, 1, n), 1, published)
        for n in counts
    )


NAVIGATION = Protocol("test", tasks=600, steps=1, episodes=20, score_episodes=20)
FAITHFUL = {"env_steps": 8_000_000, "final_share": 0.02, "compile": True}
PUBLISHED_GOALS = Protocol("published", tasks=40, steps=3, episodes=40, score_episodes=40)


def pulls(arms: int, maml_rate: float, published: str) -> tuple[str, Table]:
    """Return a table of SNAIL's bandits: 100 pulls in twenty batches, with a gradient step after each but the last."""
    steps, size = 19, 5
    protocol = Protocol("test", tasks=1000, steps=steps, episodes=size)
    batching = {"benchmark": f"bandit-{arms}", "steps": steps, "episodes": size, "query_episodes": size}
    return f"bandit-{arms}", Table(
        f"RL²'s and SNAIL's bandit, {arms} arms (Mishra et al. 2018, table 1): what 100 pulls earn",
        {
            "best": preset("bandit-best", **batching),
            "MAML": preset("bandit", **batching, rate=maml_rate),
        },
        (Row("100 pulls in twenty batches", protocol, steps, published, "earned"),),
    )


def explored(benchmark: str, about: str, splits: tuple[str, ...]) -> tuple[str, Table]:
    """Return a table of sparse rewards: returns when exploring, and after adapting on one to five episodes."""
    best = preset(f"{benchmark}-best")
    rows = [
        Row(f"{split}, {f'after {n} episode' + 's' * (n > 1) if n else 'exploring'}", protocol, min(n, 1))
        for split in splits
        for n in range(6)
        for protocol in [Protocol(split, tasks=400, steps=1, episodes=max(n, 1))]
    ]
    columns = {
        "best": best,
        "Meta-SGD": best.changed(
            rule="meta-sgd",
            rate=0.1,
            inner_loss="lvc",
            coverage=0.0,
            normalize=True,
            env_steps=8_000_000,
        ),
    }
    return benchmark, Table(about, columns, tuple(rows))


DESCENT = {"meta_optimizer": "descent", "tasks": 10, "query_episodes": 2, "lr": 0.3, "final_share": 0.02}


def upright_after(trained_on: str, benchmark: str, splits: Mapping[str, str]) -> tuple[str, Table]:
    """Return a table of three of Packer's nine cells: one episode in each of 1000 tasks, before and after a step."""
    rows = []
    for tested_on, split in splits.items():
        protocol = Protocol(split, tasks=1000, steps=1, episodes=10, score_episodes=1)
        rows += [
            Row(f"{trained_on} to {tested_on}, before", protocol, 0, score="upright"),
            Row(f"{trained_on} to {tested_on}, one step from 10 episodes", protocol, 1, score="upright"),
        ]
    return f"packer-{trained_on}", Table(
        f"Packer et al. (2018, table 4), CartPole trained on {trained_on}: per cent of episodes of 195 steps and more. "
        "Published, Default / Interpolation / Extrapolation: A2C 100 / 100 / 93.6, PPO 100 / 100 / 86.2, RL²-PPO "
        "87.2 / 54.2 / 51.0; Extrapolation is the geometric mean of D to R, D to E and R to E. A column that takes no "
        "steps has the same figure after one",
        {
            "best": preset("cartpole-packer-best", benchmark=benchmark),
            "by descent": preset("cartpole-packer-best", benchmark=benchmark, **DESCENT),
            "one step": preset("cartpole-packer-one-step", benchmark=benchmark),
        },
        tuple(rows),
    )


def one_step(start: str, published: str) -> Table:
    """Return Meta-SGD's table 4 for one kind of start."""
    benchmark = f"navigation-{start}"
    return Table(
        f"Meta-SGD, Table 4, {start} start (Li et al. 2017, arXiv:1707.09835): one step, 600 tasks. Published: "
        f"{published} (one run; the spread is over tasks)",
        {
            "best": preset(f"{benchmark}-best"),
            "Meta-SGD": preset(benchmark, **FAITHFUL),
            "MAML": preset(benchmark, **FAITHFUL, rule="maml", rate=0.1),
        },
        (
            Row("before", NAVIGATION, 0),
            Row("after one step", NAVIGATION, 1, published.split("Meta-SGD ")[1]),
        ),
    )


_FORTY_GOALS = preset("navigation-fixed", **FAITHFUL, benchmark="navigation-maml")

TABLES: dict[str, Table] = {
    "navigation-fixed": one_step("fixed", "MAML −9.12 ± 0.66, Meta-SGD −8.64 ± 0.68"),
    "navigation-varying": one_step("varying", "MAML −10.71 ± 0.76, Meta-SGD −10.15 ± 0.62"),
    "navigation-maml": Table(
        "MAML, Table 4 (Finn et al. 2017, arXiv:1703.03400): the 40 goals of its code, 40 episodes a step. Published: "
        "MAML; its oracle, told the goal, has −2.29",
        {
            "best": preset("navigation-fixed-best", benchmark="navigation-maml"),
            "MAML, raw actions": _FORTY_GOALS.changed(benchmark="navigation-maml-raw", rule="maml-halving", rate=0.1),
            "MAML": _FORTY_GOALS.changed(rule="maml-halving", rate=0.1),
            "ANIL": _FORTY_GOALS.changed(rule="anil", rate=0.1),
            "CAVIA": _FORTY_GOALS.changed(rule="cavia", context=5, rate=1.0),
        },
        tuple(
            Row(f"after {k} step{'s' * (k != 1)}", PUBLISHED_GOALS, k, f"−{value}")
            for k, value in enumerate((40.41, 11.68, 3.33, 3.23))
        ),
    ),
    **dict(
        [
            explored(
                "navigation-halfcircle",
                "Sparse half-circle, 20 steps (Rakelly et al. 2019, arXiv:1903.08254): return per adaptation episode. "
                "Published as a figure only. Trained on the dense reward, as there, and tested on the sparse one",
                ("test",),
            ),
            explored(
                "navigation-corners",
                "Four corners, sparse (ProMP, Rothfuss et al. 2019, arXiv:1810.06784): return per adaptation episode. "
                "Published as pictures only. Trained around the corners and on the dense reward",
                ("test", "corners"),
            ),
        ]
    ),
    "cartpole-polarity": Table(
        "Sign and strength of the actuator hidden (this project's own): one gradient step",
        {
            "best": preset("cartpole-polarity-best"),
            "LQR": preset("cartpole-polarity-best", "lqr"),
            "Meta-SGD": preset("cartpole-polarity"),
        },
        (*episodes(20, 5, 1), *episodes(20, split="extrapolation")),
    ),
    "cartpole-all": Table(
        "Everything about cart, pole and actuator hidden, with a delay (this project's own): one gradient step",
        {
            "best": preset("cartpole-all-best"),
            "LQR": preset("cartpole-all-best", "lqr"),
            "Meta-SGD": preset("cartpole-all"),
        },
        (*episodes(20, 5, 1), *episodes(20, split="extrapolation")),
    ),
    "cartpole-scrambled": Table(
        "Besides, sensors permuted and sign-flipped, on wirings never trained on (this project's own)",
        {
            "best": preset("cartpole-scrambled-best"),
            "LQR": preset("cartpole-scrambled-best", "lqr"),
            "Meta-SGD": preset("cartpole-scrambled"),
        },
        (
            *(Row(f"test, {k} step{'s' * (k > 1)} of 20 episodes", Protocol("test", 100, 3, 20), k) for k in (1, 2, 3)),
            *episodes(5, 1),
            *episodes(20, split="extrapolation"),
        ),
    ),
    **dict(
        [
            pulls(5, 5.0, "SNAIL 79.1, UCB1 78.0, MAML 67.1"),
            pulls(10, 5.0, "SNAIL 83.5, UCB1 82.4, MAML 70.1"),
            pulls(50, 12.0, "SNAIL 85.1, UCB1 84.3, MAML 70.3"),
        ]
    ),
    **dict(
        [
            upright_after("D", "cartpole-packer-default", {"D": "test", "R": "range", "E": "extrapolation"}),
            upright_after("R", "cartpole-packer", {"D": "default", "R": "test", "E": "extrapolation"}),
            upright_after("E", "cartpole-packer-extremes", {"D": "default", "R": "range", "E": "test"}),
        ]
    ),
}
