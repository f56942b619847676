"""Rows of live Gymnasium environments, in this process or distributed over worker processes.

A row runs one episode and then waits: after the end it repeats its last observation with reward 0, at no cost, until
the next episode is started with its own constants and seed. Rows are stepped together by Gymnasium's vector
environments. Their autoreset calls ``reset`` without options; a row treats this as the first filler step after the
end, so that no episode runs into the next one.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
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

GRACE = 2.0  # seconds for workers to close their environments before they are killed


def line(what: Any) -> str:
    """Return the message of an error, or any other text, as one line."""
    return " ".join(str(what).split())


def like(value: float, example: Any) -> Any:
    """Convert ``value`` to bool or int if the example is one, since environments may depend on the type.

    Of the value for an int only the integer part counts, as in splits; see ``Parameter.whole``.
    """
    if isinstance(example, bool | np.bool_):
        return bool(round(value))
    return math.floor(value) if isinstance(example, int | np.integer) else value


class Recipe(ABC):
    """A way to obtain an environment with given constants."""

    @abstractmethod
    def renew(self, env: Env | None, constants: Constants) -> Env:
        """Return an environment with these constants: ``env`` itself, modified, or a new one that replaces it."""


@final
@dataclass(frozen=True)
class Constructor(Recipe):
    """Passes constants as arguments to the environment's constructor, which has these defaults."""

    spec: EnvSpec
    defaults: Mapping[str, Any]
    kwargs: Mapping[str, Any]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """Return a new environment and close the old one."""
        _close(env)
        chosen = {name: like(value, self.defaults.get(name)) for name, value in constants.items()}
        return make(self.spec, {**self.kwargs, **chosen})


@final
@dataclass(frozen=True)
class Builder(Recipe):
    """Passes constants to a user-defined function that makes the environment."""

    build: Callable[[Constants], Env]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """Return a new environment and close the old one."""
        _close(env)
        return self.build(dict(constants))


@final
@dataclass(frozen=True)
class Setter(Recipe):
    """Writes constants into the unwrapped environment."""

    spec: EnvSpec
    write: Callable[[Any, Constants], None]
    kwargs: Mapping[str, Any]

    def renew(self, env: Env | None, constants: Constants) -> Env:
        """Return the same environment, made first if there is none."""
        ready = env or make(self.spec, self.kwargs)
        try:
            self.write(ready.unwrapped, dict(constants))
        except BaseException:
            if env is None:  # nobody else knows the new one
                ready.close()
            raise
        return ready


def make(spec: EnvSpec | str, kwargs: Mapping[str, Any]) -> Env:
    """Make an environment without Gymnasium's time limit, which the family applies, and without its step checks."""
    return gymnasium.make(spec, max_episode_steps=-1, disable_env_checker=True, **kwargs)


def write_attributes(unwrapped: Any, constants: Constants, examples: Mapping[str, Any]) -> None:
    """Write each constant to its attribute, in the type that the attribute had when the environment was made."""
    for name, value in constants.items():
        setattr(unwrapped, name, like(value, examples[name]))


def _close(env: Env | None) -> None:
    if env is not None:
        env.close()


class Kind(NamedTuple):
    """The properties shared by all rows of a family."""

    name: str  # for error messages
    recipe: Recipe
    observation_space: Space[Any]
    action_space: Box | Discrete
    horizon: int


class Outcome(NamedTuple):
    """The outcome of one step of n rows."""

    observation: Array  # [n, ...]
    reward: Array  # [n] float64
    terminated: Array  # [n] bool


@final
class Row(gymnasium.Env[Any, Any]):
    """One environment; ``options={"constants": [...]}`` of ``reset`` has the constants of all rows, one entry each.

    Error messages number rows from ``first``, which is not 0 in worker processes.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, kind: Kind, index: int, first: int = 0) -> None:
        self._kind, self._index, self._first = kind, index, first
        self.observation_space, self.action_space = kind.observation_space, kind.action_space
        self._env: Env | None = None
        self._constants: Constants = {}
        self._observation: Any = None
        self._steps = 0
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without options, stay at the end of the last one."""
        if options is None:
            return self._observation, {}
        constants: Constants = options["constants"][self._index]
        self._steps, self._over = 0, False
        try:
            # Setters always write again, since steps may have changed the values; rebuilding costs more, so only if
            # the constants differ.
            if self._env is None or constants != self._constants or isinstance(self._kind.recipe, Setter):
                self._env = self._kind.recipe.renew(self._env, constants)
                self._constants = constants
            observation, _ = self._env.reset(seed=seed)
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {line(error)}", seed) from error
        self._observation = self._checked(observation)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step, or a filler step after the end."""
        if self._over or self._env is None:
            return self._observation, 0.0, False, False, {}
        self._steps += 1
        try:
            observation, reward, terminated, truncated, _ = self._env.step(self._own(action))
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__}: {line(error)}") from error
        if truncated and not terminated and self._steps < self._kind.horizon:
            raise self._fault(
                f"truncated the episode before the horizon of {self._kind.horizon}; set horizon= to this step"
            )
        self._over = bool(terminated)
        self._observation = self._checked(observation)
        return self._observation, float(reward), self._over, False, {}

    def close(self) -> None:
        """Close the environment, if there is one."""
        _close(self._env)
        self._env = None

    def _own(self, action: Any) -> Any:
        """Convert the action to the environment's: add the first number of a discrete space, or clip to bounds."""
        space = self._kind.action_space
        if isinstance(space, Discrete):
            return np.int64(action + space.start)
        return np.clip(action, space.low, space.high).astype(space.dtype)

    def _checked(self, observation: Any) -> Any:
        space = self._kind.observation_space
        array = np.asarray(observation, dtype=space.dtype)
        if array.shape != space.shape:
            raise self._fault(f"returned an observation of shape {array.shape} instead of {space.shape}")
        rounded = np.issubdtype(array.dtype, np.integer) and bool((array != observation).any())
        if rounded or (isinstance(space, Discrete) and not space.contains(array)):
            raise self._fault(f"returned the observation {line(observation)}, which is not in {space}; correct either")
        return array

    def _fault(self, what: str, seed: int | None = None) -> RuntimeError:
        shown = ", ".join(f"{name}={value:g}" for name, value in self._constants.items())
        when = f"step {self._steps}" if self._steps else f"reset with seed {seed}"
        return RuntimeError(f"{self._kind.name} ({shown}), row {self._first + self._index}, {when}: it {what}")


def _vector_of_rows(kind: Kind, count: int, first: int = 0) -> SyncVectorEnv:
    return SyncVectorEnv([partial(Row, kind, index, first) for index in range(count)])


@final
class Bundle(gymnasium.Env[Any, Any]):
    """Several rows as one environment with arrays for actions and observations; each worker process runs one.

    Rewards, terminations and errors are in the info; the corresponding return values of ``step`` are placeholders.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, kind: Kind, index: int, count: int) -> None:
        self._kind, self._index, self._count = kind, index, count
        self.observation_space = batch_space(kind.observation_space, count)
        self.action_space = batch_space(kind.action_space, count)
        self._rows: SyncVectorEnv | None = None  # made at the first reset, in the worker process

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every row with its seed and constants from ``options["parts"][index]``."""
        seeds, constants = (options or {})["parts"][self._index]
        try:
            self._rows = self._rows or _vector_of_rows(self._kind, self._count, self._index * self._count)
            return self._rows.reset(seed=seeds, options={"constants": constants})[0], {"fault": ""}
        except Exception as error:
            return self._nothing(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step every row."""
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
    """n rows that start and step together."""

    @abstractmethod
    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """Start an episode in every row and return the first observations ``[n, ...]``."""

    @abstractmethod
    def step(self, actions: Array) -> Outcome:
        """Step every row; ``actions`` is ``[n, ...]``."""

    @abstractmethod
    def close(self) -> None:
        """Close every environment in whatever state it is; a second call does nothing."""


@final
class LocalRows(Rows):
    """Rows in this process, stepped one after the other."""

    def __init__(self, kind: Kind, count: int) -> None:
        self._rows = _vector_of_rows(kind, count)

    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """Start an episode in every row; see `Rows.begin`."""
        return np.asarray(self._rows.reset(seed=list(seeds), options={"constants": constants})[0])

    def step(self, actions: Array) -> Outcome:
        """Step every row; see `Rows.step`."""
        observation, reward, terminated, _, _ = self._rows.step(actions)
        return Outcome(np.asarray(observation), reward, terminated)

    def close(self) -> None:
        """Close every environment."""
        self._rows.close()


@final
@dataclass
class WorkerRows(Rows):
    """Rows distributed evenly over worker processes.

    Workers are spawned, not forked: a forked process inherits locks and threads that it cannot use, and keeps the
    pipes of its siblings open, so that workers would outlive a parent that was killed.
    """

    kind: Kind
    count: int
    workers: int
    timeout: float
    _vector: AsyncVectorEnv = field(init=False)
    _places: Array = field(init=False)  # [workers, rows each]: the rows of each worker; padded with the last row

    def __post_init__(self) -> None:
        workers = min(self.workers, self.count)
        each = math.ceil(self.count / workers)
        workers = math.ceil(self.count / each)
        self._places = np.minimum(np.arange(workers * each), self.count - 1).reshape(workers, each)
        bundles = [partial(Bundle, self.kind, index, each) for index in range(workers)]
        with _Watch(self), terminal_signals_blocked():
            self._vector = AsyncVectorEnv(bundles, context="spawn", autoreset_mode=AutoresetMode.DISABLED)

    def begin(self, seeds: list[int], constants: list[Constants]) -> Array:
        """Start an episode in every row; see `Rows.begin`.

        Raises:
            TimeoutError: a worker did not answer in time.
            RuntimeError: an environment raised an error, or a worker died.
        """
        parts = [([seeds[i] for i in places], [constants[i] for i in places]) for places in self._places]
        with _Watch(self):
            self._vector.reset_async(options={"parts": parts})
            observation, infos = self._vector.reset_wait(timeout=self.timeout)
        self._refuse_faults(infos)
        return self._gather(observation)

    def step(self, actions: Array) -> Outcome:
        """Step every row; see `Rows.step`.

        Raises:
            TimeoutError: a worker did not answer in time.
            RuntimeError: an environment raised an error, or a worker died.
        """
        with _Watch(self):
            self._vector.step_async(actions[self._places])
            observation, _, _, _, infos = self._vector.step_wait(timeout=self.timeout)
        self._refuse_faults(infos)
        return Outcome(self._gather(observation), self._gather(infos["reward"]), self._gather(infos["terminated"]))

    def close(self) -> None:
        """Close every environment and stop the workers, killing those that do not finish in time."""
        if self._vector.closed:
            return
        self._vector.closed = True  # Gymnasium's own close waits for workers that may never answer
        pipes = [pipe for pipe in self._vector.parent_pipes if pipe is not None]  # None: of a worker that has failed
        for pipe in pipes:
            with suppress(OSError):
                pipe.send(("close", None))
        deadline = time.monotonic() + GRACE
        for process in self._vector.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()

    def _gather(self, values: Any) -> Array:
        """Reshape ``[workers, rows each, ...]`` to ``[n, ...]``, without the padding."""
        array = np.asarray(values)
        return array.reshape(-1, *array.shape[2:])[: self.count]

    def _refuse_faults(self, infos: Mapping[str, Any]) -> None:
        faults = [fault for fault in infos["fault"] if fault]
        if faults:
            raise RuntimeError(faults[0])


@contextmanager
def terminal_signals_blocked() -> Iterator[None]:
    """Block ctrl-C and hang-ups, for good in the processes that are started in the body of the ``with``.

    A terminal sends them to workers, too, but it is for the parent to decide when to stop. Windows has no such signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it with the first worker would unblock ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Watch:
    """A context manager that turns errors of unresponsive or dead workers into a one-line message."""

    def __init__(self, rows: WorkerRows) -> None:
        self._rows = rows

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        name = self._rows.kind.name
        if isinstance(error, multiprocessing.TimeoutError):
            raise TimeoutError(
                f"{name}: no answer from its workers within {self._rows.timeout:g} s; check whether an environment"
                " hangs, or give a longer timeout="
            ) from None
        if isinstance(error, EOFError | OSError):
            raise RuntimeError(
                f"{name}: a worker process died; run with workers=0 to see why (a script that starts workers needs"
                " if __name__ == '__main__')"
            ) from error
