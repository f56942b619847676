"""W4: what does it cost to train many seeds together in one process, compared with one after another?

    python -m benchmarks.seeds [--counts 1 8 64] [--device cpu] [--compile] [--output results/...json]

The iteration is that of ``meta_iteration.py``. S learners, each with its own tasks, noise and weights, make one
iteration together by `metarl.training.meta_steps` ("together"), and one by S single calls of `metarl.meta_step`
("apart"); with ``--compile`` also both with compiled programs. All take turns. Ratios are to "apart", within each turn:
to S single runs that compile nothing, which is the default. A whole run consists of the set-up and `ITERATIONS`. The
set-up is the first iteration of all seeds, including compilation, in a process and with a cache that hold nothing
compiled before.

The document: ``size``, and a ``table`` of lines with ``seeds``, ``name``, ``seconds`` of an iteration of all
seeds, their ``median``, ``min`` and ``max``, ``ratio``, ``set-up`` (seconds), ``ratio of a run`` (of medians), and
``peak MiB``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from benchmarks import common
from benchmarks.meta_iteration import Size, Workload, add_sizes, size_of
from experiments.errors import InputError, script
from metarl import compilation, training

ITERATIONS = 100  # length of a whole run: 8 million environment steps of W1, the budget of Meta-SGD's authors


def together(workloads: list[Workload]) -> None:
    """Run one meta-iteration of every seed, all together."""
    first = workloads[0]
    training.meta_steps(
        [w.learner for w in workloads],
        [w.optimizer for w in workloads],
        first.family,
        [w.tasks() for w in workloads],
        first.plan,
        generators=[w.generator for w in workloads],
    )


def apart(workloads: list[Workload]) -> None:
    """Run one meta-iteration of every seed, one after another."""
    for one in workloads:
        one.iteration()


WAYS: dict[str, Callable[[list[Workload]], None]] = {"apart": apart, "together": together}


def measure(count: int, size: Size, repeats: int, device: torch.device, *, compiled: bool) -> list[dict[str, Any]]:
    """Return a line of the table for every way of making one iteration of all seeds."""
    runs: dict[str, common.Contender] = {}
    set_up: dict[str, float] = {}
    for programs in (False, True)[: 1 + compiled]:
        for name, way in WAYS.items():
            workloads = [Workload(size, device, seed=seed, compiled=programs) for seed in range(count)]
            label = f"{name}, compiled" if programs else name
            runs[label] = lambda way=way, workloads=workloads: way(workloads)
            compilation.forget()
            with fresh_cache():
                set_up[label] = common.seconds(runs[label], device)
    times = common.alternate(runs, repeats, device)
    middle = {name: common.summary(values)["median"] for name, values in times.items()}
    return [
        {
            "seeds": count,
            "name": name,
            "seconds": times[name],
            **common.summary(times[name]),
            "ratio": common.ratios(times[name], times["apart"]),
            "set-up": set_up[name],
            "ratio of a run": (set_up[name] + ITERATIONS * middle[name]) / (ITERATIONS * middle["apart"]),
            "peak MiB": common.peak_memory(run, device),
        }
        for name, run in runs.items()
    ]


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=5)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 8, 64], help="numbers of seeds (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="measure compiled programs as well")
    add_sizes(parser)
    arguments = parser.parse_args(argv)
    if min(arguments.counts) < 1:
        raise InputError(f"--counts must be at least 1, got {arguments.counts}")
    device, size = common.prepare(arguments), size_of(arguments)
    table = [
        line
        for count in arguments.counts
        for line in measure(count, size, arguments.repeats, device, compiled=arguments.compile)
    ]
    lines = [
        [
            f"{line['seeds']} {line['name']}",
            common.spread(common.scaled(line, 1e3)),
            f"{1e3 * line['median'] / line['seeds']:.2f}",
            common.spread(line["ratio"]),
            f"{line['set-up']:.1f}",
            f"{line['ratio of a run']:.2f}",
            f"{line['peak MiB']:.0f}",
        ]
        for line in table
    ]
    common.show(["seeds", "ms", "ms per seed", "/ apart", "set-up s", "run / runs apart", "MiB"], lines, device)
    common.write(arguments.output, device, size=asdict(size), table=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
