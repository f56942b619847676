"""Permutations computed from their index by elementwise arithmetic, so that no table is needed on each device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def permutation(number: Tensor, count: int) -> Tensor:
    """Return the permutation of ``0..count-1`` with the given index in the order of ``itertools.permutations``.

    Args:
        number: the index, int64 ``[...]``, from 0, the identity, to ``count! - 1``.
        count: number of permuted elements; at least 1.

    Returns:
        int64 ``[..., count]``.
    """
    # The digits of the index in the factorial number system say which of the remaining elements comes next.
    # Built from the back: when a first element is prepended, those after it that are not smaller move up by one.
    tail = torch.zeros_like(number).unsqueeze(-1)
    for size in range(2, count + 1):
        first = (number // math.factorial(size - 1) % size).unsqueeze(-1)
        tail = torch.cat((first, tail + (tail >= first)), -1)
    return tail
