"""Compiled programs: functions of tensors, traced and compiled once for every set of shapes.

Tracing runs the function once on real tensors and records the tensor operations that are executed; gradients,
``vmap`` and Python code are already resolved in this record. torch's compiler then fuses and compiles it. A compiled
program therefore repeats the operations of the uncompiled function exactly, up to rounding. Python control flow is
fixed at tracing time: a function must not branch on the values of tensors.

Compiling takes from seconds to half a minute per program, and is therefore used only on request (`Learner.compile`).
It pays off in long runs, in very wide rollouts, for many seeds, and on a GPU. On a CPU, compiled code is shared within
a process by all programs with the same operations: a second learner of the same architecture only has to be traced.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from metarl.trees import leaves_of, map_leaves

# "fast" allows fused multiply-add, which reduces the cost of a polynomial to two thirds
CPU_OPTIONS: Mapping[str, Any] = {"cpp_wrapper": True, "cpp.enable_floating_point_contract_flag": "fast"}
# For programs of few numbers, such as rollouts of a single row, which spend most of their time waiting for threads and
# allocating memory: one thread, and intermediate results on the stack. torch's compiler uses the stack only in programs
# that call no external products. Results are then copied, which does not pay off if they are many.
SMALL_OPTIONS: Mapping[str, Any] = {"aot_inductor.allow_stack_allocation": True, "cpp.threads": 1}
SMALL_RESULTS = 2**9  # numbers that such a program may return
PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default}  # external calls
LOOKS_AT_VALUES = torch.ops.aten._linalg_check_errors.default  # not needed: the NaN of a singular system shows later
ON_THE_HOST = {torch.ops.aten.linalg_matrix_exp.default}  # runs partly on the host, so it cannot be recorded


def _biased(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Split a matrix product with bias into two operations, so that the sum is fused with what follows, without a copy.

    The extra axis keeps the compiler from fusing product and sum again. For a single row the product is written out in
    the compiled code, because a call to a matrix product would take longer than the computation itself.
    """

    def apart(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
        if not beta == alpha == 1.0:
            return NotImplemented  # leave the operation as it is
        if left.shape[-2] == 1:
            return (right * left.mT).sum(-2, keepdim=True) + bias
        return (product(left, right).unsqueeze(0) + bias).squeeze(0)

    return apart


TANH_LIMIT = 8.0  # beyond it, tanh is within 3e-7 of 1 in single precision
# coefficients in ascending order, by linear programming; they minimise the relative error (4e-8) on (0, TANH_LIMIT]
TANH_ABOVE = (0.9999999621188946, 0.1338098964480126, 0.0034941828251456, 2.0519437472479e-05, 1.3072094267244e-08)
TANH_BELOW = (1.0, 0.467143227859169, 0.0258752888619138, 0.0003280639562490597, 7.696539230331e-07)


def rational_tanh(x: Tensor) -> Any:
    """Return ``x P(x²) / Q(x²)`` in single precision: within 4e-7 of tanh, at a third of the cost of an exponential.

    Computed by exponentials, tanh layers would take a fifth to a third of the time of a wide rollout.
    """
    if x.dtype != torch.float32:
        return NotImplemented
    x = x.clamp(-TANH_LIMIT, TANH_LIMIT)
    square = x * x
    return x * polynomial(square, TANH_ABOVE) / polynomial(square, TANH_BELOW)


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return ``Σ c_i x^i`` by Horner's rule, for at least two coefficients."""
    *others, last = coefficients
    value = x * last + others[-1]
    for coefficient in others[-2::-1]:
        value = value * x + coefficient
    return value


def tracing() -> bool:
    """Return whether a program is being traced; it replaces some operations by faster ones."""
    return get_proxy_mode() is not None


CPU_OPERATIONS = {
    torch.ops.aten.tanh.default: rational_tanh,
    torch.ops.aten.addmm.default: _biased(torch.mm),
    torch.ops.aten.baddbmm.default: _biased(torch.bmm),
}
"""Replacements for some operations in programs for a CPU."""


Run = Callable[..., list[Tensor]]

_MACHINE_CODE: dict[Hashable, Run] = {}
"""Compiled code by operations, arguments and number of threads. Never removed, as a process cannot unload it anyway."""

_LOCK = threading.RLock()


def forget() -> None:
    """Drop all compiled code, so that everything is compiled again; used to measure the cost of compiling."""
    _MACHINE_CODE.clear()


class Program(NamedTuple):
    """A compiled function."""

    run: Run
    """maps the flat list of the arguments' tensors to that of the result's"""
    structure: Any
    """nesting of the result"""
    function: Callable[..., Any]
    """kept so that objects that a key identifies by ``id`` stay alive"""

    def shaped(self, results: Sequence[Tensor]) -> Any:
        """Return the results of `run`, nested like the result of the original function."""
        values = iter(results)
        return map_leaves(lambda _: next(values), self.structure)


class Programs:
    """A cache of compiled programs, by key and by the shapes they were compiled for; thread-safe."""

    def __init__(self) -> None:
        """Create an empty cache."""
        self._programs: dict[Hashable, Program] = {}

    def __call__(self, key: tuple[Hashable, ...], function: Callable[..., Any], *trees: Any) -> Any:
        """Return ``function(*trees)``, without a graph, compiling the function first if necessary.

        Args:
            key: identifies what the function does; functions with the same key must be interchangeable.
            function: maps nested dicts and tuples of tensors to the same. Tensors that it closes over are read anew
                at every call, so they may change in place, but must not be replaced by other tensors.
            trees: its arguments.
        """
        program, leaves = self.find(key, function, *trees)
        with torch.no_grad():
            return program.shaped(program.run(*leaves))

    @torch.no_grad()
    def find(
        self, key: tuple[Hashable, ...], function: Callable[..., Any], *trees: Any
    ) -> tuple[Program, list[Tensor]]:
        """Return the program for arguments like these, compiled if it is new, and their tensors in its order."""
        leaves: list[Tensor] = []
        full = (key, _described(trees, leaves))
        program = self._programs.get(full)
        if program is None:
            with _LOCK:  # one thread compiles, the others wait
                program = self._programs.get(full) or _compile(function, trees, leaves)
                self._programs[full] = program
        return program, leaves

    def __len__(self) -> int:
        """Return the number of programs."""
        return len(self._programs)

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        """Copy or pickle as an empty cache, because programs belong to the objects they were traced with."""
        return Programs, ()


def _described(tree: Any, leaves: list[Tensor]) -> Hashable:
    """Return what a program depends on: the names, nesting, shapes, strides, dtypes and devices of the tensors.

    Also append the tensors to ``leaves``, in the order of `leaves_of`.
    """
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, dict):
        return tuple([(name, _described(branch, leaves)) for name, branch in tree.items()])
    return tuple([_described(branch, leaves) for branch in tree])


def _compile(function: Callable[..., Any], trees: tuple[Any, ...], leaves: list[Tensor]) -> Program:
    structure: list[Any] = []
    counts: list[int] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        values = iter(inputs)
        result = function(*map_leaves(lambda _: next(values), trees))
        structure.append(map_leaves(lambda _: torch.empty(0), result))
        counts.append(sum(leaf.numel() for leaf in leaves_of(result)))
        return leaves_of(result)

    if leaves[0].device.type == "cpu":
        graph = make_fx(flat, CPU_OPERATIONS)(*leaves)
        closed_over = _lift(graph)
        compiled = _machine_code(graph, [*closed_over, *leaves], counts[0])
        return Program(functools.partial(compiled, *closed_over), structure[0], function)
    graph = make_fx(flat)(*leaves)
    recorded = _recordable(graph)
    replayed = torch.compile(graph, dynamic=False, options={"triton.cudagraphs": recorded})
    # a replayed CUDA graph overwrites the results of its last run: return copies
    return Program(lambda *inputs: [x.clone() for x in replayed(*inputs)], structure[0], function)


def _recordable(graph: GraphModule) -> bool:
    """Remove operations that synchronise with a GPU, and return whether the rest can be recorded as a CUDA graph."""
    for node in list(graph.graph.nodes):
        if node.target == LOOKS_AT_VALUES:
            graph.graph.erase_node(node)
    graph.recompile()
    return not any(node.target in ON_THE_HOST for node in graph.graph.nodes)


def _lift(graph: GraphModule) -> list[Tensor]:
    """Turn the tensors that a traced function closed over into arguments, before its own, and return them."""
    arguments: dict[str, Node] = {}
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        node.meta.clear()  # tracing's metadata of the single results is inconsistent
        if node.op == "get_attr" and isinstance(getattr(graph, node.target), Tensor):
            if node.target not in arguments:
                with graph.graph.inserting_before(first):
                    arguments[node.target] = graph.graph.placeholder(node.target)
            node.replace_all_uses_with(arguments[node.target])
            graph.graph.erase_node(node)
    graph.recompile()
    return [getattr(graph, name) for name in arguments]


def _machine_code(graph: GraphModule, inputs: list[Tensor], results: int) -> Run:
    """Compile a traced function without closed-over tensors, unless the same operations were compiled before.

    It returns as many numbers as ``results`` says.
    """
    text = graph.print_readable(print_output=False)  # includes nested functions, if any
    key = text, _described(inputs, []), torch.get_num_threads()
    if key not in _MACHINE_CODE:
        small = results <= SMALL_RESULTS and not any(node.target in PRODUCTS for node in graph.graph.nodes)
        options = {**CPU_OPTIONS, **(SMALL_OPTIONS if small else {})}
        # without the guards of `torch.compile`, which take 0.1 ms per call: the key already covers what they check
        compiled = torch._inductor.compile(graph, [*inputs], options=options)
        _MACHINE_CODE[key] = _with_own_results(compiled, inputs)
    return _MACHINE_CODE[key]


def _with_own_results(compiled: Run, inputs: list[Tensor]) -> Run:
    """Make a compiled function return tensors that later calls do not overwrite.

    Programs that compute on the stack return the same memory in every call of a thread. The first call compiles, which
    the caller's lock protects.
    """
    first, second = compiled(*inputs), compiled(*inputs)
    reused = [one.data_ptr() == other.data_ptr() for one, other in zip(first, second, strict=True)]
    if not any(reused):
        return compiled

    def run(*given: Tensor) -> list[Tensor]:
        return [x.clone() if again else x for x, again in zip(compiled(*given), reused, strict=True)]

    return run
