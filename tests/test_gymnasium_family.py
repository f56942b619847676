"""Gymnasium environments as families, against plain loops over them and against our CartPole with equal constants."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from helpers import Stub, categorical_policy, gaussian_policy, seeded
from torch import Tensor

from envs import CartPole, Choice, Range, ScaledActions, ScaledSensors, TaskBenchmark
from envs.adapters import GymnasiumFamily
from envs.adapters.gymnasium_family import derived
from metarl import Descent, Learner, Plan, collect, meta_step
from metarl.evaluation import Adaptation, evaluate
from metarl.exploration import explore, explore_together
from metarl.losses import lvc, vpg
from metarl.rollouts import draw, per_row
from metarl.rules import SGD
from metarl.testing import check_family

ROOT = Path(__file__).parents[1]
CONSTANTS = {  # ours, theirs
    "gravity": "gravity",
    "cart_mass": "masscart",
    "pole_mass": "masspole",
    "half_length": "length",
    "force_magnitude": "force_mag",
}
WIDE = {
    "gravity": Range(5.0, 15.0),
    "masscart": Range(0.5, 3.0),
    "masspole": Range(0.05, 1.0),
    "length": Range(0.2, 1.5),
    "force_mag": Range(5.0, 15.0),
}


def write_cart_pole(env: Any, constants: dict[str, float]) -> None:
    """All that CartPole-v1 keeps, derived values too."""
    for name, value in constants.items():
        setattr(env, name, value)
    env.total_mass = env.masscart + env.masspole
    env.polemass_length = env.masspole * env.length


def build_cart_pole(constants: dict[str, float]) -> Any:
    env = gymnasium.make("CartPole-v1")
    write_cart_pole(env.unwrapped, constants)
    return env


class Clock(gymnasium.Env):
    """Observes its age, is paid ``pay`` times it, ends after ``life`` steps, and counts how often it was stepped."""

    observation_space: Any = Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = Discrete(3, start=1)
    stepped = 0

    def __init__(self, life: int = 3, pay: float = 1.0, fault: str = "", flag: bool = False) -> None:
        assert life >= 0, "a life is not negative"
        self.life, self.pay, self.fault, self.flag, self.age = life, pay, fault, flag, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._see(), {}

    def step(self, action):
        assert isinstance(action, np.int64) and self.action_space.contains(action)
        assert isinstance(self.life, int) and isinstance(self.flag, bool)
        assert self.age < max(self.life, 1), "stepped after the end"
        Clock.stepped += 1
        self.age += 1
        if self.fault and self.age == 2:
            {"raise": lambda: 1 / 0, "hang": lambda: time.sleep(600), "exit": lambda: os._exit(3),
             "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "cut": lambda: None,
             "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT), "quit": self._quit}[self.fault]()  # fmt: skip
        cut = self.fault == "cut" and self.age == 2
        return self._see(), self.pay * self.age, self.age >= self.life, cut, {}

    def _quit(self):
        raise KeyboardInterrupt

    def _see(self):
        return np.array([self.age, self.np_random.random()], np.float32)


class Odd(Clock):
    def __init__(self, width: float = 1.0, which: str = "dict") -> None:
        super().__init__()
        self.width = width
        if which == "dict":
            self.observation_space = Dict({"a": Box(0.0, 1.0)})
        elif which == "multi":
            self.action_space = MultiDiscrete([2, 2])
        elif which == "wide":
            self.observation_space = Box(-1.0, 1.0, (2,), np.float64)
        elif which in ("large", "larger"):
            end, dtype = (3e38, np.float32) if which == "large" else (1e308, np.float64)
            self.observation_space = Box(-end, end, (2,), dtype)
        elif which == "cells":
            self.observation_space = Discrete(int(width))
        else:
            self.observation_space = Box(0.0, 1.0, (int(width),))


class Hidden(Clock):
    """Keeps its constant under another name."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self._gain = gain


def by_name(**constants: float) -> Hidden:
    return Hidden(**constants)


def test_observations_are_declared_in_the_numbers_they_are_handed_out_in() -> None:
    family = GymnasiumFamily("tests/Odd-v3", {"width": 1.0}, 5, rebuild=True, kwargs={"which": "wide"})
    task = family.sample(1, generator=seeded(0))
    state = family.reset(task, (1,), generator=seeded(1))
    assert family.observation_space == Box(-1.0, 1.0, (2,), np.float32)
    assert family.observe(task, state).dtype == torch.float32


def test_bounds_beyond_the_largest_float32_are_none() -> None:
    large, larger = (
        GymnasiumFamily("tests/Odd-v3", {"width": 1.0}, 5, rebuild=True, kwargs={"which": which})
        for which in ("large", "larger")
    )
    assert large.observation_space == Box(-3e38, 3e38, (2,), np.float32)
    for space in (larger.observation_space, ScaledSensors(large, largest=2.0).observation_space):
        assert space == Box(-np.inf, np.inf, (2,), np.float32)


@pytest.fixture(autouse=True)
def registered():
    for name, cls in (("Clock", Clock), ("Odd", Odd), ("Hidden", Hidden), ("Whole", Whole)):
        gymnasium.register(f"tests/{name}-v3", entry_point=cls)
    yield
    for name in ("Clock", "Odd", "Hidden", "Whole"):
        del gymnasium.registry[f"tests/{name}-v3"]


def clock(life: Any = 3.0, **options: Any) -> GymnasiumFamily:
    return GymnasiumFamily("tests/Clock-v3", {"life": life}, **{"horizon": 5, **options})


def roll(family: Any, task: dict[str, Tensor], state: dict[str, Tensor], actions: Tensor) -> list[list[Tensor]]:
    """Observation before, reward and termination of every step of ``actions`` ``[H, *rows, ...]``."""
    found = []
    for action in actions:
        seen = family.observe(task, state)
        state, reward, terminated = family.step(task, state, action)
        found.append([seen, reward, terminated])
    return found


# ---------------------------------------------------------------------------------------------- what it computes


@pytest.mark.parametrize("how", [{"setter": write_cart_pole}, {"rebuild": build_cart_pole}], ids=["setter", "builder"])
def test_cartpole_v1_equals_our_cartpole_for_the_same_constants(how: dict[str, Any]) -> None:
    theirs, ours = GymnasiumFamily("CartPole-v1", WIDE, **how), CartPole()
    assert (theirs.horizon, theirs.observation_space) == (ours.horizon, ours.observation_space)
    sampled = theirs.sample(6, generator=seeded(0))
    task = {name: value.double().unsqueeze(-1) for name, value in sampled.items()}
    mine = {n: v.double().unsqueeze(-1) for n, v in ours.sample(6, generator=seeded(0)).items()}
    mine |= {ours_name: task[theirs_name] for ours_name, theirs_name in CONSTANTS.items()}
    live = theirs.reset(task, (6, 4), generator=seeded(1))
    assert live["row"].dtype == torch.int64 and live["row"].shape == live["step"].shape == (6, 4)
    state = dict(zip(("x", "x_dot", "theta", "theta_dot"), theirs.observe(task, live).unbind(-1), strict=True))
    actions = torch.randint(2, (60, 6, 4), generator=seeded(2))
    over = torch.zeros(6, 4, dtype=torch.bool)
    for (seen, _, ended), (expected, _, end) in zip(
        roll(theirs, task, live, actions), roll(ours, mine, state, actions), strict=True
    ):
        running = ~over
        torch.testing.assert_close(seen[running], expected[running], rtol=1e-4, atol=1e-5)
        assert torch.equal(ended[running], end[running])
        over = over | end
    assert over.float().mean() > 0.5


def test_a_masspole_that_changes_must_change_the_total_mass() -> None:
    with pytest.raises(ValueError, match="polemass_length, total_mass from it"):
        GymnasiumFamily("CartPole-v1", {"masspole": Range(0.05, 1.0)})
    assert derived(type(gymnasium.make("CartPole-v1").unwrapped), "masscart") == ["total_mass"]
    assert derived(type(gymnasium.make("CartPole-v1").unwrapped), "gravity") == []

    def forgetful(env: Any, constants: dict[str, float]) -> None:
        env.masscart = 5.0

    stale = GymnasiumFamily("CartPole-v1", {"masscart": 5.0}, setter=forgetful)
    fresh = GymnasiumFamily("CartPole-v1", {"masscart": 5.0, "masspole": 0.1, "length": 0.5}, setter=write_cart_pole)
    plain = GymnasiumFamily("CartPole-v1", {"gravity": 9.8})
    paths = []
    for family in (stale, fresh, plain):
        task = family.sample(1, generator=seeded(0))
        state = family.reset(task, (1,), generator=seeded(1))
        paths.append(torch.stack([step[0] for step in roll(family, task, state, torch.ones(5, 1))]))
    assert (paths[0] - paths[2]).abs().max() < 1e-6 < 0.1 < (paths[1] - paths[2]).abs().max()


class After(Clock):
    """Pays a weight computed from the mass."""

    def __init__(self, mass: float = 1.0, horse: float = 2.0) -> None:
        super().__init__()
        self.mass = mass
        self.pay = mass * 9.8
        self.horse = horse


class Before(Clock):
    def __init__(self, mass: float = 1.0) -> None:
        super().__init__()
        self.pay = mass * 9.8
        self.mass = mass


class Local(Clock):
    def __init__(self, mass: float = 1.0) -> None:
        super().__init__()
        weight = mass * 9.8
        own = mass
        self.pay, self.mass = weight, own


class Converted(Clock):
    def __init__(self, mass: float = 1.0) -> None:
        super().__init__()
        self.mass: float = float(mass)
        self.pay = 9.8 * mass


class Handed(Local):
    def __init__(self, mass: float = 1.0) -> None:
        super().__init__(mass)
        self.share = mass / 2


class Apart(Clock):
    """Computes nothing from the mass; what shares a line with it is something else."""

    def __init__(self, mass: float = 1.0, other: float = 1.0) -> None:
        super().__init__()
        self.mass, self.other = mass, other
        self.pay = other


@pytest.mark.parametrize(
    ("cls", "stale"),
    [
        (After, ["pay"]),
        (Before, ["pay"]),
        (Local, ["pay"]),
        (Converted, ["pay"]),
        (Handed, ["pay", "share"]),
        (Apart, []),
    ],
)
def test_what_the_constructor_computes_from_its_argument_is_noticed(cls: type, stale: list[str]) -> None:
    gymnasium.register("tests/Stale-v3", entry_point=cls)
    try:
        assert derived(cls, "mass") == stale
        if stale:
            with pytest.raises(ValueError, match=f"computes {', '.join(stale)} from it") as caught:
                GymnasiumFamily("tests/Stale-v3", {"mass": Range(1.0, 3.0)}, 5)
            assert "\n" not in str(caught.value)
        family = GymnasiumFamily("tests/Stale-v3", {"mass": Range(1.0, 3.0)}, 5, rebuild=bool(stale))
        task = {"mass": torch.tensor([1.0, 3.0])}
        state = family.reset(task, (2,), generator=seeded(0))
        paid = family.step(task, state, torch.zeros(2).long()).reward
        torch.testing.assert_close(paid, torch.tensor([9.8, 29.4] if stale else [1.0, 1.0]))
    finally:
        del gymnasium.registry["tests/Stale-v3"]


@pytest.mark.parametrize(
    ("env_id", "constants"),
    [
        ("CartPole-v1", ["gravity", "force_mag", "tau"]),
        ("Pendulum-v1", ["g", "m", "l", "dt"]),
        ("Acrobot-v1", ["LINK_LENGTH_1", "LINK_MASS_2", "LINK_COM_POS_1", "torque_noise_max"]),
        ("MountainCar-v0", ["force", "gravity", "goal_position", "goal_velocity"]),
        ("MountainCarContinuous-v0", ["power", "goal_velocity"]),
    ],
)
def test_the_classic_environments_take_their_constants_as_attributes(env_id: str, constants: list[str]) -> None:
    env = gymnasium.make(env_id).unwrapped
    own = {name: getattr(env, name) for name in constants}
    ranges = {n: Choice((v, v + 1.0)) if isinstance(v, int) else Range(v, v + 0.01) for n, v in own.items()}
    family = GymnasiumFamily(env_id, ranges)
    assert {name: parameter.default for name, parameter in family.parameters.items()} == own


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "MountainCar-v0", "Acrobot-v1"])
def test_rows_equal_a_plain_loop_over_the_environment(env_id: str) -> None:
    constant = {"Pendulum-v1": "g", "MountainCar-v0": "force", "Acrobot-v1": "LINK_LENGTH_1"}[env_id]
    value = gymnasium.make(env_id).unwrapped.__getattribute__(constant)
    family = GymnasiumFamily(env_id, {constant: Range(0.8 * value, 1.2 * value)}, horizon=12)
    task = {name: v.double().unsqueeze(-1) for name, v in family.sample(3, generator=seeded(0)).items()}
    state = family.reset(task, (3, 2), generator=seeded(1))
    seeds = torch.randint(2**31 - 1, (3, 2), generator=seeded(1))
    family.action_space.seed(0)
    actions = torch.from_numpy(np.array([[[family.action_space.sample() for _ in range(2)] for _ in range(3)]
                                         for _ in range(12)]))  # fmt: skip
    rolled = roll(family, task, state, 3 * actions if env_id == "Pendulum-v1" else actions)
    for t in range(3):
        for n in range(2):
            env = gymnasium.make(env_id).unwrapped
            setattr(env, constant, task[constant][t, 0].item())
            seen, _ = env.reset(seed=int(seeds[t, n]))
            for h in range(12):
                np.testing.assert_allclose(rolled[h][0][t, n], seen, rtol=0, atol=0)
                action = actions[h, t, n].numpy()
                clipped = np.clip(3 * action, -2, 2) if action.ndim else int(action)  # as the family does
                seen, reward, terminated, _, _ = env.step(clipped)
                assert rolled[h][1][t, n].item() == pytest.approx(float(reward), rel=1e-12)
                assert rolled[h][2][t, n].item() == terminated


def test_workers_compute_what_this_process_computes() -> None:
    policy = categorical_policy()
    batches = []
    for workers in (0, 3):
        with GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, horizon=30, workers=workers) as family:
            task = family.sample(2, generator=seeded(0))
            batch = [collect(policy, policy.initial(), family, task, 2, generator=seeded(k)) for k in (1, 2)]
            batches.append(batch)
    for one, other in zip(*batches, strict=True):  # 4 rows in 2 and 2, a third worker would have none
        for name in ("observation", "action", "reward", "mask", "terminated", "last_observation"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


# ---------------------------------------------------------------------------------------------- ends of episodes


def test_an_ended_episode_waits_and_never_leaks_into_the_next() -> None:
    family = clock(horizon=6)
    task = {"life": torch.tensor([[2.0], [4.0], [9.0]])}
    state = family.reset(task, (3, 2), generator=seeded(0))
    before = Clock.stepped
    rolled = roll(family, task, state, torch.zeros(6, 3, 2, dtype=torch.int64))
    ages = torch.stack([seen[..., 0] for seen, _, _ in rolled])[..., 0].T  # [3, H]
    rewards = torch.stack([reward for _, reward, _ in rolled])[..., 0].T
    ends = torch.stack([terminated for _, _, terminated in rolled])[..., 0].T
    assert ages.tolist() == [[0, 1, 2, 2, 2, 2], [0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 4, 5]]
    assert rewards.tolist() == [[1, 2, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6]]
    assert [row.nonzero().flatten().tolist() for row in ends] == [[1], [3], []]  # the clock terminates nothing
    assert Clock.stepped - before == 2 * (2 + 4 + 6)  # filler steps cost nothing
    again = family.reset(task, (3, 2), generator=seeded(1))
    assert family.observe(task, again)[..., 0].eq(0).all()


def test_batches_mask_fillers_and_tell_death_from_the_clock() -> None:
    family = clock(horizon=25)
    task = {"life": torch.tensor([4.0, 99.0])}
    policy = categorical_policy(observations=2, actions=3)
    for seed in (0, 1):  # the second rolls on the environments of the first
        batch = collect(policy, policy.initial(), family, task, 3, generator=seeded(seed))
        assert batch.mask.sum(1).tolist() == [[4.0] * 3, [25.0] * 3]
        assert batch.terminated.sum(1).tolist() == [[1] * 3, [0] * 3]
        assert batch.episode_return.tolist() == [[10.0] * 3, [325.0] * 3]
        assert (batch.observation[0, 4:] == 0).all() and (batch.last_observation[1, :, 0] == 25).all()
    short = collect(policy, policy.initial(), family, {"life": torch.tensor([2.0, 3.0])}, 3, generator=seeded(2))
    assert short.mask.shape[1] == 10  # one look after a block of steps


def test_a_truncation_before_the_horizon_is_refused_rather_than_taken_for_death() -> None:
    family = clock(9.0, kwargs={"fault": "cut"}, rebuild=True)
    task = family.sample(1, generator=seeded(0))
    state = family.reset(task, (1,), generator=seeded(0))
    with pytest.raises(RuntimeError, match="truncated the episode before the horizon of 5; set horizon="):
        roll(family, task, state, torch.zeros(3, 1, dtype=torch.int64))
    family = clock(9.0, horizon=2, kwargs={"fault": "cut"}, rebuild=True)
    state = family.reset(task, (1,), generator=seeded(0))
    assert [bool(t) for _, _, t in roll(family, task, state, torch.zeros(2, 1, dtype=torch.int64))] == [False, False]


def test_bool_and_int_constants_arrive_as_such_and_rows_have_their_own() -> None:
    ranges = {"life": Choice((1.0, 2.0, 4.0)), "flag": 1.0}
    for how in ({}, {"rebuild": True}):
        family = GymnasiumFamily("tests/Clock-v3", ranges, horizon=9, **how)
        task = {"life": torch.tensor([[1.2], [4.9]]), "flag": torch.tensor([[1.0], [0.0]])}
        state = family.reset(task, (2, 1), generator=seeded(0))
        ends = [t.flatten().tolist() for _, _, t in roll(family, task, state, torch.zeros(4, 2, 1).long())]
        assert ends == [[True, False], [False, False], [False, False], [False, True]]


class Asking(Clock):
    """Has no defaults."""

    def __init__(self, pay: float, life: float, other: str = "") -> None:
        assert life >= 1, "a life is one step at least"
        super().__init__(int(life), pay)


def test_a_constructor_may_ask_for_its_constants() -> None:
    def make(**constants: Any) -> GymnasiumFamily:
        return GymnasiumFamily("tests/Asking-v3", constants, 5, rebuild=True, kwargs={"other": "x"})

    gymnasium.register("tests/Asking-v3", entry_point=Asking)
    try:
        family = make(pay=Range(2.0, 4.0), life=3.0)
        assert [one.default for one in family.parameters.values()] == [2.0, 3.0]
        task = {"pay": torch.tensor([2.0, 4.0]), "life": torch.tensor([3.0, 3.0])}
        state = family.reset(task, (2,), generator=seeded(0))
        assert family.step(task, state, torch.zeros(2).long()).reward.tolist() == [2.0, 4.0]
        with pytest.raises(ValueError, match="rejected .*'pay': 1.0.*missing .* 'life'"):
            make(pay=1.0)
        with pytest.raises(ValueError, match="rejected .* a life is one step at least"):
            make(pay=1.0, life=Range(0.0, 3.0))
        with pytest.raises(ValueError, match="rejected .* unexpected keyword argument 'lief'"):
            make(pay=1.0, lief=1.0, life=1.0)
    finally:
        del gymnasium.registry["tests/Asking-v3"]


class Caller:
    def __call__(self, *given: Any) -> Any:
        return build_cart_pole(*given)


@pytest.mark.parametrize(
    ("what", "function"),
    [
        ("setter", partial(write_cart_pole)),
        ("setter", lambda env, constants: None),
        ("rebuild", partial(build_cart_pole)),
        ("rebuild", lambda constants: build_cart_pole(constants)),
        ("rebuild", Caller()),
    ],
)
def test_functions_without_a_name_of_their_own_are_refused(what: str, function: Any) -> None:
    with pytest.raises(ValueError, match=f"{what}: expected a named function, .*; define it with def") as caught:
        GymnasiumFamily("CartPole-v1", WIDE, **{what: function})
    assert "\n" not in str(caught.value)


class Fading(Clock):
    """Its pay fades with every step, and its life becomes a float."""

    def step(self, action):
        assert self.age or isinstance(self.life, int), "as it was made"
        self.life = int(self.life)
        outcome = super().step(action)
        self.pay, self.life = 0.5 * self.pay, float(self.life)
        return outcome


def write_pay(env: Any, constants: dict[str, float]) -> None:
    env.pay, env.life = constants["pay"], 3


@pytest.mark.parametrize("how", ["attributes", "setter"])
def test_an_environment_that_changes_its_constants_begins_with_the_tasks_again(how: str) -> None:
    gymnasium.register("tests/Fading-v3", entry_point=Fading)
    try:
        constants = {"pay": 2.0, **({"life": 3.0} if how == "attributes" else {})}
        setter = write_pay if how == "setter" else None
        family = GymnasiumFamily("tests/Fading-v3", constants, 5, setter=setter)
        task, actions = family.sample(2, generator=seeded(0)), torch.zeros(3, 2).long()
        for _ in range(3):
            state = family.reset(task, (2,), generator=seeded(1))
            paid = [reward.tolist() for _, reward, _ in roll(family, task, state, actions)]
            assert paid == [[2.0, 2.0], [2.0, 2.0], [1.5, 1.5]]
    finally:
        del gymnasium.registry["tests/Fading-v3"]


def test_discrete_observations_are_one_hot() -> None:
    family = GymnasiumFamily("FrozenLake-v1", {"is_slippery": 0.0}, rebuild=True, horizon=9)
    assert family.observation_space == Box(0.0, 1.0, (16,), np.float32)
    task = family.sample(2, generator=seeded(0))
    state = family.reset(task, (2,), generator=seeded(0))
    right = roll(family, task, state, torch.full((3, 2), 2))
    assert [seen.argmax(-1).tolist() for seen, _, _ in right] == [[0, 0], [1, 1], [2, 2]]
    assert all((seen.sum(-1) == 1).all() and seen.dtype == torch.float32 for seen, _, _ in right)


class Whole(gymnasium.Env):
    """Observes the last action and takes whole numbers; what it observes can be off its space by a ``slip``."""

    observation_space: Any = Box(0, 255, (1,), np.uint8)
    action_space: Any = Box(0, 255, (1,), np.uint8)

    def __init__(self, slip: float = 0.0, cells: bool = False) -> None:
        self.slip = slip
        if cells:
            self.observation_space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        seen = float(action[0]) + self.slip
        return (int(seen) if isinstance(self.observation_space, Discrete) else np.array([seen])), 0.0, False, False, {}


@pytest.mark.parametrize("workers", [0, 1])
def test_actions_are_clipped_before_they_are_made_whole(workers: int) -> None:
    family = GymnasiumFamily("tests/Whole-v3", {"slip": 0.0}, 5, workers=workers)
    task = family.sample(4, generator=seeded(0))
    state = family.reset(task, (4,), generator=seeded(0))
    after, _, _ = family.step(task, state, torch.tensor([[-2.0], [1.9], [300.0], [1e10]]))
    assert family.observe(task, after).flatten().tolist() == [0.0, 1.0, 255.0, 255.0]
    family.close()


@pytest.mark.parametrize(
    ("cells", "slip", "action"),
    [(False, 0.5, 1.0), (False, 300.0, 1.0), (True, -2.0, 1.0), (True, 0.0, 3.0)],
    ids=["fraction", "too large", "negative", "no such cell"],
)
def test_observations_that_a_space_of_whole_numbers_cannot_hold_are_refused(
    cells: bool, slip: float, action: float
) -> None:
    family = GymnasiumFamily("tests/Whole-v3", {"slip": slip}, 5, kwargs={"cells": cells})
    task = family.sample(1, generator=seeded(0))
    state = family.reset(task, (1,), generator=seeded(0))
    with pytest.raises(RuntimeError, match=r"step 1: it returned the observation .*, which is not in (Box|Discrete)"):
        family.step(task, state, torch.tensor([[action]]))


# ---------------------------------------------------------------------------------------------- states are tickets


def test_several_resets_roll_out_as_one_in_any_order() -> None:
    family = clock(9.0)
    task = {"life": torch.tensor([[9.0], [9.0]])}
    parts = [family.reset(task, (2, 3), generator=seeded(k)) for k in range(3)]
    seen = [family.observe(task, part) for part in parts]
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    whole = {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}
    many = {"life": torch.full((6, 1), 9.0)}
    assert torch.equal(family.observe(many, whole), torch.cat(seen)[order])
    after, reward, _ = family.step(many, whole, torch.zeros(6, 3).long())
    assert torch.equal(reward, torch.ones(6, 3)) and torch.equal(after["step"], torch.ones(6, 3).long())


def test_states_that_are_over_or_incomplete_are_refused() -> None:
    family = clock(9.0)
    task, action = {"life": torch.tensor([[9.0]])}, torch.zeros(1, 2).long()
    first = family.reset(task, (1, 2), generator=seeded(0))
    second = family.step(task, first, action).state
    with pytest.raises(RuntimeError, match="cannot go back"):
        family.step(task, first, action)
    with pytest.raises(RuntimeError, match="all 2 rows of a reset"):
        family.step(task, {name: x[:, :1] for name, x in second.items()}, action[:, :1])
    family.reset(task, (1, 2), generator=seeded(1))
    with pytest.raises(RuntimeError, match="later reset has reused 2"):
        family.observe(task, second)


def test_environments_are_used_again_and_copies_have_none() -> None:
    family = clock(9.0)
    policy = categorical_policy(observations=2, actions=3)
    task = family.sample(2, generator=seeded(0))
    for k in range(4):
        collect(policy, policy.initial(), family, task, 3 + k % 2, generator=seeded(k))
    assert sum(len(idle) for idle in family._idle.values()) + len(family._live) == 2  # one for 6 rows, one for 8
    twin = copy.deepcopy(family)
    assert twin._live == [] and twin.describe() == family.describe()
    made = GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, horizon=9)
    assert pickle.loads(pickle.dumps(made)).describe() == made.describe()
    family.close()
    family.close()
    assert not family._live and not family._idle


@pytest.mark.parametrize("workers", [0, 1])
def test_idle_environments_of_a_few_numbers_of_rows_are_kept(workers: int) -> None:
    with clock(workers=workers) as family:
        pools: list[Any] = []
        for count in (2, 3, 2, 4, 5, 6) if workers else (2, 3, *range(2, 30)):
            task = family.sample(count, generator=seeded(0))
            state = family.reset(task, (count,), generator=seeded(1))
            pools.append(family._live[-1].rows)
            family.step(task, state, torch.zeros(count).long())
        assert pools[0] is pools[2], "what is used by turns is used again"
        kept = [rows for free in family._idle.values() for rows in free] + [one.rows for one in family._live]
        given_back = {id(rows): rows for rows in pools if all(rows is not other for other in kept)}
        assert len(kept) <= 3 and len(kept) + len(given_back) == len({id(rows) for rows in pools})
        for rows in given_back.values():
            assert (rows._vector if workers else rows._rows).closed
            assert not workers or not any(process.is_alive() for process in rows._vector.processes)


def test_everything_is_a_function_of_the_generator_alone() -> None:
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    policy, family = categorical_policy(), GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, horizon=20)
    task = family.sample(2, generator=seeded(0))
    first, again, other = (collect(policy, policy.initial(), family, task, 3, generator=seeded(k)) for k in (1, 1, 2))
    assert torch.equal(first.observation, again.observation) and torch.equal(first.action, again.action)
    assert not torch.equal(first.observation[:, 0], other.observation[:, 0])
    assert len(first.observation[:, 0].flatten(0, 1).unique(dim=0)) == 6  # every row has a seed of its own
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


# ---------------------------------------------------------------------------------------------- under metarl


def cart_pole_family(**options: Any) -> GymnasiumFamily:
    return GymnasiumFamily("CartPole-v1", WIDE, horizon=15, setter=write_cart_pole, **options)


def test_meta_training_and_evaluation_run_unchanged() -> None:
    family, plan = cart_pole_family(), Plan(tasks=3, episodes=4, query_episodes=2)
    heldout = GymnasiumFamily("CartPole-v1", {**WIDE, "gravity": Range(16.0, 18.0)}, horizon=15, setter=write_cart_pole)
    benchmark = TaskBenchmark("cart", family, {"heavy": heldout})
    policy = categorical_policy()
    learner = Learner(policy, SGD(0.1), inner=lvc, outer=vpg)
    before = [p.clone() for p in learner.parameters()]
    optimizer = Descent(learner)
    for k in range(2):
        task = benchmark.sample("train", 3, generator=seeded(k))
        metrics = meta_step(learner, optimizer, family, task, plan, generator=seeded(k))
        assert 0 < metrics["env_steps"] <= 3 * 6 * 15 and np.isfinite(metrics["return/step_1"])
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))
    tasks = benchmark.sample("heavy", 3, generator=seeded(9))
    adaptation = Adaptation(steps=1, episodes=2, score_episodes=2)
    curve = evaluate(learner, benchmark, tasks, adaptation, generator=seeded(0), chunk=2)
    assert curve.sampled.shape == (3, 2) and curve.sampled.isfinite().all()


def test_exploring_equals_exploring_our_own_family_on_the_same_starts() -> None:
    class Told(CartPole.__mro__[1]):  # type: ignore[misc]
        """Our equations, from the first states that the live environments drew."""

        parameters = CartPole.parameters
        observation_space, action_space = CartPole.observation_space, CartPole.action_space

        def __init__(self, live: GymnasiumFamily) -> None:
            super().__init__(15, {})
            self.live, self.ours = live, CartPole(15)

        def reset(self, task, rows, *, generator):
            theirs = {yours: task[mine] for mine, yours in CONSTANTS.items()}
            state = self.live.reset(theirs, rows, generator=generator)
            names = ("x", "x_dot", "theta", "theta_dot")
            return dict(zip(names, self.live.observe(theirs, state).unbind(-1), strict=True))

        def observe(self, task, state):
            return self.ours.observe(task, state)

        def step(self, task, state, action):
            return self.ours.step(task, state, action)

    live = cart_pole_family()
    told = Told(cart_pole_family())
    theirs = {name: value.double() for name, value in live.sample(3, generator=seeded(0)).items()}
    ours = {name: value.double() for name, value in CartPole().sample(3, generator=seeded(0)).items()}
    ours |= {mine: theirs[yours] for mine, yours in CONSTANTS.items()}
    policy = categorical_policy()
    learner = Learner(policy, SGD(0.1), inner=vpg, outer=vpg).double()
    plan = Plan(tasks=3, episodes=4, query_episodes=3)
    one = explore(learner, live, theirs, plan, generator=seeded(3))
    other = explore(learner, told, ours, plan, generator=seeded(3))
    for a, b in ((one.support[0], other.support[0]), (one.query, other.query)):
        assert torch.equal(a.action, b.action) and torch.equal(a.mask, b.mask)
        torch.testing.assert_close(a.reward, b.reward)
        torch.testing.assert_close(a.observation, b.observation, rtol=1e-4, atol=1e-5)


def test_learners_side_by_side_see_what_each_sees_alone() -> None:
    learners = [Learner(categorical_policy(seed), SGD(0.1), inner=vpg, outer=vpg) for seed in (0, 1)]
    family, plan = cart_pole_family(), Plan(tasks=2, episodes=3, query_episodes=2)
    tasks = [family.sample(2, generator=seeded(k)) for k in (5, 6)]
    both = explore_together(learners, family, tasks, plan, generators=[seeded(1), seeded(2)])
    for one, task, trace, k in zip(learners, tasks, both, (1, 2), strict=True):
        alone = explore(one, family, task, plan, generator=seeded(k))
        length = min(alone.query.reward.shape[1], trace.query.reward.shape[1])
        assert torch.equal(alone.query.reward[:, :length], trace.query.reward[:, :length])


def test_compiled_programs_are_refused() -> None:
    learner = Learner(categorical_policy(), SGD(0.1), inner=vpg, outer=vpg)
    learner.compile()
    family = cart_pole_family()
    with pytest.raises(RuntimeError, match="cannot be compiled"):
        explore(learner, family, family.sample(2, generator=seeded(0)), Plan(2, 2, 2), generator=seeded(0))


def test_a_benchmark_like_any_other() -> None:
    family = GymnasiumFamily("Pendulum-v1", {"g": Range(5.0, 15.0)}, horizon=4)
    stub = Stub(family, "g", 10.0)
    policy = gaussian_policy(observations=3, actions=1)
    learner = Learner(policy, SGD(0.1), inner=vpg, outer=vpg)
    task = stub.sample("test", 2, generator=seeded(0))
    curve = evaluate(learner, stub, task, Adaptation(1, 2, 2), generator=seeded(0))
    assert curve.mode.isfinite().all()
    state, noise = draw(policy, family, task, 2, generator=seeded(0))
    assert family.observe(per_row(task), state).shape == (2, 2, 3) and noise.shape[0] == 4


# ---------------------------------------------------------------------------------------------- LunarLander


@pytest.fixture
def box2d():
    with warnings.catch_warnings():  # its binding warns while it is imported, and crashes if that is an error
        warnings.simplefilter("ignore")
        return pytest.importorskip("Box2D")


def test_lunar_lander_varies_by_its_constructor(box2d: Any) -> None:
    ranges = {
        "gravity": Range(-11.0, -5.0),
        "enable_wind": 1.0,
        "wind_power": Range(0.0, 15.0),
        "turbulence_power": Range(0.0, 1.5),
    }
    family = GymnasiumFamily("LunarLander-v3", ranges, rebuild=True, horizon=40)
    policy = categorical_policy(observations=8, actions=4)
    task = family.sample(2, generator=seeded(0))
    batch = collect(policy, policy.initial(), family, task, 2, generator=seeded(1))
    assert batch.observation.shape == (2, 40, 2, 8)
    seeds = torch.randint(2**31 - 1, (2, 2), generator=seeded(1))
    for t in range(2):
        constants = {name: task[name][t].item() for name in ranges} | {"enable_wind": True}
        env = gymnasium.make("LunarLander-v3", **constants).unwrapped
        seen, _ = env.reset(seed=int(seeds[t, 1]))
        for h in range(40):
            torch.testing.assert_close(batch.observation[t, h, 1], torch.from_numpy(seen))
            seen, reward, *_ = env.step(int(batch.action[t, h, 1]))
            assert batch.reward[t, h, 1].item() == pytest.approx(float(reward), rel=1e-5, abs=1e-5)
    with pytest.raises(ValueError, match="rejected gravity=-15.*between -12 and 0") as caught:
        GymnasiumFamily("LunarLander-v3", {"gravity": Range(-15.0, -5.0)}, rebuild=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="computes world from it"):
        GymnasiumFamily("LunarLander-v3", {"gravity": Range(-11.0, -5.0)})
    with pytest.raises(ValueError, match="no argument 'wind_pover'; did you mean 'wind_power'"):
        GymnasiumFamily("LunarLander-v3", {"wind_pover": 3.0}, rebuild=True)


# ---------------------------------------------------------------------------------------------- mistakes and faults


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: GymnasiumFamily("CartPol-v1", {"gravity": 1.0}), ValueError, "did you mean 'CartPole-v1'"),
        (lambda: GymnasiumFamily("CartPole-v9", {"gravity": 1.0}), ValueError, "did you mean 'CartPole-v"),
        (lambda: GymnasiumFamily("???", {"gravity": 1.0}), ValueError, "there is no environment"),
        (lambda: GymnasiumFamily("no_module:CartPole-v1", {"a": 1.0}), ImportError, "No module named 'no_module'"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravty": 1.0}), ValueError, "no attribute 'gravty'; did you mean"),
        (lambda: GymnasiumFamily("CartPole-v1", {"masscart": 1.0}), ValueError, "total_mass from it"),
        (lambda: GymnasiumFamily("CartPole-v1", {}), ValueError, "at least one constant"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": "big"}), TypeError, "gravity: expected a number"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": float("nan")}), ValueError, "gravity: expected a finite"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, workers=-1), ValueError, "workers >= 0"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, horizon=0), ValueError, "horizon: expected"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, kwargs={"x": 1}), ValueError, "correct kwargs"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, kwargs={"x": object()}), ValueError, "plain values"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, setter=print, rebuild=True), ValueError, "got both"),
        (lambda: GymnasiumFamily("CartPole-v1", {"gravity": 1.0}, rebuild=True), ValueError, "no argument 'gravity'"),
        (
            lambda: GymnasiumFamily("CartPole-v1", WIDE, rebuild=build_cart_pole, kwargs={"sutton_barto_reward": True}),
            ValueError,
            "got a rebuild function and kwargs",
        ),
        (lambda: GymnasiumFamily(Hidden, {"gain": 1.0}), TypeError, "expected an id, got <class .*register"),  # type: ignore[arg-type]
        (
            lambda: GymnasiumFamily("tests/Hidden-v3", {"gain": 1.0}),
            ValueError,
            ", but its constructor does; set rebuild=True",
        ),
        (
            lambda: GymnasiumFamily("tests/Hidden-v3", {"gain": 1.0}, rebuild=Hidden),  # type: ignore[arg-type]
            TypeError,
            r"as one mapping, got Hidden\(gain.*\), which takes them by name; wrap it in .* with \*\*constants",
        ),
        (
            lambda: GymnasiumFamily("tests/Hidden-v3", {"gain": 1.0}, rebuild=by_name),  # type: ignore[arg-type]
            TypeError,
            r"got by_name\(\*\*constants.*, which takes them by name",
        ),
        (lambda: GymnasiumFamily("CartPole-v1", ["gravity"]), TypeError, r"by name, .*, got \['gravity'\]"),  # type: ignore[arg-type]
        (lambda: GymnasiumFamily("tests/Clock-v3", {"life": 2.0}), ValueError, "give horizon="),
        (
            lambda: clock(Range(1.0, 4.0), rebuild=True),
            ValueError,
            "life of tests/Clock-v3: expected whole .* use Choice",
        ),
        (lambda: clock(Range(1.0, 4.0)), ValueError, "life of tests/Clock-v3: expected whole .* use Choice"),
        (lambda: clock(Choice((1.2, 1.4))), ValueError, "life: expected whole numbers within"),
        (
            lambda: GymnasiumFamily("tests/Clock-v3", {"flag": Range(0.0, 1.0)}, 5),
            ValueError,
            r"flag: expected one of \(0.0, 1.0\)",
        ),
        (lambda: clock(Choice((-2.0, 3.0)), rebuild=True), ValueError, "rejected life=-2: a life is not negative"),
        (
            lambda: GymnasiumFamily("tests/Odd-v3", {"width": 1.0}, 5, rebuild=True),
            TypeError,
            "got Dict; wrap it in a rebuild function, for example with gymnasium.wrappers.FlattenObservation",
        ),
        (
            lambda: GymnasiumFamily("tests/Odd-v3", {"width": 1.0}, 5, rebuild=True, kwargs={"which": "multi"}),
            TypeError,
            "got MultiDiscrete; wrap it in a rebuild function, for example with gymnasium.wrappers.TransformAction",
        ),
        (
            lambda: GymnasiumFamily(
                "tests/Odd-v3", {"width": Range(1.0, 3.0)}, 5, rebuild=True, kwargs={"which": "box"}
            ),
            ValueError,
            "spaces change with the constants",
        ),
        (
            lambda: GymnasiumFamily(
                "tests/Odd-v3", {"width": Range(1.0, 3.0)}, 5, rebuild=True, kwargs={"which": "cells"}
            ),
            ValueError,
            "spaces change with the constants",
        ),
    ],
)
def test_mistakes_are_named_in_one_line(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_of_an_integer_constant_only_the_whole_part_counts_as_in_splits() -> None:
    family, action = clock(Choice((2.0, 3.0))), torch.zeros(5, 1).long()
    task = {"life": torch.tensor([2.75])}
    assert bool(family.contains(task)) and not bool(family.contains({"life": torch.tensor([4.0])}))
    ended = [step[2].item() for step in roll(family, task, family.reset(task, (1,), generator=seeded(0)), action)]
    assert ended.index(True) == 1
    family.close()


def refuse_constants(env: Any, constants: dict[str, float]) -> None:
    raise ValueError("no constants today")


@pytest.mark.parametrize(
    "wrong",
    [{"ranges": {"lief": 3.0}}, {"ranges": {"life": Range(1.0, 3.0)}}, {"horizon": 0}, {"setter": refuse_constants}],
    ids=["name", "range", "horizon", "setter"],
)
def test_a_mistake_leaves_no_environment_open(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lives: list[str] = []
    make, close = Clock.__init__, Clock.close
    monkeypatch.setattr(Clock, "__init__", lambda self, **given: (lives.append("made"), make(self, **given))[1])
    monkeypatch.setattr(Clock, "close", lambda self: (lives.append("closed"), close(self))[1])
    with pytest.raises(ValueError):
        GymnasiumFamily("tests/Clock-v3", **{"ranges": {"life": 3.0}, "horizon": 5, **wrong})
    assert lives.count("made") == lives.count("closed") > 0


def test_bad_tasks_are_refused_at_the_reset() -> None:
    family = clock()
    for task, words in (
        ({"life": torch.tensor([float("nan")])}, "life: expected whole numbers within"),
        ({"lief": torch.tensor([1.0])}, "did you mean 'life'"),
        ({}, "'life' is missing"),
    ):
        with pytest.raises(ValueError, match=words):
            family.reset(task, (1,), generator=seeded(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_environment_that_raises_is_named_and_all_is_closed(workers: int) -> None:
    family = clock(rebuild=True, kwargs={"fault": "raise"}, workers=workers)
    task = family.sample(2, generator=seeded(0))
    state = family.reset(task, (2,), generator=seeded(0))
    with pytest.raises(
        RuntimeError, match=r"Clock-v3 \(life=3\), row 0, step 2: it raised ZeroDivisionError"
    ) as caught:
        roll(family, task, state, torch.zeros(3, 2).long())
    assert "\n" not in str(caught.value)
    assert not family._live
    assert family.reset(task, (2,), generator=seeded(0))["row"].tolist() == [2, 3]  # and it goes on
    family.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_row_of_an_error_is_that_of_the_batch(workers: int) -> None:
    family = GymnasiumFamily("tests/Whole-v3", {"slip": Choice((0.0, 0.5))}, 5, workers=workers)
    task = {"slip": torch.tensor([0.0, 0.0, 0.0, 0.5])}
    state = family.reset(task, (4,), generator=seeded(0))
    with pytest.raises(RuntimeError, match=r"Whole-v3 \(slip=0.5\), row 3, step 1"):
        family.step(task, state, torch.ones(4, 1))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium logs the error of a failed worker as one
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("hang", TimeoutError, "no answer from its workers within 4 s"),
        ("kill", RuntimeError, "a worker process died"),
        ("exit", RuntimeError, "a worker process died"),
        ("quit", KeyboardInterrupt, "^$"),
    ],
)
def test_workers_that_hang_or_die_give_one_line_and_leave_nobody_behind(
    fault: str, kind: type[BaseException], words: str
) -> None:
    family = clock(rebuild=True, kwargs={"fault": fault}, workers=2, timeout=4.0 if fault == "hang" else 60.0)
    task = family.sample(2, generator=seeded(0))
    state = family.reset(task, (2,), generator=seeded(0))
    processes = family._live[0].rows._vector.processes
    started = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        roll(family, task, state, torch.zeros(3, 2).long())
    assert "\n" not in str(caught.value) and time.monotonic() - started < 15
    assert not any(process.is_alive() for process in processes) and not family._live


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends it to every process; a run that is told to stop finishes its iteration, with its workers."""
    played = []
    for fault in ("", "interrupt"):
        with clock(rebuild=True, kwargs={"fault": fault}, workers=2) as family:
            task = family.sample(2, generator=seeded(0))
            state = family.reset(task, (2,), generator=seeded(0))
            played.append(roll(family, task, state, torch.zeros(3, 2).long()))
    torch.testing.assert_close(played[1], played[0], rtol=0.0, atol=0.0)
    assert not {signal.SIGINT, signal.SIGHUP} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import os, signal, torch\n"
        "from envs import Range\nfrom envs.adapters import GymnasiumFamily\n"
        "if __name__ == '__main__':\n"
        "    family = GymnasiumFamily('CartPole-v1', {'gravity': Range(5.0, 15.0)}, workers=2)\n"
        "    g = torch.Generator().manual_seed(0)\n"
        "    family.reset(family.sample(2, generator=g), (2,), generator=g)\n"
        "    print(*[p.pid for p in family._live[0].rows._vector.processes], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if _lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _lives(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def write_other_name(env: Any, constants: dict[str, float]) -> None:
    env.gravity = constants["g"]


def test_what_a_user_does_not_name_is_what_the_environment_has() -> None:
    """Not zero: a motor without force is another problem."""
    defaults = {
        "attributes": (GymnasiumFamily("Acrobot-v1", {"LINK_MASS_2": Range(0.5, 2.0)}), {"LINK_MASS_2": 1.0}),
        "constructor": (GymnasiumFamily("Pendulum-v1", {"g": Range(5.0, 15.0)}, rebuild=True), {"g": 10.0}),
        "constructor alone": (
            GymnasiumFamily("CartPole-v1", {"sutton_barto_reward": 1.0}, rebuild=True),
            {"sutton_barto_reward": 0.0},
        ),
        "unknown": (GymnasiumFamily("CartPole-v1", {"g": Range(5.0, 15.0)}, setter=write_other_name), {"g": 5.0}),
        "given": (GymnasiumFamily("CartPole-v1", {"g": 7.0}, setter=write_other_name), {"g": 7.0}),
    }
    for name, (family, expected) in defaults.items():
        assert {key: p.default for key, p in family.parameters.items()} == expected, name


def write_unseeded(env: Any, constants: dict[str, float]) -> None:
    env.gravity, step = constants["gravity"], type(env).step

    def unseeded(action: Any) -> Any:
        seen, *rest = step(env, action)
        return seen + np.random.default_rng().normal(size=4).astype(np.float32), *rest

    env.step = unseeded


@pytest.mark.parametrize("wrap", [False, True])
def test_the_check_of_families_plays_what_lives_elsewhere(wrap: bool) -> None:
    family: Any = GymnasiumFamily("Pendulum-v1", {"g": Range(5.0, 15.0)}, horizon=30)
    assert check_family(ScaledActions(family) if wrap else family) == []
    broken: Any = GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, setter=write_unseeded)
    assert check_family(broken) == [
        "equal generators and actions give different episodes; start them only from the given generator"
    ]


def pendulum() -> GymnasiumFamily:
    return GymnasiumFamily("Pendulum-v1", {"g": Range(5.0, 15.0)}, horizon=10)
