"""Bernoulli bandits: arms that pay 1 with a probability of their own, which the agent does not know.

The protocol of RL^2 (Duan et al. 2016, arXiv:1611.02779) and SNAIL (Mishra et al. 2018,
arXiv:1707.03141): k arms with probabilities drawn from U(0, 1), n pulls, and the score is the sum of all
pay-outs, those made while learning included. See ``gittins`` for what the best player can expect.
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
    """``arms`` arms; one episode is ``horizon`` pulls. Reward 1 or 0; only the time limit ends an episode.

    The constants are ``arm_0`` to ``arm_{arms-1}``, the probabilities of a pay-out, by default uniform in
    ``[0, 1]``. They depend on the number of arms, so ``parameters`` belongs to an instance.

    How long an episode should be depends on who learns. A recurrent policy learns within the episode: it
    needs ``horizon=n`` and ``observation="feedback"``. A gradient step changes the policy between batches
    only: with ``horizon=1`` a batch of N episodes is N pulls, and n pulls are K batches with K N = n,
    whose rewards are all added up. With ``horizon=n`` one batch would be N n pulls, more than published
    players are given.

    Luck is one uniform number a pull, a hash of the row's key and of the number of pulls made (see
    ``counter``); the arm pays if the number is below its probability. Luck does not depend on the arm, so
    players compared on equal generators share theirs. All numbers of one key are odd multiples of
    ``2^-24``, and so is the error in a probability at most.

    Held-out tasks need nothing special: each probability has its cells, and the vector of cells decides
    the split, as for every family of continuous constants (see ``splits``). Two arms or more have about a
    million cells or more with the usual 1024 bins; one arm alone has 1024.

    Args:
        arms: how many; at least 1.
        horizon: pulls in one episode.
        observation: ``"plain"``, the constant 1, since a bandit has nothing to show (a constant 0 would
            stop every gradient to a network's first layer); or ``"feedback"``, that 1 followed by the
            previous action and reward.
        ranges: a number or distribution for any arm.

    Raises:
        ValueError: no arms, an unknown observation, or see ``Family``.
        TypeError: see ``Family``.

    >>> family = BernoulliBandit(arms=3, arm_0=0.5)
    >>> task = family.sample(2, generator=torch.Generator().manual_seed(0))
    >>> list(task), task["arm_0"]
    (['arm_0', 'arm_1', 'arm_2'], tensor([0.5000, 0.5000]))
    """

    observation_space: Box  # the constant 1; with feedback (1, previous action one-hot, previous reward)
    action_space: Discrete  # which arm to pull

    def __init__(
        self, arms: int = 5, horizon: int = 1, observation: str = "plain", **ranges: Distribution | float
    ) -> None:
        self._arms = whole("arms", arms)
        names = [f"arm_{arm}" for arm in range(self._arms)]
        # Declared for all instances alike by the base class; here each has as many as it has arms.
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
        """A key for each row's luck; no pull made, no action (-1) and no reward yet."""
        like = task["arm_0"]
        key = counter.keys(rows, generator=generator).to(like.device)
        return {
            "key": key,
            "pulls": torch.zeros_like(key),
            "action": torch.full_like(key, -1),
            "reward": torch.zeros_like(key, dtype=like.dtype),
        }

    def observe(self, task: Task, state: State) -> Tensor:
        """``[*rows, 1]``, or with feedback ``[*rows, arms + 2]``; the probabilities stay hidden."""
        constant = torch.ones_like(state["reward"]).unsqueeze(-1)
        return observed(constant, state, self._arms, self._observation)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """One pull. ``action`` is ``[*rows]`` of any dtype holding the arm's number."""
        action = action.long()
        chances = self._chances(task).expand(*action.shape, self._arms)
        chance = chances.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        reward = (counter.uniform(state["key"], state["pulls"], chance.dtype) < chance).to(chance.dtype)
        after = {"key": state["key"], "pulls": state["pulls"] + 1, "action": action, "reward": reward}
        return Transition(after, reward, torch.zeros_like(action, dtype=torch.bool))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Exact expected returns of one episode, each of the values' shape.

        ``ceiling``: who knows the probabilities pulls the best arm ``horizon`` times. ``floor``: pull arms
        at random. A player who must learn scores below the ceiling on average: see ``gittins``.
        """
        chances = self._chances(task)
        return {"ceiling": chances.amax(-1) * self.horizon, "floor": chances.mean(-1) * self.horizon}

    def _chances(self, task: Task) -> Tensor:
        """``[..., arms]``."""
        return torch.stack([task[name] for name in self.parameters], -1)
