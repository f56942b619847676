"""Compiled programs give the results of the plain path. Compiling takes seconds, so tests share few programs."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from envs import CartPole, Navigation
from metarl import (
    MLP,
    Batch,
    Descent,
    GaussianPolicy,
    Learner,
    Plan,
    Reptile,
    collect,
    explore,
    lvc,
    rollouts,
    vpg,
)
from metarl import compilation as compilation_module
from metarl.compilation import TANH_ABOVE, TANH_BELOW, TANH_LIMIT, Programs, polynomial
from metarl.optimizers import MetaOptimizer
from metarl.optimizers.base import meta_gradient
from metarl.rules import MetaSGD
from metarl.trees import leaves_of, map_leaves
from metarl.types import Trace
from tests.helpers import categorical_policy, gaussian_policy, randomize, seeded

pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"),
    # the compiler's own imports warn of torch's own deprecations
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Closure:
    """A function of nested trees that reads a parameter, and a gradient and a ``vmap`` within."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.randn(3, generator=seeded(0)))
        self.calls = 0  # how often Python ran it

    def __call__(self, tree: dict[str, Any], pair: Pair) -> dict[str, Any]:
        self.calls += 1

        def energy(x: Tensor) -> Tensor:
            return (self.weight * x).tanh().square().sum()

        slope = torch.vmap(torch.func.grad(energy))(tree["x"])
        return {"slope": slope, "rest": (Pair(tree["inner"][0].exp() - pair.left, slope.sum(-1) * pair.right),)}


def arguments(rows: int, seed: int = 1) -> tuple[dict[str, Any], Pair]:
    generator = seeded(seed)
    x, y, z, w = (torch.randn(rows, *s, generator=generator) for s in ((3,), (2,), (2,), ()))
    return {"x": x, "inner": (y,)}, Pair(z, w)


def assert_near(found: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    for a, b in zip(leaves_of(found), leaves_of(expected), strict=True):
        assert a.dtype == b.dtype and not a.requires_grad
        torch.testing.assert_close(a, b.detach(), rtol=rtol, atol=atol)


@pytest.fixture(scope="module")
def compiled() -> tuple[Programs, Closure]:
    """A function and the programs it was compiled into: one, for two rows."""
    programs, function = Programs(), Closure()
    programs(("closure",), function, *arguments(2))
    return programs, function


def test_a_program_gives_what_its_function_gives(compiled: tuple[Programs, Closure]) -> None:
    programs, function = compiled
    for seed in (1, 2):
        given = arguments(2, seed)
        before = [leaf.clone() for leaf in leaves_of(given)]
        result = programs(("closure",), function, *given)
        assert list(result) == ["slope", "rest"] and isinstance(result["rest"][0], Pair)
        assert_near(result, function(*given))
        assert all(torch.equal(leaf, old) for leaf, old in zip(leaves_of(given), before, strict=True))


@pytest.mark.parametrize("count", [7, 1])
def test_products_with_a_bias_in_a_program(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, real = [], torch._inductor.compile
    monkeypatch.setattr(
        torch._inductor, "compile", lambda graph, *a, **k: (graphs.append(graph), real(graph, *a, **k))[1]
    )
    monkeypatch.setattr(compilation_module, "_MACHINE_CODE", {})

    def layers(bias: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        plain, scaled = torch.addmm(bias, rows, weight), torch.addmm(bias, rows, weight, beta=0.5, alpha=-2.0)
        stacked, batched = (x.expand(3, *x.shape) for x in (bias.unsqueeze(0), rows))
        return plain.tanh(), scaled, torch.baddbmm(stacked, batched, weight.expand(3, -1, -1)).relu()

    generator = seeded(0)
    given = [torch.randn(shape, generator=generator) for shape in ((5,), (count, 2), (2, 5))]
    assert_near(Programs()(("layers",), layers, *given), layers(*given), rtol=1e-5)
    called = {node.target for node in graphs[0].graph.nodes} & {torch.ops.aten.mm.default, torch.ops.aten.bmm.default}
    assert len(called) == (0 if count == 1 else 2)  # one row is multiplied within the program


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 4e-7), (torch.float64, 4e-16)])
def test_tanh_in_a_program(dtype: torch.dtype, close: float) -> None:
    given = torch.cat([torch.logspace(-8, 2, 500, dtype=dtype), torch.linspace(7.5, 8.5, 500, dtype=dtype)])
    given = torch.cat([given, torch.linspace(6.0, 6.3, 10_000, dtype=dtype)])  # where rounding adds most
    given = torch.cat([given, torch.tensor([0.0, float("inf"), float("nan")], dtype=dtype)])
    programs = Programs()
    for x in (given, -given):
        found, exact = programs(("tanh",), torch.tanh, x).double(), x.double().tanh()
        torch.testing.assert_close(found, exact, rtol=close, atol=0.0, equal_nan=True)
        assert not bool((found.abs() > 1.0).any())
    inside = given[given < TANH_LIMIT].double()  # without what rounding adds
    quotient = inside * polynomial(inside.square(), TANH_ABOVE) / polynomial(inside.square(), TANH_BELOW)
    torch.testing.assert_close(quotient, inside.tanh(), rtol=4e-8, atol=0.0)


def test_a_parameter_changed_in_place_is_seen(compiled: tuple[Programs, Closure]) -> None:
    programs, function = compiled
    old = programs(("closure",), function, *arguments(2))
    with torch.no_grad():
        function.weight.mul_(-0.5).add_(0.3)
    new = programs(("closure",), function, *arguments(2))
    assert_near(new, function(*arguments(2)))
    assert float((new["slope"] - old["slope"]).abs().max()) > 0.1


def test_two_results_do_not_share_memory(compiled: tuple[Programs, Closure]) -> None:
    programs, function = compiled
    one = programs(("closure",), function, *arguments(2, 1))
    kept = [leaf.clone() for leaf in leaves_of(one)]
    programs(("closure",), function, *arguments(2, 2))
    assert all(torch.equal(leaf, old) for leaf, old in zip(leaves_of(one), kept, strict=True))


def test_the_same_shapes_are_compiled_once_and_others_again(compiled: tuple[Programs, Closure]) -> None:
    programs, function = compiled
    count, calls = len(programs), function.calls
    assert count >= 1
    for rows, more in ((2, 0), (5, 1), (2, 1), (5, 1)):
        result = programs(("closure",), function, *arguments(rows))
        assert len(programs) == count + more
        assert function.calls == calls + more  # Python runs it to trace it, and never again
        assert_near(result, function(*arguments(rows)))
        function.calls -= 1


def test_another_key_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    programs, x = Programs(), torch.arange(3.0)
    assert programs(("twice", 0), lambda x: (2 * x,), x)[0].tolist() == [0.0, 2.0, 4.0]
    assert programs(("twice", 1), lambda x: (3 * x,), x)[0].tolist() == [0.0, 3.0, 6.0]
    assert programs(("twice", 0), lambda x: (4 * x,), x)[0].tolist() == [0.0, 2.0, 4.0]
    assert programs(("twice", 0), lambda x: (4 * x,), x.double())[0].dtype == torch.float64
    assert len(programs) == 3


def test_names_in_another_order_are_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)
    programs, one, two = Programs(), torch.tensor([5.0]), torch.tensor([3.0])

    def less(tree: dict[str, Any]) -> tuple[Tensor]:
        return (tree["a"] - tree["b"],)

    for tree in ({"a": one, "b": two}, {"b": two, "a": one}, {"a": one, "b": two}):
        assert programs(("less",), less, tree)[0].item() == 2.0
    nested: Any = {"a": {"b": one}}, {"a": one}  # as many tensors of the same shapes
    found = [list(programs(("same",), lambda tree: tree, tree)) for tree in (nested[0], {"b": one}, nested[1])]
    assert found == [["a"], ["b"], ["a"]] and len(programs) == 5


def test_the_same_operations_are_compiled_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    compiles, real = [], torch._inductor.compile

    def counting(*args: Any, **kwargs: Any) -> Any:
        compiles.append(args[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(torch._inductor, "compile", counting)
    monkeypatch.setattr(compilation_module, "_MACHINE_CODE", {})

    def one(weight: Tensor, power: float) -> Callable[[Tensor], tuple[Tensor]]:
        return lambda x: ((weight * x - weight).pow(power),)

    x, weights = torch.arange(3.0), [torch.nn.Parameter(torch.full((3,), value)) for value in (2.0, 5.0)]
    functions = [one(weight, power) for weight in weights for power in (2.0, 3.0)]
    everything = [Programs() for _ in functions]
    for _ in range(2):
        for programs, function in zip(everything, functions, strict=True):
            assert_near(programs(("power",), function, x), function(x))  # every weight is seen where it belongs,
        for weight in weights:
            weight.data.mul_(1.5)  # changed in place, too
    assert len(compiles) == 2 and all(len(programs) == 1 for programs in everything)
    assert all(node.op != "get_attr" for graph in compiles for node in graph.graph.nodes)
    wide = torch.nn.Parameter(torch.ones(2, 3))  # the same operations on other shapes
    assert_near(Programs()(("power",), one(wide, 2.0), x), one(wide, 2.0)(x))
    assert len(compiles) == 3
    compilation_module.forget()
    Programs()(("power",), one(wide, 2.0), x)
    assert len(compiles) == 4


def test_two_threads_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, compiles, meeting = compilation_module._compile, [], threading.Barrier(2, timeout=60)

    def counting(*args: Any) -> Any:
        compiles.append(threading.get_ident())
        return real(*args)

    monkeypatch.setattr(compilation_module, "_compile", counting)
    programs, given = Programs(), torch.arange(3.0)

    def work(shift: float) -> Any:
        meeting.wait()
        return programs(("sine",), lambda x: (x.sin(), x + 1), given + shift)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, (0.0, 0.5)))
    assert len(compiles) == len(programs) == 1
    for shift, result in zip((0.0, 0.5), results, strict=True):
        assert_near(result, ((given + shift).sin(), given + shift + 1))


def test_a_function_that_fails_leaves_no_program() -> None:
    def broken(x: Tensor) -> tuple[Tensor]:
        raise ArithmeticError("broken")

    programs = Programs()
    for _ in range(2):  # the second time as well: the lock is free
        with pytest.raises(ArithmeticError, match="broken"):
            programs(("broken",), broken, torch.ones(2))
    assert len(programs) == 0


def test_copies_of_programs_are_empty(compiled: tuple[Programs, Closure]) -> None:
    programs, _ = compiled
    count = len(programs)
    assert count > 0
    for other in (copy.deepcopy(programs), copy.copy(programs), pickle.loads(pickle.dumps(programs))):
        assert isinstance(other, Programs) and other is not programs and len(other) == 0
    assert len(programs) == count


def test_what_waits_for_a_gpu_is_not_recorded() -> None:
    """Where a linear system is solved, a look at whether it could be; a matrix exponential is partly the host's."""
    matrix = torch.randn(3, 3, generator=seeded(0)) + 3.0 * torch.eye(3)

    def solved(a: Tensor) -> list[Tensor]:
        return [torch.linalg.solve(a, a.sum(1)), torch.linalg.cholesky(a @ a.mT)]

    graph = make_fx(solved)(matrix)
    looks = [node for node in graph.graph.nodes if node.target == compilation_module.LOOKS_AT_VALUES]
    assert looks and compilation_module._recordable(graph)
    assert not any(node.target == compilation_module.LOOKS_AT_VALUES for node in graph.graph.nodes)
    assert_near(graph(matrix), solved(matrix))
    assert not compilation_module._recordable(make_fx(lambda a: [torch.matrix_exp(a)])(matrix))


# A whole learner, plain and compiled.

FAMILY = Navigation(horizon=3, box=0.25)  # some episodes end early
PLAN = Plan(tasks=3, episodes=4, query_episodes=4, steps=1)


def make_learner(hidden: Sequence[int] = (4,)) -> Learner:
    policy = gaussian_policy(hidden=hidden)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=vpg, outer=vpg)
    randomize(learner, 1, 0.02)
    return learner


@pytest.fixture(scope="module")
def shared() -> Learner:
    """A learner whose programs several tests use; they start from `fresh` parameters."""
    learner = make_learner()
    learner.compile()
    return learner


def fresh(shared: Learner) -> Learner:
    """The compiled learner, at the parameters of a new plain one."""
    shared.load_state_dict(make_learner().state_dict())
    return shared


def iterate(learner: Learner, optimizer: MetaOptimizer, steps: Sequence[int]) -> list[tuple[Trace, Any]]:
    generator, task_generator, found = seeded(2), seeded(3), []
    for count in steps:
        plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=count)
        trace = explore(learner, FAMILY, FAMILY.sample(3, generator=task_generator), plan, generator=generator)
        found.append((trace, optimizer.step(learner, trace)))
    return found


def everywhere(trace: Trace) -> Trace:
    """Without the lists of live steps, which only plain rollouts make."""

    def without(batch: Batch) -> Batch:
        return batch._replace(live=batch.live[:, :0])

    return trace._replace(support=tuple(map(without, trace.support)), query=without(trace.query))


def descent(learner: Learner) -> MetaOptimizer:
    return Descent(learner, lr=0.5, optimizer=torch.optim.SGD)  # proportional to the gradient, unlike Adam


@pytest.mark.parametrize(
    ("make", "steps"),
    [(descent, (1, 1, 2)), (lambda learner: Reptile(step_size=0.5), (1, 1))],
    ids=["descent", "reptile"],
)
def test_meta_training_with_programs_equals_without(
    shared: Learner, make: Callable[[Learner], MetaOptimizer], steps: tuple[int, ...]
) -> None:
    plain, learner = make_learner(), fresh(shared)
    start = [p.detach().clone() for p in plain.parameters()]
    expected, found = iterate(plain, make(plain), steps), iterate(learner, make(learner), steps)
    for (trace, metrics), (same, others) in zip(expected, found, strict=True):
        assert bool((trace.query.mask == 0).any()) and bool((trace.query.mask == 1).any())
        assert_near(everywhere(same), everywhere(trace), rtol=1e-4, atol=1e-5)
        assert others == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    moved = 0.0
    for p, q, old in zip(plain.parameters(), learner.parameters(), start, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-5)
        moved = max(moved, float((p - old).detach().abs().max()))
    assert moved > 1e-2
    count = len(shared.programs or ())
    iterate(learner, make(learner), steps[-1:])
    assert len(shared.programs or ()) == count > 0  # nothing is left to compile


def test_a_second_learner_of_the_same_make_is_not_compiled(shared: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate(fresh(shared), descent(shared), (1,))  # whatever was left to compile

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch._inductor, "compile", refused)
    plain, learner = make_learner(), make_learner()
    for one in (plain, learner):
        randomize(one, 5, 0.02)
    learner.compile()
    expected, found = (iterate(one, descent(one), (1, 1)) for one in (plain, learner))
    for (trace, metrics), (same, others) in zip(expected, found, strict=True):
        assert_near(everywhere(same), everywhere(trace), rtol=1e-4, atol=1e-5)
        assert others == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    other = make_learner()
    other.inner = lvc
    other.compile()
    with pytest.raises(AssertionError, match="compiled"):
        iterate(other, descent(other), (1,))


def test_a_copy_of_a_compiled_learner_works_and_compiles_its_own(shared: Learner) -> None:
    learner = fresh(shared)
    trace = explore(learner, FAMILY, FAMILY.sample(3, generator=seeded(3)), PLAN, generator=seeded(2))
    count = len(learner.programs or ())
    stored = io.BytesIO()
    pickle.dump(learner, stored)
    stored.seek(0)
    for other in (copy.deepcopy(learner), pickle.load(stored)):
        assert isinstance(other.programs, Programs) and len(other.programs) == 0
    with torch.no_grad():
        other = copy.deepcopy(learner)
        for p in other.parameters():
            p.add_(0.1)
    roll = {"family": FAMILY, "task": FAMILY.sample(3, generator=seeded(3)), "episodes": 4}
    found = [
        collect(one.policy, one.policy.initial(), **roll, generator=seeded(2), programs=one.programs)
        for one in (learner, other)
    ]
    plain = collect(other.policy, other.policy.initial(), **roll, generator=seeded(2))
    assert_near(found[1], plain, rtol=1e-5, atol=1e-6)  # with its own parameters,
    assert_near(found[0], trace.support[0]._replace(advantage=found[0].advantage, value=found[0].value))
    assert not torch.allclose(found[0].action, found[1].action)
    assert len(learner.programs or ()) == count and len(other.programs) == 1  # and its own program


# Rollouts.


def trimmed(batch: Batch, steps: int) -> Batch:
    """The first steps ``[T, H, N, ...]`` of a batch; beyond there must be padding only."""
    assert not any(bool(x[:, steps:].any()) for x in (batch.mask, batch.reward, batch.action, batch.observation))

    def cut(x: Any) -> Any:
        return x[:, :steps] if isinstance(x, Tensor) else type(x)(*(leaf[:, :steps] for leaf in x))

    return Batch(*(x if name == "last_observation" else cut(x) for name, x in zip(Batch._fields, batch, strict=True)))


@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_a_compiled_rollout_equals_a_plain_one(name: str, monkeypatch: pytest.MonkeyPatch, shared: Learner) -> None:
    family: Any = FAMILY
    policy, programs = fresh(shared).policy, shared.programs
    if name == "cartpole":
        monkeypatch.setattr(rollouts, "BLOCK", 3)  # a small program, run several times
        family = CartPole(horizon=15, half_length=0.05)  # falls within a few steps
        policy, programs = categorical_policy(hidden=(4,)), Programs()
        randomize(policy, 0, 0.5)
    task = family.sample(3, generator=seeded(0))
    for seed in (1, 3):
        args = policy, policy.initial(), family, task, 4
        first, second = seeded(seed), seeded(seed)
        plain = collect(*args, generator=first)
        batch = collect(*args, generator=second, programs=programs)
        assert torch.equal(first.get_state(), second.get_state())
        steps = plain.reward.shape[1]
        assert batch.reward.shape[1] == family.horizon  # to the end, whether or not anybody is left
        assert bool((plain.mask == 0).any()) and plain.terminated.any()
        same = trimmed(batch, steps), plain._replace(live=batch.live)  # which programs do not list
        for one, other in zip(*map(leaves_of, same), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if name == "cartpole":
        assert steps < family.horizon and len(programs or ()) == 1


class Otherwise:
    """A family whose first states share memory, which those that follow do not."""

    def __init__(self, family: Any) -> None:
        self.family = family

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        return {name: value[:, :1].expand_as(value) for name, value in self.family.reset(*args, **kwargs).items()}


@pytest.mark.parametrize(
    ("horizon", "otherwise", "programs"), [(8, False, 1), (7, False, 2), (7, True, 3), (2, True, 1)]
)
def test_a_program_that_goes_on_from_its_own_results_is_not_looked_up_again(
    monkeypatch: pytest.MonkeyPatch, horizon: int, otherwise: bool, programs: int
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    monkeypatch.setattr(rollouts, "BLOCK", 2)
    family: Any = CartPole(horizon, half_length=0.05)
    family = Otherwise(family) if otherwise else family
    policy, found, looks = categorical_policy(hidden=(4,)), Programs(), []
    real = found.find
    monkeypatch.setattr(found, "find", lambda *args: looks.append(1) or real(*args))
    task = family.sample(3, generator=seeded(0))
    batch = collect(policy, policy.initial(), family, task, 4, generator=seeded(1), programs=found)
    plain = collect(policy, policy.initial(), family, task, 4, generator=seeded(1))
    for one, other in zip(leaves_of(trimmed(batch, plain.reward.shape[1])), leaves_of(plain), strict=True):
        torch.testing.assert_close(one, other if other.dtype != torch.int64 or other.dim() > 2 else one)
    assert len(found) == programs
    assert len(looks) == {(8, False): 2, (7, False): 3, (7, True): 4, (2, True): 1}[horizon, otherwise]


@pytest.mark.parametrize(("episodes", "steps"), [(1, 4), (2, 2)])
def test_a_program_for_a_single_row_takes_more_steps(
    monkeypatch: pytest.MonkeyPatch, episodes: int, steps: int
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    monkeypatch.setattr(rollouts, "BLOCK", 2)
    family, policy, found = CartPole(horizon=6), categorical_policy(hidden=(4,)), Programs()
    taken, real = [], found.find
    monkeypatch.setattr(found, "find", lambda *args: taken.append(len(args[-1])) or real(*args))
    task = family.sample(1, generator=seeded(0))
    batch = collect(policy, policy.initial(), family, task, episodes, generator=seeded(1), programs=found)
    plain = collect(policy, policy.initial(), family, task, episodes, generator=seeded(1))
    assert taken[0] == steps
    assert plain.reward.shape[1] == batch.reward.shape[1] == family.horizon
    for one, other in zip(*map(leaves_of, (batch, plain._replace(live=batch.live))), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["shared", "stacked"])
def test_a_compiled_rollout_in_pieces_equals_a_plain_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "ROWS", range(5, 9))
    monkeypatch.setattr(rollouts, "BLOCK", 3)
    family, policy, programs = CartPole(horizon=6, half_length=0.05), categorical_policy(hidden=(4,)), Programs()
    randomize(policy, 0, 0.5)
    task, params = family.sample(6, generator=seeded(0)), policy.initial()
    if kind == "stacked":
        params = map_leaves(lambda p: p.detach() * torch.linspace(0.5, 2.0, 6).reshape(6, *[1] * p.dim()), params)
    plain = collect(policy, params, family, task, 4, generator=seeded(1))
    batch = collect(policy, params, family, task, 4, generator=seeded(1), programs=programs)
    for one, other in zip(*map(leaves_of, (batch, plain._replace(live=batch.live))), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert len(programs) == 1  # of three steps of two tasks: for both halves of all three pieces


def test_a_rollout_does_not_depend_on_the_order_of_a_tasks_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    policy, programs, task = gaussian_policy(hidden=(4,)), Programs(), FAMILY.sample(3, generator=seeded(0))
    reversed_order = dict(reversed(task.items()))
    assert list(reversed_order) != list(task)
    plain = collect(policy, policy.initial(), FAMILY, task, 4, generator=seeded(1))
    for given in (task, reversed_order, task):
        batch = collect(policy, policy.initial(), FAMILY, given, 4, generator=seeded(1), programs=programs)
        assert_near(batch, plain._replace(live=batch.live), rtol=1e-5, atol=1e-5)


def test_policies_families_and_ways_to_act_share_programs_and_get_their_own_rollouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    networks = [MLP(2, (4,), 2, activation=f, head_gain=1.0, generator=seeded(0)) for f in (torch.tanh, torch.sin)]
    one, two = (GaussianPolicy(network, 2) for network in networks)
    for policy in (one, two):
        randomize(policy, 1)
    near, far = Navigation(horizon=3), Navigation(horizon=3, action="raw")
    cases: list[tuple[Any, Any, Any]] = [(one, near, "sample"), (two, near, "sample"), (one, far, "sample")]
    cases.append((one, near, "mode"))
    programs, task, seen = Programs(), FAMILY.sample(3, generator=seeded(0)), []
    for policy, family, act in cases:
        plain, found = (
            collect(policy, policy.initial(), family, task, 4, generator=seeded(1), act=act, programs=given)
            for given in (None, programs)
        )
        assert_near(found, plain._replace(live=found.live), rtol=1e-5, atol=1e-5)
        seen.append(plain.action)
    assert len(programs) == 4
    assert not any(torch.equal(*pair) for pair in itertools.combinations(seen, 2))


@pytest.mark.parametrize("part", ["policy.network", "rule.rates"])
def test_what_is_frozen_after_compiling_has_no_gradient_and_the_rest_its_own(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    learner, programs, gradients = make_learner(hidden=(4, 4)), Programs(), []
    trace = everywhere(explore(learner, FAMILY, FAMILY.sample(3, generator=seeded(3)), PLAN, generator=seeded(2)))
    for layer in "01":
        for name, p in learner.named_parameters():
            p.requires_grad_(not (name.startswith(part) and layer in name and name.endswith("bias")))
        learner.programs = None
        expected = meta_gradient(learner, trace)
        learner.programs = programs
        found = meta_gradient(learner, trace)
        assert_near(found, expected, rtol=1e-5, atol=1e-6)
        gradients.append(found[1])
    assert len(programs) == 2 and len(gradients[0]) == len(list(learner.parameters())) - 1
    assert any(not torch.allclose(one, other) for one, other in zip(*gradients, strict=True))


def test_pieces_of_a_compiled_rollout_are_of_one_size_and_worth_it() -> None:
    cases = {
        (16384, 1): 4096,
        (1000, 20): 200,
        (4096, 1): 2048,
        (20, 20): 20,
        (5003, 1): 5003,
        (2, 5000): 2,
        (4, 4000): 1,
    }
    assert {case: rollouts._piece_size(*case) for case in cases} == cases
