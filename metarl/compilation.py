"""Compiled programs: a function of tensors, traced once for every set of shapes and turned into machine code.

Tracing runs the function once on real tensors and keeps the tensor operations that were executed, with
gradients, ``vmap`` and Python already resolved; torch's compiler fuses and compiles what is left. A
compiled program therefore repeats exactly the operations of the plain path, up to rounding. What the
trace saw of Python is fixed: a function must not branch on the values of tensors.

Compiling takes seconds to half a minute a program, so nothing here is used unless asked for
(`Learner.compile`). It pays in long runs, in very wide rollouts, for many seeds, and on a GPU. What a process has
compiled on a CPU serves whatever else does the same operations: a second learner of the same make is only traced.
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

# sums of products rounded once, not twice: two thirds of the price of a polynomial
CPU_OPTIONS: Mapping[str, Any] = {"cpp_wrapper": True, "cpp.enable_floating_point_contract_flag": "fast"}
LOOKS_AT_VALUES = torch.ops.aten._linalg_check_errors.default  # a singular system: its NaN is met later all the same
ON_THE_HOST = {torch.ops.aten.linalg_matrix_exp.default}  # in part


def _biased(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """A product and the sum with its bias as two operations: the sum then joins what follows, and costs no copy.

    The extra axis keeps the compiler from fusing product and sum back into one call. A single row is multiplied within
    the compiled code, where calling for a product takes longer than doing it.
    """

    def apart(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Any:
        if not beta == alpha == 1.0:
            return NotImplemented  # stays what it was
        if left.shape[-2] == 1:
            return (right * left.mT).sum(-2, keepdim=True) + bias
        return (product(left, right).unsqueeze(0) + bias).squeeze(0)

    return apart


TANH_LIMIT = 8.0  # of a number in single precision beyond that, the tanh is within 3e-7 of 1
# best for the relative error on (0, TANH_LIMIT], which is 4e-8: found by linear programming; from the constant upwards
TANH_ABOVE = (0.9999999621188946, 0.1338098964480126, 0.0034941828251456, 2.0519437472479e-05, 1.3072094267244e-08)
TANH_BELOW = (1.0, 0.467143227859169, 0.0258752888619138, 0.0003280639562490597, 7.696539230331e-07)


def rational_tanh(x: Tensor) -> Any:
    """``x P(x²) / Q(x²)`` in single precision: within 3e-7 of tanh, at a third of the price of an exponential.

    By exponentials, tanh layers are a fifth to a third of a wide rollout.
    """
    if x.dtype != torch.float32:
        return NotImplemented
    x = x.clamp(-TANH_LIMIT, TANH_LIMIT)
    square = x * x
    return x * polynomial(square, TANH_ABOVE) / polynomial(square, TANH_BELOW)


def polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """``Σ c_i x^i`` by Horner's rule, for at least two coefficients."""
    *others, last = coefficients
    value = x * last + others[-1]
    for coefficient in others[-2::-1]:
        value = value * x + coefficient
    return value


def tracing() -> bool:
    """Whether a program is being traced just now: it will do some operations in its own way."""
    return get_proxy_mode() is not None


CPU_OPERATIONS = {
    torch.ops.aten.tanh.default: rational_tanh,
    torch.ops.aten.addmm.default: _biased(torch.mm),
    torch.ops.aten.baddbmm.default: _biased(torch.bmm),
}
"""What a program for a CPU does in the place of some operations."""


Run = Callable[..., list[Tensor]]

_MACHINE_CODE: dict[Hashable, Run] = {}
"""By operations, arguments and threads. Kept when its programs are gone: what a process has loaded stays loaded."""

_LOCK = threading.RLock()


def forget() -> None:
    """Compile anew from here on: to measure what compiling costs."""
    _MACHINE_CODE.clear()


class Program(NamedTuple):
    """A compiled function."""

    run: Run
    """from the tensors of its arguments, one after another, to those of its result"""
    structure: Any
    """of the result"""
    function: Callable[..., Any]
    """kept, so that objects named by identity in a key stay alive"""

    def shaped(self, results: Sequence[Tensor]) -> Any:
        """What `run` gave, nested as the function nests it."""
        values = iter(results)
        return map_leaves(lambda _: next(values), self.structure)


class Programs:
    """Compiled programs by what they do and by the shapes they were compiled for; safe to call from threads."""

    def __init__(self) -> None:
        """No programs yet."""
        self._programs: dict[Hashable, Program] = {}

    def __call__(self, key: tuple[Hashable, ...], function: Callable[..., Any], *trees: Any) -> Any:
        """``function(*trees)``, without a graph.

        Args:
            key: what the function does; two functions with one key must be interchangeable.
            function: of nested dicts and tuples of tensors, to the same. Tensors it closes over are read anew
                at every call, so they may change in place but must not be replaced.
            trees: its arguments.
        """
        program, leaves = self.find(key, function, *trees)
        with torch.no_grad():
            return program.shaped(program.run(*leaves))

    @torch.no_grad()
    def find(
        self, key: tuple[Hashable, ...], function: Callable[..., Any], *trees: Any
    ) -> tuple[Program, list[Tensor]]:
        """The program for arguments such as these, compiled if it is the first, and their tensors in its order."""
        leaves: list[Tensor] = []
        full = (key, _described(trees, leaves))
        program = self._programs.get(full)
        if program is None:
            with _LOCK:  # one thread compiles, the others wait for it
                program = self._programs.get(full) or _compile(function, trees, leaves)
                self._programs[full] = program
        return program, leaves

    def __len__(self) -> int:
        """How many programs have been compiled."""
        return len(self._programs)

    def __reduce__(self) -> tuple[type[Programs], tuple[()]]:
        """A copy is empty, pickled or not: programs belong to the objects they were traced with."""
        return Programs, ()


def _described(tree: Any, leaves: list[Tensor]) -> Hashable:
    """What a program depends on: names and nesting, and shapes, of the tensors, which are added to ``leaves``.

    In the order of `leaves_of`.
    """
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return tree.shape, tree.stride(), tree.dtype, tree.device
    if isinstance(tree, dict):
        return tuple([(name, _described(branch, leaves)) for name, branch in tree.items()])
    return tuple([_described(branch, leaves) for branch in tree])


def _compile(function: Callable[..., Any], trees: tuple[Any, ...], leaves: list[Tensor]) -> Program:
    structure: list[Any] = []

    def flat(*inputs: Tensor) -> list[Tensor]:
        values = iter(inputs)
        result = function(*map_leaves(lambda _: next(values), trees))
        structure.append(map_leaves(lambda _: torch.empty(0), result))
        return leaves_of(result)

    if leaves[0].device.type == "cpu":
        graph = make_fx(flat, CPU_OPERATIONS)(*leaves)
        closed_over = _lift(graph)
        compiled = _machine_code(graph, [*closed_over, *leaves])
        return Program(functools.partial(compiled, *closed_over), structure[0], function)
    graph = make_fx(flat)(*leaves)
    recorded = _recordable(graph)
    replayed = torch.compile(graph, dynamic=False, options={"triton.cudagraphs": recorded})
    # a replayed CUDA graph writes into the buffers of its last run: hand out copies
    return Program(lambda *inputs: [x.clone() for x in replayed(*inputs)], structure[0], function)


def _recordable(graph: GraphModule) -> bool:
    """Take out what would wait for a GPU while a graph of it is recorded; whether it can be recorded then."""
    for node in list(graph.graph.nodes):
        if node.target == LOOKS_AT_VALUES:
            graph.graph.erase_node(node)
    graph.recompile()
    return not any(node.target in ON_THE_HOST for node in graph.graph.nodes)


def _lift(graph: GraphModule) -> list[Tensor]:
    """Turn the tensors that a traced function closed over into arguments, before its own; returns them."""
    arguments: dict[str, Node] = {}
    first = next(iter(graph.graph.nodes))
    for node in list(graph.graph.nodes):
        node.meta.clear()  # what tracing noted of each result on its own does not fit together
        if node.op == "get_attr" and isinstance(getattr(graph, node.target), Tensor):
            if node.target not in arguments:
                with graph.graph.inserting_before(first):
                    arguments[node.target] = graph.graph.placeholder(node.target)
            node.replace_all_uses_with(arguments[node.target])
            graph.graph.erase_node(node)
    graph.recompile()
    return [getattr(graph, name) for name in arguments]


def _machine_code(graph: GraphModule, inputs: list[Tensor]) -> Run:
    """A traced function of nothing but its arguments, compiled unless the same operations on such tensors have been."""
    text = graph.print_readable(print_output=False)  # with the functions that it holds, if any
    key = text, _described(inputs, []), torch.get_num_threads()
    if key not in _MACHINE_CODE:
        # without the guards of `torch.compile`, which take 0.1 ms a call: the key says what they would
        compiled = torch._inductor.compile(graph, [*inputs], options=dict(CPU_OPTIONS))
        compiled(*inputs)  # compile now, under the lock
        _MACHINE_CODE[key] = compiled
    return _MACHINE_CODE[key]
