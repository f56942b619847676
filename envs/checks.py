"""Checks of what callers give, which say in one line what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterable


def chosen(what: str, word: str, known: Iterable[str]) -> str:
    """``word``, if it is a known one.

    Raises:
        ValueError: it is not.
    """
    if word not in (words := list(known)):
        raise ValueError(f"{what}: expected one of {', '.join(words)}, got {word!r}; choose one")
    return word
