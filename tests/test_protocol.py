"""The protocol of the scripts: which tasks, seeds and settings they tune, validate and score with.

Step sizes are tuned on validation tasks, with a seed that is never reported, and with as many adaptation steps as in
the final evaluation. Evaluations during training use validation tasks, too. Adaptation to held-out tasks uses the same
advantages as training. Tables report the share of tasks that adapting made worse.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import compare
from experiments.build import Setup, build
from experiments.config import Config
from experiments.evaluate import TEST_SEED, Protocol, measure, table, validate
from experiments.presets import PRESETS
from experiments.streams import stream
from metarl import Adaptation, Advantages, evaluate
from metarl.rollouts import collect
from metarl.types import Params

TINY = ["navigation-fixed", "--hidden", "8", "--horizon", "6", "--tasks", "2", "--episodes", "4"]
SMALL = PRESETS["navigation-fixed"][1].model_copy(
    update={"horizon": 6, "hidden": (8,), "tasks": 2, "episodes": 3, "query_episodes": 3, "rate": 0.5, "seed": 5}
)


class Recorded:
    """In the place of `run_all`: nothing is trained; of the rates 0.1 and 0.3 the first is better on test tasks only.

    Keeps the jobs of every call, and what `report` is told in the end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[compare.Job]] = []
        self.tuned: dict[str, Config] = {}
        monkeypatch.setattr(compare, "run_all", self.run_all)
        monkeypatch.setattr(compare, "refuse_unequal", lambda *_, **__: None)
        monkeypatch.setattr(compare, "report", self.report)

    def run_all(self, jobs: Sequence[compare.Job], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
        self.calls.append(list(jobs))
        return {job.key: self.result(job) for job in jobs}

    def result(self, job: compare.Job) -> dict[str, Any]:
        score = job.config.rate * (1.0 if job.protocol.split == "validation" else -1.0)
        return {"fingerprint": "f", "protocol": {}, "task": {}, "sampled": [[0.0, score]], "reported": 1}

    def report(self, config: Config, options: Any, tuned: dict[str, Config], results: dict[str, Any]) -> None:
        self.tuned = tuned


def compared(monkeypatch: pytest.MonkeyPatch, output: Path, *more: str) -> Recorded:
    recorded = Recorded(monkeypatch)
    argv = [*TINY, "--rules", "meta-sgd", "maml", "--rates", "0.1", "0.3", "--seed", "7", "--seeds", "2"]
    assert compare.main([*argv, "--held-out", "9", "--output", str(output), *more]) == 0
    return recorded


def test_step_sizes_are_tuned_on_validation_tasks_with_a_seed_that_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded = compared(monkeypatch, tmp_path)
    tuning, final = recorded.calls
    pairs = list(itertools.product(("meta-sgd", "maml"), (0.1, 0.3)))
    assert [(job.label, job.config.rate) for job in tuning] == pairs
    assert {job.protocol.split for job in tuning} == {"validation"}
    assert {job.config.seed for job in tuning} == {1000}
    assert [(job.label, job.config.seed) for job in final] == list(itertools.product(("meta-sgd", "maml"), (7, 8)))
    assert {job.protocol.split for job in final} == {"test"}
    assert {job.config.rate for job in final} == {0.3}  # as validation tasks say, and not as test tasks would
    assert {name: chosen.rate for name, chosen in recorded.tuned.items()} == {"meta-sgd": 0.3, "maml": 0.3}


@pytest.mark.parametrize(("trained", "scored"), [(0, 0), (1, 3), (2, 4)])
def test_all_adapt_as_often_as_in_training_and_two_steps_more(
    trained: int, scored: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tuning, final = compared(monkeypatch, tmp_path, "--steps", str(trained)).calls
    assert {job.config.steps for job in (*tuning, *final)} == {trained}
    assert {replace(job.protocol, split="any") for job in (*tuning, *final)} == {
        Protocol("any", tasks=9, steps=scored, episodes=4, score_episodes=20, seed=TEST_SEED)
    }


def test_a_job_is_another_under_another_label_configuration_or_protocol() -> None:
    job = compare.Job("maml", SMALL, Protocol("test", tasks=9, steps=3, episodes=4))
    protocols = (
        {"split": "validation"},
        {"tasks": 8},
        {"steps": 2},
        {"episodes": 5},
        {"score_episodes": 2},
        {"seed": 1},
    )
    others = [
        replace(job, label="from-scratch"),
        *(replace(job, config=SMALL.model_copy(update=change)) for change in ({"seed": 6}, {"rate": 0.1})),
        *(replace(job, protocol=replace(job.protocol, **change)) for change in protocols),
    ]
    assert len({one.key for one in (job, *others)}) == 1 + len(others)
    assert compare.Job("maml", SMALL, replace(job.protocol)).key == job.key


def held_out(setup: Setup, split: str, tasks: int) -> Params:
    return dict(setup.benchmark.sample(split, tasks, generator=stream(TEST_SEED, f"held-out tasks of {split}")))


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_held_out_tasks_are_adapted_to_with_the_advantages_of_training(discount: float) -> None:
    setup = build(SMALL.model_copy(update={"discount": discount, "decay": 0.7}), torch.device("cpu"))
    found = measure(setup, Protocol(tasks=3, steps=2, score_episodes=2))

    def by_hand(support: Advantages) -> list[list[float]]:
        noise = stream(TEST_SEED, "evaluation noise")
        adaptation = Adaptation(2, 3, 2, support)
        task = held_out(setup, "test", 3)
        return evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise).sampled.tolist()

    assert found["sampled"] == by_hand(Advantages(discount, 0.7))
    assert found["sampled"] != by_hand(Advantages())


def test_a_look_during_training_is_at_validation_tasks() -> None:
    setup = build(SMALL.model_copy(update={"discount": 0.5, "decay": 0.7}), torch.device("cpu"))
    policy, family = setup.learner.policy, setup.benchmark.family
    task = held_out(setup, "validation", 20)
    noise = stream(TEST_SEED, "validation noise")
    unadapted = collect(policy, policy.initial(), family, task, 20, generator=noise).episode_return.mean()
    assert validate(setup)["validation/step_0"] == pytest.approx(float(unadapted), rel=1e-6)
    noise = stream(TEST_SEED, "validation noise")
    adaptation = Adaptation(1, 3, 20, Advantages(0.5, 0.7))
    curve = evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise).sampled.mean(0)
    assert list(validate(setup).values()) == curve.tolist()


# one of four tasks falls at the first step, and two at the second
SCORES = [[1.0, 0.0, 0.5], [2.0, 3.0, 4.0], [3.0, 5.0, 2.5], [4.0, 4.5, 6.0]]


def result(scores: list[list[float]]) -> dict[str, Any]:
    return {
        "fingerprint": "f",
        "protocol": {},
        "task": {},
        "sampled": scores,
        "mode": scores,
        "adaptation_episodes": [[0.0, 4.0, 8.0]] * len(scores),
        "adaptation_steps": [[0.0, 24.0, 48.0]] * len(scores),
        "reported": 1,
    }


def test_tables_tell_the_share_of_tasks_that_adapting_makes_worse() -> None:
    head, *rows = table([result(SCORES)], trained=1)
    assert [row[head.index("made worse")] for row in rows] == ["", "25.0%", "50.0%"]
    up = [[score + 1.0 * k for k, score in enumerate(row)] for row in SCORES]
    head, *rows = table([result(SCORES), result(up)], trained=1)
    assert [row[head.index("made worse")] for row in rows] == ["", "12.5%", "25.0%"]  # of pairs of seed and task


def test_comparisons_tell_the_share_of_tasks_that_adapting_makes_worse() -> None:
    head, _, line = compare.table({"maml": SMALL}, {"maml": [result(SCORES)]})
    assert line.split(" | ")[head.split(" | ").index("made worse")] == "25.0%"


def test_step_sizes_at_the_end_of_what_was_tried_are_told() -> None:
    tried = [Config(rate=rate, rate_lr=rate_lr) for rate in (0.1, 0.3, 1.0) for rate_lr in (0.003, 0.03)]
    chosen = {"inside": tried[2], "both": tried[0], "alone": Config(rate=0.3)}
    told = compare.ends({"inside": tried, "both": tried, "alone": [Config(rate=0.3)]}, chosen)
    assert told == [
        "note: the rate_lr of inside, 0.003, is the smallest tried; extend the grid",
        "note: the rate of both, 0.1, is the smallest tried; extend the grid",
        "note: the rate_lr of both, 0.003, is the smallest tried; extend the grid",
    ]
    assert (
        compare.ends({"up": tried}, {"up": tried[5]})[0]
        == "note: the rate of up, 1, is the largest tried; extend the grid"
    )
