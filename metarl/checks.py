"""Checks of arguments; their error messages say in one line what was expected and what was given."""

from __future__ import annotations

import reprlib
from numbers import Integral, Real

import torch


def told(value: object) -> str:
    """Describe a value in one line: plain values and classes by their repr, anything else by its type."""
    if isinstance(value, str):
        return reprlib.repr(value)  # shortened to fit in one line
    if value is None or isinstance(value, bool | int | float | type):
        return repr(value)
    name = type(value).__name__
    spelt = name[:2].isupper()  # acronyms such as SGD and MLP are spelled out: "an SGD"
    return f"an {name}" if name[0] in ("AEFHILMNORSX" if spelt else "AEIOU") else f"a {name}"


LONGEST = 300  # characters of an error that is told within a message


def raised(error: BaseException) -> str:
    """Describe an error in one line: its type and its message, shortened if it prints whole tensors."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"


def of_type(what: str, value: object, kind: type, wanted: str) -> None:
    """Check that a value is an instance of ``kind``.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{what}: expected {wanted}, got {told(value)}")


def function(what: str, value: object, wanted: str) -> None:
    """Check that a value is callable, and is not a class.

    Raises:
        TypeError: it is not callable, or is a class.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{what}: expected {wanted}, got {told(value)}")


def whole(what: str, value: object, least: int = 1) -> None:
    """Check that a value is an integer of at least ``least``.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{what}: expected a whole number, got {told(value)}")
    if int(value) < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")


def number(what: str, value: object) -> None:
    """Check that a value is a real number; its range is not checked.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{what}: expected a number, got {told(value)}")


def generator(value: object, what: str = "generator") -> None:
    """Check that a value is a ``torch.Generator``.

    Raises:
        TypeError: it is not, but for example a seed.
    """
    of_type(what, value, torch.Generator, "a torch.Generator, such as torch.Generator().manual_seed(0)")
