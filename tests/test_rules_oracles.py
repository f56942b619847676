"""Rules against independent references: sequences by hand, torch's own optimizers and LSTM, closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metarl import Learner, lvc, vpg
from metarl.rules import (
    SGD,
    AdamHypergradient,
    BlockDiagonal,
    Bounded,
    Chain,
    Exponentiated,
    FirstOrder,
    Free,
    GPSchedule,
    Hypergradient,
    LSTMCell,
    LSTMOptimizer,
    LSTMSchedule,
    MetaCurvature,
    MetaLSTM,
    MetaSGD,
    MLPSchedule,
    Momentum,
    Offset,
    Parameterisation,
    Positive,
    RLSchedule,
    RuleState,
    Scheduled,
    Step,
    UnitNorm,
    UpdateRule,
)
from metarl.rules.learned_optimizers import preprocess
from metarl.rules.networks import linear
from metarl.rules.scheduled import SIGNALS, signals
from metarl.trees import Tree
from tests.helpers import double_trace, numeric_gradient, one_task, randomize, seeded

Shapes = dict[str, Tensor]


def tree(seed: int) -> Shapes:
    generator = seeded(seed)
    return {
        "layer.weight": torch.randn(3, 2, generator=generator).double(),
        "layer.bias": torch.randn(3, generator=generator).double(),
    }


def at(grads: Shapes, params: Shapes | None = None) -> Step:
    return Step(grads, grads if params is None else params, torch.tensor(0.5, dtype=torch.float64))


def on_a_quadratic(rule: UpdateRule, steps: int) -> list[Shapes]:
    """The parameters on the way down ``Σ c x² / 2`` with curvatures of 1, 2, 3, ..."""
    params = tree(0)
    state, path = rule.init(params), [params]
    for _ in range(steps):
        grads = {key: curvature(p) * p for key, p in path[-1].items()}
        updates, state = rule.update(at(grads, path[-1]), state)
        path.append({key: (p + updates[key]).detach() for key, p in path[-1].items()})
    return path


def curvature(p: Tensor) -> Tensor:
    return torch.arange(1.0, p.numel() + 1, dtype=p.dtype).view_as(p)


def by_torch(make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> Shapes:
    params = {key: nn.Parameter(p) for key, p in tree(0).items()}
    optimizer = make(list(params.values()))
    for _ in range(steps):
        for p in params.values():
            p.grad = curvature(p) * p.detach()
        optimizer.step()
    return {key: p.detach() for key, p in params.items()}


OPTIMIZERS: dict[str, tuple[UpdateRule, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "momentum": (Chain(Momentum(0.9).double(), SGD(0.05)), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "adam": (AdamHypergradient(0.05, rate_lr=0.0), lambda p: torch.optim.Adam(p, lr=0.05)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_equal_those_of_torchs_optimizer(name: str) -> None:
    rule, make = OPTIMIZERS[name]
    found, expected = on_a_quadratic(rule, 6)[-1], by_torch(make, 6)
    for key, leaf in expected.items():
        torch.testing.assert_close(found[key], leaf, rtol=1e-6, atol=1e-9)


# step sizes that adapt online


def test_hypergradient_by_hand() -> None:
    # x² / 2 from x = 1, α = 0.1, β = 0.5: g = 1; then α + β g g' with g = 0.9; and once more
    rule, x = Hypergradient(0.1, rate_lr=0.5), 1.0
    state, rates = rule.init({"x": torch.zeros(())}), []
    for _ in range(3):
        updates, state = rule.update(at({"x": torch.tensor(x)}), state)
        x += float(updates["x"])
        rates.append(float(state["rate"]))
    second = 0.1 + 0.5 * 0.9 * 1.0
    at_third = 0.9 - second * 0.9
    third = second + 0.5 * at_third * 0.9
    assert rates == pytest.approx([0.1, second, third], rel=1e-6)
    assert x == pytest.approx(at_third * (1 - third), rel=1e-6)


@pytest.mark.parametrize("kind", [Hypergradient, AdamHypergradient])
def test_the_rate_follows_the_derivative_of_the_loss_in_it(kind: Any) -> None:
    # How the loss after the first step depends on the first rate, by central differences
    def loss_after(rate: float) -> float:
        end = on_a_quadratic(kind(rate, rate_lr=0.0), 1)[-1]
        return sum(float((curvature(p) * p.square()).sum()) / 2 for p in end.values())

    slope = (loss_after(0.1 + 1e-6) - loss_after(0.1 - 1e-6)) / 2e-6
    rule, path = kind(0.1, rate_lr=0.01), on_a_quadratic(kind(0.1, rate_lr=0.0), 1)
    state = rule.init(path[0])
    for params in path:
        _, state = rule.update(at({key: curvature(p) * p for key, p in params.items()}), state)
    assert float(state["rate"]) == pytest.approx(0.1 - 0.01 * slope, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-12, 1e-20])  # the fourth power of the last two is zero in float32
def test_a_zero_gradient_has_a_finite_derivative_with_any_epsilon(epsilon: float) -> None:
    g = torch.zeros(2, requires_grad=True)
    rule = AdamHypergradient(0.1, rate_lr=0.1, epsilon=epsilon)
    updates, _ = rule.update(at({"x": 1.0 * g}), rule.init({"x": g.detach()}))
    (slope,) = torch.autograd.grad(updates["x"].sum(), g)
    assert bool(slope.isfinite().all()) and torch.equal(updates["x"], torch.zeros(2))


def test_exponentiated_gains_by_hand() -> None:
    # gradients 1, 0.5, -2 in one coordinate; γ = 0.3: the gain is exp(0.3 * product with the last gradient)
    rule = Exponentiated(0.1, gain_lr=0.3)
    state, used = rule.init({"x": torch.zeros(())}), []
    for g in (1.0, 0.5, -2.0):
        updates, state = rule.update(at({"x": torch.tensor(g)}), state)
        used.append(-float(updates["x"]) / g)
    gains = [0.0, 0.3 * 0.5, 0.3 * 0.5 + 0.3 * -2.0 * 0.5]
    assert used == pytest.approx([0.1 * math.exp(gain) for gain in gains], rel=1e-5)


def test_exponentiated_scale_average_and_momentum_by_hand() -> None:
    rule = Exponentiated(0.1, gain_lr=0.3, scale_lr=2.0, averaging=0.5, momentum=0.9)
    state, found = rule.init({"x": torch.zeros((), dtype=torch.float64)}), []
    p = s = 1.0
    m = h = 0.0
    expected = []
    for g in (1.0, 0.5, -2.0, 3.0):
        updates, state = rule.update(at({"x": torch.tensor(g, dtype=torch.float64)}), state)
        found.append(float(updates["x"]))
        p, s = p * math.exp(0.3 * m * g), s * math.exp(2.0 * h * g)
        m, h = 0.5 * m + 0.5 * g, 0.9 * h + 0.1 * p * g
        expected.append(-s * h)
    assert found == pytest.approx(expected, rel=1e-12)


def test_exponentiated_gains_stay_positive_and_within_their_limits() -> None:
    rule = Exponentiated(0.1, gain_lr=1.0, limits=(0.5, 4.0))
    state = rule.init({"x": torch.zeros(2)})
    for sign in (1.0, 1.0, 1.0, -1.0, 1.0, -1.0):
        _, state = rule.update(at({"x": torch.tensor([100.0 * sign, 100.0])}), state)
        assert bool(((state["gain.x"] >= 0.499) & (state["gain.x"] <= 4.001)).all())
    assert state["gain.x"].tolist() == pytest.approx([0.5, 4.0], rel=1e-5)


def test_the_exponentiated_scale_stays_within_its_limits() -> None:
    # steps of rate 0.1 on gradients of 100 agree or disagree by a thousand: every one alone goes beyond a limit
    rule = Exponentiated(0.1, gain_lr=0.0, scale_lr=1.0, limits=(0.5, 4.0))
    state, scales = rule.init({"x": torch.zeros(2)}), []
    for sign in (1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0):
        updates, state = rule.update(at({"x": torch.tensor([100.0 * sign, 100.0 * sign])}), state)
        scales.append(float(state["scale"]))
        assert (updates["x"] / (-10.0 * sign)).tolist() == pytest.approx(2 * scales[-1:])  # and acts as it is kept
    assert scales == pytest.approx([1.0, 4.0, 4.0, 0.5, 4.0, 0.5, 0.5], rel=1e-5)


# where learned step sizes start


@pytest.mark.parametrize(
    ("parameterisation", "high", "median"),
    [
        (Free(), 1.0, (0.01 + 1.0) / 2),
        (Positive(), 1.0, math.sqrt(0.01 * 1.0)),
        (Bounded(), 0.9, 1 / (1 + math.sqrt(99.0 / 9.0))),  # its odds are the geometric mean of the bounds' odds
    ],
    ids=["free", "positive", "bounded"],
)
def test_first_rates_are_uniform_in_what_is_learned(
    parameterisation: Parameterisation, high: float, median: float
) -> None:
    rule = MetaSGD(
        {"x": torch.zeros(2000)}, initial=(0.01, high), parameterisation=parameterisation, generator=seeded(0)
    )
    updates, _ = rule.update(at({"x": torch.ones(2000)}), {})
    rates = -updates["x"].detach()
    assert 0.01 * 0.999 <= float(rates.min()) and float(rates.max()) <= high * 1.001
    assert float(rates.median()) == pytest.approx(median, rel=0.1)
    (raw,) = rule.parameters()  # and not only its median: as many in every tenth of the range
    low, up = (parameterisation.raw(bound) for bound in (0.01, high))
    tenths = torch.histc(raw.detach(), bins=10, min=low, max=up)
    assert float(tenths.sum()) == 2000.0 and 150.0 < float(tenths.min()) and float(tenths.max()) < 250.0


# linear maps of the gradient


def test_meta_curvature_multiplies_every_axis_by_hand() -> None:
    params, grads = tree(0), tree(1)
    rule = MetaCurvature(params)
    with torch.no_grad():
        for i, p in enumerate(rule.parameters()):
            p.copy_(torch.randn(p.shape, generator=seeded(i)))
    maps = rule.maps()
    mapped, _ = rule.update(at(grads), {})
    by_hand = maps["layer.weight:0"] @ grads["layer.weight"] @ maps["layer.weight:1"].mT
    torch.testing.assert_close(mapped["layer.weight"], by_hand, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mapped["layer.bias"], maps["layer.bias:0"] @ grads["layer.bias"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_blocks_equal_one_block_diagonal_matrix(size: int) -> None:
    params, grads = tree(0), tree(1)
    rule = BlockDiagonal(params, size=size)
    with torch.no_grad():
        for i, p in enumerate(rule.parameters()):
            p.copy_(torch.randn(p.shape, generator=seeded(i)))
    mapped, _ = rule.update(at(grads), {})
    for key, g in grads.items():
        whole = torch.block_diag(*rule.maps()[key])[: g.numel(), : g.numel()]
        torch.testing.assert_close(mapped[key], (whole @ g.flatten()).view_as(g), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="at least 1"):
        BlockDiagonal(params, size=0)


def test_unit_norm_keeps_the_direction_only() -> None:
    for scale in (1e-6, 1.0, 1e6):
        grads = {key: scale * g for key, g in tree(1).items()}
        directions, _ = UnitNorm().update(at(grads), {})
        flat, expected = (torch.cat([leaf.flatten() for leaf in t.values()]) for t in (directions, tree(1)))
        torch.testing.assert_close(flat, expected / expected.norm(), rtol=1e-9, atol=0)
    zero, _ = UnitNorm().update(at({"x": torch.zeros(3)}), {})
    assert not zero["x"].any()


# the offset


def test_the_offset_moves_the_first_step_only() -> None:
    params, grads = tree(0), tree(1)
    rule = Offset(SGD(0.1), params)
    with torch.no_grad():
        for i, p in enumerate(rule.parameters()):
            p.fill_(i + 1.0)
    first, state = rule.update(at(grads), rule.init(params))
    second, _ = rule.update(at(grads), state)
    for i, (key, g) in enumerate(grads.items()):
        torch.testing.assert_close(first[key], i + 1.0 - 0.1 * g, rtol=1e-12, atol=0)
        assert torch.equal(second[key], -0.1 * g)


def test_an_offset_is_learned_from_the_adapted_policy_alone() -> None:
    # By hand: θ' = θ - α g(θ) + β, so that dL/dβ is the outer gradient at θ', without any second derivative
    learner, trace = double_trace(lambda policy: Offset(SGD(0.2), policy.initial()), steps=1, inner=lvc)
    one = one_task(trace, 0)
    learner(one).backward()
    adapted = {key: p.detach().requires_grad_() for key, p in learner.adapt(one.support).items()}
    outer = vpg(learner.policy(adapted, one.query.observation), one.query)
    slopes = torch.autograd.grad(outer, list(adapted.values()))
    assert isinstance(learner.rule, Offset)
    for found, slope in zip(learner.rule.offsets.parameters(), slopes, strict=True):
        assert found.grad is not None and bool(slope.any())
        torch.testing.assert_close(found.grad, slope, rtol=1e-10, atol=1e-14)


# schedules


def test_the_lstm_cell_is_torchs_lstm() -> None:
    cell = LSTMCell(5, 3, generator=seeded(0)).double()
    reference = nn.LSTM(5, 3, device="meta", dtype=torch.float64).to_empty(device="cpu")  # nothing is drawn
    with torch.no_grad():
        reference.weight_ih_l0.copy_(cell.gates.weight[:, :5])
        reference.weight_hh_l0.copy_(cell.gates.weight[:, 5:])
        reference.bias_ih_l0.copy_(cell.gates.bias)
        reference.bias_hh_l0.zero_()
    inputs = torch.randn(7, 4, 5, generator=seeded(1)).double()  # seven steps of four rows
    expected, _ = reference(inputs)
    state = cell.init(4, inputs)
    for k in range(7):
        hidden, state = cell(inputs[k], state)
        torch.testing.assert_close(hidden, expected[k], rtol=1e-12, atol=1e-14)


def test_the_lstm_cell_starts_with_open_forget_gates_and_closes_no_other() -> None:
    cell = LSTMCell(5, 3, generator=seeded(0)).double()
    enter, forget, new, leave = cell.gates.bias.detach().chunk(4)
    assert forget.tolist() == [1.0] * 3 and not torch.cat([enter, new, leave]).any()
    with torch.no_grad():
        cell.gates.weight.zero_()  # the gates are their biases: what is remembered decays by σ(1), and half is shown
    state = {"hidden": torch.zeros(1, 3).double(), "cell": torch.tensor([[1.0, -2.0, 0.5]]).double()}
    hidden, after = cell(torch.ones(1, 5).double(), state)
    kept = state["cell"] / (1.0 + math.exp(-1.0))
    torch.testing.assert_close(after["cell"], kept, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(hidden, 0.5 * kept.tanh(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("inputs", [4, 400])
def test_a_layers_outputs_are_of_the_size_of_its_inputs_whatever_their_number(inputs: int) -> None:
    layer = linear(inputs, 2000, seeded(0))
    assert float(layer.weight.detach().std()) == pytest.approx(inputs**-0.5, rel=0.05)
    assert not layer.bias.any()
    outputs = layer(torch.randn(8, inputs, generator=seeded(1)).sign())  # inputs of size one
    assert float(outputs.detach().square().mean()) == pytest.approx(1.0, rel=0.1)


def test_the_gp_schedule_is_the_posterior_mean() -> None:
    schedule = GPSchedule(2, steps=4, length=1.5, noise=0.01).double()
    values = torch.randn(2, 4, generator=seeded(0)).double()
    with torch.no_grad():
        schedule.values.copy_(values)
    at_steps = np.arange(4.0)

    def kernel(a: Any, b: Any) -> Any:
        return np.exp(-0.5 * (np.subtract.outer(a, b) / 1.5) ** 2)

    inverse = np.linalg.inv(kernel(at_steps, at_steps) + 0.01 * np.eye(4))
    for k in (0.0, 1.0, 2.5, 3.0, 5.0, 40.0):
        found, _ = schedule(torch.zeros(2, 5).double(), torch.tensor(k, dtype=torch.float64), {})
        expected = kernel(np.array([k]), at_steps) @ inverse @ values.numpy().T
        assert found.tolist() == pytest.approx(expected[0].tolist(), rel=1e-5, abs=1e-9)
    assert found.abs().max() < 1e-9  # far beyond the last inducing step the prior is back


SCHEDULES: dict[str, Callable[[], Any]] = {
    "mlp": lambda: MLPSchedule(generator=seeded(0)),
    "lstm": lambda: LSTMSchedule(generator=seeded(0)),
    "gp": lambda: GPSchedule(2, steps=2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_stays_within_its_reach_and_never_loses_its_gradient(name: str) -> None:
    rule = Scheduled(SGD(0.1), SCHEDULES[name](), reach=math.log(4.0)).double()
    grads = tree(1)
    for shift in (0.0, 2.0, -2.0, 5.0):
        with torch.no_grad():
            last = rule.schedule.values if name == "gp" else rule.schedule.head.bias
            last.fill_(shift)
        state = rule.init(grads)
        for _ in range(2):
            updates, state = rule.update(at(grads), state)
        for key, g in grads.items():
            factor = (updates[key] / (-0.1 * g)).detach()
            assert bool(((factor > 0.25 - 1e-9) & (factor < 4.0 + 1e-9)).all())
            torch.testing.assert_close(factor, factor.flatten()[0].expand_as(factor), rtol=1e-9, atol=0)
        slope = torch.autograd.grad(sum(u.square().sum() for u in updates.values()), last)[0]
        assert bool(slope.any())


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_a_schedule_sees_the_loss_the_gradient_and_the_last_update(name: str) -> None:
    rule = Scheduled(SGD(0.1), SCHEDULES[name]()).double()
    with torch.no_grad():
        rule.schedule.head.weight.fill_(0.3)

    def second(loss: float = 0.5, size: float = 1.0, sign: float = 1.0) -> float:
        grads = tree(1)
        _, state = rule.update(at(grads), rule.init(grads))
        changed = {key: size * sign * g for key, g in grads.items()}
        updates, _ = rule.update(Step(changed, grads, torch.tensor(loss, dtype=torch.float64)), state)
        return float((updates["layer.bias"][0] / (-0.1 * changed["layer.bias"][0])).detach())

    assert len({round(value, 9) for value in (second(), second(loss=-0.5), second(size=3.0), second(sign=-1.0))}) == 4


def test_signals_by_hand() -> None:
    grads = {"x": torch.tensor([3.0, -4.0]).double(), "y": torch.tensor([[0.1], [0.0], [0.2]]).double()}
    last = {"x": torch.tensor([-1.0, 0.0]).double(), "y": torch.tensor([[0.0], [3.0], [4.0]]).double()}
    loss, count = torch.tensor(-0.7, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    found = signals(Step(grads, grads, loss), last, count)
    shared = [math.tanh(-0.7), math.log(0.49) / 10]
    by_hand = [
        [*shared, math.log((9.0 + 16.0) / 2) / 10, 3.0 / 5.0, 0.3],  # downhill is (-3, 4) of length 5
        [*shared, math.log(0.05 / 3) / 10, -0.8 / (math.sqrt(0.05) * 5.0), 0.3],  # (0, 3, 4) goes uphill
    ]
    assert found.shape == (2, SIGNALS)
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-8, atol=1e-10)
    first = signals(Step(grads, grads, loss), {key: torch.zeros_like(g) for key, g in grads.items()}, count)
    assert not first[:, 3].any() and torch.equal(first[:, :3], found[:, :3])


def test_signals_are_data_without_a_graph() -> None:
    with_graph = {key: leaf.requires_grad_() for key, leaf in tree(1).items()}
    last = {key: leaf.requires_grad_() for key, leaf in tree(2).items()}
    loss = torch.stack([g.square().sum() for g in with_graph.values()]).sum()
    seen = signals(Step(with_graph, with_graph, loss), last, torch.ones((), dtype=torch.float64))
    assert loss.requires_grad and not seen.requires_grad


WITH_MODELS: dict[str, Callable[[Any], UpdateRule]] = {
    "mlp": lambda policy: Scheduled(SGD(0.2), MLPSchedule(generator=seeded(0))),
    "lstm": lambda policy: Scheduled(SGD(0.2), LSTMSchedule(generator=seeded(0))),
    "gp": lambda policy: Scheduled(SGD(0.2), GPSchedule(len(policy.initial()), steps=2)),
    "lstm optimizer": lambda policy: LSTMOptimizer(rate=0.2, units=3, generator=seeded(0)),
    "meta-lstm": lambda policy: MetaLSTM(0.2, units=3, generator=seeded(0)),
}


@pytest.mark.parametrize(("name", "steps"), [*((name, 1) for name in WITH_MODELS), ("gp", 2)])
def test_meta_gradients_of_models_equal_central_differences(name: str, steps: int) -> None:
    # the others' second step depends on the first through what they see, which is data
    learner, trace = double_trace(WITH_MODELS[name], steps=steps, hidden=(3,))
    with torch.no_grad():
        for i, p in enumerate(learner.rule.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(i)))
    one = one_task(trace, 0)
    learner(one).backward()
    probe: Learner = learner
    for p in probe.rule.parameters():
        assert p.grad is not None
        direction = torch.randn(p.shape, generator=seeded(3)).double()
        with torch.no_grad():
            values = []
            for sign in (1.0, -2.0, 1.0):
                p.add_(sign * 1e-6 * direction)
                values.append(float(probe(one)))
        numeric = (values[0] - values[1]) / 2e-6
        assert float((p.grad * direction).sum()) == pytest.approx(numeric, rel=1e-5, abs=2e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hypergradient(math.nan, rate_lr=0.1),
        lambda: Hypergradient(0.1, rate_lr=-0.1),
        lambda: AdamHypergradient(0.1, rate_lr=0.1, decays=(1.0, 0.9)),
        lambda: AdamHypergradient(0.1, rate_lr=0.1, epsilon=-1.0),
        lambda: AdamHypergradient(0.1, rate_lr=0.1, epsilon=0.0),
        lambda: AdamHypergradient(0.1, rate_lr=0.1, epsilon=math.inf),
        lambda: Exponentiated(0.1, gain_lr=-1.0),
        lambda: Exponentiated(0.1, gain_lr=math.inf),
        lambda: Exponentiated(0.1, gain_lr=0.1, scale_lr=math.inf),
        lambda: Exponentiated(0.1, gain_lr=0.1, momentum=1.0),
        lambda: Exponentiated(0.1, gain_lr=0.1, limits=(2.0, 3.0)),
        lambda: Momentum(1.0),
        lambda: Scheduled(SGD(0.1), GPSchedule(1, steps=1), reach=0.0),
        lambda: Scheduled(SGD(0.1), GPSchedule(1, steps=1), reach=math.inf),
        lambda: GPSchedule(1, steps=0),
        lambda: GPSchedule(1, steps=1, length=math.inf),
        lambda: GPSchedule(1, steps=1, noise=math.inf),
        lambda: RLSchedule(steps=0, generator=seeded(0)),
        lambda: RLSchedule(steps=1, spread=0.0, generator=seeded(0)),
        lambda: RLSchedule(steps=1, spread=math.inf, generator=seeded(0)),
        lambda: LSTMOptimizer(rate=math.inf, generator=seeded(0)),
        lambda: LSTMOptimizer(scale=0.0, generator=seeded(0)),
        lambda: LSTMOptimizer(scale=math.nan, generator=seeded(0)),
        lambda: MetaLSTM(1.0, generator=seeded(0)),
        lambda: MetaLSTM(0.1, limit=math.inf, generator=seeded(0)),
        lambda: MetaLSTM(0.1, remember=1.0, generator=seeded(0)),
    ],
)
def test_values_outside_their_range_are_refused(make: Callable[[], UpdateRule]) -> None:
    with pytest.raises(ValueError, match="must|expected|inside|finite"):
        make()


def test_preprocessing_by_hand_and_without_a_graph() -> None:
    p = 10.0
    x = torch.tensor([0.0, 2.0, -0.5, 1e-6, -1e-6, math.exp(-p)], dtype=torch.float64, requires_grad=True)
    found = preprocess(x)
    tiny = math.exp(p) * 1e-6
    by_hand = [
        [-1.0, 0.0],
        [math.log(2.0) / p, 1.0],
        [math.log(0.5) / p, -1.0],
        [-1.0, tiny],
        [-1.0, -tiny],
        [-1.0, 1.0],
    ]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert not found.requires_grad


def test_the_lstm_optimizer_is_torchs_two_layers_on_every_coordinate() -> None:
    rule = LSTMOptimizer(rate=0.3, units=5, scale=0.1, generator=seeded(0)).double()
    randomize(rule, 1)
    reference = nn.LSTM(2, 5, num_layers=2).double()
    with torch.no_grad():
        for layer, cell in enumerate((rule.first, rule.second)):
            inputs = 2 if layer == 0 else 5
            getattr(reference, f"weight_ih_l{layer}").copy_(cell.gates.weight[:, :inputs])
            getattr(reference, f"weight_hh_l{layer}").copy_(cell.gates.weight[:, inputs:])
            getattr(reference, f"bias_ih_l{layer}").copy_(cell.gates.bias)
            getattr(reference, f"bias_hh_l{layer}").zero_()
    gradients = [tree(seed) for seed in (3, 4, 5)]
    flat = torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in gradients])  # [steps, coordinates]
    hidden, _ = reference(preprocess(flat))
    expected = 0.1 * rule.head(hidden).squeeze(-1) - 0.3 * flat
    state = rule.init(gradients[0])
    for k, grads in enumerate(gradients):
        updates, state = rule.update(at(grads), state)
        torch.testing.assert_close(
            torch.cat([u.flatten() for u in updates.values()]), expected[k], rtol=1e-12, atol=0.0
        )


def test_the_meta_lstm_by_hand() -> None:
    rule = MetaLSTM(0.2, limit=0.5, remember=0.9, units=3, generator=seeded(0)).double()
    params, grads = {"x": torch.tensor([0.7], dtype=torch.float64)}, {"x": torch.tensor([2.0], dtype=torch.float64)}
    updates, state = rule.update(at(grads, params), rule.init(params))  # zero weights: the gates are their biases
    assert float(updates["x"].detach()) == pytest.approx((0.9 - 1.0) * 0.7 - 0.2 * 2.0, rel=1e-6)
    randomize(rule, 1)
    state = rule.init(params)
    loss = preprocess(torch.tensor([0.5], dtype=torch.float64))
    lstm = rule.cell.init(1, params["x"])
    last_i = last_f = torch.zeros(1, dtype=torch.float64)
    for _ in range(2):
        hidden, lstm = rule.cell(torch.cat([preprocess(grads["x"]), loss], -1), lstm)
        i, f = (
            torch.sigmoid(
                gate.weight[0, :3] @ hidden[0] + gate.weight[0, 3] * 0.7 + gate.weight[0, 4] * last + gate.bias
            )
            for gate, last in ((rule.enter, last_i), (rule.forget, last_f))
        )
        updates, state = rule.update(at(grads, params), state)
        torch.testing.assert_close(updates["x"], f * 0.7 - 0.5 * i * 2.0 - 0.7, rtol=1e-12, atol=1e-14)
        last_i, last_f = i, f


def test_a_learned_optimizers_meta_gradient_is_as_large_as_that_of_the_step_it_makes() -> None:
    """The loss of normalised advantages is 0 up to rounding, where what the gates see has a derivative of exp(10)."""
    rules = SGD(0.3), MetaLSTM(0.3, remember=1.0 - 1e-12, units=3, generator=seeded(0))
    gradients = []
    for rule in rules:
        learner, trace = double_trace(lambda policy, rule=rule: rule, steps=2, inner=lvc)  # type: ignore[misc]
        if isinstance(rule, MetaLSTM):
            with torch.no_grad():  # the gates depend on what they see, but hardly move
                rule.enter.weight.fill_(1e-3)
        gradients.append(torch.autograd.grad(learner(one_task(trace, 0)), list(learner.policy.parameters())))
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-4)


class ScaledByLoss(UpdateRule):
    """Steps against the gradient, farther where the loss is larger."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        return {name: -self.rate * step.loss * g for name, g in step.grads.items()}, state


def test_first_order_keeps_the_gradient_of_the_loss_from_the_rule() -> None:
    rule = ScaledByLoss()
    grads, params = tree(1), tree(0)
    reached = []
    for given in (rule, FirstOrder(rule)):
        slopes = {key: g.clone().requires_grad_() for key, g in grads.items()}
        loss = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        updates, _ = given.update(Step(slopes, params, loss), given.init(params))
        total = torch.stack([u.square().sum() for u in updates.values()]).sum()
        found = torch.autograd.grad(total, [loss, *slopes.values(), rule.rate], allow_unused=True)
        reached.append([leaf is not None and bool(leaf.any()) for leaf in found])
    inner = [False] * (1 + len(grads))
    assert reached == [[True] * (2 + len(grads)), [*inner, True]]  # what the rule itself learns keeps its own


def reinforced(policy: Any) -> Scheduled:
    """A rule whose schedule decides at random, for two steps, and has learned something."""
    schedule = RLSchedule(steps=2, units=3, generator=seeded(0))
    randomize(schedule, 1)
    return Scheduled(SGD(0.2), schedule)


def test_the_score_of_a_reinforced_schedule_is_the_gradient_of_the_expected_reward() -> None:
    # E of the reward -(s - c)^2 under s ~ N(m, σ²) is -(m - c)² - σ²
    schedule = RLSchedule(steps=1, units=2, spread=0.5, generator=seeded(0)).double()
    draws, wanted, mean = 400_000, 0.4, 0.1
    with torch.no_grad():
        schedule.head.bias.fill_(mean)
    seen, step = torch.zeros(1, SIGNALS, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    noise = torch.randn(draws, 1, 1, generator=seeded(1), dtype=torch.float64)

    def one(noise: Tensor) -> tuple[Tensor, Tensor]:
        drawn, after = schedule(seen, step, schedule.init(1, step) | {"noise": noise})
        return drawn[0], after["odds"]

    drawn, odds = torch.vmap(one)(noise)
    assert not drawn.requires_grad and float(drawn.std()) == pytest.approx(0.5, rel=0.01)
    reward = -(drawn - wanted).square()
    ((reward - reward.mean()) * odds).mean().backward()
    assert schedule.head.bias.grad is not None and schedule.log_std.grad is not None
    assert float(schedule.head.bias.grad) == pytest.approx(-2 * (mean - wanted), rel=0.02)
    assert float(schedule.log_std.grad) == pytest.approx(-2 * 0.5**2, rel=0.03)


def test_a_reinforced_schedule_acts_by_its_mean_without_noise_and_after_the_steps_it_was_made_for() -> None:
    schedule = RLSchedule(steps=2, units=2, generator=seeded(0)).double()
    randomize(schedule, 1)
    like = torch.zeros((), dtype=torch.float64)
    seen = torch.randn(3, SIGNALS, generator=seeded(2), dtype=torch.float64)
    mean, _ = schedule(seen, like, schedule.init(3, like))
    noisy = schedule.init(3, like) | {"noise": torch.full((2, 3), 2.0, dtype=torch.float64)}
    std = float(schedule.log_std.detach().exp())
    for k, shift, score in ((0, 2 * std, 9.0), (1, 2 * std, 9.0), (2, 0.0, 0.0)):
        drawn, after = schedule(seen, like + k, noisy)
        torch.testing.assert_close(drawn, mean + shift, rtol=1e-12, atol=0.0)
        (slope,) = torch.autograd.grad(after["odds"], [schedule.log_std])
        assert float(after["odds"].detach()) == 1.0 and float(slope) == pytest.approx(score)  # three times 2² - 1


def test_what_a_reinforced_schedule_drew_stays_drawn_when_it_has_changed() -> None:
    """Decisions are data: a replay adapts as exploring did, and its loss has the derivative that it says."""
    learner, trace = double_trace(lambda p: FirstOrder(reinforced(p)), steps=2)
    one = one_task(trace, 1)
    before, schedule = learner.adapt(one.support, one.noise), learner.rule.rule.schedule  # type: ignore[union-attr]
    first = float(learner(one).detach())
    with torch.no_grad():
        schedule.head.bias += 1.0  # type: ignore[union-attr, operator]
    assert all(torch.equal(leaf, before[name]) for name, leaf in learner.adapt(one.support, one.noise).items())
    assert float(learner(one).detach()) != pytest.approx(first, rel=1e-3)  # as the same decisions are less likely now
    (slope,) = torch.autograd.grad(learner(one), [schedule.head.bias])  # type: ignore[union-attr, list-item]
    exact = numeric_gradient(lambda: float(learner(one).detach()), schedule.head.bias.data)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(slope, exact, rtol=1e-7, atol=1e-9)


def test_a_schedule_scales_by_name_whatever_the_order_of_a_rules_updates() -> None:
    class Reversed(SGD):
        def update(self, step: Step, state: dict[str, Tensor]) -> tuple[Shapes, dict[str, Tensor]]:
            updates, state = super().update(step, state)
            return dict(reversed(updates.items())), state

    schedule = MLPSchedule(generator=seeded(0))
    randomize(schedule, 1)
    schedule.double()
    plain, turned = (Scheduled(make(0.5), schedule) for make in (SGD, Reversed))
    grads = tree(3)
    expected, found = (rule.update(at(grads), rule.init(grads))[0] for rule in (plain, turned))
    assert all(torch.equal(found[name], leaf) for name, leaf in expected.items())


def test_the_score_of_a_reinforced_schedule_does_not_reach_what_it_saw() -> None:
    schedule = RLSchedule(steps=1, units=2, generator=seeded(0)).double()
    randomize(schedule, 1)
    like = torch.zeros((), dtype=torch.float64)
    seen = torch.randn(3, SIGNALS, generator=seeded(2), dtype=torch.float64).requires_grad_()
    noisy = schedule.init(3, like) | {"noise": torch.ones(1, 3, dtype=torch.float64)}
    drawn, after = schedule(seen, like, noisy)
    slope, weight = torch.autograd.grad(after["odds"], [seen, schedule.hidden.weight], allow_unused=True)
    assert slope is None and bool(weight.any()) and not drawn.requires_grad


def test_the_score_reaches_the_schedule_alone_without_first_order_too() -> None:
    learner, trace = double_trace(reinforced, steps=2)
    rule, start = list(learner.rule.parameters()), list(learner.policy.parameters())
    # the meta-objective is linear in the gain, with minus the log-probability as its slope
    score = torch.vmap(learner)(trace).sum() - torch.vmap(learner)(trace._replace(gain=0 * trace.gain)).sum()
    found = torch.autograd.grad(score, [*rule, *start], materialize_grads=True)
    assert all(bool(slope.any()) for slope in found[: len(rule)])
    for slope in found[len(rule) :]:
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0.0, atol=1e-12)


def test_no_gradient_passes_through_the_inner_loop_to_a_reinforced_schedule() -> None:
    learner, trace = double_trace(lambda p: FirstOrder(reinforced(p)), steps=2)
    assert set(trace.noise) == {"schedule.noise", "schedule.drawn"}
    assert trace.noise["schedule.noise"].shape[:2] == trace.noise["schedule.drawn"].shape[:2] == (3, 2)
    adapted = torch.vmap(learner.adapt)(trace.support, trace.noise)  # replay of what was explored
    log_prob = torch.vmap(learner.policy)(adapted, trace.query.observation).log_prob(trace.query.action)
    torch.testing.assert_close(log_prob.detach(), trace.query.log_prob, rtol=1e-9, atol=1e-9)
    torch.vmap(learner)(trace._replace(gain=torch.zeros_like(trace.gain))).mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in learner.rule.parameters())
    torch.vmap(learner)(trace).mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in learner.rule.parameters())


def test_what_paid_is_made_likelier() -> None:
    def make(policy: Any) -> UpdateRule:
        return FirstOrder(Scheduled(SGD(0.2), RLSchedule(steps=1, units=3, generator=seeded(0))))

    learner, trace = double_trace(make, steps=1)
    bias = learner.get_parameter("rule.rule.schedule.head.bias")
    torch.vmap(learner)(trace).sum().backward()
    # d log N(s; m, σ²) / dm is noise / σ for each tensor, and the loss is minus gain times log-probability
    noise = trace.noise["schedule.noise"].sum((1, 2))
    assert bias.grad is not None and bool(trace.gain.any())
    torch.testing.assert_close(bias.grad, -(trace.gain * noise).sum().reshape(1) / 0.2, rtol=1e-6, atol=1e-9)


def test_a_reinforced_schedule_learns_what_pays() -> None:
    # one parameter tensor, one step: the reward is best where the rate is twice as large
    schedule = RLSchedule(steps=1, units=2, generator=seeded(0)).double()
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.03)
    generator, like = seeded(1), torch.zeros((), dtype=torch.float64)
    seen = torch.zeros(1, SIGNALS, dtype=torch.float64)
    for _ in range(150):
        noise = torch.randn(64, 1, 1, generator=generator, dtype=torch.float64)
        drawn, log_prob = torch.vmap(lambda n: _drawn(schedule, seen, like, n))(noise)
        gain = -((math.log(10.0) * drawn.tanh()).exp() - 2.0).square()
        loss = -((gain - gain.mean()) * log_prob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, _ = schedule(seen, like, schedule.init(1, like))
    assert float((math.log(10.0) * mean.tanh()).exp().detach()) == pytest.approx(2.0, rel=0.15)


def _drawn(schedule: RLSchedule, seen: Tensor, step: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    drawn, after = schedule(seen, step, schedule.init(len(seen), step) | {"noise": noise})
    return drawn[0], after["odds"]
