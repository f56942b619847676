"""Between stable-baselines3 and us: environments and tasks for its algorithms, policies and step sizes for its PPO.

The only module that imports stable_baselines3, and imported by no other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Space
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor, nn

from metarl.export import ACTIVATIONS, PerParameterSGD, learned_rates, mlp_of, to_module
from metarl.learner import Learner
from metarl.policies import GaussianPolicy, Policy
from metarl.rollouts import task_count
from metarl.types import State, Task, TaskFamily

PARTS = ("weight", "bias")


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


def to_ppo(policy: Policy, params: Mapping[str, Tensor], env: Any, **settings: Any) -> PPO:
    """Stable-Baselines3's PPO with this policy's action distribution; its value network is drawn afresh.

    Args:
        policy: see `metarl.export.to_module`.
        params: of one task: the initialization, or one task's adapted ones.
        env: what SB3 takes, such as a `TaskVecEnv`; with the policy's spaces.
        settings: of ``PPO``; SB3 draws the value network from torch's global numbers, or from ``seed``.

    Raises:
        TypeError: a policy that SB3 has no counterpart of.
        ValueError: spaces that are not the policy's, or ``policy_kwargs`` that would change the network.
    """
    network = mlp_of(policy)
    own = {"net_arch", "activation_fn"} & set(settings.get("policy_kwargs") or {})
    if own:
        raise ValueError(f"{', '.join(sorted(own))} follow from the policy: leave them out of policy_kwargs")
    source = to_module(policy, params)
    hidden = [layer.out_features for layer in list(source)[:-1] if isinstance(layer, nn.Linear)]
    shape = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": ACTIVATIONS[network.activation]}
    model = PPO("MlpPolicy", env, **{**settings, "policy_kwargs": {**(settings.get("policy_kwargs") or {}), **shape}})
    target = nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)
    with torch.no_grad():
        for (name, leaf), (_, given) in zip(target.named_parameters(), source.named_parameters(), strict=True):
            if leaf.shape != given.shape:
                shapes = f"{tuple(given.shape)}, the environment's needs {tuple(leaf.shape)}"
                raise ValueError(f"the policy's layer {name} is {shapes}: give an environment of the policy's spaces")
            leaf.copy_(given)
        if isinstance(policy, GaussianPolicy):
            model.policy.log_std.copy_(params["log_std"].clamp_min(policy.min_log_std))
    return model


def with_learned_rates(model: PPO, learner: Learner, *, value_lr: float = 1e-3) -> PPO:
    """Continue training a model of `to_ppo` by the learner's step sizes: plain descent, a rate for every parameter.

    Args:
        model: changed in place: its optimizer, and its learning-rate schedule, which from now on scales all rates.
        learner: whose rule holds the rates; see `metarl.export.learned_rates`.
        value_lr: step size of the value network, which has no learned ones.

    Raises:
        ValueError: the rule is more than a step size a parameter.
    """
    rates = learned_rates(learner)
    flat = [rates[f"network.hidden.{i}.{part}"] for i in range(len(mlp_of(learner.policy).hidden)) for part in PARTS]
    flat += [rates[f"network.head.{part}"] for part in PARTS]
    leaves = [*model.policy.mlp_extractor.policy_net.parameters(), *model.policy.action_net.parameters()]
    if "log_std" in rates:
        leaves, flat = [*leaves, model.policy.log_std], [*flat, rates["log_std"]]
    known = {id(leaf) for leaf in leaves}
    rest = [leaf for leaf in model.policy.parameters() if id(leaf) not in known]
    alphas: list[Tensor | float] = [*flat, *(value_lr for _ in rest)]
    model.policy.optimizer = PerParameterSGD([*leaves, *rest], alphas)
    model.learning_rate, model.lr_schedule = 1.0, _one
    return model


def _one(progress: float) -> float:
    del progress
    return 1.0
