"""A loss of one's own: imitate what turned out well, with a learned idea of how well is well enough.

    export PYTHONPATH=.    # finds modules of this folder; installed packages need none
    python experiments/check.py loss examples.own_loss:Imitation    # says in words what is wrong with it
    python experiments/train.py cartpole-polarity --inner-loss examples.own_loss:Imitation --output runs/imitation
    python experiments/evaluate.py runs/imitation --plugin examples.own_loss:Imitation

A loss is called with the policy's action distribution on the steps of a batch, and the batch, both of one task,
``[H, N, ...]``, and gives one number; a function will do. What it learns are ``nn.Parameter``s of a module, whose class
is called without arguments; to give it some, name an instance, ``mine = Imitation(2.0)`` here and
``--inner-loss examples.own_loss:mine``. ``--outer-loss`` takes one, too, that learns nothing.
"""

import torch
from torch import nn

from metarl.losses import masked_mean


class Imitation(nn.Module):
    """``-mean(exp(A / τ) log π)`` (advantage-weighted, Peng et al. 2019, arXiv:1910.00177), with τ meta-learned."""

    def __init__(self):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, distribution, batch):
        """One number: a mean over the real steps, which ``batch.mask`` marks."""
        weight = (batch.advantage / self.log_temperature.exp()).clamp(max=3.0).exp()
        return -masked_mean(weight * distribution.log_prob(batch.action), batch.mask)
