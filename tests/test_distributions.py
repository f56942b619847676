"""Action distributions against torch.distributions, and sampling against expected frequencies."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from metarl.distributions import Categorical, Gaussian
from tests.helpers import seeded


def gaussians(seed: int) -> tuple[Gaussian, torch.distributions.Distribution]:
    generator = seeded(seed)
    mean = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    log_std = 0.5 * torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, log_std.exp())
    return Gaussian(mean, log_std), torch.distributions.Independent(normal, 1)


def categoricals(seed: int, actions: int = 4) -> tuple[Categorical, torch.distributions.Distribution]:
    logits = 2 * torch.randn(5, 4, actions, generator=seeded(seed), dtype=torch.float64) + 3.0
    return Categorical(logits), torch.distributions.Categorical(logits=logits)


@pytest.mark.parametrize("make", [gaussians, categoricals, *(partial(categoricals, actions=n) for n in (1, 2, 3))])
def test_densities_entropies_and_divergences_equal_torchs(make: type) -> None:
    torch.manual_seed(0)
    (ours, theirs), (other, other_theirs) = make(0), make(1)
    action = theirs.sample()
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), rtol=1e-12, atol=1e-12)
    kl = torch.distributions.kl_divergence(theirs, other_theirs)
    torch.testing.assert_close(ours.kl(other), kl, rtol=1e-11, atol=1e-12)
    assert ours.log_prob(action).shape == (5, 4)


def test_the_log_probability_of_a_vector_is_the_sum_not_the_mean() -> None:
    distribution = Gaussian(torch.zeros(3), torch.zeros(3))
    one = Gaussian(torch.zeros(1), torch.zeros(1)).log_prob(torch.ones(1))
    assert float(distribution.log_prob(torch.ones(3))) == pytest.approx(3 * float(one))
    assert float(one) == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))
    # the ratio of two policies in two dimensions is the product of the ratios, not its square root
    moved = Gaussian(torch.tensor([0.3, -0.2]), torch.zeros(2))
    start = Gaussian(torch.zeros(2), torch.zeros(2))
    action = torch.tensor([0.7, 0.4])
    ratio = (moved.log_prob(action) - start.log_prob(action)).exp()
    by_hand = math.exp(-0.5 * (0.4**2 - 0.7**2)) * math.exp(-0.5 * (0.6**2 - 0.4**2))
    assert float(ratio) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("make", [gaussians, categoricals])
def test_divergence_from_itself_is_zero_with_zero_slope_and_positive_otherwise(make: type) -> None:
    (ours, _), (other, _) = make(0), make(1)
    assert float(ours.kl(ours).abs().max()) < 1e-14
    assert bool((ours.kl(other) > 0).all())
    leaves = [leaf.clone().requires_grad_() for leaf in ours]
    ours.kl(type(ours)(*leaves)).sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None and float(leaf.grad.abs().max()) < 1e-12


def test_two_actions_are_as_likely_as_torch_says_and_their_slopes_are_too() -> None:
    """By a sigmoid; far out, where one of the two is certain, as well, and in derivatives of a derivative."""
    gap = torch.tensor([-300.0, -40.0, -1.0, 0.0, 0.5, 30.0, 300.0], dtype=torch.float64)
    logits = torch.stack((2.0 - gap, torch.full_like(gap, 2.0)), -1).requires_grad_()
    for action in (0, 1):
        chosen = torch.full(gap.shape, action)
        found = Categorical(logits).log_prob(chosen)
        expected = torch.distributions.Categorical(logits=logits).log_prob(chosen)
        for _ in range(3):  # the values, their slope and its slope
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            weight = torch.arange(1.0, found.numel() + 1.0, dtype=torch.float64).reshape(found.shape)
            (found,) = torch.autograd.grad((found * weight).sum(), logits, create_graph=True)
            (expected,) = torch.autograd.grad((expected * weight).sum(), logits, create_graph=True)


def test_gaussian_samples_are_a_shifted_scaled_noise() -> None:
    distribution, _ = gaussians(0)
    noise = torch.randn(5, 4, 3, generator=seeded(3), dtype=torch.float64)
    expected = distribution.mean + distribution.log_std.exp() * noise
    torch.testing.assert_close(distribution.sample(noise), expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(distribution.mode(), distribution.mean)
    assert torch.equal(distribution.sample(torch.zeros_like(noise)), distribution.mean)


def test_gaussian_log_std_broadcasts() -> None:
    wide = Gaussian(torch.randn(6, 2, generator=seeded(0)), torch.tensor([0.3, -0.1]))
    full = Gaussian(wide.mean, wide.log_std.expand(6, 2))
    action = torch.randn(6, 2, generator=seeded(1))
    assert torch.equal(wide.log_prob(action), full.log_prob(action))
    assert torch.equal(wide.entropy(), full.entropy()) and wide.entropy().shape == (6,)


@pytest.mark.parametrize("actions", [2, 3, 6])
def test_categorical_frequencies(actions: int) -> None:
    logits = torch.randn(actions, generator=seeded(actions)) * 1.5
    draws = 20000
    noise = torch.rand(draws, generator=seeded(0))
    sampled = Categorical(logits.expand(draws, actions)).sample(noise)
    counts = torch.bincount(sampled, minlength=actions).double().numpy()
    probabilities = torch.softmax(logits.double(), -1).numpy()
    assert scipy.stats.chisquare(counts, draws * probabilities / probabilities.sum()).pvalue > 0.01
    # the test has the power to see swapped actions
    assert scipy.stats.chisquare(counts, draws * probabilities[::-1] / probabilities.sum()).pvalue < 1e-6


def exact_inverse(logits: Tensor, noise: float) -> int:
    """Smallest action whose cumulative probability exceeds the noise."""
    running = 0.0
    for action, p in enumerate(torch.softmax(logits.double(), -1).tolist()):
        running += p
        if noise < running:
            return action
    return len(logits) - 1


@pytest.mark.parametrize("actions", [3, 5])
def test_categorical_sampling_inverts_the_cumulative_distribution(actions: int) -> None:
    generator = seeded(0)
    logits = torch.randn(200, actions, generator=generator, dtype=torch.float64)
    noise = torch.rand(200, generator=generator, dtype=torch.float64)
    expected = [exact_inverse(row, float(u)) for row, u in zip(logits, noise, strict=True)]
    assert Categorical(logits).sample(noise).tolist() == expected


def test_asking_for_equal_bits_changes_no_sampled_action() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    for actions in (3, 10, 50):
        logits = torch.randn(2000, actions, generator=seeded(actions))
        noise = torch.rand(2000, generator=seeded(0))
        usual = Categorical(logits).sample(noise)
        torch.use_deterministic_algorithms(True)
        try:
            assert torch.equal(Categorical(logits).sample(noise), usual) and len(usual.unique()) == actions
        finally:
            torch.use_deterministic_algorithms(before)


def test_extreme_noise_and_logits_stay_within_the_actions() -> None:
    for actions in (2, 3, 7):
        for logits in (torch.zeros(actions), torch.linspace(-200.0, 200.0, actions), -torch.ones(actions) * 1e4):
            for noise in (0.0, 1.0 - 2**-24):
                action = int(Categorical(logits).sample(torch.tensor(noise)))
                assert 0 <= action < actions
    certain = Categorical(torch.tensor([0.0, 0.0, 60.0]))
    assert {int(certain.sample(torch.tensor(u))) for u in (1e-6, 0.3, 0.999)} == {2}


def test_a_shift_of_the_logits_changes_nothing() -> None:
    ours, _ = categoricals(0)
    shifted = Categorical(ours.logits + 100.0)
    action = ours.mode()
    torch.testing.assert_close(shifted.log_prob(action), ours.log_prob(action), rtol=1e-10, atol=1e-12)
    assert torch.equal(shifted.mode(), action)


def test_deviations_have_mean_zero_and_their_mean_under_another_is_by_enumeration() -> None:
    (ours, _), (other, _) = categoricals(0), categoricals(1)
    choices = ours.logits.shape[-1]
    by_action = [ours.deviation(torch.full(ours.logits.shape[:-1], a)) for a in range(choices)]
    for acting in (ours, other):
        chances = acting.logits.softmax(-1)
        expected = sum(chances[..., a, None] * by_action[a] for a in range(choices))
        torch.testing.assert_close(ours.mean_deviation(acting), expected, rtol=1e-12, atol=1e-12)
    assert float(ours.mean_deviation(ours).abs().max()) == 0.0 and float(by_action[0].abs().max()) > 0.1


def test_deviations_have_mean_zero_and_their_mean_under_another_is_by_quadrature() -> None:
    (ours, _), (other, _) = gaussians(0), gaussians(1)
    points, weights = np.polynomial.hermite_e.hermegauss(12)
    for acting in (ours, other):
        found = [
            float(w) / math.sqrt(2.0 * math.pi) * ours.deviation(acting.mean + float(x) * acting.log_std.exp())
            for x, w in zip(points, weights, strict=True)
        ]
        torch.testing.assert_close(ours.mean_deviation(acting), torch.stack(found).sum(0), rtol=1e-10, atol=1e-10)
    assert float(ours.mean_deviation(ours).abs().max()) < 1e-12


@pytest.mark.parametrize("make", [gaussians, categoricals])
def test_the_information_is_the_curvature_of_the_divergence_averaged_over_rows(make: type) -> None:
    ours = make(0)[0]
    rows = type(ours)(*(leaf.flatten(0, 1) for leaf in ours))
    weight = torch.rand(20, generator=seeded(3), dtype=torch.float64)
    weight[3] = 0.0

    def divergence(shift: Tensor) -> Tensor:  # of one change of all rows' outputs
        return (rows.kl(type(rows)(rows[0] + shift, *rows[1:])) * weight).sum() / weight.sum()

    outputs = rows[0].shape[-1]
    expected = torch.autograd.functional.hessian(divergence, torch.zeros(outputs, dtype=torch.float64))
    torch.testing.assert_close(rows.information(weight), expected, rtol=1e-10, atol=1e-12)


def test_what_a_distribution_tells() -> None:
    gaussian, categorical = gaussians(0)[0], categoricals(0)[0]
    assert torch.equal(gaussian.told(), torch.cat([gaussian.mean, gaussian.log_std], -1))
    shared = Gaussian(gaussian.mean, torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(shared.told()[4, 1, 3:].float(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(categorical.told(), categoricals(0)[1].probs)  # type: ignore[attr-defined]


def test_divergences_need_the_same_family() -> None:
    gaussian, categorical = gaussians(0)[0], categoricals(0)[0]
    with pytest.raises(TypeError, match="expected a Gaussian"):
        gaussian.kl(categorical)
    with pytest.raises(TypeError, match="expected a Categorical"):
        categorical.kl(gaussian)
    with pytest.raises(TypeError, match="expected a Gaussian"):
        gaussian.mean_deviation(categorical)
    with pytest.raises(TypeError, match="expected a Categorical"):
        categorical.mean_deviation(gaussian)
