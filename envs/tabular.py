"""Random tabular MDPs: a few states and actions, rewards and transitions drawn anew for every task.

The generator of RL^2 (Duan et al. 2016, arXiv:1611.02779) and SNAIL (Mishra et al. 2018,
arXiv:1707.03141), after Osband et al. (2013, arXiv:1306.0940): 10 states, 5 actions, episodes of 10 steps
from state 0; mean rewards N(1, 1) for every state and action, with Gaussian noise of unit variance added
at every step; transitions from a flat Dirichlet.

An MDP with S states and A actions has S A (S + 1) entries, 550 in the published size. As separate constants, these
would be that many tensors in every task, checkpoint and report, and a Dirichlet distribution, whose components sum to
1, could not be drawn from independent constants. A task is therefore a single integer, ``seed``. All entries are hashes
of it (see ``counter``), computed inside ``step`` for the current state and action and never stored. This takes a few
kernels on ``[*rows, S]``, less than stacking 500 constants would.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from . import counter
from .checks import whole
from .discrete import observed, one_hot, space
from .family import Family, Setting, State, Task, Transition
from .parameters import Parameter
from .ranges import Distribution, Range

SEEDS = 2**24  # float32 represents every integer up to here
LUCK = 3  # uniform numbers per step: two for the normal noise, one for the next state


class Tables(NamedTuple):
    """The full tables of one or many MDPs."""

    reward: Tensor  # [..., S, A] mean reward
    transition: Tensor  # [..., S, A, S] probability of the next state


@final
class TabularMDP(Family):
    """Random MDPs with ``states`` states and ``actions`` actions; every episode starts in state 0.

    ``seed`` is the task: its integer part determines all standard normal rewards and all transitions. ``reward_mean``,
    ``reward_spread`` and ``reward_noise`` set the mean and the spread of the rewards of all states and actions and the
    noise added at every step; ranges of them give families with other rewards. Transition probabilities are exponential
    variables divided by their sum, which gives the flat Dirichlet. Episodes end only by the time limit.

    Held-out tasks: a whole cell of seeds belongs to one split (``splits`` with 1024 bins: 16384 seeds per cell), so the
    splits share no seed and hence no MDP. MDPs of neighbouring seeds are as different as any two others: a test task is
    not close to a training task, and there are 12 million MDPs to train on.

    Args:
        states: number of states; at least 1.
        actions: number of actions; at least 1.
        horizon: steps in one episode.
        observation: ``"plain"`` for the one-hot state; or ``"feedback"`` for that followed by the previous action and
            reward. Neither contains the time.
        ranges: a number or distribution for any constant of ``TabularMDP.parameters``.

    Raises:
        ValueError: ``states`` or ``actions`` is below 1, ``observation`` is unknown, or see ``Family``.
        TypeError: see ``Family``.

    >>> family = TabularMDP(states=3, actions=2, seed=7)
    >>> task = family.sample(1, generator=torch.Generator().manual_seed(0))
    >>> [tuple(table.shape) for table in family.tables(task)]
    [(1, 3, 2), (1, 3, 2, 3)]
    """

    parameters: ClassVar = {
        "seed": Parameter(0.0, 0.0, SEEDS, "1", "number of the MDP; only the integer part matters", whole=True),
        "reward_mean": Parameter(1.0, -1e6, 1e6, "reward", "mean over MDPs of the mean rewards"),
        "reward_spread": Parameter(1.0, 0.0, 1e6, "reward", "standard deviation over MDPs of the mean rewards"),
        "reward_noise": Parameter(1.0, 0.0, 1e6, "reward", "standard deviation of the noise of a reward"),
    }

    observation_space: Box  # the one-hot state; with feedback (state one-hot, previous action one-hot, previous reward)
    action_space: Discrete  # one of ``actions``; its effect differs from task to task

    def __init__(
        self,
        states: int = 10,
        actions: int = 5,
        horizon: int = 10,
        observation: str = "plain",
        **ranges: Distribution | float,
    ) -> None:
        self._states, self._actions = whole("states", states), whole("actions", actions)
        settings: dict[str, Setting] = {"states": self._states, "actions": self._actions, "observation": observation}
        super().__init__(horizon, {"seed": Range(0.0, SEEDS), **ranges}, settings)
        self._observation = observation
        place = Box(0.0, 1.0, (self._states,), dtype=np.float32)
        self.observation_space = space(place, self._actions, (-np.inf, np.inf), observation)
        self.action_space = Discrete(self._actions)

    def reset(self, task: Task, rows: tuple[int, ...], *, generator: torch.Generator) -> State:
        """Put every row in state 0 and draw a key for its random numbers; no previous action (-1) or reward yet."""
        like = task["seed"]
        key = counter.keys(rows, generator=generator).to(like.device)
        return {
            "key": key,
            "steps": torch.zeros_like(key),
            "place": torch.zeros_like(key),
            "action": torch.full_like(key, -1),
            "reward": torch.zeros_like(key, dtype=like.dtype),
        }

    def observe(self, task: Task, state: State) -> Tensor:
        """Return ``[*rows, states]``, or with feedback ``[*rows, states + actions + 1]``; the tables stay hidden."""
        place = one_hot(state["place"], self._states, state["reward"].dtype)
        return observed(place, state, self._actions, self._observation)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """Take one step. ``action`` is ``[*rows]`` with the numbers of the actions in any dtype."""
        action = action.long()
        mean, weight = self._entries(task, state["place"] * self._actions + action)
        draws = torch.arange(LUCK, device=action.device) + state["steps"].unsqueeze(-1) * LUCK
        first, second, share = counter.uniform(state["key"].unsqueeze(-1), draws, mean.dtype).unbind(-1)
        reward = torch.addcmul(mean, task["reward_noise"], counter.normal(first, second))
        # The next state is the first whose cumulative weight reaches a uniform share of the total.
        # A matrix product instead of cumsum, which is refused on GPUs in torch's deterministic mode.
        upper = torch.ones(self._states, self._states, dtype=torch.float64, device=weight.device).triu()
        reached = (weight.double() @ upper).to(weight.dtype)
        place = (reached < share.unsqueeze(-1) * reached[..., -1:]).sum(-1)
        after = {
            "key": state["key"],
            "steps": state["steps"] + 1,
            "place": place,
            "action": action,
            "reward": reward,
        }
        return Transition(after, reward, torch.zeros_like(action, dtype=torch.bool))

    def tables(self, task: Task) -> Tables:
        """Return the full tables of the MDPs, float64, with the values' shape as leading dimensions."""
        pairs = torch.arange(self._states * self._actions, device=task["seed"].device)
        mean, weight = self._entries({name: value.double().unsqueeze(-1) for name, value in task.items()}, pairs)
        shape = (*mean.shape[:-1], self._states, self._actions)
        transition = weight / weight.sum(-1, keepdim=True)
        return Tables(mean.reshape(shape), transition.reshape(*shape, self._states))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Return exact expected returns of one episode, each of the values' shape, by backward induction.

        ``ceiling``: the best policy given the tables and the time; a policy that does not observe the time may not
        attain it. ``floor``: the uniformly random policy. Neither is discounted.
        """
        reward, transition = self.tables(task)
        best, blind = torch.zeros_like(reward[..., 0]), torch.zeros_like(reward[..., 0])  # [..., S]
        for _ in range(self.horizon):
            best = (reward + (transition @ best[..., None, :, None]).squeeze(-1)).amax(-1)
            blind = (reward + (transition @ blind[..., None, :, None]).squeeze(-1)).mean(-1)
        return {"ceiling": best[..., 0].to(task["seed"]), "floor": blind[..., 0].to(task["seed"])}

    def _entries(self, task: Task, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean reward ``[...]`` and next-state weights ``[..., S]`` of pairs ``state * actions + action``.

        Each pair uses ``S + 2`` uniform numbers of the task's key, two of them for the normal reward. The weights are
        exponential variables; divided by their sum, they are the probabilities.
        """
        count = self._states + 2
        numbers = pair.unsqueeze(-1) * count + torch.arange(count, device=pair.device)
        key = counter.mix(task["seed"].long()).unsqueeze(-1)
        uniform = counter.uniform(key, numbers, task["seed"].dtype)
        standard = counter.normal(uniform[..., 0], uniform[..., 1])
        return torch.addcmul(task["reward_mean"], task["reward_spread"], standard), -uniform[..., 2:].log()
