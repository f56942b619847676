"""Families as Gymnasium environments: against Gymnasium's checkers, its SyncVectorEnv and its own CartPole."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs import (
    CartPole,
    Changing,
    Choice,
    Delayed,
    Family,
    Navigation,
    NoisySensors,
    Parameter,
    Range,
    RingNavigation,
    Shuffled,
    TabularMDP,
    TaskBenchmark,
    Transition,
    Trials,
    cartpole_all,
    cartpole_polarity,
    cartpole_wide,
    cells,
    navigation_corners,
    navigation_fixed,
    navigation_maml,
)
from envs.adapters import FamilyEnv, FamilyVectorEnv, GymnasiumFamily, register
from envs.adapters.drawing import GREEN, WIDTH, View, picture, reach, scalars
from envs.adapters.registration import FAMILIES
from envs.adapters.sources import stream

IDS = register()
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
# What the checkers recommend and Gymnasium's own CartPole-v1 and Pendulum-v1 do not follow either.
RECOMMENDATIONS = ("infinity. This is probably too", "recommend using a symmetric and normalized", "symmetric and norm")

TINY: dict[str, Family] = {
    "cartpole": CartPole(horizon=12, half_length=Range(0.05, 0.5), force_magnitude=Range(5.0, 20.0)),
    "navigation": Navigation(horizon=7, box=0.15),
    "bandit": TabularMDP(3, 2, horizon=4, observation="feedback"),
}


def actions_of(env: Any, seed: int) -> Any:
    env.action_space.seed(seed)
    return env.action_space


def heard(call: Any) -> list[str]:
    """Messages of warnings that are more than recommendations."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if not any(known in str(w.message) for known in RECOMMENDATIONS)]


# ---------------------------------------------------------------------------------------------- one environment


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_finds_nothing(env_id: str) -> None:
    env = gymnasium.make(env_id)
    assert heard(lambda: check_env(env.unwrapped)) == []


@pytest.mark.parametrize("env_id", IDS)
def test_sb3s_checker_finds_nothing(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    assert heard(lambda: sb3_check_env(env, skip_render_check=False)) == []


def test_the_recommendations_left_out_are_those_that_gymnasiums_own_miss() -> None:
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        with pytest.warns(UserWarning, match="|".join(RECOMMENDATIONS)):
            check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


def test_every_family_is_registered_and_only_by_the_call() -> None:
    families = [cls for cls in vars(envs).values() if isinstance(cls, type) and issubclass(cls, Family)]
    alone = {cls for cls in families if "horizon" in inspect.signature(cls).parameters and not inspect.isabstract(cls)}
    assert set(FAMILIES.values()) == alone - {GymnasiumFamily}  # a wrapper takes its horizon from what it wraps
    assert register() == IDS
    code = (
        "import gymnasium, envs, envs.adapters; ids = lambda: [i for i in gymnasium.registry if 'metarl/' in i];"
        "before = ids(); gymnasium.make('envs.adapters.registered:metarl/CartPole-v0'); print(before, len(ids()))"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.stdout.strip() == f"[] {len(IDS)}", done.stderr


def test_cartpole_equals_gymnasiums_step_by_step() -> None:
    ours, theirs = gymnasium.make("metarl/CartPole-v0", gravity=12.0), gymnasium.make("CartPole-v1")
    theirs.unwrapped.gravity = 12.0
    space = actions_of(ours, 0)
    for seed in range(5):
        observation, _ = ours.reset(seed=seed)
        theirs.reset(seed=0)
        theirs.unwrapped.state = observation.astype(np.float64)
        while True:
            action = space.sample()
            mine, yours = ours.step(action), theirs.step(action)
            np.testing.assert_allclose(mine[0], yours[0], atol=1e-5)
            assert mine[1:4] == yours[1:4]
            if mine[2] or mine[3]:
                break
    assert (ours.spec.max_episode_steps, ours.observation_space) == (500, theirs.observation_space)


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda: gymnasium.make("metarl/Navigation-v0", box=None), 100),
        (lambda: gymnasium.make("metarl/Navigation-v0", box=None, max_episode_steps=130), 130),
        (lambda: gymnasium.make("metarl/Navigation-v0", box=None, max_episode_steps=3), 3),
        (lambda: FamilyEnv(Navigation(9, box=None)), 9),
        (lambda: FamilyEnv(Navigation(9, box=None), max_episode_steps=4), 4),
    ],
)
def test_the_time_limit_truncates_and_only_it(make: Any, limit: int) -> None:
    env = make()
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(limit)]
    assert flags == [(False, False)] * (limit - 1) + [(False, True)]


@pytest.mark.parametrize(
    ("name", "kwargs", "limit"),
    [
        ("RingNavigation", {}, 20),
        ("RingNavigation", {"benchmark": "navigation-corners"}, 100),
        ("RingNavigation", {"benchmark": "navigation-corners", "max_episode_steps": 130}, 130),
        ("RingNavigation", {"benchmark": "navigation-corners", "max_episode_steps": 20}, 20),
        ("RingNavigation", {"benchmark": navigation_corners(horizon=7)}, 7),
        ("RingNavigation", {"benchmark": navigation_corners(horizon=7), "max_episode_steps": 9}, 9),
    ],
)
def test_a_benchmarks_horizon_holds_under_an_id_unless_a_limit_is_given(name: str, kwargs: Any, limit: int) -> None:
    still = np.zeros((1, 2), np.float32)
    one, many = gymnasium.make(f"metarl/{name}-v0", **kwargs), gymnasium.make_vec(f"metarl/{name}-v0", 1, **kwargs)
    loop = gymnasium.make_vec(f"metarl/{name}-v0", 1, vectorization_mode="sync", **kwargs)
    again = gymnasium.make(one.spec)
    assert one.spec.max_episode_steps == again.spec.max_episode_steps == limit
    for env, action in ((one, still[0]), (again, still[0]), (many, still), (loop, still)):
        env.reset(seed=0)
        cuts = [bool(np.all(env.step(action)[3])) for _ in range(limit)]
        assert cuts == [False] * (limit - 1) + [True]


def test_no_limit_at_all_is_possible_under_an_id() -> None:
    env = gymnasium.make("metarl/CartPole-v0", benchmark="cartpole-packer", max_episode_steps=-1)
    assert env.spec.max_episode_steps is None
    assert gymnasium.make("metarl/CartPole-v0", benchmark="cartpole-packer").spec.max_episode_steps == 200


def test_an_end_by_the_rules_is_no_truncation_and_both_may_meet() -> None:
    push = np.array([1.0, 0.0], np.float32)
    for limit, late in ((5, False), (3, True)):
        env = FamilyEnv(Navigation(limit, goal_x=0.3, goal_y=0.0))
        env.reset(seed=0)
        assert [env.step(push)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(True, late)]
    env = FamilyEnv(Navigation(5, box=None), max_episode_steps=-1)
    env.reset(seed=0)
    assert not any(env.step(push)[3] for _ in range(50))


def test_a_seed_decides_everything_and_a_task_stays_until_the_next() -> None:
    env, twin = (FamilyEnv(TINY["cartpole"]) for _ in range(2))
    first, _ = env.reset(seed=3)
    task = env.task
    second, _ = env.reset()
    assert env.task == task and not np.array_equal(first, second)
    assert np.array_equal(twin.reset(seed=3)[0], first) and twin.task == task
    assert np.array_equal(twin.reset()[0], second)
    env.reset(seed=4)
    assert env.task != task
    unseeded = [FamilyEnv(TINY["cartpole"]).reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_options_pin_constants_and_draw_new_tasks() -> None:
    env = FamilyEnv(TINY["cartpole"], {"gravity": 3.0})
    env.reset(seed=0)
    task = env.task
    assert task["gravity"] == 3.0
    env.reset(options={"task": {"half_length": 0.25}})
    assert env.task == {**task, "gravity": pytest.approx(9.8), "half_length": 0.25}
    env.reset(seed=1)
    assert env.task["half_length"] == 0.25 and env.task["force_magnitude"] != task["force_magnitude"]
    env.reset(options={"task": "sample"})
    assert env.task["half_length"] != 0.25


def test_benchmark_tasks_come_from_the_split() -> None:
    benchmark = cartpole_wide()
    for split in ("train", "test", "validation"):
        env = FamilyEnv(benchmark, split=split)
        for seed in range(3):
            env.reset(seed=seed)
            drawn = {name: torch.tensor([value]) for name, value in env.task.items()}
            assert bool(benchmark.is_training(drawn)) == (split == "train")
    named = gymnasium.make("metarl/Navigation-v0", benchmark="navigation-fixed", split="test").unwrapped
    named.reset(seed=0)
    drawn = {name: torch.tensor([value]) for name, value in named.task.items()}
    assert not bool(navigation_fixed().is_training(drawn))


PINNED: dict[str, tuple[TaskBenchmark, dict[str, float]]] = {
    "polarity": (cartpole_polarity(), {"polarity": 1.0}),
    "one of many": (cartpole_all(), {"delay": 1.0}),
    "all but one": (cartpole_wide(), {"cart_mass": 1.0, "half_length": 0.5, "pole_mass": 0.1}),
}


def trains(benchmark: TaskBenchmark, task: Mapping[str, Any]) -> list[bool]:
    """Which tasks training could have drawn."""
    values = {name: torch.as_tensor(np.atleast_1d(np.float32(value))) for name, value in task.items()}
    return benchmark.is_training(values).tolist()


def of_split(benchmark: TaskBenchmark, split: str, task: Mapping[str, Any]) -> list[bool]:
    """Which tasks the split could have drawn, told apart by what other splits own and by the ranges alone."""
    values = {name: torch.as_tensor(np.atleast_1d(np.float32(value))) for name, value in task.items()}
    index = cells.indices(benchmark.family, values, benchmark.bins)
    owner = cells.bucket(index, cells.salt(benchmark.name))
    inside = benchmark.heldout.get(split, benchmark.family).contains(values)
    share = {"test": owner == 0, "validation": owner == 1}.get(split, torch.tensor(trains(benchmark, task)))
    return (inside & (~share if split in benchmark.heldout else share)).tolist()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("name", PINNED)
def test_a_pinned_constant_takes_no_task_out_of_its_split(name: str, split: str) -> None:
    benchmark, pins = PINNED[name]
    one, twin = (FamilyVectorEnv(benchmark, 200, pins, split=split) for _ in range(2))
    for env in (one, twin):
        env.reset(seed=0)
    assert of_split(benchmark, split, one.task) == [True] * 200
    for constant, values in one.task.items():
        np.testing.assert_array_equal(values, twin.task[constant])
        assert constant not in pins or set(values) == {np.float32(pins[constant])}
    single = FamilyEnv(benchmark, pins, split=split)
    for seed in range(20):
        single.reset(seed=seed)
        assert of_split(benchmark, split, single.task) == [True]


def test_other_splits_are_kept_to_under_a_pin_too() -> None:
    for benchmark, split, pins in (
        (cartpole_polarity(), "interpolation", {"polarity": -1.0}),
        (cartpole_wide(), "extrapolation", {"half_length": 1.2}),
        (navigation_corners(), "extrapolation", {"radius": 2.8}),
    ):
        many = FamilyVectorEnv(benchmark, 50, pins, split=split)
        many.reset(seed=0)
        assert all(of_split(benchmark, split, many.task)), (benchmark.name, split)
    for benchmark, split, pins in (
        (cartpole_polarity(), "extrapolation", {"gravity": 12.0}),
        (cartpole_wide(), "extrapolation", {"half_length": 0.5}),  # a length that training knows
        (navigation_corners(), "corners", {"radius": 2.8}),
        (cartpole_wide(), "train", {"half_length": 0.65}),  # in the hole
    ):
        with pytest.raises(ValueError, match=f"tasks of '{split}', got .* left none in 300 draws"):
            FamilyVectorEnv(benchmark, 2, pins, split=split).reset(seed=0)


def test_a_pinned_task_of_a_list_is_one_of_the_list() -> None:
    benchmark = navigation_maml()
    goals = benchmark.listed["published"]
    known = set(zip(*(np.float32(goals[name]).tolist() for name in ("goal_x", "goal_y")), strict=True))
    x, y = sorted(known)[3]
    env = FamilyEnv(benchmark, {"goal_x": x}, split="published")
    env.reset(seed=0)
    assert (env.task["goal_x"], env.task["goal_y"]) == (x, y)
    with pytest.raises(ValueError, match="tasks of 'published', got goal_x=0.123"):
        FamilyEnv(benchmark, {"goal_x": 0.123}, split="published").reset(seed=0)


def test_rows_that_are_pinned_later_keep_their_task_where_it_stays_in_the_split() -> None:
    benchmark = cartpole_polarity()
    many = FamilyVectorEnv(benchmark, 100, split="test")
    many.reset(seed=0)
    before = many.task
    turned = {**before, "polarity": np.ones(100, np.float32)}
    kept = np.array(of_split(benchmark, "test", turned))
    many.reset(options={"task": {"polarity": 1.0}})
    assert 0 < kept.sum() < 100 and all(of_split(benchmark, "test", many.task))
    assert np.array_equal(many.task["force_magnitude"] == before["force_magnitude"], kept)
    half = np.arange(100) < 50
    now = many.task
    many.reset(options={"task": {"polarity": -1.0}, "reset_mask": half})
    assert all(of_split(benchmark, "test", many.task)) and set(many.task["polarity"][half]) == {-1.0}
    assert all(np.array_equal(many.task[name][~half], now[name][~half]) for name in now)


def test_pinned_rows_with_a_seed_each_equal_single_environments() -> None:
    benchmark, pins = PINNED["polarity"]
    many = FamilyVectorEnv(benchmark, 5, pins, split="test")
    singles = [FamilyEnv(benchmark, pins, split="test") for _ in range(5)]
    for seeds, task in ((range(5), None), ([None] * 5, {"polarity": -1.0}), (range(7, 12), None)):
        options = {} if task is None else {"task": task}
        seen, _ = many.reset(seed=list(seeds), options=dict(options))
        alone = [env.reset(seed=seed, options=dict(options))[0] for env, seed in zip(singles, seeds, strict=True)]
        np.testing.assert_allclose(seen, alone, atol=2e-6)
        for constant, values in many.task.items():
            np.testing.assert_array_equal(values, np.float32([env.task[constant] for env in singles]))


def test_unpinned_tasks_are_those_that_the_benchmark_draws() -> None:
    many = FamilyVectorEnv(cartpole_polarity(), 30, split="test")
    many.reset(seed=3)
    drawn = cartpole_polarity().sample("test", 30, generator=stream(seeding.np_random(3)[0]))
    assert all(np.array_equal(many.task[name], values.numpy()) for name, values in drawn.items())


def test_pinned_constants_that_leave_no_task_of_the_split_are_named() -> None:
    pins = {"polarity": 1.0, "force_magnitude": 5.0}
    for make in (FamilyEnv, lambda benchmark, pins, split: FamilyVectorEnv(benchmark, 3, pins, split=split)):
        with pytest.raises(ValueError, match="tasks of 'test', got force_magnitude=5, polarity=1") as caught:
            make(cartpole_polarity(), pins, split="test").reset(seed=0)
        assert "\n" not in str(caught.value)
        make(cartpole_polarity().family, {**pins, "gravity": 12.0}, split="train").reset(
            seed=0
        )  # anything may be tried


@pytest.mark.parametrize("task", [{"gravity": 12.0}, {"gravity": -1.0}, {"gravity": "high"}, {"gravty": 1.0}])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("many", [False, True])
def test_after_a_refused_reset_all_goes_on_as_before(many: bool, seed: int | None, task: dict[str, Any]) -> None:
    def made() -> Any:
        bench = cartpole_polarity()
        return FamilyVectorEnv(bench, 3, split="test") if many else FamilyEnv(bench, split="test")

    action = np.ones(3, np.int64) if many else 1
    for begun in (True, False):
        env, twin = made(), made()
        for one in (env, twin) if begun else ():
            one.reset(seed=0, options={"task": {"polarity": -1.0}})
        with pytest.raises((ValueError, TypeError), match="gravi?ty"):
            env.reset(seed=seed, options={"task": task})
        if begun:
            np.testing.assert_array_equal(env.step(action)[0], twin.step(action)[0])
            before = env.task
            env.reset()
            assert all(np.array_equal(env.task[name], before[name]) for name in before)
        env.reset()
        env.reset(seed=7), twin.reset(seed=7)
        assert all(np.array_equal(env.task[name], values) for name, values in twin.task.items())


@pytest.mark.parametrize("many", [False, True])
def test_a_reset_with_a_refused_seed_pins_nothing(many: bool) -> None:
    family = CartPole(gravity=Range(5.0, 15.0))
    env: Any = FamilyVectorEnv(family, 3) if many else FamilyEnv(family)
    env.reset(seed=0)
    before = env.task
    with pytest.raises(gymnasium.error.Error, match="greater or equal to zero"):
        env.reset(seed=-1, options={"task": {"gravity": 12.0}})
    env.reset()
    assert all(np.array_equal(env.task[name], before[name]) for name in before)


def test_global_random_state_is_untouched() -> None:
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    env, many = FamilyEnv(TINY["cartpole"]), FamilyVectorEnv(TINY["cartpole"], 3)
    env.reset(), env.step(0), many.reset(), many.step(np.zeros(3, np.int64))
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.random.get_rng_state(), torch_before)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: gymnasium.make("metarl/CartPole-v0", gravty=1.0), ValueError, "did you mean 'gravity'"),
        (lambda: gymnasium.make("metarl/CartPole-v0", gravity=-1.0), ValueError, r"gravity: expected within \[0.0"),
        (lambda: gymnasium.make("metarl/CartPole-v0", horizon=9), ValueError, "max_episode_steps"),
        (lambda: gymnasium.make("metarl/CartPole-v0", benchmark="cartpole-wild"), ValueError, "did you mean"),
        (lambda: gymnasium.make("metarl/CartPole-v0", benchmark="bandit-5"), ValueError, "not of CartPole"),
        (lambda: gymnasium.make("metarl/CartPole-v0", benchmark="cartpole-wide", gravity=1), ValueError, "pin them"),
        (lambda: FamilyEnv(CartPole(), {"gravty": 1.0}), ValueError, "did you mean 'gravity'"),
        (lambda: FamilyEnv(CartPole(), {"gravity": float("nan")}), ValueError, "gravity: expected within"),
        (lambda: FamilyEnv(CartPole(), {"gravity": "high"}), TypeError, "gravity: expected a number"),
        (lambda: FamilyEnv("CartPole"), TypeError, "Family or a TaskBenchmark"),
        (lambda: FamilyEnv(CartPole(), split="test"), ValueError, "split: expected one of train"),
        (lambda: FamilyEnv(CartPole(), render_mode="human"), ValueError, "rgb_array"),
        (lambda: FamilyEnv(CartPole(), max_episode_steps=0), ValueError, "max_episode_steps: expected at least 1"),
        (lambda: FamilyEnv(CartPole()).step(0), ResetNeeded, "call reset"),
        (lambda: FamilyEnv(CartPole()).reset(options={"tasks": {}}), ValueError, "no option 'tasks'"),
        (lambda: FamilyEnv(CartPole()).reset(options={"task": 3}), ValueError, "task: expected constants"),
        (lambda: FamilyEnv(CartPole(), max_episode_steps=2.5), TypeError, "max_episode_steps: expected an integer"),
        (lambda: FamilyEnv(CartPole(), ["gravity"]), TypeError, "task: expected constants by name, got .'gravity'"),
        (lambda: FamilyEnv(CartPole()).reset(options="task"), TypeError, "expected options by name, .* got 'task'"),
        (lambda: FamilyVectorEnv(CartPole(), 0), ValueError, "num_envs"),
        (lambda: FamilyVectorEnv(CartPole(), "2"), TypeError, "num_envs: expected an integer, got '2'"),
        (
            lambda: FamilyVectorEnv(CartPole(), 2, autoreset_mode="Sometimes"),
            ValueError,
            "autoreset_mode: expected one of NextStep, SameStep, Disabled, got 'Sometimes'",
        ),
        (lambda: FamilyVectorEnv(CartPole(), 2).step(np.zeros(2, np.int64)), ResetNeeded, "call reset"),
        (lambda: FamilyVectorEnv(CartPole(), 2).reset(seed=[1, 2, 3]), ValueError, "seed: expected"),
    ],
)
def test_mistakes_are_named_in_one_line(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "action"),
    [
        (CartPole(), 2),
        (CartPole(), -1),
        (CartPole(), 0.5),
        (CartPole(), [0]),
        (Navigation(), [0.0]),
        (Navigation(), [0.0, float("nan")]),
    ],
)
def test_bad_actions_are_refused(family: Family, action: Any) -> None:
    env, many = FamilyEnv(family), FamilyVectorEnv(family, 2)
    env.reset(seed=0), many.reset(seed=0)
    with pytest.raises(ValueError, match="action: expected"):
        env.step(action)
    with pytest.raises(ValueError, match="action: expected"):
        many.step(np.array([action, action]))


def test_nothing_moves_after_the_end_or_after_closing() -> None:
    env = FamilyEnv(CartPole(horizon=1))
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    env.close()
    with pytest.raises(ResetNeeded):
        env.step(0)
    many = FamilyVectorEnv(CartPole(), 2)
    many.close()
    for call in (many.reset, many.render, lambda: many.step(np.zeros(2, np.int64))):
        with pytest.raises(ClosedEnvironmentError):
            call()


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_are_new_and_follow_the_state(name: str) -> None:
    env = gymnasium.make(f"metarl/{name}-v0", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert (first.shape, first.dtype) == ((200, 300, 3), np.uint8)
    assert (first != 255).any() and np.array_equal(first, env.render())
    if name == "BernoulliBandit":
        return  # observes a constant, and looks like it
    for _ in range(30):
        *_, terminated, truncated, _ = env.step(actions_of(env, 1).sample())
        if not np.array_equal(env.render(), first):
            return
        if terminated or truncated:
            env.reset()
    pytest.fail("the picture never changed")


def test_the_pole_leans_where_it_is_drawn() -> None:
    env = FamilyEnv(CartPole(), render_mode="rgb_array")
    env.reset(seed=0)
    red = []
    for _ in range(40):
        if env.step(1)[2]:
            break
    rows, columns = np.nonzero((env.render() == (200, 60, 50)).all(-1))
    red = columns[rows == rows.min()].mean() - columns[rows == rows.max()].mean()
    assert env._observe()[2] < 0 and red < -5  # pushed to the right, it falls to the left


# ---------------------------------------------------------------------------------------------- many at once


def sync(family: Family, count: int, mode: AutoresetMode, **kwargs: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: FamilyEnv(family, **kwargs) for _ in range(count)], autoreset_mode=mode)


def assert_same(mine: Any, theirs: Any) -> None:
    """Observations, flags, rewards and infos of one step, or of a reset."""
    *ours, our_infos = mine
    *yours, your_infos = theirs
    for a, b in zip(ours, yours, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert our_infos.keys() == your_infos.keys()
    for name, value in your_infos.items():
        if name == "final_obs":
            assert our_infos[name].dtype == object
            for a, b in zip(our_infos[name], value, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    np.testing.assert_allclose(a, b, atol=2e-6)
        elif isinstance(value, dict):
            assert our_infos[name] == value
        else:
            np.testing.assert_array_equal(our_infos[name], value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TINY)
def test_every_step_equals_gymnasiums_sync_vector_env(name: str, mode: AutoresetMode) -> None:
    count, family = 5, TINY[name]
    ours, theirs = FamilyVectorEnv(family, count, autoreset_mode=mode), sync(family, count, mode)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is mode
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    seeds = list(range(10, 10 + count))
    assert_same(ours.reset(seed=seeds), theirs.reset(seed=seeds))
    space, ends = actions_of(ours, 0), np.zeros(2)
    for step in range(80):
        action = space.sample()
        mine = ours.step(action)
        assert_same(mine, theirs.step(action))
        ends += mine[2].sum(), mine[3].sum()
        mask = mine[2] | mine[3] if mode is AutoresetMode.DISABLED else np.arange(count) == step % 50
        if mask.any():  # in the other modes too a caller may start some rows again
            options = {"reset_mask": mask}
            assert_same(ours.reset(options=dict(options)), theirs.reset(options=dict(options)))
    assert ends[1] > 0 and (ends[0] > 0 or name == "bandit")
    tasks = [env.task for env in theirs.envs]
    for constant, values in ours.task.items():
        np.testing.assert_array_equal(values, [np.float32(task[constant]) for task in tasks])


@pytest.mark.parametrize("mode", MODES)
def test_partial_resets_with_seeds_and_tasks_equal_gymnasiums(mode: AutoresetMode) -> None:
    ours, theirs = FamilyVectorEnv(TINY["cartpole"], 4, autoreset_mode=mode), sync(TINY["cartpole"], 4, mode)
    for env in (ours, theirs):
        env.reset(seed=[1, 2, 3, 4])
        env.step(np.ones(4, np.int64))
    mask = np.array([True, False, True, False])
    for seed, task in (([9, None, None, None], None), (None, {"gravity": 4.0}), (None, "sample"), ([7] * 4, None)):
        options = {"reset_mask": mask} if task is None else {"reset_mask": mask, "task": task}
        mine, yours = (env.reset(seed=seed, options=dict(options)) for env in (ours, theirs))
        assert_same(mine, yours)
        for constant in ("gravity", "half_length"):
            np.testing.assert_array_equal(ours.task[constant], np.float32([env.task[constant] for env in theirs.envs]))
        if not (mode is AutoresetMode.DISABLED and ours._over.any()):
            assert_same(ours.step(np.zeros(4, np.int64)), theirs.step(np.zeros(4, np.int64)))


def test_one_seed_serves_all_rows_repeatably() -> None:
    first, second = FamilyVectorEnv(TINY["cartpole"], 6), FamilyVectorEnv(TINY["cartpole"], 6)
    space = actions_of(first, 0)
    assert_same(first.reset(seed=5), second.reset(seed=5))
    for _ in range(40):
        action = space.sample()
        assert_same(first.step(action), second.step(action))
    assert len(np.unique(first.task["half_length"])) == 6
    task = first.task["half_length"]
    first.reset()
    np.testing.assert_array_equal(first.task["half_length"], task)
    first.reset(seed=6)
    assert not np.array_equal(first.task["half_length"], task)


@pytest.mark.parametrize("first", [5, [1, 2, 3], None])
def test_seeds_of_none_are_no_seed(first: Any) -> None:
    one, other = (FamilyVectorEnv(TINY["cartpole"], 3) for _ in range(2))
    one.reset(seed=first), other.reset(seed=first)
    task = one.task
    seen, _ = one.reset(seed=[None] * 3)
    assert all(np.array_equal(one.task[name], values) for name, values in task.items())
    if first is not None:
        np.testing.assert_array_equal(seen, other.reset(seed=None)[0])
    fresh = FamilyVectorEnv(TINY["cartpole"], 3)
    fresh.reset(seed=[None] * 3)
    assert len(np.unique(fresh.task["half_length"])) == 3


def test_pictures_are_collected_under_an_id() -> None:
    env = gymnasium.make("metarl/CartPole-v0", render_mode="rgb_array_list")
    env.reset(seed=0)
    for _ in range(2):
        env.step(0)
    frames = env.render()
    assert len(frames) == 3 and not np.array_equal(frames[0], frames[-1])


def test_rows_can_be_pinned_to_tasks_of_their_own() -> None:
    many = FamilyVectorEnv(CartPole(), 3, {"gravity": [1.0, 2.0, 3.0]})
    many.reset(seed=0)
    np.testing.assert_array_equal(many.task["gravity"], [1.0, 2.0, 3.0])
    many.reset(options={"task": {"cart_mass": [4.0, 5.0, 6.0]}, "reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(many.task["gravity"], np.float32([1.0, 9.8, 3.0]))
    np.testing.assert_array_equal(many.task["cart_mass"], [1.0, 5.0, 1.0])


def test_what_is_returned_is_never_written_to_again() -> None:
    many = FamilyVectorEnv(Navigation(3), 2, autoreset_mode=AutoresetMode.SAME_STEP)
    kept = [many.reset(seed=0)[0]]
    copies = [kept[0].copy()]
    for _ in range(7):
        outcome = many.step(np.ones((2, 2), np.float32))
        kept += list(outcome[:4])
        copies += [x.copy() for x in outcome[:4]]
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_disabled_autoreset_refuses_rows_that_have_ended() -> None:
    many = FamilyVectorEnv(Navigation(1), 2, autoreset_mode="Disabled")
    many.reset(seed=0)
    many.step(np.zeros((2, 2), np.float32))
    with pytest.raises(ResetNeeded, match=r"rows \[0, 1\]"):
        many.step(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ],
)
def test_bad_masks_are_refused_as_gymnasium_refuses_them(mask: Any, kind: type[Exception]) -> None:
    for env in (FamilyVectorEnv(Navigation(), 2), sync(Navigation(), 2, AutoresetMode.DISABLED)):
        env.reset(seed=0)
        with pytest.raises(kind, match="reset_mask"):
            env.reset(options={"reset_mask": mask})


def test_make_vec_uses_ours_and_passes_everything_on() -> None:
    many = gymnasium.make_vec("metarl/CartPole-v0", 3, gravity=12.0, autoreset_mode=AutoresetMode.SAME_STEP)
    assert isinstance(many, FamilyVectorEnv) and many.num_envs == 3
    assert many.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    many.reset(seed=0)
    np.testing.assert_array_equal(many.task["gravity"], [12.0] * 3)
    short = gymnasium.make_vec("metarl/Navigation-v0", 2, box=None, max_episode_steps=2, task={"goal_x": 0.25})
    short.reset(seed=0)
    late = [short.step(np.zeros((2, 2), np.float32))[3].all() for _ in range(2)]
    assert late == [False, True] and short.task["goal_x"].tolist() == [0.25] * 2
    assert len(gymnasium.make_vec("metarl/CartPole-v0", 2, vectorization_mode="sync", gravity=5.0).envs) == 2


def test_many_rows_can_be_drawn() -> None:
    many = FamilyVectorEnv(RingNavigation(), 2, render_mode="rgb_array")
    many.reset(seed=0)
    frames = many.render()
    assert len(frames) == 2 and not np.array_equal(*frames)


class Remembering(Family):
    """A stranger's family: a state with a row of its own a row, and its reward the same tensor as its state."""

    parameters = {"pace": Parameter(1.0, 0.0, 10.0, "1", "how fast")}
    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(self, horizon: int = 4, **ranges: Any) -> None:
        super().__init__(horizon, ranges)

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Any:
        return {"trail": torch.rand((*rows, 3), generator=generator), "sum": torch.zeros(rows)}

    def observe(self, task: Any, state: Any) -> torch.Tensor:
        return state["trail"]

    def step(self, task: Any, state: Any, action: torch.Tensor) -> Transition:
        moved = state["trail"].roll(1, -1) + (task["pace"] * action).unsqueeze(-1)
        total = moved.sum(-1)
        return Transition({"trail": moved, "sum": total}, total, total > 5)


@pytest.mark.parametrize("mode", MODES)
def test_a_strangers_family_with_shared_and_wide_tensors_works_too(mode: AutoresetMode) -> None:
    family = Remembering(pace=Range(0.1, 1.0))
    ours, theirs = FamilyVectorEnv(family, 3, autoreset_mode=mode, render_mode="rgb_array"), sync(family, 3, mode)
    assert_same(ours.reset(seed=[1, 2, 3]), theirs.reset(seed=[1, 2, 3]))
    space = actions_of(ours, 0)
    for _ in range(20):
        action = space.sample()
        mine = ours.step(action)
        assert_same(mine, theirs.step(action))
        if mode is AutoresetMode.DISABLED and (mine[2] | mine[3]).any():
            options = {"reset_mask": mine[2] | mine[3]}
            assert_same(ours.reset(options=dict(options)), theirs.reset(options=dict(options)))
    assert len(ours.render()) == 3


class Numbered(Family):
    """Cells in a row, of which the agent sees the number."""

    parameters = {"pace": Parameter(1.0, 0.0, 10.0, "1", "how fast")}
    observation_space: Any = Discrete(5)
    action_space: Any = Discrete(2)

    def __init__(self, observations: Any = None, actions: Any = None) -> None:
        super().__init__(6, {})
        self.observation_space = observations or self.observation_space
        self.action_space = actions or self.action_space

    def reset(self, task: Any, rows: tuple[int, ...], *, generator: torch.Generator) -> Any:
        return {"cell": torch.zeros(rows)}

    def observe(self, task: Any, state: Any) -> torch.Tensor:
        return state["cell"]

    def step(self, task: Any, state: Any, action: torch.Tensor) -> Transition:
        cell = (state["cell"] + action).clamp_max(4)
        return Transition({"cell": cell}, cell, cell > 4)


@pytest.mark.parametrize(
    ("space", "good", "bad"),
    [
        (MultiDiscrete([3, 2]), [[2, 1], [0, 0]], [[3, 0], [0, -1], [1.0, 1.0]]),
        (MultiDiscrete([3, 2], start=[1, -1]), [[3, 0], [1, -1]], [[0, 0], [1, 1]]),
        (MultiBinary(2), [[1, 0]], [[2, 0], [0, -1]]),
    ],
    ids=str,
)
def test_of_several_discrete_actions_each_has_to_exist(space: Any, good: list[Any], bad: list[Any]) -> None:
    class Summed(Numbered):
        def step(self, task: Any, state: Any, action: torch.Tensor) -> Transition:
            assert action.dtype == torch.int64
            return super().step(task, state, action.sum(-1))

    env, many = FamilyEnv(Summed(actions=space)), FamilyVectorEnv(Summed(actions=space), 2)
    env.reset(seed=0), many.reset(seed=0)
    for action in good:
        env.step(np.array(action)), many.step(np.array([action, action]))
    for action in bad:
        with pytest.raises(ValueError, match="action: expected integers from"):
            env.step(np.array(action))
        with pytest.raises(ValueError, match="action: expected integers from"):
            many.step(np.array([good[0], action]))


def test_discrete_observations_are_ints() -> None:
    env, many = FamilyEnv(Numbered(), render_mode="rgb_array"), FamilyVectorEnv(Numbered(), 2)
    seen = [env.reset(seed=0)[0], *(env.step(1)[0] for _ in range(2))]
    assert [(type(one), one) for one in seen] == [(int, 0), (int, 1), (int, 2)]
    assert heard(lambda: check_env(FamilyEnv(Numbered()), skip_render_check=True)) == [] and env.render().shape == (
        200,
        300,
        3,
    )
    assert many.reset(seed=0)[0] in many.observation_space
    np.testing.assert_array_equal(many.step(np.array([0, 1]))[0], [0, 1])


@pytest.mark.parametrize(
    ("spaces", "kind", "words"),
    [
        ({"observations": Dict(a=Discrete(2))}, TypeError, "an observation space of numbers, such as a Box, got Dict"),
        ({"actions": Dict(a=Discrete(2))}, TypeError, "an action space of numbers, such as a Box, got Dict"),
        ({"actions": Discrete(2, start=1)}, ValueError, r"counted from 0, got Discrete\(2, start=1\)"),
    ],
)
def test_spaces_that_cannot_be_served_are_refused_at_once(spaces: Any, kind: type[Exception], words: str) -> None:
    for make in (lambda: FamilyEnv(Numbered(**spaces)), lambda: FamilyVectorEnv(Numbered(**spaces), 2)):
        with pytest.raises(kind, match=words):
            make()


@pytest.mark.parametrize("wrap", [lambda family: family, NoisySensors])
def test_environments_that_share_a_live_family_do_not_disturb_one_another(wrap: Any) -> None:
    def episode(env: FamilyEnv, beside: FamilyEnv | None) -> list[float]:
        seen = [env.reset(seed=3)[0]]
        for number in range(8):
            if beside is not None and number % 3 == 1:
                beside.reset(seed=number)
            seen.append(env.step(number % 2)[0])
        return np.concatenate(seen).tolist()

    family = wrap(GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, horizon=50))
    one, other = FamilyEnv(family), FamilyEnv(family)
    alone = episode(FamilyEnv(family), None)
    assert episode(one, other) == episode(one, other) == alone
    one.close()
    assert episode(one, None) == alone


def test_a_closed_environment_gives_back_what_is_live() -> None:
    closed: list[int] = []

    class Closing(gymnasium.envs.classic_control.CartPoleEnv):
        def close(self) -> None:
            closed.append(1)

    gymnasium.register("tests/Closing-v0", entry_point=Closing, max_episode_steps=9)
    try:
        env = FamilyEnv(GymnasiumFamily("tests/Closing-v0", {"gravity": 9.8}))
        env.reset(seed=0)
        closed.clear()
        env.close()
        assert closed == [1]
    finally:
        del gymnasium.registry["tests/Closing-v0"]


def test_pictures_show_the_constants_in_effect() -> None:
    def goals(family: Family, steps: int) -> list[int]:
        env = FamilyVectorEnv(family, 6, render_mode="rgb_array")
        env.reset(seed=3)
        for _ in range(steps):
            env.step(np.zeros((6, 2), np.float32))
        return [int(np.sign((seen == GREEN).all(-1).nonzero()[1].mean() - WIDTH / 2)) for seen in env.render()]

    changing = Changing(Navigation(goal_x=-0.4, goal_y=0.0), 2.0, goal_x=0.4)
    assert [goals(changing, steps)[0] for steps in range(4)] == [-1, -1, 1, 1]
    assert goals(Trials(Delayed(changing)), 3)[0] == 1
    shuffled = Shuffled(Navigation(goal_x=Choice((-0.4, 0.4)), goal_y=0.0))
    env = FamilyVectorEnv(shuffled, 6)
    env.reset(seed=3)
    env.step(np.zeros((6, 2), np.float32))
    played = env._state["shuffled_goal_x"]
    assert not torch.equal(played, env._task["goal_x"])
    assert goals(shuffled, 1) == played.sign().tolist()


def test_a_live_family_is_no_vector_environment() -> None:
    live = GymnasiumFamily("CartPole-v1", {"gravity": Range(5.0, 15.0)}, horizon=50)
    for source in (live, TaskBenchmark("x", live)):
        with pytest.raises(TypeError, match="GymnasiumFamily, which is live; use gymnasium's SyncVectorEnv") as caught:
            FamilyVectorEnv(source, 2)
        assert "\n" not in str(caught.value)
    vector = SyncVectorEnv([lambda: FamilyEnv(live)] * 2)  # as the message says; each takes a copy
    vector.reset(seed=0)
    ends = [vector.step(np.ones(2, np.int64))[2] for _ in range(30)]
    assert np.stack(ends).any(0).all()
    vector.close()


@pytest.mark.parametrize("family", [CartPole(5), Navigation(5, goal_x=0.4)], ids=lambda family: type(family).__name__)
def test_trials_are_drawn_as_the_episode_that_they_are_in(family: Family) -> None:
    trial, bare = Trials(Delayed(family), 2), family
    env = FamilyEnv(trial, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    for _ in range(6):
        env.step(actions_of(env, 1).sample())
        frames.append(env.render())
        state = {name: env._state[f"now.{name}"] for name in bare.reset(env._task, (), generator=torch.Generator())}
        expected = picture(bare, env.task, scalars(state), bare.observe(env._task, state).numpy())
        np.testing.assert_array_equal(frames[-1], expected)
    assert not np.array_equal(frames[0], frames[-1])
    state = scalars(env._state)
    assert state["episode"] == 1
    if isinstance(family, Navigation):
        places = [{"now.x": 0.1, "now.y": 0.2}, {"now.x": 0.3, "now.y": 0.1}]
        earlier, own, none = (
            picture(trial, env.task, state, env._observe(), View(past=[state | place | number for place in places[:n]]))
            for n, number in ((2, {"episode": 0}), (2, {"episode": 1}), (0, {}))
        )
        assert not np.array_equal(own, none) and np.array_equal(earlier, none)
        over = state | {"episode": 2}  # after the last step of the last episode
        last = picture(trial, env.task, over, env._observe(), View(past=[state | place for place in places]))
        np.testing.assert_array_equal(last, own)


def test_a_film_of_trials_has_one_reach() -> None:
    states = [{"now.x": 0.1, "now.y": -0.7}, {"now.x": 0.3, "now.y": 0.2, "first_1.x": 9.0}]
    assert reach(Trials(Navigation(5), 2), states) == 0.7
    assert reach(Navigation(5), [{"x": -2.0, "y": 1.0}]) == 2.0 and reach(CartPole(), [{"theta": 9.0}]) == 0.0
