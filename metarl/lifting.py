"""Lifting a function of one task over all tasks: in pieces that fit the cache, one piece a core.

``torch.vmap`` over all tasks at once streams every intermediate result through main memory. Here the
tasks go through in pieces whose activations stay close to the processor, and several pieces at a time,
each on a core of its own; a piece of one task runs without ``vmap`` at all. On a GPU there is one piece.
Pieces are added up in order, whichever ends first.

A lifted function is called from several threads at once, so it must not write to what it shares with
other calls: policies, rules and losses keep nothing on ``self`` while they compute.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from metarl.trees import map_leaves
from metarl.types import Batch, Params

PIECE = 2**18  # numbers in a hidden layer's activations: 1 MiB, what a core keeps close


def piece_size(batch: Batch, params: Params) -> int:
    """How many tasks of a batch ``[T, H, N, ...]`` to lift at once, through a network of these parameters."""
    tasks, steps, episodes = batch.reward.shape
    if batch.reward.device.type != "cpu":
        return tasks
    width = max(size for leaf in params.values() for size in (1, *leaf.shape[-2:]))
    return min(tasks, max(1, PIECE // (steps * episodes * width)))


def over_tasks(function: Callable[[Any], Any], tree: Any, *, tasks: int, size: int) -> Any:
    """``torch.vmap(function)(tree)``, a piece at a time.

    Args:
        function: of one task; see the module on threads.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        tasks: T.
        size: tasks a piece.
    """
    parts = _map_pieces(_lifted(function), tree, tasks, size)
    return map_leaves(lambda *leaves: torch.cat(leaves), *parts)


def gradient_over_tasks(
    function: Callable[[Any], Tensor], tree: Any, params: Sequence[Tensor], *, tasks: int, size: int
) -> tuple[Tensor, list[Tensor | None]]:
    """The mean over tasks of a scalar function and its gradient, a piece at a time; no graph outlives its piece.

    Args:
        function: of one task, 0-d, differentiable in ``params``; see the module on threads.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        params: leaves of the graph.
        tasks: T.
        size: tasks a piece.

    Returns:
        The 0-d mean, and a gradient for each of ``params``; None where the function does not depend on it.
    """
    lifted = _lifted(function)

    def piece(part: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        with torch.enable_grad():
            total = lifted(part).sum() / tasks
            return total.detach(), torch.autograd.grad(total, params, allow_unused=True)

    totals, gradients = zip(*_map_pieces(piece, tree, tasks, size), strict=True)
    return torch.stack(totals).sum(), [_sum(column) for column in zip(*gradients, strict=True)]


def _lifted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def on_piece(piece: Any) -> Any:
        counts: list[int] = []
        alone = map_leaves(lambda leaf: counts.append(len(leaf)) or leaf[0], piece)
        if counts[0] > 1:
            return torch.vmap(function)(piece)
        return map_leaves(lambda leaf: leaf.unsqueeze(0), function(alone))

    return on_piece


def _sum(gradients: Sequence[Tensor | None]) -> Tensor | None:
    found = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(found).sum(0) if found else None


def _map_pieces(function: Callable[[Any], Any], tree: Any, tasks: int, size: int) -> list[Any]:
    pieces = [map_leaves(lambda leaf, low=low: leaf[low : low + size], tree) for low in range(0, tasks, size)]
    threads = min(torch.get_num_threads(), len(pieces))
    if threads == 1:
        return [function(piece) for piece in pieces]
    grad_mode = torch.is_grad_enabled()  # a thread has its own

    def run(piece: Any) -> Any:
        with torch.set_grad_enabled(grad_mode):
            return function(piece)

    with _one_thread_an_operation():
        return list(_pool(threads).map(run, pieces))


@contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process inherits the pool but not its threads
