"""Errors for numbers that are not finite."""

from __future__ import annotations


class NonFiniteError(RuntimeError):
    """An environment, a policy or an update rule produced NaN or infinity, not merely on padding."""


class DivergedError(RuntimeError):
    """Meta-training produced NaN or infinity and cannot continue."""
