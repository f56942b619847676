"""Lift a function of one task over all tasks, in pieces that fit the cache, one piece per core.

``torch.vmap`` over all tasks at once would move every intermediate result through main memory, and it adds some
overhead to every operation. Small tasks are therefore grouped into pieces that are large enough to make up for the
overhead, but small enough for the cache. A large task is a piece by itself and needs no ``vmap``. Several pieces run in
parallel, each on one core. On a GPU there is a single piece. Results are summed in the order of the pieces, not in the
order in which they finish.

A lifted function runs in several threads at once and must not write to shared objects: policies, rules and losses
store nothing on ``self`` while they compute.
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

from metarl.packing import trimmed
from metarl.trees import joined, leaves_of, map_leaves, sliced
from metarl.types import Batch, Params

PIECE = 2**20  # activations of a hidden layer per piece, 4 MiB: enough work to make up for the overhead of vmap
ALONE = 2**17  # activations above which a task is faster without `vmap`


Run = Callable[[Callable[[Any], Any], Any], Any]
"""Calls a function on a piece, directly (`call`) or as a compiled program."""


def call(function: Callable[[Any], Any], piece: Any) -> Any:
    """Return ``function(piece)``, without compiling it."""
    return function(piece)


def piece_size(batch: Batch, params: Params) -> int:
    """Return how many tasks of a batch ``[T, H, N, ...]`` to lift at once, for a network with these parameters.

    Raises:
        ValueError: there are no parameters, and thus nothing to adapt.
    """
    if not params:
        raise ValueError("nothing to adapt: all parameters of the policy are frozen; policy.requires_grad_(True)")
    tasks, steps, episodes = batch.reward.shape
    if batch.reward.device.type != "cpu":
        return tasks
    rows = batch.live.shape[-1] or steps * episodes
    # the last axis is a layer's width, as that of its bias or of the next weights, also if stacked over tasks
    width = max(size for leaf in params.values() for size in (1, *leaf.shape[-1:]))
    alone = rows * int(width)
    return 1 if alone > ALONE else max(1, min(int(tasks), PIECE // alone))


def over_tasks(function: Callable[[Any], Any], tree: Any, *, tasks: int, size: int, run: Run = call) -> Any:
    """Return ``torch.vmap(function)(tree)``, computed piece by piece.

    Args:
        function: a function of one task, called in threads: see the module docstring.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        tasks: T.
        size: tasks per piece.
        run: calls the function on a piece, directly or as a compiled program.
    """
    return in_pieces(lifted(function), tree, tasks=tasks, size=size, run=run)


def in_pieces(function: Callable[[Any], Any], tree: Any, *, tasks: int, size: int, run: Run = call) -> Any:
    """Return ``function(tree)`` for a function of any number of tasks, computed piece by piece; see `over_tasks`."""
    return joined(_map_pieces(function, tree, tasks, size, run))


def gradient_over_tasks(
    function: Callable[[Any], Tensor],
    tree: Any,
    params: Sequence[Tensor],
    *,
    tasks: int,
    size: int,
    run: Run = call,
) -> tuple[Tensor, list[Tensor]]:
    """Return the mean over tasks of a scalar function, and its gradient, computed piece by piece.

    The graph of a piece is freed as soon as its gradient is computed.

    Args:
        function: a function of one task, 0-d and differentiable in ``params``; see the module docstring on threads.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        params: leaves of the graph. With compiled programs they may change between calls only in place.
        tasks: T.
        size: tasks per piece.
        run: calls the function on a piece, directly or as a compiled program.

    Returns:
        The 0-d mean, and a gradient for each of ``params``, zero if the function does not depend on it.

    Raises:
        ValueError: the function depends on none of ``params``.
    """

    def piece(part: Any) -> tuple[Tensor, ...]:
        total = lifted(function)(part).sum()  # divided later, so that a compiled piece serves any number of tasks
        if not total.requires_grad:
            raise ValueError(
                "expected a loss that depends on learned parameters, got one without a graph: check it for detach()"
            )
        return total.detach(), *torch.autograd.grad(total, params, materialize_grads=True)

    total, *gradient = (x / tasks for x in sum_over_pieces(piece, tree, tasks=tasks, size=size, run=run))
    return total, gradient


def sum_over_pieces(
    function: Callable[[Any], tuple[Tensor, ...]], tree: Any, *, tasks: int, size: int, run: Run = call
) -> list[Tensor]:
    """Apply a function to every piece of a tree ``[T, ...]``, and return the sums of the tensors that it returns.

    The function runs with gradients enabled and may use them internally; its results must not carry a graph. See
    `over_tasks` for the other arguments.
    """

    def with_grad(piece: Any) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return function(piece)

    columns = zip(*_map_pieces(with_grad, tree, tasks, size, run), strict=True)
    return [torch.stack(column).sum(0) for column in columns]


def lifted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Turn a function of one task into a function of a piece ``[t, ...]``, by ``vmap`` if it has several tasks."""

    def on_piece(piece: Any) -> Any:
        piece = trimmed(piece)
        if len(leaves_of(piece)[0]) > 1:
            return torch.vmap(function)(piece)
        alone = function(map_leaves(lambda leaf: leaf[0], piece))
        return map_leaves(lambda leaf: leaf.unsqueeze(0), alone)

    return on_piece


def _map_pieces(function: Callable[[Any], Any], tree: Any, tasks: int, size: int, run: Run) -> list[Any]:
    pieces = [sliced(tree, low, low + size) for low in range(0, tasks, size)]
    threads = min(torch.get_num_threads(), len(pieces))
    if threads == 1:
        return [run(function, piece) for piece in pieces]
    grad_mode = torch.is_grad_enabled()  # it is set per thread

    def on_thread(piece: Any) -> Any:
        with torch.set_grad_enabled(grad_mode):
            return run(function, piece)

    with _one_thread_an_operation():
        return list(_pool(threads).map(on_thread, pieces))


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
    with torch.enable_grad():  # a forked process creates its autograd engine at first use, which is not thread-safe
        x = torch.zeros((), requires_grad=True)
        torch.autograd.grad(x.sin(), x)
    return ThreadPoolExecutor(threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process inherits the pool, but not its threads
