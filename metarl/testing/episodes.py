"""Probing a family: calls that are watched, and episodes of varied actions kept step by step."""

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
LONGEST = 1000  # steps of an episode that are looked at

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sample": (),
    "reset": ("task",),
    "observe": ("task", "state"),
    "step": ("task", "state", "action"),
}


class Watched:
    """A family whose every call is looked at: what it draws from, and what it writes to.

    It is given copies, so that one fault of this kind does not bring about others. What was found stands
    in ``found``, in words.
    """

    def __init__(self, family: TaskFamily) -> None:
        self.family = family
        self.found: dict[str, None] = {}  # in the order found, each once

    def sample(self, tasks: int, *, generator: torch.Generator) -> Task:
        """As of the family, and so are the others."""
        drawn: Task = self._call("sample", tasks, generator=generator)
        return drawn

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """First states."""
        state: State = self._call("reset", task, rows, generator=generator)
        return state

    def observe(self, task: Task, state: State) -> Tensor:
        """What the agent sees."""
        observation: Tensor = self._call("observe", task, state)
        return observation

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """One step."""
        transition: Transition = self._call("step", task, state, action)
        return transition

    def _call(self, method: str, *given: Any, **more: Any) -> Any:
        before, copies = _global_states(), tuple(_copy(value) for value in given)
        result = getattr(self.family, method)(*copies, **more)
        after = _global_states()
        for library in (name for name in before if not same(before[name], after[name])):
            instead = "keep a key per row in the state" if method in ("observe", "step") else "take the generator"
            self._tell(f"{method} draws from {library}'s global random numbers; {instead} instead")
        for name, value, copied in zip(ARGUMENTS[method], given, copies, strict=False):
            if not same(value, copied):
                self._tell(f"{method} wrote into the {name} it was given{_which(value, copied)}; make new tensors")
        return result

    def _tell(self, line: str) -> None:
        self.found[line] = None


def _global_states() -> dict[str, Any]:
    """Global random states by library. They are only read: the modules are looked up, as nothing here may draw."""
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
    """Names of the entries that differ, for a sentence."""
    if not isinstance(value, Mapping):
        return ""
    names = [name for name in {**value, **copied} if not same(value.get(name), copied.get(name))]
    return f" ({', '.join(names)})"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the bit, in shape and dtype too; NaN equals NaN."""
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
    """One step of rows ``[T, N]`` and what came of it."""

    alive: Tensor  # bool: the episode had not ended before this step
    state: State
    observation: Tensor  # of the state that is acted on
    action: Tensor
    after: State
    reward: Tensor
    terminated: Tensor
    seen: Tensor  # observation of the state after


def generator(seed: int) -> torch.Generator:
    """A CPU generator of one's own."""
    return torch.Generator().manual_seed(seed)


def actions(space: Any, steps: int, rows: tuple[int, int], seed: int) -> Tensor:
    """``[steps, *rows, *action]``: redrawn at every step, at every fifth or never, from episode to episode.

    Who draws anew at every step stays near the start, and who never does goes far. Those of a ``Box`` reach half
    as far again as its ends, since a Gaussian policy's do.
    """
    shape = (steps, *rows, *space.shape)
    if isinstance(space, Discrete):
        drawn = torch.randint(int(space.n), shape, generator=generator(seed))
    else:
        low, high = torch.from_numpy(space.low).double(), torch.from_numpy(space.high).double()
        bounded = low.isfinite() & high.isfinite()
        middle, half = torch.where(bounded, (low + high) / 2, 0.0), torch.where(bounded, (high - low) / 2, 1.0)
        drawn = (middle + 1.5 * half * (2 * torch.rand(shape, generator=generator(seed)) - 1)).float()
    time = torch.arange(steps)
    held = [drawn[time // hold * hold] for hold in (1, 5, steps)]
    return torch.stack([held[episode % 3][:, :, episode] for episode in range(rows[1])], 2)


def walk(family: Watched, task: Task, *, seed: int = 0, steps: int = LONGEST) -> Iterator[Moment]:
    """Step through `EPISODES` episodes on each of ``[T]`` tasks until all have ended, or for ``steps`` steps.

    First states and actions follow from ``seed`` alone.
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
