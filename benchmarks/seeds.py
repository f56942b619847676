"""W4: what do many seeds cost in one process, trained together, against one after another?

    python -m benchmarks.seeds [--counts 1 8 64] [--device cpu] [--compile] [--output results/...json]

The iteration is that of ``meta_iteration.py``. S learners with tasks, noise and weights of their own make one
iteration together, by `metarl.training.meta_steps`, and one by S single calls of `metarl.meta_step`; the two take
turns. Compiled, every learner has programs of its own, which takes minutes for a few.

The document: ``size``, and a ``table`` of lines with ``seeds``, ``compiled``, ``together`` and ``apart`` (``seconds``,
their ``median``, ``min`` and ``max``), ``ratio`` (together / apart) and ``peak MiB`` (together).
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import common
from benchmarks.meta_iteration import Size, Workload, add_sizes, size_of
from experiments.errors import InputError, script
from metarl import training


def iterate(workloads: list[Workload]) -> None:
    """One meta-iteration of every seed, together."""
    first = workloads[0]
    training.meta_steps(
        [w.learner for w in workloads],
        [w.optimizer for w in workloads],
        first.family,
        [w.tasks() for w in workloads],
        first.plan,
        generators=[w.generator for w in workloads],
    )


def measure(count: int, size: Size, repeats: int, device: torch.device, *, compiled: bool) -> dict[str, Any]:
    """Seconds of one iteration of all seeds, both ways, and their ratio."""
    workloads = [Workload(size, device, seed=seed, compiled=compiled) for seed in range(count)]
    runs: dict[str, common.Contender] = {
        "together": lambda: iterate(workloads),
        "apart": lambda: [w.iteration() for w in workloads],
    }
    times = common.alternate(runs, repeats, device)
    return {
        "seeds": count,
        "compiled": compiled,
        **{name: {"seconds": values, **common.summary(values)} for name, values in times.items()},
        "ratio": common.ratios(times["together"], times["apart"]),
        "peak MiB": common.peak_memory(lambda: iterate(workloads), device),
    }


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=5)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 64], help="of seeds")
    parser.add_argument("--compile", action="store_true", help="with compiled programs")
    add_sizes(parser)
    arguments = parser.parse_args(argv)
    if min(arguments.counts) < 1:
        raise InputError(f"--counts must be at least 1, got {arguments.counts}")
    device, size = common.prepare(arguments), size_of(arguments)
    table = [measure(n, size, arguments.repeats, device, compiled=arguments.compile) for n in arguments.counts]
    lines = [
        [
            str(line["seeds"]),
            common.spread(common.scaled(line["together"], 1e3)),
            common.spread(common.scaled(line["apart"], 1e3)),
            f"{1e3 * line['together']['median'] / line['seeds']:.2f}",
            common.spread(line["ratio"]),
            f"{line['peak MiB']:.0f}",
        ]
        for line in table
    ]
    common.show(["seeds", "together ms", "apart ms", "ms a seed", "together / apart", "MiB"], lines, device)
    common.write(arguments.output, device, size=asdict(size), table=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
