"""Compare meta-gradient estimators on the same batches: do they agree, how noisy are they, what do they cost?

    python experiments/estimators.py navigation-fixed --env-steps 400000 --output results/NAME

Trains the preset for its budget of environment steps (at least one iteration). Then explores batches of training tasks
with the learner fixed, and estimates the meta-gradient of its initialization from each batch in every way. Evolution
explores with perturbed learners on its own tasks. There is no row for `Dice` and `TMAML`, which weigh rewards by γ^t
and so adapt differently; ``loaded-dice`` is their form for the advantages at hand.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments import figures, runs
from experiments.build import Setup, build
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.contenders import refuse_inner_loss
from experiments.contenders.learners import trained
from experiments.errors import InputError, script
from experiments.names import ESTIMATORS
from experiments.publishing import markdown, publish
from experiments.scoring import ESTIMATES, refuse_another
from metarl import Evolution, Trace, explore
from metarl.diagnostics import Estimates, cosines, estimate, initial_gradient, reptile_direction
from metarl.training import meta_steps

ALIKE = ("lvc", "vpg", "loaded-dice", "surrogate", "clipped")
"""Inner losses with the gradient that all estimators step by. With another, no replay would be of what was played."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    output: Path | None = None
    """folder for estimators.json, table.md and a figure; by default results are only printed"""
    batches: int = 16
    """number of batches, each as large as the meta-batch"""
    evolution: bool = True
    """also estimate by evolution, which explores by itself"""


@script
def main(argv: list[str]) -> None:
    config, options = parse_config(Options, argv, __doc__)
    refuse(config, options)
    estimating = {"perturbation", "pairs"} if options.evolution else set()
    refuse_unread(given(argv), build(config, torch.device("cpu")).read | estimating)
    runs.prepare_machine()
    setup, spent = trained(config)
    estimates = by_replay(setup, options.batches)
    if options.evolution:
        estimates["evolution"] = by_evolution(setup, options.batches)
    text = "\n".join(table(estimates))
    print(
        f"\n{config.benchmark}, {config.rule}, after {spent.env_steps:,} environment steps; {options.batches} batches"
    )
    if options.output is None:
        print("\n" + text)
        return
    about = {
        "config": config.model_dump(mode="json"),
        "env_steps": spent.env_steps,
        "batches": options.batches,
        "estimators": list(estimates),
        "noise": [one.noise if one.noise < float("inf") else None for one in estimates.values()],
        "seconds": [one.seconds for one in estimates.values()],
        "cosines": cosines(estimates).tolist(),
    }
    publish(options.output, ESTIMATES, text, about)
    figures.estimators(options.output / "estimators", estimates)


def refuse(config: Config, options: Options) -> None:
    """Check the input before anything is trained.

    Raises:
        InputError: too few batches, no adaptation step, an inner loss of another gradient than the estimators', or a
            folder with other results.
    """
    if options.batches < 4:
        raise InputError(f"expected at least 4 batches to tell signal from noise, got {options.batches}")
    if config.steps < 1:
        raise InputError("expected at least one adaptation step to differentiate through; pass --steps 1")
    refuse_inner_loss("the estimators", config, ALIKE)
    if options.output is not None:
        refuse_another(options.output, ESTIMATES, config.benchmark)


def by_replay(setup: Setup, batches: int) -> dict[str, Estimates]:
    """Return the estimates of every estimator on the same traces of the fixed learner."""
    plan, learner = setup.plan, setup.learner
    traces: list[Trace] = []
    for _ in range(batches):
        task = setup.benchmark.sample("train", plan.tasks, generator=setup.task_generator)
        traces.append(explore(learner, setup.benchmark.family, task, plan, generator=setup.generator))
    found = {name: estimate(initial_gradient(make(learner)), traces) for name, make in ESTIMATORS.items()}
    return found | {"reptile": estimate(reptile_direction(learner), traces)}


def by_evolution(setup: Setup, batches: int) -> Estimates:
    """Return the estimates of evolution, from returns of perturbed learners; its time includes their exploring."""
    config, learner = setup.config, setup.learner
    before = {name: leaf.clone() for name, leaf in learner.state_dict().items()}
    optimizer = Evolution(learner, perturbation=config.perturbation, pairs=config.pairs)

    def gradient(task: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        meta_steps([learner], [optimizer], setup.benchmark.family, [task], setup.plan, generators=[setup.generator])
        slopes = [p.grad for p in learner.policy.initial().values() if p.grad is not None]
        learner.load_state_dict(before)
        return slopes

    tasks = [
        dict(setup.benchmark.sample("train", setup.plan.tasks, generator=setup.task_generator)) for _ in range(batches)
    ]
    return estimate(gradient, tasks)


def table(estimates: dict[str, Estimates]) -> list[str]:
    """Return the lines of a table of noise, cost and cosines in Markdown."""
    rows = [
        [name, f"{one.noise:.2f}", f"{1000 * one.seconds:.0f}", *(f"{value:.2f}" for value in row)]
        for (name, one), row in zip(estimates.items(), cosines(estimates).tolist(), strict=True)
    ]
    return markdown(("estimator", "noise / signal", "ms a batch", *estimates), rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
