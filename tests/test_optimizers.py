"""Meta-optimizers: linear algebra against dense solvers, bounds on a real trace, refusals, and learning."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from envs import Navigation
from metarl import (
    Advantages,
    Clipped,
    Descent,
    DivergedError,
    Evolution,
    Learner,
    Plan,
    PreUpdateCredit,
    Reptile,
    Trace,
    TrustRegion,
    ZeroBaseline,
    adaptation_curve,
    explore,
    lvc,
    meta_step,
    vpg,
)
from metarl.evaluation import Adaptation
from metarl.losses import TMAML, Dice, LoadedDice, Loss, WeightedSum, sample_kl, surrogate
from metarl.optimizers import conjugate_gradient, meta_loss
from metarl.optimizers.base import assess, fisher_product, meta_gradient
from metarl.policies import Policy
from metarl.rules import SGD, LearnedSGD, MetaSGD, PerLayerSGD, RLSchedule, Scheduled, UpdateRule
from metarl.trees import map_leaves
from tests.helpers import (
    Bandit,
    adapted_kl,
    double_trace,
    gaussian_policy,
    one_task,
    randomize,
    seeded,
    sgd,
    table_policy,
)


def meta_sgd(policy: Policy) -> UpdateRule:
    return MetaSGD(policy.initial(), initial=0.1)


def values(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


def unchanged(learner: Learner, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(p, before[name]) for name, p in learner.named_parameters())


@pytest.mark.parametrize("size", [1, 5, 20])
def test_conjugate_gradient_solves_a_positive_definite_system(size: int) -> None:
    root = torch.randn(size, size, generator=seeded(size), dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(size, dtype=torch.float64)
    target = torch.randn(size, generator=seeded(1), dtype=torch.float64)
    found = conjugate_gradient(lambda v: matrix @ v, target, steps=3 * size, tolerance=1e-24)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-8, atol=1e-9)


def test_conjugate_gradient_stops_early_and_at_its_tolerance() -> None:
    calls = []

    def product(v: Tensor) -> Tensor:
        calls.append(v)
        return 2.0 * v

    target = torch.ones(4, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(product, target, steps=50), target / 2) and len(calls) == 1
    assert not conjugate_gradient(product, torch.zeros(4), steps=50).any() and len(calls) == 1
    hilbert = 1.0 / (torch.arange(6.0)[:, None] + torch.arange(6.0) + 1)
    few, many = (conjugate_gradient(lambda v: hilbert @ v, torch.ones(6), steps=k) for k in (1, 4))
    assert float((hilbert @ many - 1).norm()) < float((hilbert @ few - 1).norm())


def test_conjugate_gradient_does_not_depend_on_the_size_of_its_target() -> None:
    matrix = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    target = torch.randn(6, generator=seeded(1), dtype=torch.float64)
    whole = conjugate_gradient(lambda v: matrix @ v, target, steps=4)
    small = conjugate_gradient(lambda v: matrix @ v, 1e-7 * target, steps=4)
    torch.testing.assert_close(small, 1e-7 * whole, rtol=1e-12, atol=0.0)


def test_a_trust_region_refuses_a_rule_that_acts_at_random() -> None:
    learner, trace = double_trace(lambda _: Scheduled(SGD(0.2), RLSchedule(steps=1, generator=seeded(0))), steps=1)
    message = "not of a rule's random decisions: expected a rule without any, got Scheduled"
    for act in (TrustRegion().refuse, lambda one: TrustRegion().step(one, trace)):
        with pytest.raises(ValueError, match=message):
            act(learner)
    family, noise = Navigation(horizon=4), seeded(1)
    task, before = family.sample(2, generator=seeded(0)), noise.get_state()
    with pytest.raises(ValueError, match=message):
        meta_step(learner.float(), TrustRegion(), family, task, Plan(tasks=2, episodes=2), generator=noise)
    assert torch.equal(noise.get_state(), before)  # refused before anything was played


@pytest.mark.parametrize("outer", [lvc, Dice(), TMAML(), LoadedDice(), WeightedSum(((1.0, lvc), (0.01, sample_kl)))])
def test_a_trust_region_refuses_an_outer_loss_of_constant_value(outer: Loss) -> None:
    learner, trace = double_trace(sgd(0.1), steps=1, outer=outer)
    loss = float(meta_loss(learner, trace).detach())
    randomize(learner, 5, 0.01)
    found = float(meta_loss(learner, trace).detach())  # each KL is 0 where nothing has moved, and adds to the sum
    assert found >= loss if isinstance(outer, WeightedSum) else found == pytest.approx(loss, abs=1e-12)
    for act in (TrustRegion().refuse, lambda one: TrustRegion().step(one, trace)):
        with pytest.raises(ValueError, match="such as surrogate, got (lvc|Dice|TMAML|LoadedDice), whose value is cons"):
            act(learner)
    for other in (surrogate, vpg, Clipped(0.2), WeightedSum(((1.0, surrogate), (0.01, sample_kl)))):
        TrustRegion().refuse(Learner(learner.policy, learner.rule, inner=lvc, outer=other))


@pytest.mark.parametrize("make", [sgd(0.1), meta_sgd], ids=["sgd", "meta_sgd"])
def test_meta_loss_and_adapted_kl_are_means_over_tasks(make: Any) -> None:
    learner, trace = double_trace(make, steps=2)
    alone = torch.stack([learner(one_task(trace, t)) for t in range(3)])
    torch.testing.assert_close(meta_loss(learner, trace), alone.mean(), rtol=1e-12, atol=1e-12)
    assert float(adapted_kl(learner, trace).detach()) < 1e-20  # nothing has moved yet
    randomize(learner, 5, 0.01)
    kls = []
    for t in range(3):
        one = one_task(trace, t)
        new = learner.policy(learner.adapt(one.support), one.query.observation)
        old = one.query.distribution
        pair = (torch.distributions.Normal(d.mean, d.log_std.exp()) for d in (old, new))
        kl = torch.distributions.kl_divergence(*pair).sum(-1)
        kls.append((kl * one.query.mask).sum() / one.query.mask.sum())
    torch.testing.assert_close(adapted_kl(learner, trace), torch.stack(kls).mean(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3], ids="pieces of {}".format)
@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_what_goes_by_pieces_is_what_goes_at_once(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.optimizers.base.piece_size", lambda *_: size)
    learner, trace = double_trace(meta_sgd, steps=2, name=name, inner=lvc, outer=lvc_ratio)
    params = list(learner.parameters())
    # the Fisher matrix is the Hessian of the KL where nothing has moved yet
    vector = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(params)]
    slope = torch.autograd.grad(adapted_kl(learner, trace), params, create_graph=True)
    along = torch.stack([(g * v).sum() for g, v in zip(slope, vector, strict=True)]).sum()
    for found, expected in zip(fisher_product(learner, trace, vector), torch.autograd.grad(along, params), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
        assert float(expected.abs().max()) > 1e-8 and not found.requires_grad
    randomize(learner, 5, 0.01)
    loss, slopes = meta_gradient(learner, trace)
    expected_slopes = torch.autograd.grad(meta_loss(learner, trace), params)
    for found, expected in zip(slopes, expected_slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    expected_loss, expected_kl = float(meta_loss(learner, trace).detach()), float(adapted_kl(learner, trace).detach())
    assert float(loss) == pytest.approx(expected_loss, rel=1e-10) and expected_kl > 1e-6
    assert assess(learner, trace) == pytest.approx((expected_loss, expected_kl), rel=1e-10)


def test_a_fisher_product_is_zero_for_what_the_policy_does_not_depend_on() -> None:
    learner, trace = double_trace(meta_sgd, steps=0)  # no step is taken, so that no rate matters
    vector = [torch.ones_like(p) for p in learner.parameters()]
    for (name, _), product in zip(learner.named_parameters(), fisher_product(learner, trace, vector), strict=True):
        assert bool(product.any()) == name.startswith("policy")


# Descent


def test_descent_takes_the_step_of_its_optimizer() -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    loss = meta_loss(learner, trace)
    grads = torch.autograd.grad(loss, list(learner.parameters()))
    before = values(learner)
    optimizer = Descent(learner, lr=0.01, rate_lr=0.002, optimizer=torch.optim.SGD)
    metrics = optimizer.step(learner, trace)
    for (name, p), g in zip(learner.named_parameters(), grads, strict=True):
        lr = 0.002 if name.startswith("rule") else 0.01
        torch.testing.assert_close(p.detach(), before[name] - lr * g, rtol=1e-12, atol=1e-14)
    assert metrics["meta/loss"] == pytest.approx(float(loss.detach()))
    assert metrics["meta/grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in grads]).norm()))
    assert metrics["meta/skipped"] == 0.0


def test_descent_replays_once_an_epoch() -> None:
    learner, trace = double_trace(meta_sgd, steps=1, outer=Clipped())
    twin, _ = double_trace(meta_sgd, steps=1, outer=Clipped())
    Descent(learner, lr=0.01, epochs=3).step(learner, trace)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for _ in range(3):
        adam.zero_grad()
        meta_loss(twin, trace).backward()
        adam.step()
    for a, b in zip(learner.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("minibatches", "dealt"), [(2, [[0], [1, 2]]), (3, [[0], [1], [2]]), (9, [[0], [1], [2]])])
def test_minibatches_are_replays_of_some_of_the_tasks(minibatches: int, dealt: list[list[int]]) -> None:
    learner, trace = double_trace(meta_sgd, steps=1, outer=Clipped())
    twin, _ = double_trace(meta_sgd, steps=1, outer=Clipped())
    first = float(meta_loss(twin, part(trace, dealt[0])).detach())
    metrics = Descent(learner, lr=0.01, epochs=2, minibatches=minibatches).step(learner, trace)
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    for tasks in 2 * dealt:
        adam.zero_grad()
        meta_loss(twin, part(trace, tasks)).backward()
        adam.step()
    assert metrics["meta/loss"] == pytest.approx(first)
    for a, b in zip(learner.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make", [Descent, Evolution])
def test_an_optimizer_of_another_learner_is_refused(make: Any) -> None:
    """It would write gradients to one learner and step the other, and neither would learn."""
    learner, trace = double_trace(meta_sgd, steps=1)
    other, _ = double_trace(meta_sgd, steps=1)
    before = values(learner)
    optimizer = make(other)
    joined = map_leaves(lambda leaf: leaf.repeat(2, *(1,) * (leaf.dim() - 1)), trace)
    with pytest.raises(ValueError, match="built for another learner: build a new one for this learner"):
        optimizer.step(learner, joined)
    assert unchanged(learner, before)


@pytest.mark.parametrize("taken", [0, 1], ids="after {} steps".format)
@pytest.mark.parametrize("part", ["rule.", "policy.network.head."])
def test_what_is_frozen_later_is_left_alone(part: str, taken: int) -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    optimizer = Descent(learner, lr=0.01)
    for _ in range(taken):
        optimizer.step(learner, trace)
    before = values(learner)
    for name, p in learner.named_parameters():
        p.requires_grad_(not name.startswith(part))
    _, slopes = meta_gradient(learner, trace)
    metrics = optimizer.step(learner, trace)
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith(part) for name in moved)
    assert moved >= {name for name in before if name.startswith("policy.") and not name.startswith(part)}
    assert metrics["meta/grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in slopes]).norm()))


def part(trace: Trace, tasks: list[int]) -> Trace:
    chosen: Trace = map_leaves(lambda leaf: leaf[tasks], trace)
    return chosen


def test_descent_clips_the_norm_of_everything_together() -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    before = values(learner)
    Descent(learner, lr=1.0, max_norm=1e-3, optimizer=torch.optim.SGD).step(learner, trace)
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in learner.named_parameters()])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def poisoned(trace: Trace) -> Trace:
    bad = trace.query.advantage.clone()
    bad[1, 0, 0] = float("nan")
    return trace._replace(query=trace.query._replace(advantage=bad))


def test_a_non_finite_gradient_changes_nothing_and_patience_ends_the_run() -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    optimizer = Descent(learner, lr=0.1)
    optimizer.patience = 2
    optimizer.step(learner, trace)
    before, state = values(learner), str(optimizer.state_dict()["optimizers"])
    for _ in range(2):
        metrics = optimizer.step(learner, poisoned(trace))
        assert metrics["meta/skipped"] == 1.0 and unchanged(learner, before)
    assert str(optimizer.state_dict()["optimizers"]) == state  # Adam's moments are untouched as well
    optimizer.step(learner, trace)  # a good step starts the count anew
    assert not unchanged(learner, before) and optimizer.skipped_in_a_row == 0
    before = values(learner)
    for _ in range(2):
        optimizer.step(learner, poisoned(trace))
    with pytest.raises(DivergedError, match="3 times in a row"):
        optimizer.step(learner, poisoned(trace))
    assert unchanged(learner, before)


def test_descent_resumes_exactly() -> None:
    learner, trace = double_trace(meta_sgd, steps=1, outer=Clipped())
    optimizer = Descent(learner, lr=0.01)
    optimizer.step(learner, trace)
    optimizer.step(learner, poisoned(trace))
    twin, _ = double_trace(meta_sgd, steps=1, outer=Clipped())
    twin.load_state_dict(learner.state_dict())
    resumed = Descent(twin, lr=0.01)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.skipped_in_a_row == 1
    optimizer.step(learner, trace)
    resumed.step(twin, trace)
    assert unchanged(twin, values(learner))


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0.0}, {"lr": float("nan")}, {"rate_lr": -1.0}, {"max_norm": float("inf")}, {"epochs": 0},
        {"minibatches": 0},
    ],
)  # fmt: skip
def test_descent_refuses_bad_settings(bad: dict[str, Any]) -> None:
    learner, _ = double_trace(meta_sgd, steps=0)
    with pytest.raises(ValueError, match=next(iter(bad))):
        Descent(learner, **bad)


# TrustRegion


@pytest.mark.parametrize("max_kl", [0.01, 0.001])
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("name", ["navigation", "cartpole"])
def test_a_trust_region_step_improves_within_its_bound(name: str, steps: int, max_kl: float) -> None:
    learner, trace = double_trace(meta_sgd, steps=steps, name=name, inner=lvc, outer=lvc_ratio)
    before = values(learner)
    start = float(meta_loss(learner, trace).detach())
    # damped enough for so few states: else the step follows directions that they say nothing of, and what is found
    # there depends on a processor's rounding
    metrics = TrustRegion(max_kl=max_kl, damping=1e-2).step(learner, trace)
    assert metrics["meta/skipped"] == 0.0
    kl, after = float(adapted_kl(learner, trace).detach()), float(meta_loss(learner, trace).detach())
    assert 0.0 < kl <= max_kl and kl == pytest.approx(metrics["meta/kl"])
    assert kl > 0.3 * max_kl  # the quadratic model holds: most of the bound is used
    assert after < start
    moved = {key for key, p in learner.named_parameters() if not torch.equal(p, before[key])}
    assert any(key.startswith("policy") for key in moved)
    assert any(key.startswith("rule") for key in moved) == (steps > 0)  # rates are learned too, where used


def lvc_ratio(distribution: Any, batch: Any) -> Tensor:
    """The surrogate of TRPO: importance weights against the sampling policy."""
    return Clipped(1e9)(distribution, batch)


def test_the_first_trial_follows_the_natural_gradient() -> None:
    # With few parameters the Fisher matrix can be had densely, as the Hessian of the KL; the accepted step
    # is then a multiple of F^-1 g, of length sqrt(2 delta / g F^-1 g), up to the damping.
    learner, trace = double_trace(lambda p: PerLayerSGD(p.initial(), initial=0.1), steps=1, hidden=(), outer=lvc_ratio)
    params = list(learner.parameters())
    before = [p.detach().clone() for p in params]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(meta_loss(learner, trace), params)])
    slope = torch.autograd.grad(adapted_kl(learner, trace), params, create_graph=True)
    flat = torch.cat([g.flatten() for g in slope])
    rows = [torch.autograd.grad(flat[i], params, retain_graph=True) for i in range(len(flat))]
    fisher = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(fisher, fisher.mT, rtol=1e-9, atol=1e-12)
    # the Hessian itself by central differences of the KL's gradient in one direction
    direction = torch.randn(len(flat), generator=seeded(0), dtype=torch.float64)

    def slope_at(step: float) -> Tensor:
        low = 0
        with torch.no_grad():
            for p, old in zip(params, before, strict=True):
                p.copy_(old + step * direction[low : low + p.numel()].view_as(p))
                low += p.numel()
        return torch.cat([g.flatten() for g in torch.autograd.grad(adapted_kl(learner, trace), params)])

    numeric = (slope_at(1e-5) - slope_at(-1e-5)) / 2e-5
    slope_at(0.0)
    torch.testing.assert_close(fisher @ direction, numeric, rtol=1e-5, atol=1e-7)
    damped = fisher + 1e-3 * torch.eye(len(flat), dtype=torch.float64)
    natural = -torch.linalg.solve(damped, gradient)
    metrics = TrustRegion(damping=1e-3, cg_steps=200, max_kl=1e-4).step(learner, trace)
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(params, before, strict=True)])
    expected = natural * (2e-4 / float(natural @ damped @ natural)) ** 0.5 * 0.8 ** metrics["meta/backtracks"]
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


class Hostile:
    """An outer loss with a true gradient and a value that only ever rises: no step can be accepted."""

    def __init__(self, bad: float | None = None) -> None:
        self.calls, self.bad = 0, bad

    def __call__(self, distribution: Any, batch: Any) -> Tensor:
        self.calls += not torch.is_grad_enabled()  # once where the search starts, then once a trial
        loss = vpg(distribution, batch)
        rising = float(self.calls) if self.bad is None or self.calls < 2 else self.bad
        return loss - loss.detach() + rising


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_failed_line_search_restores_everything_bit_for_bit(bad: float | None) -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    hostile = Learner(learner.policy, learner.rule, inner=vpg, outer=Hostile(bad))
    before = values(hostile)
    metrics = TrustRegion(backtracks=4).step(hostile, trace)
    assert metrics["meta/skipped"] == 1.0 and metrics["meta/backtracks"] == 4.0
    assert unchanged(hostile, before)


def test_a_non_finite_gradient_or_a_flat_objective_changes_nothing() -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    before = values(learner)
    for bad in (poisoned(trace), trace._replace(query=trace.query._replace(advantage=0 * trace.query.advantage))):
        metrics = TrustRegion().step(learner, bad)
        assert metrics["meta/skipped"] == 1.0 and unchanged(learner, before)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_kl": 0.0},
        {"max_kl": float("inf")},
        {"cg_steps": 0},
        {"damping": -1.0},
        {"damping": float("inf")},
        {"backtracks": 0},
        {"shrink": 1.0},
    ],
)
def test_trust_region_refuses_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected max_kl > 0|(cg_steps|backtracks) must be at least 1, got 0"):
        TrustRegion(**bad)


# Reptile


def test_reptile_by_hand() -> None:
    learner, trace = double_trace(meta_sgd, steps=1)
    before = values(learner)
    ends = [learner.adapt((*one.support, one.query)) for one in (one_task(trace, t) for t in range(3))]
    mean = {name: torch.stack([end[name].detach() for end in ends]).mean(0) for name in ends[0]}
    metrics = Reptile(step_size=0.25).step(learner, trace)
    for name, p in learner.policy.named_parameters():
        old = before[f"policy.{name}"]
        torch.testing.assert_close(p.detach(), old + 0.25 * (mean[name] - old), rtol=1e-10, atol=1e-13)
        assert not torch.equal(p, old)
    assert all(torch.equal(p, before[f"rule.{name}"]) for name, p in learner.rule.named_parameters())
    assert metrics["meta/skipped"] == 0.0 and metrics["meta/move"] > 0
    before = values(learner)
    assert Reptile().step(learner, poisoned(trace))["meta/skipped"] == 1.0 and unchanged(learner, before)
    for bad in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="step size"):
            Reptile(step_size=bad)


def test_reptile_refuses_what_it_would_ignore() -> None:
    family, policy = Navigation(horizon=4), gaussian_policy()
    task, plan = family.sample(2, generator=seeded(0)), Plan(tasks=2, episodes=2)
    plain = Learner(policy, SGD(0.1), inner=vpg, outer=vpg)
    meta_step(plain, Reptile(), family, task, plan, generator=seeded(1))
    trace = explore(plain, family, task, plan, generator=seeded(1))
    for name, more in (("credit", {"credit": PreUpdateCredit(0.5)}), ("every_step", {"every_step": 0.5})):
        learner: Any = Learner(policy, SGD(0.1), inner=vpg, outer=vpg, **more)
        before, noise = values(learner), seeded(1)
        with pytest.raises(ValueError, match=f"expected a learner without {name}, got .*0.5"):
            Reptile().step(learner, trace)
        with pytest.raises(ValueError, match=f"expected a learner without {name}"):
            meta_step(learner, Reptile(), family, task, plan, generator=noise)
        assert unchanged(learner, before) and torch.equal(noise.get_state(), seeded(1).get_state())


def test_reptile_replays_what_a_reinforced_schedule_drew() -> None:
    def make(policy: Policy) -> UpdateRule:
        schedule = RLSchedule(steps=2, units=3, generator=seeded(0))
        randomize(schedule, 1)
        return Scheduled(SGD(0.2), schedule)

    learner, trace = double_trace(make, steps=1)
    assert bool(trace.noise["schedule.noise"].any())
    before, tasks = values(learner), [one_task(trace, t) for t in range(3)]
    drawn, quiet = (
        [learner.adapt((*one.support, one.query), noise) for one, noise in zip(tasks, noises, strict=True)]
        for noises in ([one.noise for one in tasks], [{}] * 3)
    )
    Reptile(step_size=0.25).step(learner, trace)
    for name, p in learner.policy.named_parameters():
        old = before[f"policy.{name}"]
        replayed, without = (torch.stack([end[name].detach() for end in ends]).mean(0) for ends in (drawn, quiet))
        torch.testing.assert_close(p.detach(), old + 0.25 * (replayed - old), rtol=1e-10, atol=1e-13)
        assert float((replayed - without).abs().max()) > 1e-5  # what was drawn matters


def test_optimizers_without_memory_have_empty_checkpoints() -> None:
    for optimizer in (Reptile(), TrustRegion()):
        assert optimizer.state_dict() == {}
        optimizer.load_state_dict({})


# A share of the step


def test_a_share_of_the_step_size_is_that_much_of_the_step() -> None:
    moves = {}
    for kind in ("descent", "trust region", "reptile"):
        for share in (1.0, 0.25):
            learner, trace = double_trace(meta_sgd, steps=1, outer=lvc_ratio)
            before = values(learner)
            optimizer: Any = TrustRegion(max_kl=1e-4) if kind == "trust region" else Reptile()
            if kind == "descent":
                optimizer = Descent(learner, lr=0.01, optimizer=torch.optim.SGD)
            optimizer.share = share
            metrics = optimizer.step(learner, trace)
            taken = 0.8 ** metrics.get("meta/backtracks", 0.0)  # by which the line search shortened the step
            moved = [(p.detach() - before[key]).flatten() for key, p in learner.named_parameters()]
            moves[kind, share] = torch.cat(moved) / taken
    for kind, factor in (("descent", 0.25), ("trust region", 0.5), ("reptile", 0.25)):  # a KL goes with the square
        torch.testing.assert_close(moves[kind, 0.25], factor * moves[kind, 1.0], rtol=1e-6, atol=1e-12)
        assert bool(moves[kind, 1.0].any())


def test_a_share_of_a_trust_region_bounds_the_step_where_the_quadratic_model_does_not() -> None:
    # a region so large that the first trial's KL is well above what the model says: beyond the share of the bound,
    # though within the whole
    learner, trace = double_trace(meta_sgd, steps=1, inner=lvc, outer=lvc_ratio, seed=10)
    before = values(learner)
    optimizer = TrustRegion(max_kl=2.0, damping=1e-2)
    optimizer.share = 0.25
    metrics = optimizer.step(learner, trace)
    taken = float(adapted_kl(learner, trace).detach())
    assert metrics["meta/skipped"] == 0.0 and 0.0 < taken <= 0.25 * 2.0
    assert metrics["meta/kl"] == pytest.approx(taken)
    with torch.no_grad():
        for name, p in learner.named_parameters():
            p.copy_(before[name] + (p - before[name]) / 0.8 ** metrics["meta/backtracks"])
    assert 1.2 * 0.25 * 2.0 < float(adapted_kl(learner, trace).detach()) < 2.0


# They learn


@pytest.mark.parametrize("kind", ["descent", "trust_region"])
def test_meta_learning_beats_no_adaptation_on_a_bandit(kind: str) -> None:
    # Either arm may be the good one, so without adaptation 0.5 is the best expected return. The rate starts
    # too small to matter and has to be learned.
    family = Bandit()
    policy = table_policy([[0.0, 0.0]]).float()
    raw = Advantages(baseline=ZeroBaseline())
    plan = Plan(tasks=40, episodes=20, query_episodes=20, steps=1, support=raw, query=raw)
    if kind == "descent":
        learner = Learner(policy, LearnedSGD(0.1), inner=lvc, outer=Clipped())
        optimizer: Any = Descent(learner, lr=0.01, rate_lr=0.3)
        iterations = 40
    else:
        learner = Learner(policy, LearnedSGD(0.1), inner=lvc, outer=lvc_ratio)
        optimizer = TrustRegion(max_kl=0.05)
        iterations = 8  # every step is as long as its bound, whether or not anything is left to gain
    generator = seeded(0)
    for _ in range(iterations):
        task = family.sample(plan.tasks, generator=generator)
        meta_step(learner, optimizer, family, task, plan, generator=generator)
    task = family.sample(300, generator=seeded(1))
    curve = adaptation_curve(learner, family, task, Adaptation(support=raw), generator=seeded(2))
    without, with_one = curve.sampled.mean(0).tolist()
    assert abs(without - 0.5) < 0.03
    assert with_one > 0.65  # knowing the better arm gives 0.75


def test_pre_update_credit_changes_the_meta_gradient() -> None:
    learner, trace = double_trace(sgd(0.1), steps=1)
    credited = Learner(learner.policy, learner.rule, inner=vpg, outer=vpg, credit=PreUpdateCredit())
    params = list(learner.parameters())
    plain, extra = (torch.autograd.grad(meta_loss(one, trace), params) for one in (learner, credited))
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(plain, extra, strict=True))


def test_replay_at_unchanged_parameters_has_ratio_one() -> None:
    # float32, end to end: the first epoch of `Clipped` is plain policy gradient, nothing is clipped yet
    policy = gaussian_policy()
    learner = Learner(policy, SGD(0.1), inner=vpg, outer=Clipped())
    family = Navigation(horizon=6)
    trace = explore(learner, family, family.sample(3, generator=seeded(0)), Plan(tasks=3, steps=2), generator=seeded(1))
    adapted = torch.vmap(learner.adapt)(trace.support)
    ratio = (policy(adapted, trace.query.observation).log_prob(trace.query.action) - trace.query.log_prob).exp()
    assert float((ratio - 1).detach().abs().max()) < 1e-4
