"""The export script writes a file that torch alone can use."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from experiments import export, runs, train
from experiments.adapting import one_held_out
from experiments.streams import stream
from metarl.evaluation import Adaptation, adapt

TINY = [
    "--horizon",
    "8",
    "--tasks",
    "2",
    "--episodes",
    "4",
    "--query-episodes",
    "4",
    "--hidden",
    "8",
    "--env-steps",
    "200",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert train.main(["navigation-fixed", *TINY, "--no-evaluate", "--output", str(folder)]) == 0
    return folder


def weights(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(str(file), "pt") as found:
        return {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118 (not a mapping)


def test_the_initialization_and_what_it_becomes_on_a_task(run: Path, tmp_path: Path) -> None:
    first, far, near = (tmp_path / name for name in ("first.safetensors", "far.safetensors", "near.safetensors"))
    assert export.main([str(run), "--output", str(first)]) == 0
    setup, _ = runs.load(run, torch.device("cpu"))
    initial = setup.learner.policy.initial()
    found = weights(first)
    assert torch.equal(found["0.weight"], initial["network.hidden.0.weight"])
    assert torch.equal(found["2.bias"], initial["network.head.bias"]) and set(found) >= {"log_std", "2.weight"}
    for file, goal in ((far, "goal_x=0.4"), (near, "goal_x=-0.4")):
        assert export.main([str(run), "--output", str(file), "--steps", "1", "--constants", goal]) == 0
    assert not torch.equal(weights(far)["2.bias"], found["2.bias"])
    assert not torch.equal(weights(far)["2.bias"], weights(near)["2.bias"])
    assert export.main([str(run), "--output", str(near), "--steps", "2"]) == 0


def test_the_file_holds_what_the_policy_becomes_after_as_many_steps_as_asked_for(run: Path, tmp_path: Path) -> None:
    setup, _ = runs.load(run, torch.device("cpu"))
    task = {"goal_x": 0.4, "goal_y": 0.0, "start_x": 0.0, "start_y": 0.0}
    _, *stages = adapt(
        setup.learner,
        setup.benchmark.family,
        {name: torch.tensor([value]) for name, value in task.items()},
        Adaptation(2, setup.plan.episodes, support=setup.plan.support),
        generator=stream(setup.config.seed, "exporting"),
    )
    biases = []
    for k, (params, _) in enumerate(stages, 1):
        file = tmp_path / f"{k}.safetensors"
        assert export.main([str(run), "--output", str(file), "--steps", str(k), "--constants", "goal_x=0.4"]) == 0
        found = weights(file)
        torch.testing.assert_close(found["0.weight"], params["network.hidden.0.weight"][0])
        torch.testing.assert_close(found["2.bias"], params["network.head.bias"][0])
        torch.testing.assert_close(found["log_std"], params["log_std"][0])
        biases.append(found["2.bias"])
    assert len(biases) == 2 and not torch.allclose(biases[0], biases[1])


def test_a_held_out_task_is_chosen_like_in_the_other_scripts(run: Path, tmp_path: Path) -> None:
    setup, _ = runs.load(run, torch.device("cpu"))
    task = one_held_out(setup.benchmark, "validation", 3, ())
    goal = [f"{name}={float(value)!r}" for name, value in task.items() if name.startswith("goal")]
    found = []
    for number, flags in enumerate((["--split", "validation", "--index", "3"], ["--constants", *goal], [])):
        file = tmp_path / f"{number}.safetensors"
        assert export.main([str(run), "--output", str(file), "--steps", "1", *flags]) == 0
        found.append(weights(file)["0.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output", "x.safetensors", "--index", "3"], "--split, --index and --constants name a task to adapt to"),
        (["--output", "x.safetensors", "--steps", "1", "--index", "100"], "expected a task index from 0 to 99"),
        (
            ["--output", "x.safetensors", "--steps", "1", "--index", "1", "--constants", "goal_x=0.4"],
            "got both (--split test --index 1)",
        ),
        (["--output", "."], "a file to write"),
        (["--output", "config.json"], "ends in .safetensors"),
        (["--output", "x.safetensors", "--steps", "-1"], "steps >= 0"),
        (["--output", "x.safetensors", "--steps", "1", "--constants", "mass=3"], "mass"),
        (["--output", "x.safetensors", "--constants", "goal_x=0.4"], "expected --steps 1 or more"),
    ],
)
def test_wrong_input_is_one_line(run: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(run), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.safetensors"
    file.write_bytes(b"an earlier one")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert export.main([str(run), "--output", str(file)]) == 6
    assert capsys.readouterr().err == f"error: No space left on device: {file}\n"
    assert file.read_bytes() == b"an earlier one"


def test_a_policy_that_torch_cannot_hold_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cavia"
    argv = ["navigation-fixed", *TINY, "--rule", "cavia", "--context", "2", "--no-evaluate", "--output", str(folder)]
    assert train.main(argv) == 0
    capsys.readouterr()
    assert export.main([str(folder), "--output", str(tmp_path / "x.safetensors")]) == 2
    assert "got a GaussianPolicy on an MLP with context inputs" in capsys.readouterr().err
