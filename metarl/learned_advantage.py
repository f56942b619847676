"""An inner loss that learns what to reinforce: the advantage of a transition comes from a meta-learned network.

    L(θ) = loss(π_θ, A + f_ψ(s, a, s' - s, r, end, A))

NoRML (Yang et al. 2019, arXiv:1903.01063, section 4) learns the advantage from transitions alone, and so adapts
without a reward; here the network corrects the estimated advantage A and begins as no correction at all, so that the
inner loss starts as the plain one. Rewards that say little, as a constant 1 for every step survived, hide what
the very next state shows: which way the actuator turns. ψ is learned by what adapting with it achieves.

Together with `metarl.rules.Offset` of `metarl.rules.MetaSGD` it is NoRML's algorithm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metarl.distributions import Distribution
from metarl.losses import Loss
from metarl.objectives import symlog
from metarl.rules.networks import linear, zero_head
from metarl.types import Batch

REST = 3  # reward, end, estimated advantage


class LearnedAdvantage(nn.Module):
    """A loss whose advantages a network corrects; called as any loss, ``(distribution, batch) -> 0-d``."""

    def __init__(
        self,
        loss: Loss,
        observations: int,
        actions: int,
        *,
        discrete: bool,
        units: int = 32,
        generator: torch.Generator,
    ) -> None:
        """Start at no correction.

        Args:
            loss: reads ``batch.advantage``.
            observations: O, size of an observation.
            actions: how many there are to choose from, or the size A of a continuous action.
            discrete: which of the two.
            units: in each of two hidden layers.
            generator: draws the weights.
        """
        super().__init__()
        self.loss, self.actions, self.discrete = loss, actions, discrete
        self.first = linear(2 * observations + actions + REST, units, generator)
        self.second = linear(units, units, generator)
        self.head = zero_head(units)

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        hidden = self.second(self.first(self.transitions(batch)).tanh()).tanh()
        correction = self.head(hidden).squeeze(-1)
        return self.loss(distribution, batch._replace(advantage=batch.advantage + correction))

    def transitions(self, batch: Batch) -> Tensor:
        """What the network sees of every step, ``[H, N, 2 O + A + 3]``, each number on a logarithmic scale.

        The next state of an episode's last step is not known (a batch holds no observations beyond the end): its
        change is 0 and ``end`` is 1.
        """
        seen = batch.observation
        going = torch.cat([batch.mask[1:], batch.mask[-1:] * ~batch.terminated[-1:]])
        after = torch.cat([seen[1:], batch.last_observation.unsqueeze(0)])
        change = (after - seen) * going.unsqueeze(-1)
        action = batch.action
        if self.discrete:
            action = action.unsqueeze(-1) == torch.arange(
                self.actions, device=action.device
            )  # one_hot cannot be lifted
        rest = torch.stack([batch.reward, 1.0 - going, batch.advantage], -1)
        return symlog(torch.cat([seen, action.to(seen.dtype), change, rest], -1))
