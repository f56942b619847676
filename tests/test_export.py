"""Exports act like the policies they are made from, without this project; exported step sizes adapt equally."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metarl import MLP, CategoricalPolicy, ExponentiatedGradient, GaussianPolicy, Learner, ModuleNetwork, vpg
from metarl.export import PerParameterSGD, learned_rates, mlp_of, save_policy, times_scale, to_module
from metarl.rules import (
    SGD,
    Chain,
    ClipByNorm,
    LearnedSGD,
    Masked,
    MetaCurvature,
    MetaSGD,
    Offset,
    PerLayerSGD,
    Positive,
    UpdateRule,
)
from tests.helpers import categorical_policy, gaussian_policy, one_task, randomize, seeded
from tests.helpers import double_trace as traced


@pytest.mark.parametrize("make", [gaussian_policy, categorical_policy])
def test_the_module_gives_the_policys_means_or_logits(make: Any) -> None:
    policy = make(hidden=(8, 5))
    randomize(policy, 1)
    params = {name: p + 0.1 for name, p in policy.initial().items()}
    module = to_module(policy, params)
    x = torch.randn(7, next(module.parameters()).shape[1], generator=seeded(2))
    torch.testing.assert_close(module(x), policy(params, x)[0], rtol=1e-6, atol=1e-6)
    assert [type(layer).__name__ for layer in module] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]


@pytest.mark.parametrize("hidden", [(), (8,)], ids=str)
def test_scaled_inputs_become_weights_and_their_step_sizes_too(hidden: tuple[int, ...]) -> None:
    policy = GaussianPolicy(MLP(3, hidden, 2, input_scale=torch.tensor([0.1, 2.0, 30.0]), generator=seeded(0)), 2)
    randomize(policy, 1)
    params = policy.initial()
    x = torch.randn(7, 3, generator=seeded(2))
    module = to_module(policy, params)
    torch.testing.assert_close(module(x), policy(params, x).mean, rtol=1e-5, atol=1e-6)

    learner = Learner(policy, MetaSGD(params, initial=(0.01, 0.5), generator=seeded(1)), inner=vpg, outer=vpg)
    rates = learned_rates(learner)
    grads = torch.autograd.grad(policy(params, x).mean.square().sum(), list(params.values()), allow_unused=True)
    moved = {
        name: p.detach() if g is None else p.detach() - rates[name] * g
        for (name, p), g in zip(params.items(), grads, strict=True)
    }
    outside = [leaf for name, leaf in times_scale(mlp_of(policy), rates, -2).items() if name.startswith("network")]
    optimizer = PerParameterSGD(module.parameters(), outside)
    module(x).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(module(x), policy(moved, x).mean, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(times_scale(mlp_of(gaussian_policy()), moved, -1)[name], moved[name]) for name in moved)


def test_a_saved_policy_acts_without_this_project(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    policy = GaussianPolicy(MLP(3, (6,), 2, activation=torch.relu, generator=seeded(0)), 2)
    randomize(policy.network, 1)
    params = policy.initial() | {"log_std": torch.full((2,), -7.0)}
    save_policy(tmp_path / "policy.safetensors", policy, params)
    x = torch.tensor([[0.1, -0.4, 2.0]])
    script = f"""
import torch
from safetensors import safe_open
file = safe_open({str(tmp_path / "policy.safetensors")!r}, "pt")
about, weights = file.metadata(), {{name: file.get_tensor(name) for name in file.keys()}}
sizes = [int(size) for size in about["sizes"].split()]
layers = []
for a, b in zip(sizes[:-1], sizes[1:]):
    layers += [torch.nn.Linear(a, b), {{"relu": torch.nn.ReLU(), "tanh": torch.nn.Tanh()}}[about["activation"]]]
log_std = weights.pop("log_std")
network = torch.nn.Sequential(*layers[:-1])
network.load_state_dict(weights)
print(about["distribution"], *network(torch.tensor({x.tolist()})).flatten().tolist(), *log_std.tolist())
import sys
assert "metarl" not in sys.modules
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    kind, *numbers = found.stdout.split()
    acted = policy(params, x)
    expected = [*acted.mean.flatten().tolist(), *acted.log_std.flatten().tolist()]
    assert kind == "gaussian" and [float(n) for n in numbers] == pytest.approx(expected, rel=1e-5)
    assert expected[-1] == -5.0  # the floor of the policy is the file's


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_a_file_tells_how_to_rebuild_its_policy(kind: str, activation: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors import safe_open

    network = MLP(3, (6, 4), 2, activation=getattr(torch, activation), head_gain=1.0, generator=seeded(0))
    policy = CategoricalPolicy(network) if kind == "categorical" else GaussianPolicy(network, 2)
    randomize(policy, 1)
    params = {name: p.detach() + 0.1 for name, p in policy.initial().items()}
    save_policy(tmp_path / "policy.safetensors", policy, params)
    with safe_open(tmp_path / "policy.safetensors", "pt") as file:
        about, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    assert about == {"distribution": kind, "activation": activation, "sizes": "3 6 4 2"}
    layers = [f"{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
    assert sorted(weights) == sorted(layers + ["log_std"] * (kind == "gaussian"))
    x = torch.randn(7, 3, generator=seeded(2))
    hidden = x
    for i in (0, 2, 4):
        hidden = hidden @ weights[f"{i}.weight"].mT + weights[f"{i}.bias"]
        hidden = hidden if i == 4 else getattr(torch, activation)(hidden)
    torch.testing.assert_close(hidden, policy(params, x)[0], rtol=1e-5, atol=1e-6)


RULES: dict[str, Any] = {
    "sgd": lambda p: SGD(0.3),
    "learned": lambda p: LearnedSGD(0.3),
    "layers": lambda p: PerLayerSGD(p, initial=0.3),
    "meta-sgd": lambda p: MetaSGD(p, initial=(0.01, 0.5), generator=seeded(1)),
    "positive": lambda p: MetaSGD(p, initial=0.1, parameterisation=Positive()),
    "masked": lambda p: Masked(MetaSGD(p, initial=0.2), "head", p),
}


@pytest.mark.parametrize("name", RULES)
def test_the_optimizer_takes_the_learners_step(name: str) -> None:
    learner, trace = traced(lambda policy: RULES[name](policy.initial()), steps=1)
    batch = one_task(trace.support[0], 0)
    expected, _ = learner.step(*learner.start(), batch)
    rates = learned_rates(learner)
    leaves = {key: nn.Parameter(p.detach().clone()) for key, p in learner.policy.initial().items()}
    optimizer = PerParameterSGD(leaves.values(), [rates[key] for key in leaves])
    vpg(learner.policy(leaves, batch.observation), batch).backward()
    optimizer.step()
    for key, leaf in leaves.items():
        torch.testing.assert_close(leaf.detach(), expected[key].detach(), rtol=1e-9, atol=1e-12)


FROZEN = ["network.hidden.0.weight", "network.hidden.0.bias", "network.head.weight", "network.head.bias", "log_std"]


@pytest.mark.parametrize("name", FROZEN)
def test_a_policy_with_a_frozen_part_is_exported_whole(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file

    network = MLP(3, (8,), 2, input_scale=torch.tensor([0.1, 2.0, 30.0]), head_gain=1.0, generator=seeded(0))
    policy = GaussianPolicy(network, 2)
    randomize(policy, 1)
    x = torch.randn(7, 3, generator=seeded(2))
    params = {key: p.detach() + 0.1 for key, p in policy.initial().items() if key != name}  # adapted, but for one
    expected = policy({**policy.initial(), **params}, x)
    policy.get_parameter(name).requires_grad_(False)
    module = to_module(policy, params)
    torch.testing.assert_close(module(x), expected.mean, rtol=1e-5, atol=1e-5)
    save_policy(tmp_path / "policy.safetensors", policy, params)
    saved = load_file(tmp_path / "policy.safetensors")
    assert torch.equal(saved.pop("log_std"), expected.log_std[0])
    assert all(torch.equal(saved[key], leaf) for key, leaf in module.state_dict().items())
    rule = MetaSGD(policy.initial(), initial=(0.01, 0.5), generator=seeded(1))
    rates = learned_rates(Learner(policy, rule, inner=vpg, outer=vpg))
    assert rates.keys() == policy.initial().keys() and name not in rates
    assert times_scale(network, rates, -2).keys() == rates.keys()


def test_schedulers_and_checkpoints_work() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = PerParameterSGD([p], [torch.tensor([0.1, 0.2, 0.4])])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(p.detach(), torch.ones(3) - 1.5 * torch.tensor([0.1, 0.2, 0.4]))
    twin = PerParameterSGD([nn.Parameter(torch.ones(3))], [0.0])
    twin.load_state_dict(optimizer.state_dict())
    assert torch.equal(twin.param_groups[0]["rate"], optimizer.param_groups[0]["rate"])
    assert twin.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    "make",
    [lambda p: PerParameterSGD([p], [0.1]), lambda p: ExponentiatedGradient([p])],
    ids=["per parameter", "exponentiated"],
)
def test_optimizers_tell_the_loss_of_a_closure_and_step_on_its_gradients(
    make: Callable[[nn.Parameter], torch.optim.Optimizer],
) -> None:
    p, twin = (nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    optimizer, other = make(p), make(twin)
    assert optimizer.step() is None and optimizer.step(lambda: 3.0) == 3.0
    assert p.tolist() == [1.0, 2.0]  # no gradient, no step

    def closure() -> float:
        loss = (p * torch.tensor([1.0, -3.0])).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == -5.0
    twin.grad = torch.tensor([1.0, -3.0])
    other.step()
    assert torch.equal(p, twin) and bool((p != torch.tensor([1.0, 2.0])).all())


NOT_RATES: dict[str, Any] = {
    "clip": lambda p: Chain(ClipByNorm(0.01), SGD(0.1)),
    "a limit that small gradients do not reach": lambda p: Chain(ClipByNorm(10.0), SGD(0.1)),
    "a limit that only large gradients reach": lambda p: Chain(ClipByNorm(100.0), SGD(0.1)),
    "offset": lambda p: Offset(SGD(0.1), p),
    "curvature": lambda p: Chain(MetaCurvature(p), SGD(0.1)),
}


@pytest.mark.parametrize("name", NOT_RATES)
def test_rules_that_are_more_than_step_sizes_are_refused(name: str) -> None:
    policy = gaussian_policy()
    rule: UpdateRule = NOT_RATES[name](policy.initial())
    randomize(rule, 1)
    with pytest.raises(ValueError, match="not one step size per parameter"):
        learned_rates(Learner(policy, rule, inner=vpg, outer=vpg))


def test_what_cannot_be_exported_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a Gaussian or categorical policy on an MLP"):
        to_module(GaussianPolicy(ModuleNetwork(nn.Linear(2, 2)), 2), {})
    with pytest.raises(TypeError, match="on an MLP with context inputs"):
        to_module(GaussianPolicy(MLP(2, (3,), 2, context=2, generator=seeded(0)), 2), {})
    policy = gaussian_policy()
    with pytest.raises(ValueError, match="parameters of one task"):
        to_module(policy, {name: torch.stack([p, p]) for name, p in policy.initial().items()})
    for frozen in (".weight", "network"):  # what is left is stacked all the same
        policy = gaussian_policy()
        for name, p in policy.named_parameters():
            p.requires_grad_(frozen not in name)
        with pytest.raises(ValueError, match="parameters of one task"):
            save_policy(tmp_path / "x", policy, {name: torch.stack([p, p]) for name, p in policy.initial().items()})
    with pytest.raises(ValueError, match="got only frozen ones: it has no step sizes"):
        learned_rates(Learner(gaussian_policy().requires_grad_(False), SGD(0.1), inner=vpg, outer=vpg))
    with pytest.raises(TypeError, match="learner: expected a Learner, got a GaussianPolicy"):
        learned_rates(gaussian_policy())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a rate for each of 1"):
        PerParameterSGD([nn.Parameter(torch.ones(2))], [])
    with pytest.raises(ValueError, match="does not fit"):
        PerParameterSGD([nn.Parameter(torch.ones(2))], [torch.ones(3, 2)])
