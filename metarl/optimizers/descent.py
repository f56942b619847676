"""Gradient descent on the meta-objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from metarl.errors import DivergedError
from metarl.learner import Learner
from metarl.optimizers.base import MetaOptimizer, Metrics, meta_gradient, trainable
from metarl.types import Trace


class Descent(MetaOptimizer):
    """Gradient descent on the meta-objective with any torch optimizer, for one or more epochs a trace.

    A non-finite meta-gradient changes nothing: the step is skipped and counted, and after ``patience`` in
    a row the run is stopped.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        lr: float = 1e-3,
        rate_lr: float | None = None,
        epochs: int = 1,
        max_norm: float | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        patience: int = 10,
    ) -> None:
        """Build the optimizer over everything the learner learns.

        Args:
            learner: whose parameters to optimize.
            lr: step size of the policy's initialization.
            rate_lr: step size of what the rule learns; ``lr`` unless given.
            epochs: replays of one trace; more than one needs an outer loss that bounds the change.
            max_norm: clip the meta-gradient to this norm.
            optimizer: any constructor taking parameter groups.
            patience: skipped steps in a row that end the run.

        Raises:
            ValueError: a step size or norm that is not positive and finite, no epoch, nothing to learn.
        """
        for name, value in (("lr", lr), ("rate_lr", rate_lr), ("max_norm", max_norm)):
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        policy = [p for p in learner.policy.parameters() if p.requires_grad]
        rule = [p for p in learner.rule.parameters() if p.requires_grad]
        groups = [{"params": policy, "lr": lr}, {"params": rule, "lr": lr if rate_lr is None else rate_lr}]
        self.optimizer = optimizer([group for group in groups if group["params"]], lr=lr)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.epochs, self.max_norm, self.patience = epochs, max_norm, patience
        self.skipped_in_a_row = 0

    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`.

        Raises:
            DivergedError: ``patience`` non-finite meta-gradients in a row.
        """
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.share
        first = norm = 0.0
        for epoch in range(self.epochs):
            loss, gradient = meta_gradient(learner, trace)
            for p, g in zip(trainable(learner), gradient, strict=True):
                p.grad = g
            norm = float(nn.utils.clip_grad_norm_(learner.parameters(), self.max_norm or float("inf")))
            first = float(loss) if epoch == 0 else first
            if not norm < float("inf"):
                return self._skip(first, norm)
            self.optimizer.step()
        self.skipped_in_a_row = 0
        return {"meta/loss": first, "meta/grad_norm": norm, "meta/skipped": 0.0}

    def _skip(self, loss: float, norm: float) -> Metrics:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.patience:
            raise DivergedError(
                f"the meta-gradient was not finite {self.skipped_in_a_row} times in a row (loss {loss}); "
                "lower the step sizes or bound the learned rates, and resume from the last checkpoint"
            )
        return {"meta/loss": loss, "meta/grad_norm": norm, "meta/skipped": 1.0}

    def state_dict(self) -> dict[str, Any]:
        """See `MetaOptimizer.state_dict`."""
        return {"optimizer": self.optimizer.state_dict(), "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `MetaOptimizer.load_state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.skipped_in_a_row = state["skipped_in_a_row"]
