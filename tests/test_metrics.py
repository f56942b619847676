"""Metrics: the file read back as plain JSON, resumed files against uninterrupted ones, and failures of the disk."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarl.metrics import MetricsLog, Progress


def rows(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_rows_are_json_lines(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run", tensorboard=False) as log:
        log.write(0, {"rollout/return": 1.5, "steps": 3, "loss": torch.tensor(0.25)})
        assert rows(tmp_path / "run") == [{"step": 0, "rollout/return": 1.5, "steps": 3.0, "loss": 0.25}]  # flushed
        log.write(0, {"eval/return": 2.0})
        log.write(4, {})
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 0, 4]
    log.close()


def test_numbers_that_are_not_finite_are_null_and_named(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(3, {"a": math.nan, "b": -math.inf, "c": 1.0})
    expected = {"step": 3, "a": None, "b": None, "c": 1.0, "nonfinite": {"a": "nan", "b": "-inf"}}
    assert rows(tmp_path) == [expected]


@pytest.mark.parametrize("torn", ["", '{"step": 9, "lo', "\x00\x00\x00", '{"step": 9, "loss": 1.0}'])
def test_r10_a_resumed_file_equals_an_uninterrupted_one(torn: str, tmp_path: Path) -> None:
    def go_on(log: MetricsLog, start: int, stop: int) -> None:
        for step in range(start, stop):
            log.write(step, {"loss": step / 3})

    with MetricsLog(tmp_path / "whole", tensorboard=False) as log:
        go_on(log, 0, 12)
    with MetricsLog(tmp_path / "killed", tensorboard=False) as log:
        go_on(log, 0, 9)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with MetricsLog(tmp_path / "killed", resume=5, tensorboard=False) as log:
        go_on(log, 6, 12)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["metrics.jsonl"]


def test_resume_without_a_file_and_a_file_without_resume(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume=5, tensorboard=False) as log:
        log.write(6, {"a": 1.0})
    with pytest.raises(ValueError, match="expected .* to be new or empty, got one with rows; resume"):
        MetricsLog(tmp_path, tensorboard=False)


def test_damage_in_the_middle_is_not_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nbroken\n{"step": 1}\n')
    with pytest.raises(ValueError, match="damaged line 2"):
        MetricsLog(tmp_path, resume=5, tensorboard=False)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("bad", [{"step": 1.0}, {"nonfinite": 1.0}, {"a": "x"}, {"a": torch.ones(2)}, {"a": None}])
def test_bad_values_are_refused_and_write_nothing(bad: dict[str, Any], tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(2, {"a": 1.0})
        with pytest.raises(ValueError, match="expected .*, got .*; "):
            log.write(3, bad)
        with pytest.raises(ValueError, match="expected a step of 2 or more"):
            log.write(1, {"a": 1.0})
    assert rows(tmp_path) == [{"step": 2, "a": 1.0}]


@pytest.mark.parametrize("step", [1.0, 2.5, "3", None, torch.tensor(1.5), np.float64(4.0)])
def test_steps_that_are_not_whole_are_refused_and_write_nothing(step: Any, tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        with pytest.raises(ValueError, match="expected step to be a whole number, got .*; count meta-iterations"):
            log.write(step, {"a": 1.0})
        assert rows(tmp_path) == []
        for whole in (1, np.int64(2), torch.tensor(3)):
            log.write(whole, {"a": 1.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    with MetricsLog(tmp_path, resume=2, tensorboard=False) as log:  # they can be read back
        log.write(3, {})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_reads_the_same_numbers_also_after_a_resume(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(4):
            log.write(step, {"loss": step / 2})
    with MetricsLog(tmp_path, resume=1) as log:
        log.write(2, {"loss": -1.0})
    assert scalars(tmp_path, "loss") == [(0, 0.0), (1, 0.5), (2, -1.0)]


def test_p5_tensorboard_fails_once_warned_and_rows_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    log = MetricsLog(tmp_path)
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    with pytest.warns(RuntimeWarning, match="TensorBoard is disabled .*No space left") as caught:
        log.write(0, {"a": 1.0, "b": 2.0})
    log.write(1, {"a": 1.0})  # a second warning would be an error here
    log.close()
    assert len(caught) == 1 and len(rows(tmp_path)) == 2


def test_p5_tensorboard_without_a_place_to_write(tmp_path: Path) -> None:
    (tmp_path / "tb").write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="TensorBoard is disabled"):
        log = MetricsLog(tmp_path)
    with log:
        log.write(0, {"a": 1.0})
    assert rows(tmp_path) == [{"step": 0, "a": 1.0}]


def test_tensorboard_shows_histograms_and_pictures_that_the_rows_do_not_hold(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    with MetricsLog(tmp_path) as log:
        log.write(5, {"a": 1.0})
        log.histogram(5, "rates", torch.tensor([[1.0, -2.0], [math.nan, math.inf]], requires_grad=True))
        log.histogram(5, "nothing finite", torch.tensor([math.nan]))
        log.image(5, "picture", pixels)
    found = EventAccumulator(str(tmp_path / "tb"))
    found.Reload()
    assert found.Tags()["histograms"] == ["rates"] and rows(tmp_path) == [{"step": 5, "a": 1.0}]
    (spread,) = found.Histograms("rates")
    assert (spread.step, spread.histogram_value.num) == (5, 2)
    assert (spread.histogram_value.min, spread.histogram_value.max) == (-2.0, 1.0)
    (picture,) = found.Images("picture")
    assert (picture.step, picture.width, picture.height) == (5, 6, 4)


class Screen:
    """A viewer that breaks at one of its methods, and keeps what it was called with."""

    def __init__(self, calls: list[Any], broken: str = "") -> None:
        self.broken, self.calls = broken, calls
        self._note("opening")

    def _note(self, name: str, *given: Any) -> None:
        self.calls.append((name, *given))
        if name == self.broken:
            raise RuntimeError(f"{name}\nfails")

    def scalars(self, step: int, numbers: Any) -> None:
        self._note("scalars", step, dict(numbers))

    def histogram(self, step: int, name: str, values: Any) -> None:
        self._note("histogram", step, name, values.tolist())

    def image(self, step: int, name: str, pixels: Any) -> None:
        self._note("image", step, name, pixels.shape)

    def close(self, *, failed: bool) -> None:
        self._note("close", failed)


@pytest.mark.parametrize("broken", ["opening", "scalars", "histogram", "image", "close"])
def test_a_viewer_that_breaks_is_left_and_the_others_see_everything(broken: str, tmp_path: Path) -> None:
    good, bad = list[Any](), list[Any]()
    viewers: dict[str, Any] = {"bad": lambda: Screen(bad, broken), "good": lambda: Screen(good)}
    with (
        pytest.warns(RuntimeWarning, match=f"^bad is disabled from here on \\({broken} fails\\)") as told,
        MetricsLog(tmp_path, tensorboard=False, viewers=viewers) as log,
    ):
        log.write(0, {"a": math.nan})
        log.histogram(0, "h", torch.ones(2))
        log.image(0, "i", np.zeros((2, 3, 3), dtype=np.uint8))
        log.write(1, {"a": 2.0})
    names = ["opening", "scalars", "histogram", "image", "scalars", "close"]
    assert [call[0] for call in good] == names and good[-1] == ("close", False)
    assert str(good[1]) == "('scalars', 0, {'a': nan})"
    assert good[2:4] == [("histogram", 0, "h", [1.0, 1.0]), ("image", 0, "i", (2, 3, 3))]
    assert len(told) == 1 and [call[0] for call in bad] == names[: names.index(broken) + 1]
    assert [row["step"] for row in rows(tmp_path)] == [0, 1]


def test_viewers_are_told_that_a_run_failed(tmp_path: Path) -> None:
    calls = list[Any]()
    viewers: dict[str, Any] = {"screen": lambda: Screen(calls)}
    with pytest.raises(KeyboardInterrupt), MetricsLog(tmp_path, tensorboard=False, viewers=viewers):
        raise KeyboardInterrupt
    assert calls == [("opening",), ("close", True)]


def test_a_failing_record_is_an_error(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log._file.close()
    log._file = Path("/dev/full").open("w") if Path("/dev/full").exists() else pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"):
        log.write(0, {"a": 1.0})
    with pytest.raises(OSError, match="No space left"):
        log._file.close()


def test_progress_in_plain_lines() -> None:
    stream = io.StringIO()
    with Progress(3000, title="meta-training", every=0.0, stream=stream) as bar:
        for done in (1000, 2000, 3000):
            bar.update(done, loss=done / 9000, best="yes")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("meta-training 1,000/3,000") and lines[0].endswith("loss 0.1111  best yes")
    assert lines[2].startswith("meta-training 3,000/3,000") and "loss 0.3333" in lines[2]


def test_progress_is_quiet_between_lines_but_tells_the_end() -> None:
    stream = io.StringIO()
    with Progress(500, every=1000.0, stream=stream) as bar:
        for done in range(1, 501):
            bar.update(done)
    assert len(stream.getvalue().splitlines()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("leave", [False, True])
def test_progress_bar_on_a_terminal_gives_the_cursor_back(leave: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Progress(3, stream=stream) as bar:
        for done in range(1, 4):
            bar.update(done, loss=done, tag="[bold]")
            if leave:
                break
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # shown after it was hidden
    assert "[bold]" in text and ("100%" in text) != leave


def test_importing_loads_neither_tensorboard_nor_rich() -> None:
    heavy = ("tensorboard", "rich", "torch.utils.tensorboard")
    code = f"import metarl.metrics, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]", done.stderr
