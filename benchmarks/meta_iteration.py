"""W1: how long does one whole second-order Meta-SGD iteration take, and where does the time go?

    python -m benchmarks.meta_iteration [--device cpu] [--threads 2] [--repeats 7] [--output results/...json]
    python -m benchmarks.meta_iteration --only iteration compiled --peer "python -m benchmarks.yardstick_jax w1 --serve"

The workload is fixed-start navigation with 20 tasks of 20 episodes of 100 steps, a Gaussian policy with 2x100 ReLU
units, and one learned rate per parameter. An iteration consists of sampling new tasks, K+1 rollouts, advantages, K
inner steps, the meta-gradient by replay, and Adam. All rows of the table take turns: the iteration, the same compiled,
peers with the same workload, the update by one ``vmap`` over all tasks ("oracle"), more inner steps or epochs, a trust
region, and the iteration's parts on a recorded trace. A column "/ NAME" is the ratio of times to that row's, within
each turn.

The document: ``size``, and a ``table`` of rows with ``name``, ``command`` (of a peer), ``seconds``, their
``median``, ``min`` and ``max``, ``ratios`` by name, and ``peak MiB``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks import common
from envs import Navigation
from experiments.errors import InputError, script
from metarl import (
    MLP,
    Descent,
    GaussianPolicy,
    Learner,
    MetaOptimizer,
    Plan,
    Task,
    TrustRegion,
    collect,
    explore,
    lvc,
    meta_step,
)
from metarl.learner import step_tasks
from metarl.losses import surrogate
from metarl.optimizers import meta_loss
from metarl.rollouts import to_device
from metarl.rules import MetaSGD
from metarl.trees import tree_detach

RATE = 1e-3  # meta step size


@dataclass(frozen=True)
class Size:
    """How much one iteration computes."""

    tasks: int = 20
    episodes: int = 20
    horizon: int = 100
    width: int = 100
    steps: int = 1


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a size."""
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")


def size_of(arguments: argparse.Namespace) -> Size:
    """Return the size that the flags describe.

    Raises:
        InputError: a count is below 1.
    """
    size = Size(**{name: getattr(arguments, name) for name in asdict(Size())})
    if min(asdict(size).values()) < 1:
        raise InputError(f"every count must be at least 1, got {size}")
    return size


class Workload:
    """The objects of workload W1; `iteration` is timed."""

    def __init__(self, size: Size, device: torch.device, *, seed: int = 0, compiled: bool = False) -> None:
        """Make a learner with weights and rates drawn from ``seed``, and its own random streams of tasks and noise."""
        weights, self.task_generator = (torch.Generator().manual_seed(2 * seed + k) for k in range(2))
        network = MLP(2, [size.width] * 2, 2, activation=torch.relu, generator=weights)
        policy = GaussianPolicy(network, 2, log_std=-0.5)
        rule = MetaSGD(policy.initial(), initial=(0.005, 0.1), generator=weights)
        self.learner = Learner(policy, rule, inner=lvc, outer=surrogate).to(device)
        if compiled:
            self.learner.compile()
        self.optimizer: MetaOptimizer = Descent(self.learner, lr=RATE)
        self.family = Navigation(horizon=size.horizon, box=None)
        self.plan = Plan(tasks=size.tasks, episodes=size.episodes, query_episodes=size.episodes, steps=size.steps)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = device

    def tasks(self) -> Task:
        """Return new tasks, on the device."""
        return to_device(self.family.sample(self.plan.tasks, generator=self.task_generator), self.device)

    def iteration(self) -> None:
        """Run one meta-iteration of the library."""
        meta_step(self.learner, self.optimizer, self.family, self.tasks(), self.plan, generator=self.generator)


Make = Callable[[Size, torch.device], Callable[[], object]]
"""Sets up a variant and returns a function that runs one iteration of it."""


def oracle(size: Size, device: torch.device) -> Callable[[], object]:
    """Return the iteration with the simplest update: one ``vmap`` over all tasks, one backward pass."""
    w = Workload(size, device)
    adam = torch.optim.Adam(w.learner.parameters(), lr=RATE)

    def iteration() -> None:
        trace = explore(w.learner, w.family, w.tasks(), w.plan, generator=w.generator)
        adam.zero_grad()
        meta_loss(w.learner, trace).backward()
        adam.step()

    return iteration


def improved_by(make: Callable[[Learner], MetaOptimizer]) -> Make:
    """Return the variant of the iteration with another meta-optimizer."""

    def variant(size: Size, device: torch.device) -> Callable[[], object]:
        w = Workload(size, device)
        w.optimizer = make(w.learner)
        return w.iteration

    return variant


VARIANTS: dict[str, Make] = {
    "iteration": lambda size, device: Workload(size, device).iteration,
    "compiled": lambda size, device: Workload(size, device, compiled=True).iteration,
    "oracle": oracle,
    "2-steps": lambda size, device: Workload(replace(size, steps=2), device).iteration,
    "3-steps": lambda size, device: Workload(replace(size, steps=3), device).iteration,
    "5-epochs": improved_by(lambda learner: Descent(learner, lr=RATE, epochs=5)),
    "trust-region": improved_by(lambda learner: TrustRegion()),
}
PARTS = {"parts": False, "compiled-parts": True}


def parts(size: Size, device: torch.device, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Return the parts of an iteration by name, each a run on the same recorded trace."""
    w = Workload(size, device, compiled=compiled)
    learner, plan, task = w.learner, w.plan, w.tasks()
    trace = explore(learner, w.family, task, plan, generator=w.generator)
    first = trace.support[0]
    start, state = learner.start()
    start = tree_detach(start)
    adapted, _ = step_tasks(learner, start, state, first)

    def rollout(params: Any) -> Callable[[], object]:
        given = {"generator": w.generator, "programs": learner.programs}
        return lambda: collect(learner.policy, params, w.family, task, plan.episodes, **given)

    found: dict[str, Callable[[], object]] = {
        "rollout, shared": rollout(start),
        "rollout, stacked": rollout(adapted),
        "advantages": lambda: plan.support(first),
        "inner step": lambda: step_tasks(learner, start, state, first, programs=learner.programs),
        "update": lambda: w.optimizer.step(learner, trace),
    }
    return {f"{name}, compiled": run for name, run in found.items()} if compiled else found


def measure(
    rows: Mapping[str, common.Contender], against: list[str], repeats: int, device: torch.device
) -> list[dict[str, Any]]:
    """Measure the times of all rows, their ratios to the rows ``against``, and the peak memory of all but peers."""
    times = common.alternate(rows, repeats, device)
    return [
        {
            "name": name,
            "command": contender.command if isinstance(contender, common.Peer) else None,
            "seconds": times[name],
            **common.summary(times[name]),
            "ratios": {other: common.ratios(times[name], times[other]) for other in against},
            "peak MiB": None if isinstance(contender, common.Peer) else common.peak_memory(contender, device),
        }
        for name, contender in rows.items()
    ]


def show(table: list[dict[str, Any]], against: list[str], device: torch.device) -> None:
    lines = []
    for row in table:
        cells = [f"{1e3 * row[key]:.2f}" for key in ("median", "min", "max")]
        memory = "-" if row["peak MiB"] is None else f"{row['peak MiB']:.0f}"
        lines.append([row["name"], *cells, *(common.spread(row["ratios"][other]) for other in against), memory])
    common.show(["", "ms", "min", "max", *(f"/ {other}" for other in against), "MiB"], lines, device)


@script
def main(argv: list[str]) -> None:
    parser = common.options(__doc__, repeats=7)
    common.add_peers(parser)
    parser.add_argument("--only", nargs="+", choices=(*VARIANTS, *PARTS), default=(*VARIANTS, *PARTS))
    add_sizes(parser)
    arguments = parser.parse_args(argv)
    device, size = common.prepare(arguments), size_of(arguments)
    with ExitStack() as stack:
        rows: dict[str, common.Contender] = {}
        for name, make in VARIANTS.items():
            if name in arguments.only:
                rows[name] = make(size, device)
            if name == "compiled":  # peers come next to the rows that they are compared with
                rows |= {f"peer {i}": stack.enter_context(common.Peer(c)) for i, c in enumerate(arguments.peer, 1)}
        for name, compiled in PARTS.items():
            rows |= parts(size, device, compiled=compiled) if name in arguments.only else {}
        against = [name for name in rows if name == "iteration" or name.startswith("peer ")]
        table = measure(rows, against, arguments.repeats, device)
    show(table, against, device)
    common.write(arguments.output, device, size=asdict(size), table=table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
