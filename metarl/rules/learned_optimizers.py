"""Optimizers that are networks: the update itself is learned, one network shared by all coordinates.

Both read the gradient on a logarithmic scale, as numbers of order one (Andrychowicz et al. 2016,
arXiv:1606.04474, appendix A)::

    (log|g| / p, sgn g)    where |g| >= exp(-p),    (-1, exp(p) g)    where it is smaller;    p = 10

These numbers are detached. Their derivative, up to exp(p), would swamp the meta-gradient: a surrogate loss of
normalised advantages is 0 up to rounding, but its derivative is not. Second derivatives thus come through ``α g`` and
``i ∘ g`` alone. The papers drop these, too; to do the same, wrap the rules in `FirstOrder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl.rules.base import RuleState, Step, UpdateRule
from metarl.rules.networks import LSTMCell, zero_head
from metarl.rules.rates import finite
from metarl.trees import Tree, subtree, with_prefix

SCALE = 10.0  # p


def preprocess(x: Tensor) -> Tensor:
    """Encode size and sign of ``x`` ``[...]`` as two numbers ``[..., 2]``, detached; see the module docstring."""
    x = x.detach()
    small = x.abs() < math.exp(-SCALE)
    size = x.abs().clamp_min(math.exp(-SCALE)).log() / SCALE
    return torch.stack([size, torch.where(small, math.exp(SCALE) * x, x.sign())], -1)


class LSTMOptimizer(UpdateRule):
    """``θ' = θ - α g + o_k``, where o_k is the output of a coordinatewise LSTM (Andrychowicz et al. 2016).

    The LSTM has two layers. All coordinates share its weights, and every coordinate has its own state. With α = 0 this
    is the paper's optimizer; the head starts at zero, so that with any other α learning starts from SGD.
    """

    def __init__(self, *, rate: float = 0.0, units: int = 20, scale: float = 0.1, generator: torch.Generator) -> None:
        """Create the network.

        Args:
            rate: α.
            units: width of each layer.
            scale: factor on the network's output.
            generator: draws the initial weights.

        Raises:
            ValueError: ``rate`` or ``scale`` is not finite, or ``scale`` is zero, which would stop all learning.
        """
        super().__init__()
        if finite(scale) == 0.0:
            raise ValueError("scale: expected a number other than 0, got 0, with which nothing could be learned")
        self.rate, self.scale = finite(rate), scale
        self.first, self.second = LSTMCell(2, units, generator=generator), LSTMCell(units, units, generator=generator)
        self.head = zero_head(units)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return zero states ``[coordinates, units]`` for both layers."""
        like, count = next(iter(params.values())), sum(p.numel() for p in params.values())
        return with_prefix("first", self.first.init(count, like)) | with_prefix("second", self.second.init(count, like))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`."""
        hidden, first = self.first(preprocess(flatten(step.grads)), subtree(state, "first"))
        hidden, second = self.second(hidden, subtree(state, "second"))
        output = unflatten(self.scale * self.head(hidden).squeeze(-1), step.grads)
        updates = {name: output[name] - self.rate * g for name, g in step.grads.items()}
        return updates, with_prefix("first", first) | with_prefix("second", second)


class MetaLSTM(UpdateRule):
    """Treats the parameters as the cell state of an LSTM (Ravi & Larochelle 2017, "Optimization as a model", eq. 2-4).

    ``θ' = f ∘ θ - i ∘ g``, where the forget gate f and the rate i of every coordinate are computed from the gradient,
    the loss, the parameter and the gate's previous value (f' and i')::

        i = L σ(W_i [h, θ, i'/L] + b_i)    f = σ(W_f [h, θ, f'] + b_f)    h = LSTM(g, loss)

    With zero weights this is SGD of step size ``L σ(b_i)`` and weight decay ``1 - σ(b_f)``. The paper has L = 1.
    """

    def __init__(
        self,
        rate: float,
        *,
        limit: float = 1.0,
        remember: float = 0.9995,
        units: int = 20,
        generator: torch.Generator,
    ) -> None:
        """Create the networks and set the initial gate values.

        Args:
            rate: the initial i.
            limit: L, the upper bound of i.
            remember: the initial f.
            units: width of the LSTM that feeds the gates.
            generator: draws the initial weights.

        Raises:
            ValueError: an initial gate value is not within its bounds, or ``limit`` is not finite.
        """
        super().__init__()
        if not (0.0 < rate < limit < math.inf and 0.0 < remember < 1.0):
            raise ValueError(f"expected 0 < rate < limit < inf and 0 < remember < 1, got {(rate, limit, remember)}")
        self.limit = limit
        self.cell = LSTMCell(4, units, generator=generator)
        self.enter, self.forget = zero_head(units + 2), zero_head(units + 2)
        with torch.no_grad():
            self.enter.bias.fill_(math.log(rate / (limit - rate)))
            self.forget.bias.fill_(math.log(remember / (1.0 - remember)))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return zeros for the LSTM's state ``[coordinates, units]`` and for the previous gates ``[coordinates]``."""
        like, count = next(iter(params.values())), sum(p.numel() for p in params.values())
        zeros = like.new_zeros(count)
        return {**with_prefix("cell", self.cell.init(count, like)), "enter": zeros, "forget": zeros.clone()}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equations of the class; see `UpdateRule.update`."""
        g, theta = flatten(step.grads), flatten(step.params)
        loss = preprocess(step.loss).expand(len(g), 2)
        hidden, cell = self.cell(torch.cat([preprocess(g), loss], -1), subtree(state, "cell"))
        enter, forget = (
            self._gate(gate, hidden, theta, state[name]).sigmoid()
            for name, gate in (("enter", self.enter), ("forget", self.forget))
        )
        updates = unflatten((forget - 1.0) * theta - self.limit * enter * g, step.grads)
        return updates, {**with_prefix("cell", cell), "enter": enter, "forget": forget}

    def _gate(self, gate: nn.Linear, hidden: Tensor, theta: Tensor, last: Tensor) -> Tensor:
        given = torch.cat([hidden, theta.unsqueeze(-1), last.unsqueeze(-1)], -1)
        output: Tensor = gate(given).squeeze(-1)
        return output


def flatten(tree: Mapping[str, Tensor]) -> Tensor:
    """Concatenate all leaves to ``[coordinates]``."""
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Tree:
    """Invert `flatten`: split ``flat`` into the names and shapes of ``like``."""
    parts = torch.split(flat, [leaf.numel() for leaf in like.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}
