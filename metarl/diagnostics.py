"""Diagnostics of a learner: effective step sizes, and the noise and direction of meta-gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.learner import Learner
from metarl.lifting import over_tasks, piece_size
from metarl.optimizers.base import meta_gradient, trainable
from metarl.optimizers.reptile import adapted_mean
from metarl.trees import Tree, tree_add
from metarl.types import Trace


def effective_rates(learner: Learner, trace: Trace) -> Tree:
    """Return the effective step size of any rule: ``-⟨u, g⟩ / ⟨g, g⟩`` for each parameter tensor, task and step.

    For `SGD` this is the step size; for other rules, the step size that would move as far along the gradient. It is
    negative where a rule moved uphill, and zero where the gradient is zero.

    Args:
        learner: not changed.
        trace: recorded by `metarl.explore` with this learner; only its support is used.

    Returns:
        Step sizes ``[T, K]`` by parameter name.
    """

    def one(task_trace: Trace) -> Tree:
        params, state = learner.start(task_trace.noise)
        columns: list[Tree] = []
        for batch in task_trace.support:
            step = learner.look(params, batch)
            updates, state = learner.rule.update(step, state)
            params = tree_add(params, updates)
            columns.append({name: _along(updates[name], g) for name, g in step.grads.items()})
        none = task_trace.query.reward.new_zeros(0)
        return {name: torch.stack([c[name] for c in columns]) if columns else none for name in params}

    with torch.no_grad():
        found: Tree = over_tasks(
            one, trace, tasks=len(trace.outcome), size=piece_size(trace.query, learner.policy.initial())
        )
    return {name: rate.detach() for name, rate in found.items()}


def _along(update: Tensor, gradient: Tensor) -> Tensor:
    return -(update * gradient).sum() / gradient.square().sum().clamp_min(1e-30)


class Estimates(NamedTuple):
    """Meta-gradients of the initialization from several traces."""

    gradients: Tensor  # [B, P], one row per trace with all parameters concatenated
    seconds: float  # per trace

    @property
    def mean(self) -> Tensor:
        """Mean over traces, ``[P]``."""
        return self.gradients.mean(0)

    @property
    def noise(self) -> float:
        """Noise-to-signal ratio: standard deviation of one trace's gradient over the norm of the mean gradient.

        The contribution of noise to the squared norm of the mean is subtracted first; infinite if nothing is left, and
        NaN for a single trace, which does not show its noise.
        """
        if len(self.gradients) < 2:
            return math.nan
        spread = float(self.gradients.var(0).sum())
        signal = float(self.mean.square().sum()) - spread / len(self.gradients)
        return math.sqrt(spread / signal) if signal > 0.0 else math.inf


def estimate(gradient: Callable[[Trace], Sequence[Tensor]], traces: Sequence[Trace]) -> Estimates:
    """Apply ``gradient``, such as `initial_gradient` or `reptile_direction` of a learner, to each of B traces.

    Raises:
        ValueError: there are no traces.
    """
    if not traces:
        raise ValueError("traces: expected at least one, such as from explore, got none")
    started = time.perf_counter()
    rows = [torch.cat([leaf.detach().reshape(-1) for leaf in gradient(trace)]) for trace in traces]
    return Estimates(torch.stack(rows), (time.perf_counter() - started) / len(traces))


def initial_gradient(learner: Learner) -> Callable[[Trace], list[Tensor]]:
    """Return a function that computes the meta-gradient of the learner's initialization from a trace."""
    wanted = [id(p) for p in learner.policy.initial().values()]

    def gradient(trace: Trace) -> list[Tensor]:
        _, found = meta_gradient(learner, trace)
        by_id = {id(p): g for p, g in zip(trainable(learner), found, strict=True)}
        return [by_id[one] for one in wanted]

    return gradient


def reptile_direction(learner: Learner) -> Callable[[Trace], list[Tensor]]:
    """Return a function that computes `Reptile`'s step as a gradient: θ minus the mean of the adapted parameters."""

    @torch.no_grad()
    def direction(trace: Trace) -> list[Tensor]:
        adapted = adapted_mean(learner, trace)
        return [p - adapted[name] for name, p in learner.policy.initial().items()]

    return direction


def cosines(estimates: Mapping[str, Estimates]) -> Tensor:
    """Return the cosines between the means of all estimates, ``[E, E]``; on the diagonal, between two halves of traces.

    A diagonal entry near zero means that the mean itself is noise, and so are the other cosines in its row. It is NaN
    for a single trace.
    """
    means = torch.stack([one.mean for one in estimates.values()])
    between = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=-1)
    halves = [(one.gradients[::2].mean(0), one.gradients[1::2].mean(0)) for one in estimates.values()]
    own = torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=0) for a, b in halves])
    return between - torch.diag(between.diagonal()) + torch.diag(own)
