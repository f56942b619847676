"""Logging: training metrics as JSON lines, in TensorBoard and other viewers, and a progress display on the terminal.

``metrics.jsonl`` is the authoritative record: one JSON object per line, flushed after every line. On resume it is
truncated to the checkpoint's step, so that a resumed run writes the same file as an uninterrupted one. A number that is
not finite is written as ``null`` (JSON has no NaN) and named in the row's ``"nonfinite"`` object, as in
``{"step": 3, "loss": null, "nonfinite": {"loss": "nan"}}``. TensorBoard and other `Viewer` objects are optional: if one
fails (a full disk, no network, not installed), it is disabled with one warning and training continues.
"""

from __future__ import annotations

import json
import math
import operator
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, SupportsFloat, TextIO

import numpy as np
import numpy.typing as npt
from torch import Tensor

_FILE, _TENSORBOARD = "metrics.jsonl", "tb"
_RESERVED = ("step", "nonfinite")


class Viewer(Protocol):
    """Displays a run's metrics during training. It may raise anything: `MetricsLog` then disables it."""

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        """Show numbers by name; they may be NaN or infinite."""

    def histogram(self, step: int, name: str, values: npt.NDArray[np.float64]) -> None:
        """Show the distribution of values ``[N]``, of which there is at least one; all are finite."""

    def image(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Show an image ``[height, width, 3]``."""

    def close(self, *, failed: bool) -> None:
        """Finish; ``failed`` is true if the run ended with an exception."""


class MetricsLog:
    """Writes rows of numbers to ``folder/metrics.jsonl`` and ``folder/tb``; a context manager.

    Args:
        folder: the run folder; created if missing.
        resume: the checkpoint's step when resuming a run; later rows, and an incomplete last line, are removed.
        tensorboard: also write for TensorBoard.
        viewers: functions that create further viewers, by name. If one raises, now or later, a warning names it and it
            receives nothing more.

    Raises:
        ValueError: the folder already has rows and ``resume`` is not given, or a row in the middle is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        resume: int | None = None,
        tensorboard: bool = True,
        viewers: Mapping[str, Callable[[], Viewer]] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._last = -1
        path = self.folder / _FILE
        if resume is not None:
            self._last = _cut(path, resume)
        elif path.exists() and path.stat().st_size > 0:
            raise ValueError(
                f"expected {path} to be new or empty, got one with rows; resume that run or choose another folder"
            )
        self._file = path.open("a", encoding="utf-8")
        makers: dict[str, Callable[[], Viewer]] = dict(viewers or {})
        if tensorboard:
            purge_step = None if resume is None else resume + 1
            makers = {"TensorBoard": lambda: _TensorBoard(self.folder / _TENSORBOARD, purge_step), **makers}
        self._viewers: dict[str, Viewer] = {}
        for name, make in makers.items():
            self._attempt(name, self._open, name, make)

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Add one row.

        Args:
            step: the meta-iteration; never smaller than in the previous row.
            values: numbers or 0-d tensors by name, such as ``rollout/return``.

        Raises:
            ValueError: a step that decreases or is not an integer, a reserved name, or a value that is not a number.
            OSError: the row cannot be written.
        """
        try:
            step = operator.index(step)
        except TypeError:
            raise ValueError(f"expected step to be a whole number, got {step!r}; count meta-iterations") from None
        if step < self._last:
            raise ValueError(f"expected a step of {self._last} or more, got {step}; steps must not decrease")
        numbers = {name: _number(name, value) for name, value in values.items()}
        row: dict[str, Any] = {"step": step}
        row |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        nonfinite = {name: str(number) for name, number in numbers.items() if not math.isfinite(number)}
        if nonfinite:
            row["nonfinite"] = nonfinite
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        self._last = step
        self._show(lambda viewer: viewer.scalars(step, numbers))

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Show a histogram of the finite ``values`` ``[...]`` in the viewers; ``metrics.jsonl`` holds only numbers."""
        flat = values.detach().cpu().double().reshape(-1).numpy()
        finite = flat[np.isfinite(flat)]
        if finite.size:
            self._show(lambda viewer: viewer.histogram(step, name, finite))

    def image(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Show an image ``[height, width, 3]`` in the viewers."""
        self._show(lambda viewer: viewer.image(step, name, pixels))

    def close(self, *, failed: bool = False) -> None:
        """Flush everything to the disk and close; a second call does nothing. ``failed`` is passed on to viewers."""
        try:
            if not self._file.closed:
                try:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                finally:
                    self._file.close()
        finally:
            self._show(lambda viewer: viewer.close(failed=failed))
            self._viewers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def _open(self, name: str, make: Callable[[], Viewer]) -> None:
        self._viewers[name] = make()

    def _show(self, call: Callable[[Viewer], None]) -> None:
        for name, viewer in list(self._viewers.items()):
            self._attempt(name, call, viewer)

    def _attempt(self, name: str, call: Callable[..., None], *args: Any) -> None:
        """Call a viewer and disable it if it fails. It may raise any error, as some run threads of their own."""
        try:
            call(*args)
        except Exception as error:
            self._viewers.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            message = f"{name} is disabled from here on ({reason}); {_FILE} is still written"
            warnings.warn(message, RuntimeWarning, stacklevel=4)


class _TensorBoard:
    """A `Viewer` that writes TensorBoard event files."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the import takes a second: only when needed

        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def histogram(self, step: int, name: str, values: npt.NDArray[np.float64]) -> None:
        self._writer.add_histogram(name, values, step)

    def image(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class Progress:
    """Shows how much of a known total is done: as a bar on a terminal, otherwise by printing a line now and then.

    A context manager, so that the bar is stopped before anything else is printed.

    Args:
        total: the final value of ``done``.
        done: the initial value, for a resumed run.
        title: text in front of the progress.
        every: seconds between two lines if there is no terminal; the end is always reported.
        stream: ``sys.stderr`` by default.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        title: str = "training",
        every: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self._total, self._title, self._every = total, title, every
        self._stream = sys.stderr if stream is None else stream
        self._start = self._told = time.monotonic()
        self._bar: Any = self._make_bar(done) if self._stream.isatty() else None

    def update(self, done: int, **values: SupportsFloat | str) -> None:
        """Set the progress to ``done``, and show ``values`` after it."""
        shown = (
            f"{name} {value if isinstance(value, str) else f'{float(value):.4g}'}" for name, value in values.items()
        )
        postfix = "  ".join(shown)
        if self._bar is not None:
            self._bar.update(0, completed=min(done, self._total), postfix=postfix)
            return
        now = time.monotonic()
        if now - self._told >= self._every or done >= self._total:
            line = f"{self._title} {done:,}/{self._total:,}  {now - self._start:.0f} s  {postfix}"
            print(line.rstrip(), file=self._stream, flush=True)
            self._told = now

    def close(self) -> None:
        """Stop the bar and restore the terminal's cursor; a second call does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_bar(self, done: int) -> Any:
        from rich import progress as rich_progress  # only needed on a terminal
        from rich.console import Console

        bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[postfix]}", markup=False),
            console=Console(file=self._stream),
        )
        bar.add_task(self._title, total=self._total, completed=done, postfix="")
        bar.start()
        return bar


def _number(name: str, value: SupportsFloat) -> float:
    """Return a value as a float, or raise an error of one line."""
    if name in _RESERVED:
        raise ValueError(f"expected a metric's name, got {name!r}, which is reserved; choose another name")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected a number for {name!r}, got a {type(value).__name__}; log one number per name"
        ) from error


def _cut(path: Path, step: int) -> int:
    """Remove rows after ``step`` and an incomplete last line, atomically; return the last remaining step, or -1."""
    raw = path.read_bytes() if path.exists() else b""
    kept: list[bytes] = []
    last, torn = -1, 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        found = _step_of(line)
        if found is None:
            torn = torn or number
        elif torn:
            raise ValueError(
                f"expected JSON rows in {path}, got a damaged line {torn} with rows after it; repair it by hand"
            )
        elif found <= step:
            kept.append(line)
            last = max(last, found)
    if b"".join(kept) != raw:
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    return last


def _step_of(line: bytes) -> int | None:
    """Return the step of a complete row; ``None`` for a damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return step if type(step) is int else None
