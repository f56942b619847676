"""Policies: stacked parameters, vmap and a loop are equal; constructors draw from their generator only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from envs import CartPole, Navigation
from metarl import (
    MLP,
    CategoricalPolicy,
    Descent,
    GaussianPolicy,
    Learner,
    ModuleNetwork,
    Network,
    Plan,
    Policy,
    explore,
    lifting,
    vpg,
)
from metarl.optimizers.base import meta_gradient, meta_loss
from metarl.policies import FEW, affine, complete, refuse_width, tanh
from metarl.rules import MetaSGD
from metarl.types import Params
from tests.helpers import Table, categorical_policy, gaussian_policy, linear, randomize, seeded


def perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for seed, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers += [linear(a, b, seed=seed), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


UNITS = torch.tensor([0.1, 2.0, 30.0])
NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: MLP(3, (5, 4), 2, head_gain=1.0, generator=seeded(0)),
    "linear": lambda: MLP(3, (), 2, head_gain=1.0, generator=seeded(0)),
    "scaled": lambda: MLP(3, (5, 4), 2, head_gain=1.0, input_scale=UNITS, generator=seeded(0)),
    "relu": lambda: MLP(3, (5,), 2, activation=torch.relu, head_gain=1.0, generator=seeded(0)),
    "module": lambda: ModuleNetwork(perceptron(3, 5, 2)),
    "table": lambda: Table(3, 2),
}
ROWS = [(4,), (6, 4), (2, 6, 4)]  # N; H, N; and one more: with T tasks in front up to four dimensions and O


def stacked_params(policy: Policy, tasks: int) -> Params:
    generator = seeded(1)
    return {
        name: torch.stack([p.detach() + 0.5 * torch.randn(p.shape, generator=generator) for _ in range(tasks)])
        for name, p in policy.initial().items()
    }


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("kind", [GaussianPolicy, CategoricalPolicy])
@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_equals_vmap_equals_a_loop(name: str, kind: type, rows: tuple[int, ...]) -> None:
    network = NETWORKS[name]()
    policy: Policy = GaussianPolicy(network, 2) if kind is GaussianPolicy else CategoricalPolicy(network)
    params = stacked_params(policy, 3)
    observation = torch.randn(3, *rows, 3, generator=seeded(2))
    stacked = policy(params, observation)
    lifted = torch.vmap(policy)(params, observation)
    for leaf, other in zip(stacked, lifted, strict=True):
        assert leaf.shape == (3, *rows, 2)
        torch.testing.assert_close(leaf, other, rtol=1e-5, atol=1e-5)
    for t in range(3):
        alone = policy({key: leaf[t] for key, leaf in params.items()}, observation[t])
        for leaf, other in zip(stacked, alone, strict=True):
            torch.testing.assert_close(leaf[t], other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [NETWORKS["mlp"], NETWORKS["module"]], ids=["mlp", "module"])
def test_parameters_under_unknown_names_are_refused_and_frozen_ones_need_no_name(network: Any) -> None:
    """They were ignored, and the policy acted by its own."""
    policy = CategoricalPolicy(network())
    row, params = torch.ones(3), {name: torch.zeros_like(p) for name, p in policy.initial().items()}
    assert torch.equal(policy(params, row).logits, torch.zeros(2))
    short = {name.removeprefix("network."): p for name, p in params.items()}
    for misnamed in (short, {}, {name: p for name, p in params.items() if not name.endswith("bias")}):
        with pytest.raises(ValueError, match="expected a value for every parameter that is not frozen, .*is missing"):
            policy(misnamed, row)
    with pytest.raises(ValueError, match="the policy has no parameter 'network.haed.weight'"):
        complete(policy, {**params, "network.haed.weight": torch.zeros(2)})
    policy.requires_grad_(False)
    assert torch.equal(policy({}, row).logits, policy(dict(policy.named_parameters()), row).logits)


def test_what_no_policy_can_be_built_of_is_refused_in_one_line() -> None:
    mlp = MLP(3, [4], 2, generator=seeded(0))
    own = dict(mlp.named_parameters())
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: MLP(3, 64, 2, generator=seeded(0)), TypeError, r"hidden: expected sizes, such as \[64, 64\], got 64"),
        (lambda: MLP(Box(0.0, 1.0, (3,)), [4], 2, generator=seeded(0)), TypeError, "whole numbers of units, got Box"),  # type: ignore[arg-type]
        (lambda: MLP(3, [4.0], 2, generator=seeded(0)), TypeError, r"whole numbers of units, got 3 -> \[4.0\] -> 2"),
        (lambda: MLP(3, [4, 0], 2, generator=seeded(0)), ValueError, "at least one unit, got"),
        (lambda: MLP(3, [4], 2, generator=0), TypeError, "generator: expected a torch.Generator, such as .* got 0"),
        (lambda: MLP(3, [4], 2, generator=None), TypeError, "generator: expected a torch.Generator, .* got None"),
        (lambda: MLP(3, [4], 2, activation="tanh", generator=seeded(0)), TypeError, "activation: .* got 'tanh'"),
        (lambda: MLP(3, [4], 2, activation=nn.Tanh, generator=seeded(0)), TypeError, "activation: .* got <class"),
        (lambda: ModuleNetwork("mlp"), TypeError, "module: expected a torch.nn.Module, got 'mlp'"),
        (lambda: CategoricalPolicy(perceptron(3, 2)), TypeError, "network: expected a Network, .* got a Sequential"),
        (lambda: GaussianPolicy(perceptron(3, 2), 2), TypeError, "network: expected a Network, .* got a Sequential"),
        (lambda: GaussianPolicy(mlp, 0), ValueError, "actions must be at least 1, got 0"),
        (lambda: GaussianPolicy(mlp, 3), ValueError, "expected a network with 3 outputs, one per action, got 2"),
        (
            lambda: mlp(own, np.ones(3, np.float32)),
            TypeError,
            "expected a tensor, such as .*from_numpy.* got a ndarray",
        ),  # type: ignore[arg-type]
        (lambda: mlp(own, torch.ones(4)), ValueError, "expected 3 inputs of .*, got 4"),
        (lambda: mlp(own, torch.ones(3).double()), ValueError, "expected 3 inputs of .*float32, got 3 of .*float64"),
    ]
    for make, error, words in cases:
        with pytest.raises(error, match=words) as raised:
            make()
        assert "\n" not in str(raised.value)


def test_a_network_that_puts_out_other_than_a_number_an_action_is_refused() -> None:
    family = Navigation(horizon=5)
    for outputs in (1, 3):
        policy = GaussianPolicy(ModuleNetwork(perceptron(2, 5, outputs)), 2)
        with pytest.raises(ValueError, match=rf"has 2 actions: expected a network with as many .* got \[{outputs}\]"):
            refuse_width(policy, family)
    discrete = CategoricalPolicy(ModuleNetwork(perceptron(4, 5, 3)))
    with pytest.raises(ValueError, match="has 2 actions"):
        refuse_width(discrete, CartPole(5))


def test_looking_at_the_width_of_a_network_plays_nothing() -> None:
    class Choosy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool((x > 0).all()) else -x

    module = nn.Sequential(perceptron(2, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), perceptron(4, 2))
    before = {name: leaf.clone() for name, leaf in module.state_dict().items()}
    numbers = torch.get_rng_state()
    refuse_width(GaussianPolicy(ModuleNetwork(module), 2), Navigation(horizon=5))
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(torch.equal(leaf, before[name]) for name, leaf in module.state_dict().items())
    values = GaussianPolicy(ModuleNetwork(nn.Sequential(perceptron(2, 3), Choosy())), 2)
    refuse_width(values, Navigation(horizon=5))  # what cannot be told without values is left to be seen


def test_affine_by_hand() -> None:
    x = torch.randn(2, 5, 3, generator=seeded(0), dtype=torch.float64)
    weight = torch.randn(2, 4, 3, generator=seeded(1), dtype=torch.float64)
    bias = torch.randn(2, 4, generator=seeded(2), dtype=torch.float64)
    expected = torch.einsum("tni,toi->tno", x, weight) + bias[:, None]
    torch.testing.assert_close(affine(x, weight, bias), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(affine(x, weight[0], bias[0])[0], expected[0], rtol=1e-12, atol=1e-12)


def test_mlp_equals_torchs_own_layers() -> None:
    mlp = NETWORKS["mlp"]()
    hidden = [nn.Sequential(layer, nn.Tanh()) for layer in mlp.hidden]  # type: ignore[attr-defined]
    plain = nn.Sequential(*hidden, mlp.head)  # type: ignore[arg-type]
    x = torch.randn(7, 3, generator=seeded(4))
    torch.testing.assert_close(mlp(dict(mlp.named_parameters()), x), plain(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-7), (torch.float64, 4e-16)])
def test_tanh_by_a_sigmoid_is_tanh_and_where_it_counts_it_is_torchs_own(dtype: torch.dtype, close: float) -> None:
    ends = torch.tensor([float("-inf"), float("inf"), -100.0, 100.0, 0.0], dtype=dtype)
    x = torch.cat([ends, torch.linspace(-12.0, 12.0, FEW, dtype=dtype)])
    exact = x.double().tanh()
    with torch.no_grad():
        assert float((tanh(x).double() - exact).abs().max()) <= close
        assert not torch.equal(tanh(x), x.tanh())  # or nothing has been looked at
        assert torch.equal(tanh(x[: FEW - 1]), x[: FEW - 1].tanh())
        assert bool(tanh(torch.full((FEW,), float("nan"), dtype=dtype)).isnan().all())
    assert torch.equal(tanh(x), x.tanh())
    wide = torch.randn(FEW, 3, generator=seeded(0))
    network = MLP(3, (2,), 1, generator=seeded(1))
    with torch.no_grad():
        by_hand = torch.tanh(wide @ network.hidden[0].weight.T)
        read = network.layer_inputs(network.state_dict(), wide)["head"]
        traced = make_fx(tanh)(wide)
    assert torch.ops.aten.tanh.default in {node.target for node in traced.graph.nodes}  # left to a compiler
    assert not torch.equal(read, by_hand)  # a network takes the short way
    torch.testing.assert_close(read, by_hand, rtol=0, atol=1e-6)


def test_inputs_are_divided_by_their_units() -> None:
    scaled, plain = NETWORKS["scaled"](), NETWORKS["mlp"]()
    x = torch.randn(7, 3, generator=seeded(4)) * UNITS
    params = dict(plain.named_parameters())
    torch.testing.assert_close(scaled(params, x), plain(params, x / UNITS))
    assert list(CategoricalPolicy(scaled).initial()) == list(CategoricalPolicy(plain).initial())  # not adapted
    assert "input_scale" in scaled.state_dict() and "input_scale" not in plain.state_dict()


@pytest.mark.parametrize(
    "scale", [[1.0, 2.0], [1.0, 0.0, 2.0], [1.0, float("nan"), 2.0], [1.0, float("inf"), 2.0]], ids=str
)
def test_units_that_cannot_be_divided_by_are_refused(scale: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 3 input scales above 0"):
        MLP(3, (5,), 2, input_scale=torch.tensor(scale), generator=seeded(0))
    listed: Any = scale
    with pytest.raises(TypeError, match="input_scale: expected a tensor, such as .*, got a list"):
        MLP(3, (5,), 2, input_scale=listed, generator=seeded(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_parameters_serve_stacked_observations(name: str) -> None:
    policy = CategoricalPolicy(NETWORKS[name]())
    observation = torch.randn(3, 6, 4, 3, generator=seeded(2))
    together = policy(policy.initial(), observation)
    for t in range(3):
        torch.testing.assert_close(together.logits[t], policy(policy.initial(), observation[t]).logits)


def test_initial_weights_are_orthogonal_with_the_stated_gains() -> None:
    mlp = MLP(4, (16, 16), 3, head_gain=0.01, generator=seeded(0))
    for name, p in mlp.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
            continue
        short = p if p.shape[0] <= p.shape[1] else p.mT
        gain = 0.01 if name.startswith("head") else 2.0**0.5
        torch.testing.assert_close(short @ short.mT, gain**2 * torch.eye(len(short)), rtol=1e-4, atol=1e-5)


def test_constructors_draw_from_their_generator_only() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = gaussian_policy(1), gaussian_policy(1), gaussian_policy(2)
    categorical_policy(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_frozen_parameters_and_buffers_are_not_initial() -> None:
    module = perceptron(3, 5, 2)
    module[0].requires_grad_(False)
    module.register_buffer("unused", torch.ones(1))
    policy = CategoricalPolicy(ModuleNetwork(module))
    assert list(policy.initial()) == ["network.module.2.weight", "network.module.2.bias"]
    params = stacked_params(policy, 2)
    x = torch.randn(2, 4, 3, generator=seeded(0))
    expected = torch.stack(
        [
            functional_call(
                module,
                {"2.weight": params["network.module.2.weight"][t], "2.bias": params["network.module.2.bias"][t]},
                (x[t],),
            )
            for t in range(2)
        ]
    )
    torch.testing.assert_close(policy(params, x).logits, expected)


def test_networks_may_use_a_layer_twice_or_share_its_weights() -> None:
    """Torch's `functional_call` leaves the values of a call behind in a module that occurs twice."""
    block, other = perceptron(4, 4), perceptron(4, 4)
    other[0].weight = block[0].weight
    module = nn.Sequential(perceptron(3, 4), block, nn.Tanh(), block, other, perceptron(4, 2))
    policy = GaussianPolicy(ModuleNetwork(module), 2)
    before = {name: (p, p.detach().clone()) for name, p in policy.initial().items()}
    assert [name for name in before if "module.3" in name or name.endswith("4.0.weight")] == []
    params, x = stacked_params(policy, 2), torch.randn(2, 5, 3, generator=seeded(0))
    found = policy(params, x).mean
    for t in range(2):
        plain = copy.deepcopy(policy)  # also keeps what is shared
        plain.load_state_dict({name: leaf[t] for name, leaf in params.items()}, strict=False)
        torch.testing.assert_close(found[t], plain.network.module(x[t]))
        torch.testing.assert_close(policy({name: leaf[t] for name, leaf in params.items()}, x[t]).mean, found[t])
    assert policy.initial().keys() == before.keys()
    assert all(policy.initial()[name] is p and torch.equal(p, was) for name, (p, was) in before.items())


def aware_policy() -> GaussianPolicy:
    """A Gaussian policy on a network with context inputs, off its symmetric start."""
    policy = GaussianPolicy(MLP(2, (5, 4), 2, context=3, head_gain=1.0, generator=seeded(0)), 2, log_std=-0.5)
    randomize(policy, 1)
    return policy


FROZEN = {
    "log_std": ["log_std"],
    "a weight": ["network.hidden.0.weight"],
    "a bias": ["network.hidden.1.bias"],
    "the head": ["network.head.weight", "network.head.bias"],
    "context": ["network.context"],
    "the network": [name for name in aware_policy().initial() if name != "log_std"],
    "all but a bias": [name for name in aware_policy().initial() if name != "network.hidden.0.bias"],
    "all but context": [name for name in aware_policy().initial() if name != "network.context"],
}


def frozen_policy(part: str) -> GaussianPolicy:
    policy = aware_policy()
    for name in FROZEN[part]:
        policy.get_parameter(name).requires_grad_(False)
    return policy


@pytest.mark.parametrize("part", FROZEN)
def test_a_frozen_part_acts_as_it_is(part: str) -> None:
    policy, free = frozen_policy(part), aware_policy()
    assert set(policy.initial()) == set(free.initial()) - set(FROZEN[part])
    params = stacked_params(policy, 3)
    for rows in ((), *ROWS):
        observation = torch.randn(3, *rows, 2, generator=seeded(2))
        for own, other in zip(policy(policy.initial(), observation), free(free.initial(), observation), strict=True):
            assert torch.equal(own, other)
        together, lifted = policy(params, observation), torch.vmap(policy)(params, observation)
        for t in range(3):
            alone = free({**free.initial(), **{name: leaf[t] for name, leaf in params.items()}}, observation[t])
            for whole, also, one in zip(together, lifted, alone, strict=True):
                torch.testing.assert_close(whole[t], one, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(also[t], one, rtol=1e-5, atol=1e-5)


def test_a_frozen_part_is_read_where_it_is_and_gets_no_gradient() -> None:
    policy = frozen_policy("the head")
    observation = torch.randn(4, 2, generator=seeded(2))
    before = policy(policy.initial(), observation).mean
    with torch.no_grad():
        policy.network.get_parameter("head.bias").add_(1.0)
    after = policy(policy.initial(), observation).mean
    torch.testing.assert_close(after, before + 1.0)
    after.sum().backward()
    assert {name for name, p in policy.named_parameters() if p.grad is None} == {*FROZEN["the head"], "log_std"}
    given = {**policy.initial(), "network.head.bias": torch.zeros(2)}  # told all the same: what is told counts
    torch.testing.assert_close(policy(given, observation).mean, before - aware_policy().network.head.bias)


@pytest.mark.parametrize("part", FROZEN)
def test_a_policy_with_a_frozen_part_adapts_and_is_meta_trained(part: str) -> None:
    policy = frozen_policy(part)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=vpg, outer=vpg).double()
    family, plan = Navigation(horizon=4), Plan(tasks=3, episodes=4, query_episodes=4, steps=2)
    task = {name: value.double() for name, value in family.sample(3, generator=seeded(0)).items()}
    trace = explore(learner, family, task, plan, generator=seeded(1))
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    whole = aware_policy().double()  # the same, with all parameters handed over: what is frozen by steps of length zero
    fixed = MetaSGD(whole.initial(), initial=0.1).double()
    with torch.no_grad():
        for name in FROZEN[part]:
            fixed.rates.get_parameter(name.replace(".", "/")).zero_()
    other = Learner(whole, fixed, inner=vpg, outer=vpg)
    same = explore(other, family, task, plan, generator=seeded(1))
    torch.testing.assert_close(trace.query.action, same.query.action, rtol=1e-9, atol=1e-12)
    loss, slopes = meta_gradient(learner, trace)
    expected_loss, expected = meta_gradient(other, same)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-12)
    by_name = dict(zip((name for name, _ in other.named_parameters()), expected, strict=True))
    learned = [name for name, p in learner.named_parameters() if p.requires_grad]
    for name, slope in zip(learned, slopes, strict=True):
        torch.testing.assert_close(slope, by_name[name], rtol=1e-8, atol=1e-11)
    Descent(learner, lr=0.01).step(learner, trace)
    for name, p in learner.named_parameters():
        if name.removeprefix("policy.") in FROZEN[part]:
            assert torch.equal(p, before[name])
    assert any(not torch.equal(p, before[name]) for name, p in learner.named_parameters())


def test_initial_shares_memory_and_graph_with_the_parameters() -> None:
    policy = gaussian_policy()
    assert all(policy.initial()[name] is p for name, p in policy.named_parameters())


def test_the_standard_deviation_has_a_floor() -> None:
    policy = GaussianPolicy(NETWORKS["mlp"](), 2, min_log_std=-2.0)
    log_std = policy(policy.initial() | {"log_std": torch.full((2,), -9.0)}, torch.zeros(1, 3)).log_std
    assert log_std.tolist() == [[-2.0, -2.0]]


def test_noise_has_the_rows_shape_and_follows_the_generator() -> None:
    for policy, shape in ((gaussian_policy(), (5, 2, 3, 2)), (categorical_policy(), (5, 2, 3))):
        one, two = (policy.noise((5, 2, 3), generator=seeded(1)) for _ in range(2))
        assert one.shape == shape and torch.equal(one, two)
    uniform: Tensor = categorical_policy().noise((10000,), generator=seeded(0))
    assert 0.0 <= float(uniform.min()) and float(uniform.max()) < 1.0 and abs(float(uniform.mean()) - 0.5) < 0.02
    normal = gaussian_policy().noise((10000,), generator=seeded(0))
    assert abs(float(normal.mean())) < 0.03 and abs(float(normal.std()) - 1.0) < 0.03


def test_sizes_below_one_are_refused() -> None:
    for sizes in ((0, (4,), 2), (3, (0,), 2), (3, (4,), 0)):
        with pytest.raises(ValueError, match="at least one unit"):
            MLP(*sizes, generator=seeded(0))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_module_replayed_on_two_threads_gives_the_same_meta_gradient(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module holds the parameters it runs with, so that two tasks replayed at once could see each other's."""
    policy = GaussianPolicy(ModuleNetwork(perceptron(2, 8, 2)), 2)
    learner = Learner(policy, MetaSGD(policy.initial(), initial=0.1), inner=vpg, outer=vpg).double()
    family, plan = Navigation(horizon=5), Plan(tasks=8, episodes=4, query_episodes=4, steps=steps)
    task = {name: value.double() for name, value in family.sample(8, generator=seeded(0)).items()}
    trace = explore(learner, family, task, plan, generator=seeded(1))
    before = [p.detach().clone() for p in learner.parameters()]
    exact = torch.autograd.grad(meta_loss(learner, trace), list(learner.parameters()))
    monkeypatch.setattr(lifting, "PIECE", 1)  # a piece a task: eight of them
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        loss, alone = meta_gradient(learner, trace)
        torch.set_num_threads(2)
        for _ in range(20):
            again, gradient = meta_gradient(learner, trace)
            assert torch.equal(again, loss)
            assert all(torch.equal(a, b) for a, b in zip(gradient, alone, strict=True))
    finally:
        torch.set_num_threads(threads)
    for found, expected in zip(alone, exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
        assert bool(found.any())
    assert all(torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_observation_is_a_row_of_many(name: str) -> None:
    network = NETWORKS[name]()
    params = {key: p.detach() for key, p in network.named_parameters()}
    rows = torch.randn(4, 3, generator=seeded(1))
    torch.testing.assert_close(network(params, rows[1]), network(params, rows)[1])


def test_parameters_of_several_tasks_are_not_taken_for_one() -> None:
    policy = gaussian_policy()
    many = {name: leaf.expand(3, *leaf.shape) for name, leaf in policy.initial().items()}
    seen = torch.zeros(2)
    with pytest.raises(ValueError, match=r"expected inputs \[3, ...\] for the parameters of 3 tasks, got \[2\]"):
        policy(many, seen)
    assert policy(many, torch.zeros(3, 2)).mode().shape == (3, 2)


@pytest.mark.parametrize("part", FROZEN)
@pytest.mark.parametrize("shape", [(2,), (5, 2), (1, 2)], ids=str)
def test_parameters_of_several_tasks_need_inputs_of_each_whatever_is_frozen(part: str, shape: tuple[int, ...]) -> None:
    policy = frozen_policy(part)
    for tasks in (2, 3):  # an observation has two numbers: that does not make it one of each of two tasks
        with pytest.raises(ValueError, match=rf"expected inputs \[{tasks}, ...\] for the parameters of {tasks} tasks"):
            policy(stacked_params(policy, tasks), torch.zeros(shape))


def test_a_policy_under_autocast_reads_what_comes() -> None:
    policy = CategoricalPolicy(MLP(3, [4, 4], 2, generator=seeded(0)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = policy(policy.initial(), torch.ones(5, 3)).logits
    torch.testing.assert_close(logits.float(), policy(policy.initial(), torch.ones(5, 3)).logits, atol=0.02, rtol=0.0)
