"""A baseline that sees the action: less noise in a policy gradient.

A gradient's noise on a task with few episodes is mostly that of the actions: what a step was worth is a known function
of what was done in it, but one action a state samples that function poorly. A linear fit Q̂ + V̂ of the advantages, on
how the action differed from what the policy does on average and on the state, tells its mean over *all* actions::

    L(θ) = loss(π_θ, A - Q̂(s, a) - V̂(s)) - mean E_{a ~ π_θ} Q̂(s, a)

Where actions are normal, this is Q-Prop (Gu et al. 2017, arXiv:1611.02247, eq. 6) with a critic quadratic in the
action; what is left to the first term is the fit's residual. With a critic fitted on other data the gradient is on
average the same. This one is fitted to the batch itself, so that residuals are smaller than they should be: of what the
fit cannot express the gradient misses a part, about as large as the number of features divided by that of steps.

With `metarl.losses.PreUpdateCredit`, over `vpg`, a meta-gradient misses no more than how the fit depends on the policy
that sampled, which a replay takes for data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.baselines import LinearBaseline, weighted
from metarl.distributions import Distribution
from metarl.losses import Loss, masked_mean, refuse_rewards
from metarl.types import Batch


class ActionBaseline(nn.Module):
    """A loss that reads ``batch.advantage``, with a baseline that sees the action; ``(distribution, batch) -> 0-d``.

    Gradients with respect to the advantages, for learned ones, go through the fit.
    """

    def __init__(self, loss: Loss, states: LinearBaseline | None = None) -> None:
        """``states`` has the features of a state that the fit needs besides, and fits.

        Raises:
            ValueError: a loss of rewards.
        """
        super().__init__()
        refuse_rewards(loss, "an action baseline")
        self.loss, self.states = loss, LinearBaseline() if states is None else states

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        done = self.features(batch, batch.distribution.deviation(batch.action))
        to_come = self.features(batch, batch.distribution.mean_deviation(distribution))
        seen = torch.cat([done, self.states.features(batch)[0]], -1)
        weight = self.states.fit(seen, batch.advantage, batch.mask)
        residual = batch._replace(advantage=batch.advantage - weighted(seen, weight))
        told = weighted(to_come, weight[:, : done.shape[-1]])
        return self.loss(distribution, residual) - masked_mean(told, batch.mask)

    @staticmethod
    def features(batch: Batch, deviation: Tensor) -> Tensor:
        """Deviations ``[H, N, D]``, and each times each observation: ``[H, N, D (1 + O)]``."""
        together = (deviation.unsqueeze(-1) * batch.observation.unsqueeze(-2)).flatten(-2)
        return torch.cat([deviation, together], -1)
