"""Checks of what callers give, which say in one line what was expected, what came and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

import torch


def whole(what: str, value: int, low: int = 1) -> int:
    """``value`` as a Python int.

    Raises:
        TypeError: not an integer.
        ValueError: below ``low``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what}: expected an integer, got {value!r}; give an int")
    if value < low:
        raise ValueError(f"{what}: expected at least {low}, got {value}; give a larger number")
    return int(value)


def refuse_seed(generator: torch.Generator) -> None:
    """Refuse what is no generator of random numbers, such as a seed.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {generator!r}; torch.Generator().manual_seed(0)")


def chosen(what: str, word: str, known: Iterable[str]) -> str:
    """``word``, if it is a known one.

    Raises:
        ValueError: it is not.
    """
    if word not in (words := list(known)):
        raise ValueError(f"{what}: expected one of {', '.join(words)}, got {word!r}; choose one")
    return word


def close_to(name: str, known: Iterable[str]) -> str:
    """A question for error messages, with a space behind it; empty where no known name comes close."""
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def refuse_unknown(owner: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what the owner does not have, such as a constant.

    Raises:
        ValueError: one of the names is not known.
    """
    there = list(known)
    for name in names:
        if name not in there:
            raise ValueError(f"{owner} has no {what} {name!r}; {close_to(name, there)}known are {', '.join(there)}")
