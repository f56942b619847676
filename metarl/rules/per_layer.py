"""One learned step size per layer, shared by the layer's weight and bias."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metarl.rules.base import RuleState, Step, UpdateRule, shapes_of
from metarl.rules.rates import Parameterisation, Rates, layer_of
from metarl.trees import Tree


class PerLayerSGD(UpdateRule):
    """``θ'_l = θ_l - α_l ∇_l L``: a learned rate for every layer l."""

    def __init__(
        self, params: Mapping[str, Tensor], *, initial: float, parameterisation: Parameterisation | None = None
    ) -> None:
        """Create a rate for every layer of ``params``; all start at ``initial``."""
        super().__init__()
        self.made_for = dict.fromkeys(shapes_of(params))  # any shape will do: only the names matter
        layers = {layer_of(name): () for name in params}
        self.rates = Rates(layers, initial=initial, parameterisation=parameterisation)

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return ``-α_l g`` for the parameters of layer l; see `UpdateRule.update`."""
        rates = self.rates()
        return {name: -rates[layer_of(name)] * g for name, g in step.grads.items()}, state
