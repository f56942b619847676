"""What the bandit and the tabular MDP share: one-hot vectors, and what the agent is told.

``"plain"`` observations hold what the task itself shows. ``"feedback"`` observations are followed by the
previous action, one-hot, and the previous reward, all zero before the first step: what RL^2 (Duan et al.
2016, arXiv:1611.02779) feeds its recurrent policy, which can learn a task from nothing else. A policy
without memory that adapts by gradients finds the same facts in its batch, and to it they are noise.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .checks import chosen
from .family import State

OBSERVATIONS = ("plain", "feedback")


def one_hot(index: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """``[..., count]`` of ``index`` ``[...]``; zero everywhere for -1."""
    return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).to(dtype)


def space(plain: Box, actions: int, reward: tuple[float, float], observation: str) -> Box:
    """The space of observations that begin with ``plain``.

    Args:
        plain: flat.
        actions: how many there are.
        reward: smallest and largest reward.
        observation: one of `OBSERVATIONS`.

    Raises:
        ValueError: another word.
    """
    if chosen("observation", observation, OBSERVATIONS) == "plain":
        return plain
    # Before the first step the previous reward reads 0, whatever rewards there are.
    low = np.concatenate((plain.low, np.zeros(actions), [min(reward[0], 0.0)]))
    high = np.concatenate((plain.high, np.ones(actions), [max(reward[1], 0.0)]))
    return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def observed(plain: Tensor, state: State, actions: int, observation: str) -> Tensor:
    """The observation that begins with ``plain`` ``[*rows, P]``, from the state's ``action`` and ``reward``."""
    if observation == "plain":
        return plain
    return torch.cat((plain, one_hot(state["action"], actions, plain.dtype), state["reward"].unsqueeze(-1)), -1)
