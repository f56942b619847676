"""Tools to probe a family: monitored calls, and recorded episodes with varied actions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from metarl.rollouts import per_row, task_count
from metarl.types import State, Task, TaskFamily, Transition

TASKS, EPISODES = 16, 8
LONGEST = 1000  # largest number of steps played of an episode

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "reset": ("task",),
    "observe": ("task", "state"),
    "step": ("task", "state", "action"),
}


class Watched:
    """A family whose calls are monitored for the use of global random numbers and for in-place changes of arguments.

    The family gets copies of the arguments, so that an in-place change does not cause further errors. Problems are
    described in ``found``.
    """

    def __init__(self, family: TaskFamily) -> None:
        self.family = family
        self.found: dict[str, None] = {}  # in the order found, each once

    def sample(self, tasks: int, *, generator: torch.Generator) -> Task:
        """Call the family's ``sample``."""
        drawn: Task = self._call("sample", tasks, generator=generator)
        return drawn

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Call the family's ``reset``."""
        state: State = self._call("reset", task, rows, generator=generator)
        return state

    def observe(self, task: Task, state: State) -> Tensor:
        """Call the family's ``observe``."""
        observation: Tensor = self._call("observe", task, state)
        return observation

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Call the family's ``step``."""
        transition: Transition = self._call("step", task, state, action)
        return transition

    def _call(self, method: str, *given: Any, **more: Any) -> Any:
        before, copies = _global_states(), tuple(_copy(value) for value in given)
        result = getattr(self.family, method)(*copies, **more)
        after = _global_states()
        for library in (name for name in before if not same(before[name], after[name])):
            instead = "keep a key per row in the state" if method in ("observe", "step") else "use the given generator"
            self._tell(f"{method} draws from {library}'s global random generator; {instead} instead")
        for name, value, copied in zip(ARGUMENTS[method], given, copies, strict=False):
            if not same(value, copied):
                self._tell(f"{method} modified its argument {name} in place{_which(value, copied)}; make new tensors")
        return result

    def _tell(self, line: str) -> None:
        self.found[line] = None


def _global_states() -> dict[str, Any]:
    """Return the global random states by library, only of modules that are already imported; nothing is drawn."""
    states: dict[str, Any] = {"torch": torch.get_rng_state()}
    if "numpy.random" in sys.modules:
        states["numpy"] = sys.modules["numpy.random"].get_state(legacy=False)
    if "random" in sys.modules:
        states["Python"] = hash(sys.modules["random"].getstate())
    return states


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: part.clone() for name, part in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


def _which(value: Any, copied: Any) -> str:
    """Return the names of the entries that differ, formatted for an error message."""
    if not isinstance(value, Mapping):
        return ""
    names = [name for name in {**value, **copied} if not same(value.get(name), copied.get(name))]
    return f" ({', '.join(names)})"


def same(one: Any, other: Any) -> bool:
    """Return whether two values are exactly equal, including shape and dtype; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and bool(one == other)


class Moment(NamedTuple):
    """One step of rows ``[T, N]`` and its outcome."""

    alive: Tensor  # bool: the episode had not ended before this step
    state: State
    observation: Tensor  # observation of ``state``
    action: Tensor
    after: State
    reward: Tensor
    terminated: Tensor
    seen: Tensor  # observation of ``after``


def generator(seed: int) -> torch.Generator:
    """Return a new CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def actions(space: Any, steps: int, rows: tuple[int, int], seed: int) -> Tensor:
    """Draw random actions ``[steps, *rows, *action]``.

    Depending on the episode, actions are redrawn at every step, at every fifth step or never: redrawn actions stay near
    the start, constant ones go far. Actions of a ``Box`` exceed its bounds by up to half, since those of a Gaussian
    policy may exceed them, too.
    """
    shape = (steps, *rows, *space.shape)
    if isinstance(space, Discrete):
        drawn = torch.randint(int(space.n), shape, generator=generator(seed))
    else:
        low, high = torch.from_numpy(space.low).double(), torch.from_numpy(space.high).double()
        # Without one of the bounds, draw from 2 units at the other; without both, from -1 to 1.
        low = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high - 2, -1.0))
        high = torch.where(high.isfinite(), high, low + 2)
        middle, half = (low + high) / 2, (high - low) / 2
        drawn = (middle + 1.5 * half * (2 * torch.rand(shape, generator=generator(seed)) - 1)).float()
    time = torch.arange(steps)
    held = [drawn[time // hold * hold] for hold in (1, 5, steps)]
    return torch.stack([held[episode % 3][:, :, episode] for episode in range(rows[1])], 2)


def walk(family: Watched, task: Task, *, seed: int = 0, steps: int = LONGEST) -> Iterator[Moment]:
    """Step through `EPISODES` episodes on each of ``[T]`` tasks until all have ended, or for ``steps`` steps.

    Initial states and actions depend on ``seed`` alone.
    """
    inner, constants = family.family, per_row(task)
    rows = (task_count(task), EPISODES)
    state = family.reset(constants, rows, generator=generator(seed))
    observation = family.observe(constants, state)
    alive = torch.ones(rows, dtype=torch.bool)
    for action in actions(inner.action_space, min(inner.horizon, steps), rows, seed + 1):
        after, reward, terminated = family.step(constants, state, action)
        seen = family.observe(constants, after)
        yield Moment(alive, state, observation, action, after, reward, terminated, seen)
        alive = alive & ~terminated
        if not alive.any():
            return
        state, observation = after, seen
