"""Contracts for plug-in authors: one call says in plain words what is wrong with a rule or a family of one's own."""

from metarl.testing.families import check_family
from metarl.testing.rules import check_rule

__all__ = ["check_family", "check_rule"]
