"""Gradient descent with one scalar step size: ``θ' = θ - α ∇L(θ)`` (MAML, Finn et al. 2017, algorithm 1)."""

from __future__ import annotations

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.rates import Parameterisation, Rates, finite
from metarl.trees import Tree, tree_map


class SGD(UpdateRule):
    """A fixed scalar step size."""

    def __init__(self, rate: float) -> None:
        """``rate`` is α.

        Raises:
            ValueError: ``rate`` is not finite.
        """
        super().__init__()
        self.rate = finite(rate)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return ``-α g``; see `UpdateRule.update`."""
        return tree_map(lambda g: -self.rate * g, step.grads), state


class LearnedSGD(UpdateRule):
    """A meta-learned scalar step size."""

    def __init__(self, rate: float, *, parameterisation: Parameterisation | None = None) -> None:
        """``rate`` is the initial α."""
        super().__init__()
        self.rates = Rates({"all": ()}, initial=rate, parameterisation=parameterisation)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return ``-α g``; see `UpdateRule.update`."""
        rate = self.rates()["all"]
        return tree_map(lambda g: -rate * g, step.grads), state
