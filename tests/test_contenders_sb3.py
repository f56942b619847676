"""Stable-Baselines3's contenders: the result layout of ours, reproducible from a seed, and what is refused."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from envs import Navigation
from experiments.build import build
from experiments.config import Config
from experiments.contenders import sb3
from experiments.contenders.budget import refuse_unequal
from experiments.contenders.learners import meta_trained, untrained
from experiments.errors import InputError
from experiments.evaluate import Protocol, measure
from experiments.presets import PRESETS
from experiments.streams import stream
from metarl import Adaptation, NonFiniteError
from metarl.sb3 import TaskVecEnv

TINY = {"horizon": 6, "hidden": (8,), "tasks": 3, "episodes": 2, "query_episodes": 2, "env_steps": 100, "seed": 5}
NAVIGATION, CARTPOLE = (PRESETS[name][1].model_copy(update=TINY) for name in ("navigation-fixed", "cartpole-polarity"))
HELD_OUT = Protocol("test", tasks=2, steps=2, episodes=2, score_episodes=2)
ADAPTING = [sb3.ppo_from_scratch, sb3.ppo_fine_tuned, sb3.recurrent_ppo]
ALL = [*ADAPTING, sb3.ppo_randomized]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3, "STEPS", 16)
    monkeypatch.setattr(sb3, "ROWS", 4)
    monkeypatch.setattr(sb3, "RECURRENT_ROWS", 4)


def at(config: Config, rate: float = 1e-2) -> Config:
    return config.model_copy(update={"rate": rate})


@pytest.mark.parametrize("train", ALL)
@pytest.mark.parametrize("config", [NAVIGATION, CARTPOLE], ids=["navigation", "cartpole"])
def test_results_have_the_layout_of_ours_and_are_the_same_again(config: Config, train: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = train(at(config))(HELD_OUT)
    ours = meta_trained(config.model_copy(update={"rate": 0.1}))(HELD_OUT)
    assert found.keys() == ours.keys() and found["protocol"].keys() == ours["protocol"].keys()
    columns = 1 if train is sb3.ppo_randomized else 3
    for field in ("sampled", "mode", "adaptation_steps", "adaptation_episodes"):
        assert np.shape(found[field]) == (2, columns) and np.isfinite(found[field]).all()
    recurrent = train is sb3.recurrent_ppo  # a column for every episode of its trials, which are as long as training's
    assert found["adaptation_episodes"][0] == ([0.0, 1.0, 2.0] if recurrent else [0.0, 2.0, 4.0][:columns])
    assert found["protocol"]["steps"] == columns - 1
    assert found["reported"] == (2 if recurrent else min(1, columns - 1))
    refuse_unequal({"ours": [ours], "theirs": [found]}, budget=100, episodes=2)
    again = train(at(config))(HELD_OUT)
    assert found == again | {"seconds": found["seconds"]}
    assert torch.equal(before[0], torch.get_rng_state()) and random.getstate() == before[2]
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("train", ADAPTING[:2])
def test_another_seed_and_another_rate_give_another_result(train: Callable[..., Any]) -> None:
    first = train(at(NAVIGATION))(HELD_OUT)["sampled"]
    other = train(at(NAVIGATION.model_copy(update={"seed": 6})))(HELD_OUT)["sampled"]
    faster = train(at(NAVIGATION, 2e-2))(HELD_OUT)["sampled"]
    assert first != other and [row[1] for row in first] != [row[1] for row in faster]


def test_from_scratch_begins_where_our_learner_does_on_the_same_noise() -> None:
    theirs = sb3.ppo_from_scratch(at(NAVIGATION))(HELD_OUT)
    ours = untrained(NAVIGATION.model_copy(update={"rule": "maml"}))(HELD_OUT)
    for field in ("sampled", "mode"):
        first = [[row[0] for row in found[field]] for found in (theirs, ours)]
        np.testing.assert_allclose(*first, rtol=1e-5)
    spent = [[row[1] for row in found["adaptation_steps"]] for found in (theirs, ours)]
    assert spent[0] == spent[1]  # and adapts on the same episodes first
    assert theirs["training_env_steps"] == 0


def test_fine_tuning_begins_where_randomization_ends() -> None:
    trained, tuned = sb3.ppo_randomized(at(NAVIGATION))(HELD_OUT), sb3.ppo_fine_tuned(at(NAVIGATION))(HELD_OUT)
    assert [row[0] for row in tuned["sampled"]] == [row[0] for row in trained["sampled"]]
    assert tuned["training_env_steps"] == trained["training_env_steps"] >= 100


def test_fine_tuning_goes_on_with_the_value_network_and_adams_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []

    def train(model: Any, budget: int, spent: Any) -> None:
        _train(model, budget, spent)
        trained.append((copy.deepcopy(model.policy.state_dict()), copy.deepcopy(model.policy.optimizer.state_dict())))

    _train = sb3._train
    monkeypatch.setattr(sb3, "_train", train)
    setup, new, _ = sb3._randomized(at(NAVIGATION))
    task = setup.benchmark.sample("test", 1, generator=stream(0, "x"))
    model = new(task)
    ((weights, adam),) = trained
    found = model.policy.state_dict()
    assert {"value_net.weight", "mlp_extractor.value_net.0.weight", "log_std"} <= found.keys() == weights.keys()
    assert all(torch.equal(found[name], leaf) for name, leaf in weights.items())
    again = model.policy.optimizer.state_dict()
    assert again["param_groups"] == adam["param_groups"] and again["state"].keys() == adam["state"].keys()
    assert len(adam["state"]) == len(list(model.policy.parameters()))
    for number, memory in adam["state"].items():
        assert memory["step"] > 0 and memory["exp_avg_sq"].any()
        assert all(torch.equal(again["state"][number][name], leaf) for name, leaf in memory.items())
    assert model.get_env().get_attr("goal_x") == task["goal_x"].tolist()


def test_steps_that_are_not_asked_for_are_three() -> None:
    protocol = Protocol("test", tasks=2, score_episodes=1)
    ours = measure(build(NAVIGATION, torch.device("cpu")), protocol)
    found = sb3.ppo_from_scratch(at(NAVIGATION))(protocol)
    assert found["protocol"] == ours["protocol"] and found["adaptation_episodes"] == ours["adaptation_episodes"]


def test_training_tasks_are_fresh_and_of_the_training_split() -> None:
    setup = build(NAVIGATION, torch.device("cpu"))
    env = sb3.training_env(setup.benchmark.family, setup.benchmark, rows=3, seed=0)
    env.reset()
    seen = []
    for _ in range(13):
        seen.append(env.task["goal_x"].clone())
        assert setup.benchmark.is_training(env.task).all()
        env.step(np.zeros((3, 2), np.float32))
    assert torch.equal(seen[0], seen[5]) and len(torch.cat((seen[0], seen[6], seen[12])).unique()) == 9
    tasks = setup.benchmark.sample("train", 1000, generator=stream(0, "tasks"))
    assert torch.equal(torch.cat((seen[0], seen[6], seen[12])), tasks["goal_x"][:9])


def test_training_tasks_do_not_come_again_once_many_are_drawn() -> None:
    setup = build(NAVIGATION, torch.device("cpu"))
    env = sb3.training_env(setup.benchmark.family, setup.benchmark, rows=900, seed=0)
    env.reset()
    seen = []
    for step in range(13):
        if step % 6 == 0:
            seen.append(torch.stack((env.task["goal_x"], env.task["goal_y"]), -1))
        env.step(np.ones((900, 2), np.float32))
    assert len(torch.cat(seen).unique(dim=0)) == 3 * 900  # more than are drawn at a time


def test_ppo_alone_learns_a_task() -> None:
    config = at(NAVIGATION.model_copy(update={"horizon": 20, "episodes": 20, "steps": 8}), 1e-2)
    curve = np.mean(sb3.ppo_from_scratch(config)(Protocol("test", tasks=2, steps=8))["mode"], axis=0)
    assert curve[-1] > curve[0] + 1.0


def test_a_recurrent_agents_trial_is_its_episodes_in_a_row() -> None:
    class Constant:
        def predict(self, seen: np.ndarray, memory: int | None, *, deterministic: bool) -> tuple[np.ndarray, int]:
            assert (seen[:, 5] == ((memory or 0) % 6 == 0) * ((memory or 0) > 0)).all()  # told when an episode ended
            return np.full((len(seen), 2), 0.5, np.float32), (memory or 0) + 1

    family = build(NAVIGATION, torch.device("cpu")).benchmark.family
    task = {name: torch.tensor([value, value]) for name, value in
            {"goal_x": -0.4, "goal_y": -0.3, "start_x": 0.0, "start_y": 0.0}.items()}  # fmt: skip
    returns, lengths = sb3._play(Constant(), sb3.Trials(family, 3), task, 2, generator=stream(0, "x"))
    expected = -sum(np.hypot(0.4 + 0.05 * t, 0.3 + 0.05 * t) for t in range(1, 7))
    np.testing.assert_allclose(returns, np.full((2, 3), expected), rtol=1e-5)
    assert (lengths == 6).all()


def test_a_recurrent_agents_trials_end_alone_and_nothing_counts_after_them() -> None:
    """The first task's goal lies 0.2 ahead: 4 steps of 0.05 away, then 2 of 0.1; the other's is never reached."""

    class Hurrying:
        def predict(self, seen: np.ndarray, memory: int | None, *, deterministic: bool) -> tuple[np.ndarray, int]:
            step = memory or 0
            live = np.repeat(step < np.array([6, 18] if deterministic else [8, 18]), 2)
            assert seen.any(-1).tolist() == ((step > 0) & live).tolist()  # all 0 at first, and after the trial
            speed = 1.0 if deterministic or step >= 4 else 0.5
            return np.tile(np.float32([speed, 0.0]), (len(seen), 1)), step + 1

    family = Navigation(6, box=0.03)
    task = {"goal_x": torch.tensor([0.2, -0.3])} | {name: torch.zeros(2) for name in ("goal_y", "start_x", "start_y")}
    adaptation = Adaptation(steps=1, episodes=2, score_episodes=2)
    found = sb3._curve_of_trials(Hurrying(), family, 3, task, adaptation, generator=stream(0, "x"))

    def far(speeds: list[float]) -> float:
        return -float((0.3 + np.cumsum(speeds)).sum())

    slow, fast, first = [0.05] * 4 + [0.1] * 2, [0.1] * 6, -(0.15 + 0.1 + 0.05)
    np.testing.assert_allclose(found.sampled, [[first, -0.1, -0.1], [far(slow), far(fast), far(fast)]], atol=1e-5)
    np.testing.assert_allclose(found.mode, [[-0.1] * 3, [far(fast)] * 3], atol=1e-5)
    assert found.adaptation_steps.tolist() == [[0, 4, 6], [0, 6, 12]]
    returns, lengths = sb3._play(Hurrying(), sb3.Trials(family, 3), task, 2, generator=stream(0, "x"))
    assert torch.equal(returns, found.sampled) and lengths.tolist() == [[4, 2, 2], [6, 6, 6]]
    assert found.adaptation_episodes.tolist() == [[0, 1, 2]] * 2


def test_a_recurrent_agent_sees_no_more_than_the_protocol_allows() -> None:
    under = sb3.recurrent_ppo(at(NAVIGATION))
    for steps, episodes, columns in ((1, 1, 2), (0, 2, 1), (9, 9, 3)):
        found = under(Protocol("test", tasks=2, steps=steps, episodes=episodes, score_episodes=1))
        assert np.shape(found["sampled"]) == (2, columns) and found["reported"] == columns - 1


def test_divergence_is_told_as_ours_is() -> None:
    with pytest.raises(NonFiniteError, match="PPO diverged|non-finite"):
        sb3.ppo_from_scratch(at(NAVIGATION, 1e30))(HELD_OUT)


@pytest.mark.parametrize("train", ALL)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "step size above 0"),
        ({"context": 2, "rule": "cavia"}, "no context inputs"),
        ({"benchmark": "no-such"}, "unknown benchmark"),
    ],
)
def test_what_cannot_be_trained_is_refused(train: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(at(NAVIGATION).model_copy(update=changes))


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (Protocol("train", tasks=2), "training tasks cannot be evaluated"),
        (Protocol("no-such", tasks=2), "no split"),
        (Protocol("test", tasks=0), "tasks >= 1"),
        (Protocol("test", tasks=2, score_episodes=0), "score_episodes >= 1"),
        (Protocol("test", tasks=2, steps=-1), "steps >= 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(protocol: Protocol, message: str) -> None:
    under = sb3.ppo_from_scratch(at(NAVIGATION))
    with pytest.raises(InputError, match=message):
        under(protocol)


def test_tasks_that_are_fine_tuned_share_no_memory() -> None:
    under = sb3.ppo_fine_tuned(at(NAVIGATION))
    first = under(HELD_OUT)
    assert under(HELD_OUT) == first  # what one task, or one protocol, leaves in Adam's memory reaches no other


def test_ppo_that_diverges_is_told_by_whoever_notices() -> None:
    """A distribution, or, where that takes what it is given, the environment that is handed its actions."""
    env = TaskVecEnv(Navigation(), Navigation().sample(2, generator=torch.Generator()))
    env.reset()
    with pytest.raises(NonFiniteError, match="lower the rate"), sb3.refusing_divergence():
        env.step(np.full((2, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="shape"), sb3.refusing_divergence():
        env.step(np.zeros(2, np.float32))
