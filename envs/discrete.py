"""Observations shared by the bandit and the tabular MDP: one-hot vectors, with or without feedback.

``"plain"`` observations contain only what the task itself shows. ``"feedback"`` observations add the previous action,
one-hot, and the previous reward, all zero before the first step. RL^2 (Duan et al. 2016, arXiv:1611.02779) feeds these
to its recurrent policy, which can learn a task only from them. A memoryless policy that adapts by gradients has the
same information in its batch; to it, they are noise.
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
    """Return one-hot vectors ``[..., count]`` of ``index`` ``[...]``; all zeros for -1."""
    return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).to(dtype)


def space(plain: Box, actions: int, reward: tuple[float, float], observation: str) -> Box:
    """Return the space of observations that begin with ``plain``.

    Args:
        plain: flat space of the plain observation.
        actions: number of actions.
        reward: smallest and largest reward.
        observation: one of `OBSERVATIONS`.

    Raises:
        ValueError: ``observation`` is not one of them.
    """
    if chosen("observation", observation, OBSERVATIONS) == "plain":
        return plain
    # Before the first step the previous reward is 0, even if 0 is not a possible reward.
    low = np.concatenate((plain.low, np.zeros(actions), [min(reward[0], 0.0)]))
    high = np.concatenate((plain.high, np.ones(actions), [max(reward[1], 0.0)]))
    return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def observed(plain: Tensor, state: State, actions: int, observation: str) -> Tensor:
    """Return ``plain`` ``[*rows, P]``, with feedback followed by the state's ``action`` and ``reward``."""
    if observation == "plain":
        return plain
    return torch.cat((plain, one_hot(state["action"], actions, plain.dtype), state["reward"].unsqueeze(-1)), -1)
