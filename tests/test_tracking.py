"""The live view: what TensorBoard and Weights & Biases receive, and that neither can end a run."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments import evaluate, train
from experiments.build import build
from experiments.config import Config
from experiments.errors import InputError
from experiments.tracking import FILE
from tests.helpers import Stub

TINY = ["navigation-fixed", "--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4"]
SHORT = [*TINY, "--horizon", "10", "--env-steps", "1000"]  # seven iterations


class FakeRun:
    """Keeps what it is given, and fails where it is told to."""

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.rows, self.ended = fails_at, list[tuple[int, dict[str, Any]]](), list[int]()

    def log(self, values: dict[str, Any], *, step: int) -> None:
        self.rows.append((step, values))
        if self.fails_at == "log" and step == 3:
            raise ConnectionError("the network\nis gone")

    def finish(self, *, exit_code: int) -> None:
        self.ended.append(exit_code)
        if self.fails_at == "finish":
            raise TimeoutError

    def names(self) -> set[str]:
        return {name for _, values in self.rows for name in values}


class FakeWandb(SimpleNamespace):
    """Stands in for the module, and keeps what its runs were begun with."""

    def __init__(self, fails_at: str = "") -> None:
        super().__init__(fails_at=fails_at, begun=[], runs=[], Histogram=list, Image=np.shape)

    def init(self, **given: Any) -> FakeRun:
        self.begun.append(given)
        if self.fails_at == "init":
            raise RuntimeError("no API key configured")
        self.runs.append(FakeRun(self.fails_at))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeWandb:
    fake = FakeWandb(getattr(request, "param", ""))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def lines(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def events(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tb"), size_guidance={"histograms": 0, "images": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody tracks."""
    run = tmp_path_factory.mktemp("runs") / "plain"
    assert train.main([*SHORT, "--no-evaluate", "--output", str(run)]) == 0
    return run


def test_a_tracked_run_learns_the_same_and_shows_everything(wandb: FakeWandb, plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*SHORT, "--track", "mine", "--histograms-every", "3", "--output", str(run)]) == 0
    assert lines(run) == lines(plain) and not (plain / FILE).exists()
    (begun,), (shown,) = wandb.begun, wandb.runs
    stored = json.loads((run / FILE).read_text())
    assert (begun["project"], begun["id"], begun["name"]) == ("mine", stored["id"], "run")
    assert begun["config"] == json.loads((run / "config.json").read_text())
    scalars = [values for _, values in shown.rows if "return/step_1" in values]
    assert [values["return/step_1"] for values in scalars] == [row["return/step_1"] for row in lines(run)]
    histograms = {step: values for step, values in shown.rows if "rates/head.weight" in values}
    assert list(histograms) == [3, 6, 7]  # the last iteration, too
    assert len(histograms[7]["rates/head.weight"]) == 8 * 2
    assert {f"figures/{file.stem}" for file in (run / "figures").glob("*.png")} <= shown.names()
    assert shown.ended == [0]


@pytest.mark.parametrize(
    ("wandb", "reason"),
    [("init", "no API key configured"), ("log", "the network is gone"), ("finish", "TimeoutError")],
    indirect=["wandb"],
)
def test_a_failure_is_one_warning_and_the_run_goes_on(
    wandb: FakeWandb, reason: str, plain: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.warns(RuntimeWarning) as told:
        assert train.main([*SHORT, "--track", "mine", "--no-evaluate", "--output", str(run)]) == 0
    (warning,) = told
    assert (
        str(warning.message) == f"Weights & Biases is disabled from here on ({reason}); metrics.jsonl is still written"
    )
    assert lines(run) == lines(plain)
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    if wandb.fails_at == "log":
        assert [step for step, _ in wandb.runs[0].rows] == [1, 2, 3]


def test_without_wandb_the_warning_says_how_to_get_it(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match=r"not installed; pip install -e '.\[track\]'") as told:
        assert train.main([*SHORT, "--track", "mine", "--no-evaluate", "--output", str(run)]) == 0
    assert len(told) == 1 and lines(run) == lines(plain)


def test_a_resumed_run_goes_on_under_its_id(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, real, calls = tmp_path / "run", train.rate_metrics, []

    def die(learner: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(learner)

    monkeypatch.setattr(train, "rate_metrics", die)
    argv = [*SHORT, "--track", "mine", "--no-evaluate", "--save-every", "2", "--output", str(run)]
    assert train.main(argv) == 130
    monkeypatch.setattr(train, "rate_metrics", real)
    assert wandb.runs[0].ended == [1]  # not finished
    assert train.main(["--resume", str(run), "--track", "other", "--no-evaluate"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is tracked in project 'mine', got --track other" in error and len(wandb.begun) == 1
    assert train.main(["--resume", str(run), "--no-evaluate"]) == 0
    first, second = wandb.begun
    assert first["id"] == second["id"] and second["project"] == "mine" and second["resume"] == "allow"
    assert [step for step, values in wandb.runs[1].rows if "return/step_1" in values] == [3, 4, 5, 6, 7]
    assert wandb.runs[1].ended == [0]


def test_a_finished_run_is_not_opened_there_again(wandb: FakeWandb, plain: Path) -> None:
    assert train.main(["--resume", str(plain), "--no-evaluate", "--track", "late"]) == 0
    assert wandb.begun == []  # nothing to train, nothing to show


def test_a_damaged_id_is_one_line(wandb: FakeWandb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*SHORT, "--track", "mine", "--no-evaluate", "--output", str(run)]) == 0
    (run / FILE).write_text('{"project": "mi')
    assert train.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is damaged; remove it" in error and len(wandb.begun) == 1


def test_tensorboard_has_histograms_by_layer_and_the_figures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*SHORT, "--histograms-every", "2", "--output", str(run)]) == 0
    found = events(run)
    tags = found.Tags()
    layers = {"head.weight", "head.bias", "hidden.0.weight", "hidden.0.bias"}
    assert {f"rates/{name}" for name in layers} <= set(tags["histograms"])
    at_the_end = found.Histograms("rates/hidden.0.weight")[-1]
    assert [event.step for event in found.Histograms("rates/hidden.0.weight")] == [2, 4, 6, 7]
    assert at_the_end.histogram_value.num == 2 * 8
    assert lines(run)[-1]["meta/rate_min"] <= at_the_end.histogram_value.min
    assert set(tags["images"]) == {f"figures/{file.stem}" for file in (run / "figures").glob("*.png")}
    assert found.Images("figures/learning")[0].step == 7


def test_histograms_can_be_left_out_and_other_rules_have_none(tmp_path: Path) -> None:
    for name, flags in (("off", ["--histograms-every", "0"]), ("maml", ["--rule", "maml", "--histograms-every", "1"])):
        assert train.main([*SHORT, *flags, "--no-evaluate", "--output", str(tmp_path / name)]) == 0
        assert events(tmp_path / name).Tags()["histograms"] == []


def test_a_look_at_validation_tasks_changes_nothing_else(plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*SHORT, "--validate-every", "3", "--no-evaluate", "--output", str(run)]) == 0
    rows = lines(run)
    looked = [row["step"] for row in rows if "validation/step_1" in row]
    assert looked == [3, 6, 7]
    bare = [{k: v for k, v in row.items() if not k.startswith("validation/")} for row in rows]
    assert bare == lines(plain)
    assert all(row["validation/step_0"] < 0 for row in rows if row["step"] in looked)


def test_a_look_that_diverges_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any, **__: Any) -> None:
        raise evaluate.NonFiniteError("diverged")

    monkeypatch.setattr(evaluate, "evaluate", diverge)
    found = evaluate.validate(build(Config(hidden=(8,), horizon=5), torch.device("cpu")))
    assert list(found) == ["validation/step_0", "validation/step_1"] and all(map(math.isnan, found.values()))


def test_a_benchmark_without_validation_tasks_cannot_be_looked_at() -> None:
    setup = build(Config(hidden=(8,), horizon=5), torch.device("cpu"))
    setup = replace(setup, benchmark=Stub(setup.benchmark.family, "goal_x", 0.0))
    with pytest.raises(InputError, match="has no split 'validation'; known are test"):
        train.refuse(train.Watch(validate_every=1), setup)
    train.refuse(train.Watch(), setup)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--save-every", "0"], "expected save_every >= 1"),
        (["--histograms-every", "-1"], "histograms_every >= 0"),
        (["--validate-every", "-5"], "validate_every >= 0"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*SHORT, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())
