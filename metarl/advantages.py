"""Advantages from sampled rewards: discount, baseline, generalised advantage estimation (GAE) and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl import checks
from metarl.baselines import Baseline, LinearBaseline
from metarl.returns import discounted_sum, gae
from metarl.types import Batch

ADVANTAGES = "advantages, such as Advantages(discount=0.95)"
ROUNDS = 30  # of fits; each reduces the error to at most 0.63 where the horizon is longer than 1 / (1 - γ)


@dataclass(frozen=True)
class Advantages:
    """How to estimate the advantage of every step. Calling it on a batch returns the batch with advantages and values.

    Attributes:
        discount: γ in [0, 1]. A short effective horizon raises the signal-to-noise ratio of an inner gradient.
        decay: GAE's λ in [0, 1]; 1 gives Monte-Carlo returns minus the baseline.
        baseline: fitted per task, on the batch itself; defaults to a `LinearBaseline`, which knows the time unless
            the time limit is bootstrapped.
        normalize: whether to normalise to zero mean over the real steps of each task and to unit standard deviation.
        scale: whether that standard deviation is taken over each ``"task"`` separately, or over all ``"tasks"`` of a
            batch together. With ``"tasks"``, tasks with larger advantages count for more: once a task is solved, its
            advantages are mere noise, which a separate scale would enlarge to the size of the mistakes still made in
            other tasks.
        time_limit: what the end of the horizon means. ``"terminal"``: the goal is to do well within the
            horizon, and the baseline knows the time. ``"bootstrap"``: the task would go on, so an episode that is
            cut off is credited with the baseline's value of its last state. As the baseline is fitted to returns that
            contain this value, fits are repeated until they agree with it. A baseline that knows the time would
            attribute the end of the returns to it and credit hardly anything: use ``LinearBaseline(time=False)``.
    """

    discount: float = 0.99
    decay: float = 1.0
    baseline: Baseline = None  # type: ignore[assignment]  # the default depends on the time limit
    normalize: bool = True
    scale: Literal["task", "tasks"] = "task"
    time_limit: Literal["terminal", "bootstrap"] = "terminal"

    def __post_init__(self) -> None:
        """Reject a discount or decay outside [0, 1], a baseline that is not a function, and unknown options."""
        if self.baseline is None:
            object.__setattr__(self, "baseline", LinearBaseline(time=self.time_limit == "terminal"))
        checks.function("baseline", self.baseline, "a baseline, such as LinearBaseline()")
        for name in ("discount", "decay"):
            value = getattr(self, name)
            checks.number(name, value)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        for name, words in (("scale", ("task", "tasks")), ("time_limit", ("terminal", "bootstrap"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be {' or '.join(map(repr, words))}, got {getattr(self, name)!r}")

    def refuse_company(self) -> None:
        """Check that a task's advantages do not depend on other tasks, as is required for adapting to it.

        Raises:
            ValueError: advantages are scaled over all tasks together (``scale="tasks"``).
        """
        if self.scale == "tasks":
            raise ValueError(
                "advantages of an inner loss: expected scale='task', got 'tasks'; each task is adapted to on its own, "
                "so only the outer loss can scale advantages over all tasks"
            )

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with ``advantage`` and ``value`` ``[..., H, N]`` filled in, without a graph."""
        return self.estimate(batch, discount=self.discount, decay=self.decay)

    def estimate(self, batch: Batch, *, discount: float | Tensor, decay: float | Tensor) -> Batch:
        """Return the same with the given γ and λ; 0-d tensors receive gradients, also through the baseline's fit."""
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
        # Returns of cut-off episodes lack what would have followed: add the value of the last state, refit, and so on.
        # Extrapolation is kept within the first fit, or what the least and largest reward are worth for ever.
        cut = (batch.mask[..., -1, :] > 0) & ~batch.terminated[..., -1, :]
        worth = 1.0 / (1.0 - discount + 1e-6)
        least = torch.minimum(last_value.amin(-1), worth * batch.reward.amin((-2, -1)).clamp_max(0.0)).unsqueeze(-1)
        most = torch.maximum(last_value.amax(-1), worth * batch.reward.amax((-2, -1)).clamp_min(0.0)).unsqueeze(-1)
        for _ in range(ROUNDS):
            tail = torch.cat([torch.zeros_like(target[..., 1:, :]), (discount * last_value * cut).unsqueeze(-2)], -2)
            value, last_value = self.baseline(batch, target + discounted_sum(tail, discount))
            last_value = last_value.clamp(least, most)
        return value, last_value


def normalize(advantage: Tensor, mask: Tensor, *, together: bool = False) -> Tensor:
    """Normalise to zero mean over the real steps of each task and unit standard deviation.

    Constant advantages become 0.

    Args:
        advantage: ``[..., H, N]``.
        mask: ``[..., H, N]``.
        together: use one standard deviation for all tasks, instead of one per task.
    """
    count = mask.sum((-2, -1), keepdim=True).clamp_min(1.0)
    centred = (advantage - (advantage * mask).sum((-2, -1), keepdim=True) / count) * mask
    square = centred.square().sum((-2, -1), keepdim=True)
    variance = square.sum() / mask.sum().clamp_min(1.0) if together else square / count
    std = variance.clamp_min(1e-20).sqrt()  # the square root's gradient at zero is infinite
    largest = (advantage * mask).abs().amax((-2, -1), keepdim=True)
    rounding = 8.0 * torch.finfo(advantage.dtype).eps * largest  # error of the mean: all that remains of a constant
    differ = variance > rounding.square()
    return centred * differ / (std + 1e-8)
