"""Meta-optimizers: what to do with a trace. All differentiate the same replay, ``learner(trace)``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from metarl.learner import Learner
from metarl.losses import sample_kl
from metarl.trees import global_norm
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
    """Mean of the meta-objective over the tasks of a trace, 0-d, with its graph."""
    losses: Tensor = torch.vmap(learner)(trace)
    return losses.mean()


def adapted_kl(learner: Learner, trace: Trace) -> Tensor:
    """Mean KL, over tasks and query states, from the sampling to the re-adapted policy; 0-d, with its graph."""

    def one(task_trace: Trace) -> Tensor:
        query: Batch = task_trace.query
        return sample_kl(learner.policy(learner.adapt(task_trace.support), query.observation), query)

    kls: Tensor = torch.vmap(one)(trace)
    return kls.mean()


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
        self.epochs, self.max_norm, self.patience = epochs, max_norm, patience
        self.skipped_in_a_row = 0

    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`.

        Raises:
            DivergedError: ``patience`` non-finite meta-gradients in a row.
        """
        first = norm = 0.0
        for epoch in range(self.epochs):
            self.optimizer.zero_grad(set_to_none=True)
            loss = meta_loss(learner, trace)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(learner.parameters(), self.max_norm or float("inf")))
            first = float(loss.detach()) if epoch == 0 else first
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


class TrustRegion(MetaOptimizer):
    """Natural-gradient step of bounded KL on everything learned (TRPO, Schulman et al. 2015, arXiv:1502.05477).

    The KL is that of the *adapted* policies on the query states, differentiated through adaptation, as in
    MAML and Meta-SGD. If no step of the line search improves the objective within the bound, every
    parameter is restored bit for bit.
    """

    def __init__(
        self,
        *,
        max_kl: float = 0.01,
        cg_steps: int = 10,
        damping: float = 1e-5,
        backtracks: int = 15,
        shrink: float = 0.8,
    ) -> None:
        """Set the size of a step.

        Args:
            max_kl: δ, in nats.
            cg_steps: conjugate-gradient iterations.
            damping: added to the Fisher matrix's diagonal.
            backtracks: step lengths tried.
            shrink: factor from one to the next.

        Raises:
            ValueError: a value outside its range.
        """
        if not (max_kl > 0.0 and cg_steps > 0 and damping >= 0.0 and backtracks > 0 and 0.0 < shrink < 1.0):
            raise ValueError(
                "expected max_kl > 0, cg_steps > 0, damping >= 0, backtracks > 0 and 0 < shrink < 1, got "
                f"{(max_kl, cg_steps, damping, backtracks, shrink)}"
            )
        self.max_kl, self.cg_steps, self.damping = max_kl, cg_steps, damping
        self.backtracks, self.shrink = backtracks, shrink

    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`."""
        params = [p for p in learner.parameters() if p.requires_grad]
        loss = meta_loss(learner, trace)
        gradient = _flat(torch.autograd.grad(loss, params, allow_unused=True), params)
        metrics = {"meta/loss": float(loss.detach()), "meta/grad_norm": float(gradient.norm())}
        kl_gradient = _flat(
            torch.autograd.grad(adapted_kl(learner, trace), params, create_graph=True, allow_unused=True), params
        )

        def fisher(vector: Tensor) -> Tensor:
            product = torch.autograd.grad(kl_gradient @ vector, params, retain_graph=True, allow_unused=True)
            return _flat(product, params) + self.damping * vector

        direction = conjugate_gradient(fisher, -gradient, self.cg_steps)
        curvature = float(direction @ fisher(direction))
        if not 0.0 < curvature < float("inf"):  # a non-finite gradient, or curvature lost to rounding
            return metrics | {"meta/skipped": 1.0, "meta/kl": 0.0}
        return metrics | self._line_search(learner, trace, params, direction * (2.0 * self.max_kl / curvature) ** 0.5)

    @torch.no_grad()
    def _line_search(self, learner: Learner, trace: Trace, params: list[nn.Parameter], full: Tensor) -> Metrics:
        before = [p.clone() for p in params]
        start = float(meta_loss(learner, trace))
        for trial in range(self.backtracks):
            _add(params, before, full * self.shrink**trial)
            loss, kl = float(meta_loss(learner, trace)), float(adapted_kl(learner, trace))
            if loss < start and kl <= self.max_kl:  # both false for NaN
                return {"meta/skipped": 0.0, "meta/kl": kl, "meta/backtracks": float(trial)}
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
        return {"meta/skipped": 1.0, "meta/kl": 0.0, "meta/backtracks": float(self.backtracks)}

    def state_dict(self) -> dict[str, Any]:
        """Empty: a trust region remembers nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load; see `MetaOptimizer.load_state_dict`."""
        del state


def _flat(tensors: Iterable[Tensor | None], like: list[nn.Parameter]) -> Tensor:
    """One vector; a parameter that the objective does not depend on counts as zeros."""
    return torch.cat(
        [(torch.zeros_like(p) if t is None else t).reshape(-1) for t, p in zip(tensors, like, strict=True)]
    )


def _add(params: list[nn.Parameter], base: list[Tensor], step: Tensor) -> None:
    start = 0
    for p, old in zip(params, base, strict=True):
        p.copy_(old + step[start : start + p.numel()].view_as(p))
        start += p.numel()


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """Approximate ``x`` with ``A x = target`` for a symmetric positive definite ``A`` given by its product.

    Args:
        product: ``v -> A v``.
        target: ``[n]``.
        steps: iterations at most.
        tolerance: stop when the squared residual is below.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, squared = residual.clone(), residual @ residual
    for _ in range(steps):
        if float(squared) < tolerance:
            break
        image = product(direction)
        length = squared / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        new_squared = residual @ residual
        direction = residual + (new_squared / squared) * direction
        squared = new_squared
    return x


class Reptile(MetaOptimizer):
    """Moves the initialization towards the adapted parameters (Nichol et al. 2018, arXiv:1803.02999, algorithm 2).

    Adapts on the support and once more on the query batch, so that with one support batch there are the
    two steps Reptile needs to differ from joint training. Leaves what the rule learns alone.
    """

    def __init__(self, *, step_size: float = 0.1) -> None:
        """``step_size`` is ε.

        Raises:
            ValueError: outside (0, 1].
        """
        if not 0.0 < step_size <= 1.0:
            raise ValueError(f"Reptile's step size must lie in (0, 1], got {step_size}")
        self.step_size = step_size

    @torch.no_grad()
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`."""
        adapted = torch.vmap(lambda one: learner.adapt((*one.support, one.query)))(trace)
        moves = {name: adapted[name].mean(0) - p for name, p in learner.policy.initial().items()}
        if not all(bool(move.isfinite().all()) for move in moves.values()):
            return {"meta/skipped": 1.0}
        for name, p in learner.policy.initial().items():
            p.add_(self.step_size * moves[name])
        return {"meta/skipped": 0.0, "meta/move": float(global_norm(moves))}

    def state_dict(self) -> dict[str, Any]:
        """Empty: Reptile remembers nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load; see `MetaOptimizer.load_state_dict`."""
        del state
