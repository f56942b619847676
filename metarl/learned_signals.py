"""Inner losses that learn what to reinforce, from single transitions.

A meta-learned network f_ψ corrects what the inner loss reinforces, either the advantage or the reward::

    L(θ) = loss(π_θ, A(r) + f_ψ(s, a, s' - s, r, end, A))        LearnedAdvantage
    L(θ) = loss(π_θ, A(r + f_ψ(s, a, s' - s, r, end)))           LearnedReward

or it is a loss itself, which sees what the policy would do there::

    L(θ) = loss(π_θ, A(r)) + mean f_ψ(s, a, s' - s, r, end, A, π_θ(s))    LearnedLoss

NoRML (Yang et al. 2019, arXiv:1903.01063, section 4) learns the advantage from transitions alone, and so adapts
without a reward; LIRPG (Zheng et al. 2018, arXiv:1804.06459) learns a reward to be added. Both begin here as no
correction at all, so that the inner loss starts as the plain one, and ψ is learned by what adapting with it achieves.

Which of the two: rewards that say little, as a constant 1 for every step survived, hide what the very next state
shows, such as which way the actuator turns: that is an advantage. Rewards that say the right thing on an unhandy
scale are better corrected before the baseline takes from them what was to be expected. A learned loss is for few
episodes: its gradient reaches the policy through what it would do, not through the odds of what it happened to do, and
has no noise of that (EPG, Houthooft et al. 2018, arXiv:1802.04821; ML³, Bechtle et al. 2019, arXiv:1906.05374).

Together with `metarl.rules.Offset` of `metarl.rules.MetaSGD` a learned advantage is NoRML's algorithm.
"""

from __future__ import annotations

from torch import Tensor, nn

from metarl.advantages import Advantages
from metarl.distributions import Distribution
from metarl.losses import Loss, masked_mean, reads_rewards, refuse_rewards
from metarl.transitions import TransitionNetwork
from metarl.types import Batch


class LearnedAdvantage(nn.Module):
    """A loss whose advantages a network corrects; called as any loss, ``(distribution, batch) -> 0-d``."""

    def __init__(self, loss: Loss, network: TransitionNetwork) -> None:
        """``loss`` reads ``batch.advantage``; the ``network`` gets to see it, too: ``more=1``.

        Raises:
            ValueError: a loss of rewards.
        """
        super().__init__()
        refuse_rewards(loss, "a learned advantage")
        self.loss, self.network = loss, network

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        return self.loss(distribution, batch._replace(advantage=self.corrected(batch)))

    def corrected(self, batch: Batch) -> Tensor:
        """The advantages ``[H, N]`` that are reinforced instead of ``batch.advantage``."""
        advantage: Tensor = batch.advantage + self.network(batch, batch.advantage)
        return advantage


class LearnedReward(nn.Module):
    """A loss whose rewards a network corrects; called as any loss, ``(distribution, batch) -> 0-d``."""

    reads_rewards = True  # the advantages are its own

    def __init__(self, loss: Loss, network: TransitionNetwork, advantages: Advantages) -> None:
        """``loss`` reads ``batch.advantage``, which ``advantages`` estimates from the corrected rewards.

        Raises:
            ValueError: a loss of rewards, advantages that ask for other tasks.
        """
        super().__init__()
        refuse_rewards(loss, "a learned reward")
        advantages.refuse_company()
        self.loss, self.network, self.advantages = loss, network, advantages

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        filled = self.advantages.estimate(
            batch._replace(reward=self.corrected(batch)),
            discount=self.advantages.discount,
            decay=self.advantages.decay,
        )
        return self.loss(distribution, batch._replace(advantage=filled.advantage))

    def corrected(self, batch: Batch) -> Tensor:
        """The rewards ``[H, N]`` that stand in for ``batch.reward``; none after the end."""
        reward: Tensor = (batch.reward + self.network(batch)) * batch.mask
        return reward


class LearnedLoss(nn.Module):
    """A loss to which a network adds one of its own; called as any loss, ``(distribution, batch) -> 0-d``."""

    def __init__(self, loss: Loss, network: TransitionNetwork) -> None:
        """``loss`` reads ``batch.advantage``; the ``network`` sees it and D numbers of the policy: ``more=1 + D``."""
        super().__init__()
        self.loss, self.network = loss, network

    @property
    def reads_rewards(self) -> bool:
        """Whether the loss that the network's is added to does."""
        return reads_rewards(self.loss)

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        judged = self.network(batch, batch.advantage, *distribution.told().unbind(-1))
        return self.loss(distribution, batch) + masked_mean(judged, batch.mask)
