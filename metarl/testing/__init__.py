"""Contract checks for plug-in authors: one call explains what is wrong with a family, policy, rule or loss."""

from metarl.testing.families import check_family
from metarl.testing.losses import check_loss
from metarl.testing.policies import check_policy
from metarl.testing.rules import check_rule

__all__ = ["check_family", "check_loss", "check_policy", "check_rule"]
