"""Every rule satisfies the contract of the interface; rules that are equal by definition give equal values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from envs import Navigation
from metarl import MLP, CategoricalPolicy, GaussianPolicy, Learner, ModuleNetwork, Plan, explore, vpg
from metarl.policies import Policy
from metarl.rules import (
    SGD,
    AdamHypergradient,
    BlockDiagonal,
    Bounded,
    Chain,
    ClipByNorm,
    Exponentiated,
    FirstOrder,
    Foresight,
    Free,
    GPSchedule,
    Hypergradient,
    LearnedSGD,
    LSTMOptimizer,
    LSTMSchedule,
    Masked,
    MetaCurvature,
    MetaLSTM,
    MetaSGD,
    MLPSchedule,
    Momentum,
    Offset,
    Parameterisation,
    PerLayerSGD,
    PerStep,
    Positive,
    Rates,
    RLSchedule,
    Scheduled,
    Step,
    UnitNorm,
    UpdateRule,
    WhitenedInputs,
    WhitenedOutputs,
    affine_layers,
    layer_of,
    part_of,
)
from metarl.trees import tree_dot
from tests.helpers import double_trace, linear, one_task, seeded

Shapes = dict[str, Tensor]


def per_step(params: Shapes, rate: float) -> UpdateRule:
    """Rates of MAML++ for two steps."""
    return PerStep(PerLayerSGD(params, initial=rate), PerLayerSGD(params, initial=rate))


def stirred(rule: UpdateRule) -> UpdateRule:
    """The rule with everything it learns moved a little: what starts at zero would hide what lies behind it."""
    generator = seeded(9)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return rule


RULES: dict[str, Callable[[Shapes], UpdateRule]] = {
    "sgd": lambda p: SGD(0.1),
    "learned_sgd": lambda p: LearnedSGD(0.1),
    "meta_sgd": lambda p: MetaSGD(p, initial=(0.01, 0.3), generator=seeded(1)),
    "meta_sgd_positive": lambda p: MetaSGD(p, initial=0.1, parameterisation=Positive()),
    "meta_sgd_bounded": lambda p: MetaSGD(p, initial=0.1, parameterisation=Bounded(0.0, 0.5)),
    "per_layer": lambda p: PerLayerSGD(p, initial=0.1),
    "per_step": lambda p: per_step(p, 0.1),
    "per_step_meta_sgd": lambda p: PerStep(MetaSGD(p, initial=0.1), MetaSGD(p, initial=0.2)),
    "per_step_with_memory": lambda p: PerStep(Chain(Momentum(), LearnedSGD(0.1)), LearnedSGD(0.1)),
    "masked": lambda p: Masked(LearnedSGD(0.1), "head", p),
    "clipped": lambda p: Chain(ClipByNorm(0.05), per_step(p, 0.3)),
    "clip_only": lambda p: ClipByNorm(0.05),
    "unit_norm": lambda p: Chain(UnitNorm(), LearnedSGD(0.1)),
    "momentum": lambda p: Chain(Momentum(0.5), LearnedSGD(0.1)),
    "offset": lambda p: Offset(MetaSGD(p, initial=0.1), p),
    "curvature": lambda p: Chain(MetaCurvature(p), LearnedSGD(0.1)),
    "whitened": lambda p: Chain(WhitenedInputs(p, ["network.hidden.0"], ridge=0.5), LearnedSGD(0.1)),
    "whitened_outputs": lambda p: Chain(WhitenedOutputs(p), LearnedSGD(0.1)),
    "foresight": lambda p: Chain(
        Foresight(WhitenedInputs(p, ["network.hidden.0"], ridge=0.5), p, "network.hidden.0", horizon=3.0),
        LearnedSGD(0.1),
    ),
    "blocks": lambda p: Chain(BlockDiagonal(p, size=2), LearnedSGD(0.1)),
    "mlp_schedule": lambda p: stirred(Scheduled(LearnedSGD(0.2), MLPSchedule(units=4, generator=seeded(2)))),
    "lstm_schedule": lambda p: stirred(Scheduled(LearnedSGD(0.2), LSTMSchedule(units=4, generator=seeded(2)))),
    "gp_schedule": lambda p: stirred(Scheduled(LearnedSGD(0.2), GPSchedule(len(p), steps=2))),
    "rl_schedule": lambda p: stirred(Scheduled(LearnedSGD(0.2), RLSchedule(steps=2, units=4, generator=seeded(2)))),
    "lstm_optimizer": lambda p: stirred(LSTMOptimizer(rate=0.3, units=3, generator=seeded(2))),
    "meta_lstm": lambda p: stirred(MetaLSTM(0.3, units=3, generator=seeded(2))),
    "hypergradient": lambda p: Hypergradient(0.1, rate_lr=1e-3),
    "adam_hypergradient": lambda p: AdamHypergradient(0.01, rate_lr=1e-4),
    "exponentiated": lambda p: Exponentiated(0.1, gain_lr=0.1, scale_lr=0.1, averaging=0.5, momentum=0.5),
    "first_order": lambda p: FirstOrder(MetaSGD(p, initial=0.1)),
    "nested": lambda p: Chain(ClipByNorm(1.0), FirstOrder(Masked(per_step(p, 0.1), "head", p))),
}
ONLINE = ["hypergradient", "adam_hypergradient", "exponentiated"]  # what adapts without having been learned
MOVES_ANYHOW = ["lstm_optimizer", "meta_lstm"]  # what has no gradient, too: by weight decay or by habit
READ_AS_DATA = ["first_order", "nested", "mlp_schedule", "lstm_schedule", "rl_schedule", *MOVES_ANYHOW]  # what they see
LEARNED = [name for name in RULES if name not in ("sgd", "clip_only", *ONLINE)]


DRIFT = torch.tensor([[0.1, -0.2, 0.3], [0.2, 0.0, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)  # of the same
MOMENT = torch.tensor([[2.0, 0.5, 0.1], [0.5, 0.3, -0.2], [0.1, -0.2, 1.0]], dtype=torch.float64)  # of 2 inputs and 1
INFORMATION = torch.tensor([[0.3, -0.2], [-0.2, 0.4]], dtype=torch.float64)  # of two outputs


def some_params(seed: int, dtype: torch.dtype = torch.float64) -> Shapes:
    generator = seeded(seed)
    shapes = {"network.hidden.0.weight": (3, 2), "network.hidden.0.bias": (3,), "network.head.weight": (2, 3)}
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in {**shapes, "log_std": (2,)}.items()
    }


def at(grads: Shapes, params: Shapes, loss: float = 0.5) -> Step:
    """A step to be taken."""
    like = next(iter(grads.values()))
    return Step(
        grads,
        params,
        torch.tensor(loss).to(like),
        lambda: {"network.hidden.0": MOMENT.to(like)},
        lambda layer: {"network.hidden.0": DRIFT.to(like)}[layer],
        lambda: INFORMATION.to(like),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_updates_keep_names_shapes_and_dtype_and_the_state_its_structure(name: str, dtype: torch.dtype) -> None:
    params, grads = some_params(0, dtype), some_params(1, dtype)
    rule = RULES[name](params).to(dtype)
    state = rule.init(params)
    for _ in range(4):
        before = {key: value.clone() for key, value in state.items()}
        updates, after = rule.update(at(grads, params), state)
        assert list(updates) == list(params)
        assert all(updates[key].shape == params[key].shape and updates[key].dtype == dtype for key in params)
        assert list(after) == list(state)
        for key, value in state.items():
            assert isinstance(after[key], Tensor)
            assert after[key].shape == value.shape and after[key].dtype == value.dtype
            assert torch.equal(value, before[key])  # not changed in place
        state = after


@pytest.mark.parametrize("name", RULES)
def test_lifted_over_tasks_equals_a_loop(name: str) -> None:
    many = [some_params(seed) for seed in range(3)]
    grads = [some_params(seed + 10) for seed in range(3)]
    rule = RULES[name](many[0]).double()

    def two_steps(params: Shapes, grads: Shapes) -> Shapes:
        state = rule.init(params)
        first, state = rule.update(at(grads, params), state)
        second, _ = rule.update(at({key: g * params[key] for key, g in grads.items()}, params), state)
        return {key: first[key] + 3 * second[key] for key in first}

    def stack(trees: list[Shapes]) -> Shapes:
        return {key: torch.stack([tree[key] for tree in trees]) for key in trees[0]}

    together = torch.vmap(two_steps)(stack(many), stack(grads))
    alone = stack([two_steps(p, g) for p, g in zip(many, grads, strict=True)])
    for key in together:
        torch.testing.assert_close(together[key], alone[key], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", [*LEARNED, *ONLINE])
def test_a_step_goes_downhill(name: str) -> None:
    params, grads = some_params(0), some_params(1)
    rule = RULES[name](params).double()
    updates, _ = rule.update(at(grads, params), rule.init(params))
    assert sum(float((updates[key].detach() * grads[key]).sum()) for key in grads) < 0


@pytest.mark.parametrize("name", LEARNED)
def test_everything_learned_gets_a_gradient(name: str) -> None:
    # Two steps, so that every entry of the per-step rates is used. Of the nested rule only the head steps.
    learner, trace = double_trace(lambda policy: RULES[name](policy.initial()), steps=2)
    if name == "per_step_with_memory":  # its momentum matters from the first step's rule to the first step's only
        learner.rule.rules[0].rules[0].requires_grad_(False)  # type: ignore[index,union-attr]
    torch.vmap(learner)(trace).mean().backward()
    for key, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            continue
        if name == "nested" and "rule" in key and "head" not in key:
            assert parameter.grad is None or not parameter.grad.any()
        else:
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key
            assert bool((parameter.grad != 0).all() if "rule" in key else (parameter.grad != 0).any()), key


@pytest.mark.parametrize("name", [name for name in RULES if name not in READ_AS_DATA])
def test_second_derivatives_are_right(name: str) -> None:
    """Of two steps in the gradients, by central differences: a meta-gradient needs them."""
    params = some_params(0)
    rule = RULES[name](params).double()

    def two_steps(*leaves: Tensor) -> list[Tensor]:
        grads = dict(zip(params, leaves, strict=True))
        first, state = rule.update(at(grads, params), rule.init(params))
        moved = {key: 2.0 * g + params[key] for key, g in grads.items()}
        second, _ = rule.update(at(moved, params), state)
        return [*first.values(), *second.values()]

    leaves = [g.requires_grad_() for g in some_params(1).values()]
    assert torch.autograd.gradcheck(two_steps, leaves)
    assert torch.autograd.gradgradcheck(two_steps, leaves)


@pytest.mark.parametrize("name", [*LEARNED, *ONLINE])
def test_a_rule_descends_a_bowl(name: str) -> None:
    start, rule = some_params(0), RULES[name](some_params(0)).double()
    params, state = start, rule.init(start)
    for _ in range(30):
        loss = sum(float(p.square().sum()) for p in params.values()) / 2
        updates, state = rule.update(at(params, params, loss), state)
        params = {key: (p + updates[key]).detach() for key, p in params.items()}
    for key, p in params.items():
        if "head" in key or name not in ("masked", "nested"):
            assert float(p.norm()) < 0.9 * float(start[key].norm()), key


def test_rules_that_coincide_at_equal_rates() -> None:
    learner, trace = double_trace(lambda policy: SGD(0.125), steps=3)
    params = learner.policy.initial()
    positive = Bounded(0.0, 0.25)  # 0.125 is its middle: exact
    same: list[UpdateRule] = [
        LearnedSGD(0.125),
        MetaSGD(params, initial=0.125),
        MetaSGD(params, initial=0.125, parameterisation=positive),
        PerLayerSGD(params, initial=0.125),
        PerStep(*(PerLayerSGD(params, initial=0.125) for _ in range(3))),
        Masked(SGD(0.125), "", params),
        Offset(SGD(0.125), params),
        Chain(MetaCurvature(params), SGD(0.125)),
        Chain(BlockDiagonal(params, size=4), SGD(0.125)),
        Scheduled(SGD(0.125), MLPSchedule(generator=seeded(0))),
        Scheduled(SGD(0.125), LSTMSchedule(generator=seeded(0))),
        Scheduled(SGD(0.125), GPSchedule(len(params), steps=2)),
        Scheduled(SGD(0.125), RLSchedule(steps=2, generator=seeded(0))),
        LSTMOptimizer(rate=0.125, generator=seeded(0)),
        Hypergradient(0.125, rate_lr=0.0),
        Exponentiated(0.125, gain_lr=0.0),
        Chain(SGD(0.125)),
        Chain(ClipByNorm(1e9), SGD(0.125)),
        FirstOrder(SGD(0.125)),
    ]
    support = one_task(trace.support, 0)
    expected = learner.adapt(support)
    for rule in same:
        found = Learner(learner.policy, rule.double(), inner=vpg, outer=vpg).adapt(support)
        for key, leaf in expected.items():
            torch.testing.assert_close(found[key], leaf, rtol=0, atol=0, msg=f"{rule}: {key}")


def test_meta_sgd_multiplies_elementwise_by_hand() -> None:
    params, grads = some_params(0), some_params(1)
    rule = MetaSGD(params, initial=0.1).double()
    with torch.no_grad():
        for name, raw in rule.rates.named_parameters():
            raw.copy_(some_params(7)[name.replace("/", ".")])  # negative rates too: the paper allows them
    assert {key: rate.shape for key, rate in rule.rates().items()} == {key: p.shape for key, p in params.items()}
    updates, _ = rule.update(at(grads, params), {})
    for key, g in grads.items():
        assert torch.equal(updates[key], -some_params(7)[key] * g)


def test_meta_sgd_draws_its_first_rates_from_the_papers_range() -> None:
    rates = MetaSGD({"w": torch.zeros(2000)}, generator=seeded(0)).rates()["w"].detach()
    assert 0.005 <= float(rates.min()) < 0.006 and 0.099 < float(rates.max()) <= 0.1
    assert abs(float(rates.mean()) - 0.0525) < 0.002


@pytest.mark.parametrize("map_", [Free(), Positive(), Bounded(0.0, 2.0)], ids=str)
def test_a_first_rate_may_be_a_whole_number(map_: Parameterisation) -> None:
    for rule in (
        MetaSGD({"w": torch.zeros(2)}, initial=1, parameterisation=map_),
        LearnedSGD(1, parameterisation=map_),
    ):
        (raw,) = rule.parameters()
        assert raw.is_floating_point() and bool((map_.rate(raw) == 1.0).all())
        updates, _ = rule.update(at({"w": torch.ones(2)}, {"w": torch.zeros(2)}), {})
        assert updates["w"].tolist() == [-1.0, -1.0]
    same = Rates({"w": (3,)}, initial=(1, 1), parameterisation=map_, generator=seeded(0))  # a range of one rate
    torch.testing.assert_close(same()["w"].detach(), torch.ones(3))


def test_per_layer_shares_a_rate_between_weight_and_bias() -> None:
    params, ones = some_params(0), {key: torch.ones_like(p) for key, p in some_params(0).items()}
    rule = PerLayerSGD(params, initial=0.1).double()
    with torch.no_grad():
        for i, raw in enumerate(rule.rates.parameters()):
            raw.fill_(i + 1.0)
    updates, _ = rule.update(at(ones, params), {})
    levels = {key: set((-u).flatten().tolist()) for key, u in updates.items()}
    assert all(len(level) == 1 for level in levels.values())
    assert levels["network.hidden.0.weight"] == levels["network.hidden.0.bias"] != levels["network.head.weight"]
    assert layer_of("network.hidden.0.weight") == "network.hidden.0" and layer_of("log_std") == "log_std"


def test_per_step_uses_the_rate_of_its_step_and_then_the_last() -> None:
    params = {"w": torch.zeros(1)}
    rule = PerStep(*(LearnedSGD(rate) for rate in (1.0, 2.0, 4.0)))
    state, used = rule.init(params), []
    for _ in range(6):
        updates, state = rule.update(at({"w": torch.ones(1)}, params), state)
        used.append(-float(updates["w"].detach()))
    assert used == [1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    rule.update(at({"w": torch.ones(1)}, params), state)[0]["w"].sum().backward()
    assert [float(p.grad) for p in rule.parameters() if p.grad is not None] == [0.0, 0.0, -1.0]


def test_masked_moves_only_what_it_names() -> None:
    params, grads = some_params(0), some_params(1)
    updates, _ = Masked(SGD(0.1), "head", params).update(at(grads, params), {})
    for key, u in updates.items():
        assert torch.equal(u, -0.1 * grads[key]) if "head" in key else not u.any()
    with pytest.raises(ValueError, match="no parameter name contains 'haed'"):
        Masked(SGD(0.1), "haed", params)


def test_a_masked_rule_sees_no_others() -> None:
    """Of a norm over what is stepped, the rest is no part; and a rule of the head's rates alone will do."""
    params, grads = some_params(0, torch.float32), some_params(1, torch.float32)
    inner = {name: g for name, g in grads.items() if "head" in name}
    norm = torch.stack([g.square().sum() for g in inner.values()]).sum().sqrt()
    rule = Masked(Chain(UnitNorm(), MetaSGD(part_of(params, "head"), initial=0.5)), "head", params)
    updates, _ = rule.update(at(grads, params), rule.init(params))
    assert list(updates) == list(params) and 0 < len(inner) < len(params)
    for name, g in grads.items():
        expected = -0.5 * g / norm if name in inner else torch.zeros_like(g)
        torch.testing.assert_close(updates[name].detach(), expected)


def test_a_masked_rule_remembers_what_it_adapts_alone() -> None:
    """Two steps with momentum: those of the rule by itself on the head."""
    params, slopes = some_params(0), [some_params(seed) for seed in (1, 2)]
    inner = Chain(Momentum(), SGD(0.5))
    masked = Masked(inner, "head", params)
    state, alone = masked.init(params), inner.init(part_of(params, "head"))
    assert state and all("head" in name for name in state) and sorted(state) == sorted(alone)
    for grads in slopes:
        updates, state = masked.update(at(grads, params), state)
        expected, alone = inner.update(at(part_of(grads, "head"), part_of(params, "head")), alone)
        for name, u in updates.items():
            torch.testing.assert_close(u, expected[name] if name in expected else torch.zeros_like(u))


@given(scale=st.floats(1e-6, 1e6), limit=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_clip_by_norm_bounds_the_length_and_keeps_the_direction(scale: float, limit: float, seed: int) -> None:
    grads = {key: g * scale for key, g in some_params(seed).items()}
    clipped, _ = ClipByNorm(limit).update(at(grads, grads), {})
    flat, short = (torch.cat([leaf.flatten() for leaf in tree.values()]) for tree in (grads, clipped))
    assert float(short.norm()) <= limit * (1 + 1e-9)
    torch.testing.assert_close(short, flat * min(1.0, limit / float(flat.norm())), rtol=1e-9, atol=0.0)


def test_clip_by_norm_is_differentiable_at_zero_gradient() -> None:
    zero = {key: torch.zeros_like(p, requires_grad=True) for key, p in some_params(0).items()}
    updates, _ = Chain(ClipByNorm(1.0), SGD(0.1)).update(at(zero, zero), {})
    torch.stack([u.sum() for u in updates.values()]).sum().backward()
    for leaf in zero.values():
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, torch.full_like(leaf, -0.1), rtol=1e-12, atol=0.0)


def test_first_order_drops_the_second_order_term() -> None:
    # By hand: dL(theta')/dtheta with theta' = theta - a g held at g = const is the query gradient at theta',
    # and dL/da = -sum(query gradient * g).
    learner, trace = double_trace(lambda policy: FirstOrder(LearnedSGD(0.2)), steps=1)
    one = one_task(trace, 0)
    learner(one).backward()
    second = Learner(learner.policy, LearnedSGD(0.2).double(), inner=vpg, outer=vpg)
    found = {key: p.grad.clone() for key, p in learner.policy.named_parameters()}  # type: ignore[union-attr]
    start = {key: p.detach().clone().requires_grad_() for key, p in learner.policy.initial().items()}
    support = vpg(learner.policy(start, one.support[0].observation), one.support[0])
    grads = dict(zip(start, torch.autograd.grad(support, list(start.values())), strict=True))
    rate = next(learner.rule.parameters())
    adapted = {key: (p - rate.detach() * grads[key]).detach().requires_grad_() for key, p in start.items()}
    query = vpg(learner.policy(adapted, one.query.observation), one.query)
    at_adapted = dict(zip(adapted, torch.autograd.grad(query, list(adapted.values())), strict=True))
    for key in start:
        torch.testing.assert_close(found[key], at_adapted[key], rtol=1e-12, atol=1e-14)
    by_hand = -sum(float((at_adapted[key] * grads[key]).sum()) for key in start)
    assert rate.grad is not None and float(rate.grad) == pytest.approx(by_hand, rel=1e-12)
    learner.zero_grad()
    second(one).backward()  # the full gradient differs: the term dropped is not zero
    full = {key: p.grad for key, p in learner.policy.named_parameters()}
    assert max(float((full[key] - found[key]).abs().max()) for key in found) > 1e-4  # type: ignore[operator]


@pytest.mark.parametrize("name", ["first_order", "whitened", "whitened_outputs", "foresight"])
@pytest.mark.parametrize("family", ["navigation", "cartpole"])
def test_first_order_is_the_gradient_at_the_adapted_parameters_whatever_a_rule_reads(family: str, name: str) -> None:
    # All layers but the first read what the parameters make of observations; so does the information.
    def make(policy: Policy) -> UpdateRule:
        params = policy.initial()
        deeper = WhitenedInputs(params, affine_layers(params), ridge=0.5)
        rules = {"whitened": deeper, "foresight": Foresight(deeper, params, "network.head", horizon=3.0)}
        first = rules.get(name)
        return FirstOrder(RULES[name](params) if first is None else Chain(first, LearnedSGD(0.1)))

    learner, trace = double_trace(make, steps=1, name=family)
    one = one_task(trace, 0)
    learner(one).backward()
    adapted = {key: p.detach().requires_grad_() for key, p in learner.adapt(one.support).items()}
    query = vpg(learner.policy(adapted, one.query.observation), one.query)
    expected = dict(zip(adapted, torch.autograd.grad(query, list(adapted.values())), strict=True))
    for key, p in learner.policy.named_parameters():
        torch.testing.assert_close(p.grad, expected[key], rtol=1e-10, atol=1e-13, msg=key)
    assert all(p.grad is not None and bool(p.grad.any()) for p in learner.rule.parameters())


@pytest.mark.parametrize("last", [FirstOrder(SGD(0.1)), PerStep(FirstOrder(SGD(0.1)), SGD(0.1))])
def test_first_order_behind_what_learns_is_refused(last: UpdateRule) -> None:
    params = some_params(0)
    with pytest.raises(ValueError, match="FirstOrder after MetaCurvature .* put FirstOrder around the whole Chain"):
        Chain(MetaCurvature(params), ClipByNorm(1.0), last)
    Chain(ClipByNorm(1.0), last)  # nothing is learned before it


PARAMETERISATIONS = {"free": Free(), "positive": Positive(), "bounded": Bounded(0.01, 2.0)}


@given(rate=st.floats(0.011, 1.99))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("map_", PARAMETERISATIONS.values(), ids=PARAMETERISATIONS)
def test_parameterisations_round_trip(map_: Parameterisation, rate: float) -> None:
    raw = torch.tensor(map_.raw(rate), dtype=torch.float64)
    assert float(map_.rate(raw)) == pytest.approx(rate, rel=1e-9)


def test_parameterisations_keep_their_range_and_grow() -> None:
    raw = torch.linspace(-20.0, 20.0, 401, dtype=torch.float64)
    for map_, low, high in ((Positive(), 0.0, math.inf), (Bounded(0.01, 2.0), 0.01, 2.0)):
        rates = map_.rate(raw)
        assert float(rates.min()) >= low and float(rates.max()) <= high
        assert bool((rates.diff() > 0).all())
    assert torch.equal(Free().rate(raw), raw)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("map_", PARAMETERISATIONS.values(), ids=PARAMETERISATIONS)
def test_rates_that_are_no_numbers_are_refused(map_: Parameterisation, bad: float) -> None:
    with pytest.raises(ValueError, match="step size"):
        map_.raw(bad)
    with pytest.raises(ValueError, match="step size"):
        LearnedSGD(bad, parameterisation=map_)
    with pytest.raises(ValueError, match="step size"):
        SGD(bad)


def test_rates_outside_their_range_are_refused() -> None:
    params = {"w": torch.zeros(2)}
    for bad in (0.0, -0.1):
        with pytest.raises(ValueError, match="above 0"):
            LearnedSGD(bad, parameterisation=Positive())
    for bad in (0.0, 1.0, 7.0):
        with pytest.raises(ValueError, match="inside"):
            MetaSGD(params, initial=bad, parameterisation=Bounded(0.0, 1.0))
    with pytest.raises(ValueError, match="low < high"):
        Bounded(1.0, 1.0)
    with pytest.raises(ValueError, match="need a generator: pass generator=, or one number, as in initial=0.1$"):
        MetaSGD(params)
    with pytest.raises(ValueError, match=r"drawn from \(low, high\), got \(0.2, 0.1\): swap the ends"):
        MetaSGD(params, initial=(0.2, 0.1), generator=seeded(0))
    with pytest.raises(ValueError, match="at least one rule"):
        PerStep()
    with pytest.raises(ValueError, match="at least one rule"):
        Chain()
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive and finite"):
            ClipByNorm(bad)


NOT_MADE: dict[str, Callable[[Any, Shapes], UpdateRule]] = {
    "chain": lambda rule, p: Chain(rule),
    "chain_with_others": lambda rule, p: Chain(ClipByNorm(1.0), rule),
    "per_step": lambda rule, p: PerStep(SGD(0.1), rule),
    "masked": lambda rule, p: Masked(rule, "head", p),
    "first_order": lambda rule, p: FirstOrder(rule),
    "offset": lambda rule, p: Offset(rule, p),
    "scheduled": lambda rule, p: Scheduled(rule, GPSchedule(len(p), steps=1)),
    "foresight": lambda rule, p: Foresight(rule, p, "network.hidden.0"),
}


@pytest.mark.parametrize("name", NOT_MADE)
def test_a_class_in_the_place_of_a_rule_is_refused(name: str) -> None:
    params = some_params(0)
    for other in (SGD, MetaSGD, 0.1, None):
        with pytest.raises(
            TypeError, match=r"expected an UpdateRule, such as MetaSGD\(policy.initial\(\), initial=0.1\), got "
        ):
            NOT_MADE[name](other, params)
    assert isinstance(NOT_MADE[name](SGD(0.1), params), UpdateRule)


@pytest.mark.parametrize("name", LEARNED)
def test_checkpoints_of_rules_with_dotted_names_round_trip(name: str) -> None:
    params = some_params(0, torch.float32)
    source, target = RULES[name](params), RULES[name](params)
    with torch.no_grad():
        for raw in source.parameters():
            raw.add_(torch.rand(raw.shape, generator=seeded(3)) * 0.01)
    assert source.state_dict()
    assert any(not torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    target.load_state_dict(source.state_dict())
    grads = some_params(1, torch.float32)
    one, two = (rule.update(at(grads, params), rule.init(params))[0] for rule in (source, target))
    assert all(torch.equal(one[key], two[key]) for key in params)


def test_rates_keep_the_names_they_were_given() -> None:
    rates = Rates({"network.head.weight": (2,), "log_std": ()}, initial=0.1)
    assert list(rates()) == ["network.head.weight", "log_std"]
    assert rates()["log_std"].shape == ()


class TwoHeads(nn.Module):
    """A frozen layer, a buffer, and a value head that the policy does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.out, self.value = (linear(2, 2, seed=seed) for seed in range(3))
        self.register_buffer("shift", torch.tensor([0.5, -0.5]))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.frozen(x) + self.shift))


UPHILL: dict[str, Callable[[Shapes], UpdateRule]] = {
    "clip": lambda p: ClipByNorm(1.0),
    "curvature": lambda p: FirstOrder(MetaCurvature(p)),
    "blocks": lambda p: Masked(BlockDiagonal(part_of(p, "weight"), size=2), "weight", p),
    "chain": lambda p: Chain(Momentum(), UnitNorm()),
    "scheduled": lambda p: Scheduled(ClipByNorm(1.0), MLPSchedule(generator=seeded(0))),
    "at the second step": lambda p: PerStep(SGD(0.1), Momentum()),
}


@pytest.mark.parametrize("name", UPHILL)
def test_a_transformation_alone_would_step_uphill_and_is_refused(name: str) -> None:
    policy = CategoricalPolicy(MLP(2, [3], 2, generator=seeded(0)))
    params = {key: leaf.detach() for key, leaf in policy.initial().items()}
    grads = {key: torch.randn(leaf.shape, generator=seeded(1)) for key, leaf in params.items()}
    rule = UPHILL[name](params)
    ways, state = [], rule.init(params)
    for _ in range(2):
        updates, state = rule.update(Step(grads, params, torch.ones(())), state)
        ways.append(float(tree_dot(updates, grads).detach()))
    assert max(ways) > 0.0
    with pytest.raises(ValueError, match="only transforms the gradient and would step uphill; let another rule follow"):
        Learner(policy, rule, inner=vpg, outer=vpg)
    for follows in (Chain(rule, SGD(0.1)), Chain(SGD(0.1), ClipByNorm(1.0))):  # an update may be clipped, too
        if name != "at the second step":
            Learner(policy, follows, inner=vpg, outer=vpg)


@pytest.mark.parametrize("name", RULES)
def test_an_unused_head_and_a_frozen_layer_do_no_harm(name: str) -> None:
    policy: Policy = GaussianPolicy(ModuleNetwork(TwoHeads()), 2)
    params = policy.initial()
    assert not any("frozen" in key for key in params) and any("value" in key for key in params)
    rule = (
        Masked(SGD(0.1), "out", params)
        if name in ("masked", "nested", "whitened", "whitened_outputs", "foresight")
        else RULES[name](params)
    )
    rule = Chain(rule, SGD(0.1)) if name == "clip_only" else rule
    learner = Learner(policy, rule, inner=vpg, outer=vpg)
    family = Navigation(horizon=4)
    plan = Plan(tasks=3, episodes=4, query_episodes=4, steps=2)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), plan, generator=seeded(1))
    torch.vmap(learner)(trace).mean().backward()
    adapted = torch.vmap(learner.adapt)(trace.support)
    if name not in MOVES_ANYHOW:
        assert torch.equal(adapted["network.module.value.weight"][1], params["network.module.value.weight"])
    assert not torch.equal(adapted["network.module.out.weight"][1], params["network.module.out.weight"])
    for key, p in learner.named_parameters():
        assert p.grad is None or bool(p.grad.isfinite().all()), key
        assert "frozen" not in key or p.grad is None
