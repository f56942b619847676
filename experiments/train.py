"""Meta-train one learner and evaluate it on held-out tasks.

    python experiments/train.py PRESET [--seed 1] [--env-steps 2000000] [--rule maml --rate 0.5] ...
    python experiments/train.py runs/NAME/config.json [--seed 2] ...
    python experiments/train.py --resume runs/NAME [--env-steps 4000000]

Every field of the configuration is a flag.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import runs
from experiments.build import Setup, build
from experiments.cli import Plugins, given, parse, parse_config, refuse_unread
from experiments.errors import InputError, existing, script
from experiments.evaluate import Protocol, evaluate_run, held_out_tasks, validate
from experiments.figures import draw_run
from experiments.learned import rate_metrics, rate_tables
from experiments.plugins import FIELDS, imports
from experiments.stopping import stop_requests
from experiments.tracking import viewers
from metarl.checks import raised
from metarl.errors import NonFiniteError
from metarl.evaluation import refuse_training_tasks
from metarl.exploration import explore
from metarl.metrics import MetricsLog, Progress
from metarl.rollouts import collect, to_device


@dataclass(frozen=True)
class Watch:
    """What is saved and shown of a run."""

    save_every: int = 50
    """meta-iterations between checkpoints"""
    histograms_every: int = 20
    """meta-iterations between histograms of the learned step sizes in TensorBoard; 0 is none"""
    validate_every: int = 0
    """meta-iterations between evaluations on 20 validation tasks, which cost extra environment steps; 0 is none"""
    track: str | None = None
    """also log the run to this Weights & Biases project: pip install -e '.[track]'"""
    evaluate: bool = True
    """evaluate on held-out tasks and draw the figures at the end"""


@dataclass(frozen=True)
class Options(Watch):
    """How to run the configuration."""

    output: Path | None = None
    """run folder; defaults to runs/<benchmark>__<rule>__s<seed>__<time>"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is the CPU"""
    threads: int | None = None
    """CPU threads; defaults to torch's choice"""
    deterministic: bool = False
    """on a GPU: the same bits in every run, but slower"""


@dataclass(frozen=True, kw_only=True)
class Resume(Watch):
    """Resume a run from its last checkpoint; intervals and tracking default to the run's own."""

    resume: Path
    """run folder to resume"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is the CPU"""
    deterministic: bool = False
    """on a GPU: the same bits in every run, but slower"""
    plugin: Plugins = ()
    """import path that the run may import"""
    env_steps: int | None = None
    """larger training budget, to train the run further"""


WATCH = "watch.json"
EVERY = ("save_every", "histograms_every", "validate_every")


def remembered(folder: Path) -> dict[str, int]:
    """Return the intervals (`EVERY`) that the run has used so far, or an empty dict if it has recorded none."""
    try:
        found = json.loads((folder / WATCH).read_text())
        return {name: int(found[name]) for name in EVERY if name in found}
    except (OSError, ValueError, TypeError):
        return {}


@script
def main(argv: list[str]) -> None:
    with ExitStack() as lock:
        if any(part == "--resume" or part.startswith("--resume=") for part in argv):
            run(*resumed(argv, lock))
        else:
            run(*begun(argv, lock))


def begun(argv: Sequence[str], lock: ExitStack) -> tuple[Path, Setup, runs.Progress, Watch]:
    """Set up a new run and lock its folder; return the arguments of `run`."""
    config, options = parse_config(Options, argv, __doc__)
    runs.prepare_machine(options.threads, deterministic=options.deterministic)
    device = runs.pick_device(options.device)
    setup = build(config, device)
    refuse_unread(given(argv), setup.read)
    refuse(options, setup)
    try_out(setup)
    folder = runs.place(config, options.output)
    lock.enter_context(runs.locked(folder))
    runs.create(config, folder, device)
    return folder, setup, runs.Progress(), options


def resumed(argv: Sequence[str], lock: ExitStack) -> tuple[Path, Setup, runs.Progress, Watch]:
    """Load a run from its last checkpoint and lock its folder; return the arguments of `run`."""
    refuse_configuration(argv)
    again = parse(Resume, argv, __doc__)
    runs.prepare_machine(deterministic=again.deterministic)
    device, folder = runs.pick_device(again.device), runs.run_of(existing(again.resume, "run folder"))
    lock.enter_context(runs.locked(folder))
    setup, done = runs.load(again.resume, device, plugins=again.plugin, resume=True)
    watch = parse(Resume, argv, __doc__, replace(again, **remembered(folder)))
    refuse(watch, setup)
    if watch.env_steps is not None:
        setup = extended(setup, folder, done, watch.env_steps)
    return folder, setup, done, watch


def run(folder: Path, setup: Setup, done: runs.Progress, watch: Watch) -> None:
    """Train for what is left of the budget, then evaluate and draw the figures if ``watch.evaluate``."""
    runs.write_json(folder / WATCH, {name: getattr(watch, name) for name in EVERY})
    to_do = done.env_steps < setup.config.env_steps
    if not to_do:
        print(f"{folder}: all {setup.config.env_steps:,} environment steps are done; nothing to train")
    if not (to_do or watch.evaluate):
        return
    try:
        opened = MetricsLog(folder, resume=done.iteration, viewers=viewers(folder, setup.config, watch.track))
    except ValueError as error:  # metrics on the disk that cannot be read
        raise InputError(str(error)) from error
    with opened as log:
        if to_do:
            done = train_logged(setup, log, done, watch)
        if watch.evaluate:
            result = evaluate_run(folder, setup, done, Protocol())
            show(log, done.iteration, draw_run(folder, setup, result))


def refuse(watch: Watch, setup: Setup) -> None:
    """Check the options before anything is done.

    Raises:
        InputError: an interval is out of range, or the benchmark lacks the validation or test tasks that are needed.
        TrainingTaskError: test tasks may occur in training.
    """
    if watch.save_every < 1 or watch.histograms_every < 0 or watch.validate_every < 0:
        raise InputError(
            "expected save_every >= 1, histograms_every >= 0 and validate_every >= 0, got "
            f"{watch.save_every}, {watch.histograms_every} and {watch.validate_every}"
        )
    if watch.validate_every:
        held_out_tasks(setup.benchmark, Protocol(split="validation", tasks=1))
    if watch.evaluate:
        refuse_training_tasks(setup.benchmark, held_out_tasks(setup.benchmark, Protocol()))


def refuse_configuration(argv: Sequence[str]) -> None:
    """Check that a command line with ``--resume`` does not change the run's configuration, apart from its budget.

    Raises:
        InputError: it names a preset, or has a configuration flag other than ``--env-steps``.
    """
    changes = [part for part in argv[:1] if not part.startswith("-")]
    changes += ["--" + name.replace("_", "-") for name in sorted(given(argv) - {"env_steps"})]
    if changes:
        raise InputError(
            f"--resume uses the run's own configuration, got {changes[0]}; leave it out (only --env-steps may be "
            "given, to train for longer)"
        )


def extended(setup: Setup, folder: Path, done: runs.Progress, env_steps: int) -> Setup:
    """Return the run with a larger budget, which is recorded in its folder at once and replaces the old one for good.

    Meta step sizes that decay over the budget now decay over the new one.

    Raises:
        InputError: the budget is not larger than the old one.
    """
    if env_steps <= setup.config.env_steps:
        raise InputError(f"--env-steps: expected more than the run's {setup.config.env_steps:,}, got {env_steps:,}")
    setup = replace(setup, config=setup.config.model_copy(update={"env_steps": env_steps}))
    runs.save(folder, setup, done)
    runs.write_json(folder / "config.json", setup.config.model_dump(mode="json"))
    with (folder / "command.txt").open("a") as commands:
        commands.write(shlex.join(["python", *sys.argv]) + "\n")
    return setup


def try_out(setup: Setup) -> None:
    """Play and adapt briefly if the run imports plug-ins, to find their errors before training begins.

    Uses copies of the run's random generators, so that training is not affected.

    Raises:
        InputError: playing or adapting fails.
    """
    config, learner, family = setup.config, setup.learner, setup.benchmark.family
    own = imports(vars(config))
    if not own:
        return
    task = setup.benchmark.sample("train", 2, generator=setup.task_generator.clone_state())
    task, noise = to_device(task, setup.device), setup.generator.clone_state()
    checks = [f"{FIELDS[field][0].split()[-1]} {name}".replace("benchmark ", "family ") for field, name in own.items()]
    told = ", ".join(f"python experiments/check.py {one}" for one in dict.fromkeys(checks))
    try:
        collect(learner.policy, learner.policy.initial(), family, task, 2, generator=noise)
    except Exception as error:  # third-party code may raise anything
        raise InputError(
            f"benchmark {config.benchmark!r} cannot be played, {raised(error)}; {told} describes what is wrong"
        ) from error
    if config.compile:  # programs would be compiled for other numbers of episodes than training's
        return
    try:
        explore(learner, family, task, replace(setup.plan, tasks=2, episodes=2, query_episodes=2), generator=noise)
    except NonFiniteError:  # perhaps only because there are so few episodes
        return
    except Exception as error:
        raise InputError(
            f"{', '.join(own.values())}: adapting failed, {raised(error)}; {told} describes what is "
            "wrong, unless each part works and only their combination fails"
        ) from error


def train(setup: Setup, folder: Path, done: runs.Progress, *, save_every: int) -> runs.Progress:
    """Call `train_logged` with a new log in the folder."""
    with MetricsLog(folder, resume=done.iteration) as log:
        return train_logged(setup, log, done, Watch(save_every=save_every))


def train_logged(setup: Setup, log: MetricsLog, done: runs.Progress, watch: Watch) -> runs.Progress:
    """Train until the budget is spent, logging every iteration and saving every ``watch.save_every``.

    However training ends, ``status.json`` says how, and the last checkpoint is complete and can be resumed from. A
    first SIGINT, SIGTERM or SIGHUP lets the current iteration finish and saves it before stopping.

    Raises:
        Stopped: training was stopped by such a signal.
        NonFiniteError: not one iteration gave finite numbers.
    """
    budget, started, ending = setup.config.env_steps, time.perf_counter(), {"status": "interrupted"}
    worked = done.iteration > 0
    before = runs.seconds_of(log.folder) if worked else 0.0
    runs.write_json(log.folder / "status.json", runs.running(before))
    try:
        with Progress(budget, done=done.env_steps) as bar, stop_requests() as stop:
            for iteration, metrics in setup.train(done):
                done = runs.Progress(iteration, done.env_steps + int(metrics["env_steps"]))
                metrics |= rate_metrics(setup.learner) | {"env_steps_total": float(done.env_steps)}
                finished, worked = done.env_steps >= budget, worked or math.isfinite(metrics["return/step_0"])
                log_iteration(log, iteration, metrics, setup, watch, last=finished)
                bar.update(done.env_steps, **{k: v for k, v in metrics.items() if k.startswith("return/")})
                if finished or stop or iteration % watch.save_every == 0:
                    runs.save(log.folder, setup, done)
                if not finished:
                    stop.obey()
        if not worked:
            raise NonFiniteError(
                f"none of {done.iteration} iterations could be completed, since each met numbers that are not finite; "
                "lower --rate, or check your own parts with check.py"
            )
        ending = {"status": "finished"}
    except Exception as error:
        ending = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        raise
    finally:
        reached = {"iterations": done.iteration, "env_steps": done.env_steps}
        seconds = {"seconds": round(before + time.perf_counter() - started, 1)}
        runs.write_json(log.folder / "status.json", ending | reached | seconds)
    return done


def log_iteration(
    log: MetricsLog, iteration: int, metrics: dict[str, float], setup: Setup, watch: Watch, *, last: bool
) -> None:
    """Log an iteration's metrics, with validation returns and histograms of learned step sizes when they are due."""
    if watch.validate_every and (last or iteration % watch.validate_every == 0):
        metrics = metrics | validate(setup)
    log.write(iteration, metrics)
    if watch.histograms_every and (last or iteration % watch.histograms_every == 0):
        for name, rates in rate_tables(setup.learner).items():
            log.histogram(iteration, f"rates/{name.removeprefix('network.')}", rates)


def show(log: MetricsLog, iteration: int, files: Sequence[Path]) -> None:
    """Send the PNG figures to the log's viewers, beside the curves."""
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                log.image(iteration, f"figures/{file.stem}", np.asarray(image.convert("RGB")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
