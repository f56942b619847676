"""Training on more than is held out: which tasks are drawn, which are not, and what is refused."""

from __future__ import annotations

import pytest
import torch

from envs import LogRange, Range, Widened, navigation_halfcircle, navigation_halfcircle_felt
from envs.adapters import FamilyEnv
from tests.helpers import seeded

REACH = LogRange(0.2, 0.7)


def test_training_draws_the_constant_widely_and_keeps_out_of_held_out_directions() -> None:
    plain, wide = navigation_halfcircle(), navigation_halfcircle_felt()
    task = wide.sample("train", 4000, generator=seeded(0))
    assert bool(wide.is_training(task).all()) and bool(REACH.contains(task["reach"]).all())
    assert float(task["reach"].log().mean()) == pytest.approx(0.5 * float(torch.tensor(0.2 * 0.7).log()), abs=0.03)
    narrow = task | {"reach": torch.full_like(task["reach"], 0.2)}
    assert bool(plain.is_training(narrow).all())
    assert not bool(plain.is_training(task)[task["reach"] > 0.21].any())


def test_what_is_held_out_is_held_out_as_before() -> None:
    plain, wide = navigation_halfcircle(), navigation_halfcircle_felt()
    assert wide.splits == plain.splits and wide.family.describe() == plain.family.describe()
    for split in wide.splits:
        ours, theirs = (one.sample(split, 100, generator=seeded(1)) for one in (wide, plain))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        for reach in (0.2, 0.5):
            assert not bool(wide.is_training(ours | {"reach": torch.full((100,), reach)}).any())
    beyond = wide.sample("train", 100, generator=seeded(2)) | {"reach": torch.full((100,), 0.9)}
    assert not bool(wide.is_training(beyond).any())


def test_the_fingerprint_tells_it_from_the_benchmark_and_from_another_range() -> None:
    plain = navigation_halfcircle()
    found = {
        plain.fingerprint(),
        *(Widened("wide", plain, {"reach": LogRange(0.2, high)}).fingerprint() for high in (0.5, 0.7)),
    }
    assert len(found) == 3 and navigation_halfcircle_felt().fingerprint() in found
    assert navigation_halfcircle_felt().name == "navigation-halfcircle-felt"


def test_gymnasium_sees_its_training_tasks() -> None:
    env = FamilyEnv(navigation_halfcircle_felt(), split="train")
    reaches = []
    for seed in range(5):
        env.reset(seed=seed)
        reaches.append(float(env.task["reach"]))
    assert len(set(reaches)) == 5 and all(0.2 <= reach <= 0.7 for reach in reaches)


@pytest.mark.parametrize(
    ("name", "distribution", "message"),
    [
        ("angle", Range(0, 1), "expected a constant that is fixed, radius, reach, .*, got 'angle'"),
        ("length", Range(0, 1), "expected a constant that is fixed, .*, got 'length'"),
        ("reach", Range(-1, 1), "reach: expected .* length, got .*; correct the range"),
    ],
)
def test_constants_that_cannot_be_widened_are_refused(name: str, distribution: Range, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Widened("wide", navigation_halfcircle(), {name: distribution})
