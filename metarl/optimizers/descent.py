"""Gradient descent on the meta-objective."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metarl import checks
from metarl.errors import DivergedError
from metarl.learner import Learner
from metarl.optimizers.base import MetaOptimizer, Metrics, give, groups, meta_gradient, refuse_another
from metarl.trees import sliced
from metarl.types import Trace


class Descent(MetaOptimizer):
    """Gradient descent on the meta-objective with any torch optimizer, for one or more epochs a trace.

    A non-finite meta-gradient changes nothing: what is left of the trace is skipped. The run is stopped by the first
    one after ``patience`` skips in a row.

    Attributes:
        patience: how many skips in a row are allowed; as in `metarl.training.meta_train`.
    """

    patience: int = 10

    def __init__(
        self,
        learner: Learner,
        *,
        lr: float = 1e-3,
        rate_lr: float | None = None,
        epochs: int = 1,
        minibatches: int = 1,
        max_norm: float | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        rate_optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    ) -> None:
        """Build the optimizer over everything the learner learns.

        Args:
            learner: whose parameters to optimize.
            lr: step size of the policy's initialization.
            rate_lr: step size of what rule and inner objective learn; ``lr`` unless given.
            epochs: replays of one trace; more than one needs an outer loss that bounds the change.
            minibatches: parts of equal size, up to one task, into which the tasks of a trace are dealt; an epoch takes
                a step on each (as PPO does on parts of its steps).
            max_norm: clip the meta-gradient to this norm.
            optimizer: any constructor taking parameter groups.
            rate_optimizer: another one for what rule and inner objective learn, such as `ExponentiatedGradient`.

        Raises:
            TypeError: a learner or optimizer that is none, counts that are no whole numbers.
            ValueError: a step size or norm that is not positive and finite, no epoch, nothing to learn.
        """
        if max_norm is not None and not 0.0 < max_norm < float("inf"):
            raise ValueError(f"max_norm must be positive and finite, got {max_norm}")
        checks.whole("epochs", epochs)
        checks.whole("minibatches", minibatches)
        if not callable(optimizer):
            raise TypeError(f"optimizer: expected a class, such as torch.optim.Adam, got {checks.told(optimizer)}")
        parts = groups(learner, lr, rate_lr)
        if rate_optimizer is None:
            self.optimizers = [optimizer(parts, lr=lr)]
        else:
            self.optimizers = [optimizer(parts[:1], lr=lr)] + [rate_optimizer([rest]) for rest in parts[1:]]
        self.rates = [[float(group["lr"]) for group in one.param_groups] for one in self.optimizers]
        self.epochs, self.minibatches, self.max_norm = epochs, minibatches, max_norm
        self.skipped_in_a_row = 0

    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`.

        Raises:
            DivergedError: a meta-gradient that is not finite, after ``patience`` skips in a row.
            ValueError: another learner than it was built for.
        """
        refuse_another(learner, *self.optimizers)
        for one, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(one.param_groups, rates, strict=True):
                group["lr"] = rate * self.share
        losses: list[float] = []
        norm = 0.0
        for part in self.epochs * split(trace, self.minibatches):
            loss, gradient = meta_gradient(learner, part)
            give(learner, gradient)
            size = nn.utils.clip_grad_norm_(learner.parameters(), self.max_norm or float("inf"))
            found, norm = torch.stack([loss.detach(), size]).tolist()  # one look: a device is waited for
            losses.append(found)
            if not norm < float("inf"):
                return self._skip(losses[0], norm)
            for one in self.optimizers:
                one.step()
        self.skipped_in_a_row = 0
        return {"meta/loss": losses[0], "meta/grad_norm": norm, "meta/skipped": 0.0}

    def _skip(self, loss: float, norm: float) -> Metrics:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.patience:
            raise DivergedError(
                f"the meta-gradient was not finite {self.skipped_in_a_row} times in a row (loss {loss}); "
                "train again with smaller step sizes or bounded rates"
            )
        return {"meta/loss": loss, "meta/grad_norm": norm, "meta/skipped": 1.0}

    def state_dict(self) -> dict[str, Any]:
        """See `MetaOptimizer.state_dict`."""
        states = {str(i): one.state_dict() for i, one in enumerate(self.optimizers)}
        return {"optimizers": states, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `MetaOptimizer.load_state_dict`."""
        for i, one in enumerate(self.optimizers):
            one.load_state_dict(state["optimizers"][str(i)])
        self.skipped_in_a_row = state["skipped_in_a_row"]


def split(trace: Trace, parts: int) -> list[Trace]:
    """A trace cut by its tasks, in order, into parts whose sizes differ by one at most; empty parts are left out.

    There is no need to shuffle: tasks are drawn independently of each other, so that any order is a random one.
    """
    if parts == 1:
        return [trace]
    tasks = len(trace.outcome)
    bounds = [tasks * i // parts for i in range(parts + 1)]
    return [sliced(trace, low, high) for low, high in itertools.pairwise(bounds) if high > low]
