"""Gradient steps on predicted inputs: an action is credited to the state that was predicted when it was taken.

The current observation is a noisy guide to the right action; where the state would drift without any action is a
better one. A few episodes suffice to fit a linear model of the dynamics, long before they show which actions are good.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, Wrapper, shapes_of
from metarl.rules.combine import refuse_first_order
from metarl.trees import Tree


class Foresight(Wrapper):
    """Lets a rule step as if a layer read its inputs τ steps ahead, predicted for the case that no action is taken.

    ::

        E = exp(τ D) / c,    x̄(t + τ) ≈ exp(τ D) x̄(t)
        update of W̄ = rule(G Eᵀ) E

    with homogeneous inputs ``x̄ = (x, 1)``, the layer's parameters ``W̄ = (W, b)`` and their gradient G. D is the linear
    dynamics of x̄, fitted on the episodes of the same task (`metarl.dynamics.linear_dynamics`): ``D x̄`` is the change
    in one step. τ steps are (I + D)^τ, which the matrix exponential approximates for small D; unlike the power, it
    exists for every D and τ. The layer itself still reads x̄: a policy that read x̄(t + τ) through V̄ would compute
    ``V̄ E x̄``, and the gradient with respect to V̄ is G Eᵀ.

    If the wrapped rule multiplies the gradient by a positive definite matrix, as `WhitenedInputs` and positive step
    sizes do, so does this one, and the step stays downhill. The constant c keeps the length of the step: it is the
    growth of x̄ in units of its second moment A, ``c² = tr(A⁻¹ exp(τ D) A exp(τ D)ᵀ) / (F + 1)``. E depends no more
    than A does on how sensors are wired or scaled. τ is meta-learned, in steps.
    """

    def __init__(self, rule: UpdateRule, params: Mapping[str, Tensor], layer: str, *, horizon: float = 10.0) -> None:
        """Wrap ``rule``.

        Args:
            rule: an update rule, or a map from gradients to gradients that is part of a `metarl.rules.Chain`.
            params: the policy's initial parameters.
            layer: name of the layer, whose parameters are called ``LAYER.weight`` and ``LAYER.bias``.
            horizon: the initial τ, in steps.

        Raises:
            ValueError: there is no such layer, the horizon is not positive and finite, or ``rule`` contains
                `FirstOrder`.
        """
        super().__init__(rule)
        refuse_first_order(self.rule, "the prediction", "Foresight")
        shapes, own = shapes_of(params), {f"{layer}.weight", f"{layer}.bias"}
        if not own <= set(shapes):
            raise ValueError(f"expected a layer with weight and bias among {list(params)}, got {layer!r}")
        if not 0.0 < horizon < float("inf"):
            raise ValueError(f"expected a finite horizon above 0 steps, got {horizon}")
        self.layer, self.made_for = layer, {name: shapes[name] for name in sorted(own)}
        self.log_horizon = nn.Parameter(torch.tensor(float(horizon)).log())

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`.

        Raises:
            ValueError: the step has no moments of the layer's inputs, or no dynamics.
        """
        moments = {} if step.moments is None else step.moments()
        if step.dynamics is None or self.layer not in moments:
            raise ValueError(f"{self.layer}: expected moments and dynamics of its inputs, got a step without them")
        ahead = self.ahead(step.dynamics(self.layer), moments[self.layer])
        seen = step._replace(grads=self._times(step.grads, ahead.mT), moments=lambda: moments)
        updates, state = self.rule.update(seen, state)
        return self._times(updates, ahead), state

    def ahead(self, drift: Tensor, moment: Tensor) -> Tensor:
        """Return E ``[F + 1, F + 1]``, from the linear dynamics D and the second moment A of the layer's inputs."""
        # in double precision, so that inputs that double at every step stay finite
        power = torch.linalg.matrix_exp(self.log_horizon.exp() * drift.double())
        loaded = (moment + torch.diag_embed(1e-3 * moment.diagonal() + 1e-12)).double()
        growth = torch.linalg.solve(loaded, power @ loaded @ power.mT).diagonal().mean()
        ahead: Tensor = power / growth.sqrt()
        return ahead.to(moment.dtype)

    def _times(self, tree: Mapping[str, Tensor], matrix: Tensor) -> Tree:
        """Multiply the layer's concatenated weight and bias by a matrix; leave all other entries unchanged."""
        weight, bias = f"{self.layer}.weight", f"{self.layer}.bias"
        moved = torch.cat([tree[weight], tree[bias].unsqueeze(-1)], -1) @ matrix
        return {**tree, weight: moved[..., :-1], bias: moved[..., -1]}
