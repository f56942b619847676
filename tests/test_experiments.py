"""The scripts run as by a user: from the command line to the run folder, with every wrong input on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from envs import CartPole, Navigation, Range, RingNavigation, TaskBenchmark
from experiments import check, compare, demo, evaluate, plugins, runs, train
from experiments.build import Progress, build, build_outer_loss, build_rule
from experiments.config import Config
from experiments.contenders import CONTENDERS
from experiments.errors import InputError, script
from experiments.evaluate import Protocol, held_out_tasks
from experiments.names import ALGORITHMS, BENCHMARKS, INNER_LOSSES, LOSSES, META_OPTIMIZERS, RULES
from experiments.presets import PRESETS
from experiments.stopping import Stopped, stop_requests
from experiments.streams import stream
from metarl import MLP, ActionBaseline, CategoricalPolicy, NonFiniteError, PreUpdateCredit, checkpoints
from metarl.distributions import Categorical
from metarl.rollouts import collect
from metarl.rules import Foresight, Step
from tests.helpers import make_batch

TINY = ["--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4"]
SMALL = Config(hidden=(8,), tasks=2, episodes=4, query_episodes=4, horizon=10, env_steps=10**6)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_tiny(output: Path, *more: str) -> int:
    return train.main(
        ["navigation-fixed", *TINY, "--horizon", "10", "--env-steps", "2000", "--output", str(output), *more]
    )


def parameters(config: Config, iterations: int = 2) -> torch.Tensor:
    """All learned numbers after a few meta-iterations, as one vector."""
    setup = build(config, torch.device("cpu"))
    for iteration, _ in setup.train():
        if iteration == iterations:
            break
    return torch.cat([p.detach().reshape(-1) for p in setup.learner.parameters()])


def test_a_run_leaves_everything_a_reader_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_tiny(tmp_path / "run") == 0
    run = tmp_path / "run"
    for name in ("config.json", "command.txt", "system.json", "metrics.jsonl", "checkpoints/last", "tb"):
        assert (run / name).exists(), name
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    result = json.loads((run / "evaluation" / "test.json").read_text())
    assert len(result["sampled"]) == 100 and len(result["sampled"][0]) == 4  # steps 0 to 3
    last = checkpoints.load(run)
    assert (result["iteration"], result["env_steps"]) == (last["iteration"], last["env_steps"])
    assert list((run / "figures").glob("*.png"))
    assert "held-out tasks" in capsys.readouterr().out


# compiling takes by far the longest: few steps a program
@pytest.mark.parametrize(
    "optimizer", ["descent", "trust-region", "reptile", "reptile --compile --horizon 2 --env-steps 400"]
)
def test_resuming_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """A run killed in the middle of an iteration and resumed equals one that was never interrupted, bit for bit."""
    flags = ["--meta-optimizer", *optimizer.split(), "--no-evaluate", "--save-every", "2"]
    flags += [] if optimizer == "trust-region" else ["--lr", "0.01"]
    assert train_tiny(tmp_path / "whole", *flags) == 0
    real, calls = train.rate_metrics, []

    def die(setup: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(setup)

    monkeypatch.setattr(train, "rate_metrics", die)
    assert train_tiny(tmp_path / "cut", *flags) == 130
    monkeypatch.setattr(train, "rate_metrics", real)
    assert train.main(["--resume", str(tmp_path / "cut"), "--no-evaluate", "--save-every", "2"]) == 0
    whole, cut = (checkpoints.load(tmp_path / name) for name in ("whole", "cut"))
    assert whole["iteration"] == cut["iteration"] > 5
    assert_equal(whole, cut)
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if not key.startswith("time/")}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


def test_a_run_resumed_with_a_larger_budget_equals_one_that_began_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tiny(tmp_path / "whole", "--no-evaluate", "--env-steps", "4000") == 0
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate") == 0  # 2,000
    resume = ["--resume", str(run), "--no-evaluate", "--env-steps"]
    for less in ("2000", "-1"):
        assert train.main([*resume, less]) == 2
        assert f"expected more than the run's 2,000, got {int(less):,}" in capsys.readouterr().err
    runs.write_json(run / "status.json", json.loads((run / "status.json").read_text()) | {"seconds": 1000.0})
    assert train.main([*resume, "4000"]) == 0
    assert_equal(*(checkpoints.load(tmp_path / name) for name in ("whole", "run")))
    assert json.loads((run / "config.json").read_text())["env_steps"] == 4000
    assert len((run / "command.txt").read_text().splitlines()) == 2
    assert json.loads((run / "status.json").read_text())["seconds"] > 1000.0
    assert train.main(["--resume", str(run), "--no-evaluate"]) == 0
    assert "all 4,000 environment steps are done" in capsys.readouterr().out


@pytest.fixture
def foreground() -> Iterator[None]:
    """Signals as in a shell's foreground, where none is ignored, whatever the tests are run from (nohup, say)."""
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_it_saves_the_iteration_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tiny(tmp_path / "whole", "--no-evaluate") == 0
    real, calls = train.rate_metrics, []
    before = signal.getsignal(number)

    def tell(setup: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return real(setup)

    monkeypatch.setattr(train, "rate_metrics", tell)
    assert train_tiny(tmp_path / "cut", "--no-evaluate") == 128 + number
    assert "continue a run with --resume" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    assert checkpoints.load(tmp_path / "cut")["iteration"] == 3 < train.Watch.save_every
    assert json.loads((tmp_path / "cut" / "status.json").read_text())["status"] == "interrupted"
    assert train.main(["--resume", str(tmp_path / "cut"), "--no-evaluate"]) == 0
    assert_equal(*(checkpoints.load(tmp_path / name) for name in ("whole", "cut")))


@pytest.mark.usefixtures("foreground")
def test_a_second_signal_breaks_off() -> None:
    with pytest.raises(KeyboardInterrupt) as broken, stop_requests() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(broken.value, Stopped)


@pytest.mark.usefixtures("foreground")
def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop and signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_another_thread_listens_to_no_signals() -> None:
    found: list[bool] = []

    def work() -> None:
        with stop_requests() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def assert_equal(left: Any, right: Any, where: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_equal(a, b, f"{where}.{i}")
    else:
        assert left == right, where


def test_a_checkpoint_without_any_of_its_parts_is_not_exact(tmp_path: Path) -> None:
    """Mutation test of the above: dropping a generator or the optimizer's state changes what follows."""
    assert train_tiny(tmp_path / "run", "--no-evaluate", "--save-every", "2") == 0
    first = sorted((tmp_path / "run" / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))[0]
    state = checkpoints.load(first)
    config = Config(**state["config"])

    def go_on(drop: str | None) -> torch.Tensor:
        setup = build(config, torch.device("cpu"))
        checkpoints.restore(setup.learner, state["learner"])
        for part in {"optimizer", "generator", "task_generator"} - {drop}:
            target = getattr(setup, part)
            (target.load_state_dict if part == "optimizer" else target.set_state)(state[part])
        step = setup.train()
        next(step)
        return torch.cat([p.detach().reshape(-1) for p in setup.learner.parameters()])

    complete = go_on(None)
    for part in ("optimizer", "generator", "task_generator"):
        assert not torch.equal(complete, go_on(part)), part


def test_a_run_of_another_device_is_opened_and_not_gone_on_with(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoints.load(finished_run)
    there = state | {"generator": torch.zeros(16, dtype=torch.uint8)}  # as long as a GPU's is
    checkpoints.save(tmp_path / "run", there, 1)
    setup, _ = runs.load(tmp_path / "run")
    assert all(torch.equal(p, state["learner"][name]) for name, p in setup.learner.state_dict().items())
    assert train.main(["--resume", str(tmp_path / "run")]) == 2
    assert "trained on another kind of device than cpu; resume on that kind, with --device" in capsys.readouterr().err


def test_a_resumed_run_is_looked_at_as_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[train.Watch] = []
    real = train.train_logged
    monkeypatch.setattr(train, "train_logged", lambda *given: (seen.append(given[-1]), real(*given))[1])
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate", "--save-every", "3", "--histograms-every", "7") == 0
    budget = json.loads((run / "config.json").read_text())["env_steps"]
    again = ["--resume", str(run), "--no-evaluate", "--env-steps"]
    assert train.main([*again, str(budget + 1000), "--histograms-every", "0"]) == 0
    assert train.main([*again, str(budget + 2000)]) == 0  # what was changed stays changed
    for damaged in ("{", "[]", '{"save_every": null}'):
        (run / train.WATCH).write_text(damaged)
        budget += 1000
        assert train.main([*again, str(budget + 2000)]) == 0
    found = [(one.save_every, one.histograms_every, one.validate_every) for one in seen]
    assert found == [(3, 7, 0), (3, 0, 0), (3, 0, 0), *([(50, 20, 0)] * 3)]


@pytest.mark.parametrize(
    "inner", ["vpg", "lvc", "learned", "warm-start", "learned-advantage", "learned-reward", "learned-loss"]
)
def test_every_inner_loss_of_advantages_can_have_a_baseline_that_sees_the_action(inner: str) -> None:
    def found(**changes: Any) -> bool:
        config = SMALL.model_copy(update={"inner_loss": inner, "discount": 0.9, "decay": 0.9, **changes})
        loss = build(config, torch.device("cpu")).learner.inner
        return isinstance(loss, ActionBaseline) or isinstance(getattr(loss, "loss", None), ActionBaseline)

    assert found(action_baseline=True) and not found()


def test_resuming_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_tiny(tmp_path / "run", "--no-evaluate") == 0
    assert train.main(["--resume", str(tmp_path / "run"), "--no-evaluate"]) == 0
    assert "nothing to train" in capsys.readouterr().out


def broken_family() -> Any:
    """A benchmark whose episodes cannot be played."""

    class Broken(RingNavigation):
        def step(self, task: Any, state: Any, action: Any) -> Any:
            raise RuntimeError("no floor here")

    return TaskBenchmark("broken", Broken(10))


class Pole(CartPole.__mro__[1]):  # type: ignore[misc, name-defined]  # CartPole is a leaf
    """CartPole, of which ``changes`` replace members; each takes CartPole's own first."""

    parameters = CartPole.parameters

    def __init__(self, **changes: Any) -> None:
        super().__init__(10, {"pole_mass": Range(0.1, 0.5)})
        inner = CartPole(10)
        for name in ("observation_space", "action_space", "reset", "observe", "step"):
            setattr(self, name, changes.get(name, lambda own: own)(getattr(inner, name)))

    reset = observe = step = None  # of the instance


def stepping(change: Any) -> Any:
    """A step of which ``change(state, *transition)`` makes another."""
    return lambda own: lambda task, state, action: change(state, *own(task, state, action))


class Spaceless(Pole):
    """It has no spaces at all."""

    def __init__(self) -> None:
        super().__init__()
        del self.observation_space, self.action_space


BROKEN: dict[str, tuple[Any, str]] = {
    "several choices": (
        lambda: Pole(action_space=lambda own: MultiDiscrete([3, 3])),
        "action_space must be Discrete or a one-dimensional Box",
    ),
    "from 1": (
        lambda: Pole(action_space=lambda own: Discrete(4, start=1)),
        "a Discrete action_space must have at least 2 actions",
    ),
    "whole numbers": (
        lambda: Pole(action_space=lambda own: Box(0, 3, (2,), np.int64)),
        "one-dimensional Box of floating-point",
    ),
    "one action": (
        lambda: Pole(action_space=lambda own: Discrete(1)),
        "a Discrete action_space must have at least 2 actions",
    ),
    "no spaces": (Spaceless, "missing: observation_space, action_space"),
    "writes": (
        lambda: Pole(step=stepping(lambda s, after, r, d: ({k: v.copy_(after[k]) for k, v in s.items()}, r, d))),
        "step modified its argument state in place",
    ),
    "own luck": (
        lambda: Pole(reset=lambda own: lambda task, rows, *, generator: own(task, rows, generator=stream(0, "x"))),
        "reset returns the same initial states for different generators",
    ),
    "float64": (
        lambda: Pole(step=stepping(lambda s, after, r, d: (after, r.double(), d))),
        "the reward of a step must be (16, 8), torch.float32; got (16, 8), torch.float64",
    ),
    "one reward a task": (
        lambda: Pole(step=stepping(lambda s, after, r, d: (after, r[..., :1], d))),
        "the reward of a step must be (16, 8), torch.float32; got (16, 1)",
    ),
    "int": (
        lambda: Pole(step=stepping(lambda s, after, r, d: (after, r, d.int()))),
        "terminated must be (16, 8), torch.bool",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_benchmark_that_breaks_the_contract_is_not_trained_on(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = BROKEN[fault]
    monkeypatch.setattr("tests.test_experiments.FOUND", lambda horizon: make(), raising=False)
    assert train_tiny(tmp_path / "run", "--benchmark", "tests.test_experiments:FOUND") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: benchmark 'tests.test_experiments:FOUND': ") and error.count("\n") == 1
    assert message in error and not (tmp_path / "run").exists()
    assert "; python experiments/check.py family tests.test_experiments:FOUND says what else is wrong" in error


def test_only_what_is_not_metarls_own_is_looked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    monkeypatch.setattr("experiments.build.look_over_family", lambda family: looked.append(family.describe()) or [])
    own = SMALL.model_copy(update={"benchmark": "tests.test_experiments:LONGER", "horizon": None})
    for config in (SMALL, own):
        build(config, torch.device("cpu"))
    assert looked == [LONGER.describe()]


WRONG_TRAINING = {
    "random decisions in a trust region": (
        ["navigation-fixed", "--rule", "rl-schedule", "--meta-optimizer", "trust-region"],
        "not of a rule's random decisions",
    ),
    "credit of one task": (["navigation-corners-best", "--tasks", "1"], "compares a task's outcome"),
    "no preset": ([], "expected a preset first"),
    "unknown preset": (["navigation-fixd"], "did you mean 'navigation-fixed'?"),
    "unknown benchmark": (["navigation-fixed", "--benchmark", "cartpole-polarty"], "did you mean 'cartpole-polarity'?"),
    "unknown rule": (["navigation-fixed", "--rule", "metasgd"], "did you mean 'meta-sgd'?"),
    "unknown loss": (["navigation-fixed", "--inner-loss", "ppo"], "unknown inner loss"),
    "module missing": (["navigation-fixed", "--benchmark", "no_such_module:X"], "cannot be imported"),
    "name missing": (["navigation-fixed", "--benchmark", "envs:Nothing"], "cannot be imported"),
    "one episode to compare": (
        ["navigation-halfcircle-best", "--coverage", "1", "--episodes", "1"],
        "expected at least 2, got 1",
    ),
    "NaN rate": (["navigation-fixed", "--rate", "nan"], "rate: Input should be a finite number"),
    "no positive rate": (["navigation-fixed", "--rate", "0", "--parameterisation", "positive"], "above 0"),
    "uphill": (["navigation-fixed", "--rate", "-1"], "rate: Input should be greater than or equal to 0, got -1.0"),
    "horizon 0": (["navigation-fixed", "--horizon", "0"], "horizon: Input should be greater than or equal to 1"),
    "no tasks": (["navigation-fixed", "--tasks", "0"], "tasks: Input should be greater"),
    "discount": (["navigation-fixed", "--discount", "1.5"], "discount: Input should be less"),
    "infinite lr": (["navigation-fixed", "--lr", "inf"], "lr: Input should be a finite number"),
    "seed": (["navigation-fixed", "--seed", "-1"], "seed: Input should be greater"),
    "device": (["navigation-fixed", "--device", "cuda:99"], "use --device cpu"),
    "no threads": (["navigation-fixed", "--threads", "0"], "expected threads >= 1, got 0"),
    "a rate for a rule that has its own": (
        ["navigation-fixed", "--rule", "examples.own_rule:SignSGD", "--rate=0.03"],
        "--rate: unused with these settings; leave it out, or choose settings that use it",
    ),
    "units for a policy that has its own": (
        ["navigation-fixed", "--policy", "examples.own_policy:residual", "--hidden", "9"],
        "--hidden: unused with these settings",
    ),
    "scaled inputs of a policy that has its own": (
        ["navigation-fixed", "--policy", "examples.own_policy:residual", "--scale-inputs"],
        "scales its own inputs; pass --no-scale-inputs, or --policy mlp",
    ),
    "a policy whose layers cannot be whitened": (
        ["navigation-fixed", "--policy", "examples.own_policy:residual", "--rule", "whitened-meta-sgd"],
        "the rule needs the inputs of network.module.0, which the policy's network does not report",
    ),
    "a policy made otherwise": (
        ["navigation-fixed", "--policy", "examples.own_policy:Residual"],
        "python experiments/check.py policy examples.own_policy:Residual --benchmark navigation-fixed says what else",
    ),
    "no policy": (
        ["navigation-fixed", "--policy", "math:pi"],
        "of type float; expected a function or class that takes the observation space",
    ),
    "flags that change nothing": (
        ["navigation-fixed", "--rule=maml", "--max-kl", "0.1", "--parameterisation", "free", "--no-signal-effects"],
        "--max-kl, --parameterisation, --signal-effects: unused with these settings",
    ),
    "no file": (["no/such/config.json"], "no/such/config.json: no such configuration file; check the path"),
    "odd halves": (["navigation-fixed", "--baseline", "cross-fittd"], "unknown baseline"),
    "action baseline": (
        ["navigation-fixed", "--inner-loss", "dice", "--action-baseline"],
        "expected an inner loss that uses advantages",
    ),
    "one half too many": (
        ["navigation-fixed", "--baseline", "cross-fitted", "--episodes", "5"],
        "an even number of episodes, got 5",
    ),
    "and in the query": (
        ["navigation-fixed", "--baseline", "cross-fitted", "--query-episodes", "7"],
        "an even number of query_episodes, got 7",
    ),
    "a benchmark for a preset": (
        ["navigation-holes"],
        "expected a preset; choose one and add --benchmark navigation-holes",
    ),
    "a rule that wants more": (
        ["navigation-fixed", "--rule", "metarl.rules:SGD"],
        "TypeError: a step size must be a number, got a dict; expected a function or class that needs nothing else",
    ),
    "nothing to compile": (
        ["navigation-fixed", "--benchmark", "tests.test_gymnasium_family:pendulum", "--compile"],
        "cannot be compiled; leave it out",
    ),
    "reptile learns no loss": (
        ["navigation-fixed", "--inner-loss", "learned-reward", "--meta-optimizer", "reptile"],
        "has parameters to learn; use --meta-optimizer descent",
    ),
    "cavia without context": (["navigation-fixed", "--rule", "cavia"], "pass --context 5"),
    "not a path": (["navigation-fixed", "--benchmark", "my_family"], "or give package.module:NAME"),
    "breaks in play": (
        ["navigation-fixed", "--benchmark", "tests.test_experiments:broken_family"],
        "raised RuntimeError: no floor here; python experiments/check.py family tests.test",
    ),
    "resume nothing": (["--resume", "no/such/run"], "no such run folder"),
    "resume a preset": (["navigation-fixed", "--resume", "no/such/run"], "got navigation-fixed; leave it out"),
    "resume otherwise": (["--resume", "no/such/run", "--lr=9"], "got --lr; leave it out"),
}


@pytest.mark.parametrize("case", WRONG_TRAINING)
def test_wrong_input_is_one_line_and_exit_code_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv, message = WRONG_TRAINING[case]
    assert train.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir()), "something was done before the input was refused"


def test_an_unknown_flag_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["navigation-fixed", "--sed", "3"])
    assert stop.value.code == 2
    assert "--seed" in capsys.readouterr().err


WRONG_EVALUATION = {
    "training split": (["--split", "train"], "training tasks cannot be evaluated on"),
    "unknown split": (["--split", "tset"], "has no split 'tset'"),
    "out of range": (["--constants", "goal_x=1e9"], "goal_x: expected"),
    "not finite": (["--constants", "goal_x=nan"], "goal_x: expected"),
    "unknown constant": (["--constants", "gaol_x=0.1"], "no constant 'gaol_x'"),
    "no number": (["--constants", "goal_x"], "expected constant=value"),
    "training task": (["--constants", "goal_x=0.2012", "goal_y=0.1001"], "expected a held-out one, such as goal_x=0."),
    "no tasks": (["--tasks", "0"], "expected tasks >= 1"),
    "no episodes": (["--episodes", "0"], "expected tasks >= 1, episodes and score_episodes >= 1"),
    "a split and a task": (["--split", "validation", "--constants", "goal_x=0.7"], "got both (--split validation)"),
    "many tasks and one": (["--tasks", "7", "--constants", "goal_x=0.7"], "expected no --tasks, got 7; leave one out"),
    "a constant twice": (["--constants", "goal_x=0.7", "goal_x=0.8"], "got goal_x again in 'goal_x=0.8'"),
}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert train_tiny(run, "--no-evaluate") == 0
    return run


@pytest.mark.parametrize("case", WRONG_EVALUATION)
def test_wrong_evaluation_is_refused(case: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, message = WRONG_EVALUATION[case]
    assert evaluate.main([str(finished_run), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_missing_and_foreign_checkpoints_are_refused(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([]) == 2
    assert "expected at least one run folder" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "nowhere")]) == 2
    assert "no such run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert evaluate.main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    checkpoints.save(tmp_path / "foreign", {"weights": torch.zeros(3)}, 1)
    assert evaluate.main([str(tmp_path / "foreign")]) == 2
    assert "not of a training run" in capsys.readouterr().err
    state = checkpoints.load(finished_run)
    checkpoints.save(tmp_path / "other", state | {"benchmark": "0" * 64}, 1)
    assert evaluate.main([str(tmp_path / "other")]) == 2
    assert "has changed since" in capsys.readouterr().err
    checkpoints.save(tmp_path / "smaller", state | {"config": state["config"] | {"hidden": [4]}}, 1)
    assert evaluate.main([str(tmp_path / "smaller")]) == 2
    assert "differences" in capsys.readouterr().err


def test_what_an_evaluation_will_take_is_told_before_it_begins(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--tasks", "3", "--steps", "1", "--episodes", "2", "--score-episodes", "4"]
    played = []

    def watched(family: Navigation, task: Any, rows: tuple[int, ...], **others: Any) -> Any:
        played.append(math.prod(rows))
        return reset(family, task, rows, **others)

    reset = Navigation.reset
    monkeypatch.setattr(Navigation, "reset", watched)
    monkeypatch.setattr(evaluate, "describe", lambda *_, **__: {})  # which plays some more
    assert evaluate.main([str(finished_run), *flags]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    horizon = runs.load(finished_run)[0].benchmark.family.horizon
    count = sum(played)
    assert line == f"evaluating: 3 tasks, {count} episodes, at most {count * horizon} environment steps"


def test_divergence_after_more_steps_than_were_trained_for_leaves_the_trained_ones(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(learner: Any, benchmark: Any, task: Any, adaptation: Any, **others: Any) -> Any:
        if adaptation.steps > broken_beyond:
            raise NonFiniteError("the rule SGD diverged")
        return evaluated(learner, benchmark, task, adaptation, **others)

    evaluated = evaluate.evaluate
    monkeypatch.setattr(evaluate, "evaluate", breaking)
    broken_beyond = 1  # as the run has been trained
    flags = [str(finished_run), "--tasks", "3"]
    assert evaluate.main(flags) == 0
    assert "note: measuring up to step 1, as trained for; beyond it: the rule SGD" in capsys.readouterr().err
    written = json.loads((finished_run / "evaluation" / "test-tasks=3.json").read_text())
    assert np.shape(written["sampled"]) == (3, 2) and written["protocol"]["steps"] == 1
    assert evaluate.main([*flags, "--steps", "2"]) == 4  # asked for
    broken_beyond = 0
    assert evaluate.main(flags) == 4


def test_seeds_are_pooled_up_to_the_step_at_which_one_diverges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(learner: Any, benchmark: Any, task: Any, adaptation: Any, **others: Any) -> Any:
        begun.append(adaptation.steps)
        if begun == [3, 3]:  # the second seed, beyond the one step that it was trained for
            raise NonFiniteError("the rule SGD diverged")
        return evaluated(learner, benchmark, task, adaptation, **others)

    begun, evaluated = list[int](), evaluate.evaluate
    monkeypatch.setattr(evaluate, "evaluate", breaking)
    names = [str(tmp_path / name) for name in ("s0", "s1")]
    for seed, name in enumerate(names):
        assert train_tiny(Path(name), "--no-evaluate", "--seed", str(seed)) == 0
    assert evaluate.main([*names, "--tasks", "3"]) == 0
    assert begun == [3, 3, 1]
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert told[:3] == ["steps", "0", "1"] and "2" not in told
    found = [json.loads((Path(name) / "evaluation" / "test-tasks=3.json").read_text()) for name in names]
    short = evaluate.equally_long(found)
    assert evaluate.score_matrix(short).shape == (2, 3, 2)
    for result in short:
        assert {len(line) for line in result["learned"]["effective rates"].values()} == {1}
        assert np.shape(result["adaptation_steps"]) == (3, 2)
    assert evaluate.equally_long([{"diverged": "x"}, *short]) == [{"diverged": "x"}, *short]
    assert len(found[0]["sampled"][0]) == 4  # the files keep what was measured


def test_a_run_with_credit_is_evaluated_on_a_single_task(tmp_path: Path) -> None:
    # Credit compares a task's outcome with that of others, but in training alone.
    argv = ["navigation-corners-best", *TINY, "--horizon", "5", "--env-steps", "200", "--output", str(tmp_path / "run")]
    assert train.main([*argv, "--no-evaluate"]) == 0
    assert evaluate.main([str(tmp_path / "run"), "--tasks", "1"]) == 0


def test_several_seeds_are_evaluated_together_and_mixed_runs_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(tmp_path / name) for name in ("s0", "s1", "other")]
    for name, flags in zip(names, (["--seed", "0"], ["--seed", "1"], ["--lr", "0.5"]), strict=True):
        assert train_tiny(Path(name), "--no-evaluate", *flags) == 0
    assert evaluate.main([*names[:2], "--tasks", "5", "--steps", "1"]) == 0
    assert "2 seed(s)" in capsys.readouterr().out
    assert evaluate.main([*names, "--tasks", "5"]) == 2
    assert "differs from" in capsys.readouterr().err
    assert evaluate.main([*names[:2], names[0], "--tasks", "5"]) == 2
    assert f"expected runs of different seeds, got seed 0 again in {names[0]}; leave it out" in capsys.readouterr().err
    state = checkpoints.load(names[1])
    checkpoints.save(names[1], state | {"iteration": 1, "env_steps": 240}, 1)
    assert evaluate.main([*names[:2], "--tasks", "5"]) == 2
    assert "were trained for 2,000 and 240 environment steps; train them equally long" in capsys.readouterr().err


def test_runs_are_scored_after_as_many_steps_as_they_were_trained_for() -> None:
    for trained, scored in ((0, 0), (1, 3), (4, 4), (19, 19)):
        assert evaluate.resolved(Protocol(), SMALL.model_copy(update={"steps": trained})).steps == scored
    config = SMALL.model_copy(update={"steps": 4})
    few = Protocol(tasks=2, episodes=2, score_episodes=1)
    result = evaluate.measure(build(config, torch.device("cpu")), few)
    assert len(result["sampled"][0]) == 5 and result["protocol"]["steps"] == 4


def test_the_table_tells_episodes_spent_and_which_steps_were_not_trained_for() -> None:
    config, device = SMALL.model_copy(update={"steps": 2}), torch.device("cpu")
    few = Protocol(tasks=2, score_episodes=1, steps=3)
    rows = evaluate.table([evaluate.measure(build(config, device), few)], config.steps)
    assert [row[0] for row in rows] == ["steps", "0", "1", "2", "3 (not trained for)"]
    assert [row[-2] for row in rows] == ["episodes", "0", "4", "8", "12"] and rows[0][-1] == "env steps spent"


def test_one_task_of_ones_own_is_scored_without_an_interval(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--constants", "goal_x=0.7", "goal_y=0.7", "--steps", "1"]  # beyond what training draws
    assert evaluate.main([str(finished_run), *own]) == 0
    printed = capsys.readouterr().out
    assert "split 'constants'" in printed and " – " in printed
    assert "1 held-out task, 1 seed(s), 20 episodes a score; one seed and task, without intervals" in printed
    assert evaluate.main([str(finished_run), "--tasks", "3", "--steps", "1"]) == 0
    assert "3 held-out tasks, 1 seed(s), 20 episodes a score; 95 % intervals over tasks\n" in capsys.readouterr().out


def test_one_look_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    def name(**changes: Any) -> str:
        return evaluate.name_of(Protocol(**changes), Config(episodes=7, steps=2))

    assert name() == name(tasks=100, steps=3, episodes=7, score_episodes=20) == "test"
    assert name(split="validation", tasks=5, seed=3) == "validation-tasks=5-seed=3"
    assert name(steps=4, episodes=20, score_episodes=2) == "test-steps=4-episodes=20-score_episodes=2"
    assert name(constants=("gravity=12", "half_length=0.9")) == "constants-gravity=12-half_length=0.9"
    many = tuple(f"constant_{i}={1 / 3 + i}" for i in range(20))
    assert name(constants=many) != name(constants=many[1:]) and len(name(constants=many)) < 50
    assert train_tiny(tmp_path / "run") == 0
    assert evaluate.main([str(tmp_path / "run"), "--tasks", "3", "--steps", "1"]) == 0
    found = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "run" / "evaluation").iterdir()}
    assert {name: len(result["task"]["goal_x"]) for name, result in found.items()} == {
        "test": 100,
        "test-tasks=3-steps=1": 3,
    }


def test_what_lies_beside_its_evaluation_does_not_end_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate") == 0
    (run / "evaluation").mkdir()
    (run / "evaluation" / "notes.json").write_text("{")
    assert train.main(["--resume", str(run)]) == 0


def test_evaluation_repeats_itself_and_leaves_the_run_alone(finished_run: Path) -> None:
    before = checkpoints.load(finished_run)
    results = []
    for _ in range(2):
        assert evaluate.main([str(finished_run), "--tasks", "5", "--split", "validation"]) == 0
        results.append((finished_run / "evaluation" / "validation-tasks=5.json").read_text())
    assert results[0] == results[1]
    assert_equal(before, checkpoints.load(finished_run))


def test_an_evaluation_that_could_not_be_written_is_not_begun(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only(*_: object, dir: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr(evaluate, "measure", lambda *_, **__: pytest.fail("measured"))
    assert evaluate.main([str(finished_run)]) == 6
    assert capsys.readouterr().err == f"error: Read-only file system: {finished_run / 'evaluation'}\n"


def test_plugins_are_imported_only_when_the_user_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_plugin.py").write_text(
        "from envs import Navigation, TaskBenchmark\n"
        "def short():\n"
        "    return TaskBenchmark('mine', Navigation(5))\n"
        "made = short()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = tmp_path / "run"
    flags = ["--benchmark", "my_plugin:short", *TINY, "--env-steps", "200", "--no-evaluate", "--output", str(run)]
    assert train.main(["navigation-fixed", *flags]) == 0
    assert train.main(["navigation-fixed", "--benchmark", "my_plugin:made", "--horizon", "9"]) == 2
    assert "leave --horizon out" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "my_plugin")
    assert evaluate.main([str(run)]) == 2
    assert "--plugin my_plugin:short" in capsys.readouterr().err and "my_plugin" not in sys.modules
    assert evaluate.main([str(run), "--tasks", "3", "--plugin", "my_plugin:short"]) == 0


def test_a_stored_configuration_cannot_have_anything_else_imported(
    tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoints.load(finished_run)
    for field in ("baseline", "meta_optimizer"):
        run = tmp_path / field
        checkpoints.save(run, state | {"config": state["config"] | {field: "os:getcwd"}}, 1)
        assert evaluate.main([str(run), "--plugin", "os:getcwd"]) == 2
        assert "unknown" in capsys.readouterr().err
    for field in ("benchmark", "scored_in", "policy", "rule", "inner_loss", "outer_loss"):
        run = tmp_path / field
        checkpoints.save(run, state | {"config": state["config"] | {field: "hostile:boom"}}, 1)
        assert evaluate.main([str(run)]) == 2
        assert "the run imports hostile:boom, not part of metarl; allow it with --plugin" in capsys.readouterr().err


def test_step_sizes_fall_linearly_over_the_budget_also_when_resumed() -> None:
    config = SMALL.model_copy(update={"env_steps": 2000, "final_share": 0.2})
    setup, shares, spent = build(config, torch.device("cpu")), [], [0]
    for _, metrics in setup.train():  # until the budget is spent
        shares.append(setup.optimizer.share)
        spent.append(spent[-1] + int(metrics["env_steps"]))
    assert spent[-2] < 2000 <= spent[-1]
    resumed = build(config, torch.device("cpu"))
    assert next(resumed.train(Progress(5, spent[5])))[0] == 6
    assert resumed.optimizer.share == shares[5]
    expected = [0.2 + 0.8 * max(0.0, 1 - done / 2000) for done in spent[:-1]]
    assert shares == pytest.approx(expected) and shares[0] == 1.0 and config.share(2000) == config.share(3000) == 0.2


def test_deterministic_algorithms_are_asked_for_and_written_down(tmp_path: Path) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    try:
        assert train_tiny(tmp_path / "run", "--deterministic", "--no-evaluate") == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert json.loads((tmp_path / "run" / "system.json").read_text())["deterministic"] is True
    finally:
        torch.use_deterministic_algorithms(before)


# What to change each field to, and in which configuration the change can be seen (trap T6: ignored options).
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "benchmark": ({}, {"benchmark": "navigation-varying"}),
    "horizon": ({}, {"horizon": 12}),
    "seed": ({}, {"seed": 1}),
    "policy": ({}, {"policy": "examples.own_policy:residual"}),
    "hidden": ({}, {"hidden": (9,)}),
    "context": ({}, {"context": 2}),
    "activation": ({}, {"activation": "tanh"}),
    "scale_inputs": ({}, {"scale_inputs": True}),
    "log_std": ({}, {"log_std": -1.0}),
    "rule": ({}, {"rule": "per-layer"}),
    "rate": ({}, {"rate": 0.2}),
    "parameterisation": ({}, {"parameterisation": "positive"}),
    "max_rate": ({"parameterisation": "bounded"}, {"max_rate": 5.0}),
    "online_rate": ({"rule": "exponentiated", "steps": 2}, {"online_rate": 1.0}),
    "inner_loss": ({}, {"inner_loss": "vpg"}),
    "action_baseline": ({}, {"action_baseline": True}),
    "outer_loss": ({"lr": 0.05}, {"outer_loss": "surrogate"}),
    "entropy_penalty": ({}, {"entropy_penalty": 0.1}),
    "clip": ({"lr": 0.05}, {"clip": 0.01}),
    "credit": ({"inner_loss": "vpg"}, {"credit": 1.0}),
    "coverage": ({"inner_loss": "vpg"}, {"coverage": 1.0}),
    "every_step": ({}, {"every_step": 1.0}),
    "steps": ({}, {"steps": 2}),
    "signal_actions": ({"inner_loss": "learned-advantage"}, {"signal_actions": False}),
    "signal_effects": ({"inner_loss": "learned-advantage"}, {"signal_effects": True}),
    "signal_hidden": ({"inner_loss": "learned-reward"}, {"signal_hidden": ()}),
    "tasks": ({}, {"tasks": 3}),
    "episodes": ({}, {"episodes": 5}),
    "query_episodes": ({}, {"query_episodes": 5}),
    "scored_in": (
        {"benchmark": "navigation-halfcircle", "horizon": 6},
        {"scored_in": "navigation-halfcircle-dense"},
    ),
    "discount": ({}, {"discount": 0.5}),
    "decay": ({}, {"decay": 0.5}),
    "query_discount": ({}, {"query_discount": 0.5}),
    "query_decay": ({}, {"query_decay": 0.5}),
    "normalize": ({}, {"normalize": False}),
    "query_scale": ({}, {"query_scale": "tasks"}),
    "baseline": ({}, {"baseline": "zero"}),
    "time_limit": ({}, {"time_limit": "bootstrap"}),
    "meta_optimizer": ({}, {"meta_optimizer": "reptile"}),
    "lr": ({}, {"lr": 0.01}),
    "rate_lr": ({}, {"rate_lr": 0.1}),
    "final_share": ({"env_steps": 2000}, {"final_share": 0.1}),
    "epochs": ({}, {"epochs": 2}),
    "minibatches": ({}, {"minibatches": 2}),
    "max_norm": ({}, {"max_norm": 1e-6}),
    "perturbation": ({"meta_optimizer": "evolution"}, {"perturbation": 0.5}),
    "pairs": ({"meta_optimizer": "evolution"}, {"pairs": 2}),
    "max_kl": ({"meta_optimizer": "trust-region"}, {"max_kl": 1e-4}),
}


def test_every_field_is_in_the_table() -> None:
    # the budget and the patience end the loop, compiling changes no more than rounding: they have tests of their own
    assert set(CHANGES) == set(Config.model_fields) - {"env_steps", "compile", "patience"}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_what_is_learned(name: str) -> None:
    where, change = CHANGES[name]
    base = SMALL.model_copy(update=where)
    assert getattr(base, name) != change[name]
    before, after = parameters(base), parameters(base.model_copy(update=change))
    assert before.shape != after.shape or not torch.equal(before, after)
    assert name in build(base, torch.device("cpu")).read, "a flag for it would be refused"


LONGER = RingNavigation(30, "distance")


def test_only_the_same_tasks_can_score_the_adapted_policy() -> None:
    for other, what in (
        ("navigation-fixed", "parameters"),
        ("cartpole-polarity", "observation_space"),
        ("tests.test_experiments:LONGER", "horizon"),
    ):
        config = PRESETS["navigation-halfcircle-best"][1].model_copy(update={"scored_in": other})
        with pytest.raises(InputError, match=f"scored_in: expected the {what} of .* but {other} has a different one"):
            build(config, torch.device("cpu"))


def test_the_entropy_of_the_adapted_policy_costs_its_penalty() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]]])  # [H, N, actions]; the second step is padding
    batch = make_batch(torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), action=torch.zeros(2, 1, dtype=torch.int64))
    plain, costly = (build_outer_loss(Config(entropy_penalty=weight), Navigation(5)) for weight in (0.0, 0.1))
    added = costly(Categorical(logits), batch) - plain(Categorical(logits), batch)
    assert float(added) == pytest.approx(0.1 * math.log(2.0))


def test_credit_is_given_as_the_configuration_says() -> None:
    def found(**changes: Any) -> PreUpdateCredit | None:
        return build(SMALL.model_copy(update={"inner_loss": "vpg", **changes}), torch.device("cpu")).learner.credit

    assert found() is None and found(credit=0.5, clip=0.3) == PreUpdateCredit(0.5, 0.0, 0.3)
    assert found(coverage=2.0, clip=0.3) == PreUpdateCredit(0.0, 2.0, 0.3)


def test_foresight_is_of_what_is_observed() -> None:
    policy = CategoricalPolicy(MLP(4, (3, 3), 2, generator=torch.Generator().manual_seed(0)))
    rule = build_rule(Config(rule="foresight"), policy)
    (foresight,) = (module for module in rule.modules() if isinstance(module, Foresight))
    assert foresight.layer == "network.hidden.0"


def test_whitened_steps_work_with_scaled_inputs_and_context() -> None:
    for rule in ("whitened-offset", "whitened-layers", "foresight"):
        for change in ({"scale_inputs": True}, {"context": 2}):
            config = PRESETS["cartpole-all-best"][1].model_copy(
                update={
                    "rule": rule,
                    "tasks": 2,
                    "horizon": 20,
                    "hidden": (4,),
                    "minibatches": 1,
                    "epochs": 1,
                    **change,
                }
            )
            _, metrics = next(build(config, torch.device("cpu")).train())
            assert metrics["meta/skipped"] == 0.0


def test_inputs_are_scaled_by_their_spread_on_training_tasks() -> None:
    config = PRESETS["cartpole-polarity"][1].model_copy(update={"scale_inputs": True, "hidden": (4,)})
    setup = build(config, torch.device("cpu"))
    policy, generator = setup.learner.policy, stream(5, "here")
    assert isinstance(policy, CategoricalPolicy) and isinstance(policy.network, MLP)
    scale = policy.network.input_scale
    task = setup.benchmark.sample("train", 300, generator=generator)
    batch = collect(policy, policy.initial(), setup.benchmark.family, task, 3, generator=generator)
    assert scale is not None
    torch.testing.assert_close(batch.observation[batch.mask > 0].std(0), scale, rtol=0.3, atol=0.0)
    other = build(config.model_copy(update={"seed": 9}), torch.device("cpu")).learner.policy.state_dict()
    torch.testing.assert_close(other["network.input_scale"], scale, rtol=0.1, atol=0.0)  # the same tasks and noise


def test_a_sensor_that_never_changes_is_left_as_it_is() -> None:
    config = PRESETS["bandit"][1].model_copy(update={"scale_inputs": True})
    state = build(config, torch.device("cpu")).learner.policy.state_dict()
    assert state["network.input_scale"].tolist() == [1.0] * len(state["network.input_scale"])


def test_halving_is_the_published_tests_step_sizes() -> None:
    """MAML's code, navigation: 0.1 for the first step of a test and 0.05 for those after it."""
    learner = build(SMALL.model_copy(update={"rule": "maml-halving", "rate": 0.1}), torch.device("cpu")).learner
    params, state = learner.start()
    steps = []
    for _ in range(3):
        update, state = learner.rule.update(Step(params, params, torch.zeros(())), state)
        name = next(name for name, leaf in params.items() if bool(leaf.detach().any()))
        steps.append(float((update[name] / params[name]).detach().nanmean()))
    assert steps == pytest.approx([-0.1, -0.05, -0.05], rel=1e-5)


@pytest.mark.parametrize("rule", RULES | ALGORITHMS)
def test_every_rule_trains_from_its_name(rule: str) -> None:
    config = SMALL.model_copy(update={"steps": 2, **ALGORITHMS.get(rule, {"rule": rule})})
    learned = parameters(config)
    start = torch.cat([p.reshape(-1) for p in build(config, torch.device("cpu")).learner.parameters()])
    assert bool(learned.isfinite().all()) and not (learned.shape == start.shape and torch.equal(learned, start))


@pytest.mark.parametrize("name", [*PRESETS])
def test_every_preset_builds(name: str) -> None:
    config = PRESETS[name][1]
    setup = build(config, torch.device("cpu"))
    assert setup.benchmark.name in BENCHMARKS
    assert config.inner_loss in INNER_LOSSES and config.outer_loss in LOSSES
    assert config.meta_optimizer in META_OPTIMIZERS


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    assert torch.equal(parameters(SMALL), parameters(SMALL))
    assert not torch.equal(parameters(SMALL), parameters(SMALL.model_copy(update={"seed": 3})))


def test_compare_pairs_rules_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["navigation-fixed", *TINY, "--horizon", "10", "--env-steps", "500", "--output", str(tmp_path)]
    argv += ["--rules", "meta-sgd", "no-adaptation", "maml", "--rates", "0.1", "1.0", "--seeds", "2"]
    argv += ["--held-out", "4", "--workers", "1"]
    assert compare.main(argv) == 0
    first = capsys.readouterr().out
    assert "[10/10]" not in first and "| meta-sgd |" in first and "(paired)" in first
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert {len(results) for results in written["results"].values()} == {2}
    tasks = [result["task"] for results in written["results"].values() for result in results]
    assert all(task == tasks[0] for task in tasks)
    assert compare.main(argv) == 0
    again = capsys.readouterr().out
    assert "[1/" not in again and again.splitlines()[-3:] == first.splitlines()[-3:]


@pytest.mark.parametrize(("other", "figure"), [("rl2", "ranking"), ("maml", "comparison")])
def test_episodes_of_who_remembers_are_not_drawn_as_gradient_steps(other: str, figure: str, tmp_path: Path) -> None:
    result: dict[str, Any] = {
        "benchmark": "b", "fingerprint": "f", "seed": 0, "split": "test", "protocol": {}, "task": {"a": [0.0, 1.0]},
        "references": {}, "reported": 1, **dict.fromkeys(("sampled", "mode"), [[1.0, 2.0], [2.0, 4.0]]),
        "adaptation_episodes": [[0.0, 4.0]] * 2,
    }  # fmt: skip
    names = ("meta-sgd", other)
    results = {name: [result, result | {"seed": 1}] for name in names}
    compare.report(SMALL, compare.Options(tmp_path), dict.fromkeys(names, SMALL), results)
    assert [path.stem for path in tmp_path.glob("*.png")] == [figure]


def test_everybody_gets_as_many_trials(tmp_path: Path) -> None:
    options = compare.Options(tmp_path, rates=(0.1, 0.3), rate_lrs=(0.003, 0.03))

    def tried(name: str) -> list[tuple[float, float | None]]:
        return [(config.rate, config.rate_lr) for config in compare.trials(name, SMALL, options)]

    for learns in ("meta-sgd", "mlp-schedule", "warm-start", "per-step"):
        assert tried(learns) == [(0.1, 0.003), (0.1, 0.03), (0.3, 0.003), (0.3, 0.03)]
    for name in ("maml", "fomaml", "reptile", "hypergradient"):  # nothing beside the initialization
        assert tried(name) == [(0.1, None), (0.14, None), (0.21, None), (0.3, None)]
    assert [rate for rate, _ in tried("ppo-fine-tuned")] == pytest.approx([1e-4, 1.4e-4, 2.1e-4, 3e-4])
    assert len(tried("no-adaptation")) == 1
    options = compare.Options(tmp_path, rates=(0.1, 0.3))
    own = CONTENDERS["mlp-schedule"].config(SMALL).rate_lr
    assert tried("mlp-schedule") == [(0.1, own), (0.3, own)] and own is not None
    assert tried("maml") == [(0.1, None), (0.3, None)]


def test_a_diverging_step_size_loses_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["navigation-fixed", *TINY, "--horizon", "10", "--env-steps", "300", "--output", str(tmp_path)]
    argv += ["--rules", "maml", "--seeds", "1", "--held-out", "3", "--workers", "1", "--rates"]
    assert compare.main([*argv, "0.1", "1e38"]) == 0
    tuning = json.loads((tmp_path / "tuning.json").read_text())[0]
    assert tuning["chosen"] == 0.1 and tuning["validation return by rate"]["1e+38"] == "diverged"
    assert compare.main([*argv, "1e38"]) == 4
    assert "maml diverged" in capsys.readouterr().err
    argv[argv.index("maml") : argv.index("maml") + 1] = ["maml", "no-adaptation"]
    assert compare.main([*argv, "1e38"]) == 0
    assert "| maml | 1e+38 | – | 1 of 1 seeds diverged |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rules meta-sdg", "did you mean 'meta-sgd'"),
        ("--held-out 0", "error: expected --held-out >= 1, got 0\n"),
        ("--workers 0", "error: expected --workers >= 1, got 0\n"),
        ("--rules", "error: expected at least one of --rules, got none\n"),
        ("--rates", "error: expected at least one of --rates, got none\n"),
        ("--rates 0.1 -1", "expected positive rates and rate_lrs"),
        ("--rate-lrs 0", "expected positive rates and rate_lrs"),
        *(
            (
                f"--rules {name} maml --benchmark tests.test_gymnasium_family:pendulum",
                f"{name} restarts episodes one by one",
            )
            for name in ("rl2", "ppo-randomized", "ppo-fine-tuned", "recurrent-ppo")
        ),
    ],
)
def test_compare_refuses_what_cannot_run_before_any_work(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["navigation-fixed", *flags.split(), "--output", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_rule_of_ones_own_is_trained_once_and_has_no_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["navigation-fixed", *TINY, "--horizon", "10", "--env-steps", "300", "--output", str(tmp_path)]
    own = "examples.own_rule:SignSGD"
    argv += ["--rules", own, "maml", "--rates", "0.1", "0.3", "--seeds", "1", "--held-out", "1", "--workers", "1"]
    assert compare.main(argv) == 0  # of one score each, without intervals
    tried = [len(one["validation return by rate"]) for one in json.loads((tmp_path / "tuning.json").read_text())]
    assert tried == [1, 2] and f"| {own} | – |" in (tmp_path / "table.md").read_text()
    printed = capsys.readouterr().out
    assert f"[1/3] {own}, rate_lr " in printed and "[2/3] maml, rate 0.1, seed " in printed


def test_a_checkpoint_by_name_is_read_and_its_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate", "--save-every", "1") == 0
    first = sorted((run / "checkpoints").glob("step_*"))[0]
    kept = sorted(file.name for file in first.iterdir())
    assert evaluate.main([str(first), "--tasks", "3", "--steps", "1"]) == 0
    (found,) = (run / "evaluation").iterdir()
    assert json.loads(found.read_text())["iteration"] < runs.load(run)[1].iteration
    whole = checkpoints.load(run)
    assert train.main(["--resume", str(first), "--no-evaluate"]) == 0
    assert sorted(file.name for file in first.iterdir()) == kept
    assert_equal(whole, checkpoints.load(run))  # the same way once more


def test_a_configuration_that_was_edited_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate", "--lr", "0.01") == 0
    config = json.loads((run / "config.json").read_text())
    runs.write_json(run / "config.json", {**config, "lr": 0.5, "unknown": 1})
    step = next((run / "checkpoints").glob("step_*"))
    for argv in ([str(run)], [str(step)]):
        assert evaluate.main([*argv, "--tasks", "2"]) == 2
        assert "says lr = 0.5, but the checkpoint was trained with 0.01" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--env-steps", "4000"]) == 2
    runs.write_json(run / "config.json", config)
    assert train.main(["--resume", str(run), "--env-steps", "4000", "--no-evaluate"]) == 0


def test_a_machine_without_git_trains_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert runs.system(torch.device("cpu"))["commit"] is None


def test_software_that_has_changed_since_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edited plug-ins whoever opens the run, replaced packages who trains on; a warning fails a test that is silent."""
    (tmp_path / "my_rules.py").write_text("from examples.own_rule import SignSGD\n")
    monkeypatch.syspath_prepend(tmp_path)
    run, allow = tmp_path / "run", ["--plugin", "my_rules:SignSGD"]
    assert train_tiny(run, "--rule", allow[1], "--no-evaluate", "--env-steps", "200") == 0
    made = json.loads((run / "system.json").read_text())["plugins"]["my_rules:SignSGD"]
    assert made == hashlib.sha256((tmp_path / "my_rules.py").read_bytes()).hexdigest()
    resume = ["--resume", str(run), *allow, "--no-evaluate", "--env-steps"]
    assert train.main([*resume, "400"]) == 0
    with (tmp_path / "my_rules.py").open("a") as file:
        file.write("# edited\n")
    assert train.main([*resume, "600"]) == 0  # this process has imported it as it was
    plugins._fingerprint.cache_clear()  # another process
    monkeypatch.setattr(runs, "version", lambda name: "0.0" if name == "numpy" else metadata.version(name))
    edited = re.escape(f"{run}: the module of my_rules:SignSGD has changed since this run was trained")
    with pytest.warns(UserWarning, match=edited) as told:
        assert evaluate.main([str(run), *allow, "--tasks", "2"]) == 0
    assert len(told) == 1
    replaced = re.escape(f"continues with numpy 0.0 instead of {metadata.version('numpy')}; results may not")
    with pytest.warns(UserWarning, match=edited), pytest.warns(UserWarning, match=replaced):
        assert train.main([*resume, "800"]) == 0
    assert train.main([*resume, "1000"]) == 0  # said once


LOCKS = (
    "import sys, pathlib; from experiments import runs\nwith runs.locked(pathlib.Path(sys.argv[1])): print(); input()"
)


def test_a_run_is_trained_by_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate") == 0
    command = [sys.executable, "-c", LOCKS, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        for flags in (["--resume", str(run), "--env-steps", "9000"], ["navigation-fixed", "--output", str(run)]):
            assert train.main(flags) == 2
            assert f"{run}: another process is using this folder; wait for it, or stop it" in capsys.readouterr().err
        other.kill()
    assert train.main(["--resume", str(run), "--no-evaluate"]) == 0


def test_a_file_system_without_locks_is_told_and_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(runs.fcntl, "flock", none)
    with pytest.warns(
        UserWarning, match=r"run cannot be locked \(Function not implemented\); make sure that no other process"
    ):
        assert train_tiny(tmp_path / "run", "--no-evaluate") == 0


def test_whoever_has_the_lock_knows_that_a_run_has_ended(tmp_path: Path) -> None:
    """Whatever process has its number now, as the first always is one."""
    run = tmp_path / "run"
    run.mkdir()
    runs.write_json(run / "config.json", {})
    runs.write_json(run / "status.json", runs.running() | {"process": 1})
    with pytest.raises(InputError, match="it has no checkpoint yet; wait for one"):
        runs.load(run / ".")
    assert train_tiny(run, "--no-evaluate") == 0


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.time, "strftime", lambda form: "now")
    found = [runs.place(SMALL.model_copy(update={"benchmark": "a.b:C"}), None) for _ in range(3)]
    assert [folder.name.removeprefix("a.b.C__meta-sgd__s0__") for folder in found] == ["now", "now-2", "now-3"]
    assert all(folder.is_dir() and folder.parent.name == "runs" for folder in found)
    assert runs.place(SMALL, tmp_path / "there") == tmp_path / "there"


def test_rows_that_are_none_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--no-evaluate", "--save-every", "1") == 0
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(["{", *rows]) + "\n")
    assert train.main(["--resume", str(run), "--env-steps", "9000"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_test_tasks_that_cannot_be_had_are_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TaskBenchmark, "is_training", lambda self, task: torch.ones(len(task["goal_x"])).bool())
    assert train_tiny(tmp_path / "leaky") == 2
    assert "training tasks" in capsys.readouterr().err and not (tmp_path / "leaky").exists()
    assert train_tiny(tmp_path / "leaky", "--no-evaluate") == 0


def test_a_comparison_takes_no_others_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert train_tiny(run, "--no-evaluate") == 0
    assert compare.main(["navigation-fixed", "--output", str(run)]) == 2
    assert "holds a run; choose another --output" in capsys.readouterr().err
    other.mkdir()
    runs.write_json(other / "comparison.json", {"config": {"benchmark": "bandit-5"}})
    assert compare.main(["navigation-fixed", "--output", str(other)]) == 2
    assert "holds a comparison on bandit-5, not a comparison on navigation-fixed; choose" in capsys.readouterr().err


def test_a_task_of_ones_own_is_made_by_a_family_that_can() -> None:
    foreign: Any = SimpleNamespace(family=SimpleNamespace())
    with pytest.raises(InputError, match=r"--constants: expected an envs\.Family, .* got SimpleNamespace; evaluate on"):
        evaluate.one_task(foreign, ("gravity=12",))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="use --device cpu"):
        runs.pick_device("cuda:99")
    assert runs.pick_device("auto") == torch.device("cpu")


def test_divergence_ends_with_its_own_code_and_leaves_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step size of a million: the run stops in one line, says so in status.json, and can still be looked at."""
    run = tmp_path / "run"
    assert train_tiny(run, "--lr", "1e30", "--no-evaluate", "--save-every", "1") == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and "lower the step sizes" in error
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "failed" and "lower the step sizes" in status["reason"]


def test_the_folder_of_a_run_that_failed_at_once_is_free_and_any_other_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_tiny(run, "--log-std", "1000", "--patience", "0", "--no-evaluate") == 4
    assert json.loads((run / "status.json").read_text())["iterations"] == 0
    assert train_tiny(run, "--no-evaluate") == 0
    assert json.loads((run / "config.json").read_text())["log_std"] < 10
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][0] == 1
    assert train_tiny(run, "--no-evaluate") == 2
    (run / "status.json").unlink()
    assert train_tiny(run, "--no-evaluate") == 2
    assert (
        capsys.readouterr().err.count("already holds a run; choose another --output, or continue it with --resume") == 2
    )
    shutil.rmtree(run / "checkpoints")  # by somebody who needed the room, and keeps the rest
    (run / "status.json").write_text('{"status": "finished", "iterations": 20}')
    assert train_tiny(run, "--no-evaluate") == train.main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert "choose another --output, as its checkpoints were removed" in error and "cannot be loaded, as its" in error


def test_a_run_killed_before_its_first_checkpoint_leaves_a_free_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, status = tmp_path / "run", tmp_path / "run" / "status.json"
    code = "import os, sys, torch; from pathlib import Path; from experiments import runs, train; from tests import *\n"
    code += "train.log_iteration = lambda *_, **__: os.kill(os.getpid(), 9)\n"
    code += f"from tests.test_experiments import train_tiny; train_tiny(Path({str(run)!r}), '--no-evaluate')"
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    assert killed.returncode == -9 and json.loads(status.read_text())["status"] == "running"
    dead = json.loads(status.read_text())
    assert train.main(["--resume", str(run)]) == 2
    assert "ended before its first checkpoint; train again with the same --output" in capsys.readouterr().err
    status.write_text(
        json.dumps(dead | {"process": os.getppid()})
    )  # which might still be at work, if nobody has a lock
    assert train.main(["--resume", str(run)]) == 2
    assert f"or remove the folder if process {os.getppid()} on {dead['host']} has ended" in capsys.readouterr().err
    for other, words in (
        (dead | {"host": "elsewhere"}, f"or remove the folder if process {dead['process']} on elsewhere has ended"),
        ({"status": "running"}, "or remove the folder if no process uses it"),  # by an earlier version
    ):
        status.write_text(json.dumps(other))
        assert train_tiny(run, "--no-evaluate") == train.main(["--resume", str(run)]) == 2
        assert capsys.readouterr().err.count(f"it has no checkpoint yet; wait for one, {words}\n") == 2
    status.write_text(json.dumps(dead))
    assert train_tiny(run, "--no-evaluate") == 0
    assert json.loads(status.read_text())["status"] == "finished"


@pytest.mark.parametrize("when", [3, 13])  # before and after the first checkpoint, which is iteration 10
def test_the_demo_goes_on_where_it_was_interrupted_and_repeats_nothing(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = {"hidden": (8,), "tasks": 2, "episodes": 4, "query_episodes": 4, "horizon": 10}
    monkeypatch.setattr(demo, "preset", lambda name: PRESETS[name][1].model_copy(update=tiny))
    monkeypatch.setattr(demo, "BUDGETS", {"navigation-fixed-best": 3000, "cartpole-polarity-best": 1500})
    real, calls = train.rate_metrics, []

    def die(setup: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return real(setup)

    monkeypatch.setattr(train, "rate_metrics", die)
    assert demo.main([]) == 130
    assert demo.main([]) == 0
    rows = [json.loads(line) for line in next(tmp_path.glob("runs/demo/nav*/metrics.jsonl")).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > 13
    first = capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/demo/*/figures/before_and_after.gif"))) == 2
    trained = len(calls)
    assert demo.main([]) == 0
    second = capsys.readouterr().out
    assert len(calls) == trained and second.count("already trained") == 2

    def tables(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("  ") and "already trained" not in line]

    assert tables(second) == tables(first)[-len(tables(second)) :]


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--seed=3", 2), ("navigation-fixed", 2)])
def test_the_demo_does_not_start_when_asked_for_help_or_for_what_it_cannot_do(
    argument: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "show", lambda device: pytest.fail("the demonstration began"))
    with pytest.raises(SystemExit) as ended:
        demo.main([argument])
    assert ended.value.code == code and not list(tmp_path.iterdir())
    capsys.readouterr()


def test_help_lists_what_a_flag_can_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["navigation-fixed", "--help"])
    assert ended.value.code == 0
    shown = "".join(line.strip("│ ") + " " for line in capsys.readouterr().out.splitlines())
    for table in (RULES, INNER_LOSSES, META_OPTIMIZERS):
        assert all(name in shown for name in table)


@pytest.mark.parametrize(("script", "commands"), [(train, 3), (check, 4)])
def test_help_has_a_command_a_line(script: Any, commands: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    shown = [line for line in capsys.readouterr().out.splitlines() if "python experiments/" in line]
    assert len(shown) == commands and all(line.startswith("    python experiments/") for line in shown)


def test_a_warning_of_any_script_is_one_line() -> None:
    code = "import sys, warnings; from experiments.errors import script; "
    code += "sys.exit(script(lambda argv: warnings.warn('the module of x has changed', stacklevel=2))([]))"
    command = [sys.executable, "-W", "default", "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stderr
    assert told == "warning: the module of x has changed\n"


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = [sys.executable, "-c", "from experiments.errors import script; import sys;"]
    command[-1] += "sys.exit(script(lambda argv: [print('x' * 1000, flush=True) for _ in range(1000)])([]))"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def test_another_broken_pipe_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(argv: list[str]) -> None:
        raise BrokenPipeError(32, "Broken pipe", "of a worker")

    assert script(broken)([]) == 6
    assert "Broken pipe: of a worker" in capsys.readouterr().err


def test_constants_that_a_benchmark_fixes_stay_so() -> None:
    """Corners are felt from 2 away, whatever `RingNavigation` has by default."""
    benchmark = build(PRESETS["navigation-corners-best"][1], torch.device("cpu")).benchmark
    task = held_out_tasks(benchmark, Protocol(constants=("angle=0.1",)))
    expected = benchmark.sample("test", 1, generator=torch.Generator().manual_seed(0))
    assert float(task["reach"]) == float(expected["reach"]) != RingNavigation.parameters["reach"].default
    assert float(task["angle"]) == pytest.approx(0.1)
