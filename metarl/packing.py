"""Computing on live steps only: what comes after an episode's end costs nothing.

A batch ``[H, N]`` is as long as its longest episode, and where episodes end early most of it is padding. What has to do
with time (returns, losses over trajectories) needs that shape; a network that judges single steps does not. `on_live`
runs it on the real steps alone, listed by `live_steps`, and puts zeros elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarl.trees import map_leaves
from metarl.types import Batch

FULL = 0.75  # share of live steps above which listing them does not pay


def live_steps(mask: Tensor) -> Tensor:
    """Where the real steps of every task are, ``[T, R]`` int64, for a mask ``[T, H, N]``.

    Positions in the flattened ``[H * N]``, in order; tasks with fewer than the R steps of the longest list are filled
    up with ``H * N``, which is nowhere. An empty list, ``[T, 0]``, means every step: where most are real, and on a GPU,
    which would have to wait for R.
    """
    tasks = len(mask)
    if mask.device.type != "cpu" or bool(mask.mean() > FULL):
        return torch.empty(tasks, 0, dtype=torch.int64, device=mask.device)
    flat = mask.flatten(1) > 0.0
    count = flat.sum(1)
    task, place = flat.nonzero(as_tuple=True)  # task by task
    before = count.cumsum(0) - count  # live steps of the tasks before
    live = torch.full((tasks, int(count.max())), flat.shape[1], dtype=torch.int64)
    live[task, torch.arange(len(task)) - before[task]] = place
    return live


def on_live(function: Callable[[Tensor], Any], batch: Batch, rows: Tensor) -> Any:
    """``function(rows)`` of a batch of one task, computed on its live steps; zero elsewhere, if any are listed.

    Args:
        function: of rows ``[..., F]``, each by itself, to a tensor ``[..., *]`` or a nested tuple of such.
        batch: ``[H, N, ...]``; lists its live steps.
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
    """Rows ``[H, N, F]`` of a batch of one task as a list ``[R, F]``, and which of them count, 1 or 0 ``[R]``.

    Its live steps where they are listed, else all of its steps.
    """
    listed, flat = batch.live, rows.flatten(0, 1)
    if listed.shape[-1] == 0:
        return flat, batch.mask.flatten()
    nowhere = len(flat)
    return flat[listed.clamp_max(nowhere - 1)], (listed < nowhere).to(flat.dtype)


def trimmed(tree: Any) -> Any:
    """Nested tuples and dicts, the batches ``[t, H, N, ...]`` in them with lists of live steps as short as can be."""
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
