"""Checks of what callers give, which say in one line what was expected and what came."""

from __future__ import annotations

import reprlib
from numbers import Integral, Real

import torch


def told(value: object) -> str:
    """What came, in one line: a plain value or a class itself, of anything else the kind."""
    if isinstance(value, str):
        return reprlib.repr(value)  # as much as one line holds
    if value is None or isinstance(value, bool | int | float | type):
        return repr(value)
    name = type(value).__name__
    spelt = name[:2].isupper()  # SGD, MLP: letter by letter
    return f"an {name}" if name[0] in ("AEFHILMNORSX" if spelt else "AEIOU") else f"a {name}"


def of_type(what: str, value: object, kind: type, wanted: str) -> None:
    """Check that a value is of a kind.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {wanted}, got {told(value)}")


def function(what: str, value: object, wanted: str) -> None:
    """Check that a value can be called, and is not the class of one that can.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{what}: expected {wanted}, got {told(value)}")


def whole(what: str, value: object, least: int = 1) -> None:
    """Check that a value is an integer of at least ``least``.

    Raises:
        TypeError: not an integer.
        ValueError: a smaller one.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what}: expected a whole number, got {told(value)}")
    if int(value) < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")


def number(what: str, value: object) -> None:
    """Check that a value is a real number; of which size is for the caller to say.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what}: expected a number, got {told(value)}")


def generator(value: object, what: str = "generator") -> None:
    """Check that a value is a generator of random numbers.

    Raises:
        TypeError: it is none, such as a seed.
    """
    of_type(what, value, torch.Generator, "a torch.Generator, such as torch.Generator().manual_seed(0)")
