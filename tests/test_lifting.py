"""Lifting in chunks equals ``torch.vmap`` over everything, for any chunk size and number of threads."""

from __future__ import annotations

import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from metarl import lifting
from metarl.lifting import gradient_over_tasks, over_tasks, piece_size
from metarl.optimizers.base import meta_gradient, meta_loss
from metarl.rules import MetaSGD
from metarl.trees import expand, leaves_of, map_leaves
from tests.helpers import double_trace, gaussian_policy, make_batch, seeded

TASKS = 7


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    torch.set_num_threads(request.param)
    return int(request.param)


def tree(tasks: int = TASKS, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    generator = seeded(0)
    vector, matrix = (torch.randn(tasks, *s, generator=generator, dtype=dtype) for s in ((3,), (3, 3)))
    return {"vector": vector, "more": (Pair(matrix, torch.arange(tasks)),)}


def nested(one: dict[str, Any]) -> dict[str, Any]:
    """Of one task: tensors of several ranks and types, in a nest of another shape than the argument's."""
    vector, (pair,) = one["vector"], one["more"]
    return {
        "number": (vector.sum(), pair.right * 2),
        "pair": Pair(pair.left @ vector, pair.left @ pair.left.mT),
        "inside": {"flag": vector > 0, "constant": torch.ones(2)},
    }


class Recording:
    """Calls a piece's function and remembers how long the piece was and on which thread it ran."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def __call__(self, function: Callable[[Any], Any], piece: Any) -> Any:
        self.sizes.append(len(leaves_of(piece)[0]))
        self.threads.add(threading.current_thread().name)
        return function(piece)


@pytest.mark.parametrize("size", [1, 2, 3, TASKS, TASKS + 2])
def test_pieces_joined_equal_vmap_in_order(size: int, threads: int) -> None:
    run = Recording()
    joined = over_tasks(nested, tree(), tasks=TASKS, size=size, run=run)
    together = torch.vmap(nested)(tree())
    assert joined.keys() == together.keys() and isinstance(joined["pair"], Pair)
    for found, expected in zip(leaves_of(joined), leaves_of(together), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert joined["number"][1].tolist() == [2 * t for t in range(TASKS)]
    whole, rest = divmod(TASKS, size)
    assert sorted(run.sizes) == sorted([size] * whole + [rest] * (rest > 0))


def test_a_single_task_is_not_lifted_at_all() -> None:
    def branching(x: Tensor) -> Tensor:
        return x if float(x) > 2 else -x  # vmap would refuse the branch

    assert over_tasks(branching, torch.arange(5.0), tasks=5, size=1).tolist() == [0, -1, -2, 3, 4]
    with pytest.raises(RuntimeError, match="vmap"):
        over_tasks(branching, torch.arange(5.0), tasks=5, size=2)


def test_pieces_run_at_the_same_time() -> None:
    torch.set_num_threads(2)
    meeting = threading.Barrier(2, timeout=20)
    seen = []

    def run(function: Callable[[Any], Any], piece: Any) -> Any:
        meeting.wait()  # breaks unless another piece is under way
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return function(piece)

    assert over_tasks(lambda x: x + 1, torch.arange(4), tasks=4, size=1, run=run).tolist() == [1, 2, 3, 4]
    assert len({name for name, _ in seen}) == 2 and threading.current_thread().name not in dict(seen)
    assert {count for _, count in seen} == {1}  # an operation gets one core
    assert torch.get_num_threads() == 2


def test_one_thread_or_one_piece_stays_on_the_callers_thread() -> None:
    own = {threading.current_thread().name}
    for count, size in ((1, 1), (2, TASKS)):
        torch.set_num_threads(count)
        run = Recording()
        over_tasks(nested, tree(), tasks=TASKS, size=size, run=run)
        assert run.threads == own


WEIGHTS = {"weight": (3, 3), "bias": (3,), "unused": (2,)}


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = seeded(1)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in WEIGHTS.values()]


def scalar(params: list[Tensor]) -> Callable[[dict[str, Any]], Tensor]:
    weight, bias, _ = params
    return lambda one: ((weight @ one["vector"] + bias).tanh() * one["vector"]).sum() * one["more"][0].right


@pytest.mark.parametrize("size", [1, 2, 3, TASKS])
def test_the_gradient_equals_autograd_of_the_lifted_mean(size: int, threads: int) -> None:
    params = weights()
    total, gradient = gradient_over_tasks(scalar(params), tree(), params, tasks=TASKS, size=size)
    mean = torch.vmap(scalar(params))(tree()).mean()
    expected = torch.autograd.grad(mean, params[:2])
    torch.testing.assert_close(total, mean.detach(), rtol=1e-13, atol=1e-13)
    for found, exact in zip(gradient[:2], expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-13)
        assert bool(found.any())
    assert torch.equal(gradient[2], torch.zeros(2, dtype=torch.float64))  # of what the function does not use


def test_no_graph_is_left_and_none_is_needed_outside(threads: int) -> None:
    params = weights()
    total, gradient = gradient_over_tasks(scalar(params), tree(), params, tasks=TASKS, size=2)
    with torch.no_grad():
        again, same = gradient_over_tasks(scalar(params), tree(), params, tasks=TASKS, size=2)
        assert not torch.is_grad_enabled()
    assert total.shape == () and not any(x.requires_grad for x in (total, again, *gradient, *same))
    assert torch.equal(total, again) and all(torch.equal(a, b) for a, b in zip(gradient, same, strict=True))
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_number_of_threads_does_not_change_a_bit(size: int) -> None:
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        params = weights(torch.float32)
        args = tree(50, torch.float32)
        total, gradient = gradient_over_tasks(scalar(params), args, params, tasks=50, size=size)
        found.append([total, *gradient, *leaves_of(over_tasks(nested, args, tasks=50, size=size))])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_function_of_a_piece_serves_any_number_of_tasks() -> None:
    """A compiled program is kept for the shapes of its piece, which do not tell how many pieces there are."""
    kept: dict[int, Callable[[Any], Any]] = {}

    def run(function: Callable[[Any], Any], piece: Any) -> Any:
        return kept.setdefault(len(leaves_of(piece)[0]), function)(piece)

    params = weights()
    for tasks in (4, 6):
        total, gradient = gradient_over_tasks(scalar(params), tree(tasks), params, tasks=tasks, size=2, run=run)
        mean = torch.vmap(scalar(params))(tree(tasks)).mean()
        torch.testing.assert_close(total, mean.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[0], torch.autograd.grad(mean, params[0])[0], rtol=1e-12, atol=1e-12)


def test_a_piece_that_fails_says_so_and_restores_the_threads(threads: int) -> None:
    def picky(x: Tensor) -> Tensor:
        if float(x) == 3:
            raise ArithmeticError("three")
        return x

    with pytest.raises(ArithmeticError, match="three"):
        over_tasks(picky, torch.arange(6.0), tasks=6, size=1)
    assert torch.get_num_threads() == threads
    assert over_tasks(picky, torch.arange(3.0), tasks=3, size=1).tolist() == [0, 1, 2]
    assert torch.get_num_threads() == threads


def test_the_grad_mode_is_carried_into_the_threads(threads: int) -> None:
    weight = torch.randn(3, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(5, 3, generator=seeded(1), dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        modes.append(torch.is_grad_enabled())
        return (weight * x).sum().square()

    modes: list[bool] = []
    with torch.no_grad():
        assert not over_tasks(function, inputs, tasks=5, size=2).requires_grad
    assert modes == [False] * 3
    with torch.enable_grad():
        joined = over_tasks(function, inputs, tasks=5, size=2)
    assert joined.requires_grad and modes == [False] * 3 + [True] * 3
    found = torch.autograd.grad(joined.sum(), weight)[0]
    torch.testing.assert_close(found, 2 * inputs.T @ (inputs @ weight.detach()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tasks", [1, 6, 40])
@pytest.mark.parametrize("hidden", [(), (16,), (8, 512), (3000,)])
def test_a_piece_is_the_largest_that_fits(hidden: tuple[int, ...], tasks: int) -> None:
    params = gaussian_policy(hidden=hidden).initial()
    batch = make_batch(torch.zeros(tasks, 25, 10))
    size = piece_size(batch, params)

    def numbers(tasks: int) -> int:
        return tasks * 25 * 10 * max(2, *hidden) if hidden else tasks * 25 * 10 * 2

    assert size == 1 or (1 < size <= tasks and numbers(size) <= lifting.PIECE)
    assert size == tasks or numbers(size + 1) > lifting.PIECE


def test_a_piece_shrinks_with_width_length_and_episodes() -> None:
    def size(width: int, steps: int, episodes: int) -> int:
        return piece_size(make_batch(torch.zeros(1000, steps, episodes)), gaussian_policy(hidden=(width,)).initial())

    widths = [size(width, 5, 8) for width in (16, 64, 256, 1024)]
    assert widths == sorted(set(widths), reverse=True)
    assert size(64, 20, 8) < size(64, 5, 8) > size(64, 5, 32)
    assert size(64, 20, 8) == size(64, 5, 32)


@pytest.mark.parametrize("tasks", [3, 400])
def test_parameters_stacked_over_tasks_give_the_same_pieces(tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploring steps from stacked parameters, replay from shared ones: equal pieces give equal bits."""
    params = gaussian_policy(hidden=(8,)).initial()
    batch = make_batch(torch.zeros(tasks, 5, 4))
    monkeypatch.setattr(lifting, "PIECE", 40 * 5 * 4 * 8)
    assert piece_size(batch, expand(params, tasks)) == piece_size(batch, params) == min(tasks, 40)


def test_on_another_device_there_is_one_piece() -> None:
    params = gaussian_policy(hidden=(1024,)).initial()
    assert piece_size(make_batch(torch.zeros(40, 100, 2)), params) == 1
    assert piece_size(make_batch(torch.zeros(40, 100, 2, device="meta")), params) == 40


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_meta_gradient_in_pieces_equals_backward(
    steps: int, size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, trace = double_trace(lambda p: MetaSGD(p.initial(), initial=0.1), steps=steps)
    _, length, episodes = trace.query.reward.shape
    monkeypatch.setattr(lifting, "PIECE", size * length * episodes * 8)
    assert piece_size(trace.query, learner.policy.initial()) == size
    loss, gradient = meta_gradient(learner, trace)
    exact = meta_loss(learner, trace)
    exact.backward()
    torch.testing.assert_close(loss, exact.detach(), rtol=1e-12, atol=1e-12)
    for (name, p), found in zip(learner.named_parameters(), gradient, strict=True):
        assert (p.grad is None) == (steps == 0 and name.startswith("rule")), name
        torch.testing.assert_close(found, torch.zeros_like(p) if p.grad is None else p.grad, rtol=1e-10, atol=1e-14)


def answer_of_a_fork(function: Callable[[], bytes], timeout: float = 20.0) -> bytes:
    """What ``function`` gives in a forked copy of this process; nothing if it fails or does not come to an end."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            os.write(write, function())
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], timeout)
        return os.read(read, 100) if ready else b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    params = weights()

    def value() -> tuple[float, Recording]:
        run = Recording()
        return float(gradient_over_tasks(scalar(params), tree(), params, tasks=TASKS, size=1, run=run)[0]), run

    def in_child() -> bytes:
        number, run = value()
        return f"{number!r} {all(name.startswith('metarl') for name in run.threads)}".encode()

    here, run = value()  # the threads of this process are up
    assert all(name.startswith("metarl") for name in run.threads)
    for _ in range(20):  # what two threads of the copy do at once differs from time to time
        assert answer_of_a_fork(in_child).decode() == f"{here!r} True"


def test_nested_lifting_ends() -> None:
    """A piece that lifts again finds one thread an operation, and so does not wait for the threads it stands on."""
    torch.set_num_threads(2)
    table = torch.arange(12.0).reshape(4, 3)

    def row(x: Tensor) -> Tensor:
        return over_tasks(lambda y: y * 2, x, tasks=3, size=1)

    assert torch.equal(over_tasks(row, table, tasks=4, size=1), 2 * table)


def test_a_tree_is_cut_without_copies() -> None:
    pieces = []
    source = tree()

    def run(function: Callable[[Any], Any], piece: Any) -> Any:
        pieces.append(piece)
        return function(piece)

    torch.set_num_threads(1)
    over_tasks(nested, source, tasks=TASKS, size=3, run=run)
    starts = [leaf.data_ptr() for leaf in leaves_of(source)]
    assert [leaf.data_ptr() for leaf in leaves_of(pieces[0])] == starts
    assert isinstance(pieces[0]["more"][0], Pair)
    joined = map_leaves(lambda *leaves: torch.cat(leaves), *pieces)
    assert all(torch.equal(a, b) for a, b in zip(leaves_of(joined), leaves_of(source), strict=True))
