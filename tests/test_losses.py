"""Losses against hand-computed values and other routes of autograd: values, first and second derivatives, masks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metarl import (
    TMAML,
    Batch,
    Clipped,
    Dice,
    LoadedDice,
    PreUpdateCredit,
    WeightedSum,
    lvc,
    negative_entropy,
    sample_kl,
    vpg,
)
from metarl.distributions import Categorical, Gaussian
from metarl.losses import surrogate
from metarl.trees import map_leaves
from tests.helpers import make_batch, numeric_gradient, seeded

LENGTHS = (4, 2, 1)


def batch_and_logits(seed: int = 0) -> tuple[Batch, Tensor]:
    """Three episodes of 4, 2 and 1 steps with three actions; sampled by slightly other logits."""
    generator = seeded(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = (torch.arange(4)[:, None] < torch.tensor(LENGTHS)).double()
    logits = draw(4, 3, 3)
    sampled = Categorical(logits + 0.2 * draw(4, 3, 3))
    action = torch.randint(0, 3, (4, 3), generator=generator)
    batch = make_batch(
        draw(4, 3) * mask,
        mask,
        action=action,
        distribution=sampled,
        log_prob=sampled.log_prob(action) * mask,
        advantage=draw(4, 3) * mask,
        value=draw(4, 3) * mask,
    )
    return batch, logits


def real_steps() -> list[tuple[int, int]]:
    return [(t, n) for n, length in enumerate(LENGTHS) for t in range(length)]


def log_pi(batch: Batch, logits: Tensor, t: int, n: int) -> float:
    row = logits[t, n].tolist()
    return row[int(batch.action[t, n])] - math.log(sum(math.exp(x) for x in row))


def test_values_by_hand() -> None:
    batch, logits = batch_and_logits()
    distribution, steps = Categorical(logits), real_steps()
    advantage = {step: float(batch.advantage[step]) for step in steps}
    expected = -sum(log_pi(batch, logits, *s) * advantage[s] for s in steps) / 7
    assert float(vpg(distribution, batch)) == pytest.approx(expected, rel=1e-12)
    assert float(lvc(distribution, batch)) == pytest.approx(-sum(advantage.values()) / 7, rel=1e-12)
    clipped = 0.0
    for s in steps:
        ratio = math.exp(log_pi(batch, logits, *s) - float(batch.log_prob[s]))
        clipped -= min(ratio * advantage[s], min(max(ratio, 0.9), 1.1) * advantage[s]) / 7
    assert float(Clipped(0.1)(distribution, batch)) == pytest.approx(clipped, rel=1e-12)
    discounted = -sum(0.9 ** s[0] * float(batch.reward[s]) for s in steps) / 7
    assert float(Dice(0.9)(distribution, batch)) == pytest.approx(discounted, rel=1e-12)
    credit = -0.5 * sum(log_pi(batch, logits, *s) for s in steps) * 2.0
    outcome = torch.tensor(2.0, dtype=torch.float64)
    assert float(PreUpdateCredit(0.5)(distribution, batch, outcome)) == pytest.approx(credit, rel=1e-12)
    lead = torch.tensor([0.4, -1.5, 0.9], dtype=torch.float64)[: batch.mask.shape[1]]  # an episode
    for s in steps:
        ratio = math.exp(log_pi(batch, logits, *s) - float(batch.log_prob[s]))
        leading = float(lead[s[1]])
        credit -= 0.3 * min(ratio * leading, min(max(ratio, 0.9), 1.1) * leading) / 7
    found = PreUpdateCredit(0.5, 0.3, clip=0.1)(distribution, batch, outcome, lead)
    assert float(found) == pytest.approx(credit, rel=1e-12)


def test_every_step_weighs_the_same_however_long_its_episode() -> None:
    # the steps of a long and of a short episode: an average of episode averages would give 1/2 each
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    advantage = torch.tensor([[1.0, 6.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    batch = make_batch(torch.zeros(4, 2), mask, advantage=advantage, action=torch.zeros(4, 2))
    uniform = Categorical(torch.zeros(4, 2, 2))
    assert float(lvc(uniform, batch)) == pytest.approx(-(4 * 1.0 + 6.0) / 5)
    assert float(vpg(uniform, batch)) == pytest.approx(math.log(2) * (4 * 1.0 + 6.0) / 5)


LOSSES: dict[str, Any] = {
    "vpg": vpg,
    "lvc": lvc,
    "dice": Dice(0.9),
    "tmaml": TMAML(0.9),
    "loaded_dice": LoadedDice(0.5),
    "clipped": Clipped(0.2),
    "surrogate": surrogate,
    "kl": sample_kl,
    "entropy": negative_entropy,
    "sum": WeightedSum(((1.0, vpg), (0.3, sample_kl))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_leaks_nothing(name: str) -> None:
    batch, logits = batch_and_logits()
    pad = batch.mask == 0
    other_logits = logits.masked_fill(pad.unsqueeze(-1), 5.0)
    other = batch._replace(action=batch.action.masked_fill(pad, 2))
    for dropped in ("advantage", "value"):  # a careless estimator's leftovers
        other = other._replace(**{dropped: getattr(other, dropped).masked_fill(pad, 77.0)})
    grads = []
    for data, at in ((batch, logits), (other, other_logits)):
        leaf = at.clone().requires_grad_()
        loss = LOSSES[name](Categorical(leaf), data)
        loss.backward()
        assert leaf.grad is not None and not leaf.grad[pad].any()
        grads.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-13, atol=0)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", [surrogate, Clipped(0.2), WeightedSum(((1.0, Clipped(0.2)), (0.1, sample_kl)))])
def test_a_ratio_that_overflows_on_padding_is_not_looked_at(loss: Any) -> None:
    """Padding is zero, the likelihood of nothing under a narrow policy far from it is not: e^100 and more."""
    real = (torch.arange(4)[:, None] < torch.tensor(LENGTHS)).float()
    mean = torch.randn(4, 3, 30, generator=seeded(0)) * real.unsqueeze(-1)
    sampled = Gaussian(mean, torch.full_like(mean, -5.0))
    action = sampled.sample(torch.randn(4, 3, 30, generator=seeded(1))) * real.unsqueeze(-1)
    batch = make_batch(
        torch.zeros(4, 3),
        real,
        action=action,
        distribution=sampled,
        log_prob=sampled.log_prob(action) * real,
        advantage=torch.randn(4, 3, generator=seeded(2)) * real,
    )
    assert float(sampled.log_prob(action)[3, 2]) > 100.0

    def value_and_gradient(episodes: slice, steps: slice) -> tuple[Tensor, Tensor]:
        cut = map_leaves(lambda leaf: leaf[steps, episodes] if leaf.dim() > 1 else leaf, batch)
        shift = torch.full((30,), 1e-4, requires_grad=True)
        value = loss(Gaussian(cut.distribution.mean + shift, cut.distribution.log_std), cut)
        return value.detach(), torch.autograd.grad(value, shift)[0]

    value, gradient = value_and_gradient(slice(None), slice(None))
    assert bool(value.isfinite()) and bool(gradient.isfinite().all()) and bool(gradient.any())
    alone = [value_and_gradient(slice(n, n + 1), slice(0, length)) for n, length in enumerate(LENGTHS)]
    for together, parts in zip((value, gradient), zip(*alone, strict=True), strict=True):
        by_hand = sum(length * part for length, part in zip(LENGTHS, parts, strict=True)) / sum(LENGTHS)
        torch.testing.assert_close(together, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_batch_gives_zero(name: str) -> None:
    batch = make_batch(
        torch.zeros(2, 3), torch.zeros(2, 3), distribution=Categorical(torch.zeros(2, 3, 2)), action=torch.zeros(2, 3)
    )
    assert float(LOSSES[name](Categorical(torch.zeros(2, 3, 2)), batch)) == 0.0


def gradient(loss: Any, batch: Batch, logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(Categorical(leaf), batch), leaf)
    return found


def test_lvc_and_clipped_have_the_policy_gradient() -> None:
    batch, logits = batch_and_logits()
    expected = gradient(vpg, batch, logits)
    torch.testing.assert_close(gradient(lvc, batch, logits), expected, rtol=1e-12, atol=1e-14)
    on_policy = batch._replace(log_prob=Categorical(logits).log_prob(batch.action) * batch.mask)
    torch.testing.assert_close(gradient(Clipped(0.2), on_policy, logits), expected, rtol=1e-12, atol=1e-14)


def test_dice_has_the_policy_gradient_of_discounted_returns_minus_baseline() -> None:
    # score of step t times (sum_{s >= t} g^s r_s - g^t V_t): GAE with decay 1, weighted by g^t
    batch, logits = batch_and_logits()
    weighted = torch.zeros_like(batch.reward)
    for t, n in real_steps():
        to_go = sum(0.9**s * float(batch.reward[s, n]) for s in range(t, LENGTHS[n]))
        weighted[t, n] = to_go - 0.9**t * float(batch.value[t, n])
    expected = gradient(vpg, batch._replace(advantage=weighted), logits)
    torch.testing.assert_close(gradient(Dice(0.9), batch, logits), expected, rtol=1e-12, atol=1e-14)


def derivatives(loss: Any, batch: Batch, logits: Tensor) -> list[Tensor]:
    """Gradient, Hessian, and the gradient of the Hessian's value along a fixed direction."""
    direction = torch.randn(logits.shape, generator=seeded(7), dtype=logits.dtype)

    def value(x: Tensor) -> Tensor:
        return loss(Categorical(x), batch)

    def along(x: Tensor) -> Tensor:
        return (torch.func.grad(lambda y: (torch.func.grad(value)(y) * direction).sum())(x) * direction).sum()

    return [
        torch.func.grad(value)(logits),
        torch.func.jacrev(torch.func.grad(value))(logits),
        torch.func.grad(along)(logits),
    ]


def with_weighted_advantages(batch: Batch) -> Batch:
    """With γ^t (discounted return - value) as advantages, γ = 0.9."""
    weighted = torch.zeros_like(batch.reward)
    for t, n in real_steps():
        to_go = sum(0.9**s * float(batch.reward[s, n]) for s in range(t, LENGTHS[n]))
        weighted[t, n] = to_go - 0.9**t * float(batch.value[t, n])
    return batch._replace(advantage=weighted)


def test_loaded_dice_of_returns_minus_values_is_tmaml_in_every_derivative() -> None:
    batch, logits = batch_and_logits()
    batch = with_weighted_advantages(batch)
    pairs = zip(derivatives(LoadedDice(1.0), batch, logits), derivatives(TMAML(0.9), batch, logits), strict=True)
    for loaded, tmaml in pairs:
        torch.testing.assert_close(loaded, tmaml, rtol=1e-10, atol=1e-12)


def test_without_values_tmaml_is_dice_and_its_variate_has_no_gradient() -> None:
    batch, logits = batch_and_logits()
    bare = batch._replace(value=torch.zeros_like(batch.value))
    for found, expected in zip(
        derivatives(TMAML(0.9), bare, logits), derivatives(Dice(0.9), bare, logits), strict=True
    ):
        assert torch.equal(found, expected)
    first, second, _ = derivatives(TMAML(0.9), batch, logits)
    dice_first, dice_second, _ = derivatives(Dice(0.9), batch, logits)
    torch.testing.assert_close(first, dice_first, rtol=1e-12, atol=1e-14)
    assert float((second - dice_second).abs().max()) > 1e-3


def test_loaded_dice_without_dependence_has_the_derivatives_of_lvc() -> None:
    batch, logits = batch_and_logits()
    for found, expected in zip(
        derivatives(LoadedDice(0.0), batch, logits), derivatives(lvc, batch, logits), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert float(LoadedDice(0.5)(Categorical(logits), batch)) == 0.0
    with pytest.raises(ValueError, match="dependence"):
        LoadedDice(1.5)


def test_second_derivatives_of_lvc_include_the_scores_outer_product() -> None:
    batch, logits = batch_and_logits()
    for t, n in real_steps()[:3]:
        pi = logits[t, n].softmax(-1)
        score = torch.eye(3, dtype=torch.float64)[batch.action[t, n]] - pi
        curvature = -(torch.diag(pi) - torch.outer(pi, pi))  # Hessian of log pi, whatever the action
        scale = -batch.advantage[t, n] / 7
        for loss, expected in ((vpg, scale * curvature), (lvc, scale * (curvature + torch.outer(score, score)))):

            def value(row: Tensor, loss: Any = loss, t: int = t, n: int = n) -> Tensor:
                table = logits.clone()
                table[t, n] = row
                return loss(Categorical(table), batch)

            hessian = torch.autograd.functional.hessian(value, logits[t, n].clone())
            torch.testing.assert_close(hessian, expected, rtol=1e-12, atol=1e-14)


def test_clipping_stops_the_gradient_beyond_the_range_only_where_it_helped() -> None:
    action = torch.zeros(1, 4)
    old = torch.log(torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    p = torch.tensor([[0.8, 0.8, 0.2, 0.2]])  # ratios 1.6, 1.6, 0.4, 0.4
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    batch = make_batch(torch.zeros(1, 4), action=action, log_prob=old, advantage=advantage)
    logits = torch.stack([p.log(), (1 - p).log()], -1)
    leaf = logits.clone().requires_grad_()
    Clipped(0.2)(Categorical(leaf), batch).backward()
    assert leaf.grad is not None
    moves = leaf.grad.abs().sum(-1)[0] > 0
    assert moves.tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match="positive"):
        Clipped(0.0)


def test_kl_and_entropy_by_hand() -> None:
    batch, logits = batch_and_logits()
    kl = entropy = 0.0
    for t, n in real_steps():
        p = batch.distribution.logits[t, n].softmax(-1).tolist()
        q = logits[t, n].softmax(-1).tolist()
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 7
        entropy += sum(b * math.log(b) for b in q) / 7
    assert float(sample_kl(Categorical(logits), batch)) == pytest.approx(kl, rel=1e-12)
    assert float(negative_entropy(Categorical(logits), batch)) == pytest.approx(entropy, rel=1e-12)
    total = WeightedSum(((2.0, sample_kl), (-0.5, negative_entropy)))(Categorical(logits), batch)
    assert float(total) == pytest.approx(2 * kl - 0.5 * entropy, rel=1e-12)


def test_gradients_for_a_gaussian_equal_central_differences() -> None:
    generator = seeded(0)
    mean = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    log_std = 0.1 * torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    action = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    sampled = Gaussian(mean + 0.01, log_std)
    batch = make_batch(
        torch.randn(4, 3, generator=generator, dtype=torch.float64),
        action=action,
        advantage=torch.randn(4, 3, generator=generator, dtype=torch.float64),
        log_prob=sampled.log_prob(action),
        distribution=sampled,
    )
    for loss in (vpg, Clipped(0.5), sample_kl, negative_entropy):
        for leaf in (mean, log_std):
            leaf.requires_grad_()
            value = loss(Gaussian(mean, log_std), batch) + 0.0 * leaf.sum()  # the entropy ignores the mean
            (exact,) = torch.autograd.grad(value, leaf)
            leaf.requires_grad_(False)
            numeric = numeric_gradient(lambda loss=loss: float(loss(Gaussian(mean, log_std), batch)), leaf)
            torch.testing.assert_close(exact, numeric, rtol=1e-6, atol=1e-9)
