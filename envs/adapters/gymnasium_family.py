"""Any Gymnasium environment as a family with named constants and their ranges.

The family protocol is functional: ``step`` takes a state and returns the next one. A Gymnasium environment is an
object that keeps its own state. Here the state of an episode is therefore a ticket, consisting of its row number and
its step number, and the family holds the environments that the tickets refer to:

* ``reset`` starts an episode in one environment per row, each with the constants of its task and its own seed, drawn
  from the generator.
* ``step`` steps all rows of one or more resets together, and only from their latest state: earlier states cannot be
  replayed. A row whose episode has ended repeats its last observation with reward 0.
* The next ``reset`` reclaims the environments of every earlier reset that has been stepped. Resets that have not been
  stepped yet are left alone, so that several resets can be rolled out together. Reclaimed environments are reused for
  a reset with the same number of rows, and closed once several other row counts have been requested since.

Rollouts, meta-training and evaluation in ``metarl`` respect these rules. Compilation is not supported and raises an
error.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, final

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ..checks import close_to, refuse_unknown
from ..family import Family, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution
from .rows import (
    Builder,
    Constants,
    Constructor,
    Env,
    Kind,
    LocalRows,
    Recipe,
    Rows,
    Setter,
    WorkerRows,
    line,
    make,
    write_attributes,
)

KEPT = 3  # idle environments are kept for this many row counts: support, query and validation use one each
CONSTRUCTOR, ATTRIBUTES = "constructor", "attributes"  # destination of constants without a user-defined function
LARGEST = 3e38  # about the largest float32; tasks are stored in float32
Numbers = npt.NDArray[Any]
WRAPPED = {
    "observation": "wrap it in a rebuild function, for example with gymnasium.wrappers.FlattenObservation",
    "action": "wrap it in a rebuild function, for example with gymnasium.wrappers.TransformAction",
}
"""Advice in error messages about spaces that no policy supports."""


class _Reset:
    """The rows of one reset: those with tickets ``first``, ``first + 1``, ..."""

    def __init__(self, rows: Rows, first: int, count: int, observation: Numbers) -> None:
        self.rows, self.first, self.count, self.observation = rows, first, count, observation
        self.steps = 0


@final
class GymnasiumFamily(Family):
    """A Gymnasium environment with named constants.

    A constant is passed to the environment in one of four ways:

    * By default, it is written to the attribute of the same name of ``env.unwrapped``. This is refused if the
      constructor computes something else from that attribute (such as CartPole's ``total_mass``) or from the argument
      stored in it, because the derived value would not be updated.
    * With ``setter``, a function ``(env.unwrapped, constants) -> None`` writes it.
    * With ``rebuild=True``, it is an argument of the constructor, and an environment is made for every task.
    * With ``rebuild`` as a function ``(constants) -> Env``, this function is called for every task.

    Constants are passed as Python floats of their float32 values, or as bool or int if the attribute or the
    constructor's default is one; such constants take a ``Choice`` but no range. A constant's default is the
    environment's or constructor's own value of that name or, if there is none, the lower end of its range. The family
    applies the time limit; Gymnasium's own is turned off. Observations are from a ``Box``, or one-hot for ``Discrete``;
    actions are from a ``Discrete`` space, counted from 0, or from a ``Box``, clipped to its bounds.

    Args:
        env: a registered id, or ``"module:id"`` to import a module that registers it.
        ranges: a number or a distribution for each constant to declare; at least one.
        horizon: time limit in steps; None for that of the id.
        setter: function that writes the constants.
        rebuild: True, or a function that makes an environment.
        workers: number of processes that step the environments; 0 for none. The results are the same.
        timeout: seconds to wait for workers; one wait covers a step or a reset of all environments.
        kwargs: further arguments of the constructor, the same for every task; none if ``rebuild`` is a function.

    Raises:
        ValueError: there is no such id, version, attribute or argument; other attributes are computed from the
            attribute; the environment refuses the values; an integer constant has a range; there are no constants or
            no time limit; settings contradict each other; or a setter or rebuild function has no name, like a lambda.
        ImportError: the module, or one that the environment needs, is not installed.
        TypeError: ``env`` is not an id, an observation or action space is of another kind, or a rebuild function takes
            constants by name.

    >>> from envs import Range
    >>> family = GymnasiumFamily("Pendulum-v1", {"g": Range(5.0, 15.0), "m": 1.0})
    >>> family.horizon, sorted(family.ranges)
    (200, ['g', 'm'])
    """

    observation_space: Box  # the environment's; one-hot where it is ``Discrete``
    action_space: Box | Discrete  # the environment's, counted from 0 where it is ``Discrete``
    live = True

    def __init__(
        self,
        env: str,
        ranges: Mapping[str, Distribution | float],
        horizon: int | None = None,
        setter: Callable[[Any, Constants], None] | None = None,
        rebuild: bool | Callable[[Constants], Env] = False,
        workers: int = 0,
        timeout: float = 60.0,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(env, str | EnvSpec):
            raise TypeError(
                f"env: expected an id, got {env!r}; register one with gymnasium.register('Mine-v0', its class)"
            )
        if not isinstance(ranges, Mapping):
            raise TypeError(f"{env}: expected constants by name, such as {{'g': Range(5, 15)}}, got {ranges!r}")
        if not ranges:
            raise ValueError(f"{env}: expected at least one constant, got none; give one, even if only its default")
        if setter is not None and rebuild is not False:
            raise ValueError(f"{env}: expected setter or rebuild, got both; give only one of them")
        if callable(rebuild) and kwargs:
            raise ValueError(f"{env}: expected no kwargs, got a rebuild function and kwargs; set them in the function")
        if workers < 0 or not timeout > 0:
            raise ValueError(f"{env}: expected workers >= 0 and timeout > 0, got {workers} and {timeout}; correct it")
        self._name, self._workers, self._timeout = env, workers, timeout
        given = dict(kwargs or {})
        if " at 0x" in repr(given):  # an address would change the benchmark's fingerprint in every process
            raise ValueError(f"{env}: expected kwargs of plain values, got {given}; make objects in a rebuild function")
        low = {name: one.bounds[0] if isinstance(one, Distribution) else one for name, one in ranges.items()}
        with closing(_example(env, {} if callable(rebuild) else given, low if rebuild is True else {})) as example:
            spec = example.spec
            if spec is None:
                raise ValueError(f"{env}: expected an environment with a spec; register it")
            recipe, how = _recipe(spec, example, list(ranges), setter, rebuild, given)
            # The base class declares this per class; here it depends on the environment, so it is set per instance.
            self.parameters = {  # type: ignore[misc]
                name: _parameter(f"{name} of {spec.id}", one, _own(name, example, recipe, how))
                for name, one in ranges.items()
            }
            settings = {"env": spec.id, "constants": how, "kwargs": repr(sorted(given.items()))}
            super().__init__(_time_limit(spec.id, horizon), ranges, settings)
        self._kind = self._probe(recipe)
        self.observation_space, self.action_space = _our_spaces(self._kind)
        self._live: list[_Reset] = []
        self._idle: dict[int, list[Rows]] = {}  # by the number of rows
        self._next = 0

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Start an episode in ``rows`` environments and return their tickets; may reclaim earlier ones (see module).

        Raises:
            ValueError: a constant is missing, unknown or not finite.
            RuntimeError: an environment raised an error, or a worker died.
            TimeoutError: a worker did not answer in time.
        """
        self.validate(task)
        device = next(iter(task.values())).device
        seeds = torch.randint(2**31 - 1, rows, generator=generator, device=generator.device).flatten().tolist()
        values = {name: task[name].expand(rows).flatten().tolist() for name in self.parameters}
        constants = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        free = self._free(len(seeds))
        try:
            observation = free.begin(seeds, constants)
        except BaseException:
            free.close()
            raise
        self._live.append(_Reset(free, self._next, len(seeds), observation))
        ticket = torch.arange(self._next, self._next + len(seeds), device=device).reshape(rows)
        self._next += len(seeds)
        return {"row": ticket, "step": torch.zeros_like(ticket)}

    def observe(self, task: Task, state: State) -> Tensor:
        """Return ``[*rows, *observation_space.shape]``, with device and dtype of the task's values.

        Raises:
            RuntimeError: the state is not the latest of its rows.
        """
        found = self._find(state)
        seen = np.empty((state["row"].numel(), *(self._kind.observation_space.shape or ())))
        for reset, order in found:
            seen[order] = reset.observation
        space = self._kind.observation_space
        if isinstance(space, Discrete):
            seen = np.eye(int(space.n))[seen.astype(np.int64) - int(space.start)]
        like = next(iter(task.values()))
        return torch.from_numpy(seen).to(like).reshape(*state["row"].shape, *self.observation_space.shape)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step every row with the constants of its reset; ``action`` is ``[*rows, *action_space.shape]``.

        Raises:
            RuntimeError: the state is not the latest of its rows, or lacks rows of the same reset; an environment
                raised an error; or a worker died.
            TimeoutError: a worker did not answer in time.
        """
        shape, like = state["row"].shape, next(iter(task.values()))
        found = self._find(state)
        given = action.detach().reshape(state["row"].numel(), *(self.action_space.shape or ())).cpu().numpy()
        if isinstance(self.action_space, Discrete):
            given = given.astype(self.action_space.dtype)
        reward, terminated = np.empty(len(given)), np.empty(len(given), dtype=np.bool_)
        for reset, order in found:
            try:
                outcome = reset.rows.step(given[order])
            except BaseException:
                self._live.remove(reset)  # only some of its rows may have been stepped
                reset.rows.close()
                raise
            reset.observation, reward[order], terminated[order] = outcome
            reset.steps += 1
        after = {"row": state["row"], "step": state["step"] + 1}
        ended = torch.from_numpy(terminated).reshape(shape).to(like.device)
        return Transition(after, torch.from_numpy(reward).to(like).reshape(shape), ended)

    def close(self) -> None:
        """Close all environments and workers; the next reset creates new ones."""
        idle = [rows for free in self._idle.values() for rows in free]
        live = [reset.rows for reset in self._live]
        self._idle, self._live = {}, []
        for rows in (*idle, *live):
            rows.close()

    def __enter__(self) -> GymnasiumFamily:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_live"):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the family without its environments."""
        return {**self.__dict__, "_live": [], "_idle": {}}

    def _rows(self, count: int) -> Rows:
        if self._workers:
            return WorkerRows(self._kind, count, self._workers, self._timeout)
        return LocalRows(self._kind, count)

    def _free(self, count: int) -> Rows:
        """Return ``count`` idle rows, and close those of row counts that have not been requested recently."""
        for reset in [reset for reset in self._live if reset.steps]:
            self._live.remove(reset)
            self._idle.setdefault(reset.count, []).append(reset.rows)
        idle = self._idle[count] = self._idle.pop(count, [])  # move to the end: ordered by most recent request
        for other in list(self._idle)[:-KEPT]:
            for rows in self._idle.pop(other):
                rows.close()
        return idle.pop() if idle else self._rows(count)

    def _find(self, state: State) -> list[tuple[_Reset, Numbers]]:
        """Return the resets that the tickets belong to, each with the positions ``[count]`` of its rows among them.

        Raises:
            RuntimeError: see `step`.
        """
        if get_proxy_mode() is not None:
            raise RuntimeError(f"{self._name}: a live environment cannot be compiled; do not call learner.compile()")
        tickets = state["row"].flatten().cpu().numpy()
        steps = state["step"].flatten().cpu().numpy()
        found, missing = [], len(tickets)
        for reset in self._live:
            places = np.flatnonzero((tickets >= reset.first) & (tickets < reset.first + reset.count))
            if not len(places):
                continue
            order = places[np.argsort(tickets[places], kind="stable")]
            if not np.array_equal(tickets[order], np.arange(reset.first, reset.first + reset.count)):
                raise RuntimeError(
                    f"{self._name}: expected all {reset.count} rows of a reset in one call; step them together"
                )
            if (steps[order] != reset.steps).any():
                raise RuntimeError(f"{self._name}: the state is not the latest; live environments cannot go back")
            found.append((reset, order))
            missing -= len(order)
        if missing:
            raise RuntimeError(
                f"{self._name}: a later reset has reused {missing} of the rows; finish a rollout before the next reset"
            )
        return found

    def _probe(self, recipe: Recipe) -> Kind:
        """Make an environment at both ends of all ranges, so that errors appear before a run."""
        kinds: list[Kind] = []
        for end in (0, 1):
            constants = {name: float(np.float32(one.bounds[end])) for name, one in self.ranges.items()}
            shown = ", ".join(f"{name}={value:g}" for name, value in constants.items())
            try:
                env = recipe.renew(None, constants)
            except Exception as error:
                raise ValueError(
                    f"{self._name} rejected {shown}: {line(error)}; correct the range, or how the constants are used"
                ) from error
            try:
                observation_space, action_space = _supported(self._name, env)
            finally:
                env.close()
            kinds.append(Kind(self._name, recipe, observation_space, action_space, self.horizon))
        low, high = kinds
        before, after = low.observation_space, high.observation_space
        same = before == after if isinstance(before, Discrete) else before.shape == after.shape  # bounds may differ
        if not same or low.action_space != high.action_space:
            raise ValueError(
                f"{self._name}: its spaces change with the constants; they must be the same for every task"
            )
        return low


def _example(name: str, kwargs: Mapping[str, Any], constants: Mapping[str, Any]) -> Env:
    """Make one environment of that id for inspection, with the constants if its constructor requires them."""
    try:
        return make(name, kwargs)
    except (ModuleNotFoundError, DependencyNotInstalled) as error:
        raise ImportError(f"{name}: {line(error)}") from error
    except gymnasium.error.Error as error:
        hint = close_to(name.split(":")[-1], gymnasium.registry) or "gymnasium.pprint_registry() lists the known ones"
        raise ValueError(f"there is no environment {name!r}; {hint.strip()}") from error
    except Exception as error:
        if constants and isinstance(error, TypeError):
            return _example(name, {**kwargs, **constants}, {})
        raise ValueError(f"{name} rejected {dict(kwargs)}: {line(error)}; correct kwargs=, or the range") from error


def _recipe(
    spec: EnvSpec,
    example: Env,
    names: list[str],
    setter: Callable[[Any, Constants], None] | None,
    rebuild: bool | Callable[[Constants], Env],
    kwargs: Mapping[str, Any],
) -> tuple[Recipe, str]:
    """Return the requested recipe and its name in the family's description."""
    if callable(rebuild):
        _refuse_by_name(rebuild, names)
        return Builder(rebuild), _title("rebuild", rebuild)
    if setter is not None:
        return Setter(spec, setter, kwargs), _title("setter", setter)
    if rebuild:
        taken = _arguments(spec)
        if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
            refuse_unknown(f"the constructor of {spec.id}", "argument", names, taken)
        return Constructor(spec, {name: one.default for name, one in taken.items()}, kwargs), CONSTRUCTOR
    unwrapped = example.unwrapped
    numeric = [
        n for n, v in vars(unwrapped).items() if isinstance(v, int | float | np.number) and not n.startswith("_")
    ]
    missing = [n for n in names if not hasattr(unwrapped, n)]
    if missing and missing[0] in _arguments(spec):
        raise ValueError(
            f"{type(unwrapped).__name__} has no attribute {missing[0]!r}, but its constructor does; set rebuild=True"
        )
    refuse_unknown(type(unwrapped).__name__, "attribute", missing, numeric)
    for name in names:
        if stale := derived(type(unwrapped), name):
            raise ValueError(
                f"{name}: the constructor of {type(unwrapped).__name__} computes {', '.join(stale)} from it, which"
                " would keep the old value; give a setter that also updates those, or rebuild="
            )
    examples = {name: getattr(unwrapped, name) for name in names}
    return Setter(spec, partial(write_attributes, examples=examples), kwargs), ATTRIBUTES


def _arguments(spec: EnvSpec) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an environment's constructor by name."""
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return inspect.signature(creator).parameters if creator else {}


def _refuse_by_name(rebuild: Callable[[Constants], Env], names: list[str]) -> None:
    """Refuse a function that takes constants by name, as constructors do: it would get the mapping as its first.

    Raises:
        TypeError: ``rebuild`` takes constants by name.
    """
    try:
        taken = inspect.signature(rebuild).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return
    first = next(iter(taken.values()), None)
    if first is not None and (first.name in names or first.kind in (first.VAR_KEYWORD, first.KEYWORD_ONLY)):
        raise TypeError(
            f"rebuild: expected a function of all constants as one mapping, got {getattr(rebuild, '__name__', rebuild)}"
            f"({', '.join(map(str, taken.values()))}), which takes them by name; wrap it in a function that calls it "
            "with **constants"
        )


def _own(name: str, example: Env, recipe: Recipe, how: str) -> Any:
    """Return the environment's or constructor's own value of a constant; None if there is none.

    The value is converted to float if a user-defined function gets the constants, which are then always floats.
    """
    own = recipe.defaults.get(name) if isinstance(recipe, Constructor) else getattr(example.unwrapped, name, None)
    if not isinstance(own, int | float | np.number | np.bool_) or abs(float(own)) > LARGEST:
        return None
    return own if how in (CONSTRUCTOR, ATTRIBUTES) else float(own)


def _parameter(what: str, given: Distribution | float, own: Any) -> Parameter:
    """Declare a constant whose default is the environment's own value or, without one, the lowest value given.

    Raises:
        ValueError: a range is given for an integer, whose values would be rounded to the same few environments.
    """
    if isinstance(own, bool | np.bool_):
        return Parameter(float(own), 0.0, 1.0, "as in Gymnasium", what, choices=(0.0, 1.0))
    count = isinstance(own, int | np.integer)
    intervals = given.intervals if isinstance(given, Distribution) else ()
    if count and any(low < high for low, high in intervals):
        raise ValueError(
            f"{what}: expected whole numbers, because the environment's own value {own} is one, got {given}; use "
            "Choice((1, 2)), or a setter"
        )
    default = float(own if own is not None else intervals[0][0] if isinstance(given, Distribution) else given)
    return Parameter(default, -LARGEST, LARGEST, "as in Gymnasium", what, whole=count)


def _title(what: str, function: Callable[..., Any]) -> str:
    """Return a function's qualified name for the fingerprint of benchmarks, by which stored runs are recognised.

    Raises:
        ValueError: the function has no name, or is a lambda or is defined inside one.
    """
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not name or "<lambda>" in name:
        raise ValueError(
            f"{what}: expected a named function, to identify stored runs, got {function!r}; define it with def"
        )
    return f"{module}:{name}"


def derived(cls: type, attribute: str) -> list[str]:
    """Return the attributes that the constructors of a class compute from ``attribute``, according to their source.

    Follows assignments ``self.a = ...`` and ``a = ...`` in order, starting from the attribute itself and from the
    argument that it is a copy of; other methods are not analysed.
    """
    found: list[str] = []
    for base in reversed(cls.__mro__):
        if "__init__" not in vars(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(vars(base)["__init__"])))
        except (OSError, TypeError, SyntaxError):
            continue
        assigned = list(_assigned(tree))
        tainted = _copies(tree, assigned, attribute)
        for target, value in assigned:
            used = {ast.unparse(part) for part in ast.walk(value) if isinstance(part, ast.Name | ast.Attribute)}
            if used & tainted:
                tainted.add(ast.unparse(target))
        found += [name.removeprefix("self.") for name in sorted(tainted) if name.startswith("self.")]
    return [name for name in dict.fromkeys(found) if name != attribute]


def _assigned(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield targets and their values in source order; ``a, b = c, d`` yields two pairs."""
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    for node in sorted(assignments, key=lambda node: node.lineno):
        if (value := node.value) is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            yield from zip(parts, values if len(values) == len(parts) > 1 else [value] * len(parts), strict=True)


def _copies(tree: ast.AST, assigned: list[tuple[ast.expr, ast.expr]], attribute: str) -> set[str]:
    """Return the names for the value of ``self.attribute``: itself, the argument of that name, and copies of it."""
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names = {f"self.{attribute}", *(arguments & {attribute})}
    for target, value in reversed(assigned):
        if isinstance(value, ast.Name) and ast.unparse(target) in names:
            names.add(value.id)
    return names


def _time_limit(name: str, horizon: int | None) -> int:
    if horizon is not None:
        return horizon
    limit = gymnasium.spec(name).max_episode_steps
    if limit is None:
        raise ValueError(f"{name} has no time limit; give horizon= in steps")
    return limit


def _supported(name: str, env: Env) -> tuple[Space[Any], Box | Discrete]:
    """Return copies of the environment's observation and action space.

    Raises:
        TypeError: no policy supports them.
    """
    for what, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, Box | Discrete):
            raise TypeError(
                f"{name}: expected a Box or Discrete {what} space, got {type(space).__name__}; {WRAPPED[what]}"
            )
    return copy.deepcopy(env.observation_space), copy.deepcopy(env.action_space)  # type: ignore[return-value]


def _our_spaces(kind: Kind) -> tuple[Box, Box | Discrete]:
    seen, acts = copy.deepcopy(kind.observation_space), copy.deepcopy(kind.action_space)
    if isinstance(seen, Discrete):
        seen = Box(0.0, 1.0, (int(seen.n),), dtype=np.float32)
    elif isinstance(seen, Box) and seen.dtype != np.float32:  # observations are returned as floats
        with np.errstate(over="ignore"):  # bounds beyond the largest float32 overflow to infinity, meaning no bound
            seen = Box(seen.low.astype(np.float32), seen.high.astype(np.float32), dtype=np.float32)
    if isinstance(acts, Discrete):
        acts = Discrete(int(acts.n))
    return seen, acts  # type: ignore[return-value]
