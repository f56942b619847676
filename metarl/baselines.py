"""Value baselines: predict the expected return, which is subtracted to reduce the variance of the policy gradient.

A baseline is fitted per task, on one batch, and predicts on the same batch. All functions accept leading task
dimensions: a least-squares fit for 600 tasks is one batched solve. Weights are row vectors that multiply from the
left, because MKL takes four to ten times as long with column vectors on the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarl import checks
from metarl.types import Batch


class Baseline(Protocol):
    """Predicts the return-to-go at every step of a batch, and in the state after the last step."""

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Fit ``target`` ``[..., H, N]``; return V(s_t) ``[..., H, N]`` and V(s_H) ``[..., N]``."""


@dataclass(frozen=True)
class ZeroBaseline:
    """No baseline: every value is zero."""

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros; see `Baseline` for the shapes."""
        return torch.zeros_like(target), torch.zeros_like(target[..., 0, :])


@dataclass(frozen=True)
class LinearBaseline:
    """Ridge regression on ``[s, s², t, t², t³, 1]`` per task (Duan et al. 2016, arXiv:1604.06778).

    The normal equations are solved in float64 and the ridge scales with their diagonal, so that constant or repeated
    observations cannot make the system singular. The ridge is the same for all features: ``ridge`` times their mean
    second moment. A feature whose own second moment is smaller than that, such as an observation 300 times as small as
    the others, is in effect left out of the fit. Observations should therefore be of order one, which ``clip`` assumes
    as well.

    Without ``time``, t is left out: values then are those of a task that goes on beyond the horizon.
    """

    ridge: float = 1e-5
    clip: float = 10.0  # larger observations are clipped, so that a runaway state cannot dominate the fit
    time: bool = True

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `Baseline`. Values are zero on padding."""
        features, last = self.features(batch)
        return self.predict(features, last, batch.mask, self.fit(features, target, batch.mask))

    def fit(self, features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Return the least-squares weights ``[..., 1, F]`` fitted on the steps where ``mask`` is 1."""
        rows = (features * mask.unsqueeze(-1)).flatten(-3, -2)  # [..., H*N, F]
        gram = (rows.mT @ rows).double()
        moment = (target.flatten(-2).unsqueeze(-2) @ rows).double()  # only those steps count: other rows are zero
        scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        weight: Tensor = torch.linalg.solve(gram + self.ridge * (scale + 1e-8) * eye, moment.mT)
        return weight.mT.to(target.dtype)

    def predict(self, features: Tensor, last: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return values of the steps ``[..., H, N]``, 0 where ``mask`` is 0, and of the last states ``[..., N]``."""
        return weighted(features, weight) * mask, (weight @ last.mT).squeeze(-2)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the features of every step ``[..., H, N, F]`` and of the state after the last step ``[..., N, F]``."""
        o = torch.cat([batch.observation, batch.last_observation.unsqueeze(-3)], dim=-3).clamp(-self.clip, self.clip)
        hundreds = torch.arange(o.shape[-3], device=o.device, dtype=o.dtype)[:, None, None] / 100.0
        t = hundreds.expand(*o.shape[:-1], 1)
        times = [t, t.square(), t.pow(3)] if self.time else []
        x = torch.cat([o, o.square(), *times, torch.ones_like(t)], dim=-1)
        return x[..., :-1, :, :], x[..., -1, :, :]


def weighted(features: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted sums ``[..., H, N]`` of features ``[..., H, N, F]`` with weights ``[..., 1, F]``."""
    return (weight @ features.flatten(-3, -2).mT).reshape(features.shape[:-1])


@dataclass(frozen=True)
class CrossFitted:
    """Predicts each half of the episodes with a fit on the other half, so that no episode is fitted to its own return.

    This removes the bias of a baseline that predicts the episodes it was fitted to, but leaves only half of the data
    for each fit. It needs an even number of episodes.
    """

    baseline: LinearBaseline = LinearBaseline()

    def __post_init__(self) -> None:
        """Reject anything that cannot be fitted to some episodes and predict others."""
        checks.of_type("baseline", self.baseline, LinearBaseline, "a LinearBaseline, such as LinearBaseline()")

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `Baseline`.

        Raises:
            ValueError: an odd number of episodes.
        """
        episodes = target.shape[-1]
        if episodes % 2:
            raise ValueError(f"CrossFitted halves the episodes: expected an even number, got {episodes}")
        features, last = self.baseline.features(batch)
        first = torch.arange(episodes, device=target.device) < episodes // 2
        scored = []
        for fold in (~first, first):
            weight = self.baseline.fit(features, target, batch.mask * fold)
            scored.append(self.baseline.predict(features, last, batch.mask, weight))
        (value_1, last_1), (value_2, last_2) = scored
        return torch.where(first, value_1, value_2), torch.where(first, last_1, last_2)
