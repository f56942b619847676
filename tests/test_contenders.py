"""Contenders: what each is trained and scored on, and that unequal ones are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from envs.wrappers import Revealed, Shuffled
from experiments import compare
from experiments.build import build, build_benchmark
from experiments.config import Config
from experiments.contenders import CONTENDERS, contender, learners
from experiments.contenders.budget import Spent, refuse_unequal
from experiments.errors import InputError
from experiments.evaluate import Protocol, measure
from experiments.presets import PRESETS

CPU = torch.device("cpu")
BASE = PRESETS["navigation-fixed"][1].model_copy(
    update={"horizon": 6, "hidden": (8,), "tasks": 3, "episodes": 2, "query_episodes": 2, "env_steps": 400, "seed": 5}
)
HELD_OUT = Protocol("test", tasks=4, steps=2, episodes=2, score_episodes=2)


def compete(name: str, config: Config = BASE) -> dict[str, Any]:
    chosen = contender(name)
    return chosen.train(chosen.at(config, 0.1))(HELD_OUT)


def bare(config: Config, **changes: Any) -> list[list[float]]:
    """Scores of an untrained learner of the configuration."""
    config = config.model_copy(update={"rate": 0.1, **changes})
    return measure(build(config, CPU), HELD_OUT)["sampled"]


OURS = ("no-adaptation", "from-scratch", "fine-tuned", "rule-alone", "shuffled-tasks", "oracle")


@pytest.mark.parametrize("name", ["meta-sgd", *OURS])
def test_all_are_scored_alike_and_spend_what_they_may(name: str) -> None:
    result, reference = compete(name), compete("maml")
    columns = 3 if result["reported"] else 1
    assert len(result["sampled"]) == 4 and {len(row) for row in result["sampled"]} == {columns}
    refuse_unequal({"maml": [reference], name: [result]}, budget=400, episodes=2)
    assert result == compete(name) | {"seconds": result["seconds"]}  # the same bits again
    assert (result["training_env_steps"] == 0) == (name == "from-scratch")


def test_from_scratch_is_an_untrained_learner() -> None:
    assert compete("from-scratch")["sampled"] == bare(BASE, rule="maml")


def test_the_rule_alone_starts_elsewhere_and_steps_as_learned() -> None:
    whole, alone = compete("meta-sgd"), compete("rule-alone")
    fresh = bare(BASE.model_copy(update={"seed": BASE.seed + learners.FRESH}))
    assert [row[0] for row in alone["sampled"]] == [row[0] for row in fresh]
    assert alone["learned"]["meta/rate_mean"] == whole["learned"]["meta/rate_mean"] != 0.1


def test_fine_tuning_starts_where_training_without_adapting_ends() -> None:
    without, tuned = compete("no-adaptation"), compete("fine-tuned")
    assert [row[0] for row in tuned["sampled"]] == [row[0] for row in without["sampled"]]
    assert tuned["training_env_steps"] == without["training_env_steps"]
    assert all(row[0] != row[1] for row in tuned["sampled"])


def test_an_oracle_sees_the_goal_and_has_the_same_tasks() -> None:
    setup = build(BASE.model_copy(update={"steps": 0}), CPU, learners.Revealed)
    assert setup.benchmark.family.observation_space.shape == (4,)
    assert setup.benchmark.fingerprint() == build_benchmark(BASE).fingerprint()
    assert compete("oracle")["task"] == compete("maml")["task"]


def test_an_oracle_told_the_goal_reaches_it_and_without_being_told_nobody_does() -> None:
    config = BASE.model_copy(update={"horizon": 20, "env_steps": 150_000, "tasks": 20, "episodes": 10, "lr": 0.02})
    told, untold = (compete(name, config) for name in ("oracle", "no-adaptation"))
    means = [sum(row[0] for row in result["mode"]) / 4 for result in (told, untold)]
    assert means[0] > means[1] + 2.0


def test_shuffled_tasks_are_met_in_training_only() -> None:
    setup, _ = learners.trained(BASE, learners.Shuffled)
    assert type(setup.benchmark.family).__name__ == "Shuffled"
    unlike = compete("shuffled-tasks")["sampled"] != compete("meta-sgd")["sampled"]
    assert unlike and compete("shuffled-tasks")["benchmark"] == "navigation-fixed"


@pytest.mark.parametrize("name", ["shuffled-tasks", "oracle"])
def test_what_scores_a_policy_in_training_is_dealt_and_shown_as_what_it_adapts_in(name: str) -> None:
    """It was plain: an oracle's policy did not fit, and with coverage the episodes of shuffled tasks were others."""
    sparse = PRESETS["navigation-halfcircle-best"][1]
    config = sparse.model_copy(update={"horizon": 6, "tasks": 2, "episodes": 2, "query_episodes": 2, "env_steps": 1})
    wrap = {"shuffled-tasks": Shuffled, "oracle": Revealed}[name]
    setup, spent = learners.trained(config, wrap)
    assert isinstance(setup.plan.scored_in, wrap) and spent.report()["training_env_steps"] > 0
    assert not isinstance(build(config, CPU).plan.scored_in, wrap)


def test_shuffled_tasks_are_scored_in_the_plain_benchmark() -> None:
    config = contender("shuffled-tasks").at(BASE.model_copy(update={"env_steps": 100}), 0.1)
    trained, _ = learners.trained(config, Shuffled)
    plain = build(config, CPU)
    plain.learner.load_state_dict(trained.learner.state_dict())
    found = compete("shuffled-tasks", config)["sampled"]
    assert found == measure(plain, HELD_OUT)["sampled"]
    assert found != measure(trained, HELD_OUT)["sampled"]  # as they would be, were they shuffled there, too


def edited(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    result = copy.deepcopy(EQUAL)
    change(result)
    return result


EQUAL = {
    "fingerprint": "f",
    "split": "test",
    "task": {"x": [1.0]},
    "protocol": {"split": "test", "tasks": 1, "score_episodes": 2, "seed": 1, "constants": []},
    "training_env_steps": 450,
    "last_iteration_env_steps": 100,
    "adaptation_episodes": [[0.0, 2.0, 4.0]],
    "reported": 1,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(fingerprint="g"), "other and maml were evaluated on different tasks"),
        (lambda r: r.update(task={"x": [2.0]}), "evaluated on different tasks"),
        (lambda r: r["protocol"].update(score_episodes=3), "evaluated on different tasks or scored differently"),
        (lambda r: r["protocol"].update(seed=3), "evaluated on different tasks or scored differently"),
        (lambda r: r["protocol"].update(tasks=2), "evaluated on different tasks or scored differently"),
        (
            lambda r: r["protocol"].update(constants=["goal_x=0.4"]),
            "evaluated on different tasks or scored differently",
        ),
        (lambda r: r.update(training_env_steps=399), "other: expected training for 400 environment steps, got 399"),
        (lambda r: r.update(training_env_steps=500), "expected training for 400 environment steps, got 500"),
        (lambda r: r.update(reported=2), "other: expected at most 2 episodes of adaptation, got 4"),
        (  # on one of its tasks
            lambda r: r["adaptation_episodes"].append([0.0, 3.0, 6.0]),
            "other: expected at most 2 episodes of adaptation, got 3",
        ),
    ],
)
def test_unequal_contenders_are_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_unequal({"maml": [EQUAL], "other": [EQUAL, edited(change)]}, budget=400, episodes=2)


def test_equal_untrained_and_diverged_contenders_pass() -> None:
    nothing = edited(lambda r: r.update(training_env_steps=0, last_iteration_env_steps=0))
    on_the_dot = edited(lambda r: r.update(training_env_steps=400))
    found = {"maml": [EQUAL], "scratch": [nothing], "exact": [on_the_dot], "broken": [{"diverged": "x"}]}
    assert refuse_unequal(found, budget=400, episodes=2) is None


def test_spending_is_counted() -> None:
    spent = Spent()
    for steps in (100.0, 40.0):
        spent.add({"env_steps": steps})
    told = spent.report()
    assert (told["training_env_steps"], told["last_iteration_env_steps"], told["iterations"]) == (140, 40, 2)
    assert told["seconds"] >= 0.0


def test_every_name_makes_a_configuration_and_groups_are_unfolded() -> None:
    for name, one in CONTENDERS.items():
        assert one.at(BASE, 0.5).rate == 0.5 * one.unit, name
    own = contender("package.module:Rule")
    assert own.config(BASE).rule == "package.module:Rule" and not own.tuned
    assert compare.expand(("oracle", "comparators", "maml"))[0] == "oracle"
    assert compare.expand(("comparators",)) == list(compare.COMPARATORS)
    assert compare.expand(("all",))[-1] == "maml" and "from-scratch" not in compare.expand(("all",))
    with pytest.raises(InputError, match="unknown rule or contender 'orcale'; did you mean 'oracle'"):
        compare.expand(("orcale",))
