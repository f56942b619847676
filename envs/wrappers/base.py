"""The base class of all wrappers, which separates the wrapped family's constants and state from the wrapper's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from ..family import Family, Setting, State, Task, Transition
from ..parameters import Parameter
from ..ranges import Distribution


class Wrapper(Family):
    """A family that modifies another one; everything that a subclass does not define is delegated to it.

    The wrapped family gets only its own constants and its own state, so it behaves as if it were not wrapped.

    Args:
        family: the family to wrap.
        own: the constants that the wrapper adds.
        ranges: a number or distribution for any of ``own``; the ranges of ``family`` stay as they are.
        memory: names of the entries that the wrapper adds to the state.
        settings: choices other than ranges that distinguish two wrappers; ``describe`` includes them.

    Raises:
        TypeError: ``family`` is not a family, or see ``Family``.
        ValueError: ``family`` already has one of these constants, for example because it is already wrapped in this
            way; a range is given for an unknown constant; or see ``Family``.
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
                f"{name}: the wrapped {type(family).__name__} already has a constant {taken[0]!r}; apply it only once"
            )
        if unknown := [constant for constant in ranges if constant not in own]:
            raise ValueError(f"{name} adds no constant {unknown[0]!r}; it adds {', '.join(own)}")
        # The base class declares this per class; here it depends on the wrapped family, so it is set per instance.
        self.parameters = {**family.parameters, **own}  # type: ignore[misc]
        super().__init__(family.horizon, {**family.ranges, **ranges}, settings)
        self._family = family
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.live = family.live
        self._memory = frozenset(memory)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the wrapped family's initial states."""
        return self._family.reset(self._task(task), rows, generator=generator)

    def observe(self, task: Task, state: State) -> Tensor:
        """Return the wrapped family's observation."""
        return self._family.observe(self._task(task), self._state(state))

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family."""
        return self._family.step(self._task(task), self._state(state), action)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return those reference returns of the wrapped family that remain valid for this wrapper: by default none."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return `Family.describe` plus ``wrapped``: the wrapped family's description without ranges, given above."""
        inside = self._family.describe()
        return super().describe() | {"wrapped": {name: inside[name] for name in inside if name != "ranges"}}

    def _task(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's constants."""
        return {name: task[name] for name in self._family.parameters}

    def _state(self, state: State) -> State:
        """Return the wrapped family's state."""
        return {name: values for name, values in state.items() if name not in self._memory}

    def _references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references; empty if it has none."""
        known = getattr(self._family, "references", None)
        return {} if known is None else dict(known(self._task(task)))

    def _ceiling(self, task: Task) -> dict[str, Tensor]:
        """Return only ``ceiling`` of the wrapped family's references, the upper bound for every policy."""
        return {name: values for name, values in self._references(task).items() if name == "ceiling"}


def wrapped(wrapper: str, family: Family) -> Family:
    """Return ``family`` if it is one. Wrappers that read it before calling ``Wrapper.__init__`` check it with this.

    Raises:
        TypeError: ``family`` is not a family.
    """
    if not isinstance(family, Family):
        if isinstance(getattr(family, "family", None), Family):
            raise TypeError(f"{wrapper}: expected a family to wrap, got a benchmark; pass its .family")
        raise TypeError(f"{wrapper}: expected a family to wrap, got {family!r}; give an object such as CartPole()")
    return family


def holds(family: Family, kind: type[Wrapper]) -> bool:
    """Return whether ``family`` contains a wrapper of this kind, at any depth."""
    while isinstance(family, Wrapper):
        if isinstance(family, kind):
            return True
        family = family._family
    return False


def components(wrapper: str, family: Family) -> int:
    """Return the number of components of a continuous action, or 0 if actions are discrete.

    Raises:
        TypeError: ``family`` is not a family, or its actions are neither discrete nor a flat ``Box``.
    """
    space = wrapped(wrapper, family).action_space
    if isinstance(space, Discrete):
        return 0
    if isinstance(space, Box) and len(space.shape) == 1:
        return int(space.shape[0])
    raise TypeError(f"{wrapper}: expected actions from a Discrete or a flat Box, got {space}; it cannot wrap these")


def channels(wrapper: str, family: Family) -> Box:
    """Return the family's observation space if it is a flat ``Box``.

    Raises:
        TypeError: ``family`` is not a family, or its observations are not a flat ``Box``.
    """
    space = wrapped(wrapper, family).observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        return space
    raise TypeError(f"{wrapper}: expected observations from a flat Box, got {space}; it cannot wrap these")


def refuse_live(wrapper: str, family: Family, needed: str) -> None:
    """Refuse a live family in a wrapper that needs more than playing episodes from start to end.

    Raises:
        TypeError: ``family`` is not a family, or it is live.
    """
    if wrapped(wrapper, family).live:
        raise TypeError(
            f"{wrapper}: expected a family {needed}, got {type(family).__name__}, which is live; wrap another"
        )


def neutral_action(wrapper: str, family: Family, value: float) -> float:
    """Return ``value`` if it is a discrete action, or valid for every component of a continuous one.

    Raises:
        TypeError: see `components`.
        ValueError: ``value`` is outside the action space.
    """
    space: Any = family.action_space
    if components(wrapper, family):
        if not bool(((space.low <= value) & (value <= space.high)).all()):
            raise ValueError(f"{wrapper}: expected a neutral action within {space}, got {value}; give another")
    elif float(value) not in range(int(space.n)):
        raise ValueError(f"{wrapper}: expected a neutral action of 0..{space.n - 1}, got {value}; give another")
    return float(value)
