"""The two factors of a layer's natural gradient (K-FAC): one for its inputs, one for its outputs.

The first makes a step independent of the units, order and signs of the inputs; the second makes it independent of how
certain the policy already is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, shapes_of
from metarl.rules.rates import layer_of
from metarl.trees import Tree


class WhitenedInputs(UpdateRule):
    """Multiplies a layer's gradient by the inverse second moment of the layer's inputs on the task.

    With homogeneous inputs ``x̄ = (x, 1)`` and the layer's gradient ``G = ∂L/∂(W, b)``, each of whose rows is a weighted
    sum of ``x̄``::

        G (A + ρ diag A)⁻¹ (1 + ρ),    A = mean x̄ x̄ᵀ over the steps of the batch

    This is the input factor of the natural gradient (K-FAC, Martens & Grosse 2015, arXiv:1503.05671, section 3).

    For the first layer with ρ = 0, the step changes the function that the network computes in the same way under any
    invertible linear transformation of the observations: other units, another order, other signs, or mixtures. With
    ρ = ∞ every input is divided by its own second moment: the step is then the same for other units, orders and signs,
    but not for mixtures.

    Whiten all layers to make the direction of the step independent of the scales of the inputs: otherwise the output of
    the first layer is mostly determined by its input with the largest scale. ρ is meta-learned for every layer.

    A map from gradients to gradients, for `metarl.rules.Chain`; gradients of other layers pass unchanged.
    """

    maps_gradients = True

    def __init__(self, params: Mapping[str, Tensor], layers: Sequence[str], *, ridge: float = 1.0) -> None:
        """Whiten ``layers``, whose parameters are called ``LAYER.weight`` and ``LAYER.bias``.

        Args:
            params: the policy's initial parameters.
            layers: names of the layers, see `affine_layers`.
            ridge: the initial ρ.

        Raises:
            ValueError: there is no such layer, no layer is given or one is given twice, or ``ridge`` is not positive
                and finite.
        """
        super().__init__()
        shapes = shapes_of(params)
        for layer in layers:
            if not {f"{layer}.weight", f"{layer}.bias"} <= set(shapes):
                raise ValueError(f"expected a layer with weight and bias among {list(params)}, got {layer!r}")
        if not (len(layers) == len(set(layers)) > 0 and 0.0 < ridge < math.inf):
            raise ValueError(
                f"expected one or more distinct layers and a positive, finite ridge, got {list(layers)} and {ridge}"
            )
        self.layers = tuple(layers)
        self.made_for = {name: shape for name, shape in shapes.items() if layer_of(name) in layers}
        self.log_ridge = nn.Parameter(torch.full((len(layers),), float(ridge)).log())

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the whitened gradient; see `UpdateRule.update`.

        Raises:
            ValueError: the step has no moments of a layer's inputs, or moments of the wrong size.
        """
        moments = {} if step.moments is None else step.moments()
        updates = dict(step.grads)
        for layer, ridge in zip(self.layers, self.log_ridge.exp(), strict=True):
            weight, bias = f"{layer}.weight", f"{layer}.bias"
            if layer not in moments:
                raise ValueError(f"{layer} cannot be whitened: the step has no moments of its inputs")
            gradient = torch.cat([updates[weight], updates[bias].unsqueeze(-1)], -1)  # [out, F + 1]
            moment = moments[layer]
            if moment.shape[-1] != gradient.shape[-1]:
                raise ValueError(f"{layer} has {gradient.shape[-1] - 1} inputs, not {moment.shape[-1] - 1}")
            loaded = moment + torch.diag_embed((ridge + 1e-6) * moment.diagonal(dim1=-2, dim2=-1) + 1e-12)
            whitened = torch.linalg.solve(loaded, gradient.mT).mT * (1.0 + ridge)
            updates[weight], updates[bias] = whitened[..., :-1], whitened[..., -1]
        return updates, state


class WhitenedOutputs(UpdateRule):
    """Multiplies the last layer's gradient by the inverse Fisher information of the layer's outputs.

    With the layer's gradient ``G = ∂L/∂(W, b)``, whose columns are weighted sums of scores of the policy's logits or
    means::

        (Γ + λ I)⁻¹ G,    Γ = mean Fisher information over the steps of the batch

    This is the output factor of the natural gradient (K-FAC, Martens & Grosse 2015, arXiv:1503.05671, section 3); for a
    bandit with one logit per arm it is the natural policy gradient (Kakade 2001). A plain gradient moves the logits of
    unlikely actions in proportion to their probability. This one moves them by what the actions were worth, except
    for actions less likely than about λ. λ is meta-learned.

    A map from gradients to gradients, for `metarl.rules.Chain`; gradients of other parameters pass unchanged.
    """

    maps_gradients = True

    def __init__(self, params: Mapping[str, Tensor], *, damping: float = 0.1) -> None:
        """Whiten the last layer, whose outputs must be the logits or means of the policy's distribution.

        Args:
            params: the policy's initial parameters.
            damping: the initial λ, in the units of Γ: a probability for logits, one over a squared action for means.

        Raises:
            ValueError: no layer has a weight, or ``damping`` is not positive and finite.
        """
        super().__init__()
        shapes = shapes_of(params)
        weights = [name for name in shapes if name.endswith(".weight")]
        if not (weights and 0.0 < damping < math.inf):
            raise ValueError(
                f"expected a layer with a weight and a positive, finite damping, got {list(params)} and {damping}"
            )
        self.layer, self.made_for = weights[-1].removesuffix(".weight"), {weights[-1]: shapes[weights[-1]]}
        self.log_damping = nn.Parameter(torch.tensor(float(damping)).log())

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Return the whitened gradient; see `UpdateRule.update`.

        Raises:
            ValueError: the step has no Fisher information, or one of the wrong size.
        """
        if step.information is None:
            raise ValueError(f"{self.layer} cannot be whitened: the step has no Fisher information of its outputs")
        information, outputs = step.information(), len(step.grads[f"{self.layer}.weight"])
        if len(information) != outputs:
            raise ValueError(f"{self.layer} has {outputs} outputs, not {len(information)}")
        damping = (self.log_damping.exp() + 1e-6) * torch.eye(
            outputs, dtype=information.dtype, device=information.device
        )
        factor = torch.linalg.cholesky(information + damping)
        parts = {name: g for name, g in step.grads.items() if layer_of(name) == self.layer}
        whitened = {name: torch.cholesky_solve(g.reshape(outputs, -1), factor).view_as(g) for name, g in parts.items()}
        return {**step.grads, **whitened}, state


def affine_layers(params: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the layers that have both a weight and a bias, in order."""
    layers = [name.removesuffix(".weight") for name in params if name.endswith(".weight")]
    return [layer for layer in layers if f"{layer}.bias" in params]
