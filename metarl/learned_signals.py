"""Inner losses with a learned training signal, computed from single transitions.

A meta-learned network f_ψ corrects the advantage or the reward that the inner loss reinforces::

    L(θ) = loss(π_θ, A(r) + f_ψ(s, a, s' - s, r, end, A))        LearnedAdvantage
    L(θ) = loss(π_θ, A(r + f_ψ(s, a, s' - s, r, end)))           LearnedReward

or it adds a loss of its own, which also takes the policy's action distribution::

    L(θ) = loss(π_θ, A(r)) + mean f_ψ(s, a, s' - s, r, end, A, π_θ(s))    LearnedLoss

NoRML (Yang et al. 2019, arXiv:1903.01063, section 4) learns the advantage from transitions alone, and thus adapts
without a reward; LIRPG (Zheng et al. 2018, arXiv:1804.06459) learns a reward that is added to the task's. Here all
corrections are zero at first, so that training starts with the plain inner loss, and ψ is meta-learned.

Which one to use:

- A learned advantage, if the reward says little about single actions (such as a constant 1 for every step survived)
  but the next state does, for example by showing which way the actuator turns.
- A learned reward, if the reward is informative but badly scaled: it is better corrected before the baseline is
  subtracted.
- A learned loss, if there are few episodes. Its gradient reaches the policy through the action distribution instead of
  the log-probabilities of sampled actions, and is free of their sampling noise (EPG, Houthooft et al. 2018,
  arXiv:1802.04821; ML³, Bechtle et al. 2019, arXiv:1906.05374).

A learned advantage together with `metarl.rules.Offset` around `metarl.rules.MetaSGD` is NoRML's algorithm.
"""

from __future__ import annotations

from torch import Tensor, nn

from metarl import checks
from metarl.advantages import ADVANTAGES, Advantages
from metarl.distributions import Distribution
from metarl.losses import A_LOSS, Loss, masked_mean, reads_rewards, refuse_rewards
from metarl.transitions import TransitionNetwork
from metarl.types import Batch


class LearnedAdvantage(nn.Module):
    """A loss whose advantages a network corrects; called like any loss, ``(distribution, batch) -> 0-d``."""

    def __init__(self, loss: Loss, network: TransitionNetwork) -> None:
        """Wrap a ``loss`` that uses ``batch.advantage``; the ``network``, built with ``more=1``, also reads it.

        Raises:
            TypeError: a loss of the wrong type, for example a class instead of an instance.
            ValueError: the loss uses rewards instead of advantages.
        """
        super().__init__()
        refuse_rewards(loss, "a learned advantage")
        self.loss, self.network = loss, network

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss on a batch ``[H, N, ...]`` of one task."""
        return self.loss(distribution, batch._replace(advantage=self.corrected(batch)))

    def corrected(self, batch: Batch) -> Tensor:
        """Return the corrected advantages ``[H, N]``."""
        advantage: Tensor = batch.advantage + self.network(batch, batch.advantage)
        return advantage


class LearnedReward(nn.Module):
    """A loss whose rewards a network corrects; called like any loss, ``(distribution, batch) -> 0-d``."""

    reads_rewards = True  # it estimates its own advantages, from rewards

    def __init__(self, loss: Loss, network: TransitionNetwork, advantages: Advantages) -> None:
        """Wrap a ``loss`` that uses ``batch.advantage``, which ``advantages`` estimates from the corrected rewards.

        Raises:
            TypeError: a loss or advantages of the wrong type.
            ValueError: the loss uses rewards itself, or the advantages depend on other tasks.
        """
        super().__init__()
        refuse_rewards(loss, "a learned reward")
        checks.of_type("advantages", advantages, Advantages, ADVANTAGES)
        advantages.refuse_company()
        self.loss, self.network, self.advantages = loss, network, advantages

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss on a batch ``[H, N, ...]`` of one task."""
        filled = self.advantages.estimate(
            batch._replace(reward=self.corrected(batch)),
            discount=self.advantages.discount,
            decay=self.advantages.decay,
        )
        return self.loss(distribution, batch._replace(advantage=filled.advantage))

    def corrected(self, batch: Batch) -> Tensor:
        """Return the corrected rewards ``[H, N]``; zero on padding."""
        reward: Tensor = (batch.reward + self.network(batch)) * batch.mask
        return reward


class LearnedLoss(nn.Module):
    """A loss plus a term learned by a network; called like any loss, ``(distribution, batch) -> 0-d``."""

    def __init__(self, loss: Loss, network: TransitionNetwork) -> None:
        """Add a term to ``loss``.

        The ``network`` reads ``batch.advantage`` and the D numbers that describe the policy's distribution
        (`metarl.distributions.Distribution.told`), and is therefore built with ``more=1 + D``.

        Raises:
            TypeError: a loss of the wrong type, for example a class instead of an instance.
        """
        super().__init__()
        checks.function("loss", loss, A_LOSS)
        self.loss, self.network = loss, network

    @property
    def reads_rewards(self) -> bool:
        """Whether ``loss``, without the learned term, uses rewards."""
        return reads_rewards(self.loss)

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss on a batch ``[H, N, ...]`` of one task."""
        judged = self.network(batch, batch.advantage, *distribution.told().unbind(-1))
        return self.loss(distribution, batch) + masked_mean(judged, batch.mask)
