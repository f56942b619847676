"""RL^2: an agent that adapts by remembering instead of by gradient steps.

A recurrent actor-critic plays *trials*, several episodes of one unknown task in a row. It is told its previous
action, the reward and the ends of episodes, and keeps its memory from episode to episode; it is trained on the
return of whole trials, so that finding out what the task is pays where it pays later (Duan et al. 2016,
arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763). At test nothing is trained: adapting is acting.

The memory is a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, in the variant of ``torch.nn.GRU``),

    r  = sigmoid(W_r x + U_r h)        z = sigmoid(W_z x + U_z h)
    n  = tanh(W_n x + r * (U_n h))     h' = (1 - z) n + z h

with biases in all products, and h = 0 before a trial. Training is clipped PPO (Schulman et al. 2017,
arXiv:1707.06347) with generalised advantages over whole trials: an episode's end inside a trial is something
the agent sees, and cuts neither discount nor memory. Gradients go back through time within segments of
`MemoryPlan.segment` steps, each begun at the memory that the agent had when it acted (stored states;
Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning").

An agent with a memory is an agent without one in a larger environment, whose state the memory joins:
that is how trials are rolled out by `metarl.rollouts`, with the same records and the same refusals.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.nn.utils import skip_init

from metarl.advantages import normalize
from metarl.distributions import Distribution
from metarl.errors import DivergedError
from metarl.losses import Clipped, masked_mean, negative_entropy, sample_kl
from metarl.policies import MLP, CategoricalPolicy, GaussianPolicy, Policy
from metarl.returns import gae
from metarl.rollouts import Act, collect, task_count, to_device
from metarl.trees import map_leaves
from metarl.types import Batch, Benchmark, State, Task, TaskFamily, Transition

Metrics = dict[str, float]

MEMORY = "memory of the agent"  # name in the state; no family calls anything so
FARTHEST = 10.0  # standard deviations: beyond, a scaled input is clipped
RECENT = 0.1  # least share of the latest trials in the scale of values, which grow as the agent learns


class TrialFamily(TaskFamily, Protocol):
    """A family whose "episodes" are trials of several episodes on one task, and which tells them apart.

    It ends every trial (terminated) with its last episode, and its observations hold what the agent is told
    about its previous step.
    """

    @property
    def episodes(self) -> int:
        """E, how many episodes make a trial."""

    def episode(self, state: State) -> Tensor:
        """Number of the episode that each row's next step belongs to, int ``[*rows]`` from 0 to E - 1."""


class MemoryPolicy(nn.Module):
    """A GRU that reads observations, and from its memory the actions (by a head) and the value (by a critic).

    Observations are scaled and values predicted in units of their own mean and standard deviation, which follow
    what was met in training: see `rescale_inputs` and `rescale_values`. All of it is in ``state_dict()``.
    """

    input_mean: Tensor  # [O]
    input_std: Tensor  # [O]
    value_mean: Tensor  # []
    value_std: Tensor  # []
    trained: Tensor  # [] how often the scales of the inputs have been set

    def __init__(
        self, inputs: int, units: int, head: Policy, *, hidden: Sequence[int] = (), generator: torch.Generator
    ) -> None:
        """Puts an agent together; see `memory_policy` for one that fits a family.

        Args:
            inputs: O, size of an observation.
            units: M, size of the memory.
            head: from memories ``[..., M]`` to action distributions.
            hidden: units of the critic's hidden layers.
            generator: draws the weights: orthogonal for every gate, the biases zero.

        Raises:
            ValueError: a size below 1.
        """
        super().__init__()
        if min(inputs, units) < 1:
            raise ValueError(f"expected at least one input and one unit of memory, got {inputs} and {units}")
        self.inputs, self.units = inputs, units
        self.look: nn.Linear = skip_init(nn.Linear, inputs, 3 * units)  # type: ignore[no-untyped-call]
        self.recall: nn.Linear = skip_init(nn.Linear, units, 3 * units)  # type: ignore[no-untyped-call]
        for layer in (self.look, self.recall):
            nn.init.zeros_(layer.bias)
            for gate in layer.weight.detach().chunk(3):  # r, z, n: the order of torch.nn.GRU
                nn.init.orthogonal_(gate, generator=generator)
        self.head = head
        self.critic = MLP(units, hidden, 1, head_gain=1.0, generator=generator)
        scales = {"input_mean": torch.zeros(inputs), "input_std": torch.ones(inputs), "trained": torch.zeros(())}
        for name, value in {**scales, "value_mean": torch.zeros(()), "value_std": torch.ones(())}.items():
            self.register_buffer(name, value)

    def blank(self, rows: tuple[int, ...]) -> Tensor:
        """The memory before a trial, ``[*rows, M]``."""
        return self.look.weight.new_zeros(*rows, self.units)

    def remember(self, observation: Tensor, memory: Tensor) -> Tensor:
        """The memory ``[..., M]`` after an observation ``[..., O]``, from the memory before it."""
        return self._cell(*self._looked(observation), memory)

    def unroll(self, observation: Tensor, memory: Tensor) -> Tensor:
        """The memory after each of H observations in turn.

        Args:
            observation: ``[H, R, O]``.
            memory: before the first of them, ``[R, M]``.

        Returns:
            ``[H, R, M]``.
        """
        memories = []
        looked = (part.unbind(0) for part in self._looked(observation))  # what does not recur, for all steps at once
        for gates, new in zip(*looked, strict=True):
            memory = self._cell(gates, new, memory)
            memories.append(memory)
        return torch.stack(memories)

    def forward(self, observation: Tensor, memory: Tensor) -> tuple[Distribution, Tensor]:
        """Distributions of actions and values in their own units ``[H, R]``; arguments as of `unroll`."""
        memories = self.unroll(observation, memory)
        return self.head(self.head.initial(), memories), self._relative_value(memories)

    def value(self, memory: Tensor) -> Tensor:
        """Value of what follows, in units of reward, ``[...]`` from memories ``[..., M]``."""
        return self._relative_value(memory) * self.value_std + self.value_mean

    @torch.no_grad()
    def rescale_values(self, target: Tensor, weight: Tensor) -> None:
        """Let the scale of values follow their targets ``[L, S]``; no value changes by it.

        The critic's last layer is rewritten to make up for the new scale (van Hasselt et al. 2016, "Learning values
        across many orders of magnitude", arXiv:1602.07714).
        """
        mean, std = _moments(target.unsqueeze(-1), weight)
        share = (1.0 / (self.trained + 1.0)).clamp_min(RECENT)
        old_mean, old_std = self.value_mean.clone(), self.value_std.clone()
        self.value_mean.lerp_(mean[0], share)
        self.value_std.lerp_(std[0], share)
        last = self.critic.head
        last.weight *= old_std / self.value_std
        last.bias.copy_((last.bias * old_std + old_mean - self.value_mean) / self.value_std)

    @torch.no_grad()
    def rescale_inputs(self, observation: Tensor, weight: Tensor) -> None:
        """Let the scale of inputs be the mean over all calls with observations ``[L, S, O]``; the agent changes.

        To be called when the trials that were acted in at the old scale have been trained on.
        """
        self.trained += 1.0
        for average, new in zip((self.input_mean, self.input_std), _moments(observation, weight), strict=True):
            average.lerp_(new, 1.0 / self.trained)

    def _looked(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        scaled = ((observation - self.input_mean) / self.input_std).clamp(-FARTHEST, FARTHEST)
        return self._split(self.look(scaled))

    def _split(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Those of r and z ``[..., 2 M]`` and that of n ``[..., M]``."""
        gates, new = products.split_with_sizes((2 * self.units, self.units), -1)
        return gates, new

    def _cell(self, gates: Tensor, new: Tensor, memory: Tensor) -> Tensor:
        """A step of the GRU from the products with the observation."""
        recalled_gates, recalled = self._split(self.recall(memory))
        reset, update = torch.sigmoid(gates + recalled_gates).chunk(2, -1)
        return torch.lerp(torch.tanh(torch.addcmul(new, reset, recalled)), memory, update)

    def _relative_value(self, memory: Tensor) -> Tensor:
        value: Tensor = self.critic(dict(self.critic.named_parameters()), memory).squeeze(-1)
        return value


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation ``[F]`` of ``x`` ``[L, S, F]``; what hardly varies is left at its size."""
    share = (weight / weight.sum()).unsqueeze(-1)
    mean = (x * share).sum((0, 1))
    std = ((x - mean).square() * share).sum((0, 1)).sqrt()
    return mean, torch.where(std < 1e-4, torch.ones_like(std), std)


def memory_policy(
    family: TaskFamily,
    *,
    units: int = 64,
    hidden: Sequence[int] = (),
    log_std: float = 0.0,
    generator: torch.Generator,
) -> MemoryPolicy:
    """An agent that fits a family's spaces: categorical actions, or Gaussian ones for a flat Box.

    Args:
        family: of trials.
        units: M, size of the memory.
        hidden: units of the tanh layers between the memory and the actions, and between it and the value.
        log_std: first log standard deviation of Gaussian actions.
        generator: draws the weights.

    Raises:
        ValueError: observations that are no flat Box, other actions, or a size below 1.
    """
    seen, actions = family.observation_space, family.action_space
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise ValueError(f"expected observations from a flat Box, got shape {seen.shape}; flatten them in the family")
    if not isinstance(actions, Discrete) and not (isinstance(actions, Box) and len(actions.shape) == 1):
        raise ValueError(f"expected actions from a Discrete or a flat Box, got {actions}; use another family")
    count = int(actions.n) if isinstance(actions, Discrete) else int(actions.shape[0])
    network = MLP(units, hidden, count, generator=generator)
    discrete = isinstance(actions, Discrete)
    head = CategoricalPolicy(network) if discrete else GaussianPolicy(network, count, log_std=log_std)
    return MemoryPolicy(int(seen.shape[0]), units, head, hidden=hidden, generator=generator)


class _Remembering:
    """A family whose state holds the agent's memory, and whose observation is what the agent knows.

    That is ``[observation O | memory after it M | number of the episode 1]``.
    """

    def __init__(self, family: TrialFamily, agent: MemoryPolicy) -> None:
        self._family, self._agent = family, agent
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.horizon = family.horizon

    def sample(self, tasks: int, *, generator: torch.Generator) -> Task:
        return self._family.sample(tasks, generator=generator)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        state = self._family.reset(task, rows, generator=generator)
        return self._remembered(task, state, self._agent.blank(rows))

    def observe(self, task: Task, state: State) -> Tensor:
        return state[MEMORY]

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        inside = {name: values for name, values in state.items() if name != MEMORY}
        memory = _memory(state[MEMORY], self._agent)
        after, reward, terminated = self._family.step(task, inside, action)
        return self._remembered(task, after, memory), reward, terminated

    def _remembered(self, task: Task, state: State, memory: Tensor) -> State:
        seen = self._family.observe(task, state)
        episode = self._family.episode(state).unsqueeze(-1).to(seen.dtype)
        return {**state, MEMORY: torch.cat((seen, self._agent.remember(seen, memory), episode), -1)}


class _Head(Policy):
    """The agent's head on the observations of `_Remembering`."""

    def __init__(self, agent: MemoryPolicy) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Distribution:
        distribution: Distribution = self.agent.head(params, _memory(observation, self.agent))
        return distribution

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        return self.agent.head.noise(rows, generator=generator)


def _memory(known: Tensor, agent: MemoryPolicy) -> Tensor:
    return known[..., agent.inputs : agent.inputs + agent.units]


class TrialBatch(NamedTuple):
    """Recorded trials: N of each of T tasks, of at most H steps."""

    batch: Batch  # [T, H, N, ...]; an "episode" of the batch is a whole trial, and values are filled in
    memory: Tensor  # [T, H, N, M] after each observation: what the action was drawn from
    episode: Tensor  # [T, H, N] int64, number of the episode a step belongs to; 0 on padding

    def by_episode(self, values: Tensor, episodes: int) -> Tensor:
        """Sums of ``values`` ``[T, H, N]`` over the steps of each of E episodes, ``[T, N, E]``."""
        tasks, _, rows = values.shape
        sums = values.new_zeros(tasks, episodes, rows).scatter_add(1, self.episode, values)
        return sums.movedim(1, 2)


@torch.no_grad()
def collect_trials(
    agent: MemoryPolicy,
    family: TrialFamily,
    task: Task,
    trials: int,
    *,
    generator: torch.Generator,
    act: Act = "sample",
) -> TrialBatch:
    """Play ``trials`` whole trials on every task.

    Args:
        agent: not changed.
        family: of trials.
        task: values ``[T]``, on the agent's device.
        trials: N.
        generator: first states and noise.
        act: ``"sample"`` or ``"mode"``, see `metarl.rollouts.roll_out`.

    Returns:
        Trials ``[T, H, N, ...]`` without a graph; advantages are zero.

    Raises:
        ValueError: no trials, or observations that do not fit the agent.
        NonFiniteError: see `metarl.rollouts.roll_out`.
    """
    if trials < 1:
        raise ValueError(f"expected at least one trial a task, got {trials}")
    if family.observation_space.shape != (agent.inputs,):
        shape = family.observation_space.shape
        raise ValueError(f"the agent reads {agent.inputs} numbers and the family shows {shape}; make one that fits")
    known = collect(
        _Head(agent), agent.head.initial(), _Remembering(family, agent), task, trials, generator=generator, act=act
    )
    memory = _memory(known.observation, agent)
    batch = known._replace(
        observation=known.observation[..., : agent.inputs],
        last_observation=known.last_observation[..., : agent.inputs],
        value=agent.value(memory) * known.mask,
    )
    return TrialBatch(batch, memory, known.observation[..., -1].long())


@dataclass(frozen=True)
class MemoryPlan:
    """How an agent with a memory is trained.

    Attributes:
        tasks: T, tasks an iteration.
        trials: N, trials a task.
        discount: γ over the steps of a whole trial, not cut where an episode ends.
        decay: GAE's λ.
        segment: steps that gradients go back in time; None for whole trials.
        minibatch: segments a gradient step.
        epochs: times that every segment is used.
        clip: PPO's ε.
        value_weight: of the critic's squared error, in units of the values' variance.
        entropy_weight: of the policy's entropy.
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
        """Refuses what cannot be trained by."""
        for name in ("tasks", "trials", "minibatch", "epochs", *(["segment"] if self.segment is not None else [])):
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
    """Pieces of trials, side by side: L steps of S segments, the unit of training.

    The batch's ``mask`` holds weights, under which the steps of every task add up to the same; they are 1 on
    average and 0 on padding, so that the losses' masked means are means over tasks.
    """

    batch: Batch  # [L, S, ...]
    target: Tensor  # [L, S] what the critic is to predict, in units of reward
    start: Tensor  # [S, M] the memory before the first step


def trial_advantages(trials: TrialBatch, plan: MemoryPlan) -> Tensor:
    """Generalised advantages ``[T, H, N]`` over whole trials, not normalised.

    Nothing cuts the discount but the end of the trial, and nothing is bootstrapped there: the trial is all there is.
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
    """Cut trials ``[T, H, N, ...]`` into segments ``[L, S, ...]``; those that are all padding are left out.

    Advantages are normalised per task and tasks weigh the same, as everywhere in metarl. It matters more here: an
    agent that does well on some tasks only, without looking which it is in, collects most of its steps there, and
    would be confirmed by them.
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
        last_observation=batch.observation,  # no loss reads it, and its own shape could not be cut
    )
    later = trials.memory[:, length - 1 : horizon - 1 : length]  # after the last step of the segment before
    start = torch.cat((torch.zeros_like(trials.memory[:, :1]), later), 1).flatten(0, 2)
    real = cut(batch.mask).any(0)
    pieces: Batch = map_leaves(lambda leaf: cut(leaf)[:, real], whole)
    return Segments(pieces, cut(advantage + batch.value)[:, real], start[real])


class MemoryTrainer:
    """Improves an agent, in place, from recorded trials: clipped PPO by Adam.

    Attributes:
        share: of the step size to use now, in (0, 1]; lowered by who knows how much of the training is left.
    """

    share: float = 1.0

    def __init__(self, agent: MemoryPolicy, plan: MemoryPlan, *, lr: float) -> None:
        """Build the optimizer over everything the agent learns.

        Raises:
            ValueError: a step size that is not positive and finite.
        """
        if not 0.0 < lr < float("inf"):
            raise ValueError(f"lr must be positive and finite, got {lr}")
        self.agent, self.plan, self.lr = agent, plan, lr
        self.parameters = list(agent.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, eps=1e-5)

    def step(self, trials: TrialBatch, *, generator: torch.Generator) -> Metrics:
        """Train for some epochs on these trials; ``generator``, on the CPU, shuffles.

        Returns:
            Means over all gradient steps.

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
        """0-d loss of some segments, with its graph, and what it is made of."""
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
    """Some of the segments."""
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
    """Train on the benchmark's training tasks for as long as the caller goes on, yielding every iteration.

    Args:
        trainer: holds the agent, improved in place, and the plan.
        family: trials of the benchmark's family, such as ``envs.wrappers.Trials(benchmark.family, 3)``.
        benchmark: its ``"train"`` tasks are sampled afresh every iteration.
        generator: noise of rollouts and shuffling, on the CPU.
        task_generator: tasks.
        start: iterations already done, when resuming.

    Yields:
        The number of iterations done, and the metrics of the last: ``return/episode_0``, ..., ``env_steps``,
        times, and what PPO tells.

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
        yield iteration, metrics | {"env_steps": float(trials.batch.steps.sum())}


class TrialScores(NamedTuple):
    """How every task's episodes went, by their number within the trial; all ``[tasks, E]``."""

    sampled: Tensor  # mean return with sampled actions
    mode: Tensor  # mean return of trials in which all actions are mean (Gaussian) or most likely (categorical)
    steps: Tensor  # environment steps spent before the episode, in the sampled trials


@torch.no_grad()
def score_trials(
    agent: MemoryPolicy,
    family: TrialFamily,
    task: Task,
    trials: int,
    *,
    generator: torch.Generator,
    chunk: int = 10,
) -> TrialScores:
    """Mean return of the first, second, ..., E-th episode of ``trials`` trials of every task; results on the CPU.

    Args:
        agent: not changed.
        family: of trials.
        task: values ``[T]``. Nothing here knows whether they were trained on: see `metarl.evaluation`.
        trials: of each task, side by side, and as many again with mode actions.
        generator: noise; agents scored with equal generators, trials and ``chunk`` see common noise.
        chunk: tasks at a time, to bound memory.

    Raises:
        ValueError: no tasks, no trials or an empty chunk, or see `collect_trials`.
        NonFiniteError: see `collect_trials`.
    """
    if task_count(task) < 1 or chunk < 1:
        raise ValueError(f"expected at least one task and a chunk of at least one, got {task_count(task)} and {chunk}")
    device, episodes = next(agent.parameters()).device, family.episodes
    scores = []
    for low in range(0, task_count(task), chunk):
        part = to_device({name: value[low : low + chunk] for name, value in task.items()}, device)
        sampled = collect_trials(agent, family, part, trials, generator=generator)
        mode = collect_trials(agent, family, part, trials, generator=generator, act="mode")
        returns = [one.by_episode(one.batch.reward, episodes).mean(1) for one in (sampled, mode)]
        lengths = sampled.by_episode(sampled.batch.mask, episodes).mean(1)
        scores.append((*returns, lengths.cumsum(1) - lengths))
    return TrialScores(*(torch.cat(field).cpu() for field in zip(*scores, strict=True)))
