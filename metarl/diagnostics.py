"""Looking at a learner at work: how far it really steps, and what its meta-gradient is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.learner import Learner
from metarl.lifting import over_tasks, piece_size
from metarl.trees import Tree, tree_add
from metarl.types import Trace


def effective_rates(learner: Learner, trace: Trace) -> Tree:
    """How long every step was, for any rule: ``-⟨u, g⟩ / ⟨g, g⟩`` for each parameter tensor, task and step.

    For `SGD` it is the step size; for other rules the step size that would go as far along the gradient.
    Negative where a rule went uphill, zero where there is no gradient.

    Args:
        learner: not changed.
        trace: of `metarl.explore` with this learner; only its support is read.

    Returns:
        By parameter name ``[T, K]``.
    """

    def one(task_trace: Trace) -> Tree:
        params, state = learner.start(task_trace.noise)
        columns: list[Tree] = []
        for batch in task_trace.support:
            step = learner.look(params, batch)
            updates, state = learner.rule.update(step, state)
            params = tree_add(params, updates)
            columns.append({name: _along(updates[name], g) for name, g in step.grads.items()})
        return {name: torch.stack([column[name] for column in columns]) for name in params}

    with torch.no_grad():
        found: Tree = over_tasks(
            one, trace, tasks=len(trace.outcome), size=piece_size(trace.query, learner.policy.initial())
        )
    return {name: rate.detach() for name, rate in found.items()}


def _along(update: Tensor, gradient: Tensor) -> Tensor:
    return -(update * gradient).sum() / gradient.square().sum().clamp_min(1e-30)
