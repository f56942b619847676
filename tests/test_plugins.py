"""Benchmarks and families from outside, by import path or entry point, and the check script for families."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch

from envs import BENCHMARKS, TaskBenchmark
from experiments import check, evaluate, lookup, names, report, runs, train
from experiments.build import build, build_benchmark
from experiments.config import Config
from experiments.errors import InputError
from experiments.reporting import sources
from metarl.rules import SGD

TINY = ["--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4", "--env-steps", "200"]

PLUGIN = """
import torch
from torch import nn

from envs import CartPole, Navigation, Range, TaskBenchmark
from metarl import CategoricalPolicy, GaussianPolicy, ModuleNetwork, lvc, vpg
from metarl.distributions import Gaussian
from metarl.losses import masked_mean
from metarl.rules import SGD
from metarl.trees import subtree

def short(horizon=5):
    return TaskBenchmark("short", Navigation(horizon))

def rule(params):
    return SGD(0.1)

made_rule = SGD(0.1)

class Spare(SGD):  # for a later change
    def __init__(self, params):
        super().__init__(0.1)
        self.spare = nn.Parameter(torch.zeros(()))

class Heads(GaussianPolicy):  # mean and standard deviation from one network
    def forward(self, params, observation):
        mean, log_std = self.network(subtree(params, "network"), observation).chunk(2, -1)
        return Gaussian(mean, log_std + self.log_std.detach())

def heads(observations, actions):
    policy = Heads(ModuleNetwork(nn.Linear(2, 4)), 2)
    policy.log_std.requires_grad_(False)
    return policy

def narrow(observations, actions):
    return GaussianPolicy(ModuleNetwork(nn.Linear(2, 1)), 1)

def policy(observations, actions):
    return CategoricalPolicy(ModuleNetwork(nn.Linear(4, 2)))

def loss(distribution, batch):
    return vpg(distribution, batch) + 0.1 * masked_mean(distribution.entropy(), batch.mask)

class Signal(nn.Module):  # for cartpole-polarity alone
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, distribution, batch):
        assert batch.observation.shape[-1] == 4
        return lvc(distribution, batch._replace(advantage=batch.advantage + batch.observation @ self.weight))

signal = Signal()

def each(distribution, batch):
    return distribution.log_prob(batch.action)

class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(())

    def forward(self, distribution, batch):
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * batch.advantage.mean()
        return vpg(distribution, batch) * (1.0 + self.mean)

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, distribution, batch):
        return vpg(distribution, batch._replace(advantage=self.layer(batch.observation).squeeze(-1)))

class Drawn(SGD):
    def __init__(self, params):
        super().__init__(0.1)
        self.layer = nn.Linear(1, 1)

    def update(self, step, state):
        factor = self.layer(step.loss.reshape(1)).squeeze()
        return {name: -factor * g for name, g in step.grads.items()}, state

class Branching(SGD):
    def __init__(self, params):
        super().__init__(0.1)

    def update(self, step, state):
        return super().update(step, state) if step.loss > 0 else super().update(step, state)

def unlucky():
    raise KeyError("nothing here")

def infinite(distribution, batch):
    return vpg(distribution, batch) / 0.0

def gauss(distribution, batch):
    return masked_mean(distribution.mean.square().sum(-1), batch.mask)

class Namespace:
    nested = short()

heavy = CartPole(5, pole_mass=Range(0.1, 0.5))
same = CartPole(5)
number = 3

class Foreign:  # a family that is none of envs
    def __getattr__(self, name):
        if name not in ("observation_space", "action_space", "horizon", "sample", "reset", "observe", "step"):
            raise AttributeError(name)
        return getattr(heavy, name)

foreign = Foreign()

class Dull(Foreign):
    def observe(self, task, state):
        return 0 * heavy.observe(task, state)

dull = Dull()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module outside of this repository that nobody has imported."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "their_plugin.py").write_text(PLUGIN)
    (tmp_path / "elsewhere" / "their_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    monkeypatch.delitem(sys.modules, "their_plugin", raising=False)
    return "their_plugin"


@pytest.fixture
def installed(plugin: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Packages that offer names, among them one of ours, one twice and one that cannot be imported."""
    offered = [
        ("their-short", "their_plugin:short"),
        ("their-short", "their_plugin:short"),  # the same package, met twice on the path
        ("their-nested", "their_plugin:Namespace.nested [extra]"),
        ("navigation-fixed", "their_plugin:short"),
        ("disputed", "their_plugin:short"),
        ("disputed", "another_plugin:short"),
        ("broken", "their_broken:benchmark"),
        ("vanished", "their_plugin:vanished"),
    ]
    points = [EntryPoint(name, value, "metarl.benchmarks") for name, value in offered]
    points += [EntryPoint("their-rule", "their_plugin:rule", "metarl.rules"), EntryPoint("x", "y:z", "console_scripts")]
    points += [EntryPoint("their-loss", "their_plugin:loss", "metarl.losses")]

    def entry_points(**given: Any) -> EntryPoints:
        return EntryPoints(points).select(**given)

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    return plugin


def test_an_installed_benchmark_is_reached_by_its_name_and_imported_only_then(installed: str) -> None:
    assert build_benchmark(Config()).name == "navigation-fixed"
    with pytest.raises(InputError, match=r"did you mean 'their-short'\?.*known are navigation-fixed.*their-nested"):
        build_benchmark(Config(benchmark="their-shor"))
    assert installed not in sys.modules
    assert build_benchmark(Config(benchmark="their-short", horizon=7)).family.horizon == 7
    assert build_benchmark(Config(benchmark="their-nested")).name == "short"


def test_a_rule_is_too(installed: str) -> None:
    rule = lookup.choose_or_import("rule", "their-rule", names.RULES)({"w": torch.zeros(2)})
    assert isinstance(rule, SGD)
    with pytest.raises(InputError, match="did you mean 'their-rule'"):
        lookup.choose_or_import("rule", "their-rul", names.RULES)


def test_a_name_of_ours_cannot_be_taken(installed: str) -> None:
    assert build_benchmark(Config(benchmark="navigation-fixed")).family.horizon == 100
    assert installed not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("disputed", "offered by several packages; give one of their_plugin:short, another_plugin:short"),
        ("broken", "'broken' cannot be imported: No module named 'a_module_that_is_not_there'"),
        ("vanished", "'vanished' cannot be imported: module 'their_plugin' has no attribute 'vanished'"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    name: str, message: str, installed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["navigation-fixed", "--benchmark", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_bare_family_becomes_a_benchmark(plugin: str, tmp_path: Path) -> None:
    benchmark = build_benchmark(Config(benchmark="their_plugin:heavy"))
    assert isinstance(benchmark, TaskBenchmark) and benchmark.splits == ("validation", "test")
    assert benchmark.name == "their_plugin:heavy" and benchmark.family.horizon == 5
    made = build_benchmark(Config(benchmark="envs:Navigation", horizon=9))
    assert made.family.horizon == 9 and made.splits == ("validation", "test")
    run = tmp_path / "run"
    flags = ["--benchmark", "their_plugin:heavy", *TINY, "--no-evaluate", "--output", str(run)]
    assert train.main(["navigation-fixed", *flags]) == 0
    assert evaluate.main([str(run), "--tasks", "2", "--steps", "1", "--plugin", "their_plugin:heavy"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_plugin:number", "is of type int; expected a metarl.types.Benchmark"),
        (
            "their_plugin:foreign",
            "is of type Foreign; expected a metarl.types.Benchmark, such as an envs.TaskBenchmark",
        ),
        ("their_plugin:same", "expected a training range that leaves tasks"),
        ("their_plugin", "unknown benchmark"),
        ("their_plugn:short", "PYTHONPATH"),
        ("their_plugin:", "cannot be imported"),
        (":short", "cannot be imported"),
    ],
)
def test_what_is_no_benchmark_is_refused(
    name: str, message: str, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["navigation-fixed", "--benchmark", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


@pytest.mark.parametrize("name", ["their_plugin:short", "their_plugin:heavy", "their_plugin:foreign", "bandit-5"])
def test_the_shell_says_that_nothing_was_found(name: str, plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name in BENCHMARKS or name.startswith(plugin)
    assert check.main(["family", name]) == 0
    assert capsys.readouterr().out == f"{name}: nothing found\n"


def test_a_policy_that_makes_more_of_its_network_is_trained(
    plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--policy", "their_plugin:heads", "--rule", "meta-sgd"]
    assert check.main(["policy", "their_plugin:heads", "--benchmark", "navigation-fixed"]) == 0
    tiny = [one for one in TINY if one not in ("--hidden", "8")]
    assert train.main(["navigation-fixed", *own, *tiny, "--no-evaluate", "--output", str(tmp_path / "run")]) == 0
    whitened = ["--rule", "whitened-outputs", "--output", str(tmp_path / "x")]
    assert train.main(["navigation-fixed", "--policy", "their_plugin:heads", *tiny, *whitened]) == 2
    assert "has 4 outputs, not 2; python experiments/check.py policy their_plugin" in capsys.readouterr().err
    assert train.main(["navigation-fixed", "--policy", "their_plugin:narrow", "--output", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "error: policy 'their_plugin:narrow': samples of" in error and not (tmp_path / "x").exists()


def test_the_shell_says_what_was_found_and_ends_with_1(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["family", "their_plugin:same"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "- sample always returns the same task: there is nothing to adapt to; vary at least one constant",
        "their_plugin:same: 1 finding(s)",
    ]
    assert check.main(["family", "their_plugin:dull"]) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ["rule", "meta-sgd"],
        ["policy", "mlp"],
        ["policy", "their_plugin:policy", "--benchmark", "cartpole-polarity"],
        ["rule", "their_plugin:rule"],
        ["loss", "loaded-dice"],
        ["loss", "their_plugin:loss"],
        ["loss", "their_plugin:Signal", "--benchmark", "cartpole-polarity"],
    ],
)
def test_the_shell_checks_rules_and_losses(argv: list[str], plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(argv) == 0
    assert capsys.readouterr().out == f"{argv[1]}: nothing found\n"
    assert check.main(["loss", "their_plugin:Signal", "--benchmark", "navigation-fixed"]) == 1
    assert check.main(["loss", "their_plugin:each"]) == 1
    assert check.main(["rule", "their_plugin:loss"]) == 1
    assert check.main(["policy", "their_plugin:policy"]) == 1  # navigation's observations are others


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["famly", "cartpole-wide"], "did you mean 'family'?"),
        (["family"], "expected a family to check"),
        (["family", "cartpole-wid"], "did you mean 'cartpole-wide'?"),
        (["family", "their_plugin:number"], "is of type int; expected a benchmark or a family"),
        (["family", "their_plugin:heavy", "--horizon", "3"], "leave --horizon out"),
        (["family", "cartpole-wide", "--horizon", "0"], "horizon: expected"),
        (
            ["family", "their_plugin:rule"],
            "benchmark 'their_plugin:rule': rule() missing 1 required positional argument",
        ),
        (["family", "cartpole-wide", "--benchmark", "cartpole-wide"], "--benchmark is for a policy or a loss"),
        (["rule", "meta-sdg"], "did you mean 'meta-sgd'?"),
        (["rule", "their_plugin:number"], "is of type int; expected a function or class that makes a rule"),
        (["rule", "their_plugin:made_rule"], "is of type SGD; expected a function or class that makes a rule"),
        (["policy", "their_plugin:made_rule"], "is of type SGD; expected a function or class that makes a policy"),
        (["rule", "maml", "--horizon", "3"], "--horizon is for a family"),
        ([], "expected what to check, family, policy, rule, loss, and its name; see --help"),
        (["loss", "lcv"], "did you mean 'lvc'?"),
        (["loss", "their_plugin:number"], "is of type int; expected a loss"),
        (["policy", "their_plugin:number"], "is of type int; expected a function or class that makes a policy"),
        (["rule", "meta-sgd", "--benchmark", "bandit-5"], "--benchmark is for a policy or a loss; leave it out"),
        (["loss", "lvc", "--benchmark", "cartpole-wid"], "did you mean 'cartpole-wide'?"),
    ],
)
def test_nothing_to_check_is_one_line_and_exit_code_2(
    argv: list[str], message: str, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_stored_name_of_an_installed_package_is_imported_only_if_allowed(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert train.main(["navigation-fixed", "--benchmark", "their-short", *TINY, "--no-evaluate", "--output", run]) == 0
    monkeypatch.delitem(sys.modules, installed)
    assert evaluate.main([run]) == 2
    assert "--plugin their-short" in capsys.readouterr().err and installed not in sys.modules
    assert evaluate.main([run, "--tasks", "2", "--steps", "1", "--plugin", "their-short"]) == 0
    monkeypatch.delitem(sys.modules, installed)
    assert report.main([run, "--no-moving"]) == 0 and installed not in sys.modules
    assert report.main([run, "--no-moving", "--plugin", "their-short"]) == 0 and installed in sys.modules


LOSSES = ("--inner-loss", "their_plugin:Signal", "--outer-loss", "their-loss")


def test_a_run_with_losses_from_outside_goes_on_where_that_is_allowed(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert train.main(["cartpole-polarity", *LOSSES, *TINY, "--no-evaluate", "--output", run]) == 0
    for allowed in ((), ("their_plugin:Signal",), ("their-loss",)):
        monkeypatch.delitem(sys.modules, installed, raising=False)
        flags = [part for name in allowed for part in ("--plugin", name)]
        assert evaluate.main([run, *flags]) == 2
        told = capsys.readouterr().err
        refused = {"their_plugin:Signal", "their-loss"} - set(allowed)
        assert all(f"--plugin {name}" in told for name in refused) and installed not in sys.modules
    setup, _ = runs.load(run, plugins=("their_plugin:Signal", "their-loss"))
    weight = next(setup.learner.inner.parameters())  # type: ignore[union-attr]
    assert weight.abs().max() > 0.0  # it has learned, and that was kept


def test_what_is_learned_without_an_effect_is_told_but_not_refused(plugin: str, capsys: Any) -> None:
    assert check.main(["rule", "their_plugin:Spare"]) == 1
    assert "spare is learned but no update in three steps depends on it" in capsys.readouterr().out
    rule = build(Config(rule="their_plugin:Spare"), torch.device("cpu")).learner.rule
    assert type(rule) is sys.modules[plugin].Spare  # type: ignore[attr-defined]


def test_a_module_from_outside_is_built_with_anew(plugin: str) -> None:
    config = Config(benchmark="cartpole-polarity", inner_loss="their_plugin:signal")
    one, two = (build(config, torch.device("cpu")).learner.inner for _ in range(2))
    assert one is not two and one is not sys.modules[plugin].signal  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("inner", "their_plugin:number", "is of type int; expected a loss, or its class"),
        ("inner", "their_plugin:each", "a loss must be one number per task, of shape (); got shape"),
        ("outer", "their_plugin:each", "a loss must be one number per task, of shape (); got shape"),
        (
            "inner",
            "their_plugin:rule",
            "takes 1 positional argument but 2 were given; python experiments/check.py loss",
        ),
        ("outer", "their_plugin:signal", "has parameters, which would learn to make it small"),
        ("inner", "their_plugin:losss", "cannot be imported"),
        ("inner", "their_plugin:Stateful", "the loss differs when called again"),
        ("inner", "their_plugin:infinite", "the loss must be finite; got"),
        ("inner", "their_plugin:gauss", "'Categorical' object has no attribute 'mean'"),
        ("outer", "clippd", "did you mean 'clipped'?"),
    ],
)
def test_what_is_no_loss_is_refused(
    flag: str, name: str, message: str, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["cartpole-polarity", f"--{flag}-loss", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_loss_from_outside_has_no_action_baseline(plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["cartpole-polarity", "--inner-loss", "their_plugin:loss", "--action-baseline"]) == 2
    assert "--action-baseline: expected an inner loss that uses advantages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rule", "their_plugin:Branching"], "the rule raised RuntimeError"),
        (["--benchmark", "their_plugin:unlucky"], "cannot be made, KeyError: 'nothing here'"),
        (["--benchmark", "their_syntax:benchmark"], "cannot be imported, SyntaxError"),
        (["--benchmark", "their_plugin:rule"], "error: benchmark 'their_plugin:rule': rule() missing 1 required"),
    ],
)
def test_what_somebody_elses_code_raises_is_one_line(
    flags: list[str], message: str, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere" / "their_syntax.py").write_text("def benchmark(:\n")
    assert train.main(["cartpole-polarity", *flags, *TINY, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["inner_loss", "rule"])
def test_first_weights_follow_from_the_seed_and_leave_no_trace(field: str, plugin: str) -> None:
    name = {"inner_loss": "their_plugin:Network", "rule": "their_plugin:Drawn"}[field]
    before, found = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        setup = build(Config(benchmark="cartpole-polarity", seed=seed, **{field: name}), torch.device("cpu"))
        part = setup.learner.inner if field == "inner_loss" else setup.learner.rule
        assert isinstance(part, torch.nn.Module)
        found.append(torch.cat([p.detach().flatten() for p in part.parameters()]))
        torch.rand(3)  # whatever happens in between
    torch.set_rng_state(before)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    build(Config(benchmark="cartpole-polarity", **{field: name}), torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)


def test_all_that_a_run_imports_is_allowed_by_a_flag_each(installed: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    flags = ["--benchmark", "their-short", "--rule", "their-rule", "--outer-loss", "their_plugin:loss"]
    assert train.main(["navigation-fixed", *flags, *TINY, "--no-evaluate", "--output", run]) == 0
    allowed = [part for name in flags[1::2] for part in ("--plugin", name)]
    told = ("no held-out evaluation", f"python experiments/evaluate.py {run} {' '.join(allowed)}")
    assert sources.read([Path(run)]).missing[0] == told
    assert evaluate.main(["--tasks", "2", "--steps", "1", *allowed, run]) == 0
    with pytest.raises(
        InputError, match="imports their-short, their-rule, not part of metarl; allow it with --plugin t"
    ):
        runs.load(run, plugins="their_plugin:loss")
    with pytest.raises(InputError, match=r"or in Python with plugins=\['their-short', 'their-rule'\]$"):
        runs.load(run, plugins="their_plugin:loss")


def test_a_run_of_which_nothing_worked_has_not_finished(plugin: str, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    argv = ["navigation-fixed", "--rule", "maml", "--rate", "1e38", *TINY, "--no-evaluate", "--output", str(run)]
    assert train.main(argv) == 4
    assert "none of 1 iterations could be completed" in capsys.readouterr().err
    assert '"failed"' in (run / "status.json").read_text()
