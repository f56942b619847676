"""Environment families: one set of equations with named constants that differ from task to task.

A task maps the name of each constant to its value. Constants are independent: quantities that follow from them
(a total mass, a moment) are computed inside ``step`` and never stored, so changing a constant cannot leave a stale
derived value behind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor

from .checks import refuse_seed, refuse_unknown, whole
from .parameters import Parameter
from .ranges import Distribution, Fixed, plain

Task = Mapping[str, Tensor]
"""Constants by name: ``[T]`` for a set of tasks, ``[T, 1]`` against rows ``[T, N]``."""

State = dict[str, Tensor]
"""The variables that change within an episode, by name; every tensor has the rows' shape."""

Setting = str | float | None


class Transition(NamedTuple):
    """The outcome of one step, for rows of any shape."""

    state: State
    reward: Tensor  # [...]
    terminated: Tensor  # [...] bool: ended by the rules of the task, not by the time limit


class Family(ABC):
    """Environments that share spaces and equations and differ in declared constants.

    A subclass declares ``parameters`` and is final. A variant is not a further subclass but an instance with other
    ranges: ``CartPole(half_length=Range(1, 2))``. Every family has an ``observation_space`` and an ``action_space``
    that are the same for every task; they are class attributes or, if they depend on settings, assigned by the
    constructor.

    Args:
        horizon: time limit in steps.
        ranges: for any declared constant, a number, which fixes it, or a distribution, which varies it; all other
            constants keep their defaults.
        settings: choices other than ranges that distinguish two families; ``describe`` includes them.

    Raises:
        ValueError: a constant is unknown or outside its valid values, or the horizon is below 1.
        TypeError: a range is neither a number nor a distribution, or the horizon is not an integer.
    """

    parameters: ClassVar[Mapping[str, Parameter]]
    observation_space: Space[Any]
    action_space: Space[Any]
    live = False
    """whether episodes live in external environments, so that only the latest state can be stepped, and only once"""

    def __init__(
        self, horizon: int, ranges: Mapping[str, Distribution | float], settings: Mapping[str, Setting] | None = None
    ) -> None:
        refuse_unknown(type(self).__name__, "constant", ranges, self.parameters)
        self._horizon = whole("horizon", horizon)
        self._settings = {name: plain(value) for name, value in (settings or {}).items()}
        self._ranges = {
            name: _distribution(name, ranges.get(name, parameter.default), parameter)
            for name, parameter in self.parameters.items()
        }

    @abstractmethod
    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return initial states of shape ``rows``; the task's values broadcast to it and are not modified."""

    @abstractmethod
    def observe(self, task: Task, state: State) -> Tensor:
        """Return the agent's observations, ``[*rows, *observation_space.shape]``."""

    @abstractmethod
    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step every row; ``action`` is ``[*rows, *action_space.shape]``."""

    @property
    def horizon(self) -> int:
        """Time limit in steps."""
        return self._horizon

    @property
    def ranges(self) -> Mapping[str, Distribution]:
        """The distribution of every constant, in declared order."""
        return MappingProxyType(self._ranges)

    def sample(self, tasks: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw every constant independently; return ``[T]`` float32 values on the generator's device."""
        count = whole("tasks", tasks)
        refuse_seed(generator)
        return {name: distribution.sample(count, generator) for name, distribution in self._ranges.items()}

    def task(self, **constants: float) -> dict[str, Tensor]:
        """Return one task ``[1]`` with the given constants; others have this family's fixed value or their default.

        Raises:
            ValueError: see `validate`.
        """
        fixed = {name: low for name, one in self._ranges.items() for low, high in [one.bounds] if low == high}
        values = {name: parameter.default for name, parameter in self.parameters.items()} | fixed | constants
        task = {name: torch.tensor([float(value)]) for name, value in values.items()}
        self.validate(task)
        return task

    def contains(self, task: Task) -> Tensor:
        """Return whether this family could draw each task or one that is the same environment, of the values' shape.

        Raises:
            ValueError: a constant is missing or unknown.
        """
        _check_names(type(self).__name__, task, self.parameters)
        inside = [
            distribution.contains(self.parameters[name].distinct(task[name]))
            for name, distribution in self._ranges.items()
        ]
        return torch.stack(inside).all(0)

    def validate(self, task: Task) -> None:
        """Check that the equations hold for a task. Reads the values, so keep it out of loops.

        Raises:
            TypeError: a constant is not a tensor of floating-point numbers. States take their dtype from constants, so
                that whole numbers would round everything.
            ValueError: a constant is missing, unknown, not finite or outside its valid values.
        """
        _check_names(type(self).__name__, task, self.parameters)
        for name, parameter in self.parameters.items():
            value: object = task[name]
            if not isinstance(value, Tensor):
                raise TypeError(f"{name}: expected a tensor, got {value!r}; task({name}=...) makes a task from numbers")
            if not value.is_floating_point():
                raise TypeError(f"{name}: expected floating-point numbers, got {value.dtype}; give values.float()")
            wrong = task[name][~parameter.covers(task[name])]
            if wrong.numel():
                came = wrong.flatten()[0].item()
                raise ValueError(f"{name}: expected {parameter.valid} {parameter.unit}, got {came}; correct it")

    def describe(self) -> dict[str, Any]:
        """Return everything that defines this family, as plain JSON values."""
        return {
            "family": type(self).__name__,
            "horizon": self._horizon,
            "settings": dict(self._settings),
            "ranges": {name: distribution.describe() for name, distribution in self._ranges.items()},
        }


def _check_names(family: str, task: Task, known: Iterable[str]) -> None:
    refuse_unknown(family, "constant", task, known)
    if missing := [name for name in known if name not in task]:
        raise ValueError(f"{family} expected a value for every constant, {missing[0]!r} is missing; add it to the task")


def _distribution(name: str, value: Distribution | float, parameter: Parameter) -> Distribution:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Distribution | int | float):
        raise TypeError(f"{name}: expected a number or a distribution, got {value!r}; give 1.5 or Range(1, 2)")
    try:
        distribution = value if isinstance(value, Distribution) else Fixed(float(value))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: expected a finite number, {parameter.valid}, got {value}; correct it") from error
    if not parameter.accepts(distribution):
        raise ValueError(f"{name}: expected {parameter.valid} {parameter.unit}, got {value}; correct the range")
    return distribution
