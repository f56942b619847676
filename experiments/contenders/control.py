"""Control theory as a contender: fit linear dynamics and compute the gains that balance from them, without rewards.

It suits tasks of staying where observations are zero, such as CartPole's, and gives a fair upper bound for contenders
that have to learn the same by trial and reward. Of the configuration it uses the benchmark, the seed, and the policy's
sizes; the randomly initialized policy explores.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gymnasium.spaces import Discrete
from torch import Tensor
from torch.nn.functional import pad

from experiments.build import Setup, build
from experiments.config import Config
from experiments.contenders.budget import Spent
from experiments.contenders.curves import curve_measured
from experiments.contenders.learners import CPU, Measure
from metarl import Adaptation, AdaptationCurve
from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.dynamics import LinearDynamics, linear_dynamics
from metarl.learner import second_moment
from metarl.lifting import over_tasks
from metarl.packing import live_rows
from metarl.rollouts import collect, per_row, task_count
from metarl.types import Batch, Task, TaskFamily

# Cost of a push, relative to a cost of 1 for being off by as much as during exploration. From 5 episodes on, values
# from 1 to 1e4 score alike; with one episode they score 359 to 456 on validation tasks of cartpole-all, where this was
# the best of four.
EFFORT = 1e3


def lqr(config: Config) -> Measure:
    """Linear-quadratic regulation with dynamics fitted to exploring episodes (`metarl.dynamics.linear_dynamics`).

    Step k fits them to k times as many episodes, all of them fresh and played by the randomly initialized policy. A
    discrete action is the one nearest to the wanted push.
    """
    setup = build(config, CPU)
    return curve_measured("lqr", setup, partial(_curve, setup), Spent())


@torch.no_grad()
def _curve(setup: Setup, task: Task, adaptation: Adaptation, *, generator: torch.Generator) -> AdaptationCurve:
    """Return the adaptation curve; its step 0 scores the exploring policy."""
    policy, family, scored = setup.learner.policy, setup.benchmark.family, adaptation.score_episodes
    explore = partial(collect, policy, policy.initial(), family, task, generator=generator)
    sampled, mode = (explore(scored, act=act).episode_return.mean(-1) for act in ("sample", "mode"))
    nothing = torch.zeros(task_count(task))
    stages = [(sampled, mode, nothing, nothing)]
    for k in range(1, adaptation.steps + 1):
        seen = explore(k * adaptation.episodes)
        found = over_tasks(partial(gains, horizon=family.horizon), seen, tasks=task_count(task), size=task_count(task))
        balanced = control(found, family, task, scored, generator=generator).mean(-1)
        stages.append((balanced, balanced, seen.steps, torch.full_like(nothing, float(k * adaptation.episodes))))
    return AdaptationCurve.from_stages(stages)


def gains(batch: Batch, *, horizon: int) -> Tensor:
    """Return the feedback gains of one task ``[U, O + U]``.

    The push is minus their product with the concatenated observation and previous push. The cost of the state is
    relative to the second moment of the episodes' observations, so that their linear coordinates do not matter.
    """
    moment = second_moment(*live_rows(batch, batch.observation))[:-1, :-1].double()
    loaded = moment + torch.diag_embed(1e-6 * moment.diagonal() + 1e-12)  # invertible even if a sensor is always 0
    return riccati(linear_dynamics(batch, lambda seen: seen), torch.linalg.inv(loaded), horizon)


def riccati(fitted: LinearDynamics, cost: Tensor, horizon: int) -> Tensor:
    """Return the first gains ``[U, F + U]`` of finite-horizon linear-quadratic regulation.

    Uses the Riccati recursion in float64.

    Args:
        fitted: dynamics of F numbers. A push acts at once and again one step later, so that the previous push is part
            of the state.
        cost: matrix Q of the numbers ``[F, F]``; a push costs `EFFORT`.
        horizon: number of steps left.
    """
    drift, push, late = (part.double() for part in fitted)
    numbers, pushes = push.shape
    nothing, itself = torch.zeros(pushes, numbers + pushes).double(), torch.eye(pushes).double()
    move = torch.cat([torch.cat([torch.eye(numbers) + drift, late], -1), nothing])
    act = torch.cat([push, itself])
    stage = pad(cost, (0, pushes, 0, pushes))
    ahead, gain = stage, nothing
    for _ in range(horizon):
        gain = torch.linalg.solve(EFFORT * itself + act.mT @ ahead @ act, act.mT @ ahead @ move)
        ahead = stage + move.mT @ ahead @ (move - act @ gain)
    return gain


def control(gain: Tensor, family: TaskFamily, task: Task, episodes: int, *, generator: torch.Generator) -> Tensor:
    """Play episodes under gains ``[T, U, O + U]`` and return their returns ``[T, N]``."""
    rows, constants = (task_count(task), episodes), per_row(task)
    state = family.reset(constants, rows, generator=generator)
    pushed = torch.zeros(*rows, gain.shape[-2], dtype=torch.float64)
    returns, over = torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    for _ in range(family.horizon):
        wanted = -torch.cat([family.observe(constants, state), pushed], -1) @ gain.mT
        acting = possible(wanted, family.action_space)
        action = acting.mode()
        pushed = acting.push(action)
        state, reward, ended = family.step(constants, state, action)
        returns = returns + reward.masked_fill(over, 0.0)
        over = over | ended
    return returns


def possible(wanted: Tensor, space: Any) -> Distribution:
    """Return a distribution whose mode is the action of ``space`` nearest to the wanted pushes ``[..., U]``."""
    if isinstance(space, Discrete):
        return Categorical(wanted)
    low, high = (torch.from_numpy(bound).to(wanted.dtype) for bound in (space.low, space.high))
    mean = wanted.clamp(low, high)
    return Gaussian(mean, torch.zeros_like(mean))
