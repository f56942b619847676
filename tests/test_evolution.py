"""Evolution strategies against the gradient they estimate; exponentiated gradient against its closed form."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from envs import Navigation
from metarl import (
    Descent,
    DivergedError,
    Evolution,
    ExponentiatedGradient,
    Learner,
    Plan,
    Trace,
    adaptation_curve,
    explore,
    meta_step,
    vpg,
)
from metarl.evaluation import Adaptation
from metarl.rules import SGD, LearnedSGD, MetaSGD
from tests.helpers import Bandit, double_trace, gaussian_policy, make_batch, seeded, sgd, table_policy

PLAN = Plan(tasks=3, episodes=4, query_episodes=4, steps=1)


def bandit_learner(rate: float = 1.0) -> Learner:
    return Learner(table_policy([[0.3, -0.3]]), LearnedSGD(rate).double(), inner=vpg, outer=vpg)


def scored(optimizer: Evolution, learner: Learner, fitness: Any) -> None:
    """A step of the optimizer where a learner's return is what ``fitness`` says of it."""
    explorers = optimizer.explorers(learner, generator=seeded(1))
    values = torch.tensor([[fitness(one)] for one in explorers], dtype=torch.float64)
    batch = make_batch(values.reshape(-1, 1, 1))
    optimizer.step(learner, Trace((), batch, torch.zeros(len(values)), torch.zeros(len(values)), {}))


def assert_mirrored(explorers: list[Learner], learner: Learner) -> None:
    """The learner is in the middle between each explorer and the next."""
    for one, other in zip(explorers[::2], explorers[1::2], strict=True):
        for p, q, start in zip(one.parameters(), other.parameters(), learner.parameters(), strict=True):
            torch.testing.assert_close((p + q) / 2, start.detach(), rtol=1e-12, atol=1e-12)
            assert not torch.equal(p, q)


def test_explorers_are_mirror_images_of_everything_learned() -> None:
    learner = bandit_learner()
    explorers = Evolution(learner, perturbation=0.1, pairs=3).explorers(learner, generator=seeded(0))
    assert len(explorers) == 6
    assert_mirrored(explorers, learner)
    moves = torch.stack([next(one.parameters()).detach() - learner.policy.initial()["network.weight"].detach()
                         for one in explorers[::2]])  # fmt: skip
    assert 0.02 < float(moves.std()) < 0.3 and len(set(moves.flatten().tolist())) == moves.numel()


def total(learner: Learner) -> float:
    return sum(float(p.detach().sum()) for p in learner.parameters())


def test_explorers_are_the_same_objects_every_iteration_around_what_the_learner_has_become() -> None:
    learner, _ = double_trace(lambda policy: MetaSGD(policy.initial(), initial=0.1), steps=0)
    learner.compile()
    optimizer, generator = Evolution(learner, lr=0.1, pairs=2), seeded(0)
    first = list(optimizer.explorers(learner, generator=generator))
    assert len(first) == optimizer.team == 4 and Descent(learner).team == 1
    programs, before = [one.programs for one in first], [p.detach().clone() for p in learner.parameters()]
    assert len({id(one) for one in (learner.programs, *programs)}) == 5
    scored(optimizer, learner, total)
    assert not any(torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))
    drawn = [p.detach().clone() for p in first[0].parameters()]
    again = optimizer.explorers(learner, generator=generator)
    assert all(one is other for one, other in zip(again, first, strict=True))
    assert all(one.programs is its for one, its in zip(again, programs, strict=True))
    assert not any(torch.equal(p, old) for p, old in zip(again[0].parameters(), drawn, strict=True))
    assert_mirrored(again, learner)


@pytest.mark.parametrize("taken", [0, 1], ids="after {} steps".format)
def test_what_is_frozen_is_neither_explored_nor_stepped(taken: int) -> None:
    learner, _ = double_trace(lambda policy: MetaSGD(policy.initial(), initial=0.1), steps=0)
    optimizer = Evolution(learner, lr=0.1, pairs=2)
    for _ in range(taken):
        scored(optimizer, learner, total)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    frozen = [name for name in before if "head" in name]
    for name in frozen:
        learner.get_parameter(name).requires_grad_(False)
    for one in optimizer.explorers(learner, generator=seeded(1)):
        moved = [name for name, p in one.named_parameters() if not torch.equal(p, before[name])]
        assert moved == [name for name in before if name not in frozen]
        assert [name for name, p in one.named_parameters() if not p.requires_grad] == frozen
    scored(optimizer, learner, total)
    moved = [name for name, p in learner.named_parameters() if not torch.equal(p, before[name])]
    assert moved == [name for name in before if name not in frozen]
    for name in frozen:
        learner.get_parameter(name).requires_grad_(True)
    for one in optimizer.explorers(learner, generator=seeded(1)):  # thawed: explored again
        assert not any(torch.equal(p, learner.get_parameter(name)) for name, p in one.named_parameters())


def test_explorers_of_another_learner_are_refused() -> None:
    learner, other = bandit_learner(), bandit_learner()
    with pytest.raises(ValueError, match="built for another learner"):
        Evolution(other).explorers(learner, generator=seeded(0))


def test_its_gradient_is_that_of_the_smoothed_return() -> None:
    # of a quadratic the antithetic estimate has the exact gradient as its mean, whatever σ: here by 4,000 pairs
    learner = bandit_learner()
    curvature = torch.tensor([[1.0, 3.0]], dtype=torch.float64)

    def fitness(one: Learner) -> float:
        weight, rate = one.policy.initial()["network.weight"], next(one.rule.parameters())
        return -float((curvature * weight.square()).sum().detach()) + 2.0 * float(rate.detach())

    optimizer = Evolution(learner, perturbation=0.2, pairs=4000)
    scored(optimizer, learner, fitness)
    weight, rate = learner.policy.initial()["network.weight"], next(learner.rule.parameters())
    assert weight.grad is not None and rate.grad is not None
    expected = 2 * curvature * torch.tensor([[0.3, -0.3]], dtype=torch.float64)  # of minus the fitness
    torch.testing.assert_close(weight.grad, expected, rtol=0.1, atol=0.1)
    assert float(rate.grad) == pytest.approx(-2.0, abs=0.15)


def test_it_tells_the_norm_of_the_gradient_it_estimates() -> None:
    learner = bandit_learner()
    optimizer = Evolution(learner, perturbation=0.1, pairs=2)
    explorers = optimizer.explorers(learner, generator=seeded(1))
    first, second = (  # what was added to a learner, from it and its mirror image: σ ε
        torch.cat([(p - q).detach().flatten() / 2 for p, q in zip(one.parameters(), other.parameters(), strict=True)])
        for one, other in (explorers[:2], explorers[2:])
    )
    batch = make_batch(torch.tensor([5.0, 2.0, -1.0, 3.0], dtype=torch.float64).reshape(4, 1, 1))
    metrics = optimizer.step(learner, Trace((), batch, torch.zeros(4), torch.zeros(4), {}))
    expected = ((5.0 - 2.0) * first + (-1.0 - 3.0) * second) / (2 * 2 * 0.1**2)
    assert metrics["meta/grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-9) and bool(expected.any())


def test_the_team_explores_the_same_tasks_with_the_same_noise() -> None:
    learner = Learner(gaussian_policy(), SGD(0.1), inner=vpg, outer=vpg)
    seen: list[Trace] = []

    class Watched(Evolution):
        def step(self, learner: Learner, trace: Trace) -> dict[str, float]:
            seen.append(trace)
            return super().step(learner, trace)

    family = Navigation(horizon=5)
    optimizer = Watched(learner, perturbation=1e-6, pairs=2)
    generator = seeded(3)
    metrics = meta_step(learner, optimizer, family, family.sample(3, generator=seeded(0)), PLAN, generator=generator)
    (trace,) = seen
    rewards = trace.query.reward.reshape(4, 3, *trace.query.reward.shape[1:])
    for other in rewards[1:]:  # policies that hardly differ: equal tasks and noise give all but equal rewards
        torch.testing.assert_close(other, rewards[0], rtol=1e-3, atol=1e-3)
    assert metrics["env_steps"] == 4 * 3 * 8 * 5  # the price of the whole team
    assert not torch.equal(generator.get_state(), seeded(3).get_state())  # and the next iteration draws anew


def test_it_counts_what_is_earned_while_adapting_if_the_learner_does() -> None:
    counted = []
    for weight in (0.0, 0.5):
        learner = bandit_learner()
        learner.every_step = weight
        optimizer = Evolution(learner, pairs=1)
        optimizer.explorers(learner, generator=seeded(1))
        earned, after = (make_batch(torch.tensor([[[a]], [[b]]]).double()) for a, b in ((4.0, 2.0), (1.0, 3.0)))
        none = torch.zeros(2)
        counted.append(-optimizer.step(learner, Trace((earned, earned), after, none, none, {}))["meta/loss"])
    assert counted == [2.0, 2.0 + 0.5 * 2 * 3.0]


def test_it_learns_to_adapt_on_a_bandit() -> None:
    learner, family = bandit_learner(0.0), Bandit()
    plan = Plan(tasks=16, episodes=16, query_episodes=16, steps=1)
    optimizer = Evolution(learner, lr=0.1, perturbation=0.3, pairs=6)
    generator, tasks = seeded(1), seeded(2)

    def score() -> float:
        task = {name: value.double() for name, value in family.sample(200, generator=seeded(9)).items()}
        curve = adaptation_curve(learner, family, task, Adaptation(1, 16, 50), generator=seeded(8))
        return float(curve.sampled[:, 1].mean())

    before = score()
    for _ in range(60):
        task = {name: value.double() for name, value in family.sample(16, generator=tasks).items()}
        meta_step(learner, optimizer, family, task, plan, generator=generator)
    assert before < 0.55 and score() > 0.62 and float(next(learner.rule.parameters()).detach()) > 1.0


def test_evolution_resumes_exactly_and_uses_its_share() -> None:
    def run(stop: bool) -> list[Tensor]:
        learner = bandit_learner()
        optimizer = Evolution(learner, lr=0.1, pairs=2)
        for i in range(4):
            if stop and i == 2:
                state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(learner.state_dict())
                learner = bandit_learner()
                learner.load_state_dict(weights)
                optimizer = Evolution(learner, lr=0.1, pairs=2)
                optimizer.load_state_dict(state)
            scored(optimizer, learner, lambda one, i=i: float(next(one.parameters()).detach().sum()) * (i + 1))
        return [p.detach().clone() for p in learner.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True), strict=True))
    moves = []
    for share in (1.0, 0.25):
        learner = bandit_learner()
        optimizer = Evolution(learner, lr=0.1, pairs=2)
        optimizer.share = share
        before = next(learner.parameters()).detach().clone()
        scored(optimizer, learner, lambda one: float(next(one.parameters()).detach().sum()))
        moves.append(next(learner.parameters()).detach() - before)
    torch.testing.assert_close(moves[1], 0.25 * moves[0])


def test_evolution_refuses_what_cannot_be() -> None:
    learner = bandit_learner()
    for bad in ({"pairs": 0}, {"perturbation": 0.0}, {"lr": 0.0}, {"rate_lr": -1.0}):
        with pytest.raises(ValueError, match="expected|must be positive|must be at least 1"):
            Evolution(learner, **bad)  # type: ignore[arg-type]
    with pytest.raises(DivergedError, match="not finite"):
        scored(Evolution(learner, pairs=2), learner, lambda one: math.nan)


def test_exponentiated_gradient_by_hand() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    optimizer = ExponentiatedGradient([p], lr=0.1, decay=0.5)
    expected, square = p.detach().clone(), torch.zeros(3, dtype=torch.float64)
    for k, gradient in enumerate(([1.0, -2.0, 0.0], [3.0, 0.5, 1e-9], [-1.0, 0.5, 4.0]), 1):
        g = torch.tensor(gradient, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        square = 0.5 * square + 0.5 * g * g
        normalised = g / (square / (1 - 0.5**k)).sqrt().clamp_min(1e-12)
        expected = expected * torch.exp(-0.1 * normalised)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0.0)


def test_rates_stay_positive_whatever_the_gradient() -> None:
    p = nn.Parameter(torch.tensor([1.0]))
    optimizer = ExponentiatedGradient([p], lr=1e9)
    for _ in range(3):
        p.grad = torch.tensor([1.0])
        before = float(p.detach())
        optimizer.step()
        assert float(p.detach()) == pytest.approx(before / math.e)
    for bad in (-1.0, 0.0):
        with pytest.raises(ValueError, match="start above zero"):
            ExponentiatedGradient([nn.Parameter(torch.tensor([1.0, bad]))])
    for arguments in ({"lr": 0.0}, {"decay": 1.0}):
        with pytest.raises(ValueError, match="expected lr"):
            ExponentiatedGradient([p], **arguments)


def test_descent_gives_rates_to_an_optimizer_of_their_own() -> None:
    learner, trace = double_trace(lambda policy: MetaSGD(policy.initial(), initial=0.1), steps=1)
    plain = copy.deepcopy(learner)
    Descent(plain, lr=0.01).step(plain, trace)
    optimizer = Descent(learner, lr=0.01, rate_lr=0.5, rate_optimizer=ExponentiatedGradient)
    before = [p.detach().clone() for p in learner.rule.parameters()]
    optimizer.step(learner, trace)
    for p, q in zip(learner.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(p, q)
    for p, old in zip(learner.rule.parameters(), before, strict=True):
        assert bool((p > 0).all()) and not torch.equal(p, old)
        torch.testing.assert_close((p / old).log().abs(), torch.full_like(p, 0.5))  # first step: the sign, times η
    twin = copy.deepcopy(learner)
    again = Descent(twin, lr=0.01, rate_lr=0.5, rate_optimizer=ExponentiatedGradient)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, by in ((learner, optimizer), (twin, again)):
        by.step(one, trace)
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), twin.parameters(), strict=True))
    fixed, trace = double_trace(sgd(), steps=1)
    Descent(fixed, lr=0.01, rate_optimizer=ExponentiatedGradient).step(fixed, trace)  # nothing to learn but θ


def test_a_share_is_that_much_of_the_step_of_both_optimizers() -> None:
    learner, trace = double_trace(lambda policy: MetaSGD(policy.initial(), initial=0.1), steps=1)
    # without a memory of past gradients every step on a rate is a factor of exp(±η)
    signs = functools.partial(ExponentiatedGradient, decay=0.0)
    optimizer = Descent(learner, lr=0.01, rate_lr=0.2, optimizer=torch.optim.SGD, rate_optimizer=signs)
    for share in (0.25, 0.25, 1.0):  # which does not pile up
        optimizer.share = share
        before = {name: p.detach().clone() for name, p in learner.named_parameters()}
        optimizer.step(learner, trace)
        for name, p in learner.named_parameters():
            assert p.grad is not None and bool(p.grad.any())
            if name.startswith("rule"):
                moved = (p.detach() / before[name]).log()
                torch.testing.assert_close(moved, -share * 0.2 * p.grad.sign(), rtol=1e-9, atol=1e-12)
            else:
                torch.testing.assert_close(p.detach(), before[name] - share * 0.01 * p.grad, rtol=1e-9, atol=1e-12)


def test_an_explored_trace_needs_no_team() -> None:
    learner, family = bandit_learner(), Bandit()
    assert Descent(learner).explorers(learner, generator=seeded(0)) == [learner]
    task = {name: value.double() for name, value in family.sample(3, generator=seeded(0)).items()}
    assert explore(learner, family, task, PLAN, generator=seeded(1)).noise == {}
