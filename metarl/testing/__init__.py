"""Contracts for plug-in authors: one call says in plain words what is wrong with a family, a rule or a loss."""

from metarl.testing.families import check_family
from metarl.testing.losses import check_loss
from metarl.testing.rules import check_rule

__all__ = ["check_family", "check_loss", "check_rule"]
