"""Describe what has been learned besides the initialization: step sizes, and corrections of rewards or advantages.

The numbers are comparable between rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.build import Setup
from experiments.streams import stream
from metarl import Learner, explore
from metarl.diagnostics import effective_rates
from metarl.learned_signals import LearnedAdvantage, LearnedReward
from metarl.rollouts import to_device
from metarl.rules import Rates
from metarl.trees import map_leaves
from metarl.types import Task

LOOKED_AT = 20  # most tasks on which effective step sizes and corrections are measured


def rate_tables(learner: Learner) -> dict[str, Tensor]:
    """Return the learned step sizes by parameter tensor, flattened; empty if the rule has no table of rates.

    If the rule has several tables, such as one per step, every name ends in the number of its table.
    """
    tables = [module() for module in learner.rule.modules() if isinstance(module, Rates)]
    return {
        name if len(tables) == 1 else f"{name} ({i})": rate.detach().reshape(-1)
        for i, table in enumerate(tables, 1)
        for name, rate in table.items()
    }


def rate_metrics(learner: Learner) -> dict[str, float]:
    """Return mean, extremes and share of negative step sizes as metrics; empty if the rule has no table of rates."""
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


class Reinforced(NamedTuple):
    """Rewards or advantages of single steps, as the inner loss is given them and as it corrects them ``[steps]``."""

    name: str
    """reward or advantage"""
    given: Tensor
    corrected: Tensor


@torch.no_grad()
def reinforced(setup: Setup, task: Task, *, seed: int) -> Reinforced | None:
    """Return what the inner loss corrects, on all steps explored before adapting; None if it corrects nothing."""
    inner, device = setup.learner.inner, setup.device
    if not isinstance(inner, LearnedAdvantage | LearnedReward):
        return None
    noise = stream(seed, "looking at what is reinforced", device)
    on = to_device(dict(task), device)
    support = explore(setup.learner, setup.benchmark.family, on, setup.plan, generator=noise).support[0]
    name = "advantage" if isinstance(inner, LearnedAdvantage) else "reward"
    given, corrected = [], []
    for t in range(len(support.reward)):
        one = map_leaves(lambda leaf, t=t: leaf[t], support)
        lived = one.mask > 0
        given.append(getattr(one, name)[lived])
        corrected.append(inner.corrected(one)[lived])
    return Reinforced(name, torch.cat(given).cpu(), torch.cat(corrected).cpu())


def describe(setup: Setup, task: Task, *, steps: int, seed: int) -> dict[str, Any]:
    """Return `rate_metrics`, and the effective rate of every parameter tensor at each of K ``steps``.

    Effective rates are medians over the first `LOOKED_AT` tasks.
    """
    found: dict[str, Any] = dict(rate_metrics(setup.learner))
    if steps:
        device = setup.device
        few = to_device({name: value[:LOOKED_AT] for name, value in task.items()}, device)
        noise = stream(seed, "looking at steps", device)
        plan = replace(setup.plan, steps=steps)
        trace = explore(setup.learner, setup.benchmark.family, few, plan, generator=noise)
        rates = effective_rates(setup.learner, trace)
        found["effective rates"] = {name: rate.cpu().median(0).values.tolist() for name, rate in rates.items()}
    return found
