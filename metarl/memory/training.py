"""Training of agents with a memory: clipped PPO on segments of trials."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.advantages import normalize
from metarl.errors import DivergedError
from metarl.losses import Clipped, masked_mean, negative_entropy, sample_kl
from metarl.memory.agent import MemoryPolicy
from metarl.memory.trials import TrialBatch, TrialFamily, collect_trials
from metarl.returns import gae
from metarl.rollouts import to_device
from metarl.trees import map_leaves
from metarl.types import Batch, Benchmark

Metrics = dict[str, float]


@dataclass(frozen=True)
class MemoryPlan:
    """How an agent with a memory is trained.

    Attributes:
        tasks: T, tasks per iteration.
        trials: N, trials per task.
        discount: γ over the steps of a whole trial, across the ends of episodes.
        decay: GAE's λ.
        segment: length in steps of truncated backpropagation through time; None for whole trials.
        minibatch: segments per gradient step.
        epochs: number of passes over all segments.
        clip: PPO's ε.
        value_weight: weight of the critic's squared error, which is in units of the values' variance.
        entropy_weight: weight of the entropy bonus.
        max_norm: clip gradients to this norm.
    """

    tasks: int = 20
    trials: int = 5
    discount: float = 0.99
    decay: float = 0.95
    segment: int | None = 64
    minibatch: int = 64
    epochs: int = 4
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.0
    max_norm: float = 0.5

    def __post_init__(self) -> None:
        """Reject values of a wrong type or out of range."""
        for name in ("tasks", "trials", "minibatch", "epochs", *(["segment"] if self.segment is not None else [])):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)}")
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("discount", "decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("clip", "max_norm"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("value_weight", "entropy_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")


class Segments(NamedTuple):
    """S segments of trials, with L steps each; the unit of training.

    The batch's ``mask`` holds weights that have the same sum for every task, so that masked means in losses are means
    over tasks. The weights are 1 on average, and 0 on padding.
    """

    batch: Batch  # [L, S, ...]
    target: Tensor  # [L, S], target of the critic, in units of reward
    start: Tensor  # [S, M], memory before the first step


def trial_advantages(trials: TrialBatch, plan: MemoryPlan) -> Tensor:
    """Return generalised advantages ``[T, H, N]`` over whole trials, not normalised.

    Discounting continues across the ends of episodes. At the end of the trial nothing is bootstrapped, because nothing
    follows it.
    """
    batch = trials.batch
    return gae(
        batch.reward,
        batch.value,
        torch.zeros_like(batch.value[..., -1, :]),
        terminated=batch.terminated,
        mask=batch.mask,
        discount=plan.discount,
        decay=plan.decay,
    )


def segments(trials: TrialBatch, plan: MemoryPlan) -> Segments:
    """Cut trials ``[T, H, N, ...]`` into segments ``[L, S, ...]``, leaving out segments that are all padding.

    Advantages are normalised per task and all tasks have equal weight, as everywhere in metarl. This matters even more
    here: an agent that does well on some tasks only, without identifying the task, collects most of its steps on them,
    and these steps would reinforce its behaviour.
    """
    batch, horizon = trials.batch, trials.batch.mask.shape[1]
    length = min(plan.segment or horizon, horizon)
    advantage = trial_advantages(trials, plan)
    steps = batch.steps[:, None, None].clamp_min(1.0)

    def cut(x: Tensor) -> Tensor:
        tasks, _, rows, *rest = x.shape
        padding = x.new_zeros(tasks, -horizon % length, rows, *rest)
        return torch.cat((x, padding), 1).reshape(tasks, -1, length, rows, *rest).movedim(2, 0).flatten(1, 3)

    whole = batch._replace(
        mask=batch.mask * steps.mean() / steps,
        advantage=normalize(advantage, batch.mask),
        last_observation=batch.observation,  # placeholders: no loss uses these two fields, whose shapes cannot be cut
        live=batch.mask,
    )
    later = trials.memory[:, length - 1 : horizon - 1 : length]  # after the last step of the previous segment
    start = torch.cat((torch.zeros_like(trials.memory[:, :1]), later), 1).flatten(0, 2)
    real = cut(batch.mask).any(0)
    pieces: Batch = map_leaves(lambda leaf: cut(leaf)[:, real], whole)
    return Segments(pieces, cut(advantage + batch.value)[:, real], start[real])


class MemoryTrainer:
    """Improves an agent in place, from recorded trials, by clipped PPO with Adam.

    Attributes:
        share: factor on the step size, in (0, 1], for a learning-rate schedule: a training loop may lower it as the
            budget is used up.
    """

    share: float = 1.0

    def __init__(self, agent: MemoryPolicy, plan: MemoryPlan, *, lr: float) -> None:
        """Build the optimizer for all parameters of the agent.

        Raises:
            ValueError: a step size that is not positive and finite.
        """
        if not 0.0 < lr < float("inf"):
            raise ValueError(f"lr must be positive and finite, got {lr}")
        self.agent, self.plan, self.lr = agent, plan, lr
        self.parameters = list(agent.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, eps=1e-5)

    def step(self, trials: TrialBatch, *, generator: torch.Generator) -> Metrics:
        """Train for ``plan.epochs`` epochs on these trials; ``generator``, on the CPU, shuffles the segments.

        Returns:
            Metrics by name, averaged over all gradient steps.

        Raises:
            DivergedError: a gradient that is not finite.
        """
        parts = segments(trials, self.plan)
        self.agent.rescale_values(parts.target, parts.batch.mask)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self.share
        told = []
        for _ in range(self.plan.epochs):
            order = torch.randperm(len(parts.start), generator=generator).to(parts.start.device)
            told += [self._descend(_pick(parts, chosen)) for chosen in torch.split(order, self.plan.minibatch)]
        self.agent.rescale_inputs(parts.batch.observation, parts.batch.mask)
        return {f"ppo/{name}": sum(one[name] for one in told) / len(told) for name in told[0]}

    def loss(self, parts: Segments) -> tuple[Tensor, Metrics]:
        """Return the 0-d loss of some segments, with its graph, and its components as metrics."""
        batch, plan = parts.batch, self.plan
        distribution, value = self.agent(batch.observation, parts.start)
        target = (parts.target - self.agent.value_mean) / self.agent.value_std
        policy = Clipped(plan.clip)(distribution, batch)
        critic = masked_mean((value - target).square(), batch.mask)
        entropy = -negative_entropy(distribution, batch)
        kl = sample_kl(distribution, batch)
        total = policy + plan.value_weight * critic - plan.entropy_weight * entropy
        told = {"policy_loss": policy, "value_loss": critic, "entropy": entropy, "kl": kl}
        return total, {name: value.item() for name, value in told.items()}

    def _descend(self, parts: Segments) -> Metrics:
        loss, told = self.loss(parts)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.plan.max_norm))
        if not norm < float("inf"):
            raise DivergedError(f"the gradient is not finite (loss {loss.item()}); lower the step size {self.lr}")
        self.optimizer.step()
        return told | {"grad_norm": norm}


def _pick(parts: Segments, chosen: Tensor) -> Segments:
    """Return the chosen segments."""
    batch = map_leaves(lambda leaf: leaf[:, chosen], parts.batch)
    return Segments(batch, parts.target[:, chosen], parts.start[chosen])


def train_memory(
    trainer: MemoryTrainer,
    family: TrialFamily,
    benchmark: Benchmark,
    *,
    generator: torch.Generator,
    task_generator: torch.Generator,
    start: int = 0,
) -> Iterator[tuple[int, Metrics]]:
    """Train on the benchmark's training tasks, yielding after every iteration, until the caller stops.

    Args:
        trainer: holds the agent, which is improved in place, and the plan.
        family: trials of the benchmark's family, such as ``envs.wrappers.Trials(benchmark.family, 3)``.
        benchmark: every iteration samples new tasks from its ``"train"`` split.
        generator: draws the noise of rollouts and shuffling; on the CPU.
        task_generator: draws the tasks.
        start: number of iterations already done, when resuming.

    Yields:
        The number of iterations done, and the metrics of the last one: ``return/episode_0``, ..., ``env_steps``,
        times, and PPO's metrics.

    Raises:
        NonFiniteError: see `collect_trials`.
        DivergedError: see `MemoryTrainer.step`.
    """
    plan, device = trainer.plan, trainer.parameters[0].device
    for iteration in itertools.count(start + 1):
        started = time.perf_counter()
        task = to_device(benchmark.sample("train", plan.tasks, generator=task_generator), device)
        trials = collect_trials(trainer.agent, family, task, plan.trials, generator=generator)
        collected = time.perf_counter()
        metrics = trainer.step(trials, generator=generator)
        returns = trials.by_episode(trials.batch.reward, family.episodes).mean((0, 1))
        metrics |= {f"return/episode_{k}": value for k, value in enumerate(returns.tolist())}
        metrics |= {"time/explore": collected - started, "time/update": time.perf_counter() - collected}
        yield iteration, metrics | {"env_steps": float(trials.batch.steps.double().sum())}
