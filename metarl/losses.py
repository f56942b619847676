"""Policy-gradient objectives, one task at a time: ``loss(distribution, batch) -> 0-d tensor``.

``distribution`` is the current policy's on ``batch.observation`` (it carries the graph); the batch is
data. Unless said otherwise a loss is the mean over the task's real *steps*: every step weighs the same,
however long its episode was.

Which of them gives the meta-gradient what it needs (Foerster et al. 2018; Rothfuss et al. 2019): all
have the same gradient, the policy gradient, but differentiate differently a second time. `vpg` is what
MAML published; its second derivative misses that the parameters decide what is sampled, an error of
first order in the step size. `Dice` has the whole second derivative, at a high variance. `lvc` drops the
terms that couple different time steps: exact like `Dice` for one-step episodes, and the low-variance
compromise for longer ones. `vpg` with `PreUpdateCredit` is unbiased for any number of episodes; with the
others the credit would count exploration twice. ``tests/test_estimators.py`` enumerates a bandit and an
MDP and states each error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.distributions import Distribution
from metarl.types import Batch

Loss = Callable[[Distribution, Batch], Tensor]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` ``[H, N]`` over the real steps; 0 where there are none."""
    return (x * mask).sum() / mask.sum().clamp_min(1.0)


def vpg(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(log π · A)``: the score-function surrogate (Williams 1992), as in MAML (Finn et al. 2017, eq. 4)."""
    return -masked_mean(distribution.log_prob(batch.action) * batch.advantage, batch.mask)


def lvc(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / ⊥π · A)``: low-variance curvature (Rothfuss et al. 2019, arXiv:1810.06784, eq. 6).

    ``⊥`` stops the gradient: the value is ``-mean(A)``, the gradient that of `vpg`, the second
    derivative includes the outer product of the scores.
    """
    log_prob = distribution.log_prob(batch.action)
    return -masked_mean((log_prob - log_prob.detach()).exp() * batch.advantage, batch.mask)


@dataclass(frozen=True)
class Dice:
    """The infinitely differentiable estimator DiCE (Foerster et al. 2018, arXiv:1802.05098).

    ``-Σ_t γ^t □(τ_t) r_t - Σ_t γ^t (1 - □(a_t)) V_t`` with ``□(τ) = exp(Σ log π - ⊥Σ log π)``, the sum
    over all actions up to t, and the baseline term of its eq. 11; divided by the number of real steps, to
    be on the scale of the other losses. Uses rewards and values, not advantages.
    """

    discount: float = 0.99

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        time = torch.arange(log_prob.shape[0], device=log_prob.device, dtype=log_prob.dtype)
        weight = self.discount ** time.unsqueeze(-1)
        dependence = magic_box(log_prob.cumsum(0)) * batch.reward
        baseline = (1.0 - magic_box(log_prob)) * batch.value
        return -masked_mean(weight * (dependence + baseline), batch.mask)


def magic_box(log_prob: Tensor) -> Tensor:
    """``exp(x - ⊥x)``: one in value, with the score's derivatives of every order."""
    return (log_prob - log_prob.detach()).exp()


def surrogate(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / π_sampling · A)``: the importance-weighted objective that a trust region bounds (TRPO, eq. 14)."""
    ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
    return -masked_mean(ratio * batch.advantage, batch.mask)


@dataclass(frozen=True)
class Clipped:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7) against the sampling policy.

    At the sampling parameters its gradient is the policy gradient, so one epoch is plain policy gradient.
    """

    epsilon: float = 0.2

    def __post_init__(self) -> None:
        """Refuses a clip range that is not positive."""
        if not self.epsilon > 0.0:
            raise ValueError(f"the clip range must be positive, got {self.epsilon}")

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        ratio = (distribution.log_prob(batch.action) - batch.log_prob).exp()
        clipped = ratio.clamp(1.0 - self.epsilon, 1.0 + self.epsilon)
        return -masked_mean(torch.minimum(ratio * batch.advantage, clipped * batch.advantage), batch.mask)


def sample_kl(distribution: Distribution, batch: Batch) -> Tensor:
    """Mean over the sampled states of KL(sampling policy ‖ current policy), in nats."""
    return masked_mean(batch.distribution.kl(distribution), batch.mask)


def negative_entropy(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(H(π))`` in nats, to be added with a small weight."""
    return -masked_mean(distribution.entropy(), batch.mask)


@dataclass(frozen=True)
class WeightedSum:
    """``Σ w_i · loss_i``: for instance ``Clipped`` plus a KL penalty, as in ProMP."""

    terms: tuple[tuple[float, Loss], ...]

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        return torch.stack([weight * loss(distribution, batch) for weight, loss in self.terms]).sum()


@dataclass(frozen=True)
class PreUpdateCredit:
    """Credit to the exploring policy for what adapting on its data led to (E-MAML, Stadie et al. 2018).

    ``-weight · Σ log π_θ(support) · outcome``, summed over all steps of the support: the score-function
    term that plain `vpg` meta-gradients lack (arXiv:1803.01118, eq. 5). The outcome is a number a task,
    the adapted policy's return a step minus what was to be expected; the estimate is unbiased at weight 1
    if the outer advantages are not normalised, and else at one over their standard deviation.
    """

    weight: float = 1.0

    def __call__(self, distribution: Distribution, support: Batch, outcome: Tensor) -> Tensor:
        """0-d loss from the policy that sampled ``support`` and the 0-d ``outcome``."""
        return -self.weight * (distribution.log_prob(support.action) * support.mask).sum() * outcome
