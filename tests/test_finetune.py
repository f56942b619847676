"""Fine-tuning inside Stable-Baselines3 from the shell: once, the same again, fairly begun, and refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import finetune
from experiments.build import build
from experiments.contenders.learners import trained
from experiments.evaluate import Protocol
from experiments.finetune import ADAM, LEARNED, SCRATCH, WAYS, Job, area, scored
from experiments.presets import PRESETS

SMALL = "--horizon 8 --env-steps 100 --tasks 2 --episodes 4 --query-episodes 4 --hidden 8"
SIZES = "--seeds 2 --held-out 2 --tuning-tasks 2 --rates 0.001 0.01 --rows 2 --rollout 16 --rollouts 2"
CONFIG = PRESETS["navigation-fixed"][1].model_copy(
    update={"horizon": 8, "env_steps": 100, "tasks": 2, "episodes": 4, "query_episodes": 4, "hidden": (8,)}
)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs in this process: starting another costs more than they do."""

    def run_all(jobs: Sequence[Job], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
        return {job.key: json.loads(json.dumps(job.run())) for job in jobs}

    monkeypatch.setattr(finetune, "run_all", run_all)


def argv(output: Path, more: str = "", preset: str = "navigation-fixed") -> list[str]:
    return [preset, *SMALL.split(), *SIZES.split(), "--output", str(output), *more.split()]


def test_an_experiment_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main(argv(tmp_path / "a")) == 0
    first = capsys.readouterr().out
    assert "[1/1] seed 1000, validation" in first and "[2/2] seed 1, test" in first
    text = (tmp_path / "a" / "table.md").read_text()
    assert "| 0 |" in text and "| 16 |" in text and "| 32 |" in text and "2 seeds, 2 tasks" in text
    assert "mean return, 95 % intervals over seeds and tasks." in text
    about = json.loads((tmp_path / "a" / "finetune.json").read_text())
    assert about["command"].startswith("python ") and about["system"]["packages"]["torch"]
    assert [one["way"] for one in about["tuning"]] == list(WAYS)
    assert all(len(one["mean validation return over the curve, by rate"]) == 2 for one in about["tuning"])
    for result in about["results"]:
        assert [one["way"] for one in result["curves"]] == list(WAYS) and result["env_steps"] == [0, 16, 32]
        scratch, adam, learned = (np.asarray(one["sampled"]) for one in result["curves"])
        assert scratch.shape == (2, 3) and np.isfinite(scratch).all()
        assert (adam[:, 0] == learned[:, 0]).all() and (adam[:, 1:] != learned[:, 1:]).all()
        assert result["training_env_steps"] >= 100
    assert (tmp_path / "a" / "finetune.png").stat().st_size > 10_000 and (tmp_path / "a" / "finetune.svg").exists()
    assert finetune.main(argv(tmp_path / "a")) == 0
    assert "[1/" not in capsys.readouterr().out


def test_an_experiment_is_the_same_again(tmp_path: Path, inline: None) -> None:
    a, b = (argv(tmp_path / name, "--seeds 1 --rates 0.001") for name in "ab")
    assert finetune.main(a) == finetune.main(b) == 0
    text = (tmp_path / "a" / "table.md").read_text()
    assert text == (tmp_path / "b" / "table.md").read_text()
    assert "mean return, 95 % intervals over tasks." in text


@pytest.mark.parametrize("name", ["navigation-fixed", "cartpole-polarity"])
def test_ways_begin_where_they_say(name: str) -> None:
    config = PRESETS[name][1].model_copy(update=CONFIG.model_dump(include={"horizon", "env_steps", "tasks", "hidden"}))
    setup, _ = trained(config)
    job = Job(config, Protocol("test", 2), (), rows=2, rollout=16 if name == "navigation-fixed" else 64, rollouts=2)
    task = setup.benchmark.sample("test", 1, generator=torch.Generator().manual_seed(0))
    found = {way: list(job.learning(setup, task, way, 1e-3, seed=0)) for way in WAYS}
    fresh = build(config, torch.device("cpu")).learner.policy.initial()
    for leaf, before in fresh.items():
        assert torch.equal(found[SCRATCH][0][leaf], before)
        for way in (ADAM, LEARNED):
            assert torch.equal(found[way][0][leaf], setup.learner.policy.initial()[leaf])
    for way in WAYS:
        assert len(found[way]) == 3
        first, second, third = (one["network.head.weight"] for one in found[way])
        assert not torch.equal(first, second) and not torch.equal(second, third)


def test_one_rate_that_diverges_does_not_end_the_tuning(tmp_path: Path, inline: None) -> None:
    assert finetune.main(argv(tmp_path, "--rates 0.001 1e30 --seeds 1")) == 0
    told = json.loads((tmp_path / "finetune.json").read_text())["tuning"]
    assert {one["chosen"] for one in told} == {0.001}
    assert {one["mean validation return over the curve, by rate"]["1e+30"] for one in told} == {"diverged"}


def test_all_that_diverge_are_told(tmp_path: Path, inline: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main(argv(tmp_path, "--rates 1e30 --seeds 1")) == 4
    assert "a run diverged" in capsys.readouterr().err


def test_curves_are_scored_at_doubling_numbers_of_rollouts_and_weighed_by_steps() -> None:
    assert scored(1) == [0, 1] and scored(16) == [0, 1, 2, 4, 8, 16] and scored(5) == [0, 1, 2, 4]
    result: dict[str, Any] = {"env_steps": [0, 10, 30]}
    assert area(result, {"sampled": [[0.0, 2.0, 4.0], [0.0, 4.0, 6.0]]}) == pytest.approx((10 * 1.5 + 20 * 4) / 30)
    assert area(result, {"diverged": "x"}) == -math.inf


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--seeds 0", "seeds, tasks, rollouts"),
        ("--workers 0", "workers and adaptation steps >= 1"),
        ("--steps 0", "adaptation steps >= 1"),
        ("--seed 999", "seed 1000 tunes"),
        ("--rates 0", "positive rates"),
        ("--steps 3", "a rollout for each of 3 steps"),
        ("--rollout 15", "2 rows and 4 minibatches divide"),
        ("--inner-loss dice", "inner losses lvc and vpg, got dice"),
        ("--rule unit-norm", "not a step size a parameter"),
        ("--rule meta-curvature", "learned rates inside PPO: the rule Chain is not a step size"),
        ("--time-limit bootstrap", "time_limit='terminal'"),
        ("--rollouts 1 --rollout 8", "no episode began and ended within 4 steps"),
    ],
)
def test_wrong_input_is_one_line(
    more: str, message: str, inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(argv(tmp_path, more)) == 2
    assert message in capsys.readouterr().err


def test_a_family_that_lives_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--benchmark", "tests.test_gymnasium_family:pendulum", "--output", str(tmp_path / "out")]
    assert finetune.main(["navigation-fixed", *more]) == 2
    error = capsys.readouterr().err
    assert "PPO begins episodes again one by one" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
