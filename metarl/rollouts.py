"""Sampling: act on ``[T, N]`` environments at once and record what happened, without a graph.

All noise of a rollout is drawn before its first step, so that the noise a step sees does not depend on
how long episodes live: two policies rolled out from equal generators act on common noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from metarl.policies import Policy
from metarl.types import Batch, Params, Task, TaskFamily

CHECK_EVERY = 8  # steps between looks at whether every episode has ended: a look is a host synchronisation


class NonFiniteError(RuntimeError):
    """An environment or a policy produced NaN or infinity on a step that counts."""


def per_row(task: Task) -> dict[str, Tensor]:
    """Task values ``[T]`` as ``[T, 1]``, to broadcast against ``[T, N]`` rows."""
    return {name: value.unsqueeze(-1) for name, value in task.items()}


def task_count(task: Task) -> int:
    """How many tasks a task set holds.

    Raises:
        ValueError: no constants, or constants that disagree.
    """
    counts = {name: len(value) for name, value in task.items()}
    if not counts or len(set(counts.values())) != 1:
        raise ValueError(f"expected task constants of one common length [T], got {counts}")
    return next(iter(counts.values()))


@torch.no_grad()
def collect(
    policy: Policy,
    params: Mapping[str, Tensor],
    family: TaskFamily,
    task: Task,
    episodes: int,
    *,
    generator: torch.Generator,
    act: Literal["sample", "mode"] = "sample",
) -> Batch:
    """Roll out exactly ``episodes`` whole episodes on every task, ended by the task or by the time limit.

    Args:
        policy: maps parameters and observations to action distributions.
        params: shared by all tasks ``[...]``, or one set a task ``[T, ...]``.
        family: the environments.
        task: values ``[T]``, on the device to run on.
        episodes: N.
        generator: draws the first states and the actions' noise.
        act: ``"sample"``, or ``"mode"`` for the mean (Gaussian) or most likely (categorical) action.

    Returns:
        A batch ``[T, H, N, ...]``; H is the number of steps until the last episode was seen to have ended (a
        look every `CHECK_EVERY` steps), at most the family's horizon. Advantages and values are zero: an
        estimator fills them in.

    Raises:
        NonFiniteError: an observation, action or reward of a running episode is NaN or infinite.
    """
    rows = (task_count(task), episodes)
    constants = per_row(task)
    device = next(iter(task.values())).device
    state = family.reset(constants, rows, generator=generator)
    noise = policy.noise((family.horizon, *rows), generator=generator).to(device)
    observation = family.observe(constants, state)
    over = torch.zeros(rows, dtype=torch.bool, device=device)
    record: list[tuple[Tensor, ...]] = []
    distributions = []
    for t in range(family.horizon):
        distribution = policy(params, observation)
        action = distribution.mode() if act == "mode" else distribution.sample(noise[t])
        state, reward, terminated = family.step(constants, state, action)
        record.append((observation, action, reward, over, terminated))
        distributions.append(distribution)
        over = over | terminated
        observation = family.observe(constants, state)
        if t % CHECK_EVERY == CHECK_EVERY - 1 and over.all():
            break
    observations, actions, rewards, padding, ends = (torch.stack(column, dim=1) for column in zip(*record, strict=True))
    kind = type(distributions[0])
    distribution = kind(*(torch.stack(leaf, dim=1) for leaf in zip(*distributions, strict=True)))
    batch = _clean(observations, actions, distribution, rewards, padding, ends & ~padding, observation, over)
    _refuse_non_finite(batch)
    return batch


def _clean(
    observation: Tensor,
    action: Tensor,
    distribution: Any,
    reward: Tensor,
    padding: Tensor,
    terminated: Tensor,
    last_observation: Tensor,
    over: Tensor,
) -> Batch:
    """Zeros what lies after an episode's end: environments run on there, possibly to infinity."""

    def clean(x: Tensor, where: Tensor) -> Tensor:
        return x.masked_fill(where.reshape(where.shape + (1,) * (x.dim() - where.dim())), 0)

    if over.any():
        observation, action, reward = (clean(x, padding) for x in (observation, action, reward))
        distribution = type(distribution)(*(clean(leaf, padding) for leaf in distribution))
        last_observation = clean(last_observation, over)
    weight = (~padding).to(reward.dtype)
    log_prob = distribution.log_prob(action) * weight
    empty = torch.zeros_like(reward)
    return Batch(
        observation, action, distribution, log_prob, reward, weight, terminated, last_observation, empty, empty
    )


def _refuse_non_finite(batch: Batch) -> None:
    """One look at the whole rollout; on failure says which quantity broke first, in which task and step."""
    looked_at = {
        "observation": batch.observation,
        "action probability": batch.log_prob,
        "reward": batch.reward,
        "last observation": batch.last_observation.unsqueeze(1),
    }
    if all(bool(values.isfinite().all()) for values in looked_at.values()):
        return
    found = []
    for name, values in looked_at.items():
        bad = ~values.isfinite()
        for task, step, episode in (bad.flatten(3).any(-1) if bad.dim() > 3 else bad).nonzero().tolist():
            last = batch.mask.shape[1] if name == "last observation" else step
            found.append((last, task, episode, name))
    step, task, episode, name = min(found, key=lambda entry: entry[0])
    raise NonFiniteError(
        f"non-finite {name} in task {task}, episode {episode}, step {step}: expected finite numbers; "
        "check the family's physics, or lower the step sizes if the parameters have diverged"
    )


def to_device(task: Task, device: torch.device | str) -> Params:
    """The task set on another device."""
    return {name: value.to(device) for name, value in task.items()}
