"""One environment of a family as a ``gymnasium.Env``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, SupportsFloat, final

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete
from torch import Tensor

from ..family import Family, State
from .drawing import Frame, picture, scalars
from .sources import Source, Tasks, Values, known_options, own_spaces, read_action, stream, time_limit

RENDER_MODES = (None, "rgb_array")
FPS = 30

Observation = npt.NDArray[Any] | int  # an int if the space is Discrete


@final
class FamilyEnv(gymnasium.Env[Observation, Any]):
    """One environment of a family, which keeps its task until a new one is requested.

    The task is drawn at the first reset and at every reset with a seed; a reset without a seed starts the next episode
    of the same task. ``reset(options={"task": {"gravity": 12.0}})`` pins constants until this option is given again;
    ``options={"task": "sample"}`` unpins all and draws a new task. With a benchmark, the other constants are redrawn if
    pinning would move the task out of the split.

    An episode ended by the rules of the task is ``terminated``; one that reaches the time limit is ``truncated`` (or
    both, if they coincide, as with Gymnasium's ``TimeLimit``).

    Args:
        source: a family, from whose ranges tasks are drawn, or a benchmark. A live family is copied, so that
            environments can share it.
        task: constants to pin from the start, by name.
        split: split of the benchmark: ``"train"`` or a held-out split.
        max_episode_steps: time limit; None for the family's horizon, -1 for none.
        render_mode: None, or ``"rgb_array"``: ``[200, 300, 3]`` uint8, drawn without a display.

    Raises:
        ValueError: a split, constant or render mode is unknown, a constant has an invalid value, or actions are not
            counted from 0.
        TypeError: ``source`` is neither a family nor a benchmark, one of its spaces does not consist of numbers, or the
            time limit is not an integer.

    >>> from envs import CartPole
    >>> env = FamilyEnv(CartPole(), {"gravity": 12.0})
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, env.task["gravity"]
    ((4,), 12.0)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def __init__(
        self,
        source: Source,
        task: Values | None = None,
        *,
        split: str = "train",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._tasks = Tasks(source, split, task, 1)
        self._family = _own(self._tasks.family)
        self._limit = time_limit(self._family, max_episode_steps)
        self.render_mode = checked_render_mode(render_mode)
        self.observation_space, self.action_space = own_spaces(self._family)
        self._generator: torch.Generator | None = None
        self._drawn: dict[str, Tensor] = {}  # [1]
        self._task: dict[str, Tensor] = {}  # []
        self._state: State = {}
        self._steps = 0
        self._running = False

    @property
    def task(self) -> dict[str, float]:
        """The constants of the current episode by name; empty before the first reset. Hidden from the agent."""
        return {name: value.item() for name, value in self._task.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: determines everything from here on: the task, the first state and later resets.
            options: ``{"task": {name: value}}`` pins constants, ``{"task": "sample"}`` draws a new task.

        Returns:
            The first observation and an empty info.

        Raises:
            ValueError: an option or constant is unknown, a constant has an invalid value, or pinned constants leave no
                task in the split. The environment is then unchanged, except that random numbers have been consumed.
        """
        chosen = known_options(options).get("task")
        again = check_choice(chosen)
        before, generator = self._tasks.pins, self._generator
        try:
            if chosen is not None:
                self._tasks.pin({} if again else chosen, np.arange(1))
            super().reset(seed=seed)
            if seed is not None or generator is None:
                generator = stream(self.np_random)
                again = True
            drawn = self._tasks.draw(1, generator) if again else self._drawn
            self._drawn = self._tasks.keep(drawn, np.arange(1), generator)
        except Exception:  # not only ours: Gymnasium refuses a seed by an error of its own
            self._tasks.pins = before
            raise
        self._generator = generator
        self._task = {name: value[0] for name, value in self._tasks.put(self._drawn).items()}
        self._state = self._family.reset(self._task, (), generator=generator)
        self._steps, self._running = 0, True
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: an element of ``action_space``; the family clips continuous actions to its bounds.

        Returns:
            Observation, reward, terminated, truncated and an empty info.

        Raises:
            ResetNeeded: no episode is running: before the first reset, after the end of an episode or after ``close``.
            ValueError: the action has the wrong shape, is not finite or does not exist.
        """
        if not self._running:
            raise ResetNeeded("step: there is no episode, or it has ended; call reset first")
        tensor = read_action(self.action_space, action, ())
        state, reward, ended = self._family.step(self._task, self._state, tensor)
        self._state, self._steps = state, self._steps + 1
        terminated = bool(ended)
        truncated = self._limit is not None and self._steps >= self._limit
        self._running = not (terminated or truncated)
        return self._observe(), float(reward), terminated, truncated, {}

    def render(self) -> Frame | None:
        """Return a picture of the current state, ``[200, 300, 3]`` uint8; None without a render mode.

        Raises:
            ResetNeeded: before the first reset.
        """
        if self.render_mode is None:
            return None
        if not self._state:
            raise ResetNeeded("render: there is nothing to draw yet; call reset first")
        return picture(self._family, self.task, scalars(self._state), np.asarray(self._observe()))

    def close(self) -> None:
        """End the episode and close the environments of a live family; a reset starts another episode."""
        self._state, self._running = {}, False
        self._family = _own(self._family)  # discarding the old copy closes its live environments

    def _observe(self) -> Observation:
        seen = self._family.observe(self._task, self._state).numpy()
        if isinstance(self.observation_space, Discrete):
            return int(seen)
        return seen.astype(self.observation_space.dtype)  # a copy


def _own(family: Family) -> Family:
    """Return the family, or a copy if it is live: its resets end earlier episodes, also those of other users."""
    return copy.deepcopy(family) if family.live else family


def check_choice(chosen: Any) -> bool:
    """Return whether the option ``task`` requests a new draw.

    Raises:
        ValueError: the option is neither ``"sample"`` nor a mapping of constants.
    """
    if chosen is None or isinstance(chosen, Mapping):
        return False
    if chosen != "sample":
        raise ValueError(f"task: expected constants by name or 'sample', got {chosen!r}; give {{'gravity': 12.0}}")
    return True


def checked_render_mode(render_mode: str | None) -> str | None:
    """Return the render mode if it is supported.

    Raises:
        ValueError: it is not.
    """
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode: expected 'rgb_array' or None, got {render_mode!r}; choose one")
    return render_mode
