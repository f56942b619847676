"""Export a trained policy: weights as safetensors, usable with torch and safetensors alone.

    python experiments/export.py runs/NAME --output policy.safetensors                  # the initialization
    python experiments/export.py runs/NAME --output policy.safetensors --steps 1 --constants gravity=12

With ``--steps``, the policy is first adapted to one task: that of the constants, or one of those that ``evaluate.py``
scores.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from experiments import runs
from experiments.adapting import OneTask, adapted, one_held_out
from experiments.cli import Plugins, parse
from experiments.errors import InputError, script
from experiments.streams import stream
from metarl.export import save_policy


@dataclass(frozen=True)
class Options(OneTask):
    """What to export."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    output: Path
    """file to write"""
    steps: int = 0
    """adaptation steps before exporting; 0 exports the initialization"""
    plugin: Plugins = ()
    """import path that the run may import"""


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    if options.steps < 0 or options.output.is_dir():
        raise InputError(f"expected steps >= 0 and a file to write, got {options.steps} and {options.output}")
    if options.output.suffix != ".safetensors":
        raise InputError(f"expected a file to write that ends in .safetensors, got {options.output}")
    options.refuse_two()
    if options.is_given() and not options.steps:
        raise InputError(
            "--split, --index and --constants name a task to adapt to: expected --steps 1 or more with it, got 0"
        )
    setup, _ = runs.load(options.run, torch.device("cpu"), plugins=options.plugin)
    params = setup.learner.policy.initial()
    if options.steps:
        task = one_held_out(setup.benchmark, options.split, options.index, options.constants)
        *_, params = adapted(setup, task, options.steps, generator=stream(setup.config.seed, "exporting"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_policy(options.output, setup.learner.policy, params)
    except TypeError as error:
        raise InputError(str(error)) from error
    what = f"adapted by {options.steps} step(s)" if options.steps else "not adapted (--steps 1 would adapt it)"
    print(f"{options.output}: {sum(leaf.numel() for leaf in params.values()):,} numbers, {what}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
