"""Value baselines: what return was to be expected, so that the gradient sees only the surprise.

A baseline is fitted per task, on one batch, and predicts on that batch. Everything acts on leading
task dimensions directly: a least-squares fit of 600 tasks is one batched solve. Weights are rows, and stand on the
left of their products: with columns on the right MKL takes four to ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metarl.types import Batch


class Baseline(Protocol):
    """Predicts the return-to-go of every step of a batch, and of the state after the last step."""

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Fit ``target`` ``[..., H, N]``; return V(s_t) ``[..., H, N]`` and V(s_H) ``[..., N]``."""


@dataclass(frozen=True)
class ZeroBaseline:
    """No baseline: every value is zero."""

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros of the shapes `Baseline` promises."""
        return torch.zeros_like(target), torch.zeros_like(target[..., 0, :])


@dataclass(frozen=True)
class LinearBaseline:
    """Ridge regression on ``[s, s², t, t², t³, 1]`` per task (Duan et al. 2016, arXiv:1604.06778).

    The normal equations are solved in float64 and the ridge scales with their diagonal, so constant or
    repeated observations cannot make the system singular. It is one number for all features: 1e-5 of their mean second
    moment. A feature of which the own is smaller than that, as of an observation in units 300 times as small as the
    others', is left out of the fit in effect: give observations of about the size of one, as ``clip`` expects, too.
    """

    ridge: float = 1e-5
    clip: float = 10.0  # observations beyond are clipped, so that a runaway state does not own the fit

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        """See `Baseline`. Values are zero on padding."""
        features, last = self.features(batch)
        return self.predict(features, last, batch.mask, self.fit(features, target, batch.mask))

    def fit(self, features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Least-squares weights ``[..., 1, F]`` on the steps of ``mask``."""
        rows = (features * mask.unsqueeze(-1)).flatten(-3, -2)  # [..., H*N, F]
        gram = (rows.mT @ rows).double()
        moment = (target.flatten(-2).unsqueeze(-2) @ rows).double()  # of the same steps: the others' rows are zero
        scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        weight: Tensor = torch.linalg.solve(gram + self.ridge * (scale + 1e-8) * eye, moment.mT)
        return weight.mT.to(target.dtype)

    def predict(self, features: Tensor, last: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the steps of ``mask`` ``[..., H, N]`` and of the last states ``[..., N]``."""
        return weighted(features, weight) * mask, (weight @ last.mT).squeeze(-2)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features of every step ``[..., H, N, F]`` and of the state after the last ``[..., N, F]``."""
        o = torch.cat([batch.observation, batch.last_observation.unsqueeze(-3)], dim=-3).clamp(-self.clip, self.clip)
        hundreds = torch.arange(o.shape[-3], device=o.device, dtype=o.dtype)[:, None, None] / 100.0
        t = hundreds.expand(*o.shape[:-1], 1)
        x = torch.cat([o, o.square(), t, t.square(), t.pow(3), torch.ones_like(t)], dim=-1)
        return x[..., :-1, :, :], x[..., -1, :, :]


def weighted(features: Tensor, weight: Tensor) -> Tensor:
    """The sums ``[..., H, N]`` of features ``[..., H, N, F]``, each times its weight ``[..., 1, F]``."""
    return (weight @ features.flatten(-3, -2).mT).reshape(features.shape[:-1])


@dataclass(frozen=True)
class CrossFitted:
    """Fits on one half of the episodes and scores the other: no episode's return explains itself away.

    Removes the bias of scoring a baseline on the episodes it was fitted to, at the price of half the
    data a fit. Needs an even number of episodes.
    """

    baseline: LinearBaseline = LinearBaseline()

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
