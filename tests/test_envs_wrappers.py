"""Wrappers against plain Python loops over single rows, alone and nested; the benchmarks made of them."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from envs import (
    Acrobot,
    BernoulliBandit,
    CartPole,
    Choice,
    Family,
    MountainCar,
    Navigation,
    PointMass,
    Range,
    TaskBenchmark,
    Transition,
    Union,
    task_ids,
    wrappers,
)
from envs.adapters import GymnasiumFamily
from envs.benchmarks.variants import (
    BEYOND,
    ENDS,
    INNER,
    WITHIN,
    cartpole_all,
    cartpole_all_centred,
    cartpole_all_inner,
    cartpole_scrambled,
)
from envs.coarse import Coarse
from envs.parameters import Parameter
from envs.wrappers import (
    CentredReward,
    Changing,
    DeadActions,
    Delayed,
    NoisySensors,
    Repeated,
    Revealed,
    RewiredSensors,
    ScaledActions,
    ScaledReward,
    ScaledSensors,
    ShiftedReward,
    Shuffled,
    Slipping,
    SwappedActions,
    Trials,
)
from envs.wrappers.permutations import permutation
from metarl import MLP, CategoricalPolicy, GaussianPolicy
from metarl.rollouts import collect
from metarl.testing import check_family

TASKS, EPISODES, STEPS = 6, 3, 12
Rows = dict[str, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(low: int, high: int) -> Choice:
    return Choice(tuple(float(value) for value in range(low, high + 1)))


# --- playing: the family on rows [T, N], and a Python loop on one row at a time


def drawn(family: Family, seed: int = 0, tasks: int = TASKS) -> Rows:
    return {name: values.double()[:, None] for name, values in family.sample(tasks, generator=seeded(seed)).items()}


def random_actions(family: Family, steps: int = STEPS, rows: tuple[int, ...] = (TASKS, EPISODES)) -> Tensor:
    space: Any = family.action_space
    if isinstance(space, Discrete):
        return torch.randint(int(space.n), (steps, *rows), generator=seeded(9))
    return 2 * torch.randn((steps, *rows, *space.shape), generator=seeded(9), dtype=torch.float64)


def play(family: Family, task: Rows, actions: Tensor, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Observations ``[H + 1, T, N, O]``, rewards and ends ``[H, T, N]``."""
    rows = (len(next(iter(task.values()))), actions.shape[2])
    state = family.reset(task, rows, generator=seeded(seed))
    seen, paid, ended = [family.observe(task, state)], [], []
    for action in actions:
        state, reward, terminated = family.step(task, state, action)
        assert all(values.shape == rows for values in state.values())
        seen.append(family.observe(task, state))
        paid.append(reward)
        ended.append(terminated)
    return torch.stack(seen), torch.stack(paid), torch.stack(ended)


class Row:
    """One environment of the wrapped family, to be driven by hand from the start that the rows had."""

    def __init__(self, inner: Family, task: Rows, t: int, n: int, seed: int = 1) -> None:
        self.family = inner
        self.task = {name: values[t, 0] for name, values in task.items()}
        self.own = {name: self.task[name] for name in inner.parameters}
        first = inner.reset({name: task[name] for name in inner.parameters}, (TASKS, EPISODES), generator=seeded(seed))
        self.state = {name: values[t, n] for name, values in first.items()}

    def observe(self) -> Tensor:
        return self.family.observe(self.own, self.state)

    def step(self, action: Tensor) -> tuple[float, bool]:
        self.state, reward, terminated = self.family.step(self.own, self.state, action)
        return float(reward), bool(terminated)


Oracle = Callable[[Row, list[Tensor]], Iterator[tuple[Tensor, float, bool]]]


def assert_plays_like(family: Family, inner: Family, oracle: Oracle) -> None:
    """Every row of the wrapped family does what the Python loop ``oracle`` does on the bare one."""
    task, actions = drawn(family), random_actions(family)
    seen, paid, ended = play(family, task, actions)
    for t, n in itertools.product(range(TASKS), range(EPISODES)):
        expected = list(oracle(Row(inner, task, t, n), list(actions[:, t, n])))
        for step, (observation, reward, over) in enumerate(expected):
            torch.testing.assert_close(seen[step + 1, t, n], observation, rtol=1e-12, atol=1e-12)
            assert paid[step, t, n].item() == pytest.approx(reward, rel=1e-12, abs=1e-12)
            assert bool(ended[step, t, n]) == over
        assert expected


def test_a_delay_is_a_queue() -> None:
    def late(row: Row, actions: list[Tensor], neutral: Tensor) -> Iterator[tuple[Tensor, float, bool]]:
        queue = [neutral] * int(row.task["delay"])
        for action in actions:
            queue.append(action)
            yield (lambda moved: (row.observe(), *moved))(row.step(queue.pop(0)))

    pole = CartPole(force_magnitude=Range(5, 15))
    family = Delayed(pole, longest=3, neutral=1, delay=whole(0, 3))
    assert len(drawn(family)["delay"].unique()) >= 3
    assert_plays_like(family, pole, lambda row, actions: late(row, actions, torch.tensor(1)))
    point = PointMass(friction=Range(0.1, 1), rotation=Range(-3, 3))
    family = Delayed(point, longest=2, delay=whole(0, 2))
    assert_plays_like(family, point, lambda row, actions: late(row, actions, torch.zeros(2, dtype=torch.float64)))


def mapped(meaning: Callable[[Row, Tensor], Tensor]) -> Oracle:
    def oracle(row: Row, actions: list[Tensor]) -> Iterator[tuple[Tensor, float, bool]]:
        for action in actions:
            moved = row.step(meaning(row, action))
            yield row.observe(), *moved

    return oracle


def test_scaled_actuators() -> None:
    def meaning(row: Row, action: Tensor) -> Tensor:
        clipped = [min(max(float(part), -1.0), 1.0) for part in action]
        gains = [float(row.task[f"actuator_{i}"]) for i in range(2)]
        return torch.tensor([g * c for g, c in zip(gains, clipped, strict=True)], dtype=torch.float64)

    point = PointMass(friction=0.5)
    family = ScaledActions(point, actuator_0=Range(-1, 1), actuator_1=Choice((-1.0, 0.0, 1.0)))
    assert_plays_like(family, point, mapped(meaning))


def test_swapped_and_dead_actions() -> None:
    orders = list(itertools.permutations(range(3)))
    arm = Acrobot()
    assert_plays_like(
        SwappedActions(arm, whole(0, 5)),
        arm,
        mapped(lambda row, action: torch.tensor(orders[int(row.task["action_order"])][int(action)])),
    )
    car = MountainCar()
    assert_plays_like(
        DeadActions(car, neutral=1, dead_0=whole(0, 1), dead_2=whole(0, 1)),
        car,
        mapped(lambda row, action: torch.tensor(1) if row.task[f"dead_{int(action)}"] == 1 else action),
    )
    flipped, polarity = SwappedActions(CartPole(), 1.0), CartPole(polarity=-1.0)
    actions = random_actions(flipped)
    for one, other in zip(
        play(flipped, drawn(flipped), actions), play(polarity, drawn(polarity), actions), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_permutations_come_in_pythons_order(count: int) -> None:
    every = torch.arange(math.factorial(count))
    assert permutation(every, count).tolist() == [list(p) for p in itertools.permutations(range(count))]


def viewed(view: Callable[[Row, list[float]], list[float]]) -> Oracle:
    def oracle(row: Row, actions: list[Tensor]) -> Iterator[tuple[Tensor, float, bool]]:
        for action in actions:
            moved = row.step(action)
            yield torch.tensor(view(row, row.observe().tolist()), dtype=torch.float64), *moved

    return oracle


def test_scaled_and_dead_sensors() -> None:
    pole = CartPole()
    ranges = {"sensor_0": Range(-2, 2), "sensor_2": Choice((-1.0, 0.0, 1.0))}
    assert_plays_like(
        ScaledSensors(pole, largest=2.0, **ranges),
        pole,
        viewed(lambda row, seen: [float(row.task[f"sensor_{i}"]) * value for i, value in enumerate(seen)]),
    )


def wired(wiring: int, seen: list[float]) -> list[float]:
    """The documented meaning of a wiring, on Python numbers."""
    count = len(seen)
    order = list(itertools.permutations(range(count)))[wiring // 2**count]
    signs = [-1 if wiring % 2 else 1] * count
    for i in range(1, count):
        signs[i] *= -1 if wiring // 2**i % 2 else 1
    return [sign * seen[source] for sign, source in zip(signs, order, strict=True)]


def test_rewired_sensors() -> None:
    pole = CartPole()
    family = RewiredSensors(pole, whole(0, 383))
    assert_plays_like(family, pole, viewed(lambda row, seen: wired(int(row.task["wiring"]), seen)))
    every = {**drawn(CartPole(), tasks=384), "wiring": torch.arange(384.0)[:, None]}
    state = {name: torch.full((384, 1), value) for value, name in enumerate(("x", "x_dot", "theta", "theta_dot"), 1)}
    seen = family.observe(every, state)[:, 0]
    assert len(seen.unique(dim=0)) == 384 and torch.equal(seen[::2], -seen[1::2])
    assert seen.abs().sort(-1).values.unique(dim=0).tolist() == [[1, 2, 3, 4]]
    assert seen[0].tolist() == [1, 2, 3, 4]


def test_all_signs_and_the_actuator_turned_is_the_same_environment() -> None:
    family = RewiredSensors(CartPole(), whole(0, 383))
    task = drawn(family)
    mirrored = {**task, "polarity": -task["polarity"], "wiring": task["wiring"] + 1 - 2 * (task["wiring"] % 2)}
    state = family.reset(task, (TASKS, EPISODES), generator=seeded())
    other = {name: -values for name, values in state.items()}
    for action in random_actions(family, 30):
        assert torch.equal(family.observe(task, state), family.observe(mirrored, other))
        state, other = family.step(task, state, action).state, family.step(mirrored, other, action).state


def splitmix(z: int) -> int:
    mask = 2**64 - 1
    z = (z + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_noise_is_counted_off_the_rows_key() -> None:
    family = NoisySensors(Navigation(), noise_0=Range(0.1, 1), noise_1=0.5, bias_1=Range(-1, 1))
    task = drawn(family)
    state = family.reset(task, (TASKS, EPISODES), generator=seeded(1))
    for step, action in enumerate(random_actions(family)):
        seen, bare = family.observe(task, state), Navigation().observe(task, state)
        for t, n in itertools.product(range(TASKS), range(EPISODES)):
            key = int(state["noise_key"][t, n])
            share = [((splitmix(key + 4 * step + i) >> 41) + 0.5) / 2**23 for i in range(4)]
            for i in range(2):
                standard = math.sqrt(-2 * math.log(share[i])) * math.cos(2 * math.pi * share[i + 2])
                expected = bare[t, n, i] + task[f"bias_{i}"][t, 0] + task[f"noise_{i}"][t, 0] * standard
                torch.testing.assert_close(seen[t, n, i], expected, rtol=1e-9, atol=1e-9)
        state = family.step(task, state, action).state


def test_noise_is_normal_and_new_at_every_step_row_and_sensor() -> None:
    still = Navigation(goal_x=5.0, box=None)
    family = NoisySensors(still, noise_0=0.3, noise_1=2.0, bias_0=-1.0)
    task = {name: values[:, None] for name, values in family.sample(4, generator=seeded()).items()}
    state, seen = family.reset(task, (4, 500), generator=seeded()), []
    for _ in range(50):
        assert torch.equal(family.observe(task, state), family.observe(task, state))
        seen.append(family.observe(task, state))
        state = family.step(task, state, torch.zeros(4, 500, 2)).state
    noise = (torch.stack(seen) - torch.tensor([-1.0, 0.0])) / torch.tensor([0.3, 2.0])  # [50, 4, 500, 2]
    count = noise[..., 0].numel()
    assert noise.mean((0, 1, 2)).abs().max() < 5 / math.sqrt(count)
    assert (noise.std((0, 1, 2)) - 1).abs().max() < 5 / math.sqrt(2 * count)
    pairs = [(noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1])]
    for one, other in (*pairs, (noise[..., 0], noise[..., 1])):
        assert (one * other).mean().abs() < 5 / math.sqrt(one.numel())
    assert ((noise**4).mean() - 3).abs() < 0.1


def test_repeats_add_up_rewards_and_stop_at_the_end() -> None:
    ends = []

    def held(row: Row, actions: list[Tensor]) -> Iterator[tuple[Tensor, float, bool]]:
        for action in actions:
            total, over = 0.0, False
            for again in range(int(row.task["repeats"])):
                reward, over = row.step(action)
                total += reward
                if over:
                    ends.append((again + 1, int(row.task["repeats"])))
                    break
            yield row.observe(), total, over

    falls = CartPole(half_length=Range(0.05, 0.1), force_magnitude=Range(5, 10))
    assert_plays_like(Repeated(falls, most=5, repeats=whole(1, 5)), falls, held)
    assert any(taken < repeats for taken, repeats in ends)
    point = PointMass(friction=0.2)
    assert_plays_like(Repeated(point, most=3, repeats=whole(1, 3)), point, held)


class Cliff(Family):
    """Ends with the second step and is broken beyond it."""

    parameters = {"height": Parameter(1.0, 0.0, 2.0, "m", "what the last step pays")}

    def __init__(self) -> None:
        super().__init__(10, {})

    observation_space = Box(-np.inf, np.inf, (1,), dtype=np.float32)
    action_space = Discrete(2)

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Rows:
        return {"age": torch.zeros(rows)}

    def observe(self, task: Any, state: Rows) -> Tensor:
        return state["age"].unsqueeze(-1)

    def step(self, task: Any, state: Rows, action: Tensor) -> Transition:
        assert set(task) == {"height"} and set(state) == {"age"}  # nothing of a wrapper's reaches it
        age = (state["age"] + 1).masked_fill(state["age"] >= 2, torch.nan)
        return Transition({"age": age}, task["height"] + 0 * age, age == 2)


def test_what_lies_beyond_an_end_does_not_leak_and_inner_families_see_their_own() -> None:
    family = ShiftedReward(Delayed(Repeated(Cliff(), most=4, repeats=4.0), delay=1.0))
    task = {name: values[:, None] for name, values in family.sample(2, generator=seeded()).items()}
    state = family.reset(task, (2, 3), generator=seeded())
    state, reward, terminated = family.step(task, state, torch.ones(2, 3))
    assert reward.tolist() == [[2.0] * 3] * 2 and bool(terminated.all())
    assert family.observe(task, state).unique().tolist() == [2.0]
    assert family.references(task) == {}  # the innermost has none at all


def strayed(row: Row, reward: float) -> float:
    x, y = (abs(float(row.state[name])) for name in ("x", "y"))
    return reward - 0.7 * (min((x / 0.1) ** 2, 1.0) + min((y / 0.2) ** 2, 1.0)) / 2


def test_rewards_are_scaled_shifted_and_lowered_for_straying() -> None:
    point = PointMass(friction=0.5)
    for family, meaning in (
        (CentredReward(point, {"x": 0.1, "y": 0.2}, straying=0.7), strayed),
        (ScaledReward(point, Range(0.1, 10)), lambda row, reward: reward * float(row.task["reward_scale"])),
        (ShiftedReward(point, Range(-3, 3)), lambda row, reward: reward + float(row.task["reward_shift"])),
    ):

        def oracle(row: Row, actions: list[Tensor], meaning: Any = meaning) -> Iterator[tuple[Tensor, float, bool]]:
            for action in actions:
                reward, over = row.step(action)
                yield row.observe(), meaning(row, reward), over

        assert_plays_like(family, point, oracle)


@pytest.mark.parametrize(
    ("limits", "straying", "told"),
    [
        ({}, 0.9, "expected limits of x, x_dot, theta, theta_dot, got nothing; name state variables"),
        ({"angle": 1.0}, 0.9, "expected limits of x, x_dot, theta, theta_dot, got 'angle'"),
        ({"x": 0.0}, 0.9, "expected a positive x, got 0.0"),
        ({"x": math.inf}, 0.9, "expected a positive x, got inf"),
        ({"x": 1.0}, -0.5, "expected a positive straying, got -0.5"),
    ],
)
def test_what_cannot_be_watched_is_refused(limits: dict[str, float], straying: float, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        CentredReward(CartPole(), limits, straying)


def test_the_last_state_of_every_episode_of_a_trial_is_watched() -> None:
    angle = math.radians(12)
    family = Trials(CentredReward(CartPole(gravity=Range(5, 15)), {"theta": angle}), 2)
    _, paid, ended = play(family, drawn(family), torch.ones(40, TASKS, EPISODES, dtype=torch.int64))
    fallen = (paid < 0.1 + 1e-9) & (ended.cumsum(0) <= 1)  # up to and including the end of the trial
    assert bool((fallen.sum(0) == 2).all())
    with pytest.raises(ValueError, match=re.escape("got trials; use Trials(CentredReward(...))")):
        CentredReward(Delayed(Trials(CartPole())), {"now.theta": angle})


def test_a_centred_benchmark_pays_the_same_episodes_for_the_room_they_leave() -> None:
    plain, centred = cartpole_all().family, cartpole_all_centred().family
    task = {name: values[:, None] for name, values in plain.sample(TASKS, generator=seeded()).items()}
    actions = random_actions(plain)
    (seen, paid, over), (same, less, also) = play(plain, task, actions), play(centred, task, actions)
    assert torch.equal(seen, same) and torch.equal(over, also)
    x, angle = seen[1:, ..., 0] / 2.4, torch.rad2deg(seen[1:, ..., 2]) / 12
    expected = paid - 0.45 * (x.square().clamp_max(1) + angle.square().clamp_max(1))
    torch.testing.assert_close(less, expected.to(less), rtol=1e-5, atol=1e-5)
    assert float(less.min()) < 0.6 and float(less.max()) > 0.99
    told = centred.describe()["settings"]
    assert told == {"limit_x": 2.4, "limit_theta": pytest.approx(math.radians(12)), "straying": 0.9}


def test_physics_change_at_the_given_step() -> None:
    def turned(row: Row, actions: list[Tensor]) -> Iterator[tuple[Tensor, float, bool]]:
        for step, action in enumerate(actions):
            if step == row.task["change_at"]:
                row.own = {**row.own, **{name: row.task[f"later_{name}"] for name in ("polarity", "gravity")}}
            moved = row.step(action)
            yield row.observe(), *moved

    pole = CartPole(gravity=Range(5, 10))
    family = Changing(pole, change_at=whole(0, 9), polarity=-1.0, gravity=Range(15, 20))
    assert list(family.parameters)[-3:] == ["change_at", "later_gravity", "later_polarity"]
    assert_plays_like(family, pole, turned)


def test_of_the_step_of_a_change_the_whole_part_counts_also_for_the_splits() -> None:
    bench = TaskBenchmark("turned", Changing(CartPole(), Range(0, 30), polarity=-1.0))
    steps = {
        split: set(bench.sample(split, 1000, generator=seeded())["change_at"].long().tolist())
        for split in ("train", "validation", "test")
    }
    assert not steps["train"] & (steps["validation"] | steps["test"]) and not steps["validation"] & steps["test"]
    family = Changing(CartPole(), polarity=-1.0)
    played = [
        play(family, {**drawn(family), "change_at": torch.full((TASKS, 1), at)}, random_actions(family))[0]
        for at in (3.0, 3.7, 4.0)
    ]
    assert torch.equal(played[0], played[1]) and not torch.equal(played[1], played[2])


@pytest.mark.parametrize(
    ("family", "later"),
    [
        (ScaledSensors(CartPole()), {"sensor_2": -1.0}),
        (NoisySensors(CartPole(), noise_1=0.1), {"bias_0": 0.5}),
        (DeadActions(CartPole()), {"dead_1": 1.0}),
        (BernoulliBandit(3, 9, arm_0=0.0, arm_1=0.0, arm_2=0.0), {"arm_1": 1.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_constants_that_are_stacked_can_change_alone(family: Family, later: dict[str, float]) -> None:
    at = 5
    changing = Changing(family, change_at=float(at), **later)
    task, actions = drawn(changing), random_actions(changing)
    (name, value), *_ = later.items()
    begun = {n: task[n] for n in family.parameters}
    turned = begun | {name: torch.full((TASKS, 1), value)}
    own = changing.reset(task, (TASKS, EPISODES), generator=seeded(1))
    bare = family.reset(begun, (TASKS, EPISODES), generator=seeded(1))
    for step, action in enumerate(actions):
        now = begun if step < at else turned
        assert torch.equal(changing.observe(task, own), family.observe(now, bare))
        mine, yours = changing.step(task, own, action), family.step(now, bare, action)
        assert torch.equal(mine.reward, yours.reward)
        own, bare = mine.state, yours.state


def test_a_change_reaches_start_and_sight() -> None:
    moved = Changing(Navigation(), change_at=0.0, start_x=2.0)
    task = drawn(moved)
    assert moved.reset(task, (TASKS, 1), generator=seeded())["x"].unique().tolist() == [2.0]
    family = Changing(RewiredSensors(CartPole()), change_at=3.0, wiring=1.0)
    seen, bare = (play(f, drawn(f), random_actions(family))[0] for f in (family, CartPole()))
    assert torch.equal(seen[:3], bare[:3]) and torch.equal(seen[3:], -bare[3:])
    late = Changing(Delayed(CartPole()), change_at=4.0, delay=1.0)
    actions = random_actions(late)
    held = torch.cat((actions[:4], actions[3:-1]))  # from step 4 on, the action before
    for one, other in zip(play(late, drawn(late), actions), play(CartPole(), drawn(CartPole()), held), strict=True):
        assert torch.equal(one, other)


# --- any wrapper, in any order


def watched(family: Family) -> str:
    """A state of the bare family, which a wrapped one has, too."""
    return next(iter(family.reset(family.sample(1, generator=seeded()), (1,), generator=seeded())))


DISCRETE: dict[str, Callable[[Family], Family]] = {
    "swapped": lambda f: SwappedActions(f, whole(0, 1)),
    "dead": lambda f: DeadActions(f, dead_1=whole(0, 1)),
}
CONTINUOUS: dict[str, Callable[[Family], Family]] = {
    "scaled-actions": lambda f: ScaledActions(f, actuator_0=Range(-1, 1)),
}
ANY: dict[str, Callable[[Family], Family]] = {
    "delayed": lambda f: Delayed(f, longest=2, delay=whole(0, 2)),
    "scaled-sensors": lambda f: ScaledSensors(f, sensor_0=Range(-1, 1)),
    "rewired": lambda f: RewiredSensors(f, whole(0, 5)),
    "noisy": lambda f: NoisySensors(f, noise_0=Range(0, 0.1), bias_1=Range(-0.1, 0.1)),
    "repeated": lambda f: Repeated(f, most=3, repeats=whole(1, 3)),
    "scaled-reward": lambda f: ScaledReward(f, Range(0.5, 2)),
    "shifted-reward": lambda f: ShiftedReward(f, Range(-1, 1)),
    "slipping": lambda f: Slipping(f, 0.3),
    "centred-reward": lambda f: CentredReward(f, {watched(f): 1.0}),
    "changing": lambda f: Changing(f, Range(0, 10), **{next(iter(f.parameters)): next(iter(f.ranges.values()))}),
}
BARE: dict[str, Callable[[], Family]] = {
    "cartpole": lambda: CartPole(30, gravity=Range(5, 15)),
    "mountain-car": lambda: MountainCar(30, force=Range(0.001, 0.002)),
    "point-mass": lambda: PointMass(30, friction=Range(0.1, 1)),
}
NEUTRAL: dict[str, Callable[[Family], Family]] = {
    "delayed": Delayed,
    "scaled-sensors": ScaledSensors,
    "rewired": RewiredSensors,
    "noisy": NoisySensors,
    "repeated": Repeated,
    "scaled-reward": ScaledReward,
    "shifted-reward": ShiftedReward,
    "slipping": lambda f: Slipping(f, 0.0),
    "changing": lambda f: Changing(f, **{next(iter(f.parameters)): next(iter(f.ranges.values()))}),
}


def fitting(bare: str) -> dict[str, Callable[[Family], Family]]:
    return ANY | (CONTINUOUS if bare == "point-mass" else DISCRETE)


def nested(bare: str, names: list[str]) -> Family:
    return functools.reduce(lambda family, name: fitting(bare)[name](family), names, BARE[bare]())


@pytest.mark.parametrize("bare", BARE)
def test_at_the_defaults_a_wrapper_changes_no_bit(bare: str) -> None:
    own = (
        {"scaled-actions": ScaledActions} if bare == "point-mass" else {"swapped": SwappedActions, "dead": DeadActions}
    )
    inner = BARE[bare]()
    every = {**NEUTRAL, **own}
    stack = functools.reduce(lambda family, make: make(family), every.values(), inner)
    for family in (*(make(inner) for make in every.values()), stack):
        task = {name: values[:, None] for name, values in family.sample(TASKS, generator=seeded()).items()}
        plain = {name: values[:, None] for name, values in inner.sample(TASKS, generator=seeded()).items()}
        assert all(torch.equal(task[name], plain[name]) for name in plain)
        actions = random_actions(inner)
        for one, other in zip(play(family, task, actions), play(inner, plain, actions), strict=True):
            assert torch.equal(one, other)
        assert family.horizon == inner.horizon and family.action_space == inner.action_space


stacks = st.sampled_from(sorted(BARE)).flatmap(
    lambda bare: st.tuples(st.just(bare), st.lists(st.sampled_from(sorted(fitting(bare))), unique=True, max_size=7))
)


@given(stack=stacks, seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_nest_is_a_family(stack: tuple[str, list[str]], seed: int) -> None:
    family = nested(*stack)
    task = family.sample(TASKS, generator=seeded(seed))
    family.validate(task)
    assert bool(family.contains(task).all())
    assert list(task) == list(family.parameters) == list(family.ranges)
    task = {name: values[:, None] for name, values in task.items()}
    actions = random_actions(family, 5).float()
    (seen, paid, ended), again = play(family, task, actions, seed), play(family, task, actions, seed)
    assert all(torch.equal(one, other) for one, other in zip((seen, paid, ended), again, strict=True))
    assert bool(seen.isfinite().all()) and bool(paid.isfinite().all()) and ended.dtype == torch.bool
    space = family.observation_space
    running = torch.cat((torch.ones_like(ended[:1]), (~ended).cumprod(0).bool()))
    for observation in seen[running].numpy():
        assert space.contains(observation)
    assert all(
        values.shape == (TASKS, 1) and bool(values.isfinite().all()) for values in family.references(task).values()
    )
    json.dumps(family.describe(), allow_nan=False)


@pytest.mark.parametrize("names", [list(ANY), list(ANY)[::-1]])
def test_order_is_part_of_the_description_and_a_copy_is_equal(names: list[str]) -> None:
    family = nested("cartpole", names)
    assert copy.deepcopy(family).describe() == family.describe() == nested("cartpole", names).describe()
    others = [nested("cartpole", names[1:] + names[:1]), nested("cartpole", names[:-1]), nested("mountain-car", names)]
    assert all(other.describe() != family.describe() for other in others)
    assert Delayed(CartPole(), longest=2).describe() != Delayed(CartPole(), longest=3).describe()
    assert Delayed(Navigation()).describe() != Delayed(Navigation(reward="squared")).describe()


@pytest.mark.parametrize("bare", BARE)
def test_spaces_are_the_wrapped_familys_or_said_to_differ_and_copies_have_equal_ones(bare: str) -> None:
    inner = BARE[bare]()
    for name, make in (fitting(bare) | {"revealed": Revealed, "shuffled": Shuffled, "trials": Trials}).items():
        family = make(inner)
        assert family.action_space is inner.action_space
        differs = name in ("scaled-sensors", "rewired", "noisy", "revealed", "trials")
        assert differs == ("observation_space" in type(family).__annotations__)
        assert differs or family.observation_space is inner.observation_space
        for twin in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
            assert (twin.observation_space, twin.action_space) == (family.observation_space, family.action_space)


def test_the_nearest_to_the_agent_is_the_outermost() -> None:
    seen = {}
    for name, family in (
        ("noise seen through rewiring", RewiredSensors(NoisySensors(Navigation(), bias_0=1.0), 1.0)),
        ("rewiring seen through noise", NoisySensors(RewiredSensors(Navigation(), 1.0), bias_0=1.0)),
    ):
        task = drawn(family)
        seen[name] = family.observe(task, family.reset(task, (TASKS, 1), generator=seeded()))[0, 0].tolist()
    assert seen == {"noise seen through rewiring": [-1, 0], "rewiring seen through noise": [1, 0]}


@pytest.mark.parametrize("bare", BARE)
def test_single_rows_and_vmap_give_what_rows_give(bare: str) -> None:
    names = [name for name in fitting(bare) if name != "noisy"] + ["noisy"]
    family = nested(bare, names)
    task, actions = drawn(family), random_actions(family, 3)
    state = family.reset(task, (TASKS, EPISODES), generator=seeded())
    flat = {name: values[:, 0] for name, values in task.items()}
    step = torch.func.vmap(lambda t, s, a: tuple(family.step(t, s, a)))
    look = torch.func.vmap(family.observe)
    for action in actions:
        moved, lifted = family.step(task, state, action), step(flat, state, action)
        seen = family.observe(task, moved.state)
        torch.testing.assert_close(look(flat, lifted[0]), seen, rtol=1e-12, atol=1e-12)
        for t, n in itertools.product(range(TASKS), range(EPISODES)):
            single = {name: values[t, n] for name, values in state.items()}
            alone = family.step({name: values[t] for name, values in flat.items()}, single, action[t, n])
            torch.testing.assert_close(alone.reward, moved.reward[t, n], rtol=1e-12, atol=1e-12)
            for name, values in alone.state.items():
                assert values.dtype == state[name].dtype
                torch.testing.assert_close(values, moved.state[name][t, n], rtol=1e-12, atol=1e-12)
        state = moved.state


@pytest.mark.parametrize("bare", BARE)
def test_nests_compile_without_a_break(bare: str) -> None:
    family = nested(bare, list(fitting(bare)))
    task, actions = drawn(family), random_actions(family, 3)

    def run(task: Rows, state: Rows, action: Tensor) -> tuple[Tensor, Rows, Tensor, Tensor]:
        moved = family.step(task, state, action)
        return family.observe(task, moved.state), *moved

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    state = family.reset(task, (TASKS, EPISODES), generator=seeded())
    for action in actions:
        expected, got = run(task, state, action), compiled(task, state, action)
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        state = expected[1]


def test_no_input_is_written_to_and_no_global_randomness_used() -> None:
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    for bare in BARE:
        family = nested(bare, list(fitting(bare)))
        task, actions = drawn(family), random_actions(family, 1)
        state = family.reset(task, (TASKS, EPISODES), generator=seeded())
        kept = {name: values.clone() for name, values in {**task, **state}.items()}
        given_action = actions[0].clone()
        family.observe(task, state)
        family.step(task, state, actions[0])
        assert all(torch.equal(kept[name], values) for name, values in {**task, **state}.items())
        assert torch.equal(given_action, actions[0])
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], legacy)


@pytest.mark.parametrize("bare", BARE)
def test_collect_plays_wrapped_families(bare: str) -> None:
    family = nested(bare, list(fitting(bare)))
    network = MLP(family.observation_space.shape[0], (8,), {"mountain-car": 3}.get(bare, 2), generator=seeded())
    policy = GaussianPolicy(network, 2) if bare == "point-mass" else CategoricalPolicy(network)
    task = family.sample(TASKS, generator=seeded())
    params = dict(policy.named_parameters())
    batches = [collect(policy, params, family, task, EPISODES, generator=seeded(2)) for _ in range(2)]
    assert torch.equal(batches[0].observation, batches[1].observation)
    assert batches[0].observation.shape[:3] == (TASKS, batches[0].mask.shape[1], EPISODES)
    assert bool(batches[0].log_prob.isfinite().all()) and batches[0].mask.sum() > 0


@pytest.mark.parametrize("paying", range(3))
def test_discrete_actions_slip_to_any_as_often_as_said(paying: int) -> None:
    arms = {f"arm_{arm}": float(arm == paying) for arm in range(3)}  # what is paid tells which arm was pulled
    family = Slipping(BernoulliBandit(3, horizon=20, **arms), 0.3)
    _, paid, _ = play(family, drawn(family, tasks=100), torch.zeros(20, 100, 50, dtype=torch.int64))
    assert float(paid.mean()) == pytest.approx(0.8 if paying == 0 else 0.1, abs=0.005)
    assert float(paid.mean((1, 2)).std()) < 0.01  # early and late alike
    followed = paid[1:][paid[:-1] > 0.0]  # whatever has just been drawn
    assert float(followed.mean()) == pytest.approx(0.8 if paying == 0 else 0.1, abs=0.01)


def test_discrete_actions_of_any_dtype_slip_to_whole_numbers() -> None:
    family = Slipping(MountainCar(), 1.0)  # a push of 0.4 would be taken
    task, whole = drawn(family, tasks=20), torch.zeros(5, 20, 10, dtype=torch.int64)
    for one, other in zip(play(family, task, whole), play(family, task, whole.float()), strict=True):
        assert torch.equal(one, other)


def test_continuous_actions_slip_within_their_bounds_and_nothing_else_changes() -> None:
    inner = Navigation()
    family, asked = Slipping(inner, 0.25), torch.tensor([0.03, -0.02], dtype=torch.float64)
    task = drawn(family, tasks=50)
    (seen, _, _), (plain, _, _) = (play(one, task, asked.expand(10, 50, 40, 2)) for one in (family, inner))
    unit = plain[1, 0, 0] - plain[0, 0, 0]  # a step by what was asked for
    steps = (seen[1:] - seen[:-1]) / unit * asked
    slipped = (steps - asked).abs().amax(-1) > 1e-9
    assert float(slipped.double().mean()) == pytest.approx(0.25, abs=0.01)
    low, high = (torch.as_tensor(end, dtype=torch.float64) for end in (inner.action_space.low, inner.action_space.high))
    share = (steps[slipped] - low) / (high - low)
    assert bool(((share > 0.0) & (share < 1.0)).all())
    np.testing.assert_allclose(share.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(share.std(0), 12**-0.5, atol=0.01)
    assert abs(float(torch.corrcoef(share.T)[0, 1])) < 0.05  # each part is drawn by itself
    assert share.unique().numel() > 0.999 * share.numel()  # no number serves two steps


# --- references


def test_references_pass_where_they_hold() -> None:
    point, pole = PointMass(reward="squared"), CartPole(50)
    known = set(point.references(drawn(point)))
    assert known == {"ceiling", "floor", "random"}
    for family, names in (
        (ScaledSensors(point), known),
        (RewiredSensors(point), known),
        (NoisySensors(point), known),
        (ScaledReward(point), known),
        (SwappedActions(pole), {"ceiling", "floor"}),
        (DeadActions(pole), {"ceiling"}),
        (ScaledActions(point), {"ceiling"}),
        (Delayed(point), {"ceiling"}),
        (Slipping(point, 0.1), {"ceiling"}),
        (CentredReward(point, {"x": 1.0}), {"ceiling"}),
        (Repeated(point), set()),
        (ShiftedReward(point), set()),
        (Changing(point, friction=0.5), set()),
    ):
        assert set(family.references(drawn(family))) == names
    doubled = ScaledReward(Delayed(pole), 2.0)
    assert doubled.references(drawn(doubled))["ceiling"].unique().tolist() == [100.0]


def test_no_play_beats_a_ceiling_that_was_passed_on() -> None:
    inner = PointMass(20, friction=0.5)
    family = ScaledReward(Delayed(ScaledActions(inner, actuator_0=Range(-2, 2)), delay=whole(0, 1)), Range(0.5, 2))
    task = drawn(family)
    ceiling = family.references(task)["ceiling"]
    towards = torch.cat((task["goal_x"], task["goal_y"]), -1).sign().unsqueeze(1) / 5
    for actions in (random_actions(family, 20), towards.expand(20, TASKS, EPISODES, 2)):
        assert bool((play(family, task, actions)[1].sum(0) <= ceiling).all())


# --- the two controls


def test_what_is_revealed_is_the_constants_on_the_scale_of_their_ranges() -> None:
    family = Revealed(CartPole(30, gravity=Range(5, 15), polarity=Choice((-1.0, 1.0))))
    task, actions = drawn(family), random_actions(family)
    (seen, *rest), (bare, *same) = play(family, task, actions), play(CartPole(30), task, actions)
    assert torch.equal(seen[..., :4], bare) and all(map(torch.equal, rest, same))
    shown = torch.stack([(task["gravity"] - 10) / 5, task["polarity"]], -1).expand(*seen.shape[:-1], 2)
    torch.testing.assert_close(seen[..., 4:], shown)
    assert family.observation_space.shape == (6,) and list(family.parameters) == list(CartPole().parameters)
    assert bool(shown.abs().max() <= 1)


def test_shuffled_tasks_are_a_deal_that_holds_until_the_next_start() -> None:
    inner = Navigation(10, reward="squared")
    family = Shuffled(inner)
    task = {name: values[:, None] for name, values in inner.sample(50, generator=seeded()).items()}
    generator, deals = seeded(3), []
    for _ in range(2):
        state = family.reset(task, (50, 2), generator=generator)
        dealt = {name.removeprefix("shuffled_"): v for name, v in state.items() if name.startswith("shuffled_")}
        assert all(torch.equal(v.sort(0).values, task[k].expand(50, 2).sort(0).values) for k, v in dealt.items())
        assert all(torch.equal(v[:, 0], v[:, 1]) for v in dealt.values())  # a task's episodes stay together
        own = {name: values for name, values in state.items() if name not in family._memory}
        action = torch.full((50, 2, 2), 0.5)
        moved, expected = family.step(task, state, action), inner.step(dealt, own, action)
        assert torch.equal(moved.reward, expected.reward)
        assert all(torch.equal(moved.state[f"shuffled_{name}"], v) for name, v in dealt.items())
        deals.append(dealt["goal_x"])
    assert (deals[0] != deals[1]).float().mean() > 0.8 and (deals[0] != task["goal_x"]).float().mean() > 0.8


def test_shuffled_tasks_change_as_they_would_unshuffled() -> None:
    family = Shuffled(Changing(CartPole(10), change_at=1, polarity=-1.0))
    task = {name: values[:, None] for name, values in family.sample(1, generator=seeded()).items()}
    state, speeds = family.reset(task, (1, 1), generator=seeded()), []
    for _ in range(2):
        speeds.append(float(state["x_dot"]))
        state = family.step(task, state, torch.ones(1, 1)).state
    assert speeds[1] > speeds[0] + 0.1 and float(state["x_dot"]) < speeds[1] - 0.1  # right, then left


# --- what is refused


class Blob(Family):
    """A family that sees pictures and acts on grids."""

    parameters = {"a": Parameter(0.0, 0.0, 1.0, "1", "nothing")}
    observation_space = Box(0.0, 1.0, (2, 2), dtype=np.float32)
    action_space = Box(0.0, 1.0, (2, 2), dtype=np.float32)

    def __init__(self) -> None:
        super().__init__(3, {})

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Rows:
        return {}

    def observe(self, task: Any, state: Rows) -> Tensor:
        return torch.zeros(2, 2)

    def step(self, task: Any, state: Rows, action: Tensor) -> Transition:
        return Transition(state, torch.zeros(()), torch.zeros((), dtype=torch.bool))


class Anywhere(Blob):
    """Actions without bounds."""

    action_space = Box(-np.inf, np.inf, (1,), dtype=np.float32)


def live() -> Family:
    return GymnasiumFamily("CartPole-v1", {"gravity": Range(5, 15)}, horizon=STEPS)


def swinging() -> Family:
    return GymnasiumFamily("Pendulum-v1", {"g": Range(9.5, 10.5)}, horizon=STEPS)


class Copied(Family):
    """Our CartPole from the first states that a live one draws."""

    parameters = {"gravity": live().parameters["gravity"]}
    observation_space, action_space = CartPole().observation_space, CartPole().action_space

    def __init__(self) -> None:
        super().__init__(STEPS, live().ranges)
        self._ours = CartPole(STEPS)

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Rows:
        theirs = live()
        seen = theirs.observe(task, theirs.reset(task, rows, generator=generator))
        return dict(zip(("x", "x_dot", "theta", "theta_dot"), seen.unbind(-1), strict=True))

    def observe(self, task: Any, state: Rows) -> Tensor:
        return self._ours.observe(self._all(task), state)

    def step(self, task: Any, state: Rows, action: Tensor) -> Transition:
        return self._ours.step(self._all(task), state, action)

    def _all(self, task: Any) -> Rows:
        return {**self._ours.task(), **task}


PLAY_LIVE: dict[str, Callable[[Family], Family]] = {
    **{name: make for name, make in (ANY | DISCRETE).items() if name not in ("repeated", "changing", "centred-reward")},
    "revealed": Revealed,
    "shuffled": Shuffled,
    "nested": lambda f: Delayed(NoisySensors(Slipping(Shuffled(f), 0.1), noise_0=0.1), delay=whole(0, 1)),
}
SWING_LIVE = {name: ANY[name] for name in ("delayed", "slipping")} | CONTINUOUS | {"revealed": Revealed}


@pytest.mark.parametrize("name", PLAY_LIVE)
def test_over_a_live_family_a_wrapper_does_what_it_does_over_equations(name: str) -> None:
    lived, copied = PLAY_LIVE[name](live()), PLAY_LIVE[name](Copied())
    task = drawn(lived)
    assert all(torch.equal(task[constant], values) for constant, values in drawn(copied).items())
    (seen, paid, over), (expected, reward, end) = (play(f, task, random_actions(live())) for f in (lived, copied))
    playing = torch.cat((torch.ones_like(end[:1]), ~end.cummax(0).values))  # after its end what is live waits
    torch.testing.assert_close(seen[playing], expected[playing], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(paid[playing[:-1]], reward[playing[:-1]], rtol=1e-4, atol=1e-4)
    assert torch.equal(over[playing[:-1]], end[playing[:-1]])


@pytest.mark.parametrize("name", SWING_LIVE)
def test_continuous_actions_reach_what_is_live(name: str) -> None:
    assert check_family(SWING_LIVE[name](swinging())) == []


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Changing(live(), 3.0, gravity=50.0), TypeError, "at every step, got GymnasiumFamily, which is live"),
        (lambda: Changing(Delayed(live()), 3.0, delay=1.0), TypeError, "at every step, got Delayed, which is live"),
        (lambda: Repeated(live()), TypeError, "Repeated: expected a family .*, got GymnasiumFamily, which is live"),
        (lambda: CentredReward(live(), {"row": 1.0}), TypeError, "CentredReward: .*got GymnasiumFamily, which is live"),
        (lambda: Delayed(Delayed(CartPole())), ValueError, "already has a constant 'delay'"),
        (lambda: Delayed(CartPole(), longest=0), ValueError, "longest of Delayed: expected at least 1, got 0"),
        (lambda: Delayed(CartPole(), longest=1.5), TypeError, "longest of Delayed: expected an integer, got 1.5"),
        (lambda: Delayed(CartPole(), longest=2, delay=3.0), ValueError, "delay: expected one of"),
        (lambda: Delayed(CartPole(), delay=Range(0, 1)), ValueError, "delay: expected one of"),
        (lambda: Delayed(CartPole(), neutral=2), ValueError, "neutral action of 0..1, got 2"),
        (lambda: Delayed(Navigation(), neutral=2), ValueError, "neutral action within"),
        (lambda: Delayed(Blob()), TypeError, "Discrete or a flat Box"),
        (lambda: NoisySensors(Blob()), TypeError, "observations from a flat Box"),
        (lambda: NoisySensors(CartPole(), noise_4=1.0), ValueError, "no constant 'noise_4'; it adds noise_0"),
        (lambda: NoisySensors(CartPole(), noise_1=-1.0), ValueError, "noise_1: expected within"),
        (lambda: NoisySensors(CartPole(), gravity=1.0), ValueError, "no constant 'gravity'"),
        (lambda: Slipping(CartPole(), 1.5), ValueError, "chance from 0 to 1, got 1.5"),
        (lambda: Slipping(Delayed(Slipping(CartPole(), 0.1)), 0.1), ValueError, "already slips; wrap it once"),
        (lambda: Slipping(Anywhere(), 0.1), ValueError, "expected bounded actions"),
        (lambda: Slipping(Blob(), 0.1), TypeError, "Discrete or a flat Box"),
        (lambda: ScaledActions(CartPole()), TypeError, "use SwappedActions"),
        (lambda: SwappedActions(Navigation()), TypeError, "use ScaledActions"),
        (lambda: SwappedActions(CartPole(), 0.5), ValueError, "action_order: expected one of"),
        (lambda: DeadActions(CartPole(), dead_0=0.5), ValueError, "dead_0: expected one of"),
        (lambda: ScaledSensors(CartPole(), largest=0.5), ValueError, "at least 1, got 0.5"),
        (lambda: ScaledSensors(CartPole(), sensor_0=1.5), ValueError, "sensor_0: expected within"),
        (lambda: RewiredSensors(CartPole(), 384.0), ValueError, "wiring: expected one of"),
        (lambda: RewiredSensors(Acrobot()), ValueError, "at most 5 sensors, got 6"),
        (lambda: Repeated(CartPole(), most=1), ValueError, "most of Repeated: expected at least 2, got 1"),
        (lambda: Repeated(CartPole(), repeats=0.0), ValueError, "repeats: expected one of"),
        (lambda: ScaledReward(CartPole(), -1.0), ValueError, "reward_scale: expected within"),
        (lambda: Shuffled(Shuffled(CartPole())), ValueError, "is already shuffled; shuffle it only once"),
        (lambda: Shuffled(Delayed(Shuffled(CartPole()))), ValueError, "is already shuffled; shuffle it only once"),
        (lambda: Changing(CartPole()), ValueError, "constants that change, got none"),
        (lambda: Changing(CartPole(), mass=1.0), ValueError, "CartPole has no constant 'mass'; did you mean"),
        (lambda: Changing(CartPole(), polarity=0.5), ValueError, "later_polarity: expected one of"),
        (
            lambda: Changing(Delayed(Shuffled(CartPole())), polarity=-1.0),
            ValueError,
            "got shuffled ones; use Shuffled\\(Changing",
        ),
        (lambda: Revealed(Blob()), TypeError, "observations from a flat Box"),
        (lambda: Revealed(CartPole()), ValueError, "constants that vary, CartPole has none"),
        (
            lambda: Revealed(Delayed(Shuffled(CartPole(gravity=Range(5, 15))))),
            ValueError,
            "got shuffled ones; use Shuffled",
        ),
        (lambda: Coarse(Range(0, 1), 0), ValueError, "at least 1 cell"),
        (lambda: Coarse(Choice((0.0, 1.0)), 3), ValueError, "at most one per choice, got 3"),
    ],
)
def test_wrong_wrappers_are_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


LEAST: dict[str, dict[str, Any]] = {  # arguments that a wrapper cannot do without
    "CentredReward": {"limits": {"x": 1.0}},
    "Changing": {"goal_x": 1.0},
    "Slipping": {"chance": 0.1},
}
EVERY = [name for name in wrappers.__all__ if name != "Wrapper"]


@pytest.mark.parametrize("given", ["CartPole", CartPole, None, 3.0], ids=repr)
@pytest.mark.parametrize("name", EVERY)
def test_every_wrapper_refuses_what_is_no_family(name: str, given: Any) -> None:
    message = f"{name}: expected a family to wrap, got {given!r}; give an object such as CartPole()"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        getattr(wrappers, name)(given, **LEAST.get(name, {}))


@pytest.mark.parametrize("name", EVERY)
def test_every_wrapper_given_a_benchmark_asks_for_its_family(name: str) -> None:
    message = f"{name}: expected a family to wrap, got a benchmark; pass its .family"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        getattr(wrappers, name)(cartpole_all(), **LEAST.get(name, {}))


def test_the_wrappers_said_to_add_no_constants_are_those_that_add_none() -> None:
    def adds(name: str) -> bool:
        bare = CartPole(gravity=Range(5, 15)) if name in ("SwappedActions", "DeadActions") else Navigation()
        family = getattr(wrappers, name)(bare, **LEAST.get(name, {}))
        return family.parameters.keys() != bare.parameters.keys()

    said = re.search(r"Five add no constants:(.*)", wrappers.__doc__ or "", re.DOTALL)
    assert said is not None
    assert set(re.findall(r"``(\w+)``", said[1])) == {name for name in EVERY if not adds(name)}


def test_wrong_tasks_are_refused_by_name() -> None:
    family = RewiredSensors(Delayed(CartPole()))
    task = family.sample(2, generator=seeded())
    for name, value in (("wiring", 0.5), ("delay", 2.0), ("gravity", float("nan"))):
        with pytest.raises(ValueError, match=name):
            family.validate({**task, name: torch.tensor([0.0, value])})
    with pytest.raises(ValueError, match="'delay' is missing"):
        family.contains({name: values for name, values in task.items() if name != "delay"})


# --- benchmarks


def test_wrapped_families_split_like_others() -> None:
    def family(delay: Choice, gravity: Range) -> Family:
        return ScaledReward(Delayed(CartPole(gravity=gravity), longest=3, delay=delay), Range(0.5, 2))

    heldout = {"hole": family(whole(1, 1), Range(8, 9)), "late": family(whole(3, 3), Range(5, 15))}
    bench = TaskBenchmark("wrapped", family(whole(0, 1), Range(5, 15)), heldout)
    names = {split: set(task_ids(bench.sample(split, 2000, generator=seeded()))) for split in ("train", *bench.splits)}
    for one, other in itertools.combinations(names, 2):
        assert not names[one] & names[other]
    assert not bool(bench.is_training(bench.sample("late", 100, generator=seeded())).any())
    with pytest.raises(ValueError, match="in ranges only"):
        TaskBenchmark("other", bench.train, {"late": Delayed(CartPole(), longest=3, delay=3.0)})
    renamed = TaskBenchmark("wrapped", family(whole(0, 2), Range(5, 15)))
    assert renamed.fingerprint() != bench.fingerprint()


def test_coarse_cells() -> None:
    values = torch.tensor([0.0, 0.4, 0.6, 1.0])
    assert Coarse(Range(0, 1)).cell(values, 1024).tolist() == [0, 0, 0, 0]
    assert Coarse(Range(0, 1), 2).cell(values, 1024).tolist() == [0, 0, 1, 1]
    pairs = Coarse(whole(0, 5), 3)
    assert pairs.cell(torch.arange(6.0), 2).tolist() == [0, 0, 1, 1, 2, 2]
    assert Coarse(whole(0, 5)).cell(torch.arange(6.0), 2).tolist() == [0] * 6
    union = Coarse(Union(((0, 1), (2, 3))))
    assert torch.equal(union.sample(50, seeded()), union.of.sample(50, seeded()))
    assert union.contains(torch.tensor([0.5, 1.5])).tolist() == [True, False]
    assert union.intervals == union.of.intervals
    assert json.loads(json.dumps(pairs.describe()))["of"]["kind"] == "Choice"


@pytest.mark.parametrize("make", [cartpole_all, cartpole_scrambled])
def test_no_split_of_the_variants_holds_a_training_task(make: Callable[[], TaskBenchmark]) -> None:
    bench = make()
    assert bench.splits == ("validation", "test", "interpolation", "extrapolation")
    drawn_tasks = {split: bench.sample(split, 2000, generator=seeded(1)) for split in ("train", *bench.splits)}
    names = {split: set(task_ids(task)) for split, task in drawn_tasks.items()}
    assert all(not names[one] & names[other] for one, other in itertools.combinations(names, 2))
    for split, task in drawn_tasks.items():
        bench.family.validate(task)
        assert bool(bench.is_training(task).all()) is (split == "train")
        assert len(task["delay"].unique()) == len(task["polarity"].unique()) == 2
    length = drawn_tasks["interpolation"]["half_length"]
    assert bool(((length >= 0.6) & (length <= 0.75)).all())
    beyond = drawn_tasks["extrapolation"]
    for name in set(WITHIN) - {"polarity"}:
        low, high = WITHIN[name].bounds
        assert bool(((beyond[name] <= low + 1e-6) | (beyond[name] >= high - 1e-6)).all())
    assert make(100).fingerprint() != bench.fingerprint() == make().fingerprint()
    assert bench.family.references(beyond)["ceiling"].unique().tolist() == [500.0]


def test_what_to_choose_by_lies_at_the_ends_of_the_training_range_and_apart_from_the_inner_one() -> None:
    bench, whole = cartpole_all_inner(), cartpole_all()
    assert bench.splits == ("validation", "test", "extrapolation")
    ends = bench.sample("extrapolation", 2000, generator=seeded(1))
    assert bool(whole.train.contains(ends).all()) and not bool(bench.is_training(ends).any())
    assert set(INNER) == set(ENDS) == set(WITHIN)
    for name in set(WITHIN) - {"polarity"}:
        low, high = INNER[name].bounds
        assert bool(((ends[name] <= low + 1e-6) | (ends[name] >= high - 1e-6)).all())
        outer = [bound for part in (INNER[name], ENDS[name]) for bound in part.bounds]
        assert (min(outer), max(outer)) == pytest.approx(WITHIN[name].bounds)


def test_scrambled_wirings_are_held_out_whole() -> None:
    bench = cartpole_scrambled()
    wirings = {
        split: set(bench.sample(split, 8000, generator=seeded())["wiring"].int().tolist())
        for split in ("train", *bench.splits)
    }
    assert wirings["train"] | wirings["validation"] | wirings["test"] == set(range(384))
    assert len(wirings["train"]) == 302 and len(wirings["validation"]) == 38 and len(wirings["test"]) == 44
    assert wirings["interpolation"] == wirings["extrapolation"] == wirings["validation"] | wirings["test"]
    for split in bench.splits:
        assert not wirings["train"] & wirings[split]
        assert {number ^ 1 for number in wirings[split]} == wirings[split]  # mirror images stay together
    # A function of the wiring alone: no training physics, sign or delay moves a task to another split.
    other = bench.sample("train", 2000, generator=seeded(3))
    for split in ("train", "validation", "test"):
        task = bench.sample(split, 2000, generator=seeded(2))
        moved = {**other, "wiring": task["wiring"]}
        assert torch.equal(bench.is_training(moved), bench.is_training(task))


def linear_model(task: Rows) -> tuple[Tensor, Tensor]:
    """``A [T, 4, 4]`` and ``B [T, 4, 1]`` of one step about the upright, by differences; no friction, positive sign."""
    bare = {**task, "polarity": torch.ones_like(task["gravity"]), "cart_friction": torch.zeros_like(task["gravity"])}
    names, h = ("x", "x_dot", "theta", "theta_dot"), 1e-6
    columns = []
    for i in range(5):
        ends = []
        for sign in (1, -1):
            state = {n: torch.full_like(task["gravity"], sign * h * (j == i)) for j, n in enumerate(names)}
            push = torch.full_like(task["gravity"], 0.5 + 0.5 * sign * h * (i == 4))
            after = CartPole().step({n: bare[n] for n in CartPole.parameters}, state, push).state
            ends.append(torch.stack([after[n] for n in names], -1))
        columns.append((ends[0] - ends[1]) / (2 * h))
    model = torch.stack(columns, -1)[:, 0]
    return model[..., :4], model[..., 4:]


def lives(family: Family, task: Rows, starts: int, ahead: int = 3) -> Tensor:
    """Steps ``[T, starts]`` that a controller who knows the constants keeps the pole up.

    It tries out every sequence of ``ahead`` actions on the true equations, actions under way included, and
    takes the one whose end costs least by the linear-quadratic regulator's estimate.
    """
    a, b = linear_model(task)
    weight = torch.diag(torch.tensor([1.0, 1.0, 10.0, 1.0], dtype=torch.float64)).expand_as(a)
    cost = weight
    for _ in range(2000):  # Riccati's equation, iterated
        gain = (b.mT @ cost @ a) / (1 + b.mT @ cost @ b)
        cost = weight + a.mT @ cost @ (a - b @ gain)
    plans = torch.tensor(list(itertools.product((0, 1), repeat=ahead)))
    shape = (len(cost), starts, len(plans))
    wide = {name: values.unsqueeze(-1) for name, values in task.items()}
    state = family.reset(task, shape[:2], generator=seeded(5))
    alive, life = torch.ones(shape[:2], dtype=torch.bool), torch.zeros(shape[:2])
    for _ in range(family.horizon):
        trial = {name: values.unsqueeze(-1).expand(shape) for name, values in state.items()}
        lost = torch.zeros(shape, dtype=torch.bool)
        for k in range(ahead):
            trial, _, terminated = family.step(wide, trial, plans[:, k].expand(shape))
            lost = lost | terminated
        end = family.observe(wide, trial)
        value = torch.einsum("tnsi,tij,tnsj->tns", end, cost, end) + 1e9 * lost
        state, _, terminated = family.step(task, state, plans[value.argmin(-1), 0])
        life += alive
        alive = alive & ~terminated
    return life


def corners(ranges: dict[str, Any]) -> Rows:
    """Every combination of smallest and largest constants with a delay of 0 and 1."""
    ends = {**{name: distribution.bounds for name, distribution in ranges.items()}, "delay": (0.0, 1.0)}
    grid = torch.cartesian_prod(*(torch.tensor(pair, dtype=torch.float64) for pair in ends.values()))
    base = drawn(Delayed(CartPole()), tasks=len(grid))
    return {**base, **{name: grid[:, i : i + 1] for i, name in enumerate(ends)}}


def test_every_corner_of_the_training_range_can_be_balanced() -> None:
    family = cartpole_all().train
    assert len(corners(WITHIN)["delay"]) == 512
    assert bool((lives(family, corners(WITHIN), 2) == 500).all())


def test_drawn_tasks_can_be_balanced_and_nearly_all_beyond() -> None:
    bench = cartpole_all()
    for split, share in (("train", 1.0), ("interpolation", 1.0), ("extrapolation", 0.99)):
        task = {name: v.double()[:, None] for name, v in bench.sample(split, 128, generator=seeded(8)).items()}
        assert (lives(bench.family, task, 2) == 500).double().mean() >= share
    assert set(BEYOND) == set(WITHIN)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_wrapped_rows_step_alike_on_the_gpu() -> None:
    for bare in BARE:
        family = nested(bare, list(fitting(bare)))
        task, actions = drawn(family), random_actions(family)
        there = {name: values.cuda() for name, values in task.items()}
        for one, other in zip(play(family, task, actions), play(family, there, actions.cuda()), strict=True):
            torch.testing.assert_close(one, other.cpu(), rtol=1e-9, atol=1e-9)
