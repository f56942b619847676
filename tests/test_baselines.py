"""Baselines against numpy, one task at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl import Batch, CrossFitted, LinearBaseline, ZeroBaseline
from tests.helpers import make_batch, one_task, seeded


def random_batch(seed: int = 0, tasks: int = 3, steps: int = 12, episodes: int = 6) -> tuple[Batch, Tensor]:
    """Episodes of uneven length, float64, and a random target."""
    generator = seeded(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    length = torch.randint(3, steps + 1, (tasks, 1, episodes), generator=generator)
    mask = (torch.arange(steps)[:, None] < length).double()
    observation = draw(tasks, steps, episodes, 2) * mask.unsqueeze(-1)
    reward = draw(tasks, steps, episodes) * mask
    batch = make_batch(reward, mask, observation=observation, last_observation=draw(tasks, episodes, 2))
    return batch, draw(tasks, steps, episodes) * mask


def design(observation: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features of Duan et al. for rows of observations [R, O] at times [R]."""
    o, t = np.clip(observation, -10, 10), t[:, None] / 100.0
    return np.concatenate([o, o**2, t, t**2, t**3, np.ones_like(t)], axis=1)


def test_linear_baseline_equals_ridge_regression_by_hand() -> None:
    batch, target = random_batch()
    ridge = 1e-3
    value, last = LinearBaseline(ridge=ridge)(batch, target)
    steps = target.shape[1]
    for task in range(3):
        rows = [
            (one.observation[t, n].numpy(), t, float(target[task, t, n]))
            for one in [one_task(batch, task)]
            for t in range(steps)
            for n in range(target.shape[2])
            if one.mask[t, n] > 0
        ]
        x = design(np.stack([o for o, _, _ in rows]), np.array([t for _, t, _ in rows], dtype=float))
        y = np.array([goal for _, _, goal in rows])
        gram = x.T @ x
        strength = ridge * (np.diag(gram).mean() + 1e-8)
        # ridge regression as least squares with extra rows
        extended = np.concatenate([x, np.sqrt(strength) * np.eye(x.shape[1])])
        weight = np.linalg.lstsq(extended, np.concatenate([y, np.zeros(x.shape[1])]), rcond=None)[0]
        np.testing.assert_allclose(value[task][batch.mask[task] > 0], x @ weight, rtol=1e-8, atol=1e-9)
        end = design(batch.last_observation[task].numpy(), np.full(target.shape[2], float(steps)))
        np.testing.assert_allclose(last[task], end @ weight, rtol=1e-8, atol=1e-9)


def test_linear_baseline_recovers_what_is_linear_in_its_features() -> None:
    batch, _ = random_batch()
    t = torch.arange(12.0, dtype=torch.float64)[:, None] / 100
    target = (3 * batch.observation[..., 0] - 2 * batch.observation[..., 1].square() + 50 * t + 1) * batch.mask
    value, _ = LinearBaseline(ridge=1e-12)(batch, target)
    torch.testing.assert_close(value, target, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("baseline", [LinearBaseline(), CrossFitted(), ZeroBaseline()], ids=lambda b: type(b).__name__)
def test_stacked_equals_looped(baseline: LinearBaseline | CrossFitted | ZeroBaseline) -> None:
    batch, target = random_batch()
    value, last = baseline(batch, target)
    assert value.shape == target.shape and last.shape == target[:, 0].shape
    for task in range(3):
        alone, alone_last = baseline(one_task(batch, task), target[task])
        torch.testing.assert_close(value[task], alone, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(last[task], alone_last, rtol=1e-8, atol=1e-9)
    assert not value[batch.mask == 0].any()  # padding has no value


def test_zero_baseline_is_zero() -> None:
    batch, target = random_batch()
    value, last = ZeroBaseline()(batch, target)
    assert not value.any() and not last.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_and_constant_observations_do_not_break_the_solver(dtype: torch.dtype) -> None:
    target = torch.randn(2, 8, 4, generator=seeded(0)).to(dtype)
    for observation in (torch.zeros(2, 8, 4, 3), torch.ones(2, 8, 4, 3), torch.full((2, 8, 4, 3), 1e30)):
        batch = make_batch(target, observation=observation.to(dtype), last_observation=observation[:, 0].to(dtype))
        for baseline in (LinearBaseline(), CrossFitted()):
            value, last = baseline(batch, target)
            assert value.dtype == dtype
            assert bool(value.isfinite().all()) and bool(last.isfinite().all())
        # nothing but the time explains the target: the fit is no worse than its mean
        value, _ = LinearBaseline()(batch, target)
        assert float((value - target).square().mean()) <= float(target.var(correction=0)) * 1.1


def test_a_single_step_or_an_empty_mask_is_finite() -> None:
    one = make_batch(torch.ones(1, 1, 1))
    assert bool(LinearBaseline()(one, torch.ones(1, 1, 1))[0].isfinite().all())
    empty = make_batch(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2))
    value, last = LinearBaseline()(empty, torch.zeros(1, 3, 2))
    assert not value.any() and not last.any()


def test_runaway_observations_are_clipped() -> None:
    batch, target = random_batch()
    far = batch._replace(observation=batch.observation * 1e4)
    at_the_limit = batch._replace(observation=(batch.observation * 1e4).clamp(-10, 10))
    torch.testing.assert_close(LinearBaseline()(far, target)[0], LinearBaseline()(at_the_limit, target)[0])


def test_cross_fitting_never_uses_the_episodes_it_scores() -> None:
    batch, target = random_batch()
    half = target.shape[-1] // 2
    value, last = CrossFitted()(batch, target)
    for changed, kept in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        other = target.clone()
        other[..., changed] += 100.0 * batch.mask[..., changed]
        moved, moved_last = CrossFitted()(batch, other)
        # the changed half is scored by the other, unchanged one; and the other is scored by the changed one
        torch.testing.assert_close(moved[..., changed], value[..., changed], rtol=0, atol=0)
        torch.testing.assert_close(moved_last[..., changed], last[..., changed], rtol=0, atol=0)
        assert float((moved[..., kept] - value[..., kept]).abs().max()) > 1.0
    plain, _ = LinearBaseline()(batch, target)
    moved, _ = LinearBaseline()(batch, target + 100.0 * batch.mask)
    assert float((moved - plain).abs().max()) > 1.0


def test_cross_fitting_is_two_plain_fits() -> None:
    batch, target = random_batch()
    half = target.shape[-1] // 2
    only_second = batch._replace(mask=batch.mask * (torch.arange(2 * half) >= half))
    features, last = LinearBaseline().features(batch)
    weight = LinearBaseline().fit(features, target * only_second.mask, only_second.mask)
    expected = (features @ weight.mT.unsqueeze(1)).squeeze(-1) * batch.mask
    torch.testing.assert_close(
        CrossFitted()(batch, target)[0][..., :half], expected[..., :half], rtol=1e-10, atol=1e-10
    )


def test_cross_fitting_needs_an_even_number_of_episodes() -> None:
    with pytest.raises(ValueError, match="even number, got 3"):
        CrossFitted()(make_batch(torch.ones(2, 4, 3)), torch.ones(2, 4, 3))
