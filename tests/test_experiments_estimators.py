"""The estimator script from the shell: its table, its figure, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import estimators
from experiments.build import build
from experiments.config import Config
from experiments.names import ESTIMATORS, LOSSES
from metarl import explore
from metarl.diagnostics import initial_gradient

TINY = ["--horizon", "8", "--tasks", "3", "--episodes", "4", "--query-episodes", "4", "--hidden", "8", "--pairs", "2"]


def test_it_tells_agreement_noise_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["navigation-fixed", *TINY, "--env-steps", "100", "--batches", "4", "--output", str(tmp_path)]
    assert estimators.main(argv) == 0
    printed = capsys.readouterr().out
    names = [*ESTIMATORS, "reptile", "evolution"]
    assert all(f"| {name} |" in printed for name in names)
    found = json.loads((tmp_path / "estimators.json").read_text())
    assert found["estimators"] == names and len(found["cosines"]) == len(names)
    rows = dict(zip(names, found["cosines"], strict=True))
    assert all(-1.0 <= value <= 1.0 for row in rows.values() for value in row)
    assert rows["vpg"][names.index("lvc")] > 0.9 and rows["loaded-dice-half"][names.index("lvc")] > 0.9
    assert (tmp_path / "table.md").exists() and (tmp_path / "estimators.png").exists()


def test_estimators_step_alike_and_differ_in_what_they_differentiate() -> None:
    config = Config(horizon=8, tasks=3, episodes=4, query_episodes=4, hidden=(8,), inner_loss="vpg")
    setup = build(config, torch.device("cpu"))
    task = setup.benchmark.sample("train", 3, generator=setup.task_generator)
    trace = explore(setup.learner, setup.benchmark.family, task, setup.plan, generator=setup.generator)
    adapted = {name: torch.vmap(make(setup.learner).adapt)(trace.support) for name, make in ESTIMATORS.items()}
    for name, params in adapted.items():
        for key, leaf in adapted["vpg"].items():
            torch.testing.assert_close(params[key], leaf, msg=f"{name}: {key}")


@pytest.mark.parametrize("every_step", [0.0, 0.5])
def test_an_estimator_differentiates_what_the_learner_is_trained_for(every_step: float) -> None:
    config = Config(horizon=8, tasks=3, episodes=4, query_episodes=4, hidden=(8,), every_step=every_step)
    setup = build(config, torch.device("cpu"))
    task = setup.benchmark.sample("train", 3, generator=setup.task_generator)
    trace = explore(setup.learner, setup.benchmark.family, task, setup.plan, generator=setup.generator)
    own, lvc = (initial_gradient(learner)(trace) for learner in (setup.learner, ESTIMATORS["lvc"](setup.learner)))
    for mine, estimated in zip(own, lvc, strict=True):
        torch.testing.assert_close(estimated, mine, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batches", "2"], "at least 4 batches"),
        (["--steps", "0"], "at least one adaptation step"),
        (["--inner-loss", "learned-advantage"], "got learned-advantage; pass --inner-loss lvc\n"),
        (["--inner-loss", "dice"], "got dice; pass --inner-loss lvc\n"),
        (["--action-baseline"], "got lvc with an action baseline; pass --inner-loss lvc --no-action-baseline\n"),
    ],
)
def test_wrong_input_is_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimators.main(["navigation-fixed", *TINY, *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_results_of_another_kind_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "comparison.json").write_text('{"config": {"benchmark": "navigation-fixed"}}')
    assert estimators.main(["navigation-fixed", *TINY, "--env-steps", "100", "--output", str(tmp_path)]) == 2
    assert "holds a comparison on navigation-fixed, not a comparison of estimators on" in capsys.readouterr().err


@pytest.mark.parametrize("inner_loss", [*LOSSES])
def test_a_replay_steps_as_was_played_unless_the_inner_loss_is_refused(inner_loss: str) -> None:
    """Then the query was sampled from the policy that every estimator arrives at."""
    config = Config(horizon=8, tasks=3, episodes=4, query_episodes=4, hidden=(8,), inner_loss=inner_loss)
    setup = build(config, torch.device("cpu"))
    task = setup.benchmark.sample("train", 3, generator=setup.task_generator)
    trace = explore(setup.learner, setup.benchmark.family, task, setup.plan, generator=setup.generator)
    learner = ESTIMATORS["vpg"](setup.learner)
    with torch.no_grad():
        log_prob = torch.vmap(lambda one: learner.replay(one)[1].log_prob(one.query.action))(trace)
    same = torch.allclose(log_prob, trace.query.log_prob, atol=1e-5)
    assert same == (inner_loss in estimators.ALIKE)
