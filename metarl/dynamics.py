"""What comes after what: changes from step to step, and a linear model of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.packing import live_rows
from metarl.types import Batch

RIDGE = 1e-5  # of every regressor's own second moment: few steps, or an input that never changes, must not be singular


def successors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Observations after every step ``[H, N, O]``, and whether they are known, 1 or 0 ``[H, N]``, of one task.

    The last step of an episode that has ended is followed by none: a batch holds no observation beyond the end.
    """
    after = torch.cat([batch.observation[1:], batch.last_observation.unsqueeze(0)])
    known = torch.cat([batch.mask[1:], batch.mask[-1:] * ~batch.terminated[-1:]])
    return after, known


class LinearDynamics(NamedTuple):
    """``x' - x = D x + B u + B' u'`` for numbers x, the push u and that of the step before, u'."""

    drift: Tensor  # D [F, F]
    push: Tensor  # B [F, U]
    late: Tensor  # B' [F, U]


def homogeneous(rows: Tensor) -> Tensor:
    """``(x, 1)`` ``[R, F + 1]`` for rows x ``[R, F]``: what is linear in it may have a constant."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], -1)


def linear_dynamics(batch: Batch, read: Callable[[Tensor], Tensor]) -> LinearDynamics:
    """Fit how numbers change from step to step, by least squares on the episodes of one task.

    Actions may take effect at once or a step later. What acted before an episode's first step is not known, so that
    this one tells nothing.

    Args:
        batch: ``[H, N, ...]``.
        read: the numbers ``[R, F]`` of observations ``[R, O]``; `homogeneous` ones, if x = 0 need not stay.
    """
    after, known = successors(batch)
    known = torch.cat([torch.zeros_like(known[:1]), known[1:]])
    push = batch.distribution.push(batch.action)
    earlier = torch.cat([torch.zeros_like(push[:1]), push[:-1]])
    found = (batch.observation, after, push, earlier, known.unsqueeze(-1))
    (seen, weight), (after, _), (push, _), (earlier, _), (known, _) = (live_rows(batch, rows) for rows in found)
    x = read(seen)
    solved = least_squares(torch.cat([x, push, earlier], -1), read(after) - x, weight * known.squeeze(-1))
    return LinearDynamics(*torch.split(solved.mT, [x.shape[-1], push.shape[-1], push.shape[-1]], -1))


def least_squares(rows: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Coefficients ``[P, F]`` of ``target ≈ rows @ coefficients``; solved in float64.

    Args:
        rows: ``[R, P]``.
        target: ``[R, F]``.
        weight: ``[R]``, 1 for rows that count and 0 for others.
    """
    exact = rows.double()
    weighted = exact * weight.unsqueeze(-1)
    gram = weighted.mT @ exact
    loaded = gram + torch.diag_embed(RIDGE * gram.diagonal() + 1e-9)
    solved: Tensor = torch.linalg.solve(loaded, weighted.mT @ target.double())
    return solved.to(rows.dtype)


def effects(batch: Batch) -> Tensor:
    """What the action of every step does to the observation, soon or late, by a linear fit: ``[H, N, O]``."""
    fitted = linear_dynamics(batch, homogeneous)
    done: Tensor = batch.distribution.push(batch.action) @ (fitted.push + fitted.late)[:-1].mT
    return done
