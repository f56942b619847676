"""An action-dependent baseline, which reduces the noise of a policy gradient.

On a task with few episodes, most of the gradient's noise comes from sampling actions: the advantage of a step depends
on its action, but a single action per state samples this dependence poorly. Instead, the advantages are fitted by
Q̂ + V̂, where Q̂ is linear in features of how the action deviates from the policy's average, and V̂ in features of the
state. The mean of Q̂ over *all* actions is then known exactly::

    L(θ) = loss(π_θ, A - Q̂(s, a) - V̂(s)) - mean E_{a ~ π_θ} Q̂(s, a)

The first term is left with the residual of the fit. For Gaussian actions this is Q-Prop (Gu et al. 2017,
arXiv:1611.02247, eq. 6) with a critic that is quadratic in the action. A critic fitted on other data would leave the
expected gradient unchanged. This one is fitted on the batch itself, which makes the residuals too small: of whatever
the fit cannot express, the gradient misses a share of about the number of features over the number of steps.

With `metarl.losses.PreUpdateCredit` and `vpg`, the only further thing that a meta-gradient misses is how the fit
depends on the sampling policy, because a replay treats the sampled distribution as data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.baselines import LinearBaseline, weighted
from metarl.distributions import Distribution
from metarl.losses import Loss, masked_mean, refuse_rewards
from metarl.types import Batch


class ActionBaseline(nn.Module):
    """A loss with an action-dependent baseline; called like any loss, ``(distribution, batch) -> 0-d``.

    If the advantages are learned, their gradients also go through the fit.
    """

    def __init__(self, loss: Loss, states: LinearBaseline | None = None) -> None:
        """Wrap a loss.

        Args:
            loss: uses ``batch.advantage``.
            states: supplies the features of the state, and does the fit.

        Raises:
            TypeError: a loss or ``states`` of the wrong type.
            ValueError: the loss uses rewards instead of advantages.
        """
        super().__init__()
        refuse_rewards(loss, "an action baseline")
        self.loss, self.states = loss, LinearBaseline() if states is None else states
        checks.of_type("states", self.states, LinearBaseline, "a LinearBaseline, such as LinearBaseline()")

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss on a batch ``[H, N, ...]`` of one task."""
        done = self.features(batch, batch.distribution.deviation(batch.action))
        to_come = self.features(batch, batch.distribution.mean_deviation(distribution))
        seen = torch.cat([done, self.states.features(batch)[0]], -1)
        weight = self.states.fit(seen, batch.advantage, batch.mask)
        residual = batch._replace(advantage=batch.advantage - weighted(seen, weight))
        told = weighted(to_come, weight[:, : done.shape[-1]])
        return self.loss(distribution, residual) - masked_mean(told, batch.mask)

    @staticmethod
    def features(batch: Batch, deviation: Tensor) -> Tensor:
        """Return the deviations ``[H, N, D]`` and their products with the observation: ``[H, N, D (1 + O)]``."""
        together = (deviation.unsqueeze(-1) * batch.observation.unsqueeze(-2)).flatten(-2)
        return torch.cat([deviation, together], -1)
