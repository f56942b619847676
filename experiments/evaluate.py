"""How fast a trained learner adapts to held-out tasks: the return after 0, 1, ..., K gradient steps.

    python experiments/evaluate.py runs/NAME... [--split test] [--tasks 100] [--steps 3]
    python experiments/evaluate.py runs/NAME --constants gravity=12 half_length=0.9

Several runs of one configuration and different seeds are evaluated on the same tasks, and the intervals
are over seeds and tasks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from experiments import runs
from experiments.build import Setup
from experiments.cli import parse
from experiments.config import Config
from experiments.errors import InputError, script
from experiments.learned import describe
from experiments.streams import stream
from metarl import Adaptation, AdaptationCurve, NonFiniteError, evaluate, stats
from metarl.types import Benchmark, Params

TEST_SEED = 20_171_707  # of the held-out tasks and the noise they are scored with: common to all runs


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how."""

    split: str = "test"
    """held-out split: test, validation, interpolation, extrapolation, ... as the benchmark has them"""
    tasks: int = 100
    """held-out tasks"""
    steps: int | None = None
    """adaptation steps K; three, or none for a run trained without adapting, unless given"""
    episodes: int | None = None
    """episodes a step adapts on; the training's unless given"""
    score_episodes: int = 20
    """fresh episodes that score a task at each step"""
    seed: int = TEST_SEED
    """of tasks and noise"""
    constants: tuple[str, ...] = ()
    """evaluate on one task of your own instead, as constant=value"""


@dataclass(frozen=True)
class Options:
    """Which runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run folders of one configuration, one a seed"""
    protocol: tyro.conf.OmitArgPrefixes[Protocol] = Protocol()
    device: str = "auto"
    """cpu, cuda, ..."""
    plugin: tuple[str, ...] = ()
    """import paths that the runs may import"""


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    if not options.runs:
        raise InputError("expected at least one run folder, got none; see --help")
    runs.prepare_machine()
    device = runs.pick_device(options.device)
    loaded = [runs.load(run, device, plugins=options.plugin) for run in options.runs]
    base = loaded[0][0].model_copy(update={"seed": 0})
    for (config, _, _), run in zip(loaded, options.runs, strict=True):
        if config.model_copy(update={"seed": 0}) != base:
            raise InputError(f"{run} differs from {options.runs[0]} in more than its seed; evaluate them one by one")
    results = [
        evaluate_run(run, config, setup, options.protocol, device, quiet=len(loaded) > 1)
        for run, (config, setup, _) in zip(options.runs, loaded, strict=True)
    ]
    if len(results) > 1:
        print_table(results)


def evaluate_run(
    folder: Path, config: Config, setup: Setup, protocol: Protocol, device: torch.device, *, quiet: bool = False
) -> dict[str, Any]:
    """Evaluate one run, write ``evaluation/<split>.json`` in its folder, print the table; return what was written."""
    result = measure(config, setup, protocol, device)
    target = folder / "evaluation"
    target.mkdir(exist_ok=True)
    runs.write_json(target / f"{result['split']}.json", result)
    if not quiet:
        print_table([result])
    return result


def measure(config: Config, setup: Setup, protocol: Protocol, device: torch.device) -> dict[str, Any]:
    """The adaptation curve of every held-out task, with its references, as plain JSON values."""
    if protocol.tasks < 1 or protocol.score_episodes < 1 or (protocol.steps or 0) < 0:
        raise InputError(f"expected tasks >= 1, score_episodes >= 1 and steps >= 0, got {protocol}")
    task = held_out_tasks(setup.benchmark, protocol)
    steps = protocol.steps if protocol.steps is not None else (3 if config.steps else 0)
    episodes = protocol.episodes if protocol.episodes is not None else config.episodes
    curve = evaluate(
        setup.learner,
        setup.benchmark,
        task,
        Adaptation(
            steps=steps,
            episodes=episodes,
            score_episodes=protocol.score_episodes,
            support=setup.plan.support,
        ),
        generator=stream(protocol.seed, "evaluation noise", device),
    )
    done = replace(protocol, steps=steps, episodes=episodes)
    return written(config.rule, config, setup.benchmark, done, task, curve) | {
        "learned": describe(setup, task, steps=steps, seed=protocol.seed)
    }


def written(
    rule: str, config: Config, benchmark: Benchmark, protocol: Protocol, task: Params, curve: AdaptationCurve
) -> dict[str, Any]:
    """A curve with its tasks and their references as plain JSON values; ``protocol`` says what was done."""
    references = getattr(benchmark.family, "references", None)
    return {
        "benchmark": config.benchmark,
        "fingerprint": benchmark.fingerprint(),
        "rule": rule,
        "seed": config.seed,
        "split": "constants" if protocol.constants else protocol.split,
        "protocol": asdict(protocol) | {"constants": list(protocol.constants)},
        "task": {name: value.tolist() for name, value in task.items()},
        "references": {} if references is None else {k: v.tolist() for k, v in references(task).items()},
        **{name: getattr(curve, name).tolist() for name in AdaptationCurve._fields},
        "learned": {},
    }


def validate(setup: Setup, tasks: int = 20) -> dict[str, float]:
    """Mean return on a few validation tasks after 0, 1, ..., K steps, as in training; NaN where adapting diverges."""
    steps, device = setup.config.steps, setup.generator.device
    adaptation = Adaptation(steps=steps, episodes=setup.config.episodes, support=setup.plan.support)
    task = held_out_tasks(setup.benchmark, Protocol(split="validation", tasks=tasks))
    noise = stream(TEST_SEED, "validation noise", device)
    try:
        returns = evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise).sampled.mean(0).tolist()
    except NonFiniteError:  # a look at the learner must not end its training
        returns = [math.nan] * (steps + 1)
    return {f"validation/step_{k}": value for k, value in enumerate(returns)}


def held_out_tasks(benchmark: Benchmark, protocol: Protocol) -> Params:
    """The protocol's tasks, on the CPU.

    Raises:
        InputError: the training split, an unknown split, or constants that the family refuses.
    """
    if protocol.constants:
        return one_task(benchmark, protocol.constants)
    if protocol.split == "train":
        raise InputError(f"training tasks cannot be evaluated on; choose a held-out split of {list(benchmark.splits)}")
    if protocol.split not in benchmark.splits:
        raise InputError(f"{benchmark.name} has no split {protocol.split!r}; known are {', '.join(benchmark.splits)}")
    generator = stream(protocol.seed, f"held-out tasks of {protocol.split}")
    return dict(benchmark.sample(protocol.split, protocol.tasks, generator=generator))


def one_task(benchmark: Benchmark, constants: Sequence[str]) -> Params:
    """A task from ``name=value`` pairs; what is not named is as fixed in the family, or else has its default."""
    family: Any = benchmark.family
    values = {name: parameter.default for name, parameter in family.parameters.items()}
    values |= {name: one.bounds[0] for name, one in family.ranges.items() if one.bounds[0] == one.bounds[1]}
    for pair in constants:
        name, _, text = pair.partition("=")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise InputError(f"expected constant=value, got {pair!r}; for instance gravity=12") from error
    task = {name: torch.tensor([value]) for name, value in values.items()}
    try:
        family.validate(task)
    except ValueError as error:
        raise InputError(str(error)) from error
    return task


def score_matrix(results: Sequence[dict[str, Any]], field: str = "sampled") -> NDArray[np.float64]:
    """Scores ``[seeds, tasks, K + 1]`` of runs on common tasks.

    Raises:
        InputError: the runs were not evaluated alike.
    """
    first = results[0]
    for other in results:
        if (other["fingerprint"], other["protocol"], other["task"]) != (
            first["fingerprint"],
            first["protocol"],
            first["task"],
        ):
            raise InputError("these evaluations differ in their tasks or protocol; evaluate the runs together")
    return np.asarray([result[field] for result in results], dtype=np.float64)


def table(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: a header, and a row for every number of adaptation steps."""
    sampled, mode = score_matrix(results), score_matrix(results, "mode")
    spent = score_matrix(results, "adaptation_steps")
    rows = [["steps", "mean", "95 %", "IQM", "95 %", "mean action", "made worse", "env steps spent"]]
    for k in range(sampled.shape[-1]):
        worse = "" if k == 0 else f"{stats.share_worse(sampled[..., 0], sampled[..., k]):.1%}"
        rows.append(
            [
                str(k),
                *with_interval(sampled[..., k], stats.mean),
                *with_interval(sampled[..., k], stats.iqm),
                f"{mode[..., k].mean():.2f}",
                worse,
                f"{spent[..., k].mean():,.0f}",
            ]
        )
    return rows


def with_interval(scores: NDArray[np.float64], statistic: stats.Statistic) -> tuple[str, str]:
    """The statistic and its interval as text; one score alone has none."""
    if scores.size < 2:
        return f"{float(statistic(scores)):.2f}", "–"
    found = stats.interval(scores, statistic, seed=0)
    return f"{found.estimate:.2f}", f"[{found.low:.2f}, {found.high:.2f}]"


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print the adaptation curve of one run, or of several seeds together."""
    first, protocol = results[0], results[0]["protocol"]
    tasks, over = len(first["sampled"]), "seeds and tasks" if len(results) > 1 else "tasks (one seed)"
    print(
        f"\n{first['benchmark']}, {first['rule']}, split {first['split']!r}: return on {tasks} held-out tasks, "
        f"{len(results)} seed(s), {protocol['score_episodes']} episodes a score; intervals over {over}"
    )
    rows = table(results)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    for name, values in first["references"].items():
        print(f"  {name} of these tasks: {np.mean(values):.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
