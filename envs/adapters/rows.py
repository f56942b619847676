"""Live Gymnasium environments in rows: in this process, or shared out to worker processes.

A row runs one episode and then waits: after its end it repeats its last observation, with reward 0, at no
cost, until the next episode is begun with constants and a seed of its own. Rows are stepped together by
Gymnasium's vector environments. Their autoreset calls ``reset`` without options, and a row takes that for
the first of the filler steps after its end, so no episode ever runs on into another.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

Constants = dict[str, float]
Env = gymnasium.Env[Any, Any]
Array = npt.NDArray[Any]

GRACE = 2.0  # seconds that workers have to close their environments before they are killed


def line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())


def like(value: float, example: Any) -> Any:
    """``value`` as a bool or int where the example is one, since environments look at the type."""
    if isinstance(example, bool | np.bool_):
        return bool(round(value))
    return round(value) if isinstance(example, int | np.integer) else value


class Recipe(ABC):
    """How to come by an environment with given constants."""

    @abstractmethod
    def renew(self, env: Env | None, constants: Constants) -> Env:
        """An environment with these constants: ``env`` itself, changed, or another one in its place."""


@final
@dataclass(frozen=True)
class Constructor(Recipe):
    """Constants are arguments of the environment's constructor, with these defaults."""

    spec: EnvSpec
    defaults: Mapping[str, Any]
    kwargs: Mapping[str, Any]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """A new environment; the old one is closed."""
        _close(env)
        chosen = {name: like(value, self.defaults.get(name)) for name, value in constants.items()}
        return make(self.spec, {**self.kwargs, **chosen})


@final
@dataclass(frozen=True)
class Builder(Recipe):
    """Constants are what a function of the user's makes of them."""

    build: Callable[[Constants], Env]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """A new environment; the old one is closed."""
        _close(env)
        return self.build(dict(constants))


@final
@dataclass(frozen=True)
class Setter(Recipe):
    """Constants are written into the unwrapped environment."""

    spec: EnvSpec
    write: Callable[[Any, Constants], None]
    kwargs: Mapping[str, Any]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """The environment itself, made if there is none."""
        env = env or make(self.spec, self.kwargs)
        self.write(env.unwrapped, dict(constants))
        return env


def make(spec: EnvSpec | str, kwargs: Mapping[str, Any]) -> Env:
    """Without Gymnasium's time limit, which the family keeps, and without its checks of every step."""
    return gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **kwargs)


def write_attributes(unwrapped: Any, constants: Constants, examples: Mapping[str, Any]) -> None:
    """One attribute a constant, of the type that it had when the environment was made."""
    for name, value in constants.items():
        setattr(unwrapped, name, like(value, examples[name]))


def _close(env: Env | None) -> None:
    if env is not None:
        env.close()


class Kind(NamedTuple):
    """What all rows of a family have in common."""

    name: str  # for messages
    recipe: Recipe
    observation_space: Space[Any]
    action_space: Box | Discrete
    horizon: int


class Outcome(NamedTuple):
    """One step of n rows."""

    observation: Array  # [n, ...]
    reward: Array  # [n] float64
    terminated: Array  # [n] bool


@final
class Row(gymnasium.Env[Any, Any]):
    """One environment, whose episodes are begun with ``options={"constants": [...]}``, of which it takes its own."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, kind: Kind, index: int) -> None:
        self._kind, self._index = kind, index
        self.observation_space, self.action_space = kind.observation_space, kind.action_space
        self._env: Env | None = None
        self._constants: Constants = {}
        self._observation: Any = None
        self._steps = 0
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; without options stay where the last one ended."""
        if options is None:
            return self._observation, {}
        constants: Constants = options["constants"][self._index]
        self._steps, self._over = 0, False
        try:
            # A step may have changed what was written, so it is written again; what is made anew costs more than that.
            if self._env is None or constants != self._constants or isinstance(self._kind.recipe, Setter):
                self._env = self._kind.recipe.renew(self._env, constants)
                self._constants = constants
            observation, _ = self._env.reset(seed=seed)
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {line(error)}", seed) from error
        self._observation = self._checked(observation)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, or a filler step after the end."""
        if self._over or self._env is None:
            return self._observation, 0.0, False, False, {}
        self._steps += 1
        try:
            observation, reward, terminated, truncated, _ = self._env.step(self._own(action))
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {line(error)}") from error
        if truncated and not terminated and self._steps < self._kind.horizon:
            raise self._fault(f"cut the episode short of the horizon of {self._kind.horizon}; give horizon= that many")
        self._over = bool(terminated)
        self._observation = self._checked(observation)
        return self._observation, float(reward), self._over, False, {}

    def close(self) -> None:
        """Close the environment, if there is one."""
        _close(self._env)
        self._env = None

    def _own(self, action: Any) -> Any:
        """The action as the environment knows it: shifted to its first number, or clipped to its bounds."""
        space = self._kind.action_space
        if isinstance(space, Discrete):
            return np.int64(action + space.start)
        return np.clip(action, space.low, space.high).astype(space.dtype)

    def _checked(self, observation: Any) -> Any:
        space = self._kind.observation_space
        array = np.asarray(observation, dtype=space.dtype)
        if array.shape != space.shape:
            raise self._fault(f"returned an observation of shape {array.shape} instead of {space.shape}")
        return array

    def _fault(self, what: str, seed: int | None = None) -> RuntimeError:
        shown = ", ".join(f"{name}={value:g}" for name, value in self._constants.items())
        when = f"step {self._steps}" if self._steps else f"reset with seed {seed}"
        return RuntimeError(f"{self._kind.name} ({shown}), row {self._index}, {when}: it {what}")


def _vector_of_rows(kind: Kind, count: int) -> SyncVectorEnv:
    return SyncVectorEnv([partial(Row, kind, index) for index in range(count)])


@final
class Bundle(gymnasium.Env[Any, Any]):
    """Several rows as one environment with arrays for actions and observations: what one worker process runs.

    Rewards, ends and faults travel in the info; what ``step`` returns in their place says nothing.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, kind: Kind, index: int, count: int) -> None:
        self._kind, self._index, self._count = kind, index, count
        self.observation_space = batch_space(kind.observation_space, count)
        self.action_space = batch_space(kind.action_space, count)
        self._rows: SyncVectorEnv | None = None  # made where it is first used: in the worker

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every row with ``options["parts"][index]``: their seeds and constants."""
        seeds, constants = (options or {})["parts"][self._index]
        try:
            self._rows = self._rows or _vector_of_rows(self._kind, self._count)
            return self._rows.reset(seed=seeds, options={"constants": constants})[0], {"fault": ""}
        except Exception as error:
            return self._nothing(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of every row."""
        if self._rows is None:
            raise RuntimeError("Bundle: expected a reset before the first step; call reset")
        try:
            observation, reward, terminated, _, _ = self._rows.step(action)
            info = {"reward": reward, "terminated": terminated, "fault": ""}
        except Exception as error:
            observation, info = self._nothing(error)
        return observation, 0.0, False, False, info

    def close(self) -> None:
        """Close every row."""
        if self._rows is not None:
            self._rows.close()

    def _nothing(self, error: Exception) -> tuple[Any, dict[str, Any]]:
        empty = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        flags = np.zeros(self._count)
        return empty, {"reward": flags, "terminated": flags > 0, "fault": f"{error}"}


class Rows(ABC):
    """n rows that begin and step together."""

    @abstractmethod
    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """Begin an episode in every row; first observations ``[n, ...]``."""

    @abstractmethod
    def step(self, actions: Array) -> Outcome:
        """One step of every row; ``actions`` is ``[n, ...]``."""

    @abstractmethod
    def close(self) -> None:
        """Close every environment, whatever state it is in; again does nothing."""


@final
class LocalRows(Rows):
    """Rows in this process, one after the other."""

    def __init__(self, kind: Kind, count: int) -> None:
        self._rows = _vector_of_rows(kind, count)

    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """See `Rows`."""
        return np.asarray(self._rows.reset(seed=list(seeds), options={"constants": constants})[0])

    def step(self, actions: Array) -> Outcome:
        """See `Rows`."""
        observation, reward, terminated, _, _ = self._rows.step(actions)
        return Outcome(np.asarray(observation), reward, terminated)

    def close(self) -> None:
        """See `Rows`."""
        self._rows.close()


@final
@dataclass
class WorkerRows(Rows):
    """Rows shared out evenly to worker processes.

    Workers are spawned, not forked: a fork copies locks and threads that it cannot use, and keeps its
    siblings' pipes open, so that workers would outlive a parent that was killed.
    """

    kind: Kind
    count: int
    workers: int
    timeout: float
    _vector: AsyncVectorEnv = field(init=False)
    _places: Array = field(init=False)  # [workers, rows each]: who serves which row; the last may serve it twice

    def __post_init__(self) -> None:
        workers = min(self.workers, self.count)
        each = math.ceil(self.count / workers)
        workers = math.ceil(self.count / each)
        self._places = np.minimum(np.arange(workers * each), self.count - 1).reshape(workers, each)
        bundles = [partial(Bundle, self.kind, index, each) for index in range(workers)]
        with _Watch(self):
            self._vector = AsyncVectorEnv(bundles, context="spawn", autoreset_mode=AutoresetMode.DISABLED)

    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """See `Rows`.

        Raises:
            TimeoutError: a worker gave no answer in time.
            RuntimeError: an environment raised, or a worker died.
        """
        parts = [([seeds[i] for i in places], [constants[i] for i in places]) for places in self._places]
        with _Watch(self):
            self._vector.reset_async(options={"parts": parts})
            observation, infos = self._vector.reset_wait(timeout=self.timeout)
        self._refuse_faults(infos)
        return self._gather(observation)

    def step(self, actions: Array) -> Outcome:
        """See `Rows`.

        Raises:
            TimeoutError: a worker gave no answer in time.
            RuntimeError: an environment raised, or a worker died.
        """
        with _Watch(self):
            self._vector.step_async(actions[self._places])
            observation, _, _, _, infos = self._vector.step_wait(timeout=self.timeout)
        self._refuse_faults(infos)
        return Outcome(self._gather(observation), self._gather(infos["reward"]), self._gather(infos["terminated"]))

    def close(self) -> None:
        """See `Rows`."""
        if self._vector.closed:
            return
        self._vector.closed = True  # Gymnasium's own close waits for workers that may never answer
        for pipe in self._vector.parent_pipes:
            with suppress(OSError):
                pipe.send(("close", None))
        deadline = time.monotonic() + GRACE
        for process in self._vector.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._vector.parent_pipes:
            pipe.close()

    def _gather(self, values: Any) -> Array:
        """``[workers, rows each, ...]`` as ``[n, ...]``."""
        array = np.asarray(values)
        return array.reshape(-1, *array.shape[2:])[: self.count]

    def _refuse_faults(self, infos: Mapping[str, Any]) -> None:
        faults = [fault for fault in infos["fault"] if fault]
        if faults:
            raise RuntimeError(faults[0])


class _Watch:
    """Says in one line what became of workers that do not answer."""

    def __init__(self, rows: WorkerRows) -> None:
        self._rows = rows

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        name = self._rows.kind.name
        if isinstance(error, multiprocessing.TimeoutError):
            raise TimeoutError(
                f"{name}: no answer from its workers within {self._rows.timeout:g} s; an environment hangs, or give"
                " a longer timeout="
            ) from None
        if isinstance(error, EOFError | OSError):
            raise RuntimeError(
                f"{name}: a worker process died; run with workers=0 to see why (a script that starts workers needs"
                " if __name__ == '__main__')"
            ) from error
