"""Small networks used inside rules; initialized from a given generator and compatible with ``vmap``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from metarl import checks
from metarl.rules.base import RuleState


class LSTMCell(nn.Module):
    """One step of an LSTM with all four gates in one linear map; ``nn.LSTMCell`` has no ``vmap`` rule."""

    def __init__(self, inputs: int, units: int, *, generator: torch.Generator) -> None:
        """Create gates in the order input, forget, cell, output, as in ``torch.nn.LSTM``; forget biases start at 1."""
        super().__init__()
        self.units = units
        self.gates = linear(inputs + units, 4 * units, generator)
        with torch.no_grad():
            self.gates.bias[units : 2 * units] = 1.0

    def init(self, rows: int, like: Tensor) -> RuleState:
        """Return a hidden and a cell state of zeros ``[rows, units]``, with dtype and device of ``like``."""
        zeros = like.new_zeros(rows, self.units)
        return {"hidden": zeros, "cell": zeros.clone()}

    def forward(self, inputs: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Map ``[rows, inputs]`` to the hidden state ``[rows, units]``; also return the state for the next call."""
        enter, forget, new, leave = self.gates(torch.cat([inputs, state["hidden"]], -1)).chunk(4, -1)
        cell = forget.sigmoid() * state["cell"] + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        return hidden, {"hidden": hidden, "cell": cell}


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a layer with normal weights of variance ``1 / inputs`` and zero bias."""
    checks.generator(generator)
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs))
        layer.bias.zero_()
    return layer


def zero_head(inputs: int, outputs: int = 1) -> nn.Linear:
    """Return a layer with all weights zero, so that its output is zero until it has been trained."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
