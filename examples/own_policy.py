"""A custom policy with any ``nn.Module`` as the network, here one with layer normalisation and residual connections.

    export PYTHONPATH=.    # to import modules from this folder; not needed for installed packages
    python experiments/check.py policy examples.own_policy:residual    # explains what is wrong with it, if anything
    python experiments/train.py cartpole-polarity --policy examples.own_policy:residual --output runs/residual
    python experiments/evaluate.py runs/residual --plugin examples.own_policy:residual

A policy is built from the observation and action space. `ModuleNetwork` makes the parameters of any module adaptable,
one set per task; the run's seed determines the initial weights. For distributions other than a categorical one from
logits or a Gaussian from mean and standard deviation, write a `metarl.Policy` with two methods, ``forward`` and
``noise``.
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
        """Map ``[..., width]`` to the same shape."""
        return x + self.inner(x)


def residual(observations, actions, width=32):
    """Return a policy with two residual blocks between linear layers."""
    outputs = int(actions.n) if isinstance(actions, Discrete) else actions.shape[0]
    layers = nn.Linear(observations.shape[0], width), Residual(width), Residual(width), nn.Linear(width, outputs)
    network = ModuleNetwork(nn.Sequential(*layers))
    return CategoricalPolicy(network) if isinstance(actions, Discrete) else GaussianPolicy(network, outputs)
