"""Evolution strategies: meta-learning without any backpropagation through adaptation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.errors import DivergedError
from metarl.learner import Learner
from metarl.optimizers.base import MetaOptimizer, Metrics, give, groups, refuse_another, trainable
from metarl.types import Trace


class Evolution(MetaOptimizer):
    """ES-MAML (Song et al. 2020, arXiv:1910.01215, algorithm 1 with antithetic pairs) for everything that is learned.

    P learners ``θ + σ ε_i`` and P learners ``θ - σ ε_i`` explore the same tasks with the same noise. The gradient of
    the return F after adapting, smoothed by σ, is estimated by ``1 / (2 P σ) Σ_i (F_i⁺ - F_i⁻) ε_i`` and passed to
    Adam. F also includes the returns during adaptation, weighted by the learner's ``every_step``. Adaptation need not
    be differentiable, because only the inner loss itself is differentiated. An iteration takes 2P times as many
    environment steps as with other meta-optimizers.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        lr: float = 1e-2,
        rate_lr: float | None = None,
        perturbation: float = 0.05,
        pairs: int = 8,
    ) -> None:
        """Build the optimizer for all parameters that the learner learns.

        Args:
            learner: the learner to optimize.
            lr: Adam's step size for the policy's initialization.
            rate_lr: Adam's step size for what the rule and the losses learn; ``lr`` by default.
            perturbation: σ, the standard deviation of the perturbations.
            pairs: P, the number of antithetic pairs.

        Raises:
            TypeError: ``pairs`` is not a whole number.
            ValueError: a value that is not positive and finite.
        """
        checks.whole("pairs", pairs)
        if not 0.0 < perturbation < float("inf"):
            raise ValueError(f"expected a positive, finite perturbation, got {perturbation}")
        self.optimizer = torch.optim.Adam(groups(learner, lr, rate_lr))
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.perturbation, self.pairs = perturbation, pairs
        self.team = 2 * pairs
        self._directions: list[list[Tensor]] = []  # of the current iteration
        self._twins: list[Learner] = []  # kept between iterations, because they hold compiled programs

    @torch.no_grad()
    def explorers(self, learner: Learner, *, generator: torch.Generator) -> list[Learner]:
        """Return 2P perturbed learners, each next to its mirror image; the same objects in every iteration.

        Raises:
            ValueError: a learner other than the one it was built for.
        """
        refuse_another(learner, self.optimizer)
        self._directions = [
            [torch.randn(p.shape, generator=generator, device=generator.device).to(p) for p in trainable(learner)]
            for _ in range(self.pairs)
        ]
        if not self._twins:
            self._twins = [copy.deepcopy(learner) for _ in range(self.team)]
        signed = [(sign, direction) for direction in self._directions for sign in (1.0, -1.0)]
        for twin, (sign, direction) in zip(self._twins, signed, strict=True):
            twin.load_state_dict(learner.state_dict())
            moves = iter(direction)
            for p, mine in zip(twin.parameters(), learner.parameters(), strict=True):
                p.requires_grad_(mine.requires_grad)
                if mine.requires_grad:
                    p.add_(sign * self.perturbation * next(moves))
        return self._twins

    @torch.no_grad()
    def step(self, learner: Learner, trace: Trace) -> Metrics:
        """See `MetaOptimizer.step`; the trace concatenates those of all explorers.

        Raises:
            DivergedError: a return that is not finite.
            ValueError: a learner other than the one it was built for.
        """
        refuse_another(learner, self.optimizer)
        earned = trace.query.episode_return.mean(-1)
        for batch in trace.support:
            earned = earned + learner.every_step * batch.episode_return.mean(-1)
        fitness = earned.reshape(self.pairs, 2, -1).mean(-1)
        if not bool(fitness.isfinite().all()):
            raise DivergedError(f"returns of perturbed learners are not finite: {fitness.tolist()}; lower perturbation")
        weight = (fitness[:, 0] - fitness[:, 1]) / (2.0 * self.pairs * self.perturbation)
        columns = zip(*self._directions, strict=True)
        gradient = [-torch.stack([w * d for w, d in zip(weight, column, strict=True)]).sum(0) for column in columns]
        give(learner, gradient)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.share
        norm = float(nn.utils.get_total_norm(gradient))
        self.optimizer.step()
        return {"meta/loss": -float(fitness.mean()), "meta/grad_norm": norm, "meta/skipped": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """See `MetaOptimizer.state_dict`."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `MetaOptimizer.load_state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
