"""An inner loss whose hyper-parameters are meta-learned.

Discount γ, GAE decay λ and entropy weight w, usually set by hand, are learned together with everything else::

    L(θ) = s · (loss(π_θ, A(γ, λ)) - w · mean H(π_θ))

The advantages are computed within the loss, so that the meta-gradient reaches γ and λ through the advantages and the
baseline's fit (Xu et al. 2018, arXiv:1805.09801; STAC, Zahavy et al. 2020, arXiv:2002.12928). The amount of exploration
is meta-learned in any case: a Gaussian policy's ``log_std`` is part of the initialization, and `metarl.rules.Offset`
allows it to differ between the exploring and the adapted policy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.advantages import ADVANTAGES, Advantages
from metarl.distributions import Distribution
from metarl.losses import Loss, masked_mean, negative_entropy, refuse_rewards
from metarl.rules.networks import linear, zero_head
from metarl.types import Batch

STATISTICS = 6  # length of the result of `statistics`


class Hyperparameters(NamedTuple):
    """Hyper-parameters of one adaptation step, each 0-d."""

    discount: Tensor
    decay: Tensor
    entropy: Tensor  # weight of the entropy bonus, in units of the loss per nat
    scale: Tensor  # factor on the whole loss, and thereby on all step sizes


class LearnedObjective(nn.Module):
    """A loss with learned γ, λ and entropy weight; called like any loss, ``(distribution, batch) -> 0-d``."""

    reads_rewards = True  # it estimates its own advantages, from rewards

    def __init__(
        self, loss: Loss, advantages: Advantages, *, entropy: float = 0.0, warm_start: WarmStart | None = None
    ) -> None:
        """Start from given hyper-parameters.

        Args:
            loss: uses ``batch.advantage``.
            advantages: how to estimate them; its discount and decay are the initial values.
            entropy: initial weight of the entropy bonus.
            warm_start: corrects the hyper-parameters for each task.

        Raises:
            TypeError: a loss or advantages of the wrong type.
            ValueError: a discount or decay that is not strictly between 0 and 1, or rounds to 0 or 1, so that no
                gradient would reach it; a loss that uses rewards; advantages that depend on other tasks.
        """
        super().__init__()
        refuse_rewards(loss, "a learned objective")
        checks.of_type("advantages", advantages, Advantages, ADVANTAGES)
        for name in ("discount", "decay"):
            if not 0.0 < float(torch.tensor(getattr(advantages, name))) < 1.0:
                raise ValueError(
                    f"a learned {name} must start strictly between 0 and 1, got {getattr(advantages, name)}; "
                    "use 0.999 for a value close to 1"
                )
        advantages.refuse_company()
        self.loss, self.advantages, self.warm_start = loss, advantages, warm_start
        self.discount = nn.Parameter(torch.tensor(advantages.discount).logit())
        self.decay = nn.Parameter(torch.tensor(advantages.decay).logit())
        self.entropy = nn.Parameter(torch.tensor(float(entropy)))

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss on a batch ``[H, N, ...]`` of one task."""
        given = self.hyperparameters(distribution, batch)
        filled = self.advantages.estimate(batch, discount=given.discount, decay=given.decay)
        bonus = given.entropy * negative_entropy(distribution, batch)
        return given.scale * (self.loss(distribution, filled) + bonus)

    def hyperparameters(self, distribution: Distribution, batch: Batch) -> Hyperparameters:
        """Return the hyper-parameters used on this batch, including the corrections of the warm start."""
        raw = torch.stack([self.discount, self.decay, self.entropy, torch.zeros_like(self.entropy)])
        if self.warm_start is not None:
            raw = raw + self.warm_start(distribution, batch)
        discount, decay, entropy, log_scale = raw.unbind()
        return Hyperparameters(discount.sigmoid(), decay.sigmoid(), entropy, log_scale.exp())


class WarmStart(nn.Module):
    """Maps statistics of a task's episodes to corrections of the hyper-parameters, including a scale of all step sizes.

    It is applied before every adaptation step, to that step's episodes. The corrections are zero before training.
    """

    def __init__(self, *, units: int = 16, generator: torch.Generator) -> None:
        """Build a network with one hidden layer of ``units``; ``generator`` draws its weights."""
        super().__init__()
        self.hidden, self.head = linear(STATISTICS, units, generator), zero_head(units, len(Hyperparameters._fields))

    def forward(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return corrections ``[4]`` of the logits of discount and decay, the entropy weight, and the log scale."""
        correction: Tensor = self.head(self.hidden(statistics(distribution, batch)).tanh())
        return correction


def statistics(distribution: Distribution, batch: Batch) -> Tensor:
    """Summarize a task's episodes by six numbers of order one, ``[6]``, without a graph.

    They are the mean reward per step, its growth from the first to the second half of an episode, the standard
    deviation of the returns per step, the decimal logarithm of the mean episode length, the share of episodes that
    terminated, and the policy's entropy. None depends on the amount of padding, which is determined by other tasks.
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
    """Return ``sgn(x) log(1 + |x|)``, which compresses large numbers and keeps their order; its slope at 0 is 1."""
    return torch.where(x == 0.0, x, x.sign() * x.abs().log1p())  # autograd gives 0 for abs at 0
