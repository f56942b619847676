"""Natural-gradient steps of bounded KL, by conjugate gradients and a backtracking line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.learner import Learner
from metarl.losses import TMAML, Dice, LoadedDice, Loss, lvc, parts_of
from metarl.optimizers.base import (
    MetaOptimizer,
    Metrics,
    assess,
    fisher_product,
    meta_gradient,
    refuse_first_order,
    trainable,
)
from metarl.types import Trace


class TrustRegion(MetaOptimizer):
    """Natural-gradient steps of bounded KL on everything learned (TRPO, Schulman et al. 2015, arXiv:1502.05477).

    The KL is that of the *adapted* policies on the query states, differentiated through adaptation, as in
    MAML and Meta-SGD. If no step of the line search improves the objective within the bound, all
    parameters are restored exactly.
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
        """Set the options of the step.

        Args:
            max_kl: δ, the bound on the KL, in nats.
            cg_steps: conjugate-gradient iterations.
            damping: added to the diagonal of the Fisher matrix.
            backtracks: maximum number of step lengths to try.
            shrink: ratio of successive step lengths.

        Raises:
            TypeError: counts that are not whole numbers, or other values that are not numbers.
            ValueError: a value outside its range.
        """
        checks.whole("cg_steps", cg_steps)
        checks.whole("backtracks", backtracks)
        for name, value in (("max_kl", max_kl), ("damping", damping), ("shrink", shrink)):
            checks.number(name, value)
        if not (0.0 < max_kl < math.inf and 0.0 <= damping < math.inf and 0.0 < shrink < 1.0):
            told = (max_kl, damping, shrink)
            raise ValueError(f"expected max_kl > 0, damping >= 0, both finite, and 0 < shrink < 1, got {told}")
        self.max_kl, self.cg_steps, self.damping = max_kl, cg_steps, damping
        self.backtracks, self.shrink = backtracks, shrink

    def refuse(self, learner: Learner) -> None:
        """Reject a rule that makes random decisions or keeps the inner loss from learning, and some outer losses.

        The probabilities of random decisions do not affect the adapted policies, so that the KL would not bound how far
        they are moved. With an outer loss of constant value, such as `lvc`, the line search would reject every step.

        Raises:
            ValueError: the rule makes random decisions; the outer loss, or a term of it, has a constant value, and only
                its derivatives depend on the policy; or see `refuse_first_order`.
        """
        refuse_first_order(learner)
        _refuse_constant(learner.outer)
        if learner.decides():
            raise ValueError(
                "a trust region bounds the change of policies, not of a rule's random decisions: expected a rule "
                f"without any, got {type(learner.rule).__name__}; use another rule or Descent"
            )

    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step` and `refuse`."""
        self.refuse(learner)
        params = trainable(learner)
        loss, slopes = meta_gradient(learner, trace)
        gradient = _flat(slopes)
        metrics = {"meta/loss": float(loss), "meta/grad_norm": float(gradient.norm())}

        def fisher(vector: Tensor) -> Tensor:
            return _flat(fisher_product(learner, trace, _split(vector, params))) + self.damping * vector

        direction = conjugate_gradient(fisher, -gradient, self.cg_steps)
        curvature = float(direction @ fisher(direction))
        if not 0.0 < curvature < float("inf"):  # a non-finite gradient, or curvature lost to rounding
            return metrics | {"meta/skipped": 1.0, "meta/kl": 0.0}
        return metrics | self._line_search(
            learner, trace, params, direction * (2.0 * self.max_kl * self.share / curvature) ** 0.5
        )

    @torch.no_grad()
    def _line_search(self, learner: Learner, trace: Trace, params: list[nn.Parameter], full: Tensor) -> Metrics:
        before = [p.clone() for p in params]
        start, _ = assess(learner, trace)
        for trial in range(self.backtracks):
            for p, old, move in zip(params, before, _split(full * self.shrink**trial, params), strict=True):
                p.copy_(old + move)
            loss, kl = assess(learner, trace)
            if loss < start and kl <= self.max_kl * self.share:  # both false for NaN
                return {"meta/skipped": 0.0, "meta/kl": kl, "meta/backtracks": float(trial)}
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
        return {"meta/skipped": 1.0, "meta/kl": 0.0, "meta/backtracks": float(self.backtracks)}


def _refuse_constant(outer: Loss) -> None:
    for one in parts_of(outer):
        if one is lvc or isinstance(one, Dice | TMAML | LoadedDice):
            raise ValueError(
                "a trust region looks for a lower value of the outer loss: expected one whose value depends on the "
                f"policy, such as surrogate, got {getattr(one, '__name__', type(one).__name__)}, whose value is "
                "constant; use another outer loss or Descent"
            )


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split a vector into tensors of the shapes of ``like``; the inverse of `_flat`."""
    parts = torch.split(vector, [t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """Solve ``A x = target`` approximately, for a symmetric positive definite ``A`` given by its matrix-vector product.

    Args:
        product: ``v -> A v``.
        target: ``[n]``.
        steps: maximum number of iterations.
        tolerance: stop when the squared norm of the residual is at most this fraction of that of the target.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, squared = residual.clone(), residual @ residual
    enough = tolerance * float(squared)
    for _ in range(steps):
        if float(squared) <= enough:
            break
        image = product(direction)
        length = squared / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        new_squared = residual @ residual
        direction = residual + (new_squared / squared) * direction
        squared = new_squared
    return x
