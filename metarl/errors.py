"""What can go wrong with numbers, as errors that say where."""

from __future__ import annotations


class NonFiniteError(RuntimeError):
    """An environment, a policy or an update rule produced NaN or infinity on a step that counts."""


class DivergedError(RuntimeError):
    """Meta-training produced NaN or infinity too many times in a row."""
