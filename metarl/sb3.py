"""Families for stable-baselines3: its PPO and the like train on the same environments and tasks as we do.

The only module that imports stable_baselines3, and imported by no other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Space
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor

from metarl.rollouts import task_count
from metarl.types import State, Task, TaskFamily


@final
class TaskVecEnv(VecEnv):
    """``T * episodes`` environments of a family as one SB3 ``VecEnv``, all rows in the same few kernels.

    Row ``t * episodes + n`` is the n-th environment of task t, and keeps its task over episodes. As SB3
    has it, a row that ends starts again in the same step; ``infos[row]["terminal_observation"]`` is then what
    the episode ended with, and ``infos[row]["TimeLimit.truncated"]`` is true where only the clock ended it,
    so that SB3 bootstraps its value.

    Args:
        family: the environments. Its state must be data, so that some rows can start again alone: a family of
            live environments, as ``envs.adapters.GymnasiumFamily``, is refused by its own ``step``.
        task: values ``[T]``, such as ``benchmark.sample(...)`` returns.
        episodes: environments a task.
        seed: of the first reset; ``env.seed(...)`` changes it for the next one.

    Raises:
        ValueError: no tasks, constants of different lengths, or no episodes.
    """

    def __init__(self, family: TaskFamily, task: Task, episodes: int = 1, *, seed: int = 0) -> None:
        if episodes < 1 or task_count(task) < 1:
            raise ValueError(f"expected at least one task and episode, got {task_count(task)} and {episodes}")
        self._family, self._episodes = family, episodes
        self._rows = {name: value.cpu().repeat_interleave(episodes) for name, value in task.items()}
        self._upcoming = self._rows
        self._generator = torch.Generator().manual_seed(seed)
        self._state: State = {}
        self._actions: Tensor | None = None
        self._steps = np.zeros(task_count(task) * episodes, dtype=np.int64)
        spaces = (copy.deepcopy(family.observation_space), copy.deepcopy(family.action_space))
        super().__init__(len(self._steps), *spaces)

    @property
    def task(self) -> dict[str, Tensor]:
        """The constants of every row, ``[T * episodes]``."""
        return dict(self._rows)

    def set_task(self, task: Task) -> None:
        """Other values ``[T]`` from the next reset on.

        Raises:
            ValueError: another number of tasks.
        """
        if task_count(task) * self._episodes != self.num_envs:
            raise ValueError(
                f"expected {self.num_envs // self._episodes} tasks, got {task_count(task)}; make a new VecEnv"
            )
        self._upcoming = {name: value.cpu().repeat_interleave(self._episodes) for name, value in task.items()}

    def reset(self) -> np.ndarray:
        """First observations of all rows, ``[num_envs, *observation]``.

        Raises:
            ValueError: options were set, of which there are none here.
        """
        if any(self._options):
            raise ValueError("reset: expected no options; tasks are set by set_task")
        if self._seeds[0] is not None:
            self._generator = torch.Generator().manual_seed(self._seeds[0])
        self._reset_seeds()
        self._rows = self._upcoming
        self._state = self._family.reset(self._rows, (self.num_envs,), generator=self._generator)
        self._steps[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Take ``[num_envs, *action]`` for `step_wait`."""
        self._actions = torch.from_numpy(np.array(actions))

    def step_wait(self) -> VecEnvStepReturn:
        """One step of every row: observations, rewards (float32), dones and infos.

        Raises:
            RuntimeError: no actions were given, or no reset.
        """
        if self._actions is None or not self._state:
            raise RuntimeError("step_wait: expected reset and step_async before it; call them")
        actions, self._actions = self._actions, None
        self._state, reward, ended = self._family.step(self._rows, self._state, actions)
        self._steps += 1
        terminated = ended.numpy()
        truncated = (self._steps >= self._family.horizon) & ~terminated
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": late} for late in truncated.tolist()]
        observation = self._observe()
        if done.any():
            over = np.flatnonzero(done)
            for row in over:
                infos[row]["terminal_observation"] = observation[row].copy()
            self._start_again(over)
            observation = self._observe()
        return observation, reward.numpy().astype(np.float32), done, infos

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """``render_mode``, which is None, or a constant of each row; nothing else belongs to a single row."""
        count = len(list(self._get_indices(indices)))
        if attr_name == "render_mode":
            return [None] * count
        if attr_name in self._rows:
            return self._rows[attr_name][list(self._get_indices(indices))].tolist()
        raise AttributeError(f"rows have no {attr_name!r}; known are render_mode, {', '.join(self._rows)}")

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Rows have nothing to be set; see `set_task`."""
        raise AttributeError(f"{attr_name}: rows have no attributes to be set; tasks are set by set_task")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Rows are no objects and have no methods."""
        raise AttributeError(f"rows have no method {method_name!r}: they are rows of tensors")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """False for every row."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """No pictures: `metarl` knows no environment."""
        return [None] * self.num_envs

    def _start_again(self, rows: np.ndarray) -> None:
        """New episodes in some rows; never written in place, since a family may share tensors between states."""
        index = torch.from_numpy(rows)
        task = {name: value[index] for name, value in self._rows.items()}
        first = self._family.reset(task, (len(rows),), generator=self._generator)
        self._state = {name: value.index_copy(0, index, first[name]) for name, value in self._state.items()}
        self._steps[rows] = 0

    def _observe(self) -> np.ndarray:
        space: Space[Any] = self.observation_space
        return self._family.observe(self._rows, self._state).numpy().astype(space.dtype)  # a copy
