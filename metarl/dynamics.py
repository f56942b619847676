"""Changes of observations from step to step, and a linear model of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.packing import live_rows
from metarl.types import Batch

RIDGE = 1e-5  # times each regressor's second moment: avoids a singular fit with few steps or constant inputs


def successors(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return, for one task, the observation after every step ``[H, N, O]`` and whether it is known, 1 or 0 ``[H, N]``.

    It is unknown for the last step of an episode that has ended, as a batch holds no observations after the end.
    """
    after = torch.cat([batch.observation[1:], batch.last_observation.unsqueeze(0)])
    known = torch.cat([batch.mask[1:], batch.mask[-1:] * ~batch.terminated[-1:]])
    return after, known


class LinearDynamics(NamedTuple):
    """The model ``x' - x = D x + B u + B' u'`` of features x, with the push u and that of the previous step, u'."""

    drift: Tensor  # D [F, F]
    push: Tensor  # B [F, U]
    late: Tensor  # B' [F, U]


def homogeneous(rows: Tensor) -> Tensor:
    """Return ``(x, 1)`` ``[R, F + 1]`` for rows x ``[R, F]``, so that linear functions of it include a constant."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], -1)


def linear_dynamics(batch: Batch, read: Callable[[Tensor], Tensor]) -> LinearDynamics:
    """Fit how features of the observation change from step to step, by least squares on the episodes of one task.

    Actions may take effect immediately or one step later. An episode's first step is left out of the fit, because the
    action before it is not known.

    Args:
        batch: ``[H, N, ...]``.
        read: maps observations ``[R, O]`` to features ``[R, F]``; use `homogeneous` unless x = 0 is an equilibrium.
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
    """Return the coefficients ``[P, F]`` of ``target ≈ rows @ coefficients``, solved in float64.

    Args:
        rows: ``[R, P]``.
        target: ``[R, F]``.
        weight: ``[R]``, 1 for rows to fit and 0 for others.
    """
    exact = rows.double()
    weighted = exact * weight.unsqueeze(-1)
    gram = weighted.mT @ exact
    loaded = gram + torch.diag_embed(RIDGE * gram.diagonal() + 1e-9)
    solved: Tensor = torch.linalg.solve(loaded, weighted.mT @ target.double())
    return solved.to(rows.dtype)


def effects(batch: Batch) -> Tensor:
    """Return the effect ``[H, N, O]`` of each action on the observation, immediate plus delayed, by a linear fit."""
    fitted = linear_dynamics(batch, homogeneous)
    done: Tensor = batch.distribution.push(batch.action) @ (fitted.push + fitted.late)[:-1].mT
    return done
