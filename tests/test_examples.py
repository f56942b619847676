"""The worked examples do what they promise."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from envs import Navigation
from examples import own_family, own_loss, own_policy, own_rule, own_wrapper
from experiments import check as shell
from experiments import evaluate, train
from experiments.build import build
from experiments.config import Config
from experiments.presets import PRESETS
from metarl.distributions import Categorical
from metarl.rules import Step, UpdateRule
from metarl.testing import check_family, check_rule
from metarl.testing.losses import draw_case

SOURCE = Path(own_family.__file__).read_text()
NAME = "examples.own_family:benchmark"


def test_the_family_is_sound_and_short() -> None:
    benchmark = own_family.benchmark()
    assert check_family(benchmark.family) == [] == check_family(benchmark.heldout["extrapolation"])
    assert len(SOURCE.splitlines()) <= 60


def test_its_water_runs_out_as_torricelli_says() -> None:
    """Closed form without inflow: the root of the level falls linearly. Euler's steps are a little faster."""
    leak, steps = 0.004, 10
    family = own_family.Tank(leak=leak)
    task = family.sample(1, generator=torch.Generator().manual_seed(0))
    state, still = {"level": torch.ones(1)}, -torch.ones(1, 1)
    for _ in range(steps):
        state, reward, terminated = family.step(task, state, still)
    seconds = steps * own_family.STEP
    exact = (1 - leak / own_family.AREA * (own_family.GRAVITY / 2) ** 0.5 * seconds) ** 2
    assert float(state["level"]) == pytest.approx(exact, abs=0.02) and not terminated.any()
    assert float(reward) == pytest.approx(1 - (1 - float(state["level"])) / own_family.HEIGHT)


@pytest.mark.parametrize(
    ("example", "variable", "run"), [(own_family, "TANK", "runs/tank"), (own_wrapper, "STUCK", "runs/stuck")]
)
def test_the_commands_of_an_environments_docstring_run(
    example: Any, variable: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{example.__name__}:benchmark"
    text = re.sub(r"--env-steps \d+", "--env-steps 1000", Path(example.__file__).read_text())
    assert f"{variable}={name}" in text and text.count(run) == 2
    text = text.replace(f"${variable}", name).replace(run, str(tmp_path / "run"))
    commands = dict(re.findall(r"python experiments/(\w+)\.py (.*)", text))
    assert set(commands) == {"check", "train", "evaluate"}
    assert shell.main(commands["check"].split()) == 0
    argv = commands["train"].split()
    assert argv[0] in PRESETS and name in argv
    tiny = ["--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4"]
    assert train.main([*argv, *tiny, "--no-evaluate"]) == 0
    assert evaluate.main([*commands["evaluate"].split(), "--tasks", "3", "--steps", "1"]) == 0
    result = json.loads((tmp_path / "run" / "evaluation" / "extrapolation-tasks=3-steps=1.json").read_text())
    assert len(result["sampled"]) == 3 and result["benchmark"] == name
    assert "held-out tasks" in capsys.readouterr().out


def test_the_wrapper_is_sound_and_ignores_weak_actions() -> None:
    benchmark = own_wrapper.benchmark()
    assert check_family(benchmark.family) == [] == check_family(benchmark.heldout["extrapolation"])
    plain, stuck = Navigation(), own_wrapper.DeadZone(Navigation(), dead_zone=0.25)
    task = stuck.sample(3, generator=torch.Generator().manual_seed(0))
    state = stuck.reset(task, (3,), generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[0.2, -0.25], [0.2, -0.3], [1.0, 0.26]])
    kept = torch.tensor([[0.0, 0.0], [0.0, -0.3], [1.0, 0.26]])
    own = {name: task[name] for name in plain.parameters}
    for one, other in zip(stuck.step(task, state, action)[:2], plain.step(own, state, kept)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)
    assert torch.equal(stuck.references(task)["ceiling"], plain.references(own)["ceiling"])


def test_the_rule_is_sound_and_steps_by_signs() -> None:
    assert check_rule(own_rule.SignSGD) == []
    params = {"network.head.weight": torch.ones(2, 3), "network.head.bias": torch.ones(2), "log_std": torch.ones(2)}
    rule = own_rule.SignSGD(params, rate=0.25)
    assert sorted(rule.rates()) == ["log_std", "network.head"]
    grads = {name: torch.linspace(-2, 3, leaf.numel()).reshape(leaf.shape) for name, leaf in params.items()}
    updates, state = rule.update(Step(grads, params, torch.zeros(())), {})
    assert state == {}
    for name, update in updates.items():
        torch.testing.assert_close(update, -0.25 * grads[name].sign())


class Unpaired(UpdateRule):
    """Forgets the state."""

    def update(self, step: Any, state: Any) -> Any:
        return {name: -g for name, g in step.grads.items()}


class Misnamed(UpdateRule):
    """Leaves a parameter out."""

    def update(self, step: Any, state: Any) -> Any:
        return {"log_std": step.grads["log_std"]}, state


@pytest.mark.parametrize(("rule", "words"), [(Unpaired, "got no pair"), (Misnamed, "got {'log_std': (2,)}")])
def test_a_rule_that_returns_something_else_is_refused_before_the_run(
    rule: type, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_rule, "SignSGD", lambda params: rule())
    argv = ["navigation-fixed", "--rule", "examples.own_rule:SignSGD", "--output", str(tmp_path / "run")]
    assert train.main(argv) == 2
    told = capsys.readouterr().err
    assert words in told and "expected update(step, state) to return (updates, state)" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("example", "run"), [(own_rule, "runs/sign"), (own_loss, "runs/imitation"), (own_policy, "runs/residual")]
)
def test_the_commands_of_a_docstring_run(example: Any, run: str, tmp_path: Path) -> None:
    text = Path(example.__file__).read_text()
    assert text.count(run) == 2
    commands = dict(re.findall(r"python experiments/(\w+)\.py ([^#\n]*)", text.replace(run, str(tmp_path / "run"))))
    assert shell.main(commands["check"].split()) == 0
    tiny = ["--tasks", "2", "--episodes", "4", "--query-episodes", "4", "--env-steps", "1000"]
    assert train.main([*commands["train"].split(), *tiny, "--no-evaluate"]) == 0
    assert evaluate.main([*commands["evaluate"].split(), "--tasks", "3", "--steps", "1"]) == 0


def test_the_policy_begins_as_its_seed_says() -> None:
    def weights(seed: int) -> torch.Tensor:
        config = Config(benchmark="cartpole-polarity", policy="examples.own_policy:residual", seed=seed)
        policy = build(config, torch.device("cpu")).learner.policy
        return torch.cat([p.detach().reshape(-1) for p in policy.parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert torch.equal(before, torch.get_rng_state())


def test_the_loss_imitates_what_turned_out_well() -> None:
    """Its gradient in the logits by hand, at three temperatures."""
    _, batch = draw_case(0, dtype=torch.float64, discrete=True)
    logits = torch.zeros(*batch.mask.shape, 4, dtype=torch.float64, requires_grad=True)
    for temperature in (0.5, 1.0, 3.0):
        loss = own_loss.Imitation().double()
        with torch.no_grad():
            loss.log_temperature.fill_(math.log(temperature))
        (slope,) = torch.autograd.grad(loss(Categorical(logits), batch), logits)
        weight = (batch.advantage / temperature).clamp(max=3.0).exp() * batch.mask / batch.mask.sum()
        taken = torch.nn.functional.one_hot(batch.action, 4)
        torch.testing.assert_close(slope, weight.unsqueeze(-1) * (0.25 - taken))


def test_the_loss_is_meta_trained() -> None:
    tiny = {"hidden": (8,), "tasks": 4, "episodes": 4, "query_episodes": 4, "env_steps": 3000, "rate_lr": 0.01}
    setup = build(
        Config(benchmark="cartpole-polarity", inner_loss="examples.own_loss:Imitation", **tiny), torch.device("cpu")
    )
    before = [p.detach().clone() for p in setup.learner.inner.parameters()]
    for _ in setup.train():
        pass
    assert len(before) == 1
    assert all(not torch.equal(p, old) for p, old in zip(setup.learner.inner.parameters(), before, strict=True))
    assert torch.equal(own_loss.Imitation().log_temperature, torch.zeros(()))  # and another run begins anew
