"""Live steps: listed exactly and computed alone, which changes only the cost of a meta-gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from envs import CartPole
from metarl import Advantages, Batch, Learner, Plan, collect, explore, lvc
from metarl.learned_signals import LearnedAdvantage
from metarl.lifting import lifted
from metarl.losses import Clipped
from metarl.optimizers.base import meta_gradient
from metarl.packing import FULL, live_rows, live_steps, on_live, trimmed
from metarl.rules import MetaSGD
from metarl.transitions import TransitionNetwork
from metarl.trees import map_leaves
from metarl.types import Trace
from tests.helpers import categorical_policy, make_batch, randomize, seeded

MASK = torch.tensor([[[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])  # [T, H, N]


def test_live_steps_are_the_real_ones_in_order() -> None:
    assert live_steps(MASK).tolist() == [[0, 1, 3, 5], [0, 1, 6, 6]]  # 6 = H * N is nowhere


def test_where_most_steps_are_real_none_are_listed() -> None:
    mask = torch.ones(1, 4, 5)
    assert live_steps(mask).shape == (1, 0)
    mask[0, 3] = 0.0
    assert float(mask.mean()) == FULL and live_steps(mask).shape == (1, 15)


def packed(mask: Tensor, **fields: Tensor) -> Batch:
    return make_batch(torch.zeros_like(mask), mask, live=live_steps(mask), **fields)


def test_only_live_rows_are_computed() -> None:
    seen: list[Tensor] = []

    def double(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(rows)
        return 2.0 * rows, {"first": rows[..., 0] + 1.0}

    rows = torch.arange(12.0).reshape(3, 2, 2) + 1.0
    batch = packed(MASK[:1])
    found, more = on_live(double, batch._replace(live=batch.live[0]), rows)
    assert [one.tolist() for one in seen] == [[[1.0, 2.0], [3.0, 4.0], [7.0, 8.0], [11.0, 12.0]]]
    mask = MASK[0]
    torch.testing.assert_close(found, 2.0 * rows * mask.unsqueeze(-1), rtol=0.0, atol=0.0)
    torch.testing.assert_close(more["first"], (rows[..., 0] + 1.0) * mask, rtol=0.0, atol=0.0)


def test_live_rows_weigh_one_and_those_listed_as_nowhere_nothing() -> None:
    batch, rows = packed(MASK), torch.arange(24.0).reshape(2, 3, 2, 2) + 1.0
    for task, listed in enumerate(batch.live):
        flat, weight = live_rows(batch._replace(live=listed), rows[task])
        assert flat.shape == (4, 2) and weight.tolist() == (listed < 6).tolist()
        assert torch.equal(flat[weight > 0.0], rows[task][MASK[task] > 0.0])


def test_lifted_it_is_the_same_and_a_piece_lists_no_more_than_it_has() -> None:
    batch = packed(MASK)
    rows = torch.arange(24.0).reshape(2, 3, 2, 2) + 1.0
    widths = []

    def one(pair: tuple[Batch, Tensor]) -> Tensor:
        widths.append(pair[0].live.shape[-1])
        result: Tensor = on_live(lambda x: 3.0 * x, pair[0], pair[1])
        return result

    together = lifted(one)((batch, rows))
    torch.testing.assert_close(together, 3.0 * rows * MASK.unsqueeze(-1), rtol=0.0, atol=0.0)
    second = lifted(one)(map_leaves(lambda leaf: leaf[1:], (batch, rows)))
    torch.testing.assert_close(second, together[1:], rtol=0.0, atol=0.0)
    assert widths == [4, 2]


def test_trimming_reaches_batches_wherever_they_are() -> None:
    batch = packed(MASK)
    short = map_leaves(lambda leaf: leaf[1:], batch)
    found: Any = trimmed(({"a": (short, MASK)}, short))
    assert found[0]["a"][0].live.shape == found[1].live.shape == (1, 2)
    assert found[0]["a"][1] is MASK


def everywhere(trace: Trace) -> Trace:
    def without(batch: Batch) -> Batch:
        return batch._replace(live=batch.live[:, :0])

    return trace._replace(support=tuple(map(without, trace.support)), query=without(trace.query))


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("pieces", [2**20, 1])
def test_a_meta_gradient_on_live_steps_is_that_on_all(steps: int, pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl.lifting.PIECE", pieces)
    family, policy = CartPole(horizon=60), categorical_policy(hidden=(8,))
    randomize(policy, 0, 0.3)
    judge = TransitionNetwork(4, 2, discrete=True, more=1, hidden=(5,), generator=seeded(1))
    randomize(judge, 2, 0.3)
    rule = MetaSGD(policy.initial(), initial=0.1)
    learner = Learner(policy, rule, inner=LearnedAdvantage(lvc, judge), outer=Clipped(0.2), every_step=0.5).double()
    task = {name: value.double() for name, value in family.sample(3, generator=seeded(3)).items()}
    plan = Plan(tasks=3, episodes=6, query_episodes=4, steps=steps, support=Advantages(0.95))
    trace = explore(learner, family, task, plan, generator=seeded(4))
    assert all(0 < batch.live.shape[-1] < batch.mask[0].numel() for batch in (*trace.support, trace.query))
    loss, gradient = meta_gradient(learner, trace)
    expected, exact = meta_gradient(learner, everywhere(trace))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    for one, other in zip(gradient, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert max(float(one.abs().max()) for one in gradient) > 1e-6


def test_a_rollout_lists_its_live_steps() -> None:
    policy, family = categorical_policy(hidden=(4,)), CartPole(horizon=40)
    batch = collect(policy, policy.initial(), family, family.sample(3, generator=seeded(0)), 5, generator=seeded(1))
    for t in range(3):
        listed = batch.live[t][batch.live[t] < batch.mask[t].numel()]
        assert torch.equal(listed, batch.mask[t].flatten().nonzero().squeeze(-1))
