"""Trials: several episodes of one task joined into one long episode, for agents that adapt through a memory.

RL^2 (Duan et al. 2016, arXiv:1611.02779, section 2.2) and SNAIL (Mishra et al. 2018, arXiv:1707.03141) train an agent
on trials: several episodes of one unknown task, with a memory that is kept between episodes and an objective that sums
all rewards. The agent observes its previous action, the reward it brought and whether it ended an episode; from these
it can infer the task and how well it is doing.
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

# Prefix of the wrapped family's state. The wrapper's own state names have no dot, so names cannot clash.
NOW = "now."


@final
class Trials(Wrapper):
    """Joins ``episodes`` consecutive episodes of one task into a trial; a memory can help from the second one on.

    An episode ends when the wrapped family terminates it or at its time limit, and the next one starts automatically:
    the observation after the last step of an episode is the first of the next. A trial ends, as terminated, with its
    last episode. Its horizon is ``episodes`` times the wrapped one.

    An observation consists of the wrapped family's observation, the previous action (one-hot if discrete, otherwise as
    it was given), the previous reward, and 1 if the previous step ended an episode, else 0. Everything but the wrapped
    observation is 0 before the first step of the trial. The previous action is the one that reaches ``Trials``: a
    wrapper of actions goes inside, as in ``Trials(Slipping(family, 0.1))``. Around ``Trials``, it would show the agent
    what was executed, and so reveal what it hides. ``Changing`` around ``Trials`` changes the task once a trial, but
    the initial states of all episodes are drawn with the earlier constants.

    ``step`` takes no generator, so the initial states of all episodes are drawn at the reset, in order, and stored in
    the state: a row takes as much memory as ``episodes + 1`` rows of the wrapped family. In the state, ``episode`` is
    the index of the row's current episode, from 0, or ``episodes`` once the trial is over; ``clock`` counts the steps
    of the current episode.

    Adds no constants.

    Args:
        family: the family to wrap, with flat observations and with discrete or flat continuous actions.
        episodes: E, the number of episodes in a trial; at least 1.

    Raises:
        TypeError: ``family`` is live, so that its episodes cannot be reset in advance; observations or actions are of
            another kind; or see ``Wrapper``.
        ValueError: ``episodes`` is below 1.
    """

    observation_space: Box  # (observation, previous action, previous reward, 1 if an episode has just ended)

    def __init__(self, family: Family, episodes: int = 2) -> None:
        refuse_live("Trials", family, "that can be reset several times in advance")
        self._episodes = whole("episodes of Trials", episodes)
        super().__init__(family, {}, {}, settings={"episodes": float(self._episodes)})
        self._horizon = self._episodes * family.horizon
        seen, count = channels("Trials", family), components("Trials", family)
        space: Any = family.action_space
        self._count = None if count else int(space.n)
        self._actions = [f"action_{part}" for part in range(count)] or ["action"]
        low, high = (0.0, 1.0) if self._count else (-np.inf, np.inf)  # policies may give actions outside the space
        actions = np.ones(self._count or count)
        self.observation_space = Box(
            np.concatenate((seen.low, low * actions, [-np.inf, 0.0])).astype(np.float32),
            np.concatenate((seen.high, high * actions, [np.inf, 1.0])).astype(np.float32),
            dtype=np.float32,
        )

    @property
    def episodes(self) -> int:
        """E, the number of episodes in a trial."""
        return self._episodes

    def episode(self, state: State) -> Tensor:
        """Return the index of each row's current episode, int64 ``[*rows]`` from 0; E once the trial is over."""
        return state["episode"]

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Return the initial states of all episodes, drawn in order, without a previous action or reward."""
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
        """Return the observation of the class docstring, ``[*rows, sensors + actions + 2]``."""
        seen = super().observe(task, state)
        if self._count is None:
            action = torch.stack([state[name] for name in self._actions], -1)
        else:
            action = one_hot(state["action"], self._count, seen.dtype)
        rest = torch.stack((state["reward"], state["done"].to(seen.dtype)), -1)
        return torch.cat((seen, action.to(seen.dtype), rest.to(seen.dtype)), -1)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Step the wrapped family; a row whose episode ends continues at the next episode's initial state."""
        moved = super().step(task, state, action)
        clock = state["clock"] + 1
        done = moved.terminated | (clock >= self._family.horizon)
        episode = (state["episode"] + done).clamp_max(self._episodes)
        now = moved.state
        for number in range(1, self._episodes):
            begins, start = done & (episode == number), _named_so(_waiting(number), state)
            # torch.where, not a product with the mask: values after the end of an episode may be infinite.
            now = {name: torch.where(begins, start[name], values) for name, values in now.items()}
        parts = (action,) if self._count is not None else action.unbind(-1)
        told = {name: part.to(state[name].dtype) for name, part in zip(self._actions, parts, strict=True)}
        told |= {"reward": moved.reward.to(state["reward"].dtype), "done": done}
        after = {**state, "episode": episode, "clock": clock.masked_fill(done, 0), **told, **_named(NOW, now)}
        return Transition(after, moved.reward, episode == self._episodes)

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return the wrapped family's references times E, since exactly E episodes are played.

        E ceilings bound a trial, because an agent that knows the task does not gain by repeating it; blind, random and
        motionless play do not learn. An agent that must learn the task within the trial stays below the ceiling.
        """
        return {name: values * self._episodes for name, values in self._references(task).items()}

    def _state(self, state: State) -> State:
        """Return the wrapped family's state."""
        return _named_so(NOW, state)


def _waiting(number: int) -> str:
    """Return the prefix of the names of a later episode's initial state."""
    return f"first_{number}."


def _named(start: str, state: State) -> State:
    return {start + name: values for name, values in state.items()}


def _named_so(start: str, state: State) -> State:
    """Invert `_named`: select the names with the prefix and remove it."""
    return {name.removeprefix(start): values for name, values in state.items() if name.startswith(start)}
