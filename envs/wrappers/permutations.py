"""Permutations by number, in elementwise arithmetic: no table has to be kept on every device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def permutation(number: Tensor, count: int) -> Tensor:
    """The permutation of ``0..count-1`` with a number, in the order of ``itertools.permutations``.

    Args:
        number: int64 ``[...]`` from 0, the identity, to ``count! - 1``.
        count: how many things are permuted; at least 1.

    Returns:
        int64 ``[..., count]``.
    """
    # A number's digits in the factorial system say which of those that are left comes next. From the back:
    # once the first of ``size`` is known, those behind it that are not smaller move up by one.
    tail = torch.zeros_like(number).unsqueeze(-1)
    for size in range(2, count + 1):
        first = (number // math.factorial(size - 1) % size).unsqueeze(-1)
        tail = torch.cat((first, tail + (tail >= first)), -1)
    return tail
