"""Random tabular MDPs: a few states and actions, rewards and transitions drawn anew for every task.

The generator of RL^2 (Duan et al. 2016, arXiv:1611.02779) and SNAIL (Mishra et al. 2018,
arXiv:1707.03141), after Osband et al. (2013, arXiv:1306.0940): 10 states, 5 actions, episodes of 10 steps
from state 0; mean rewards N(1, 1) for every state and action, with Gaussian noise of unit variance added
at every step; transitions from a flat Dirichlet.

S states and A actions have S A (S + 1) numbers, 550 in the published size. Were each a constant of its
own, they would be as many tensors in every task, checkpoint and report, and no Dirichlet, whose parts sum
to 1, could be drawn from independent constants. So a task is one whole number instead, ``seed``, of which
all entries are hashes (see ``counter``), computed for the state and action at hand inside ``step`` and
never stored. This costs a few kernels on ``[*rows, S]``, less than stacking 500 constants would.
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

SEEDS = 2**24  # float32 holds every whole number up to here
LUCK = 3  # uniform numbers a step: two for the normal noise, one for the next state


class Tables(NamedTuple):
    """One MDP, or many, in full."""

    reward: Tensor  # [..., S, A] mean reward
    transition: Tensor  # [..., S, A, S] probability of the next state


@final
class TabularMDP(Family):
    """Random MDPs with ``states`` states and ``actions`` actions; every episode starts in state 0.

    ``seed`` is the task: its whole part decides all of the standard normal rewards and of the
    transitions. ``reward_mean``, ``reward_spread`` and ``reward_noise`` shift, stretch and blur the rewards
    of all states and actions alike, so that ranges of them make families with other rewards. The
    transitions are exponential variables over their sum, which is the flat Dirichlet. Only the time limit
    ends an episode.

    Held-out tasks: whole cells of seeds belong to one split (``splits`` with 1024 bins: 16384 seeds to a
    cell), so the splits share no seed and hence no MDP. MDPs of neighbouring seeds are as unlike as any two
    others: a test task is not close to a training task, and there are 12 million MDPs to train on.

    Args:
        states: how many; at least 1.
        actions: how many; at least 1.
        horizon: steps in one episode.
        observation: ``"plain"``, the state one-hot; or ``"feedback"``, that followed by the previous action
            and reward. Neither tells the time.
        ranges: a number or distribution for any constant of ``TabularMDP.parameters``.

    Raises:
        ValueError: no states or actions, an unknown observation, or see ``Family``.
        TypeError: see ``Family``.

    >>> family = TabularMDP(states=3, actions=2, seed=7)
    >>> task = family.sample(1, generator=torch.Generator().manual_seed(0))
    >>> [tuple(table.shape) for table in family.tables(task)]
    [(1, 3, 2), (1, 3, 2, 3)]
    """

    parameters: ClassVar = {
        "seed": Parameter(0.0, 0.0, SEEDS, "1", "number of the MDP; its whole part counts", whole=True),
        "reward_mean": Parameter(1.0, -1e6, 1e6, "reward", "mean over MDPs of the mean rewards"),
        "reward_spread": Parameter(1.0, 0.0, 1e6, "reward", "standard deviation over MDPs of the mean rewards"),
        "reward_noise": Parameter(1.0, 0.0, 1e6, "reward", "standard deviation of the noise of a reward"),
    }

    observation_space: Box  # the state one-hot; with feedback (state one-hot, previous action one-hot, previous reward)
    action_space: Discrete  # one of ``actions``; what it does differs from task to task

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
        """Every row in state 0, with a key for its luck; no action (-1) and no reward yet."""
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
        """``[*rows, states]``, or with feedback ``[*rows, states + actions + 1]``; the tables stay hidden."""
        place = one_hot(state["place"], self._states, state["reward"].dtype)
        return observed(place, state, self._actions, self._observation)

    def step(self, task: Task, state: State, action: Tensor) -> Transition:
        """One step. ``action`` is ``[*rows]`` of any dtype holding the action's number."""
        action = action.long()
        mean, weight = self._entries(task, state["place"] * self._actions + action)
        draws = torch.arange(LUCK, device=action.device) + state["steps"].unsqueeze(-1) * LUCK
        first, second, share = counter.uniform(state["key"].unsqueeze(-1), draws, mean.dtype).unbind(-1)
        reward = torch.addcmul(mean, task["reward_noise"], counter.normal(first, second))
        # The next state is the first whose cumulated weight reaches a uniform share of the whole.
        # A product, and not cumsum: a GPU that is asked for equal bits refuses that.
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
        """The MDPs in full, float64, with the values' shape in front."""
        pairs = torch.arange(self._states * self._actions, device=task["seed"].device)
        mean, weight = self._entries({name: value.double().unsqueeze(-1) for name, value in task.items()}, pairs)
        shape = (*mean.shape[:-1], self._states, self._actions)
        transition = weight / weight.sum(-1, keepdim=True)
        return Tables(mean.reshape(shape), transition.reshape(*shape, self._states))

    def references(self, task: Task) -> dict[str, Tensor]:
        """Exact expected returns of one episode, each of the values' shape, by backward induction.

        ``ceiling``: the best policy of one who knows the tables and the time; a policy that does not see
        the time need not reach it. ``floor``: the policy that acts at random. Neither is discounted.
        """
        reward, transition = self.tables(task)
        best, blind = torch.zeros_like(reward[..., 0]), torch.zeros_like(reward[..., 0])  # [..., S]
        for _ in range(self.horizon):
            best = (reward + (transition @ best[..., None, :, None]).squeeze(-1)).amax(-1)
            blind = (reward + (transition @ blind[..., None, :, None]).squeeze(-1)).mean(-1)
        return {"ceiling": best[..., 0].to(task["seed"]), "floor": blind[..., 0].to(task["seed"])}

    def _entries(self, task: Task, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Mean reward ``[...]`` and weights of the next states ``[..., S]`` of pairs ``state * actions + action``.

        Each pair owns ``S + 2`` uniform numbers of the task's key, two of them for the normal reward. The
        weights are exponential: over their sum they are the probabilities.
        """
        count = self._states + 2
        numbers = pair.unsqueeze(-1) * count + torch.arange(count, device=pair.device)
        key = counter.mix(task["seed"].long()).unsqueeze(-1)
        uniform = counter.uniform(key, numbers, task["seed"].dtype)
        standard = counter.normal(uniform[..., 0], uniform[..., 1])
        return torch.addcmul(task["reward_mean"], task["reward_spread"], standard), -uniform[..., 2:].log()
