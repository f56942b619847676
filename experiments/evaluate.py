"""Evaluate how fast a trained learner adapts to held-out tasks: the return after 0, 1, ..., K gradient steps.

    python experiments/evaluate.py runs/NAME... [--split test] [--tasks 100] [--steps 3]
    python experiments/evaluate.py runs/NAME --constants gravity=12 half_length=0.9

Several runs that share a configuration and budget but differ in their seeds are evaluated on the same tasks; intervals
are then over seeds and tasks.
"""

from __future__ import annotations

import hashlib
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from experiments import runs
from experiments.build import Progress, Setup
from experiments.cli import Plugins, parse
from experiments.config import Config
from experiments.errors import InputError, script
from experiments.learned import describe
from experiments.publishing import about_intervals, parts
from experiments.streams import stream
from metarl import Adaptation, AdaptationCurve, NonFiniteError, evaluate, stats
from metarl.rollouts import task_count
from metarl.types import Benchmark, Params

COUNTS = ("tasks", "steps", "episodes", "score_episodes")  # fields of `Protocol`
TEST_SEED = 20_171_707  # seed of the held-out tasks and of evaluation noise, common to all runs


@dataclass(frozen=True)
class Protocol:
    """What to measure, and how."""

    split: str = "test"
    """held-out split of the benchmark: test, validation, interpolation, extrapolation, ..."""
    tasks: int = 100
    """number of held-out tasks"""
    steps: int | None = None
    """adaptation steps K; defaults to as many as in training and at least 3, or 0 if trained without adapting"""
    episodes: int | None = None
    """episodes per adaptation step; defaults to as many as in training"""
    score_episodes: int = 20
    """fresh episodes that score each task after each step"""
    seed: int = TEST_SEED
    """seed of tasks and noise"""
    constants: tuple[str, ...] = ()
    """evaluate on one task of your own instead of a split, given as constant=value"""


@dataclass(frozen=True)
class Options:
    """Which runs to evaluate."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run folders with the same configuration, one per seed"""
    protocol: tyro.conf.OmitArgPrefixes[Protocol] = Protocol()
    device: str = "auto"
    """cpu, cuda, ...; auto is the CPU"""
    plugin: Plugins = ()
    """import path that the runs may import"""


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    if not options.runs:
        raise InputError("expected at least one run folder, got none; see --help")
    refuse(options.protocol)
    runs.prepare_machine()
    device = runs.pick_device(options.device)
    loaded = [runs.load(run, device, plugins=options.plugin) for run in options.runs]
    refuse_pooling(options.runs, [setup.config for setup, _ in loaded], [done for _, done in loaded])
    results = [
        evaluate_run(runs.run_of(run), setup, done, options.protocol, quiet=len(loaded) > 1)
        for run, (setup, done) in zip(options.runs, loaded, strict=True)
    ]
    if len(results) > 1:
        print_table(equally_long(results), trained=loaded[0][0].config.steps)


def refuse(protocol: Protocol) -> None:
    """Check a protocol before anything is loaded or trained.

    Raises:
        InputError: a count is too small, or a single task (``constants``) is given with a split or a number of tasks.
    """
    counts = (protocol.tasks, protocol.score_episodes, 1 if protocol.episodes is None else protocol.episodes)
    if min(counts) < 1 or (protocol.steps or 0) < 0:
        told = ", ".join(f"{name} {getattr(protocol, name)}" for name in COUNTS)
        raise InputError(f"expected tasks >= 1, episodes and score_episodes >= 1, steps >= 0, got {told}")
    if protocol.constants and protocol.split != Protocol.split:
        raise InputError(f"expected either --constants or --split, got both (--split {protocol.split}); leave one out")
    if protocol.constants and protocol.tasks != Protocol.tasks:
        raise InputError(f"--constants gives one task: expected no --tasks, got {protocol.tasks}; leave one out")


def refuse_pooling(folders: Sequence[Path], configs: Sequence[Config], done: Sequence[Progress]) -> None:
    """Check that runs differ in their seeds alone, as intervals over seeds require.

    Raises:
        InputError: a run differs from the first in its configuration or amount of training, or repeats a seed.
    """
    spent = [min(one.env_steps, config.env_steps) for one, config in zip(done, configs, strict=True)]
    for i, (folder, config) in enumerate(zip(folders, configs, strict=True)):
        if config.model_copy(update={"seed": 0}) != configs[0].model_copy(update={"seed": 0}):
            raise InputError(f"{folder} differs from {folders[0]} in more than its seed; evaluate them one by one")
        if config.seed in [other.seed for other in configs[:i]]:
            raise InputError(
                f"expected runs of different seeds, got seed {config.seed} again in {folder}; leave it out"
            )
        if spent[i] != spent[0]:
            raise InputError(
                f"{folders[0]} and {folder} were trained for {spent[0]:,} and {spent[i]:,} environment steps; train "
                "them equally long, with --resume, or evaluate them one by one"
            )


def evaluate_run(
    folder: Path, setup: Setup, done: Progress, protocol: Protocol, *, quiet: bool = False
) -> dict[str, Any]:
    """Evaluate one run, write the result to ``evaluation/<name_of>.json`` in its folder, and return it.

    Args:
        folder: run folder.
        setup: the run.
        done: how far the learner has been trained; becomes part of the result.
        protocol: what to measure.
        quiet: do not print the table.

    Raises:
        OSError: the folder cannot be written to; nothing has been evaluated then.
    """
    target = folder / "evaluation"
    target.mkdir(exist_ok=True)
    tempfile.TemporaryFile(dir=target).close()  # a folder that cannot be written to is told now, not at the end
    written_to = target / f"{name_of(protocol, setup.config)}.json"
    result = measure(setup, protocol, tell=True) | asdict(done)
    runs.write_json(written_to, result)
    if not quiet:
        print_table([result], trained=setup.config.steps)
        print(f"  written to {written_to}")
    return result


def name_of(protocol: Protocol, config: Config) -> str:
    """Return a file name made of the split and every setting that differs from the default protocol.

    Evaluations with different protocols thus do not overwrite one another. Very long names end in a hash.
    """
    usual, own = (vars(resolved(one, config)) for one in (Protocol(), protocol))
    counted = (*COUNTS, "seed")
    told = [*protocol.constants, *(f"{name}={own[name]}" for name in counted if own[name] != usual[name])]
    name = "-".join([_split(protocol), *told])
    return name if len(name) < 150 else f"{_split(protocol)}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _split(protocol: Protocol) -> str:
    return "constants" if protocol.constants else protocol.split


def cost(adaptation: Adaptation, tasks: int, horizon: int) -> str:
    """Return the cost of an evaluation in words; with slow environments it may take longer than training did."""
    scored = 2 * (adaptation.steps + 1) * adaptation.score_episodes  # twice: with sampled actions and with the mode
    episodes = tasks * (adaptation.steps * adaptation.episodes + scored)
    return f"{tasks} task{'s' * (tasks > 1)}, {episodes:,} episodes, at most {episodes * horizon:,} environment steps"


def measure(setup: Setup, protocol: Protocol, *, tell: bool = False) -> dict[str, Any]:
    """Evaluate the learner; return the adaptation curve and references of every held-out task as plain JSON values.

    If adaptation diverges after more steps than were trained for, and nobody asked for these steps, only the trained
    ones are measured. With ``tell``, print first on stderr how much the evaluation will take.

    Raises:
        InputError: see `held_out_tasks` and `refuse_met`.
        NonFiniteError: adaptation diverges.
    """
    usual, trained = resolved(protocol, setup.config), setup.config.steps
    try:
        return _measured(setup, usual, tell=tell)
    except NonFiniteError as error:
        if protocol.steps is not None or usual.steps == trained:
            raise
        print(f"note: measuring up to step {trained}, as trained for; beyond it: {error}", file=sys.stderr, flush=True)
        return _measured(setup, replace(usual, steps=trained), tell=tell)


def _measured(setup: Setup, protocol: Protocol, *, tell: bool) -> dict[str, Any]:
    config, task = setup.config, held_out_tasks(setup.benchmark, protocol)
    refuse_met(setup.benchmark, task, protocol.constants)
    adaptation = adaptation_of(protocol, support=setup.plan.support)
    if tell:
        told = cost(adaptation, task_count(task), setup.benchmark.family.horizon)
        print(f"evaluating: {told}", file=sys.stderr, flush=True)
    noise = stream(protocol.seed, "evaluation noise", setup.device)
    curve = evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise)
    return written(config.rule, config, setup.benchmark, protocol, task, curve) | {
        "learned": describe(setup, task, steps=adaptation.steps, seed=protocol.seed)
    }


def resolved(protocol: Protocol, config: Config) -> Protocol:
    """Return the protocol with its defaults filled in from a configuration.

    By default it adapts on as many episodes as in training, for as many steps as in training but at least three, to
    show how adaptation continues; a learner trained without adapting takes no steps.

    Raises:
        InputError: see `refuse`.
    """
    refuse(protocol)
    usual = max(3, config.steps) if config.steps else 0
    return replace(
        protocol,
        steps=usual if protocol.steps is None else protocol.steps,
        episodes=config.episodes if protocol.episodes is None else protocol.episodes,
    )


def adaptation_of(protocol: Protocol, **others: Any) -> Adaptation:
    """Return the `metarl.Adaptation` of a `resolved` protocol; ``others`` are further fields of it."""
    assert protocol.steps is not None and protocol.episodes is not None
    return Adaptation(protocol.steps, protocol.episodes, protocol.score_episodes, **others)


def written(
    rule: str, config: Config, benchmark: Benchmark, protocol: Protocol, task: Params, curve: AdaptationCurve
) -> dict[str, Any]:
    """Return a curve with its protocol, its tasks and their reference scores as plain JSON values."""
    references = getattr(benchmark.family, "references", None)
    return {
        "benchmark": config.benchmark,
        "fingerprint": benchmark.fingerprint(),
        "rule": rule,
        "seed": config.seed,
        "split": _split(protocol),
        "protocol": asdict(protocol) | {"constants": list(protocol.constants)},
        "task": {name: value.tolist() for name, value in task.items()},
        "references": {} if references is None else {k: v.tolist() for k, v in references(task).items()},
        **{name: getattr(curve, name).tolist() for name in AdaptationCurve._fields},
        "learned": {},
    }


def validate(setup: Setup, tasks: int = 20) -> dict[str, float]:
    """Return mean returns on a few validation tasks after 0, 1, ..., K adaptation steps like those of training.

    All are NaN if adapting diverges.
    """
    adaptation = Adaptation.like(setup.plan)
    task = held_out_tasks(setup.benchmark, Protocol(split="validation", tasks=tasks))
    noise = stream(TEST_SEED, "validation noise", setup.device)
    try:
        returns = evaluate(setup.learner, setup.benchmark, task, adaptation, generator=noise).sampled.mean(0).tolist()
    except NonFiniteError:  # a failed validation must not end the training
        returns = [math.nan] * (adaptation.steps + 1)
    return {f"validation/step_{k}": value for k, value in enumerate(returns)}


def held_out_tasks(benchmark: Benchmark, protocol: Protocol) -> Params:
    """Return the protocol's tasks, on the CPU.

    Raises:
        InputError: the split is unknown or the training split, or see `one_task`.
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
    """Return a task given by ``name=value`` pairs.

    A constant that is not named has the value that the family fixes it to, or else its default.

    Raises:
        InputError: the family makes no tasks of constants, a pair cannot be read, a constant is given twice, or the
            family refuses the values.
    """
    family: Any = benchmark.family
    if not hasattr(family, "task"):
        raise InputError(
            f"--constants: expected an envs.Family, which makes a task of constants, got {type(family).__name__}; "
            "evaluate on a split"
        )
    values: dict[str, float] = {}
    for pair in constants:
        name, _, text = pair.partition("=")
        if name in values:
            raise InputError(f"expected every constant once, got {name} again in {pair!r}; leave one out")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise InputError(f"expected constant=value, got {pair!r}; for instance gravity=12") from error
    try:
        task: Params = family.task(**values)
    except ValueError as error:
        raise InputError(str(error)) from error
    return task


def refuse_met(benchmark: Benchmark, task: Params, constants: Sequence[str]) -> None:
    """Check that training cannot have drawn a task that the user has specified by its constants.

    Raises:
        InputError: it may have. The message suggests the nearest held-out task found by changing one of the given
            constants, if there is one.
    """
    if not constants or not bool(benchmark.is_training(task)):
        return
    names = [pair.partition("=")[0] for pair in constants]
    given = {name: float(value) for name, value in task.items()}
    near = (
        given | {name: round(given[name] * factor, 4)}
        for k in range(1, 200)
        for name in names
        for factor in (1.0 - k / 200.0, 1.0 + k / 200.0)
    )
    found = next((other for other in near if _is_held_out(benchmark, other)), None)
    told = "" if found is None else ", such as " + " ".join(f"{name}={found[name]:g}" for name in names)
    raise InputError(f"this task may occur in training: expected a held-out one{told}")


def _is_held_out(benchmark: Benchmark, values: Mapping[str, float]) -> bool:
    family: Any = benchmark.family
    try:
        return not bool(benchmark.is_training(family.task(**values)))
    except ValueError:  # the family allows no such task
        return False


def equally_long(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the evaluations of one learner's seeds, cut to as many adaptation steps as all of them have.

    Some may have fewer, as an evaluation that diverges beyond the trained steps keeps those alone. Runs that diverged
    altogether are returned as they are.
    """
    whole = [result for result in results if "diverged" not in result]
    widths = {len(result["sampled"][0]) for result in whole}
    if len(widths) < 2:
        return list(results)
    columns, steps = min(widths), min(result["protocol"]["steps"] for result in whole)

    def cut(result: dict[str, Any]) -> dict[str, Any]:
        scores = {name: [row[:columns] for row in result[name]] for name in AdaptationCurve._fields}
        rates = {name: line[:steps] for name, line in result["learned"].get("effective rates", {}).items()}
        learned = result["learned"] | ({"effective rates": rates} if rates else {})
        return result | scores | {"protocol": result["protocol"] | {"steps": steps}, "learned": learned}

    return [result if "diverged" in result else cut(result) for result in results]


def score_matrix(results: Sequence[dict[str, Any]], field: str = "sampled") -> NDArray[np.float64]:
    """Return the scores ``[seeds, tasks, K + 1]`` of runs on common tasks.

    Raises:
        InputError: the runs differ in their tasks or protocol.
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


def table(results: Sequence[dict[str, Any]], trained: int) -> list[list[str]]:
    """Return rows of text: a header, then one row per number of adaptation steps, marked if beyond ``trained``."""
    sampled, mode = score_matrix(results), score_matrix(results, "mode")
    episodes, spent = score_matrix(results, "adaptation_episodes"), score_matrix(results, "adaptation_steps")
    rows = [["steps", "mean", "95 %", "IQM", "95 %", "mean action", "made worse", "episodes", "env steps spent"]]
    for k in range(sampled.shape[-1]):
        worse = "" if k == 0 else f"{stats.share_worse(sampled[..., 0], sampled[..., k]):.1%}"
        rows.append(
            [
                str(k) if k <= trained else f"{k} (not trained for)",
                *parts(sampled[..., k]),
                *parts(sampled[..., k], stats.iqm),
                f"{mode[..., k].mean():.2f}",
                worse,
                f"{episodes[..., k].mean():,.0f}",
                f"{spent[..., k].mean():,.0f}",
            ]
        )
    return rows


def print_table(results: Sequence[dict[str, Any]], *, trained: int) -> None:
    """Print the adaptation curve of one run, or of several seeds pooled, that trained with ``trained`` steps."""
    first, protocol, tasks = results[0], results[0]["protocol"], len(results[0]["sampled"])
    print(
        f"\n{first['benchmark']}, {first['rule']}, split {first['split']!r}: return on {tasks} held-out "
        f"task{'s' * (tasks > 1)}, {len(results)} seed(s), {protocol['score_episodes']} episodes a score; "
        f"{about_intervals(score_matrix(results)[..., 0])}"
    )
    rows = table(results, trained)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    for name, values in first["references"].items():
        print(f"  {name} of these tasks: {np.mean(values):.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
