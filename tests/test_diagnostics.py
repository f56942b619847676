"""Effective step sizes against rules with known step sizes."""

from __future__ import annotations

import math

import torch

from metarl import Learner, vpg
from metarl.diagnostics import Estimates, cosines, effective_rates
from metarl.rules import SGD, LearnedSGD, Masked, MetaSGD, Offset, PerLayerSGD, PerStep
from tests.helpers import double_trace, one_task, randomize


def test_of_sgd_they_are_its_step_size() -> None:
    learner, trace = double_trace(lambda policy: SGD(0.3), steps=2)
    for rate in effective_rates(learner, trace).values():
        torch.testing.assert_close(rate, torch.full((3, 2), 0.3, dtype=torch.float64))
        assert not rate.requires_grad


def test_they_tell_layers_and_steps_apart() -> None:
    learner, trace = double_trace(
        lambda policy: PerStep(PerLayerSGD(policy.initial(), initial=0.1), LearnedSGD(0.2)), steps=3
    )
    first = next(iter(learner.rule.children()))[0]
    with torch.no_grad():
        for i, raw in enumerate(first.parameters()):
            raw.fill_(0.1 * (i + 1))
    found = effective_rates(learner, trace)
    layers = {name: rate[0, 0].item() for name, rate in found.items()}
    assert len({round(value, 9) for value in layers.values()}) == len(list(first.parameters()))
    for rate in found.values():
        torch.testing.assert_close(rate[:, 1:], torch.full((3, 2), 0.2, dtype=torch.float64))


def test_a_rate_a_parameter_counts_by_the_gradient_it_multiplies() -> None:
    learner, trace = double_trace(lambda policy: MetaSGD(policy.initial(), initial=0.1), steps=1)
    randomize(learner.rule, 3, 0.5)
    found = effective_rates(learner, trace)
    for t in range(3):
        params, _ = learner.start()
        grads = learner.look(params, one_task(trace.support[0], t)).grads
        for name, rate in learner.rule.rates().items():  # type: ignore[union-attr,operator]
            g = grads[name]
            expected = (rate * g * g).sum() / (g * g).sum()
            torch.testing.assert_close(found[name][t, 0], expected.detach(), rtol=1e-9, atol=1e-12)


def test_uphill_is_negative_and_what_stands_still_is_zero() -> None:
    learner, trace = double_trace(lambda policy: Masked(SGD(-0.1), "head", policy.initial()), steps=1)
    for name, rate in effective_rates(learner, trace).items():
        torch.testing.assert_close(rate, torch.full((3, 1), -0.1 if "head" in name else 0.0, dtype=torch.float64))


def test_without_steps_there_are_none() -> None:
    learner, trace = double_trace(lambda policy: SGD(0.3), steps=0)
    found = effective_rates(learner, trace)
    assert list(found) == list(learner.policy.initial())
    assert all(rate.shape == (3, 0) and rate.dtype == torch.float64 for rate in found.values())


def test_looking_changes_nothing() -> None:
    learner, trace = double_trace(lambda policy: Offset(SGD(0.1), policy.initial()), steps=2)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    effective_rates(learner, trace)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in learner.named_parameters())
    other = Learner(learner.policy, SGD(0.1), inner=vpg, outer=vpg)
    same = zip(effective_rates(learner, trace).values(), effective_rates(other, trace).values(), strict=True)
    for a, b in same:
        torch.testing.assert_close(a, b)  # offsets start at zero


def test_a_single_trace_does_not_show_its_noise() -> None:
    alone = Estimates(torch.tensor([[3.0, 4.0]]), 0.0)
    assert math.isnan(alone.noise) and bool(cosines({"alone": alone}).isnan())
    pair = Estimates(torch.tensor([[3.0, 5.0], [3.0, 3.0]]), 0.0)  # mean (3, 4), variance 2, of the mean 1
    assert math.isclose(pair.noise, math.sqrt(2.0 / 24.0), rel_tol=1e-6)
    assert math.isclose(float(cosines({"pair": pair})), 24.0 / math.sqrt(34.0 * 18.0), rel_tol=1e-6)
