"""The demonstration behind ``make demo``: an agent that does not know which way its motor turns.

Meta-trains our best preset on ``cartpole-polarity`` and, briefly, that on fixed-start navigation; evaluates both on
held-out tasks; draws the figures and animates a held-out task before and after one gradient step. Running it again
resumes what was interrupted and repeats nothing that is finished.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import runs
from experiments.build import Setup, build
from experiments.cli import parse, preset
from experiments.config import Config
from experiments.errors import script
from experiments.evaluate import Protocol, evaluate_run
from experiments.figures import draw_run
from experiments.figures.animations import animate_cartpole, animate_navigation
from experiments.train import train

FOLDER = Path("runs") / "demo"
BUDGETS = {"cartpole-polarity-best": 3_000_000, "navigation-fixed-best": 4_000_000}  # environment steps
ANIMATIONS = {"cartpole-polarity-best": animate_cartpole, "navigation-fixed-best": animate_navigation}


@dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


@script
def main(argv: list[str]) -> None:
    parse(Options, argv, __doc__)
    runs.prepare_machine()
    with runs.locked(FOLDER):
        show(torch.device("cpu"))


def show(device: torch.device) -> None:
    """Train, evaluate, draw and animate every run of the demonstration."""
    started = time.perf_counter()
    for name, env_steps in BUDGETS.items():
        print(f"\n== {name}: {env_steps:,} environment steps of meta-training")
        config = preset(name).model_copy(update={"env_steps": env_steps})
        folder, setup, done = trained(name, config, device)
        draw_run(folder, setup, evaluate_run(folder, setup, done, Protocol()))
        ANIMATIONS[name](folder / "figures" / "before_and_after.gif", setup)
        print(f"  animation: {folder / 'figures' / 'before_and_after.gif'}")
    print(f"\ndone in {time.perf_counter() - started:.0f} s; training curves: tensorboard --logdir {FOLDER}")


def trained(name: str, config: Config, device: torch.device) -> tuple[Path, Setup, runs.Progress]:
    """Return a fully trained run: trained from scratch, resumed where it was interrupted, or loaded if finished."""
    version = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:6]  # another configuration is another run
    folder = FOLDER / f"{name}-{version}"
    if (folder / "checkpoints" / "last").exists():
        setup, done = runs.load(folder, device, resume=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # interrupted before its first checkpoint: nothing to keep
        setup, done = build(config, device), runs.Progress()
        folder.mkdir(parents=True)
        runs.create(config, folder, device)
    if done.env_steps < config.env_steps:
        done = train(setup, folder, done, save_every=10)
    else:
        print(f"  already trained in {folder}; remove the folder to train again")
    return folder, setup, done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
