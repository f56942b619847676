"""Small networks inside rules: drawn from a generator, and liftable by ``vmap``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from metarl import checks
from metarl.rules.base import RuleState


class LSTMCell(nn.Module):
    """One step of an LSTM; the four gates from one linear map, because ``nn.LSTMCell`` has no ``vmap`` rule."""

    def __init__(self, inputs: int, units: int, *, generator: torch.Generator) -> None:
        """Gates in the order input, forget, cell, output, as in ``torch.nn.LSTM``; forget gates start open."""
        super().__init__()
        self.units = units
        self.gates = linear(inputs + units, 4 * units, generator)
        with torch.no_grad():
            self.gates.bias[units : 2 * units] = 1.0

    def init(self, rows: int, like: Tensor) -> RuleState:
        """Zeros ``[rows, units]``."""
        zeros = like.new_zeros(rows, self.units)
        return {"hidden": zeros, "cell": zeros.clone()}

    def forward(self, inputs: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """From ``[rows, inputs]`` to the hidden state ``[rows, units]``, and the state to give back."""
        enter, forget, new, leave = self.gates(torch.cat([inputs, state["hidden"]], -1)).chunk(4, -1)
        cell = forget.sigmoid() * state["cell"] + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        return hidden, {"hidden": hidden, "cell": cell}


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with normal weights of variance ``1 / inputs`` and no bias yet."""
    checks.generator(generator)
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs))
        layer.bias.zero_()
    return layer


def zero_head(inputs: int, outputs: int = 1) -> nn.Linear:
    """A layer that gives zero until it has learned something."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
