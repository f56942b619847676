"""Counter-based random numbers: each number is a hash of a key and a counter, without any generator state.

``step`` takes no generator. An environment that is random at every step therefore draws one key per row at the reset,
and step t uses the numbers at counter t of that key. In the same way, one integer can stand for a large random table
whose entries are computed when they are read and never stored.

The hash is splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") of key plus
counter, in int64 products that wrap modulo 2^64; it is the same on every device and in every precision. Keys must be
far apart, or their number sequences overlap: keys from `keys` are, and integers are after `mix`. Counter-based
generators are due to Salmon et al. (2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 23  # random bits of a uniform number; adding a half fills float32's 24 bits and excludes 0 and 1


def keys(rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Draw a key for every row, int64 ``[*rows]`` on the generator's device."""
    return torch.randint(2**62, rows, generator=generator, device=generator.device)


def uniform(key: Tensor, count: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Return the uniform number at counter ``count`` of each key, strictly within (0, 1): an odd multiple of ``2^-24``.

    Args:
        key: int64, any shape; far from other keys.
        count: int64 that broadcasts against ``key``.
        dtype: float32 or float64; the numbers are the same in both.
    """
    bits = _shift(mix(key + count), 64 - BITS)
    return (bits.to(dtype) + 0.5) * 2.0**-BITS


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Convert two uniform numbers to a standard normal one (Box & Muller 1958); its absolute value is below 5.8.

    The last bits may differ between devices.
    """
    return (first.log() * -2).sqrt() * (second * (2 * math.pi)).cos()


def mix(z: Tensor) -> Tensor:
    """Apply one round of splitmix64, int64 to int64; every input bit affects every output bit."""
    z = z + (0x9E3779B97F4A7C15 - 2**64)
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right as if unsigned (logical shift)."""
    return torch.bitwise_and(z >> bits, 2 ** (64 - bits) - 1)
