"""Every family on any valid task: finite observations inside the space, and reproducible bit for bit."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import BENCHMARKS, Choice, Family, Range
from envs.adapters.registration import FAMILIES
from tests.helpers import seeded

STEPS, TASKS, EPISODES = 12, 6, 3


def walk(family: Any, task: dict[str, torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Observations and rewards of episodes with random actions, up to the end of each."""
    columns, rows = {name: value.unsqueeze(-1) for name, value in task.items()}, (TASKS, EPISODES)
    generator = seeded(seed)
    state = family.reset(columns, rows, generator=generator)
    alive, seen = torch.ones(rows, dtype=torch.bool), [family.observe(columns, state)]
    for _ in range(min(STEPS, family.horizon)):
        if hasattr(family.action_space, "n"):
            action = torch.randint(int(family.action_space.n), rows, generator=generator)
        else:  # beyond the bounds, too: a Gaussian policy does not stop there
            action = 2 * torch.randn(*rows, *family.action_space.shape, generator=generator)
        state, reward, terminated = family.step(columns, state, action)
        seen.append(reward.masked_fill(~alive, 0))  # physics run on after the end, where nobody looks
        alive = alive & ~terminated
        observation = family.observe(columns, state)
        dead = ~alive.reshape(*rows, *(1,) * (observation.dim() - 2))
        seen.append(observation.masked_fill(dead, 0))
        for row in observation[alive].numpy():
            assert family.observation_space.contains(row), row
    assert all(bool(values.isfinite().all()) for values in seen)
    return seen


def widest(name: str) -> Family:
    """The family with every constant anywhere in what it declares valid."""
    make: Any = FAMILIES[name]
    narrower = {"RingNavigation": {"reach": Range(0.01, 1.0)}}.get(name, {})  # a disc must not reach the start
    declared = {
        constant: Choice(p.choices) if p.choices else Range(p.low, p.high) for constant, p in make().parameters.items()
    }
    return make(**(declared | narrower))


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=15, deadline=None)
def test_on_any_valid_task(name: str, seed: int) -> None:
    family = widest(name)
    task = family.sample(TASKS, generator=seeded(seed))
    family.validate(task)
    first, second = walk(family, task, seed), walk(family, task, seed)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pickled_family_plays_the_same_bits(name: str) -> None:
    family = widest(name)
    twin = pickle.loads(pickle.dumps(family))
    assert twin.describe() == family.describe()
    task = family.sample(TASKS, generator=seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(walk(family, task, 4), walk(twin, task, 4), strict=True))


@pytest.mark.parametrize("name", BENCHMARKS)
@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=5, deadline=None)
def test_on_the_tasks_of_every_split(name: str, seed: int) -> None:
    bench = BENCHMARKS[name]()
    for split in ("train", *bench.splits):
        seen = walk(bench.family, dict(bench.sample(split, TASKS, generator=seeded(seed))), seed)
        assert len(seen) == 1 + 2 * min(STEPS, bench.family.horizon)
