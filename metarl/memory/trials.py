"""Play, record and score trials: several consecutive episodes of one task, played by an agent with a memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl import checks
from metarl.distributions import Distribution
from metarl.evaluation import in_chunks
from metarl.memory.agent import MemoryPolicy
from metarl.policies import Policy
from metarl.rollouts import Act, collect, to_device
from metarl.types import Batch, Params, State, Task, TaskFamily, Transition

MEMORY = "memory of the agent"  # key in the state, chosen so that it does not clash with any family's names


class TrialFamily(TaskFamily, Protocol):
    """A family whose "episodes" are trials, each made of several episodes of one task.

    A trial terminates at the end of its last episode. Observations include what the agent needs to know about its
    previous step.
    """

    @property
    def episodes(self) -> int:
        """E, the number of episodes in a trial."""

    def episode(self, state: State) -> Tensor:
        """Return the number, from 0 to E - 1, of the episode that each row's next step belongs to, int ``[*rows]``."""


class _Remembering:
    """A family whose state includes the agent's memory.

    Its observations are ``[observation O | memory after it M | number of the episode 1]``.
    """

    def __init__(self, family: TrialFamily, agent: MemoryPolicy) -> None:
        self._family, self._agent = family, agent
        self.observation_space, self.action_space = family.observation_space, family.action_space
        self.horizon, self.parameters = family.horizon, getattr(family, "parameters", {})

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
    """The agent's head as a policy that reads the observations of `_Remembering`."""

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
    """Recorded trials: N trials of each of T tasks, with at most H steps."""

    batch: Batch  # [T, H, N, ...]; an "episode" of the batch is a whole trial, and values are filled in
    memory: Tensor  # [T, H, N, M] after each observation, from which the action was computed
    episode: Tensor  # [T, H, N] int64, number of the episode a step belongs to; 0 on padding

    def by_episode(self, values: Tensor, episodes: int) -> Tensor:
        """Sum ``values`` ``[T, H, N]`` over the steps of each of E episodes, to ``[T, N, E]``."""
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
    """Play ``trials`` whole trials of every task.

    Args:
        agent: not changed.
        family: a family of trials.
        task: values ``[T]``, on the agent's device.
        trials: N.
        generator: draws initial states and noise.
        act: ``"sample"`` or ``"mode"``, see `metarl.rollouts.roll_out`.

    Returns:
        Trials ``[T, H, N, ...]`` without a graph; advantages are zero.

    Raises:
        TypeError: ``family`` is not a family of trials.
        ValueError: ``trials`` is below 1, or the observations do not fit the agent.
        NonFiniteError: see `metarl.rollouts.roll_out`.
    """
    if trials < 1:
        raise ValueError(f"expected at least one trial per task, got {trials}")
    if not hasattr(family, "episode"):
        raise TypeError(f"expected a family of trials, such as Trials(family, 3), got {checks.told(family)}")
    if family.observation_space.shape != (agent.inputs,):
        shape = family.observation_space.shape
        raise ValueError(f"expected an agent for observations {shape}, got one for ({agent.inputs},); build another")
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
    """Scores of every task's episodes, by their number within the trial; all fields are ``[tasks, E]``."""

    sampled: Tensor  # mean return with sampled actions
    mode: Tensor  # mean return of trials played entirely with mean (Gaussian) or most likely (categorical) actions
    steps: Tensor  # mean number of environment steps before the episode, in the sampled trials


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
    """Return the mean return of the first, second, ..., E-th episode of every task's trials, on the CPU.

    Args:
        agent: not changed.
        family: a family of trials.
        task: values ``[T]``. They may be training tasks; `metarl.evaluation.refuse_training_tasks` checks that they
            are not.
        trials: trials per task with sampled actions, and as many again with mode actions.
        generator: draws the noise; agents scored with equal generators, ``trials`` and ``chunk`` see common noise.
        chunk: tasks at a time, to bound memory.

    Raises:
        ValueError: no tasks, or ``trials`` or ``chunk`` below 1; also see `collect_trials`.
        NonFiniteError: see `collect_trials`.
    """
    device, episodes = next(agent.parameters()).device, family.episodes

    def score(part: Params) -> TrialScores:
        part = to_device(part, device)
        sampled = collect_trials(agent, family, part, trials, generator=generator)
        mode = collect_trials(agent, family, part, trials, generator=generator, act="mode")
        earned, most_likely = (one.by_episode(one.batch.reward, episodes).mean(1) for one in (sampled, mode))
        lengths = sampled.by_episode(sampled.batch.mask, episodes).mean(1).cpu()  # cumsum is not deterministic on a GPU
        return TrialScores(earned, most_likely, lengths.cumsum(1) - lengths)

    found: TrialScores = in_chunks(score, task, chunk)
    return found
