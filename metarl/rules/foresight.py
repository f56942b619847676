"""Steps for what is to come: credit for an action goes to where things were heading when it was taken.

What a policy sees now is a noisy guide to what it should do; where that is going to lead, if nothing is done, is a
better one. A linear model of the dynamics is known well from a few episodes, long before it is known what is good.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule, Wrapper, shapes_of
from metarl.rules.combine import refuse_first_order
from metarl.trees import Tree


class Foresight(Wrapper):
    """Lets a rule step as if a layer read what its inputs will be τ steps later, if nothing is done.

    ::

        E = exp(τ D) / c,    x̄(t + τ) ≈ exp(τ D) x̄(t)
        update of W̄ = rule(G Eᵀ) E

    with homogeneous inputs ``x̄ = (x, 1)``, the layer's ``W̄ = (W, b)`` and gradient G, and D the linear dynamics of x̄,
    fitted on the task's own episodes (`metarl.dynamics.linear_dynamics`): the change in one step, so that τ steps are
    (I + D)^τ, which the exponential is for small D; it exists for every D and τ. The layer still reads x̄: a policy that
    read x̄(t + τ) through V̄ would compute ``V̄ E x̄``, of which G Eᵀ is the gradient.

    Where the rule multiplies by a positive definite matrix, as `WhitenedInputs` and step sizes do, so does this one:
    the step stays downhill. The constant c keeps its length, being the growth of x̄ in the units of its second moment A,
    ``c² = tr(A⁻¹ exp(τ D) A exp(τ D)ᵀ) / (F + 1)``; E does not depend on how sensors are wired or scaled any more than
    A does. τ is meta-learned, in steps.
    """

    def __init__(self, rule: UpdateRule, params: Mapping[str, Tensor], layer: str, *, horizon: float = 10.0) -> None:
        """Wrap ``rule``.

        Args:
            rule: steps, or maps gradients to gradients, as a part of a `metarl.rules.Chain`.
            params: the policy's initial parameters.
            layer: whose parameters are called ``LAYER.weight`` and ``LAYER.bias``.
            horizon: the first τ, in steps.

        Raises:
            ValueError: no such layer, a horizon that is not above 0, or `FirstOrder` within.
        """
        super().__init__(rule)
        refuse_first_order(self.rule, "what looks ahead", "Foresight")
        shapes, own = shapes_of(params), {f"{layer}.weight", f"{layer}.bias"}
        if not own <= set(shapes):
            raise ValueError(f"expected a layer with weight and bias among {list(params)}, got {layer!r}")
        if not 0.0 < horizon < float("inf"):
            raise ValueError(f"expected a finite horizon above 0 steps, got {horizon}")
        self.layer, self.made_for = layer, {name: shapes[name] for name in sorted(own)}
        self.log_horizon = nn.Parameter(torch.tensor(float(horizon)).log())

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`.

        Raises:
            ValueError: the step does not tell what the layer read and how that changed.
        """
        moments = {} if step.moments is None else step.moments()
        if step.dynamics is None or self.layer not in moments:
            raise ValueError(f"{self.layer}: expected the dynamics of what it read, and the step does not tell them")
        ahead = self.ahead(step.dynamics(self.layer), moments[self.layer])
        seen = step._replace(grads=self._times(step.grads, ahead.mT), moments=lambda: moments)
        updates, state = self.rule.update(seen, state)
        return self._times(updates, ahead), state

    def ahead(self, drift: Tensor, moment: Tensor) -> Tensor:
        """E ``[F + 1, F + 1]`` of the linear dynamics D and the second moment A of what the layer reads."""
        # in double precision, for what doubles at every step to stay finite
        power = torch.linalg.matrix_exp(self.log_horizon.exp() * drift.double())
        loaded = (moment + torch.diag_embed(1e-3 * moment.diagonal() + 1e-12)).double()
        growth = torch.linalg.solve(loaded, power @ loaded @ power.mT).diagonal().mean()
        ahead: Tensor = power / growth.sqrt()
        return ahead.to(moment.dtype)

    def _times(self, tree: Mapping[str, Tensor], matrix: Tensor) -> Tree:
        """The layer's weight and bias, side by side, times a matrix; all else as it is."""
        weight, bias = f"{self.layer}.weight", f"{self.layer}.bias"
        moved = torch.cat([tree[weight], tree[bias].unsqueeze(-1)], -1) @ matrix
        return {**tree, weight: moved[..., :-1], bias: moved[..., -1]}
