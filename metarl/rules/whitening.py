"""Steps that do not depend on the units, the order or the signs of the sensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.trees import Tree


class WhitenedInputs(UpdateRule):
    """The first layer's gradient times the inverse second moment of what the task's sensors showed.

    With homogeneous inputs ``ō = (o, 1)`` and the layer's gradient ``G = ∂L/∂(W, b)``, of which every row is a sum of
    ``ō``::

        G (A + ρ diag A)⁻¹ (1 + ρ),    A = mean ō ōᵀ over the steps of the batch

    the input's factor of the natural gradient (K-FAC, Martens & Grosse 2015, arXiv:1503.05671, section 3). At ρ = 0 the
    step changes what the network computes in the same way however the task presents its observations, as long as
    it is invertibly and linearly: in other units, in another order, with other signs or mixed. At ρ = ∞ every
    input is divided by its own second moment, which does all of it but undo mixtures. ρ is meta-learned.

    A map from gradients to gradients, for `metarl.rules.Chain`; other layers pass unchanged.
    """

    def __init__(self, params: Mapping[str, Tensor], layer: str, *, ridge: float = 1.0) -> None:
        """Whiten ``layer``, whose parameters are called ``LAYER.weight`` and ``LAYER.bias``.

        Args:
            params: the policy's initial parameters.
            layer: the first, which reads observations ``[O]`` as they are.
            ridge: the first ρ.

        Raises:
            ValueError: no such layer, or a ridge that is not positive.
        """
        super().__init__()
        self.weight, self.bias = f"{layer}.weight", f"{layer}.bias"
        if self.weight not in params or self.bias not in params:
            raise ValueError(f"expected a layer with weight and bias among {list(params)}, got {layer!r}")
        if not ridge > 0.0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        self.log_ridge = nn.Parameter(torch.tensor(float(ridge)).log())

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See `UpdateRule.update`.

        Raises:
            ValueError: the step does not tell what was observed, or the layer reads something else.
        """
        grads, inputs = step.grads, step.grads[self.weight].shape[-1]
        if step.moment is None:
            raise ValueError(f"{self.weight} cannot be whitened: the step does not tell what was observed")
        moment, ridge = step.moment(), self.log_ridge.exp()
        if moment.shape[-1] != inputs + 1:
            raise ValueError(f"{self.weight} reads {inputs} numbers, and {moment.shape[-1] - 1} were observed")
        loaded = moment + torch.diag_embed((ridge + 1e-6) * moment.diagonal(dim1=-2, dim2=-1) + 1e-12)
        gradient = torch.cat([grads[self.weight], grads[self.bias].unsqueeze(-1)], -1)  # [out, O + 1]
        whitened = torch.linalg.solve(loaded, gradient.mT).mT * (1.0 + ridge)
        return {**grads, self.weight: whitened[..., :-1], self.bias: whitened[..., -1]}, state
