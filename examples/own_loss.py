"""A custom loss: imitate actions with high advantages, with a meta-learned temperature.

    export PYTHONPATH=.    # to import modules from this folder; not needed for installed packages
    python experiments/check.py loss examples.own_loss:Imitation    # explains what is wrong with it, if anything
    python experiments/train.py cartpole-polarity --inner-loss examples.own_loss:Imitation --output runs/imitation
    python experiments/evaluate.py runs/imitation --plugin examples.own_loss:Imitation

A loss takes the policy's action distribution on the steps of a batch and the batch itself, both of one task with shapes
``[H, N, ...]``, and returns one number; it can be a plain function. Learned numbers are ``nn.Parameter``s of a module.
If you name a class, it is called without arguments; to pass arguments, define an instance, such as
``mine = MyLoss(2.0)``, and name that: ``--inner-loss examples.own_loss:mine``. ``--outer-loss`` also takes losses, but
only ones without learned numbers.
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
        """Return one number, the mean over the real steps, for which ``batch.mask`` is 1."""
        weight = (batch.advantage / self.log_temperature.exp()).clamp(max=3.0).exp()
        return -masked_mean(weight * distribution.log_prob(batch.action), batch.mask)
