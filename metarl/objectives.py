"""An inner objective whose hyper-parameters are meta-learned.

What is usually set by hand, discount γ, GAE decay λ and entropy weight w, becomes part of what is meta-learned::

    L(θ) = s · (loss(π_θ, A(γ, λ)) - w · mean H(π_θ))

The advantages are computed within the objective, so that the meta-gradient reaches γ and λ through them and through
the baseline's fit (Xu et al. 2018, arXiv:1805.09801; STAC, Zahavy et al. 2020, arXiv:2002.12928). How widely the
policy explores is learned already: a Gaussian policy's ``log_std`` belongs to the initialization, and
`metarl.rules.Offset` on it lets exploring and acting differ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.advantages import Advantages
from metarl.distributions import Distribution
from metarl.losses import Loss, masked_mean, negative_entropy, refuse_rewards
from metarl.rules.networks import linear, zero_head
from metarl.types import Batch

STATISTICS = 6  # what `statistics` gives


class Hyperparameters(NamedTuple):
    """Of one adaptation step, 0-d each."""

    discount: Tensor
    decay: Tensor
    entropy: Tensor  # weight, nats to the units of the loss
    scale: Tensor  # of the whole loss: a global factor on step sizes


class LearnedObjective(nn.Module):
    """A loss with learned γ, λ and entropy weight; called as any loss, ``(distribution, batch) -> 0-d``."""

    reads_rewards = True  # the advantages are its own

    def __init__(
        self, loss: Loss, advantages: Advantages, *, entropy: float = 0.0, warm_start: WarmStart | None = None
    ) -> None:
        """Start at given hyper-parameters.

        Args:
            loss: reads ``batch.advantage``.
            advantages: how to estimate them; its discount and decay are where learning starts.
            entropy: the first weight of the entropy bonus.
            warm_start: corrects the hyper-parameters for the task at hand.

        Raises:
            ValueError: a discount or decay that is not strictly between 0 and 1 (or rounds to one of them), where no
                gradient would reach it; a loss of rewards; advantages that ask for other tasks.
        """
        super().__init__()
        refuse_rewards(loss, "a learned objective")
        for name in ("discount", "decay"):
            if not 0.0 < float(torch.tensor(getattr(advantages, name))) < 1.0:
                raise ValueError(
                    f"a {name} to be learned must start between 0 and 1, got {getattr(advantages, name)}; "
                    "0.999 is close to 1"
                )
        advantages.refuse_company()
        self.loss, self.advantages, self.warm_start = loss, advantages, warm_start
        self.discount = nn.Parameter(torch.tensor(advantages.discount).logit())
        self.decay = nn.Parameter(torch.tensor(advantages.decay).logit())
        self.entropy = nn.Parameter(torch.tensor(float(entropy)))

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """The loss on a batch ``[H, N, ...]`` of one task."""
        given = self.hyperparameters(distribution, batch)
        filled = self.advantages.estimate(batch, discount=given.discount, decay=given.decay)
        bonus = given.entropy * negative_entropy(distribution, batch)
        return given.scale * (self.loss(distribution, filled) + bonus)

    def hyperparameters(self, distribution: Distribution, batch: Batch) -> Hyperparameters:
        """What the loss is computed with on this batch."""
        raw = torch.stack([self.discount, self.decay, self.entropy, torch.zeros_like(self.entropy)])
        if self.warm_start is not None:
            raw = raw + self.warm_start(distribution, batch)
        discount, decay, entropy, log_scale = raw.unbind()
        return Hyperparameters(discount.sigmoid(), decay.sigmoid(), entropy, log_scale.exp())


class WarmStart(nn.Module):
    """From what the episodes of a task look like to corrections of the hyper-parameters, and to a global rate scale.

    At the first step these are the first episodes on the task. The corrections start at zero.
    """

    def __init__(self, *, units: int = 16, generator: torch.Generator) -> None:
        """``units`` in one hidden layer."""
        super().__init__()
        self.hidden, self.head = linear(STATISTICS, units, generator), zero_head(units, len(Hyperparameters._fields))

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Corrections ``[4]`` of discount and decay (logits), entropy weight, and logarithm of the scale."""
        correction: Tensor = self.head(self.hidden(statistics(distribution, batch)).tanh())
        return correction


def statistics(distribution: Distribution, batch: Batch) -> Tensor:
    """A task's episodes in six numbers of about the size of one, ``[6]``, without a graph.

    Mean reward a step, how it grows from the first to the second half of an episode, spread of the returns a step,
    mean length of an episode (its decimal logarithm), share of episodes ended by the task, entropy of the policy.
    None depends on how far a batch is padded, which other tasks decide.
    """
    length = batch.mask.sum(0).clamp_min(1.0)
    time = torch.arange(len(batch.mask), device=length.device, dtype=length.dtype).unsqueeze(-1)
    first = batch.mask * (2.0 * time < length)
    second = batch.mask - first  # episodes of one step have none
    growth = (masked_mean(batch.reward, second) - masked_mean(batch.reward, first)) * second.any()
    returns = batch.reward.sum(0) / length
    spread = (returns - returns.mean()).square().mean().clamp_min(1e-20).sqrt()
    signed = (masked_mean(batch.reward, batch.mask), growth, spread, masked_mean(distribution.entropy(), batch.mask))
    reward, growth, spread, entropy = map(symlog, signed)
    ended = batch.terminated.to(batch.reward.dtype).sum(0).mean()
    return torch.stack([reward, growth, spread, length.mean().log10(), ended, entropy]).detach()


def symlog(x: Tensor) -> Tensor:
    """``sgn(x) log(1 + |x|)``: keeps the order of numbers and bounds their size."""
    return x.sign() * x.abs().log1p()
