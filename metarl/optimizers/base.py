"""What every meta-optimizer shares: the interface, and the objective as a differentiable replay of a trace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from metarl.learner import Learner
from metarl.lifting import gradient_over_tasks, piece_size
from metarl.losses import sample_kl
from metarl.types import Batch, Trace

Metrics = dict[str, float]


class DivergedError(RuntimeError):
    """Meta-training produced NaN or infinity too many times in a row."""


class MetaOptimizer(ABC):
    """Improves a learner, in place, from one trace."""

    @abstractmethod
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """Change the learner; return metrics by name. ``trace`` holds batches ``[T, H, N, ...]``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beside the learner's own state: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


def meta_loss(learner: Learner, trace: Trace) -> Tensor:
    """Mean of the meta-objective over the tasks of a trace, 0-d, with its graph; all tasks lifted at once."""
    losses: Tensor = torch.vmap(learner)(trace)
    return losses.mean()


def meta_gradient(learner: Learner, trace: Trace) -> tuple[Tensor, list[Tensor]]:
    """`meta_loss` and its gradient in the ``learner.parameters()`` that require one, a piece of the tasks at a time."""
    params = [p for p in learner.parameters() if p.requires_grad]
    size = piece_size(trace.query, learner.policy.initial())
    tasks = len(trace.outcome)
    return gradient_over_tasks(learner, trace, params, tasks=tasks, size=size, run=learner.run("replay"))


def adapted_kl(learner: Learner, trace: Trace) -> Tensor:
    """Mean KL, over tasks and query states, from the sampling to the re-adapted policy; 0-d, with its graph."""

    def one(task_trace: Trace) -> Tensor:
        query: Batch = task_trace.query
        return sample_kl(learner.policy(learner.adapt(task_trace.support), query.observation), query)

    kls: Tensor = torch.vmap(one)(trace)
    return kls.mean()
