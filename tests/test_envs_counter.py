"""Counter-based random numbers against integers in Python, and against properties of independent uniform numbers."""

from __future__ import annotations

import math

import pytest
import torch

from envs import counter

MASK = 2**64 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def splitmix(z: int) -> int:
    """The published generator on unbounded Python integers."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def numbers(source: str, keys: int, counts: int) -> torch.Tensor:
    """``[keys, counts]``: of drawn keys, or of the whole numbers 0, 1, 2, ... mixed."""
    drawn = counter.keys((keys,), generator=seeded(1))
    key = drawn if source == "drawn" else counter.mix(torch.arange(keys))
    return counter.uniform(key[:, None], torch.arange(counts), torch.float64)


def chi_square(values: torch.Tensor, bins: int) -> float:
    """How many standard deviations the counts of bin numbers lie above those of a uniform law."""
    count = torch.bincount(values.flatten(), minlength=bins).double()
    expected = values.numel() / bins
    return float(((count - expected).square().sum() / expected - (bins - 1)) / math.sqrt(2 * (bins - 1)))


def test_mix_equals_integers_of_python() -> None:
    z = torch.cat((torch.arange(-5, 5), torch.randint(-(2**63), 2**63 - 1, (200,), generator=seeded())))
    assert [value & MASK for value in counter.mix(z).tolist()] == [splitmix(value & MASK) for value in z.tolist()]
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the first output of the published program from seed 0


def test_uniform_is_the_top_bits_in_every_precision() -> None:
    key = counter.keys((50,), generator=seeded(2))
    exact = [((splitmix(k + 3) >> 41) + 0.5) / 2**23 for k in key.tolist()]
    for dtype in (torch.float32, torch.float64):
        assert counter.uniform(key, 3, dtype).tolist() == exact


def test_uniform_never_reaches_its_ends() -> None:
    # The largest and the smallest 23 bits there are, put through the same arithmetic.
    ends = (torch.tensor([0, 2**23 - 1]).float() + 0.5) * 2.0**-23
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]
    drawn = numbers("drawn", 1000, 1000)
    assert drawn.min() > 0 and drawn.max() < 1 and drawn.min() < 1e-5 and drawn.max() > 1 - 1e-5


@pytest.mark.parametrize("source", ["drawn", "mixed"])
def test_numbers_are_uniform_and_independent(source: str) -> None:
    drawn = numbers(source, 2000, 500)
    tenths, halves = (drawn * 10).long(), (drawn * 2**23).long()
    assert abs(chi_square((drawn * 1000).long(), 1000)) < 4
    assert abs(chi_square(tenths[:, :-1] * 10 + tenths[:, 1:], 100)) < 4  # the next number of a key
    assert abs(chi_square(tenths[:-1] * 10 + tenths[1:], 100)) < 4  # the same number of the next key
    assert abs(chi_square(tenths[:-1, 1:] * 10 + tenths[1:, :-1], 100)) < 4
    triples = tenths[:, :-2] * 100 + tenths[:, 1:-1] * 10 + tenths[:, 2:]
    assert abs(chi_square(triples, 1000)) < 4
    for bit in range(23):  # every bit is fair, over all keys and over all counts
        flips = (halves >> bit) & 1
        assert abs(flips.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(flips.numel())
    per_key = (drawn.mean(1) - 0.5) * math.sqrt(12 * 500)
    assert abs(per_key.var().item() - 1) < 4 * math.sqrt(2 / 2000)  # a key's numbers do not stick together


def test_keys_lie_apart_and_follow_their_generator() -> None:
    key = counter.keys((300, 100), generator=seeded(3))
    gaps = key.flatten().sort().values.diff()
    assert key.shape == (300, 100) and key.dtype == torch.int64 and gaps.min() > 2**20
    assert torch.equal(key, counter.keys((300, 100), generator=seeded(3)))
    assert counter.keys((), generator=seeded()).shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_normal(dtype: torch.dtype) -> None:
    key = counter.keys((400_000, 1), generator=seeded(4))
    first, second, third = counter.uniform(key, torch.arange(3), dtype).unbind(-1)
    drawn = counter.normal(first, second).double()
    size = math.sqrt(len(drawn))
    assert abs(drawn.mean()) < 4 / size and abs(drawn.var() - 1) < 4 * math.sqrt(2) / size
    assert abs(drawn.pow(3).mean()) < 4 * math.sqrt(15) / size and abs(drawn.pow(4).mean() - 3) < 4 * 9.8 / size
    ranks = (torch.special.ndtr(drawn) * 100).long().clamp(0, 99)
    assert abs(chi_square(ranks, 100)) < 4
    assert abs((drawn * (third.double() - 0.5)).mean()) < 4 * 0.29 / size
    ends = torch.tensor([2.0**-24, 1 - 2.0**-24], dtype=dtype)
    assert bool(counter.normal(ends[:, None], ends).isfinite().all())
