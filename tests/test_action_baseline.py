"""A baseline that sees the action: the same gradient on average, exact if the fit is, and with less noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metarl import Batch, lvc, vpg
from metarl.action_baseline import ActionBaseline
from metarl.baselines import LinearBaseline
from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.trees import map_leaves
from tests.helpers import make_batch, numeric_gradient, seeded


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def walked(steps: int = 6, episodes: int = 4, *, seed: int = 2) -> Batch:
    """Steps in a plane under a Gaussian; the last episode ends early."""
    observation = drawn(steps, episodes, 2, seed=0)
    mean = 0.2 * observation
    distribution = Gaussian(mean, torch.full_like(mean, -0.2))
    action = distribution.sample(drawn(steps, episodes, 2, seed=seed))
    mask = (torch.arange(steps)[:, None] < torch.tensor([steps] * (episodes - 1) + [2])).double()
    return make_batch(
        torch.zeros_like(mask),
        mask,
        observation=observation,
        last_observation=observation[-1],
        action=action,
        distribution=distribution,
        log_prob=distribution.log_prob(action) * mask,
        advantage=drawn(steps, episodes, seed=3) * mask,
    )


def short(batch: Batch, action: Tensor) -> Tensor:
    """What is left to the goal after half an action."""
    return batch.observation + 0.5 * action - torch.tensor([0.4, -0.7]).double()


def judged(batch: Batch) -> Batch:
    """With the advantages of coming near the goal, squared, over acting as usual."""
    worth = short(batch, batch.distribution.mean).square().sum(-1) - short(batch, batch.action).square().sum(-1)
    return batch._replace(advantage=worth * batch.mask)


def shifted(batch: Batch, by: Tensor) -> Gaussian:
    """Another policy: the sampling one's mean and spread, moved."""
    given = batch.distribution
    return Gaussian(given.mean + by[:2] + by[2] * batch.observation, given.log_std + by[3])


def gradient(loss: Any, batch: Batch) -> Tensor:
    at = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(shifted(batch, at), batch), at)
    return found


@pytest.mark.parametrize("plain", [lvc, vpg])
def test_where_the_fit_is_exact_so_is_the_gradient_from_any_actions(plain: Any) -> None:
    """Earning -|s + a/2 - g|² under a mean m and a spread σ: pulled by s + m/2 - g, and σ by σ²/2 a component."""
    batch = judged(walked(steps=12))
    mean, log_std = batch.distribution
    weight = batch.mask.unsqueeze(-1) / batch.mask.sum()
    pull, spread = short(batch, mean) * weight, 0.5 * (2.0 * log_std).exp() * weight
    expected = torch.stack([*pull.sum((0, 1)), (pull * batch.observation).sum(), spread.sum()])
    found = gradient(ActionBaseline(plain, LinearBaseline(ridge=1e-12)), batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert float((gradient(plain, batch) - expected).abs().max()) > 0.05  # by the sampled actions alone


class Given(LinearBaseline):
    """A fit that does not depend on the batch."""

    def fit(self, features: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return drawn(1, features.shape[-1], seed=7)


@pytest.mark.parametrize("plain", [lvc, vpg])
def test_any_fit_leaves_the_mean_gradient_as_it_is(plain: Any) -> None:
    """One state, every action as often as it is chosen: the mean over actions, by enumeration."""
    logits, advantage = drawn(3, seed=0), drawn(3, seed=1)
    acting = Categorical(logits)
    means = []
    for loss in (plain, ActionBaseline(plain, Given())):
        total = torch.zeros(3, dtype=torch.float64)
        for action in range(3):
            batch = make_batch(
                torch.zeros(1, 1).double(),
                observation=torch.tensor([[[0.6, -1.2]]]).double(),
                last_observation=torch.zeros(1, 2).double(),
                action=torch.tensor([[action]]),
                distribution=Categorical(logits.expand(1, 1, 3)),
                advantage=advantage[action].reshape(1, 1),
            )
            at = logits.clone().requires_grad_()
            (found,) = torch.autograd.grad(loss(Categorical(at.expand(1, 1, 3)), batch), at)
            total = total + acting.logits.softmax(-1)[action] * found
        means.append(total)
    torch.testing.assert_close(means[1], means[0], rtol=1e-10, atol=1e-12)
    assert float(means[0].abs().max()) > 0.01


def test_padding_is_not_read() -> None:
    batch = walked()
    noise = 10.0 * (1.0 - batch.mask)
    noisy = batch._replace(
        advantage=batch.advantage + noise,
        action=batch.action + noise.unsqueeze(-1),
        observation=batch.observation - noise.unsqueeze(-1),
    )
    loss = ActionBaseline(lvc)
    torch.testing.assert_close(gradient(loss, noisy), gradient(loss, batch), rtol=1e-9, atol=1e-12)


def test_a_gradient_reaches_learned_advantages_through_the_fit() -> None:
    batch, loss = walked(), ActionBaseline(lvc)

    def steepness(advantage: Tensor) -> Tensor:
        at = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        value = loss(shifted(batch, at), batch._replace(advantage=advantage))
        (found,) = torch.autograd.grad(value, at, create_graph=True)
        return found.square().sum()

    advantage = batch.advantage.clone().requires_grad_()
    (found,) = torch.autograd.grad(steepness(advantage), advantage)
    expected = numeric_gradient(lambda: float(steepness(advantage).detach()), advantage)
    torch.testing.assert_close(found * batch.mask, expected * batch.mask, rtol=1e-4, atol=1e-8)
    assert float(found.abs().max()) > 1e-3


def test_it_is_lifted_over_tasks() -> None:
    batch, loss = walked(), ActionBaseline(lvc)
    other = batch._replace(advantage=batch.advantage.flip(1) * batch.mask)
    both: Batch = map_leaves(lambda *leaves: torch.stack(leaves), batch, other)

    def act(one: Batch) -> Distribution:
        return shifted(one, torch.full((4,), 0.1).double())

    found = torch.vmap(lambda one: loss(act(one), one))(both)
    torch.testing.assert_close(found, torch.stack([loss(act(one), one) for one in (batch, other)]))


def cubed(steps: int, batches: int) -> Batch:
    """One-step episodes in one state under a standard normal policy: the cube of an action is what it earns."""
    action = drawn(batches, 1, steps, 1, seed=0)
    nothing = torch.zeros_like(action)
    return make_batch(
        nothing.squeeze(-1),
        observation=torch.ones_like(action),
        last_observation=torch.ones(batches, steps, 1, dtype=action.dtype),
        action=action,
        distribution=Gaussian(nothing, nothing),
        advantage=action.squeeze(-1).pow(3),
    )


def test_the_bias_of_what_a_fit_cannot_express_vanishes_with_the_number_of_steps() -> None:
    """-E[a³ a] = -3 in the mean, of which a fit of degree 2 to the very actions takes a part away."""

    def mean_gradient(loss: Any, steps: int, batches: int) -> float:
        def judged(mean: Tensor, batch: Batch) -> Tensor:
            return loss(batch.distribution._replace(mean=batch.distribution.mean + mean), batch)

        at = torch.zeros(batches, 1, dtype=torch.float64)
        return float(torch.vmap(torch.func.grad(judged))(at, cubed(steps, batches)).mean())

    assert mean_gradient(vpg, 400, 400) == pytest.approx(-3.0, rel=0.03)
    few, more, many = (mean_gradient(ActionBaseline(vpg), *size) for size in ((4, 2000), (40, 1000), (400, 400)))
    assert -1.0 < few < 0.0 and -2.7 < more < -2.2 and many == pytest.approx(-3.0, rel=0.03)


def test_it_takes_the_noise_of_the_actions_and_leaves_that_of_what_is_earned() -> None:
    """Ten draws of the same steps' actions, with and without noise in what they earn."""
    for luck, low, high in ((0.1, 0.0, 0.2), (30.0, 0.5, 3.0)):
        noise = []
        for loss in (lvc, ActionBaseline(lvc)):
            found = []
            for seed in range(10):
                batch = judged(walked(20, 6, seed=seed))
                advantage = batch.advantage + luck * drawn(20, 6, seed=100 + seed) * batch.mask
                found.append(gradient(loss, batch._replace(advantage=advantage)))
            noise.append(float((torch.stack(found) - torch.stack(found).mean(0)).square().sum()))
        assert low < noise[1] / noise[0] < high


def test_credit_completes_its_meta_gradient_of_vpg() -> None:
    # Of three arms, by enumeration of two pulls: J(theta) = E[reward of the policy adapted to them].
    reward = torch.tensor([0.8, 0.0, -0.6], dtype=torch.float64)
    start = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    pulls = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    loss = ActionBaseline(vpg)

    def rows(logits: Tensor) -> Categorical:
        return Categorical(logits.expand(1, 2, 3))

    def earned(logits: Tensor, sampling: Tensor, pulled: Tensor) -> Tensor:
        action, distribution = pulled.unsqueeze(0), rows(sampling)
        batch = make_batch(reward[action], action=action, distribution=distribution, advantage=reward[action])
        slope = torch.func.grad(lambda p: loss(rows(p), batch))(logits)
        return ((logits - 0.5 * slope).softmax(-1) * reward).sum()

    def chance(logits: Tensor, pulled: Tensor) -> Tensor:
        return logits.log_softmax(-1)[pulled].sum().exp()

    def objective() -> float:
        return sum(float(chance(start, pulled) * earned(start, start, pulled)) for pulled in pulls)

    exact, errors = numeric_gradient(objective, start, 1e-4), []
    for credited, seen in ((0.0, False), (1.0, False), (1.0, True)):  # the last sees how the fit depends on sampling
        logits = start.clone().requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for pulled in pulls:
            value = earned(logits, logits if seen else start, pulled)
            credit = credited * chance(logits, pulled).log() * value.detach()
            total = total + chance(start, pulled) * (value + credit)
        found = torch.autograd.grad(total, logits)[0]
        errors.append(float((found - exact).norm() / exact.norm()))
    without, together, whole = errors
    assert whole < 1e-8
    assert together < 0.02 < 0.03 < without  # measured: .013 and .037
