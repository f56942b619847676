"""What all wrappers share: the wrapped family's constants and state are kept apart from the wrapper's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from ..family import Family, Setting, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution


class Wrapper(Family, ABC):
    """A family made of another; whatever a subclass does not define is the wrapped family's.

    The wrapped family is handed its own constants and its own state and nothing else, so that it cannot
    tell that it is wrapped.

    Args:
        family: what to wrap.
        own: the constants that the wrapper adds.
        ranges: a number or distribution for any of ``own``; those of ``family`` are its own business.
        memory: names of what the wrapper adds to the state.
        settings: the choices besides ranges that make two wrappers different, for ``describe``.

    Raises:
        TypeError: ``family`` is no family, or see ``Family``.
        ValueError: ``family`` has one of these constants already, as one that was wrapped so before
            has; a range for an unknown constant; or see ``Family``.
    """

    def __init__(
        self,
        family: Family,
        own: Mapping[str, Parameter],
        ranges: Mapping[str, Distribution | float],
        memory: tuple[str, ...] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        name = type(self).__name__
        wrapped(name, family)
        if taken := [constant for constant in own if constant in family.parameters]:
            raise ValueError(
                f"{name}: the wrapped {type(family).__name__} has a constant {taken[0]!r} already; wrap it so only once"
            )
        if unknown := [constant for constant in ranges if constant not in own]:
            raise ValueError(f"{name} adds no constant {unknown[0]!r}; it adds {', '.join(own)}")
        # Declared for all instances alike by the base class; here each has those of what it wraps.
        self.parameters = {**family.parameters, **own}  # type: ignore[misc]
        super().__init__(family.horizon, {**family.ranges, **ranges}, settings)
        self._family = family
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.live = family.live
        self._memory = frozenset(memory)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """The wrapped family's first states."""
        return self._family.reset(self._task(task), rows, generator=generator)

    def observe(self, task: Task, state: State) -> Tensor:
        """The wrapped family's observation."""
        return self._family.observe(self._task(task), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step."""
        return self._family.step(self._task(task), self._state(state), action)

    @abstractmethod
    def references(self, task: Task) -> dict[str, Tensor]:
        """Those of the wrapped family's reference returns, if it has any, that hold for the wrapped one too."""

    def describe(self) -> dict[str, Any]:
        """As of any family; ``wrapped`` is what is inside, without its ranges, which are among ``ranges``."""
        inside = self._family.describe()
        return super().describe() | {"wrapped": {name: inside[name] for name in inside if name != "ranges"}}

    def _task(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's constants."""
        return {name: task[name] for name in self._family.parameters}

    def _state(self, state: State) -> State:
        """The wrapped family's state."""
        return {name: values for name, values in state.items() if name not in self._memory}

    def _references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's references; empty if it has none."""
        known = getattr(self._family, "references", None)
        return {} if known is None else dict(known(self._task(task)))

    def _ceiling(self, task: Task) -> dict[str, Tensor]:
        """Of the wrapped family's references, the upper bound on all that any policy can do."""
        return {name: values for name, values in self._references(task).items() if name == "ceiling"}


def wrapped(wrapper: str, family: Family) -> Family:
    """``family``, checked to be one. Whatever looks at a family before ``Wrapper.__init__`` does looks through this.

    Raises:
        TypeError: no family.
    """
    if not isinstance(family, Family):
        raise TypeError(f"{wrapper}: expected a family to wrap, got {family!r}; give an object such as CartPole()")
    return family


def holds(family: Family, kind: type[Wrapper]) -> bool:
    """Whether ``family`` is wrapped by that wrapper, at whatever depth."""
    while isinstance(family, Wrapper):
        if isinstance(family, kind):
            return True
        family = family._family
    return False


def components(wrapper: str, family: Family) -> int:
    """How many numbers a continuous action has; 0 where actions are discrete.

    Raises:
        TypeError: no family, or actions of another kind.
    """
    space = wrapped(wrapper, family).action_space
    if isinstance(space, Discrete):
        return 0
    if isinstance(space, Box) and len(space.shape) == 1:
        return int(space.shape[0])
    raise TypeError(f"{wrapper}: expected actions from a Discrete or a flat Box, got {space}; it cannot wrap these")


def channels(wrapper: str, family: Family) -> Box:
    """The space of flat observations.

    Raises:
        TypeError: no family, or observations of another kind.
    """
    space = wrapped(wrapper, family).observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return space
    raise TypeError(f"{wrapper}: expected observations from a flat Box, got {space}; it cannot wrap these")


def refuse_live(wrapper: str, family: Family, needed: str) -> None:
    """Refuse what lives elsewhere where a wrapper asks for more than to play from start to end.

    Raises:
        TypeError: no family, or ``family`` is live.
    """
    if wrapped(wrapper, family).live:
        raise TypeError(
            f"{wrapper}: expected a family {needed}, got {type(family).__name__}, which is live; wrap one that is not"
        )


def neutral_action(wrapper: str, family: Family, value: float) -> float:
    """``value``, checked to be an action, or every number of one.

    Raises:
        TypeError: see `components`.
        ValueError: outside the action space.
    """
    space: Any = family.action_space
    if components(wrapper, family):
        if not bool(((space.low <= value) & (value <= space.high)).all()):
            raise ValueError(f"{wrapper}: expected a neutral action within {space}, got {value}; give another")
    elif float(value) not in range(int(space.n)):
        raise ValueError(f"{wrapper}: expected a neutral action of 0..{space.n - 1}, got {value}; give another")
    return float(value)
