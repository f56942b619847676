"""Compute on live (real) steps only, so that padding after an episode's end costs nothing.

A batch ``[H, N]`` is as long as its longest episode; if most episodes end early, most of it is padding. Computations
along time (returns, losses over trajectories) need this shape, but a network applied to single steps does not.
`on_live` applies it only to the real steps, listed by `live_steps`, and fills the rest with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.trees import map_leaves
from metarl.types import Batch

FULL = 0.75  # share of live steps above which listing them does not pay off


def live_steps(mask: Tensor) -> Tensor:
    """Return the positions of the real steps of every task, ``[T, R]`` int64, for a mask ``[T, H, N]``.

    Positions refer to the flattened ``[H * N]``, in ascending order. R is the largest number of real steps of any task;
    shorter lists are padded with ``H * N``, which is past the end. An empty list ``[T, 0]`` stands for all steps; it is
    returned if most steps are real, and on a GPU, where computing R would force a synchronisation.
    """
    tasks = len(mask)
    if mask.device.type != "cpu" or bool(mask.mean() > FULL):
        return torch.empty(tasks, 0, dtype=torch.int64, device=mask.device)
    flat = mask.flatten(1) > 0.0
    count = flat.sum(1)
    task, place = flat.nonzero(as_tuple=True)  # sorted by task
    before = count.cumsum(0) - count  # live steps of the tasks before
    live = torch.full((tasks, int(count.max())), flat.shape[1], dtype=torch.int64)
    live[task, torch.arange(len(task)) - before[task]] = place
    return live


def on_live(function: Callable[[Tensor], Any], batch: Batch, rows: Tensor) -> Any:
    """Return ``function(rows)`` for a batch of one task, computed on its live steps, and zero elsewhere.

    If the batch lists no live steps, the function is applied to all steps.

    Args:
        function: maps rows ``[..., F]``, each independently, to a tensor ``[..., *]`` or a nested tuple of tensors.
        batch: ``[H, N, ...]``, with its list of live steps.
        rows: ``[H, N, F]``.
    """
    if batch.live.shape[-1] == 0:
        return function(rows)
    steps, episodes = rows.shape[:2]
    nowhere = steps * episodes

    def put(found: Tensor) -> Tensor:
        more = (1,) * (found.dim() - 1)
        index = batch.live.reshape(-1, *more).expand_as(found)
        blank = found.new_zeros(nowhere + 1, *found.shape[1:])
        return blank.scatter(0, index, found)[:-1].reshape(steps, episodes, *found.shape[1:])

    return map_leaves(put, function(rows.flatten(0, 1)[batch.live.clamp_max(nowhere - 1)]))


def live_rows(batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten rows ``[H, N, F]`` of a batch of one task to ``[R, F]``; return them and their weights, 1 or 0, ``[R]``.

    The result contains the live steps if they are listed, otherwise all steps.
    """
    listed, flat = batch.live, rows.flatten(0, 1)
    if listed.shape[-1] == 0:
        return flat, batch.mask.flatten()
    nowhere = len(flat)
    return flat[listed.clamp_max(nowhere - 1)], (listed < nowhere).to(flat.dtype)


def trimmed(tree: Any) -> Any:
    """Shorten the live-step lists of all batches ``[t, H, N, ...]`` in nested tuples and dicts as far as possible."""
    if isinstance(tree, Batch) and tree.live.shape[-1] > 0:
        nowhere = tree.mask[0].numel()
        longest = int((tree.live < nowhere).sum(-1).max())
        return tree._replace(live=tree.live[..., :longest])
    if isinstance(tree, (Tensor, Batch)):
        return tree
    if isinstance(tree, dict):
        return {name: trimmed(leaf) for name, leaf in tree.items()}
    leaves = [trimmed(leaf) for leaf in tree]
    return type(tree)(*leaves) if hasattr(tree, "_fields") else tuple(leaves)
