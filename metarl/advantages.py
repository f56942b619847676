"""From sampled rewards to advantages: discount, baseline, generalised advantage estimation, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from metarl.baselines import Baseline, LinearBaseline
from metarl.returns import discounted_sum, gae
from metarl.types import Batch

Normalization = Literal["task", "batch"] | None


@dataclass(frozen=True)
class Advantages:
    """How the advantage of every step is estimated; called on a batch, returns it with values filled in.

    Attributes:
        discount: γ in [0, 1]. A short horizon raises the signal-to-noise ratio of an inner gradient.
        decay: GAE's λ in [0, 1]; 1 gives Monte-Carlo returns minus the baseline.
        baseline: fitted on the batch itself, per task.
        normalize: to zero mean and unit standard deviation over the real steps of each ``"task"``; or, per
            ``"batch"``, to zero mean in each task and a common scale of all: a task with nothing left to gain then
            has small advantages, where alone its noise would be blown up to unit size. For the outer loss only: how
            a task is adapted to must not depend on the others. None leaves them as they are.
        time_limit: what the end of the horizon means. ``"terminal"``: the task is to do well within the
            horizon, and the baseline knows the time. ``"bootstrap"``: the task would go on, so an episode
            cut off is credited with the baseline's value of its last state.
    """

    discount: float = 0.99
    decay: float = 1.0
    baseline: Baseline = field(default_factory=LinearBaseline)
    normalize: Normalization = "task"
    time_limit: Literal["terminal", "bootstrap"] = "terminal"

    def __post_init__(self) -> None:
        """Refuses a discount or decay outside [0, 1]."""
        for name in ("discount", "decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if self.time_limit not in ("terminal", "bootstrap"):
            raise ValueError(f"time_limit must be 'terminal' or 'bootstrap', got {self.time_limit!r}")
        if self.normalize not in ("task", "batch", None):
            raise ValueError(f"normalize must be 'task', 'batch' or None, got {self.normalize!r}")

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``advantage`` and ``value`` filled in; ``[..., H, N]`` as the batch's rewards."""
        return self.estimate(batch, discount=self.discount, decay=self.decay)

    def estimate(self, batch: Batch, *, discount: float | Tensor, decay: float | Tensor) -> Batch:
        """The same with another γ and λ, 0-d tensors that may carry a gradient: through the baseline's fit, too."""
        value, last_value = self._values(batch, discount)
        advantage = gae(
            batch.reward,
            value,
            last_value,
            terminated=batch.terminated,
            mask=batch.mask,
            discount=discount,
            decay=decay,
        )
        if self.normalize is not None:
            advantage = normalize(advantage, batch.mask, common=self.normalize == "batch")
        return batch._replace(advantage=advantage, value=value)

    def _values(self, batch: Batch, discount: float | Tensor) -> tuple[Tensor, Tensor]:
        target = discounted_sum(batch.reward, discount)
        value, last_value = self.baseline(batch, target)
        if self.time_limit == "terminal":
            return value, torch.zeros_like(last_value)
        # The cut-off returns miss what would have followed: complete them with the first fit, and refit.
        cut = (batch.mask[..., -1, :] > 0) & ~batch.terminated[..., -1, :]
        tail = torch.cat([torch.zeros_like(target[..., 1:, :]), (discount * last_value * cut).unsqueeze(-2)], -2)
        return self.baseline(batch, target + discounted_sum(tail, discount))


def normalize(advantage: Tensor, mask: Tensor, *, common: bool = False) -> Tensor:
    """Zero mean and unit standard deviation over the real steps of each task; constant advantages become 0.

    Args:
        advantage: ``[..., H, N]``.
        mask: ``[..., H, N]``.
        common: divide all tasks by one standard deviation, that over their steps together.
    """
    count = mask.sum((-2, -1), keepdim=True).clamp_min(1.0)
    centred = (advantage - (advantage * mask).sum((-2, -1), keepdim=True) / count) * mask
    square = centred.square().sum((-2, -1), keepdim=True)
    variance = square.sum() / count.sum() if common else square / count
    std = variance.clamp_min(1e-20).sqrt()  # the square root's gradient at zero is infinite
    return centred / (std + 1e-8)
