"""What comes after what: changes from step to step, and a linear model of them."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.types import Batch

RIDGE = 1e-5  # of every regressor's own second moment: few steps, or an input that never changes, must not be singular


def successors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Observations after every step ``[H, N, O]``, and whether they are known, 1 or 0 ``[H, N]``, of one task.

    The last step of an episode that has ended is followed by none: a batch holds no observation beyond the end.
    """
    after = torch.cat([batch.observation[1:], batch.last_observation.unsqueeze(0)])
    known = torch.cat([batch.mask[1:], batch.mask[-1:] * ~batch.terminated[-1:]])
    return after, known


def linear_dynamics(before: Tensor, after: Tensor, action: Tensor, weight: Tensor) -> Tensor:
    """How numbers change in a step in which nothing is done, fitted by least squares: ``x̄' - x̄ = D x̄ + B u``.

    Args:
        before: ``[R, F]``, x.
        after: ``[R, F]``, x a step later.
        action: ``[R, U]``, u; zero is nothing.
        weight: ``[R]``, 1 for rows that count and 0 for others.

    Returns:
        D, ``[F + 1, F + 1]``, for homogeneous ``x̄ = (x, 1)``; its last row is zero. Fitted in float64.
    """
    rows = torch.cat([before, torch.ones_like(before[:, :1]), action], -1).double()
    weighted = rows * weight.unsqueeze(-1)
    gram, moment = weighted.mT @ rows, weighted.mT @ (after - before).double()
    loaded = gram + torch.diag_embed(RIDGE * gram.diagonal() + 1e-9)
    found = torch.linalg.solve(loaded, moment)[: before.shape[-1] + 1].mT  # [F, F + 1]
    return torch.cat([found, torch.zeros_like(found[:1])]).to(before.dtype)
