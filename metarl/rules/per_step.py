"""One learned step size a layer and adaptation step (LSLR of MAML++, Antoniou et al. 2019, arXiv:1810.09502, eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metarl.rules.base import RuleState, UpdateRule
from metarl.rules.rates import Parameterisation, Rates, layer_of
from metarl.trees import Tree


class PerStepSGD(UpdateRule):
    """``θ_{k+1} = θ_k - α_{k,l} ∇_l L``; steps beyond the last learned one reuse its rates."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        *,
        steps: int,
        initial: float,
        parameterisation: Parameterisation | None = None,
    ) -> None:
        """Rates ``[steps]`` for every layer of ``params``.

        Raises:
            ValueError: fewer than one step.
        """
        super().__init__()
        if steps < 1:
            raise ValueError(f"per-step rates need at least one step, got {steps}")
        self.steps = steps
        layers = {layer_of(name): (steps,) for name in params}
        self.rates = Rates(layers, initial=initial, parameterisation=parameterisation)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """The step counter, a 0-d integer tensor."""
        leaf = next(iter(params.values()))
        return {"step": torch.zeros((), dtype=torch.long, device=leaf.device)}

    def update(
        self, grads: Mapping[str, Tensor], state: RuleState, params: Mapping[str, Tensor]
    ) -> tuple[Tree, RuleState]:
        """``-α[k, layer] g``; see `UpdateRule.update`."""
        del params
        rates = self.rates()
        # one-hot product instead of indexing: the counter is a tensor that vmap may have batched
        at = torch.arange(self.steps, device=state["step"].device) == state["step"].clamp_max(self.steps - 1)
        updates = {name: -(rates[layer_of(name)] * at).sum() * g for name, g in grads.items()}
        return updates, {"step": state["step"] + 1}
