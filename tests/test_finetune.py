"""Fine-tuning inside Stable-Baselines3 from the shell: run once, reproducible, with fair starts, and its refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import finetune
from experiments.build import Setup, build
from experiments.contenders.learners import trained
from experiments.evaluate import Protocol, measure
from experiments.finetune import ADAM, LEARNED, SCRATCH, WAYS, Job, Options, area, scored, tune
from experiments.presets import PRESETS
from metarl.sb3 import to_ppo
from metarl.types import Params, Task

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
    assert "tried)" not in text  # of one rate alone, none is the largest


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


def test_ppo_goes_on_from_where_each_way_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"steps": 2})
    setup = build(config, torch.device("cpu"))
    job = Job(config, Protocol("test", 1), (), rows=2, rollout=16, rollouts=3)
    task = setup.benchmark.sample("test", 1, generator=torch.Generator().manual_seed(0))
    begun: list[tuple[Params, dict[str, Any]]] = []

    def watched(policy: Any, params: Params, env: Any, **settings: Any) -> Any:
        begun.append(({name: leaf.detach().clone() for name, leaf in params.items()}, settings))
        return to_ppo(policy, params, env, **settings)

    monkeypatch.setattr(finetune, "to_ppo", watched)
    for way, after in ((SCRATCH, 0), (ADAM, 0), (LEARNED, 2)):  # rollouts before PPO with Adam begins
        begun.clear()
        found = list(job.learning(setup, task, way, 3e-3, seed=0))
        assert len(found) == 4 and len(begun) == (2 if way == LEARNED else 1)
        params, settings = begun[-1]
        assert all(torch.equal(params[name], leaf) for name, leaf in found[after].items())
        assert (settings["n_steps"], settings["batch_size"], settings["learning_rate"]) == (8, 4, 3e-3)
    assert not torch.equal(found[2]["network.head.weight"], found[0]["network.head.weight"])
    own = setup.learner.policy.initial()
    assert all(torch.equal(begun[0][0][name], leaf) for name, leaf in own.items())  # where the learned steps begin


def test_every_task_and_point_is_scored_where_it_belongs_on_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = build(CONFIG, torch.device("cpu"))
    job = Job(CONFIG, Protocol("test", 2, score_episodes=3), (), rows=2, rollout=16, rollouts=4)
    task = setup.benchmark.sample("test", 2, generator=torch.Generator().manual_seed(0))
    goals: list[float] = []
    calls: list[tuple[torch.Tensor, Task, int]] = []

    def learning(self: Job, setup: Setup, one: Task, way: str, rate: float, *, seed: int) -> Iterator[Params]:
        goals.extend(one["goal_x"].tolist())
        yield from ({"leaf": torch.tensor(100.0 * seed + count)} for count in range(self.rollouts + 1))

    def scores(
        policy: Any, params: Params, family: Any, task: Task, episodes: int, *, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append((generator.get_state(), task, episodes))
        torch.rand(5, generator=generator)
        return params["leaf"] + 0.25, -params["leaf"]

    monkeypatch.setattr(Job, "learning", learning)
    monkeypatch.setattr(finetune, "scores", scores)
    found = job.curve(setup, task, ADAM, 1e-3)
    assert goals == task["goal_x"].tolist() and len(set(goals)) == 2
    assert found["sampled"] == [[0.25, 1.25, 2.25, 4.25], [100.25, 101.25, 102.25, 104.25]]
    assert found["mode"] == [[0, -1, -2, -4], [-100, -101, -102, -104]]
    assert len(calls) == 4 and all(torch.equal(state, calls[0][0]) for state, _, _ in calls)
    assert all(of["goal_x"].tolist() == goals and episodes == 3 for _, of, episodes in calls)


@pytest.mark.parametrize("seed", [20261130, 2**31 - 1])
def test_a_seed_may_be_as_large_as_a_configurations(seed: int) -> None:
    config = CONFIG.model_copy(update={"seed": seed})
    setup = build(config, torch.device("cpu"))
    task = setup.benchmark.sample("test", 2, generator=torch.Generator().manual_seed(0))
    job = Job(config, Protocol("test", 2, score_episodes=1), (), rows=2, rollout=16, rollouts=1)
    first, second = job.curve(setup, task, ADAM, 1e-3)["sampled"]
    assert np.isfinite([first, second]).all() and first != second


def test_the_learners_own_adaptation_is_what_it_is_measured_by() -> None:
    config = CONFIG.model_copy(update={"steps": 2})
    setup, protocol = build(config, torch.device("cpu")), Protocol("test", 2, steps=2, episodes=4, score_episodes=3)
    told = measure(setup, protocol)
    own = Job(config, protocol, (), rows=2, rollout=16, rollouts=2).own(
        setup, {name: torch.tensor(values) for name, values in told["task"].items()}
    )
    assert own == {"env_steps": told["adaptation_steps"], "sampled": told["sampled"]}
    assert told["sampled"] != told["mode"]


def test_tuning_picks_each_ways_best_rate_that_is_finite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heights: dict[str, list[float | None]] = {SCRATCH: [1, 3, 2], ADAM: [-5, -6, -4], LEARNED: [7, None, 6]}
    rates, jobs = (1e-3, 1e-2, 1e-1), []

    def run_all(given: Sequence[Job], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
        jobs.extend(given)
        curves: list[dict[str, Any]] = []
        for way, of_way in heights.items():
            for rate, height in zip(rates, of_way, strict=True):
                outcome = {"diverged": "x"} if height is None else {"sampled": [[height, height]] * 2}
                curves.append({"way": way, "rate": rate, **outcome})
        return {job.key: {"env_steps": [0, 16], "curves": curves} for job in given}

    monkeypatch.setattr(finetune, "run_all", run_all)
    chosen, told = tune(CONFIG, Options(tmp_path, rates=rates, tuning_tasks=2))
    assert chosen == {SCRATCH: 1e-2, ADAM: 1e-1, LEARNED: 1e-3}
    assert [one["chosen"] for one in told] == [1e-2, 1e-1, 1e-3]
    means = [one["mean validation return over the curve, by rate"] for one in told]
    assert [list(one.values()) for one in means] == [[1, 3, 2], [-5, -6, -4], [7, "diverged", 6]]
    (job,) = jobs
    assert job.trials == tuple((way, rate) for way in WAYS for rate in rates)
    assert job.protocol.split == "validation" and job.protocol.tasks == 2 and job.config.seed == 1000


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
        ("--seeds 0", "error: expected --seeds >= 1, got 0\n"),
        ("--workers 0", "error: expected --workers >= 1, got 0\n"),
        ("--rows 0", "error: expected --rows >= 1, got 0\n"),
        ("--rollout -4", "error: expected --rollout >= 1, got -4\n"),
        ("--steps 0", "error: expected --steps >= 1, got 0\n"),
        ("--seed 999", "seed 1000 tunes"),
        ("--rates 0", "error: expected positive rates, got (0.0,)\n"),
        ("--steps 3", "rollouts >= 3, one per adaptation step, got "),
        ("--rollout 15", "divisible by 2 rows and by 4 minibatches, got 15"),
        ("--inner-loss dice", "lvc or vpg, got dice; pass --inner-loss lvc"),
        ("--action-baseline", "got lvc with an action baseline; pass --inner-loss lvc --no-action-baseline\n"),
        ("--rule unit-norm", "not one step size per parameter"),
        ("--rule meta-curvature", "learned rates inside PPO: the rule Chain is not one step size"),
        ("--time-limit bootstrap", "time_limit='terminal'"),
    ],
)
def test_wrong_input_is_one_line(
    more: str, message: str, inline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(argv(tmp_path, more)) == 2
    assert message in capsys.readouterr().err


def test_rollouts_without_a_whole_episode_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune.main(argv(tmp_path / "out", "--rollouts 1 --rollout 8")) == 2
    error = capsys.readouterr().err
    assert "no episode began and ended within 4 steps" in error and error.count("\n") == 1
    assert "(n_steps is --rollout 8 over --rows 2)" in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "holds"), [("config.json", "a run"), ("comparison.json", "a comparison"), ("tune.json", "a search")]
)
def test_results_of_another_kind_are_not_overwritten(
    file: str, holds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).write_text('{"config": {"benchmark": "navigation-fixed"}}')
    assert finetune.main(argv(tmp_path)) == 2
    assert f"{tmp_path} holds {holds}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_a_family_that_lives_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--benchmark", "tests.test_gymnasium_family:pendulum", "--output", str(tmp_path / "out")]
    assert finetune.main(["navigation-fixed", *more]) == 2
    error = capsys.readouterr().err
    assert "PPO restarts episodes one by one" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
