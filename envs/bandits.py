"""Bernoulli bandits: each arm pays 1 with its own probability, which is hidden from the agent.

The protocol of RL^2 (Duan et al. 2016, arXiv:1611.02779) and SNAIL (Mishra et al. 2018, arXiv:1707.03141): k arms with
probabilities drawn from U(0, 1), n pulls, and as the score the sum of all pay-outs, including those while learning.
See ``gittins`` for optimal play.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from . import counter
from .checks import whole
from .discrete import observed, space
from .family import Family, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution, Range


@final
class BernoulliBandit(Family):
    """A bandit with ``arms`` arms and episodes of exactly ``horizon`` pulls; the reward of a pull is 1 or 0.

    The constants are ``arm_0`` to ``arm_{arms-1}``, the probabilities of a pay-out, by default uniform in ``[0, 1]``.
    They depend on the number of arms, so ``parameters`` is set per instance.

    The right length of an episode depends on the learner. A recurrent policy learns within the episode and needs
    ``horizon=n`` and ``observation="feedback"``. A gradient step changes the policy only between batches: with
    ``horizon=1`` a batch of N episodes is N pulls, and n pulls are K batches with K N = n, whose rewards are all
    summed. With ``horizon=n`` one batch would be N n pulls, more than published learners are given.

    Each pull uses one uniform number, a hash of the row's key and the number of pulls made (see ``counter``); the arm
    pays if the number is below its probability. The number does not depend on the arm, so agents compared with equal
    generators get the same numbers. All numbers of a key are odd multiples of ``2^-24``, so probabilities are exact to
    within ``2^-24``.

    Held-out tasks need no special treatment: each probability has its cells, and the vector of cells decides the
    split, as for every family with continuous constants (see ``splits``). With the usual 1024 bins, one arm has 1024
    cells, and two or more arms have about a million or more.

    Args:
        arms: number of arms; at least 1.
        horizon: pulls in one episode.
        observation: ``"plain"`` for the constant 1, since a bandit has nothing to show (a constant 0 would block every
            gradient to a network's first layer); or ``"feedback"`` for that 1 followed by the previous action and
            reward.
        ranges: a number or distribution for any arm.

    Raises:
        ValueError: ``arms`` is below 1, ``observation`` is unknown, or see ``Family``.
        TypeError: see ``Family``.

    >>> family = BernoulliBandit(arms=3, arm_0=0.5)
    >>> task = family.sample(2, generator=torch.Generator().manual_seed(0))
    >>> list(task), task["arm_0"]
    (['arm_0', 'arm_1', 'arm_2'], tensor([0.5000, 0.5000]))
    """

    observation_space: Box  # the constant 1; with feedback (1, previous action one-hot, previous reward)
    action_space: Discrete  # the number of the arm to pull

    def __init__(
        self, arms: int = 5, horizon: int = 1, observation: str = "plain", **ranges: Distribution | float
    ) -> None:
        self._arms = whole("arms", arms)
        names = [f"arm_{arm}" for arm in range(self._arms)]
        # The base class declares this per class; here it depends on the number of arms, so it is set per instance.
        self.parameters = {  # type: ignore[misc]
            name: Parameter(0.5, 0.0, 1.0, "1", f"probability that arm {arm} pays") for arm, name in enumerate(names)
        }
        every = dict.fromkeys(names, Range(0.0, 1.0))
        super().__init__(horizon, {**every, **ranges}, {"arms": self._arms, "observation": observation})
        self._observation = observation
        constant = Box(1.0, 1.0, (1,), dtype=np.float32)
        self.observation_space = space(constant, self._arms, (0.0, 1.0), observation)
        self.action_space = Discrete(self._arms)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Draw a key for the random numbers of each row; there is no previous action (-1) or reward yet."""
        like = task["arm_0"]
        key = counter.keys(rows, generator=generator).to(like.device)
        return {
            "key": key,
            "pulls": torch.zeros_like(key),
            "action": torch.full_like(key, -1),
            "reward": torch.zeros_like(key, dtype=like.dtype),
        }

    def observe(self, task: Task, state: State) -> Tensor:
        """Return ``[*rows, 1]``, or with feedback ``[*rows, arms + 2]``; the probabilities stay hidden."""
        constant = torch.ones_like(state["reward"]).unsqueeze(-1)
        return observed(constant, state, self._arms, self._observation)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Pull an arm. ``action`` is ``[*rows]`` with the numbers of the arms in any dtype."""
        action = action.long()
        chances = self._chances(task).expand(*action.shape, self._arms)
        chance = chances.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        reward = (counter.uniform(state["key"], state["pulls"], chance.dtype) < chance).to(chance.dtype)
        after = {"key": state["key"], "pulls": state["pulls"] + 1, "action": action, "reward": reward}
        return Transition(after, reward, torch.zeros_like(action, dtype=torch.bool))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact expected returns of one episode, each of the values' shape.

        ``ceiling``: pull the best arm ``horizon`` times, knowing the probabilities. ``floor``: pull arms at random. An
        agent that must learn the probabilities scores below the ceiling on average; see ``gittins``.
        """
        chances = self._chances(task)
        return {"ceiling": chances.amax(-1) * self.horizon, "floor": chances.mean(-1) * self.horizon}

    def _chances(self, task: Task) -> Tensor:
        """Return the probabilities of all arms, ``[..., arms]``."""
        return torch.stack([task[name] for name in self.parameters], -1)
