"""Advantages against hand-computed values: cut-off episodes, normalisation, and no NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl import Advantages, Batch, LinearBaseline, ZeroBaseline
from metarl.advantages import normalize
from metarl.baselines import Baseline
from metarl.returns import discounted_sum
from tests.helpers import make_batch, seeded


class Known:
    """Predicts given values whatever the target, and remembers the targets it was asked to fit."""

    def __init__(self, value: Tensor, last: Tensor) -> None:
        self.value, self.last, self.targets = value, last, list[Tensor]()

    def __call__(self, batch: Batch, target: Tensor) -> tuple[Tensor, Tensor]:
        self.targets.append(target.clone())
        return self.value * batch.mask, self.last


def three_steps() -> tuple[Batch, Known]:
    """Episodes paid 1, 2, 3: one terminates at step 3, one is cut off there, one terminated at step 2."""
    reward = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    terminated = torch.tensor([[False, False, False], [False, False, True], [True, False, False]])
    value = torch.tensor([[0.5, 0.5, 0.5], [1.0, 1.0, 1.0], [2.0, 2.0, 7.0]])
    return make_batch(reward, mask, terminated), Known(value, torch.tensor([8.0, 8.0, 8.0]))


def estimator(baseline: Baseline, **fields: Any) -> Advantages:
    return Advantages(discount=0.5, decay=0.5, normalize=False, baseline=baseline, **fields)


def test_a_time_limit_that_is_terminal_bootstraps_nothing() -> None:
    batch, known = three_steps()
    filled = estimator(known)(batch)
    assert filled.advantage[:, 0].tolist() == [1.5625, 2.25, 1.0]
    assert filled.advantage[:, 1].tolist() == [1.5625, 2.25, 1.0]  # cut off, but the horizon is the task
    assert filled.advantage[:, 2].tolist() == [1.25, 1.0, 0.0]  # deltas 1 and 2 - 1
    assert filled.value[:, 2].tolist() == [0.5, 1.0, 0.0]
    torch.testing.assert_close(known.targets[0][:, 0], torch.tensor([2.75, 3.5, 3.0]))


def test_bootstrapping_credits_only_what_was_cut_off() -> None:
    batch, known = three_steps()
    filled = estimator(known, time_limit="bootstrap")(batch)
    assert filled.advantage[:, 0].tolist() == [1.5625, 2.25, 1.0]  # terminated: V = 0 there
    assert filled.advantage[:, 1].tolist() == [1.8125, 3.25, 5.0]  # cut off: 3 + 0.5 * 8 - 2
    assert filled.advantage[:, 2].tolist() == [1.25, 1.0, 0.0]
    # the refit sees completed returns: 3 + 4, 2 + 3.5, 1 + 2.75 for the cut-off episode only
    assert known.targets[1][:, 1].tolist() == [3.75, 5.5, 7.0]
    assert torch.equal(known.targets[1][:, [0, 2]], known.targets[0][:, [0, 2]])


def going_on() -> Batch:
    """Six cut-off episodes of 100 steps that are paid 1 at every step."""
    batch = make_batch(torch.ones(100, 6), observation=torch.randn(100, 6, 2, generator=seeded(0)))
    return batch._replace(last_observation=torch.randn(6, 2, generator=seeded(1)))


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 0.99, 0.995])
def test_what_was_cut_off_is_worth_as_much_as_going_on(discount: float) -> None:
    filled = Advantages(discount, normalize=False, time_limit="bootstrap")(going_on())
    torch.testing.assert_close(filled.value, torch.full((100, 6), 1.0 / (1.0 - discount)), rtol=2e-3, atol=0.0)
    torch.testing.assert_close(filled.advantage, torch.zeros(100, 6), rtol=0.0, atol=2e-3 / (1.0 - discount))
    aware = Advantages(0.99, baseline=LinearBaseline(), normalize=False, time_limit="bootstrap")(going_on())
    assert float((aware.advantage + aware.value)[-1].mean()) < 5.0  # not 100: time explains why returns end


def test_repeated_fits_solve_the_equation_of_least_squares_temporal_differences() -> None:
    """Of LSTD(1), for episodes of which some terminate (Boyan 2002, Machine Learning 49)."""
    reward, ends = torch.randn(30, 8, generator=seeded(2)), torch.zeros(30, 8, dtype=torch.bool)
    ends[-1, ::2] = True
    observation = torch.randn(31, 8, 2, generator=seeded(3))
    batch = make_batch(reward, terminated=ends, observation=observation[:-1])
    batch = batch._replace(last_observation=observation[-1])
    estimate = Advantages(0.9, normalize=False, baseline=LinearBaseline(ridge=1e-9, time=False), time_limit="bootstrap")
    value = estimate(batch).value
    o = observation.double().numpy()
    x = np.concatenate([o, o**2, np.ones((31, 8, 1))], -1)
    gap, moment = np.zeros((5, 5)), np.zeros(5)
    for episode in range(8):
        for t in range(30):
            left = 0.9 ** (30 - t) * (0.0 if ends[-1, episode] else 1.0)
            gap += np.outer(x[t, episode], x[t, episode] - left * x[30, episode])
            moment += x[t, episode] * sum(0.9 ** (s - t) * float(reward[s, episode]) for s in range(t, 30))
    torch.testing.assert_close(
        value.double(), torch.from_numpy(x[:-1] @ np.linalg.solve(gap, moment)), rtol=0, atol=1e-4
    )


def test_values_of_states_unlike_all_others_are_kept_within_what_rewards_can_be_worth() -> None:
    batch = make_batch(torch.rand(4, 1, generator=seeded(4)), observation=torch.randn(4, 1, 3, generator=seeded(5)))
    batch = batch._replace(last_observation=torch.full((1, 3), 9.0))  # seven weights, from four steps
    estimate = Advantages(0.9, normalize=False, time_limit="bootstrap")
    once = LinearBaseline(time=False)(batch, discounted_sum(batch.reward, 0.9))[1]
    credit = (estimate(batch).advantage + estimate(batch).value)[-1, 0] - batch.reward[-1, 0]
    most = max(10.0 * float(batch.reward.max()), float(once.max()))
    assert min(0.0, float(once.min())) - 1e-3 <= float(credit) / 0.9 <= most + 1e-3


def test_monte_carlo_without_baseline_is_reward_to_go() -> None:
    batch, _ = three_steps()
    filled = Advantages(discount=1.0, decay=1.0, baseline=ZeroBaseline(), normalize=False)(batch)
    assert filled.advantage.T.tolist() == [[6.0, 5.0, 3.0], [6.0, 5.0, 3.0], [3.0, 2.0, 0.0]]
    assert not filled.value.any()


def uneven(seed: int = 0) -> Batch:
    """Two tasks, six episodes of up to ten steps; each that ends early has terminated."""
    generator = seeded(seed)
    length = torch.randint(2, 11, (2, 1, 6), generator=generator)
    step = torch.arange(10)[:, None]
    mask = (step < length).float()
    observation = torch.randn(2, 10, 6, 2, generator=generator) * mask.unsqueeze(-1)
    reward = torch.randn(2, 10, 6, generator=generator) * mask
    return make_batch(
        reward,
        mask,
        (step == length - 1) & (length < 10),
        observation=observation,
        last_observation=torch.randn(2, 6, 2, generator=generator),
    )


@pytest.mark.parametrize("time_limit", ["terminal", "bootstrap"])
@pytest.mark.parametrize("baseline", [LinearBaseline(), ZeroBaseline()])
def test_longer_padding_changes_nothing(baseline: Baseline, time_limit: Any) -> None:
    batch = uneven()
    short = batch._replace(
        mask=batch.mask.clone().index_fill_(1, torch.tensor([9]), 0.0),
        reward=batch.reward.clone().index_fill_(1, torch.tensor([9]), 0.0),
    )
    ends = short.mask - torch.cat([short.mask[:, 1:], torch.zeros(2, 1, 6)], 1)
    short = short._replace(terminated=ends > 0)

    def padded(x: Tensor, junk: float) -> Tensor:
        return torch.cat([x, torch.full_like(x[:, :5], junk)], dim=1)

    longer = short._replace(
        observation=padded(short.observation, 9.0),
        reward=padded(short.reward, 0.0),
        mask=padded(short.mask, 0.0),
        terminated=torch.cat([short.terminated, torch.zeros(2, 5, 6, dtype=torch.bool)], 1),
    )
    estimate = Advantages(baseline=baseline, decay=0.9, time_limit=time_limit)
    torch.testing.assert_close(estimate(longer).advantage[:, :10], estimate(short).advantage, rtol=1e-4, atol=1e-5)
    assert not estimate(longer).advantage[:, 10:].any()


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_the_scale_of_rewards_does_not_matter_once_normalised(factor: float) -> None:
    batch = uneven()
    scaled = batch._replace(reward=batch.reward * factor)
    torch.testing.assert_close(Advantages()(scaled).advantage, Advantages()(batch).advantage, rtol=1e-3, atol=1e-4)
    raw = Advantages(normalize=False)
    torch.testing.assert_close(raw(scaled).advantage, factor * raw(batch).advantage, rtol=1e-3, atol=1e-4)


def test_normalisation_is_per_task_and_over_real_steps_only() -> None:
    batch = uneven()
    advantage = Advantages(baseline=ZeroBaseline())(batch).advantage
    raw = Advantages(baseline=ZeroBaseline(), normalize=False)(batch).advantage
    for task in range(2):
        real = batch.mask[task] > 0
        kept = advantage[task][real]
        assert abs(float(kept.mean())) < 1e-6 and float(kept.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
        by_hand = (raw[task][real] - raw[task][real].mean()) / raw[task][real].std(correction=0)
        torch.testing.assert_close(kept, by_hand, rtol=1e-4, atol=1e-5)
        assert not advantage[task][~real].any()


def test_one_scale_for_all_tasks_keeps_what_is_at_stake_in_each() -> None:
    batch = uneven()
    batch = batch._replace(reward=batch.reward * torch.tensor([1.0, 5.0]).reshape(2, 1, 1))
    raw = Advantages(baseline=ZeroBaseline(), normalize=False)(batch).advantage
    found = Advantages(baseline=ZeroBaseline(), scale="tasks")(batch).advantage
    centred = [raw[t][batch.mask[t] > 0] - raw[t][batch.mask[t] > 0].mean() for t in range(2)]
    spread = torch.cat(centred).square().mean().sqrt()
    for task in range(2):
        real = batch.mask[task] > 0
        torch.testing.assert_close(found[task][real], centred[task] / spread, rtol=1e-4, atol=1e-5)
        assert not found[task][~real].any()
    alone = batch._replace(**{name: getattr(batch, name)[:1] for name in batch._fields if name != "distribution"})
    torch.testing.assert_close(Advantages(scale="tasks")(alone).advantage, Advantages()(alone).advantage)


@pytest.mark.parametrize("value", [7.0, 0.1, 0.3, 123.456, -7.7, 3e18, 1e-4, 1e-5])
@pytest.mark.parametrize("together", [False, True])
def test_constant_advantages_become_zero(together: bool, value: float) -> None:
    for shape in ((2, 3, 4), (1, 1, 1), (3, 100, 20), (1, 7, 1013)):
        some = (torch.rand(shape, generator=seeded(1)) < 0.7).float()
        for mask in (torch.ones(shape), some):
            assert not normalize(torch.full(shape, value) * mask, mask, together=together).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.3, 123.456, -7.7])
def test_advantages_that_differ_a_little_are_normalised_all_the_same(value: float, dtype: torch.dtype) -> None:
    advantage = value * (1.0 + 1e-4 * torch.randn(2, 30, 8, generator=seeded(0), dtype=dtype))
    found = normalize(advantage, torch.ones(2, 30, 8, dtype=dtype))
    torch.testing.assert_close(found.square().mean((1, 2)), torch.ones(2, dtype=dtype), rtol=5e-3, atol=0.0)
    exact = advantage.double() - advantage.double().mean((1, 2), keepdim=True)
    exact = exact / exact.square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(found.double(), exact, rtol=0.0, atol=5e-3)


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize("value", [0.0, 0.1, 123.456])
def test_gradients_through_nearly_constant_advantages_are_finite(value: float, spread: float) -> None:
    advantage = value + spread * torch.randn(2, 5, 4, generator=seeded(0))
    leaf = advantage.requires_grad_()
    weight = torch.randn(2, 5, 4, generator=seeded(1))
    (weight * normalize(leaf, torch.ones(2, 5, 4))).sum().backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("time_limit", ["terminal", "bootstrap"])
def test_degenerate_batches_stay_finite(time_limit: Any) -> None:
    estimate = Advantages(time_limit=time_limit)
    one_step_mask = torch.zeros(2, 5, 3)
    one_step_mask[:, 0] = 1.0
    first = torch.zeros(2, 5, 3, dtype=torch.bool)
    first[:, 0] = True
    cases = {
        "all-zero reward": make_batch(torch.zeros(2, 5, 3)),
        "constant reward": make_batch(torch.ones(2, 5, 3)),
        "one-step episodes": make_batch(one_step_mask, one_step_mask, first),
        "a single step": make_batch(torch.ones(1, 1, 1)),
        "huge rewards": make_batch(torch.full((2, 5, 3), 1e15)),
    }
    for name, batch in cases.items():
        filled = estimate(batch)
        assert bool(filled.advantage.isfinite().all()), name
        assert bool(filled.value.isfinite().all()), name
        if name == "all-zero reward":
            assert not filled.advantage.any()


def test_constant_rewards_for_equal_lengths_carry_no_signal() -> None:
    filled = Advantages(normalize=False, discount=1.0)(make_batch(torch.ones(1, 5, 3)))
    # the time features explain the reward-to-go 5, 4, ... 1 up to what the ridge costs (measured 0.017)
    assert float(filled.advantage.abs().max()) < 0.03


def test_estimating_does_not_touch_the_batch() -> None:
    batch = uneven()
    filled = Advantages()(batch)
    assert not batch.advantage.any() and filled.advantage.any()
    assert filled.reward is batch.reward


@pytest.mark.parametrize(
    ("field", "value"),
    [("discount", -0.1), ("discount", 1.1), ("decay", 2.0), ("time_limit", "never"), ("scale", "each")],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Advantages(**{field: value})
