"""Trials: several episodes of one task in a row, played by an agent that remembers; recorded and scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.distributions import Distribution
from metarl.evaluation import in_chunks
from metarl.memory.agent import MemoryPolicy
from metarl.policies import Policy
from metarl.rollouts import Act, collect, to_device
from metarl.types import Batch, Params, State, Task, TaskFamily, Transition

MEMORY = "memory of the agent"  # name in the state; no family calls anything so


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
    device, episodes = next(agent.parameters()).device, family.episodes

    def score(part: Params) -> TrialScores:
        part = to_device(part, device)
        sampled = collect_trials(agent, family, part, trials, generator=generator)
        mode = collect_trials(agent, family, part, trials, generator=generator, act="mode")
        earned, most_likely = (one.by_episode(one.batch.reward, episodes).mean(1) for one in (sampled, mode))
        lengths = sampled.by_episode(sampled.batch.mask, episodes).mean(1).cpu()  # a GPU may refuse cumsum
        return TrialScores(earned, most_likely, lengths.cumsum(1) - lengths)

    found: TrialScores = in_chunks(score, task, chunk)
    return found
