"""Meta-train one learner and evaluate it on held-out tasks.

python experiments/train.py PRESET [--seed 1] [--env-steps 2000000] [--rule maml --rate 0.5] ...
python experiments/train.py --resume runs/NAME
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from experiments import runs
from experiments.build import Setup, build
from experiments.cli import parse, parse_config
from experiments.config import Config
from experiments.errors import script
from experiments.evaluate import Protocol, evaluate_run
from experiments.figures import draw_run
from experiments.learned import rate_metrics
from metarl.metrics import MetricsLog, Progress


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what."""

    output: Path | None = None
    """run folder; runs/<benchmark>__<rule>__s<seed>__<time> unless given"""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is the CPU"""
    threads: int | None = None
    """CPU threads; torch's own choice unless given"""
    deterministic: bool = False
    """on a GPU the same bits in every run, slower"""
    save_every: int = 50
    """meta-iterations between checkpoints"""
    evaluate: bool = True
    """evaluate on held-out tasks and draw the figures at the end"""


@dataclass(frozen=True)
class Resume:
    """Go on with a run from its last checkpoint."""

    resume: Path
    """run folder"""
    device: str = "auto"
    """as in training"""
    deterministic: bool = False
    """as in training"""
    save_every: int = 50
    """meta-iterations between checkpoints"""
    evaluate: bool = True
    """evaluate on held-out tasks and draw the figures at the end"""
    plugin: tuple[str, ...] = ()
    """import paths that the run may import"""


@script
def main(argv: list[str]) -> None:
    if any(part == "--resume" or part.startswith("--resume=") for part in argv):
        again = parse(Resume, argv, __doc__)
        runs.prepare_machine(deterministic=again.deterministic)
        device = runs.pick_device(again.device)
        config, setup, done = runs.load(again.resume, device, plugins=again.plugin, restore_threads=True)
        folder, save_every, wanted = again.resume, again.save_every, again.evaluate
    else:
        config, options = parse_config(Options, argv, __doc__)
        runs.prepare_machine(options.threads, deterministic=options.deterministic)
        device = runs.pick_device(options.device)
        setup, done = build(config, device), runs.Progress()
        folder, save_every, wanted = runs.create(config, options.output, device), options.save_every, options.evaluate
    if done.env_steps >= config.env_steps:
        print(f"{folder}: all {config.env_steps:,} environment steps are done; nothing to train")
    else:
        train(config, setup, folder, done, save_every=save_every)
    if wanted:
        evaluate_run(folder, config, setup, Protocol(), device)
        draw_run(folder, config, setup, device)


def train(config: Config, setup: Setup, folder: Path, done: runs.Progress, *, save_every: int) -> None:
    """Train until the budget is spent, logging every iteration and saving now and then.

    However it ends, ``status.json`` says how; the last checkpoint is whole and can be resumed.
    """
    started, ending = time.perf_counter(), {"status": "interrupted"}
    runs.write_json(folder / "status.json", {"status": "running"})
    try:
        with MetricsLog(folder, resume=done.iteration) as log, Progress(config.env_steps, done=done.env_steps) as bar:
            for iteration, metrics in setup.train(done):
                done = runs.Progress(iteration, done.env_steps + int(metrics["env_steps"]))
                log.write(iteration, metrics | rate_metrics(setup.learner) | {"env_steps_total": float(done.env_steps)})
                bar.update(done.env_steps, **{k: v for k, v in metrics.items() if k.startswith("return/")})
                finished = done.env_steps >= config.env_steps
                if finished or iteration % save_every == 0:
                    runs.save(folder, config, setup, done)
                if finished:
                    break
        ending = {"status": "finished"}
    except Exception as error:
        ending = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        raise
    finally:
        reached = {"iterations": done.iteration, "env_steps": done.env_steps}
        seconds = {"seconds": round(time.perf_counter() - started, 1)}
        runs.write_json(folder / "status.json", ending | reached | seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
