"""The learned advantage: no correction at first, transitions by hand, meta-gradients against differences."""

from __future__ import annotations

import pytest
import torch

from metarl import Learner, lvc, vpg
from metarl.distributions import Categorical
from metarl.learned_advantage import LearnedAdvantage
from metarl.objectives import symlog
from metarl.rules import SGD
from metarl.types import Batch
from tests.helpers import double_trace, make_batch, numeric_gradient, one_task, randomize, seeded, sgd

SIZES = {"navigation": (2, 2, False), "cartpole": (4, 2, True)}


def learned(name: str, loss: object = lvc) -> LearnedAdvantage:
    observations, actions, discrete = SIZES[name]
    return LearnedAdvantage(loss, observations, actions, discrete=discrete, units=3, generator=seeded(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SIZES)
def test_it_starts_as_the_plain_loss(name: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=2, name=name)
    task = one_task(trace, 1)
    same = Learner(plain.policy, SGD(0.3), inner=learned(name).double(), outer=vpg)
    expected = Learner(plain.policy, SGD(0.3), inner=lvc, outer=vpg).adapt(task.support)
    for key, leaf in same.adapt(task.support).items():
        torch.testing.assert_close(leaf, expected[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SIZES)
def test_meta_gradients_equal_central_differences(name: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=2, name=name)
    inner = learned(name, vpg).double()
    randomize(inner, 2, 0.5)
    learner, task = Learner(plain.policy, SGD(0.3), inner=inner, outer=vpg), one_task(trace, 1)
    learner(task).backward()
    for key, p in inner.named_parameters():
        numeric = numeric_gradient(lambda: float(learner(task).detach()), p, 1e-5)
        assert p.grad is not None and bool((p.grad != 0).any()), key
        torch.testing.assert_close(p.grad, numeric, rtol=2e-5, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", SIZES)
def test_lifted_over_tasks_equals_a_loop(name: str) -> None:
    plain, trace = double_trace(sgd(0.3), steps=1, name=name)
    inner = learned(name).double()
    randomize(inner, 2, 1.0)
    learner = Learner(plain.policy, SGD(0.3), inner=inner, outer=vpg)
    together = torch.vmap(learner)(trace)
    alone = torch.stack([learner(one_task(trace, t)) for t in range(len(together))])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0.0)


def transitions() -> tuple[Batch, torch.Tensor]:
    """Two episodes of at most three steps: one that the clock ends, one that its task ends after two."""
    reward = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    terminated = torch.tensor([[False, False], [False, True], [False, False]])
    batch = make_batch(reward, mask, terminated)._replace(
        observation=torch.tensor([[[1.0], [2.0]], [[4.0], [8.0]], [[16.0], [0.0]]]),
        last_observation=torch.tensor([[32.0], [0.0]]),
        action=torch.tensor([[0, 2], [1, 0], [2, 0]]),
        advantage=torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.0]]),
    )
    inner = LearnedAdvantage(lvc, 1, 3, discrete=True, generator=seeded(0))
    return batch, inner.transitions(batch)


def test_transitions_by_hand() -> None:
    _, found = transitions()
    rows = {  # state, one-hot action, change, reward, end, advantage
        (0, 0): [1, 1, 0, 0, 3, 1, 0, 0.1],
        (1, 0): [4, 0, 1, 0, 12, 3, 0, 0.3],
        (2, 0): [16, 0, 0, 1, 16, 5, 0, 0.5],  # cut off by the clock: what came next is known
        (0, 1): [2, 0, 0, 1, 6, 2, 0, 0.2],
        (1, 1): [8, 1, 0, 0, 0, 4, 1, 0.4],  # ended by its task
    }
    for (step, episode), row in rows.items():
        torch.testing.assert_close(found[step, episode], symlog(torch.tensor([float(x) for x in row])))


def test_padding_counts_for_nothing() -> None:
    batch, _ = transitions()
    inner = LearnedAdvantage(lvc, 1, 3, discrete=True, generator=seeded(0))
    randomize(inner, 2, 1.0)
    logits = torch.randn(3, 2, 3, generator=seeded(3), requires_grad=True)
    inner(Categorical(logits), batch).backward()
    assert logits.grad is not None
    assert bool((logits.grad[2, 1] == 0).all()) and bool((logits.grad[0] != 0).all())
