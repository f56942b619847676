"""Shared by the benchmarks: timing contenders in turn, ratios within each turn, peak memory, tables and JSON.

A machine's speed drifts by more than the differences to be measured. So nothing is timed on its own: all contenders of
a comparison take turns in one process, and ratios are taken within each turn. Nothing here asserts a time. Run every
script from the root of the repository as ``python -m benchmarks.NAME``; with ``--output`` it writes a JSON document
with the machine, the command and the fields that the script's docstring lists.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import gc
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import runs
from experiments.errors import InputError

MIB = 2**20


# ---------------------------------------------------------------- the command line and the machine


def options(description: str | None, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all scripts have; ``repeats`` is the default of ``--repeats``, if any."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch chooses)")
    if repeats is not None:
        parser.add_argument(
            "--repeats", type=int, default=repeats, help="number of timed repetitions (default: %(default)s)"
        )
    parser.add_argument("--output", type=Path, help="write the numbers here as JSON")
    return parser


def add_peers(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add the flag ``--peer`` for external programs that take turns with our contenders."""
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="CMD",
        help=f"command of a program to compare with (see common.Peer); may be repeated{more}",
    )


def prepare(arguments: argparse.Namespace) -> torch.device:
    """Configure the process and return the device.

    Raises:
        InputError: the device is not available or cannot be timed, repeats or threads are less than 1, or the output
            is a folder.
    """
    for name in ("repeats", "threads"):
        count = getattr(arguments, name, None)
        if count is not None and count < 1:
            raise InputError(f"--{name} must be at least 1, got {count}")
    device = runs.pick_device(arguments.device)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"expected a device that can be timed, cpu or cuda, got {arguments.device!r}")
    if arguments.output is not None:  # refuse a wrong output now, not after an hour
        if arguments.output.is_dir():
            raise InputError(f"--output: expected a file, got the folder {arguments.output}; name a file in it")
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    runs.prepare_machine(arguments.threads)
    return device


def machine(device: torch.device) -> dict[str, Any]:
    """Return versions and hardware, to be stored beside the numbers."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


# ---------------------------------------------------------------- time


class Peer:
    """An external program whose workload is timed, in a process that waits for its turn.

    The program prints "ready" on stderr once it has compiled and warmed up. For every line "go" on stdin it runs once
    and prints how many seconds that took, by its own measurement. ``benchmarks.yardstick_jax`` with ``--serve`` is one.
    """

    def __init__(self, command: str) -> None:
        """Start ``command`` and wait until it is ready.

        Raises:
            InputError: the command cannot be started, or ends before it is ready.
        """
        self.command = command
        try:
            self.process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise InputError(f"peer {command!r} cannot be started: {error}") from error
        self._said: collections.deque[str] = collections.deque(maxlen=5)
        self._settled, self._ready = threading.Event(), False  # settled: either ready or ended
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._settled.wait()
        if not self._ready:
            self.close()
            raise InputError(f"peer {command!r} ended before it printed 'ready': {' | '.join(self._said)}")

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:  # read to the end, since a full pipe would block the peer
            self._said.append(line.strip())
            if line.strip() == "ready":
                self._ready = True
                self._settled.set()
        self._settled.set()

    def run(self) -> float:
        """Return the seconds of one run.

        Raises:
            InputError: the peer has ended or printed no number.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError) as error:
            self._listener.join(timeout=1)  # wait for the last lines on stderr, which the message quotes
            raise InputError(f"peer {self.command!r} printed no time: {' | '.join(self._said)}") from error

    def close(self) -> None:
        """End the process: a peer ends by itself when its stdin is closed, and is killed if it does not."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


Contender = Callable[[], object] | Peer


def seconds(contender: Contender, device: torch.device) -> float:
    """Return the seconds of one run, including all work it has queued on a GPU."""
    if isinstance(contender, Peer):
        return contender.run()
    synchronize(device)
    start = time.perf_counter()
    contender()
    synchronize(device)
    return time.perf_counter() - start


def alternate(
    contenders: Mapping[str, Contender], repeats: int, device: torch.device, *, warm: bool = False
) -> dict[str, list[float]]:
    """Run all contenders in turn; return the seconds of every contender in every turn, without warm-up turns.

    There is one warm-up turn on a CPU. There are three on a GPU, where a compiled program is first run plainly, then
    recorded, and only then replayed. With ``warm``, every timed run follows an untimed one of the same contender: runs
    of milliseconds take up to three times as long right after a contender that takes seconds.
    """
    for _ in range(1 if device.type == "cpu" else 3):
        for contender in contenders.values():
            seconds(contender, device)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.freeze()  # compiling leaves a million objects: scanning them would take 0.3 s, in some contender's turn
    for _ in range(repeats):
        for name, contender in contenders.items():
            if warm:
                seconds(contender, device)
            times[name].append(seconds(contender, device))
    gc.unfreeze()
    return times


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the `summary` of the ratios within each turn."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def scaled(values: Mapping[str, float], factor: float) -> dict[str, float]:
    """Return a `summary` in another unit."""
    return {name: factor * values[name] for name in ("median", "min", "max")}


# ---------------------------------------------------------------- memory


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """Return the MiB that one run adds at its peak.

    On a GPU this counts what torch allocates, otherwise resident memory. It is exact on Linux, where free memory is
    returned to the system and the peak reset first. On other systems only memory beyond the process's earlier peak is
    counted, so measure in a fresh process.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    before = _forget_peak()
    run()
    return max(0.0, (_highest_resident() - before) / MIB)


def _forget_peak() -> int:
    """Reset the peak and return the bytes resident now; where the peak cannot be reset, return the peak so far."""
    try:
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _highest_resident()


def _highest_resident() -> int:
    """Return the peak of resident bytes, on Linux from /proc, as ``ru_maxrss`` starts at the parent process's peak."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "", re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---------------------------------------------------------------- output


def spread(values: Mapping[str, float] | None) -> str:
    """Return a `summary` as text of a table's cell: the median and, in parentheses, the range."""
    if values is None:
        return "-"
    middle, low, high = (f"{values[key]:.3g}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low}, {high})"


def show(head: Sequence[str], rows: Sequence[Sequence[str]], device: torch.device) -> None:
    """Print an aligned table below a line about the machine; the first column is aligned left, the others right."""
    about = machine(device)
    hardware = about["gpu"] or f"{about['cpu']}, {about['threads']} of {about['cores']} cores"
    print(f"torch {about['torch']}, {hardware}; median (smallest, largest)")
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def write(path: Path | None, device: torch.device, **document: Any) -> None:
    """Write a document together with machine and command, if a path is given."""
    if path is not None:
        command = shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
        runs.write_json(path, {"machine": machine(device), "command": command, **document})
