"""Optimizers that are networks: the whole update is learned, the same for every coordinate.

Both read a gradient on a logarithmic scale, as numbers of the size of one (Andrychowicz et al. 2016,
arXiv:1606.04474, appendix A)::

    (log|g| / p, sgn g)    where |g| >= exp(-p),    (-1, exp(p) g)    where it is smaller;    p = 10

Their papers drop second derivatives: wrap them in `FirstOrder`.
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
    """Size and sign of ``x`` ``[...]`` as two numbers ``[..., 2]``; see the module."""
    small = x.abs() < math.exp(-SCALE)
    # the logarithm of one where it is not used: that of zero would make its gradient NaN
    size = torch.where(small, torch.ones_like(x), x.abs()).log() / SCALE
    first = torch.where(small, -torch.ones_like(x), size)
    return torch.stack([first, torch.where(small, math.exp(SCALE) * x, x.sign())], -1)


class LSTMOptimizer(UpdateRule):
    """``θ' = θ - α g + o_k``: a coordinatewise LSTM adds what it makes of the gradients (Andrychowicz et al. 2016).

    Two layers share their weights over all coordinates; every coordinate has a memory of its own. With α = 0 this is
    the paper's optimizer; the head starts at zero, so that with another α learning starts from SGD.
    """

    def __init__(self, *, rate: float = 0.0, units: int = 20, scale: float = 0.1, generator: torch.Generator) -> None:
        """Set the sizes.

        Args:
            rate: α.
            units: of each layer.
            scale: the output is multiplied by this.
            generator: draws the weights.

        Raises:
            ValueError: a rate that is not finite, or a scale that is not or through which nothing could be learned.
        """
        super().__init__()
        if finite(scale) == 0.0:
            raise ValueError("scale: expected a number other than 0, got 0: nothing could be learned through it")
        self.rate, self.scale = finite(rate), scale
        self.first, self.second = LSTMCell(2, units, generator=generator), LSTMCell(units, units, generator=generator)
        self.head = zero_head(units)

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Empty memories ``[coordinates, units]`` of both layers."""
        like, count = next(iter(params.values())), sum(p.numel() for p in params.values())
        return with_prefix("first", self.first.init(count, like)) | with_prefix("second", self.second.init(count, like))

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`."""
        hidden, first = self.first(preprocess(flatten(step.grads)), subtree(state, "first"))
        hidden, second = self.second(hidden, subtree(state, "second"))
        output = unflatten(self.scale * self.head(hidden).squeeze(-1), step.grads)
        updates = {name: output[name] - self.rate * g for name, g in step.grads.items()}
        return updates, with_prefix("first", first) | with_prefix("second", second)


class MetaLSTM(UpdateRule):
    """The parameters are the cell state of an LSTM (Ravi & Larochelle 2017, "Optimization as a model", eq. 2-4).

    ``θ' = f ∘ θ - i ∘ g``, where the forget gate f and the rate i of every coordinate come from the gradient, the loss,
    the parameter and the gate's own last value::

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
        """Set where it starts.

        Args:
            rate: the first i.
            limit: L, what i stays below.
            remember: the first f.
            units: of the LSTM below the gates.
            generator: draws the weights.

        Raises:
            ValueError: a first gate that is not within its bounds.
        """
        super().__init__()
        if not (0.0 < rate < limit and 0.0 < remember < 1.0):
            raise ValueError(f"expected 0 < rate < limit and 0 < remember < 1, got {(rate, limit, remember)}")
        self.limit = limit
        self.cell = LSTMCell(4, units, generator=generator)
        self.enter, self.forget = zero_head(units + 2), zero_head(units + 2)
        with torch.no_grad():
            self.enter.bias.fill_(math.log(rate / (limit - rate)))
            self.forget.bias.fill_(math.log(remember / (1.0 - remember)))

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Empty memory ``[coordinates, units]``; last values of the gates ``[coordinates]``, zero at first."""
        like, count = next(iter(params.values())), sum(p.numel() for p in params.values())
        zeros = like.new_zeros(count)
        return {**with_prefix("cell", self.cell.init(count, like)), "enter": zeros, "forget": zeros.clone()}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """See the class and `UpdateRule.update`."""
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
    """All leaves one after another, ``[coordinates]``."""
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Tree:
    """The inverse of `flatten`."""
    parts = torch.split(flat, [leaf.numel() for leaf in like.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}
