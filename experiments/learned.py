"""What a rule has learned about stepping, in numbers that mean the same for every rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.build import Setup
from experiments.streams import stream
from metarl import Learner, explore
from metarl.diagnostics import effective_rates
from metarl.rollouts import to_device
from metarl.rules import Rates
from metarl.types import Task

LOOKED_AT = 20  # tasks


def rate_tables(learner: Learner) -> dict[str, Tensor]:
    """Learned step sizes by parameter tensor, flat; empty where the rule has no table of rates.

    A rule with several tables, such as one a step, has the number of the table behind each name.
    """
    tables = [module() for module in learner.rule.modules() if isinstance(module, Rates)]
    return {
        name if len(tables) == 1 else f"{name} ({i})": rate.detach().reshape(-1)
        for i, table in enumerate(tables, 1)
        for name, rate in table.items()
    }


def rate_metrics(learner: Learner) -> dict[str, float]:
    """Mean, extremes and share of negative step sizes; nothing where the rule has no table of rates."""
    tables = rate_tables(learner)
    if not tables:
        return {}
    rates = torch.cat(list(tables.values()))
    return {
        "meta/rate_mean": float(rates.mean()),
        "meta/rate_min": float(rates.min()),
        "meta/rate_max": float(rates.max()),
        "meta/rate_negative": float((rates < 0).float().mean()),
    }


def describe(setup: Setup, task: Task, *, steps: int, seed: int) -> dict[str, Any]:
    """`rate_metrics`, and the median effective rate of every parameter tensor at each of K ``steps`` on the tasks."""
    found: dict[str, Any] = dict(rate_metrics(setup.learner))
    if steps:
        device = setup.generator.device
        few = to_device({name: value[:LOOKED_AT] for name, value in task.items()}, device)
        noise = stream(seed, "looking at steps", device)
        plan = replace(setup.plan, steps=steps)
        trace = explore(setup.learner, setup.benchmark.family, few, plan, generator=noise)
        rates = effective_rates(setup.learner, trace)
        found["effective rates"] = {name: rate.median(0).values.tolist() for name, rate in rates.items()}
    return found
