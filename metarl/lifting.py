"""Lifting a function of one task over all tasks: in pieces that fit the cache, one piece a core.

``torch.vmap`` over all tasks at once streams every intermediate result through main memory, and costs some
bookkeeping for every operation. Small tasks therefore go through in pieces that are worth the bookkeeping and
stay close to the processor; a large one is a piece of its own, without ``vmap`` at all. Several pieces run at a
time, each on a core. On a GPU there is one piece. Pieces are added up in order, whichever ends first.

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

from metarl.packing import trimmed
from metarl.trees import joined, leaves_of, map_leaves, sliced
from metarl.types import Batch, Params

PIECE = 2**20  # numbers in a hidden layer's activations, 4 MiB: enough work to make up for the cost of lifting
ALONE = 2**17  # numbers from which a task is better off without `vmap`


Run = Callable[[Callable[[Any], Any], Any], Any]
"""Calls a function of a piece: plainly (`call`), or as a compiled program."""


def call(function: Callable[[Any], Any], piece: Any) -> Any:
    """``function(piece)``: the plain way to run a piece."""
    return function(piece)


def piece_size(batch: Batch, params: Params) -> int:
    """How many tasks of a batch ``[T, H, N, ...]`` to lift at once, through a network of these parameters.

    Raises:
        ValueError: no parameters, so that there is nothing to adapt.
    """
    if not params:
        raise ValueError("nothing to adapt: all parameters of the policy are frozen; policy.requires_grad_(True)")
    tasks, steps, episodes = batch.reward.shape
    if batch.reward.device.type != "cpu":
        return tasks
    rows = batch.live.shape[-1] or steps * episodes
    # the last axis: of a bias or of the next weights, and the same with parameters stacked over many tasks
    width = max(size for leaf in params.values() for size in (1, *leaf.shape[-1:]))
    alone = rows * int(width)
    return 1 if alone > ALONE else max(1, min(int(tasks), PIECE // alone))


def over_tasks(function: Callable[[Any], Any], tree: Any, *, tasks: int, size: int, run: Run = call) -> Any:
    """``torch.vmap(function)(tree)``, a piece at a time.

    Args:
        function: of one task; see the module on threads.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        tasks: T.
        size: tasks a piece.
        run: calls the function of a piece: plainly, or as a compiled program.
    """
    return in_pieces(lifted(function), tree, tasks=tasks, size=size, run=run)


def in_pieces(function: Callable[[Any], Any], tree: Any, *, tasks: int, size: int, run: Run = call) -> Any:
    """``function(tree)`` for a function of any number of tasks, a piece at a time; see `over_tasks`."""
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
    """The mean over tasks of a scalar function and its gradient, a piece at a time; no graph outlives its piece.

    Args:
        function: of one task, 0-d, differentiable in ``params``; see the module on threads.
        tree: tensors ``[T, ...]`` in nested tuples and dicts.
        params: leaves of the graph; compiled, they may change in place from call to call.
        tasks: T.
        size: tasks a piece.
        run: calls the function of a piece: plainly, or as a compiled program.

    Raises:
        ValueError: the function depends on none of ``params``.

    Returns:
        The 0-d mean, and a gradient for each of ``params``: zero where the function does not depend on it.
    """

    def piece(part: Any) -> tuple[Tensor, ...]:
        total = lifted(function)(part).sum()  # divided below: the program of a piece serves any number of tasks
        if not total.requires_grad:
            raise ValueError("expected a loss that depends on what is learned, got one without a graph: detach less")
        return total.detach(), *torch.autograd.grad(total, params, materialize_grads=True)

    total, *gradient = (x / tasks for x in sum_over_pieces(piece, tree, tasks=tasks, size=size, run=run))
    return total, gradient


def sum_over_pieces(
    function: Callable[[Any], tuple[Tensor, ...]], tree: Any, *, tasks: int, size: int, run: Run = call
) -> list[Tensor]:
    """The sums, over the pieces of a tree ``[T, ...]``, of the tensors that a function of one piece gives.

    The function runs with gradients enabled, to use them within; its results must not carry a graph. See
    `over_tasks` for the other arguments.
    """

    def with_grad(piece: Any) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            return function(piece)

    columns = zip(*_map_pieces(with_grad, tree, tasks, size, run), strict=True)
    return [torch.stack(column).sum(0) for column in columns]


def lifted(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of one task as a function of a piece ``[t, ...]``: ``vmap``, or nothing at all for one task."""

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
    grad_mode = torch.is_grad_enabled()  # a thread has its own

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
    with torch.enable_grad():  # a forked process makes its autograd engine at the first use, and not thread-safely
        x = torch.zeros((), requires_grad=True)
        torch.autograd.grad(x.sin(), x)
    return ThreadPoolExecutor(threads, "metarl", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process inherits the pool but not its threads
