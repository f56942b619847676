"""Episodes in a row on one task, as one long episode: what an agent with a memory learns a task in.

RL^2 (Duan et al. 2016, arXiv:1611.02779, section 2.2) and SNAIL (Mishra et al. 2018, arXiv:1707.03141) train
an agent on trials: several episodes of one unknown task, with a memory that is kept from episode to episode
and an objective that adds up the rewards of all. The agent is told its previous action, the reward it brought,
and whether an episode ended with it, and so can find out what the task is and how well it is doing.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from ..checks import whole
from ..discrete import one_hot
from ..family import Family, State, Task, Transition
from .base import Wrapper, channels, components, refuse_live

# The wrapped family's state goes by longer names here, and the wrapper's own names have no dot: they cannot clash.
NOW = "now."


@final
class Trials(Wrapper):
    """``episodes`` episodes of one task, one after another; a memory is worth having from the second on.

    An episode ends as the wrapped family ends it or by its time limit, and the next one starts by itself: the
    observation after an ending step is the new episode's first. A trial ends, as terminated, with its last
    episode. Its horizon is ``episodes`` times the wrapped one.

    An observation is the wrapped family's, followed by the previous action (one-hot if discrete, else as it was
    given), the previous reward, and 1 if the previous step ended an episode, else 0. All that follows is 0
    before the first step of the trial.

    A step has no generator, so the first states of all episodes are drawn at the reset, in the order of the
    episodes, and wait in the state: a row is as large as ``episodes + 1`` of the wrapped family's. Of the
    state's names ``episode`` is the number of the episode that a row is in, from 0, and ``episodes`` once the
    trial is over; ``clock`` counts the steps of that episode.

    Adds no constants.

    Args:
        family: what to wrap, with flat observations and with discrete or flat continuous actions.
        episodes: E, how many episodes make a trial; at least 1.

    Raises:
        TypeError: a live family, whose episodes cannot wait for one another; other observations or actions; or see
            ``Wrapper``.
        ValueError: no episodes.
    """

    observation_space: Box  # (observation, previous action, previous reward, 1 if an episode has just ended)

    def __init__(self, family: Family, episodes: int = 2) -> None:
        refuse_live("Trials", family, "that can be reset several times ahead")
        self._episodes = whole("episodes of Trials", episodes)
        super().__init__(family, {}, {}, settings={"episodes": float(self._episodes)})
        self._horizon = self._episodes * family.horizon
        seen, count = channels("Trials", family), components("Trials", family)
        space: Any = family.action_space
        self._count = None if count else int(space.n)
        self._actions = [f"action_{part}" for part in range(count)] or ["action"]
        low, high = (0.0, 1.0) if self._count else (-np.inf, np.inf)  # a policy may give actions beyond the space
        actions = np.ones(self._count or count)
        self.observation_space = Box(
            np.concatenate((seen.low, low * actions, [-np.inf, 0.0])).astype(np.float32),
            np.concatenate((seen.high, high * actions, [np.inf, 1.0])).astype(np.float32),
            dtype=np.float32,
        )

    @property
    def episodes(self) -> int:
        """E, how many episodes make a trial."""
        return self._episodes

    def episode(self, state: State) -> Tensor:
        """Number of the episode that each row is in, int64 ``[*rows]`` from 0; E once the trial is over."""
        return state["episode"]

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """The first states of all episodes, in their order; nothing done and no reward yet."""
        starts = [super(Trials, self).reset(task, rows, generator=generator) for _ in range(self._episodes)]
        like = next(iter(task.values())).new_zeros(rows)
        count = torch.zeros_like(like, dtype=torch.int64)
        nothing = {name: like for name in self._actions} if self._count is None else {"action": count - 1}
        told = {**nothing, "reward": like, "done": torch.zeros_like(like, dtype=torch.bool)}
        waiting = [_named(_waiting(number), start) for number, start in enumerate(starts[1:], 1)]
        state = {"episode": count, "clock": count, **told, **_named(NOW, starts[0])}
        for start in waiting:
            state |= start
        return state

    def observe(self, task: Task, state: State) -> Tensor:
        """``[*rows, sensors + actions + 2]``."""
        seen = super().observe(task, state)
        if self._count is None:
            action = torch.stack([state[name] for name in self._actions], -1)
        else:
            action = one_hot(state["action"], self._count, seen.dtype)
        rest = torch.stack((state["reward"], state["done"].to(seen.dtype)), -1)
        return torch.cat((seen, action.to(seen.dtype), rest.to(seen.dtype)), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """The wrapped family's step; a row whose episode ends with it goes on at its next first state."""
        moved = super().step(task, state, action)
        clock = state["clock"] + 1
        done = moved.terminated | (clock >= self._family.horizon)
        episode = (state["episode"] + done).clamp_max(self._episodes)
        now = moved.state
        for number in range(1, self._episodes):
            begins, start = done & (episode == number), _named_so(_waiting(number), state)
            # Chosen, not multiplied: what lies beyond an end may be infinite.
            now = {name: torch.where(begins, start[name], values) for name, values in now.items()}
        parts = (action,) if self._count is not None else action.unbind(-1)
        told = {name: part.to(state[name].dtype) for name, part in zip(self._actions, parts, strict=True)}
        told |= {"reward": moved.reward.to(state["reward"].dtype), "done": done}
        after = {**state, "episode": episode, "clock": clock.masked_fill(done, 0), **told, **_named(NOW, now)}
        return Transition(after, moved.reward, episode == self._episodes)

    def references(self, task: Task) -> dict[str, Tensor]:
        """The wrapped family's, times E: exactly E episodes are played, whatever comes of them.

        Whoever knows the task gains nothing by playing it again, so E ceilings bound a trial; and blind, random
        and motionless play do not learn. An agent that must learn the task within the trial stays below.
        """
        return {name: values * self._episodes for name, values in self._references(task).items()}

    def _state(self, state: State) -> State:
        """The wrapped family's state."""
        return _named_so(NOW, state)


def _waiting(number: int) -> str:
    """Before the names of the first state of a later episode."""
    return f"first_{number}."


def _named(start: str, state: State) -> State:
    return {start + name: values for name, values in state.items()}


def _named_so(start: str, state: State) -> State:
    """The inverse of `_named`, on a state that holds more."""
    return {name.removeprefix(start): values for name, values in state.items() if name.startswith(start)}
