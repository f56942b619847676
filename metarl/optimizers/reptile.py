"""Reptile: meta-learning of the initialization without a meta-gradient."""

from __future__ import annotations

import torch

from metarl.learner import Learner
from metarl.lifting import over_tasks
from metarl.optimizers.base import MetaOptimizer, Metrics, pieces
from metarl.trees import global_norm
from metarl.types import Params, Trace


def adapted_mean(learner: Learner, trace: Trace) -> Params:
    """Return the parameters after a step on every support batch and one on the query batch, averaged over tasks."""
    adapted: Params = over_tasks(
        lambda one: learner.adapt((*one.support, one.query), one.noise), trace, **pieces(learner, trace, "reptile")
    )
    return {name: leaf.mean(0) for name, leaf in adapted.items()}


class Reptile(MetaOptimizer):
    """Moves the initialization towards the adapted parameters (Nichol et al. 2018, arXiv:1803.02999, algorithm 2).

    Adapts on the support batches and once more on the query batch. With one support batch these are two steps, the
    minimum for Reptile to differ from joint training. What the rule and the inner loss learn stays unchanged, and the
    outer loss is not used; nor are a learner's ``credit`` and ``every_step``, which are refused.
    """

    def __init__(self, *, step_size: float = 0.1) -> None:
        """Set ``step_size``, the ε of the paper.

        Raises:
            ValueError: it is outside (0, 1].
        """
        if not 0.0 < step_size <= 1.0:
            raise ValueError(f"Reptile's step size must lie in (0, 1], got {step_size}")
        self.step_size = step_size

    def refuse(self, learner: Learner) -> None:
        """Reject terms of a meta-objective that Reptile, which has none, would ignore.

        Raises:
            ValueError: the learner has a ``credit`` or a weight ``every_step``.
        """
        for name, given in (("credit", learner.credit), ("every_step", learner.every_step)):
            if given:
                raise ValueError(
                    f"Reptile only moves towards adapted parameters: expected a learner without {name}, got {given}; "
                    "leave it out, or use Descent"
                )

    @torch.no_grad()
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step` and `refuse`."""
        self.refuse(learner)
        adapted = adapted_mean(learner, trace)
        moves = {name: adapted[name] - p for name, p in learner.policy.initial().items()}
        if not all(bool(move.isfinite().all()) for move in moves.values()):
            return {"meta/skipped": 1.0}
        for name, p in learner.policy.initial().items():
            p.add_(self.step_size * self.share * moves[name])
        return {"meta/skipped": 0.0, "meta/move": float(global_norm(moves))}
