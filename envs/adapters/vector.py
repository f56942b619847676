"""Many environments of a family as one ``gymnasium.vector.VectorEnv``: all rows step in the same few kernels.

Gymnasium defines three autoreset modes, and this environment implements each as ``SyncVectorEnv`` does: reset in the
*next step*, whose action is ignored and whose reward is 0; reset in the *same step*, with the last observation in
``infos["final_obs"]``; or *disabled*, so that the caller resets the ended rows with ``options={"reset_mask": mask}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from ..checks import chosen, whole
from ..family import State, Task
from .drawing import Frame, picture, scalars
from .single import FPS, check_choice, checked_render_mode
from .sources import Indices, Source, Streams, Tasks, Values, known_options, own_spaces, read_action, time_limit

Array = npt.NDArray[Any]
Outcome = tuple[Array, Array, Array, Array, dict[str, Any]]


@final
class FamilyVectorEnv(VectorEnv[Array, Array, Array]):
    """``num_envs`` environments of a family, each with its own task.

    Tasks are drawn at the first reset and at every reset with a seed; a row keeps its task across episodes and
    autoresets. ``reset(options={"task": ...})`` works as in ``FamilyEnv``, with one number or ``[num_envs]`` numbers
    for every constant. After ``reset(seed=7)`` all rows share one stream of random numbers. After
    ``reset(seed=[7, 8, ...])`` every row has its own and behaves exactly like a ``FamilyEnv`` of that seed, but rows
    are reset one by one, which is slower.

    Args:
        source: a family, from whose ranges tasks are drawn, or a benchmark.
        num_envs: number of rows.
        task: constants to pin from the start, by name; each a number or ``[num_envs]``.
        split: split of the benchmark: ``"train"`` or a held-out split.
        autoreset_mode: an ``AutoresetMode`` or its value: ``"NextStep"``, ``"SameStep"``, ``"Disabled"``.
        max_episode_steps: time limit; None for the family's horizon, -1 for none.
        render_mode: None, or ``"rgb_array"``.

    Raises:
        ValueError: a split, constant, autoreset mode or render mode is unknown, a constant has an invalid value, or
            ``num_envs`` is below 1.
        TypeError: ``source`` is neither a family nor a benchmark, or is a live family, whose rows cannot be reset one
            at a time; or a count is not an integer.
    """

    def __init__(
        self,
        source: Source,
        num_envs: int,
        task: Values | None = None,
        *,
        split: str = "train",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.num_envs = num_envs = whole("num_envs", num_envs)
        self._tasks = Tasks(source, split, task, num_envs)
        self._family = self._tasks.family
        if self._family.live:
            raise TypeError(
                "expected a family whose rows can be reset individually, got "
                f"{type(self._family).__name__}, which is live; use gymnasium's SyncVectorEnv or AsyncVectorEnv with "
                "one FamilyEnv per row, each with its own family"
            )
        self._limit = time_limit(self._family, max_episode_steps)
        self.render_mode = checked_render_mode(render_mode)
        self._mode = _mode(autoreset_mode)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS, "autoreset_mode": self._mode}
        self.single_observation_space, self.single_action_space = own_spaces(self._family)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._streams = Streams()
        self._drawn: dict[str, Tensor] = {}
        self._task: dict[str, Tensor] = {}
        self._state: State = {}
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._over = np.zeros(num_envs, dtype=np.bool_)

    @property
    def task(self) -> dict[str, npt.NDArray[np.float32]]:
        """The constants of every row by name, ``[num_envs]`` float32; empty before the first reset."""
        return {name: value.numpy().copy() for name, value in self._task.items()}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: one for all rows, or one per row (None keeps the row's stream; all None is the same as None).
            options: ``{"task": ...}`` as in ``FamilyEnv``; ``{"reset_mask": [num_envs] bool}`` resets only the
                rows where it is true and leaves tasks and episodes of the others unchanged.

        Returns:
            Observations of all rows ``[num_envs, ...]`` and an empty info.

        Raises:
            ValueError: an option or constant is unknown, pinned constants leave no task in the split, the number of
                seeds is wrong, or the mask has another shape or no true entry. The environment is then unchanged,
                except that random numbers have been consumed.
            TypeError: the mask is not a NumPy array of bool.
            ResetNeeded: the mask of the first reset leaves out rows.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._refuse_closed()
        given = known_options(options, ("task", "reset_mask"))
        rows = self._masked(given)
        chosen = given.get("task")
        again = check_choice(chosen)
        before = self._tasks.pins, self._drawn, self._streams.copy()
        try:
            fresh = self._seed(seed, rows)
            if chosen is not None:
                self._tasks.pin({} if again else chosen, rows)
            self._renew_tasks(rows if again else fresh, rows)
        except Exception:
            self._tasks.pins, self._drawn, self._streams = before
            raise
        self._start(rows)
        self._over[rows] = False
        return self._observe(), {}

    def step(self, actions: Array) -> Outcome:
        """Step every row.

        Args:
            actions: ``[num_envs, *single_action_space.shape]``.

        Returns:
            Observations, rewards (float64), terminated, truncated, and infos with ``final_obs`` in the
            same-step mode.

        Raises:
            ResetNeeded: there was no reset yet, or a row's episode has ended and autoreset is disabled.
            ValueError: the actions have the wrong shape, are not finite or do not exist.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._refuse_closed()
        if not self._state:
            raise ResetNeeded("step: no episode has begun; call reset first")
        if self._mode is AutoresetMode.DISABLED and self._over.any():
            ended = np.flatnonzero(self._over).tolist()
            raise ResetNeeded(f"step: the episodes of rows {ended} have ended; reset them with options['reset_mask']")
        tensor = read_action(self.single_action_space, actions, (self.num_envs,))
        self._state, gained, ended_now = self._family.step(self._task, self._state, tensor)
        self._steps += 1
        reward = gained.numpy().astype(np.float64)
        terminated = ended_now.numpy().copy()
        late = np.zeros_like(terminated) if self._limit is None else self._steps >= self._limit
        infos: dict[str, Any] = {}
        if self._mode is AutoresetMode.NEXT_STEP and self._over.any():
            reward[self._over], terminated[self._over], late[self._over] = 0.0, False, False
            self._start(np.flatnonzero(self._over))
        self._over = terminated | late
        observation = self._observe()
        if self._mode is AutoresetMode.SAME_STEP and self._over.any():
            infos = _final(observation, self._over)
            self._start(np.flatnonzero(self._over))
            observation = self._observe()
        return observation, reward, terminated, late, infos

    def render(self) -> tuple[Frame, ...] | None:
        """Return a picture of every row, ``[200, 300, 3]`` uint8 each; None without a render mode.

        Raises:
            ResetNeeded: there was no reset yet.
            ClosedEnvironmentError: the environment has been closed.
        """
        self._refuse_closed()
        if self.render_mode is None:
            return None
        if not self._state:
            raise ResetNeeded("render: there is nothing to draw yet; call reset first")
        observation = self._observe()
        shown = [(scalars(self._task, row), scalars(self._state, row)) for row in range(self.num_envs)]
        return tuple(picture(self._family, *one, seen) for one, seen in zip(shown, observation, strict=True))

    def _masked(self, options: Mapping[str, Any]) -> Indices:
        """Return the rows to reset."""
        if "reset_mask" not in options:
            return np.arange(self.num_envs)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"reset_mask: expected a numpy array of bool, got {mask!r}; give one entry per row")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"reset_mask: expected shape ({self.num_envs},) with at least one true entry, got {mask}")
        if not self._state and not mask.all():
            raise ResetNeeded("reset_mask: no episode has begun; reset all rows first")
        return np.flatnonzero(mask)

    def _seed(self, seed: int | Sequence[int | None] | None, rows: Indices) -> Indices:
        """Seed the streams and return those of the rows that got a new stream and therefore need a new task."""
        if not (seed is None or isinstance(seed, int | np.integer)):
            if len(seed) != self.num_envs:
                raise ValueError(f"seed: expected one, or one for each of {self.num_envs} rows, got {len(seed)}")
            if all(one is None for one in seed):
                seed = None
        if seed is None or isinstance(seed, int | np.integer):
            super().reset(seed=None if seed is None else int(seed))
            if seed is None and all(self._streams.has(int(row)) for row in rows):
                return rows[:0]
            self._streams.seed(self.np_random)
            return rows
        fresh = [
            int(row) for row in rows if seed[row] is not None or self._streams.shared or not self._streams.has(row)
        ]
        for row in range(self.num_envs) if self._streams.shared else fresh:
            self._streams.seed_row(row, seeding.np_random(seed[row] if row in fresh else None)[0])
        return np.array(fresh, dtype=np.int64)

    def _renew_tasks(self, fresh: Indices, rows: Indices) -> None:
        """Draw new tasks for the fresh rows, and for reset rows that pinned values move out of the split."""

        def kept(some: Indices, generator: torch.Generator) -> Task:
            index = torch.from_numpy(some)
            return self._tasks.keep({name: value[index] for name, value in self._drawn.items()}, some, generator)

        if len(fresh):
            part = self._streams.draw(fresh, lambda some, generator: self._tasks.draw(len(some), generator))
            self._drawn = _into(self._drawn, fresh, part, self.num_envs)
        self._drawn = _into(self._drawn, rows, self._streams.draw(rows, kept), self.num_envs)
        self._task = self._tasks.put(self._drawn)

    def _start(self, rows: Indices) -> None:
        """Start new episodes in these rows."""

        def first(some: Indices, generator: torch.Generator) -> Task:
            index = torch.from_numpy(some)
            task = {name: value[index] for name, value in self._task.items()}
            return self._family.reset(task, (len(some),), generator=generator)

        self._state = _into(self._state, rows, self._streams.draw(rows, first), self.num_envs)
        self._steps[rows] = 0

    def _observe(self) -> Array:
        seen = self._family.observe(self._task, self._state).numpy()
        return seen.astype(self.single_observation_space.dtype)  # a copy

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("the environment is closed; make a new one")


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    return AutoresetMode(chosen("autoreset_mode", mode, [one.value for one in AutoresetMode]))


def _into(whole: Task, rows: Indices, part: Task, count: int) -> dict[str, Tensor]:
    """Return ``whole`` with ``part`` in the given rows; not in place, because its tensors may be shared."""
    if len(rows) == count:
        return dict(part)
    index = torch.from_numpy(rows)
    return {name: whole[name].index_copy(0, index, value) for name, value in part.items()}


def _final(observation: Array, over: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the infos of the same-step mode in the format of ``SyncVectorEnv``."""
    last = np.full(len(over), None, dtype=object)
    for row in np.flatnonzero(over):
        last[row] = observation[row].copy()
    return {"final_obs": last, "_final_obs": over.copy(), "final_info": {}, "_final_info": over.copy()}
