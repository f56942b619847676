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
from metarl.optimizers.base import (
    MetaOptimizer,
    Metrics,
    give,
    groups,
    meta_gradient,
    refuse_another,
    refuse_first_order,
)
from metarl.trees import sliced
from metarl.types import Trace


class Descent(MetaOptimizer):
    """Gradient descent on the meta-objective with any torch optimizer, for one or more epochs per trace.

    A non-finite meta-gradient is not applied, and the rest of the trace is skipped. After ``patience`` skips in a row,
    the next one raises an error.

    Attributes:
        patience: how many skips in a row are allowed, as in `metarl.training.meta_train`.
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
        """Build the optimizer for all parameters that the learner learns.

        Args:
            learner: the learner to optimize.
            lr: step size for the policy's initialization.
            rate_lr: step size for what the rule and the losses learn; ``lr`` by default.
            epochs: replays of each trace; more than one requires an outer loss that bounds the change.
            minibatches: number of parts into which the tasks of a trace are split, with sizes that differ by at most
                one task; an epoch takes one step on each part (as PPO does on parts of its steps).
            max_norm: clip the meta-gradient to this norm.
            optimizer: a constructor that takes parameter groups, such as a torch optimizer class.
            rate_optimizer: another constructor for what the rule and the losses learn, such as `ExponentiatedGradient`.

        Raises:
            TypeError: a learner or optimizer of the wrong type, or counts that are not whole numbers.
            ValueError: a step size or norm that is not positive and finite, counts below 1, or nothing to learn; an
                inner loss that would not learn, see `refuse_first_order`.
        """
        if max_norm is not None and not 0.0 < max_norm < float("inf"):
            raise ValueError(f"max_norm must be positive and finite, got {max_norm}")
        checks.whole("epochs", epochs)
        checks.whole("minibatches", minibatches)
        if not callable(optimizer):
            raise TypeError(f"optimizer: expected a class, such as torch.optim.Adam, got {checks.told(optimizer)}")
        parts = groups(learner, lr, rate_lr)
        refuse_first_order(learner)
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
            ValueError: a learner other than the one it was built for.
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
            found, norm = torch.stack([loss.detach(), size]).tolist()  # one host-device synchronisation
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
    """Split a trace along its tasks, in order, into parts whose sizes differ by at most one; leave out empty parts.

    Shuffling is not needed, because tasks are drawn independently of each other.
    """
    if parts == 1:
        return [trace]
    tasks = len(trace.outcome)
    bounds = [tasks * i // parts for i in range(parts + 1)]
    return [sliced(trace, low, high) for low, high in itertools.pairwise(bounds) if high > low]
