"""W5: how do time and memory of one meta-iteration grow with its size?

    python -m benchmarks.growth [--quick] [--axes tasks width] [--device cpu] [--output results/...json]

The iteration is that of ``meta_iteration.py``, with one axis at a time varied from its base size. Every point runs in a
fresh process: a small iteration that loads everything that is loaded once, an iteration whose peak memory is measured,
and the timed iterations. An exponent is the slope of a least-squares line through the logarithms of an axis' points at
and above the base; 1 means linear growth.

The document: ``base``, ``exponents`` of ``time`` and ``memory`` by axis, and a ``table`` of every axis'
points: the size, ``seconds``, their ``median``, ``min`` and ``max``, and ``peak MiB``; or ``failed``, for instance for
lack of memory.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.meta_iteration import Size, Workload, add_sizes, size_of
from experiments.errors import script

AXES: dict[str, tuple[int, ...]] = {
    "tasks": (5, 10, 20, 40, 80, 160, 320, 640),
    "episodes": (5, 10, 20, 40, 80, 160, 320),
    "horizon": (50, 100, 200, 400, 800),
    "width": (32, 64, 100, 128, 256, 512),
    "steps": (1, 2, 4, 8),
}
SMALL = Size(tasks=2, episodes=2, horizon=5, width=8)


def points(axis: str, base: Size, *, quick: bool) -> list[Size]:
    """Return the sizes along an axis; with ``quick`` at most three, from the base to the largest."""
    values = sorted({getattr(base, axis), *AXES[axis]})
    if quick:
        upper = values[values.index(getattr(base, axis)) :]
        values = sorted({upper[0], upper[len(upper) // 2], upper[-1]})
    return [replace(base, **{axis: value}) for value in values]


def point(size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure times and peak memory of one size in this process."""
    device = common.prepare(arguments)
    Workload(replace(SMALL, steps=size.steps), device).iteration()
    workload = Workload(size, device, compiled=arguments.compile)
    if arguments.compile:
        workload.iteration()  # compile first, since compiling needs additional memory
    peak = common.peak_memory(workload.iteration, device)
    times = common.alternate({"iteration": workload.iteration}, arguments.repeats, device)["iteration"]
    return {**asdict(size), "seconds": times, **common.summary(times), "peak MiB": peak}


def fresh(size: Size, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run `point` in a fresh process; if it fails, such as for lack of memory, return that instead of raising."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(point, size, arguments).result()
        except RuntimeError as error:  # includes a process that was killed
            return {**asdict(size), "failed": f"{type(error).__name__}: {error}"[:200]}


def exponent(xs: Sequence[float], ys: Sequence[float | None]) -> float | None:
    """Return the least-squares slope of log y over log x for positive y; None for fewer than two different x."""
    pairs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True) if y is not None and y > 0]
    if len({x for x, _ in pairs}) < 2:
        return None
    return float(np.polyfit(*zip(*pairs, strict=True), 1)[0])


def fit(axis: str, base: Size, measured: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return the exponents of time and memory over the points at and above the base."""
    upper = [line for line in measured if line[axis] >= getattr(base, axis)]
    xs = [line[axis] for line in upper]
    fields = {"time": "median", "memory": "peak MiB"}
    return {name: exponent(xs, [line.get(field) for line in upper]) for name, field in fields.items()}


def show(
    table: dict[str, list[dict[str, Any]]], fits: dict[str, dict[str, float | None]], device: torch.device
) -> None:
    lines = []
    for axis, measured in table.items():
        slopes = ["-" if slope is None else f"{slope:.2f}" for slope in fits[axis].values()]
        for line in measured:
            if "failed" in line:
                cells = ["failed", "-"]
            else:
                cells = [common.spread(common.scaled(line, 1e3)), f"{line['peak MiB']:.1f}"]
            lines.append([axis, str(line[axis]), *cells, *slopes])
            slopes = ["", ""]
    common.show(["axis", "value", "ms", "MiB", "exponent of time", "of memory"], lines, device)


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=3)
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--quick", action="store_true", help="measure only three points per axis")
    parser.add_argument("--compile", action="store_true", help="measure compiled programs")
    add_sizes(parser)
    arguments = parser.parse_args(argv)
    device, base = common.prepare(arguments), size_of(arguments)
    known: dict[Size, dict[str, Any]] = {}  # the base is on every axis and is measured once
    table: dict[str, list[dict[str, Any]]] = {}
    for axis in arguments.axes:
        table[axis] = []
        for size in points(axis, base, quick=arguments.quick):
            known[size] = known.get(size) or fresh(size, arguments)
            table[axis].append(known[size])
    fits = {axis: fit(axis, base, measured) for axis, measured in table.items()}
    show(table, fits, device)
    common.write(arguments.output, device, base=asdict(base), table=table, exponents=fits)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
