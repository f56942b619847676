"""Benchmarks of bandits and tabular MDPs."""

from __future__ import annotations

from ..bandits import BernoulliBandit
from ..splits import TaskBenchmark
from ..tabular import TabularMDP
from .naming import variant


def bandit(arms: int = 5, horizon: int = 1, observation: str = "plain") -> TaskBenchmark:
    """RL^2's and SNAIL's bandits (Duan et al. 2016, section 3.1; Mishra et al. 2018): 5, 10 or 50 arms, U(0, 1).

    By default one pull is one episode, for adaptation by gradient steps: n pulls are n episodes. For a recurrent
    learner, use ``horizon=n`` and ``observation="feedback"``.
    """
    return TaskBenchmark(variant(f"bandit-{arms}", observation, "plain"), BernoulliBandit(arms, horizon, observation))


def tabular_random(horizon: int = 10, observation: str = "plain") -> TaskBenchmark:
    """RL^2's and SNAIL's random MDPs: 10 states, 5 actions, 10 steps from state 0."""
    family = TabularMDP(horizon=horizon, observation=observation)
    return TaskBenchmark(variant("tabular-random", observation, "plain"), family)
