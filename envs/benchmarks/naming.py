"""Names of benchmark variants."""

from __future__ import annotations


def variant(name: str, value: str, usual: str) -> str:
    """Return the plain name for the usual variant (the published one, if any); for others, append the value."""
    return name if value == usual else f"{name}-{value}"
