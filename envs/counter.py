"""Random numbers by counting: a number is a hash of a key and a counter, and no state is kept.

A step is given no generator. Where chance must strike at every step, a row therefore draws one key at
its reset, and the t-th step reads the numbers of counter t off that key. The same device lets one whole
number stand for a large random table: its entries are computed where they are read and never stored.

The hash is splitmix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") of key
plus counter, in int64 products that wrap modulo 2^64; it is the same on every device and in every
precision. Keys must lie far apart, or one key's numbers are another's: those of `keys` do, and whole
numbers do after `mix`. Counter-based generators are due to Salmon et al. (2011, "Parallel random numbers:
as easy as 1, 2, 3").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 23  # of a uniform number: with the half added it fills a float32's 24 bits, and 0 and 1 cannot occur


def keys(rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
    """Draw a key for every row, int64 ``[*rows]`` on the generator's device."""
    return torch.randint(2**62, rows, generator=generator, device=generator.device)


def uniform(key: Tensor, count: Tensor | int, dtype: torch.dtype) -> Tensor:
    """The number ``count`` of each key, strictly within (0, 1): an odd multiple of ``2^-24``.

    Args:
        key: int64, any shape; far from other keys.
        count: int64 that broadcasts against ``key``.
        dtype: float32 or float64, which hold the same numbers.
    """
    bits = _shift(mix(key + count), 64 - BITS)
    return (bits.to(dtype) + 0.5) * 2.0**-BITS


def normal(first: Tensor, second: Tensor) -> Tensor:
    """A standard normal number from two uniform ones (Box & Muller 1958); its size is below 5.8.

    The last bits may differ between devices.
    """
    return (first.log() * -2).sqrt() * (second * (2 * math.pi)).cos()


def mix(z: Tensor) -> Tensor:
    """One round of splitmix64, int64 to int64; every input bit sways every output bit."""
    z = z + (0x9E3779B97F4A7C15 - 2**64)
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift right without the sign."""
    return torch.bitwise_and(z >> bits, 2 ** (64 - bits) - 1)
