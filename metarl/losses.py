"""Policy-gradient objectives, one task at a time: ``loss(distribution, batch) -> 0-d tensor``.

``distribution`` is the current policy's on ``batch.observation`` (it carries the graph); the batch is
data. Unless said otherwise a loss is the mean over the task's real *steps*: every step weighs the same,
however long its episode was.

Which of them gives the meta-gradient what it needs (Foerster et al. 2018; Rothfuss et al. 2019): all
have the same gradient, the policy gradient, but differentiate differently a second time. (With a discount
γ < 1 that is so but for one thing: `Dice` and `TMAML` weigh the step at time t by γ^t, as the return from the
start does, and the advantages that the others read do not.) `vpg` is what
MAML published; its second derivative misses that the parameters decide what is sampled, an error of
first order in the step size. `Dice` has the whole second derivative, at a high variance; `TMAML` lowers
the variance without bias, `LoadedDice` does so for any advantage. `lvc` drops the terms that couple
different time steps: exact like `Dice` for one-step episodes, and the low-variance compromise for longer
ones. `vpg` with `PreUpdateCredit` is unbiased for any number of episodes; with the others the credit would
count exploration twice. ``tests/test_estimators.py`` enumerates a bandit and an MDP and states each error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from metarl import checks
from metarl.distributions import Distribution
from metarl.returns import discounted_sum
from metarl.types import Batch

Loss = Callable[[Distribution, Batch], Tensor]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` ``[H, N]`` over the real steps; 0 where there are none."""
    return (x * mask).sum() / mask.sum().clamp_min(1.0)


def vpg(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(log π · A)``: the score-function surrogate (Williams 1992), as in MAML (Finn et al. 2017, eq. 4)."""
    return -masked_mean(distribution.log_prob(batch.action) * batch.advantage, batch.mask)


def lvc(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / ⊥π · A)``: low-variance curvature (Rothfuss et al. 2019, arXiv:1810.06784, eq. 9).

    ``⊥`` stops the gradient: the value is ``-mean(A)``, the gradient that of `vpg`, the second
    derivative includes the outer product of the scores.
    """
    return -masked_mean(magic_box(distribution.log_prob(batch.action)) * batch.advantage, batch.mask)


@dataclass(frozen=True)
class Dice:
    """The infinitely differentiable estimator DiCE (Foerster et al. 2018, arXiv:1802.05098).

    ``-Σ_t γ^t □(τ_t) r_t - Σ_t γ^t (1 - □(a_t)) V_t`` with ``□(τ) = exp(Σ log π - ⊥Σ log π)``, the sum
    over all actions up to t, and the baseline term of its eq. 11; divided by the number of real steps, to
    be on the scale of the other losses. Uses rewards and values, not advantages.
    """

    reads_rewards: ClassVar[bool] = True
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuses a discount outside [0, 1]."""
        _refuse_outside("discount", self.discount)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        dependence = magic_box(_so_far(log_prob, 1.0)) * batch.reward
        baseline = (1.0 - magic_box(log_prob)) * batch.value
        return -masked_mean(discounts(log_prob, self.discount) * (dependence + baseline), batch.mask)


@dataclass(frozen=True)
class TMAML:
    """`Dice` with a control variate for second derivatives (Taming MAML, Liu et al. 2019).

    Adds ``Σ_t γ^t (1 - □(a_<t)) (1 - □(a_t)) V_t``, whose value and gradient are zero and whose second derivative
    has expectation zero: it takes from every pair of an earlier action and the action at t what was to be expected
    from t on anyway. The sum runs over *earlier* actions only, or its expectation would be the Fisher matrix times V_t.
    """

    reads_rewards: ClassVar[bool] = True
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuses a discount outside [0, 1]."""
        _refuse_outside("discount", self.discount)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        earlier = _so_far(log_prob, 1.0) - log_prob
        variate = (1.0 - magic_box(earlier)) * (1.0 - magic_box(log_prob)) * batch.value
        added = masked_mean(discounts(log_prob, self.discount) * variate, batch.mask)
        return Dice(self.discount)(distribution, batch) + added


@dataclass(frozen=True)
class LoadedDice:
    """DiCE for any advantage, trading bias for variance (Farquhar et al. 2019, arXiv:1909.10549, algorithm 1).

    ``-mean((□(w_t) - □(w_t - log π_t)) A_t)`` with ``w_t = Σ_{s ≤ t} λ^(t-s) log π_s``. λ = 1 is `TMAML` where the
    advantages are γ^t times the discounted returns from t minus values, with all derivatives unbiased; λ = 0 has the
    derivatives of `lvc`. The value is zero.
    """

    dependence: float = 1.0  # λ: how much an earlier action counts for a later advantage

    def __post_init__(self) -> None:
        """Refuses a λ outside [0, 1]."""
        _refuse_outside("dependence", self.dependence)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        inclusive = _so_far(log_prob, self.dependence)
        difference = magic_box(inclusive) - magic_box(inclusive - log_prob)
        return -masked_mean(difference * batch.advantage, batch.mask)


def _refuse_outside(name: str, value: float) -> None:
    checks.number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def reads_rewards(loss: Loss) -> bool:
    """Whether a loss works on rewards instead of ``batch.advantage``, as its attribute of this name tells."""
    return bool(getattr(loss, "reads_rewards", False))


def refuse_rewards(loss: Loss, who: str) -> None:
    """Check that a loss reads advantages, which are all that ``who`` changes.

    Raises:
        ValueError: it, or a term of a sum, reads rewards.
    """
    if reads_rewards(loss):
        raise ValueError(
            f"{who} changes advantages, and {type(loss).__name__} works on rewards: expected lvc or vpg, for instance"
        )


def discounts(like: Tensor, discount: float) -> Tensor:
    """``γ^t`` as a column ``[H, 1]`` for a tensor ``[H, N]``."""
    time = torch.arange(like.shape[0], device=like.device, dtype=like.dtype)
    return discount ** time.unsqueeze(-1)


def _so_far(x: Tensor, factor: float) -> Tensor:
    """``y_t = Σ_{s ≤ t} factor^(t-s) x_s`` of ``[H, N]``. No cumsum: a GPU that is asked for equal bits refuses it."""
    return discounted_sum(x.flip(0), factor).flip(0)


def magic_box(log_prob: Tensor) -> Tensor:
    """``exp(x - ⊥x)``: one in value, with the score's derivatives of every order."""
    return (log_prob - log_prob.detach()).exp()


def surrogate(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / π_sampling · A)``: the importance-weighted objective that a trust region bounds (TRPO, eq. 14)."""
    return -masked_mean(importance(distribution, batch) * batch.advantage, batch.mask)


def importance(distribution: Distribution, batch: Batch) -> Tensor:
    """``π / π_sampling`` of the actions taken, ``[H, N]``; 1 on padding, where a ratio of nothing might overflow."""
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    return log_ratio.masked_fill(batch.mask == 0.0, 0.0).exp()


@dataclass(frozen=True)
class Clipped:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7) against the sampling policy.

    At the sampling parameters its gradient is the policy gradient, so one epoch is plain policy gradient.
    """

    epsilon: float = 0.2

    def __post_init__(self) -> None:
        """Refuses a clip range that is not positive."""
        checks.number("epsilon", self.epsilon)
        if not self.epsilon > 0.0:
            raise ValueError(f"the clip range must be positive, got {self.epsilon}")

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        ratio = importance(distribution, batch)
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
    """``Σ w_i · loss_i``: for instance ``Clipped`` plus a penalty on `sample_kl`."""

    terms: tuple[tuple[float, Loss], ...]

    def __post_init__(self) -> None:
        """Refuses anything but pairs of a weight and a loss."""
        pair = "a pair of a weight and a loss, such as (0.01, sample_kl)"
        for term in self.terms:
            if not (isinstance(term, Sequence) and len(term) == 2 and isinstance(term[0], Real)):
                raise TypeError(f"term: expected {pair}, got {checks.told(term)}")
            checks.function("term", term[1], pair)

    @property
    def reads_rewards(self) -> bool:
        """Whether any term does."""
        return any(reads_rewards(loss) for _, loss in self.terms)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """See the class."""
        return torch.stack([weight * loss(distribution, batch) for weight, loss in self.terms]).sum()


@dataclass(frozen=True)
class PreUpdateCredit:
    """Credit to the exploring policy for what adapting on its data led to (E-MAML, Stadie et al. 2018).

    ``-weight · Σ log π_θ(support) · outcome``, summed over all steps of the support: the score-function
    term that plain `vpg` meta-gradients lack (arXiv:1803.01118, eq. 4, second term). The outcome is a number a task,
    the adapted policy's return a step minus what was to be expected; the estimate is unbiased at weight 1
    if the outer advantages are not normalised, and else at one over their standard deviation.

    An outcome is one number for all that was explored. ``coverage`` is the weight of credit to each episode by itself,
    for its lead: how much closer than all others of its task it came to what pays (`metarl.exploration.leads`). So
    episodes learn to look where the others do not. This part is a `Clipped` loss, a mean over steps: a trace may be
    replayed several times, and unclipped the policy would run away from the actions of episodes that did not lead.
    """

    weight: float = 1.0
    coverage: float = 0.0
    clip: float = 0.2

    def __post_init__(self) -> None:
        """Refuses what is no number."""
        for name in ("weight", "coverage", "clip"):
            checks.number(name, getattr(self, name))

    def __call__(
        self, distribution: Distribution, support: Batch, outcome: Tensor, lead: Tensor | None = None
    ) -> Tensor:
        """0-d loss from the policy that sampled ``support``, the 0-d ``outcome``, and the leads ``[N]`` if any."""
        loss = -self.weight * (distribution.log_prob(support.action) * support.mask).sum() * outcome
        if lead is None:
            return loss
        leading = support._replace(advantage=lead.expand_as(support.mask))
        return loss + self.coverage * Clipped(self.clip)(distribution, leading)
