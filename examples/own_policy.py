"""A policy of one's own: any ``nn.Module`` as the network, here one with normalised layers and a shortcut.

    export PYTHONPATH=.    # finds modules of this folder; installed packages need none
    python experiments/check.py policy examples.own_policy:residual    # says in words what is wrong with it
    python experiments/train.py cartpole-polarity --policy examples.own_policy:residual --output runs/residual
    python experiments/evaluate.py runs/residual --plugin examples.own_policy:residual

A policy is made from the spaces of observations and actions. `ModuleNetwork` adapts the parameters of any module, one
set a task; its first weights come from the run's seed. What acts otherwise than by logits or by a mean and a deviation
is a `metarl.Policy` with two methods, ``forward`` and ``noise``.
"""

from gymnasium.spaces import Discrete
from torch import nn

from metarl import CategoricalPolicy, GaussianPolicy, ModuleNetwork


class Residual(nn.Module):
    """``x + W₂ tanh(W₁ norm(x))``."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x):
        """As many numbers as come in."""
        return x + self.inner(x)


def residual(observations, actions, width=32):
    """Two residual blocks between linear layers."""
    outputs = int(actions.n) if isinstance(actions, Discrete) else actions.shape[0]
    layers = nn.Linear(observations.shape[0], width), Residual(width), Residual(width), nn.Linear(width, outputs)
    network = ModuleNetwork(nn.Sequential(*layers))
    return CategoricalPolicy(network) if isinstance(actions, Discrete) else GaussianPolicy(network, outputs)
