"""Interface to Stable-Baselines3: environments for its algorithms, and policies and step sizes for its PPO.

With `adaptation_settings`, PPO takes one adaptation step of a learner on a rollout::

    env = TaskVecEnv(family, task, episodes=20)
    settings = adaptation_settings(plan.support, env, n_steps=family.horizon)
    model = with_learned_rates(to_ppo(policy, policy.initial(), env, **settings), learner)
    model.learn(settings["batch_size"])
    model = to_ppo(policy, from_ppo(policy, model), env)  # continue with ordinary PPO

This is the only module that imports stable_baselines3, and no other module imports it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete, Space
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
from torch import Tensor, nn

from metarl import checks
from metarl.advantages import Advantages
from metarl.export import ACTIVATIONS, PerParameterSGD, learned_rates, mlp_of, times_scale, to_module
from metarl.learner import Learner
from metarl.losses import WeightedSum, reads_rewards
from metarl.policies import GaussianPolicy, Policy, complete
from metarl.returns import gae
from metarl.rollouts import task_count
from metarl.types import Batch, Params, State, Task, TaskFamily, expect_family

PARTS = ("weight", "bias")
VALUE_RATE = 1e-3  # step size of the value network, for which none are learned


@final
class TaskVecEnv(VecEnv):
    """``T * episodes`` environments of a family as one SB3 ``VecEnv``, stepped together as tensors.

    Row ``t * episodes + n`` is the n-th environment of task t, and keeps its task over all episodes unless ``fresh`` is
    given. As usual in SB3, a row whose episode ends is reset in the same step. ``infos[row]["terminal_observation"]``
    then holds the episode's last observation, and ``infos[row]["TimeLimit.truncated"]`` is true if only the time limit
    ended it, so that SB3 bootstraps its value.

    Args:
        family: the environments. Its state must be tensors, so that single rows can be reset; a family of live
            environments, such as ``envs.adapters.GymnasiumFamily``, is not supported.
        task: values ``[T]``, for example from ``benchmark.sample(...)``.
        episodes: environments per task.
        seed: seed of the first reset; ``env.seed(...)`` sets that of the next one. Avoid the seed of torch's global
            generator, from which SB3 draws networks and actions: both would draw the same numbers. ``PPO(seed=)`` seeds
            the environment and torch equally; calling ``env.seed(...)`` afterwards separates them.
        fresh: draws a given number of tasks, values ``[n]``; every row gets a new one when its episode has ended, while
            `reset` starts from the tasks given. For training on a distribution of tasks (domain randomization).

    Raises:
        TypeError: ``family`` is not a family, or is live.
        ValueError: no tasks, constants of different lengths, constants that the family's ``validate`` rejects, or
            ``episodes`` below 1.
    """

    def __init__(
        self,
        family: TaskFamily,
        task: Task,
        episodes: int = 1,
        *,
        seed: int = 0,
        fresh: Callable[[int], Task] | None = None,
    ) -> None:
        expect_family(family)
        if getattr(family, "live", False):
            raise TypeError(
                f"expected a family whose rows can be reset individually, got {type(family).__name__}, which is live;"
                " use SB3's DummyVecEnv or SubprocVecEnv with one FamilyEnv per row, each with its own family"
            )
        checks.whole("episodes", episodes)
        checks.whole("number of tasks", task_count(task))
        self._family, self._episodes, self._fresh = family, episodes, fresh
        self._rows = self._repeated(task)
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
        """Use other values ``[T]`` from the next reset on.

        Raises:
            ValueError: another number of tasks, or constants that the family's ``validate`` rejects.
        """
        if task_count(task) * self._episodes != self.num_envs:
            raise ValueError(
                f"expected {self.num_envs // self._episodes} tasks, got {task_count(task)}; make a new VecEnv"
            )
        self._upcoming = self._repeated(task)

    def reset(self) -> np.ndarray:
        """Reset all rows; return their first observations ``[num_envs, *observation]``.

        Raises:
            ValueError: reset options were set; there are none.
        """
        if any(self._options):
            raise ValueError("reset: expected no options; set tasks with set_task")
        if self._seeds[0] is not None:
            self._generator = torch.Generator().manual_seed(self._seeds[0])
        self._reset_seeds()
        self._rows = self._upcoming
        self._state = self._family.reset(self._rows, (self.num_envs,), generator=self._generator)
        self._steps[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Store actions ``[num_envs, *action]`` for `step_wait`; the family clips continuous ones to its bounds.

        Raises:
            ValueError: actions of another shape, not finite, or outside a discrete action space.
        """
        space, given = self.action_space, np.asarray(actions)
        expected = (self.num_envs, *(space.shape or ()))
        if given.shape != expected:
            raise ValueError(f"actions: expected shape {expected}, got {given.shape}; give one per row")
        if isinstance(space, Discrete):
            if given.dtype.kind not in "iu" or ((given < 0) | (given >= space.n)).any():
                raise ValueError(f"actions: expected integers from 0 to {space.n - 1}, got {_shown(given)}")
        elif given.dtype.kind not in "iuf" or not np.isfinite(given).all():
            raise ValueError(f"actions: expected finite numbers, got {_shown(given)}; check the policy")
        dtype = np.int64 if isinstance(space, Discrete) else np.float32
        self._actions = torch.from_numpy(given.astype(dtype))  # a copy

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row; return observations, rewards (float32), dones and infos.

        Raises:
            RuntimeError: `reset` or `step_async` was not called before.
        """
        if self._actions is None or not self._state:
            raise RuntimeError("step_wait: expected earlier calls of reset and step_async; call them first")
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
        """Do nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return a task constant of each row, or ``render_mode``, which is None; rows have no other attributes."""
        count = len(list(self._get_indices(indices)))
        if attr_name == "render_mode":
            return [None] * count
        if attr_name in self._rows:
            return self._rows[attr_name][list(self._get_indices(indices))].tolist()
        raise AttributeError(f"rows have no {attr_name!r}; known are render_mode, {', '.join(self._rows)}")

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raise an error, as rows have no attributes to set; see `set_task`."""
        raise AttributeError(f"{attr_name}: rows have no attributes that can be set; set tasks with set_task")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Raise an error, as rows are not objects and have no methods."""
        raise AttributeError(f"rows have no method {method_name!r}: they are rows of tensors")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for every row."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return None for every row: this module cannot render environments."""
        return [None] * self.num_envs

    def _repeated(self, task: Task) -> dict[str, Tensor]:
        """Return the constants of every row; validate them first, so that errors do not show up only in an episode."""
        validate = getattr(self._family, "validate", None)
        if validate is not None:
            validate(task)
        return {name: value.cpu().repeat_interleave(self._episodes) for name, value in task.items()}

    def _start_again(self, rows: np.ndarray) -> None:
        """Reset some rows, out of place, because a family may share tensors between states."""
        index = torch.from_numpy(rows)
        if self._fresh is not None:
            drawn = self._fresh(len(rows))
            self._rows = {name: value.index_copy(0, index, drawn[name].cpu()) for name, value in self._rows.items()}
        task = {name: value[index] for name, value in self._rows.items()}
        first = self._family.reset(task, (len(rows),), generator=self._generator)
        self._state = {name: value.index_copy(0, index, first[name]) for name, value in self._state.items()}
        self._steps[rows] = 0

    def _observe(self) -> np.ndarray:
        space: Space[Any] = self.observation_space
        return self._family.observe(self._rows, self._state).numpy().astype(space.dtype)  # a copy


def _shown(values: np.ndarray) -> str:
    """Return an array as one line of text, leaving out the middle if it is long."""
    return " ".join(np.array2string(values, threshold=20).split())


def to_ppo(policy: Policy, params: Mapping[str, Tensor], env: Any, **settings: Any) -> PPO:
    """Return a Stable-Baselines3 PPO model with this policy's action distribution and a newly drawn value network.

    Args:
        policy: a policy that `metarl.export.to_module` supports.
        params: parameters of one task: the initialization, or adapted ones.
        env: an environment for SB3 with the policy's spaces, such as a `TaskVecEnv`.
        settings: keyword arguments of ``PPO``. SB3 draws the value network from torch's global generator, seeded by
            ``seed`` if given.

    Raises:
        TypeError: a policy without a counterpart in SB3.
        ValueError: an environment whose spaces do not fit the policy, or settings that would change the network or its
            distribution.
    """
    network = mlp_of(policy)
    own = {"net_arch", "activation_fn", "features_extractor_class"} & set(settings.get("policy_kwargs") or {})
    if own:
        raise ValueError(f"the policy determines {', '.join(sorted(own))}: leave them out of policy_kwargs")
    if settings.get("use_sde"):
        raise ValueError("the policy determines σ, which use_sde would make depend on the state: leave use_sde out")
    source = to_module(policy, params)
    hidden = [layer.out_features for layer in list(source)[:-1] if isinstance(layer, nn.Linear)]
    shape = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": ACTIVATIONS[network.activation]}
    model = PPO("MlpPolicy", env, **{**settings, "policy_kwargs": {**(settings.get("policy_kwargs") or {}), **shape}})
    target = _network(model)
    with torch.no_grad():
        for (name, leaf), (_, given) in zip(target.named_parameters(), source.named_parameters(), strict=True):
            if leaf.shape != given.shape:
                shapes = f"{tuple(given.shape)}, the environment needs {tuple(leaf.shape)}"
                raise ValueError(f"the policy's layer {name} is {shapes}: use an environment with its spaces")
            leaf.copy_(given)
        if isinstance(policy, GaussianPolicy):
            model.policy.log_std.copy_(complete(policy, params)["log_std"].clamp_min(policy.min_log_std))
    return model


def _network(model: PPO) -> nn.Sequential:
    return nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)


def from_ppo(policy: Policy, model: PPO) -> Params:
    """Return the parameters with which ``policy`` acts like the model, as copies; the inverse of `to_ppo`.

    If the model's log σ is below the policy's ``min_log_std``, the policy still acts with the latter.

    Args:
        policy: as for `to_ppo`; only the names and shapes of its parameters are used.
        model: the result of `to_ppo`, or any PPO model of the same architecture.

    Raises:
        TypeError: a policy without a counterpart in SB3.
        ValueError: a model of another architecture.
    """
    network = mlp_of(policy)
    leaves = list(_network(model).parameters())
    if isinstance(policy, GaussianPolicy):
        leaves.append(model.policy.log_std)
    params = dict(policy.named_parameters())  # including frozen ones, which the model may have trained
    names = [name for name in params if name != "log_std"] + ["log_std"] * ("log_std" in params)
    own = [tuple(params[name].shape) for name in names]
    theirs = [tuple(leaf.shape) for leaf in leaves]
    if own != theirs:
        raise ValueError(f"expected a model with the policy's parameters {own}, got {theirs}; use one from to_ppo")
    return times_scale(network, {name: leaf.detach().clone() for name, leaf in zip(names, leaves, strict=True)}, 1)


def with_learned_rates(model: PPO, learner: Learner) -> PPO:
    """Make a model of `to_ppo` train with the learner's step sizes: plain gradient descent, one rate per parameter.

    The rates were learned for the learner's own gradients, which `adaptation_settings` reproduces. The value network,
    for which no rates were learned, uses `VALUE_RATE`. ``model.save`` and ``PPO.load`` preserve the rates.

    Args:
        model: its optimizer and its learning-rate schedule, which now scales all rates, are replaced in place.
        learner: its rule holds the rates; see `metarl.export.learned_rates`.

    Returns:
        The same model.

    Raises:
        ValueError: the rule does more than multiply the gradient by a step size per parameter, or the inner loss is
            learned, uses rewards or is a sum, so that its gradient is not that of PPO's loss.
    """
    learned = learned_rates(learner)
    if isinstance(learner.inner, nn.Module | WeightedSum) or reads_rewards(learner.inner):
        raise ValueError(
            f"the step sizes were learned for gradients of {type(learner.inner).__name__}, which PPO's loss does not "
            "have: expected a learner with the inner loss lvc or vpg; adapt this one with metarl.adapt"
        )
    network = mlp_of(learner.policy)
    rates = times_scale(network, learned, -2)
    layers = [*(f"network.hidden.{i}" for i in range(len(network.hidden))), "network.head"]
    flat: list[Tensor | float] = [rates.get(f"{layer}.{part}", 0.0) for layer in layers for part in PARTS]  # 0: frozen
    leaves = [*model.policy.mlp_extractor.policy_net.parameters(), *model.policy.action_net.parameters()]
    if isinstance(learner.policy, GaussianPolicy):
        leaves, flat = [*leaves, model.policy.log_std], [*flat, rates.get("log_std", 0.0)]
    own = {id(leaf): rate for leaf, rate in zip(leaves, flat, strict=True)}
    parameters = list(model.policy.parameters())
    model.policy.optimizer = PerParameterSGD(parameters, [own.get(id(leaf), VALUE_RATE) for leaf in parameters])
    kept = {name: value for name, value in model.policy_kwargs.items() if name != "optimizer_kwargs"}
    model.policy_kwargs = {**kept, "optimizer_class": _unset_rates}  # PPO.load builds it, then restores the saved rates
    model.learning_rate, model.lr_schedule = 1.0, _one
    return model


def _unset_rates(parameters: Iterable[nn.Parameter], lr: float) -> PerParameterSGD:
    """Build the optimizer for ``PPO.load``, in the parameter order of `with_learned_rates`; ``lr`` is always 1."""
    del lr
    given = list(parameters)
    return PerParameterSGD(given, [0.0] * len(given))


def adaptation_settings(advantages: Advantages, env: VecEnv, n_steps: int) -> dict[str, Any]:
    """Return settings for `to_ppo` with which one PPO update has the gradient of one adaptation step.

    At the sampling parameters, the gradient of PPO's clipped loss is that of `metarl.losses.lvc` and ``vpg``. It is the
    learner's gradient if the whole rollout is one minibatch of one epoch, no gradient is clipped, no entropy or value
    loss is added, and the advantages are estimated as the learner does, from whole episodes. `LearnerBuffer` does the
    latter, so that ``gamma`` and ``gae_lambda`` have no effect. The value network is not trained.

    A rollout of n_steps contains too few long episodes, because these are less likely to end in it. For the episodes it
    contains, the step is the learner's; but averaged over many rollouts, it matches the learner's step only if n_steps
    is several times the longest episode. (Example: CartPole with at most 60 steps, episodes of 22 on average and no
    baseline. With n_steps of 60, the episodes used have 20 steps on average, and the mean step is 0.68 of the
    learner's.) `train_on`, in contrast, uses the same number of whole episodes as a learner.

    Args:
        advantages: those of the learner's inner loss, such as ``plan.support``.
        env: the environment to train the model on.
        n_steps: steps of a rollout in every row; several times the length of an episode.

    Raises:
        TypeError: ``advantages`` is not an `Advantages`, or ``env`` is not a ``VecEnv``.
        ValueError: advantages that bootstrap at the time limit, because a rollout does not store the last states.
    """
    checks.of_type("advantages", advantages, Advantages, "advantages, such as plan.support")
    checks.of_type("env", env, VecEnv, "an SB3 VecEnv, such as DummyVecEnv([lambda: env])")
    checks.whole("n_steps", n_steps)
    if advantages.time_limit != "terminal":
        raise ValueError("expected advantages with time_limit='terminal': a rollout does not store the last states")
    return {
        "n_steps": n_steps,
        "batch_size": n_steps * env.num_envs,
        "n_epochs": 1,
        "gamma": 0.0,  # otherwise SB3 adds the discounted value of the last state to the reward of a truncated step
        "normalize_advantage": False,
        "ent_coef": 0.0,
        "vf_coef": 0.0,
        "max_grad_norm": math.inf,
        "rollout_buffer_class": LearnerBuffer,
        "rollout_buffer_kwargs": {"advantages": advantages},
    }


@final
class LearnerBuffer(RolloutBuffer):
    """PPO's rollout buffer ``[n_steps, n_envs]`` with advantages estimated as a learner does, from whole episodes.

    Steps of episodes that began before the rollout or continue after it get advantage zero. The other advantages are
    scaled by the number of all steps over the number of steps in whole episodes, so that a mean over the rollout equals
    the mean over whole episodes.

    Args:
        args: positional arguments of SB3's buffer.
        advantages: those of the learner, such as ``plan.support``.
        kwargs: keyword arguments of SB3's buffer.
    """

    def __init__(self, *args: Any, advantages: Advantages, **kwargs: Any) -> None:
        self._advantages = advantages
        super().__init__(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Fill in ``advantages``, and ``returns`` as SB3 defines them (advantages plus values).

        Raises:
            ValueError: no episode began and ended within the rollout.
        """
        starts = self.episode_starts.astype(bool)
        number = starts.cumsum(0)  # number of the episode within its row, from 1; 0 if it began before the rollout
        whole = (number > 0) & ((number < number[-1]) | dones.astype(bool))
        if not whole.any():
            raise ValueError(f"no episode began and ended within {len(starts)} steps: expected a larger n_steps")
        time = np.arange(len(starts))[:, None]
        age = (time - np.maximum.accumulate(np.where(starts, time, 0), axis=0))[whole]
        column = np.unique((number + number[-1].cumsum() - number[-1])[whole], return_inverse=True)[1]

        def packed(values: np.ndarray) -> Tensor:  # to [H, episodes, ...], each episode aligned at its start
            padded = np.zeros((age.max() + 1, column.max() + 1, *values.shape[2:]), dtype=np.float32)
            padded[age, column] = values[whole]
            return torch.from_numpy(padded)

        observation, reward = packed(self.observations), packed(self.rewards)
        mask = packed(np.ones_like(self.rewards))
        ended = mask > torch.cat([mask[1:], torch.zeros_like(mask[:1])])  # nothing counts after it, not even values
        empty = torch.zeros_like(reward)
        last = torch.zeros_like(observation[0])  # not used without bootstrapping
        everywhere = torch.empty(0, dtype=torch.int64)
        batch = Batch(observation, empty, None, empty, reward, mask, ended, last, empty, empty, everywhere)
        self.advantages = np.zeros_like(self.rewards)
        self.advantages[whole] = self._advantages(batch).advantage.numpy()[age, column] * whole.size / whole.sum()
        self.returns = self.advantages + self.values


def train_on(model: PPO, batch: Batch) -> None:
    """Take one PPO update on whole episodes that were collected elsewhere, such as by `metarl.rollouts.collect`.

    PPO thus trains on the same number of episodes as a learner; SB3 itself can only collect a fixed number of steps.
    Advantages and returns are computed as in SB3, with the model's value network; an episode cut off by the time limit
    is bootstrapped.

    Args:
        model: trained in place, with its own numbers of epochs and minibatch size.
        batch: episodes of one task, ``[H, N, ...]``, sampled with the parameters of `from_ppo`.

    Raises:
        ValueError: episodes of several tasks.
    """
    if batch.mask.dim() != 2:
        raise ValueError(f"expected the episodes of one task [H, N], got {list(batch.mask.shape)}: index the task")
    real = batch.mask.T > 0  # [N, H]: one episode after the other
    buffer = RolloutBuffer(int(real.sum()), model.observation_space, model.action_space, device=model.device)
    with torch.no_grad():
        value = model.policy.predict_values(batch.observation.flatten(0, 1)).reshape(batch.mask.shape) * batch.mask
        last = model.policy.predict_values(batch.last_observation).squeeze(-1)
    factors = {"discount": model.gamma, "decay": model.gae_lambda}
    advantage = gae(batch.reward, value, last, terminated=batch.terminated, mask=batch.mask, **factors)

    def flat(values: Tensor) -> np.ndarray:  # [H, N, ...] to [steps, 1 row, ...]
        rows: np.ndarray = values.transpose(0, 1)[real].unsqueeze(1).cpu().numpy()
        return rows

    buffer.observations, buffer.rewards = flat(batch.observation), flat(batch.reward)
    buffer.actions = flat(batch.action).reshape(buffer.actions.shape)
    buffer.values, buffer.log_probs = flat(value), flat(batch.log_prob)
    buffer.advantages, buffer.returns = flat(advantage), flat(advantage + value)
    buffer.pos, buffer.full = buffer.buffer_size, True
    if not hasattr(model, "_logger"):  # SB3 creates one only when it starts to collect
        model.set_logger(Logger(None, []))
    own, model.rollout_buffer = model.rollout_buffer, buffer
    try:
        model.train()
    finally:
        model.rollout_buffer = own  # so that `model.learn` still works


def _one(progress: float) -> float:
    del progress
    return 1.0
