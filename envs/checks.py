"""Checks of arguments, whose messages say in one line what was expected, what was given and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral

import torch


def whole(what: str, value: int, low: int = 1) -> int:
    """Return ``value`` as a Python int.

    Raises:
        TypeError: ``value`` is not an integer.
        ValueError: ``value`` is below ``low``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what}: expected an integer, got {value!r}; give an int")
    if value < low:
        raise ValueError(f"{what}: expected at least {low}, got {value}; give a larger number")
    return int(value)


def refuse_seed(generator: torch.Generator) -> None:
    """Check that ``generator`` is a ``torch.Generator`` and not, for example, a seed.

    Raises:
        TypeError: it is not a generator.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {generator!r}; torch.Generator().manual_seed(0)")


def chosen(what: str, word: str, known: Iterable[str]) -> str:
    """Return ``word`` if it is among the known ones.

    Raises:
        ValueError: it is not.
    """
    if word not in (words := list(known)):
        raise ValueError(f"{what}: expected one of {', '.join(words)}, got {word!r}; choose one")
    return word


def close_to(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...? " for error messages, or an empty string if no known name is similar."""
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def refuse_unknown(owner: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that the owner has everything named, for example its constants.

    Raises:
        ValueError: one of the names is unknown.
    """
    there = list(known)
    for name in names:
        if name not in there:
            raise ValueError(f"{owner} has no {what} {name!r}; {close_to(name, there)}known are {', '.join(there)}")
