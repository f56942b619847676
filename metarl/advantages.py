"""From sampled rewards to advantages: discount, baseline, generalised advantage estimation, normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from metarl import checks
from metarl.baselines import Baseline, LinearBaseline
from metarl.returns import discounted_sum, gae
from metarl.types import Batch


@dataclass(frozen=True)
class Advantages:
    """How the advantage of every step is estimated; called on a batch, returns it with values filled in.

    Attributes:
        discount: γ in [0, 1]. A short horizon raises the signal-to-noise ratio of an inner gradient.
        decay: GAE's λ in [0, 1]; 1 gives Monte-Carlo returns minus the baseline.
        baseline: fitted on the batch itself, per task.
        normalize: to zero mean over the real steps of each task, and unit standard deviation.
        scale: over what that deviation is taken: each ``"task"`` by itself, or all ``"tasks"`` of a batch together, so
            that a task counts for more the more is at stake. Of a task that is solved, nothing but noise is left of the
            advantages; a scale of its own would make that as large as the mistakes still made in other tasks.
        time_limit: what the end of the horizon means. ``"terminal"``: the task is to do well within the
            horizon, and the baseline knows the time. ``"bootstrap"``: the task would go on, so an episode
            cut off is credited with the baseline's value of its last state.
    """

    discount: float = 0.99
    decay: float = 1.0
    baseline: Baseline = field(default_factory=LinearBaseline)
    normalize: bool = True
    scale: Literal["task", "tasks"] = "task"
    time_limit: Literal["terminal", "bootstrap"] = "terminal"

    def __post_init__(self) -> None:
        """Refuses a discount or decay outside [0, 1], a baseline that is none, and unknown words."""
        checks.function("baseline", self.baseline, "a baseline, such as LinearBaseline()")
        for name in ("discount", "decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        for name, words in (("scale", ("task", "tasks")), ("time_limit", ("terminal", "bootstrap"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, got {getattr(self, name)!r}")

    def refuse_company(self) -> None:
        """Check that a task's advantages are its own: adapting to it must not depend on what other tasks are there.

        Raises:
            ValueError: they are scaled together with those of other tasks.
        """
        if self.scale == "tasks":
            raise ValueError(
                "advantages of an inner loss: expected scale='task', got 'tasks'; a task is adapted to by itself, "
                "and only the outer loss can weigh tasks against each other"
            )

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
        if self.normalize:
            advantage = normalize(advantage, batch.mask, together=self.scale == "tasks")
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


def normalize(advantage: Tensor, mask: Tensor, *, together: bool = False) -> Tensor:
    """Zero mean over the real steps of each task and unit standard deviation; constant advantages become 0.

    Args:
        advantage: ``[..., H, N]``.
        mask: ``[..., H, N]``.
        together: one standard deviation for all tasks instead of each its own.
    """
    count = mask.sum((-2, -1), keepdim=True).clamp_min(1.0)
    centred = (advantage - (advantage * mask).sum((-2, -1), keepdim=True) / count) * mask
    square = centred.square().sum((-2, -1), keepdim=True)
    variance = square.sum() / mask.sum().clamp_min(1.0) if together else square / count
    std = variance.clamp_min(1e-20).sqrt()  # the square root's gradient at zero is infinite
    largest = (advantage * mask).abs().amax((-2, -1), keepdim=True)
    rounding = 8.0 * torch.finfo(advantage.dtype).eps * largest  # of the mean: all that is left of a constant
    differ = variance > rounding.square()
    return centred * differ / (std + 1e-8)
