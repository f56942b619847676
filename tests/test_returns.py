"""Discounted sums against a loop; GAE against hand values and stable-baselines3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from metarl.returns import discounted_sum, gae
from tests.helpers import seeded


@given(
    factor=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])),
    steps=st.integers(1, 9),
    rows=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_discounted_sum_equals_a_loop(factor: float, steps: int, rows: int, seed: int) -> None:
    x = torch.randn(2, steps, rows, generator=seeded(seed), dtype=torch.float64)
    expected = torch.zeros_like(x)
    running = torch.zeros(2, rows, dtype=torch.float64)
    for t in reversed(range(steps)):
        running = x[:, t] + factor * running
        expected[:, t] = running
    torch.testing.assert_close(discounted_sum(x, factor), expected, rtol=1e-12, atol=1e-12)


def test_discounted_sum_is_differentiable_in_the_factor() -> None:
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    for value in (0.0, 0.5, 1.0):  # y_0 = 1 + 2 f + 4 f^2, so dy_0/df = 2 + 8 f
        factor = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        discounted_sum(x, factor)[0].sum().backward()
        assert factor.grad is not None and float(factor.grad) == pytest.approx(2 + 8 * value)


def scalar_gae(
    reward: list[float], value: list[float], last: float, terminated: list[bool], length: int, g: float, decay: float
) -> list[float]:
    """The textbook recursion over one episode; zero beyond its length."""
    out, running = [0.0] * len(reward), 0.0
    for t in reversed(range(length)):
        following = value[t + 1] if t + 1 < length else last
        bootstrap = 0.0 if terminated[t] else following
        running = reward[t] + g * bootstrap - value[t] + g * decay * running
        out[t] = running
    return out


@given(steps=st.integers(1, 8), seed=st.integers(0, 999), discount=st.floats(0, 1), decay=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_gae_equals_the_recursion_on_every_episode(steps: int, seed: int, discount: float, decay: float) -> None:
    rng = np.random.default_rng(seed)
    rows = 5
    length = rng.integers(1, steps + 1, rows)
    dies = rng.random(rows) < 0.5
    reward, value = rng.normal(size=(2, steps, rows))
    last = rng.normal(size=rows)
    mask = (np.arange(steps)[:, None] < length).astype(float)
    terminated = (np.arange(steps)[:, None] == length - 1) & (dies | (length < steps))  # short ones have died
    found = gae(
        *(torch.from_numpy(x) for x in (reward * mask, value * mask, last)),
        terminated=torch.from_numpy(terminated),
        mask=torch.from_numpy(mask),
        discount=discount,
        decay=decay,
    )
    for n in range(rows):
        expected = scalar_gae(
            list(reward[:, n]), list(value[:, n]), last[n], list(terminated[:, n]), length[n], discount, decay
        )
        np.testing.assert_allclose(found[:, n].numpy(), expected, rtol=1e-10, atol=1e-10)


def toy(last: float, terminated: bool) -> Tensor:
    """Three steps paid 1, 2, 3 with values 0.5, 1, 2; discount 0.5 and decay 0.5."""
    ends = torch.tensor([[False], [False], [terminated]])
    return gae(
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[0.5], [1.0], [2.0]]),
        torch.tensor([last]),
        terminated=ends,
        mask=torch.ones(3, 1),
        discount=0.5,
        decay=0.5,
    )[:, 0]


def test_gae_of_a_terminated_episode_by_hand() -> None:
    # deltas: 1 + .5 - .5 = 1; 2 + 1 - 1 = 2; 3 - 2 = 1. A_2 = 1, A_1 = 2 + 1/4, A_0 = 1 + 2.25/4
    assert toy(last=8.0, terminated=True).tolist() == [1.5625, 2.25, 1.0]


def test_gae_of_a_truncated_episode_by_hand() -> None:
    # the last delta is 3 + .5 * 8 - 2 = 5: A_2 = 5, A_1 = 2 + 5/4, A_0 = 1 + 3.25/4
    assert toy(last=8.0, terminated=False).tolist() == [1.8125, 3.25, 5.0]
    assert toy(last=0.0, terminated=False).tolist() == toy(last=8.0, terminated=True).tolist()


def test_gae_leaks_nothing_from_padding() -> None:
    def episode(padding: float) -> Tensor:
        mask = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
        return gae(
            torch.tensor([[1.0], [2.0], [padding], [padding]]),
            torch.tensor([[0.5], [1.0], [padding], [padding]]),
            torch.tensor([padding]),
            terminated=torch.tensor([[False], [True], [False], [False]]),
            mask=mask,
            discount=0.9,
            decay=0.8,
        )[:, 0]

    assert torch.equal(episode(0.0), episode(1e6))
    assert episode(0.0)[2:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_gae_equals_stable_baselines3(seed: int) -> None:
    # Two environments over 12 steps of a continuing buffer. stable-baselines3 strings episodes together and
    # knows one kind of end; a cut-off is told to it by adding gamma V(last state) to the last reward.
    rng = np.random.default_rng(seed)
    steps, rows, discount, decay = 12, 2, 0.95, 0.9
    reward, value = rng.normal(size=(2, steps, rows)).astype(np.float32)
    final = rng.normal(size=rows).astype(np.float32)
    done = rng.random((steps, rows)) < 0.25
    cut = done & (rng.random((steps, rows)) < 0.5)
    beyond = rng.normal(size=(steps, rows)).astype(np.float32)  # V of the state at which an episode was cut off
    buffer = RolloutBuffer(steps, Box(-1, 1, (1,)), Box(-1, 1, (1,)), "cpu", decay, discount, rows)
    starts = np.ones(rows)
    zero = np.zeros((rows, 1))
    for t in range(steps):
        paid = reward[t] + discount * beyond[t] * cut[t]
        buffer.add(zero, zero, paid, starts, torch.from_numpy(value[t]), torch.zeros(rows))
        starts = done[t].astype(float)
    buffer.compute_returns_and_advantage(torch.from_numpy(final), done[-1])
    checked = 0
    for n in range(rows):
        ends = [*(np.flatnonzero(done[:, n]) + 1), steps]
        for low, high in zip([0, *ends], ends, strict=False):
            if low == high:
                continue
            terminated = torch.zeros(high - low, 1, dtype=torch.bool)
            terminated[-1] = bool(done[high - 1, n] and not cut[high - 1, n])
            last = beyond[high - 1, n] if cut[high - 1, n] else final[n]
            found = gae(
                torch.from_numpy(reward[low:high, n : n + 1]),
                torch.from_numpy(value[low:high, n : n + 1]),
                torch.tensor([last]),
                terminated=terminated,
                mask=torch.ones(high - low, 1),
                discount=discount,
                decay=decay,
            )
            np.testing.assert_allclose(found[:, 0], buffer.advantages[low:high, n], rtol=2e-5, atol=2e-5)
            checked += high - low
    assert checked == steps * rows and done.any()
