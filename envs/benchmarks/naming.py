"""How variants of a benchmark are called."""

from __future__ import annotations


def variant(name: str, value: str, usual: str) -> str:
    """The usual variant, as published where anything was, has the plain name; another has its value behind it."""
    return name if value == usual else f"{name}-{value}"
