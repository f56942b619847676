"""Policy-gradient losses for one task: ``loss(distribution, batch) -> 0-d tensor``.

``distribution`` is the current policy's action distribution on ``batch.observation`` and carries the graph; the batch
is data. Unless stated otherwise, a loss is the mean over the task's real *steps*: every step has the same weight,
however long its episode.

The following losses have the same gradient, the policy gradient, but different second derivatives; as inner losses they
therefore give different meta-gradients (Foerster et al. 2018; Rothfuss et al. 2019). (With a discount γ < 1 the
gradients differ in one way: `Dice` and `TMAML` weight the step at time t by γ^t, as the return from the start does; the
advantages used by the others do not.)

- `vpg` is the loss published with MAML. Its second derivative ignores that the parameters also determine what is
  sampled, an error of first order in the step size.
- `Dice` has the complete second derivative, with a high variance. `TMAML` reduces the variance without bias, and
  `LoadedDice` does so for any advantage.
- `lvc` drops the terms that couple different time steps. Like `Dice`, it is exact for one-step episodes; for longer
  ones it is a low-variance compromise.
- `vpg` with `PreUpdateCredit` is unbiased for any number of episodes. With the other losses, the credit would count
  exploration twice.

``tests/test_estimators.py`` enumerates a bandit and an MDP exactly, and states the error of each loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.distributions import Distribution
from metarl.returns import discounted_sum
from metarl.types import Batch

Loss = Callable[[Distribution, Batch], Tensor]

A_LOSS = "a loss, such as metarl.lvc or metarl.Clipped(0.2)"


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``x`` ``[H, N]`` over the real steps; 0 if there are none."""
    return (x * mask).sum() / mask.sum().clamp_min(1.0)


def vpg(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(log π · A)``: the score-function surrogate (Williams 1992), as in MAML (Finn et al. 2017, eq. 4)."""
    return -masked_mean(distribution.log_prob(batch.action) * batch.advantage, batch.mask)


def lvc(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / ⊥π · A)``: low-variance curvature (Rothfuss et al. 2019, arXiv:1810.06784, eq. 9).

    ``⊥`` stops the gradient. The value is ``-mean(A)`` and the gradient is that of `vpg`, but the second
    derivative includes the outer product of the scores.
    """
    return -masked_mean(magic_box(distribution.log_prob(batch.action)) * batch.advantage, batch.mask)


@dataclass(frozen=True)
class Dice:
    """The infinitely differentiable estimator DiCE (Foerster et al. 2018, arXiv:1802.05098).

    ``-Σ_t γ^t □(τ_t) r_t - Σ_t γ^t (1 - □(a_t)) V_t`` with ``□(τ) = exp(Σ log π - ⊥Σ log π)``. The sums in the
    exponent run over all actions up to t; the second term is the baseline term of the paper's eq. 11. The loss is
    divided by the number of real steps, to match the scale of the other losses. It uses rewards and values, not
    advantages.
    """

    reads_rewards: ClassVar[bool] = True
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Reject a discount outside [0, 1]."""
        _refuse_outside("discount", self.discount)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss; see the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        dependence = magic_box(_so_far(log_prob, 1.0)) * batch.reward
        baseline = (1.0 - magic_box(log_prob)) * batch.value
        return -masked_mean(discounts(log_prob, self.discount) * (dependence + baseline), batch.mask)


@dataclass(frozen=True)
class TMAML:
    """`Dice` with a control variate for second derivatives (Taming MAML, Liu et al. 2019).

    Adds ``Σ_t γ^t (1 - □(a_<t)) (1 - □(a_t)) V_t``. Its value and gradient are zero, and its second derivative has
    expectation zero. For every pair of an earlier action and the action at t, it subtracts the return that was expected
    from t on in any case. □(a_<t) contains *earlier* actions only; otherwise the expectation of the second derivative
    would be the Fisher matrix times V_t.
    """

    reads_rewards: ClassVar[bool] = True
    discount: float = 0.99

    def __post_init__(self) -> None:
        """Reject a discount outside [0, 1]."""
        _refuse_outside("discount", self.discount)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss; see the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        earlier = _so_far(log_prob, 1.0) - log_prob
        variate = (1.0 - magic_box(earlier)) * (1.0 - magic_box(log_prob)) * batch.value
        added = masked_mean(discounts(log_prob, self.discount) * variate, batch.mask)
        return Dice(self.discount)(distribution, batch) + added


@dataclass(frozen=True)
class LoadedDice:
    """DiCE for any advantage, trading bias for variance (Farquhar et al. 2019, arXiv:1909.10549, algorithm 1).

    ``-mean((□(w_t) - □(w_t - log π_t)) A_t)`` with ``w_t = Σ_{s ≤ t} λ^(t-s) log π_s``. Its value is zero. With λ = 1
    and advantages γ^t times (discounted return from t, minus value) it is equivalent to `TMAML`, and all its
    derivatives are unbiased. With λ = 0 it has the derivatives of `lvc`.
    """

    dependence: float = 1.0  # λ: how much an earlier action counts for a later advantage

    def __post_init__(self) -> None:
        """Reject a λ outside [0, 1]."""
        _refuse_outside("dependence", self.dependence)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss; see the class."""
        log_prob = distribution.log_prob(batch.action) * batch.mask
        inclusive = _so_far(log_prob, self.dependence)
        difference = magic_box(inclusive) - magic_box(inclusive - log_prob)
        return -masked_mean(difference * batch.advantage, batch.mask)


def _refuse_outside(name: str, value: float) -> None:
    checks.number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def _refuse_infinite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def reads_rewards(loss: Loss) -> bool:
    """Return whether a loss uses rewards instead of ``batch.advantage``, from its attribute ``reads_rewards``."""
    return bool(getattr(loss, "reads_rewards", False))


def refuse_rewards(loss: Loss, who: str) -> None:
    """Check that a loss uses advantages, because ``who`` changes only those.

    Raises:
        TypeError: it is not a loss, but for example a loss's class instead of an instance.
        ValueError: the loss, or a term of a sum, uses rewards.
    """
    checks.function("loss", loss, A_LOSS)
    if reads_rewards(loss):
        raise ValueError(
            f"{who} changes advantages, but {type(loss).__name__} uses rewards: expected a loss such as lvc or vpg"
        )


def discounts(like: Tensor, discount: float) -> Tensor:
    """Return ``γ^t`` as a column ``[H, 1]`` for a tensor ``[H, N]``."""
    time = torch.arange(like.shape[0], device=like.device, dtype=like.dtype)
    return discount ** time.unsqueeze(-1)


def _so_far(x: Tensor, factor: float) -> Tensor:
    """Return ``y_t = Σ_{s ≤ t} factor^(t-s) x_s`` ``[H, N]``, without cumsum, which is not deterministic on a GPU."""
    return discounted_sum(x.flip(0), factor).flip(0)


def magic_box(log_prob: Tensor) -> Tensor:
    """Return ``exp(x - ⊥x)``: its value is one, and its derivatives of every order are those of the score function."""
    return (log_prob - log_prob.detach()).exp()


def surrogate(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(π / π_sampling · A)``: TRPO's importance-weighted surrogate (eq. 14), used with a trust region."""
    return -masked_mean(importance(distribution, batch) * batch.advantage, batch.mask)


def importance(distribution: Distribution, batch: Batch) -> Tensor:
    """Return ``π / π_sampling`` of the actions taken, ``[H, N]``; 1 on padding, where the ratio might overflow."""
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    return log_ratio.masked_fill(batch.mask == 0.0, 0.0).exp()


@dataclass(frozen=True)
class Clipped:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7), relative to the sampling policy.

    At the sampling parameters its gradient is the policy gradient, so a single epoch is plain policy gradient.
    """

    epsilon: float = 0.2

    def __post_init__(self) -> None:
        """Reject a clip range that is not positive."""
        checks.number("epsilon", self.epsilon)
        if not self.epsilon > 0.0:
            raise ValueError(f"the clip range must be positive, got {self.epsilon}")

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the loss; see the class."""
        ratio = importance(distribution, batch)
        clipped = ratio.clamp(1.0 - self.epsilon, 1.0 + self.epsilon)
        return -masked_mean(torch.minimum(ratio * batch.advantage, clipped * batch.advantage), batch.mask)


def sample_kl(distribution: Distribution, batch: Batch) -> Tensor:
    """Return KL(sampling policy ‖ current policy) in nats, averaged over the sampled states.

    Only for outer losses. An adaptation step starts from the sampling policy, where the gradient of this KL is zero.
    """
    return masked_mean(batch.distribution.kl(distribution), batch.mask)


def negative_entropy(distribution: Distribution, batch: Batch) -> Tensor:
    """``-mean(H(π))`` in nats: a penalty on low entropy, to be added with a small weight."""
    return -masked_mean(distribution.entropy(), batch.mask)


@dataclass(frozen=True)
class WeightedSum:
    """``Σ w_i · loss_i``: for example, `Clipped` plus a penalty on `sample_kl`.

    Terms must not learn, because a sum is not a module and would hide their parameters from the learner. A learned
    loss can hold a sum instead: ``LearnedAdvantage(WeightedSum(...), network)``.
    """

    terms: tuple[tuple[float, Loss], ...]

    def __post_init__(self) -> None:
        """Reject anything but one or more pairs of a finite weight and a loss without parameters to learn."""
        pair = "a pair of a weight and a loss, such as (0.01, sample_kl)"
        if not self.terms:
            raise ValueError(f"terms: expected at least {pair}, got none")
        for term in self.terms:
            if not (isinstance(term, Sequence) and len(term) == 2 and isinstance(term[0], Real)):
                raise TypeError(f"term: expected {pair}, got {checks.told(term)}")
            checks.function("term", term[1], pair)
            _refuse_infinite("the weight of a term", term[0])
            if isinstance(term[1], nn.Module) and any(p.requires_grad for p in term[1].parameters()):
                raise ValueError(
                    "term: expected a loss without parameters to learn, which a sum would neither train nor save, got "
                    f"{checks.told(term[1])}; put the sum inside that loss"
                )

    @property
    def reads_rewards(self) -> bool:
        """Whether any term uses rewards."""
        return any(reads_rewards(loss) for _, loss in self.terms)

    def __call__(self, distribution: Distribution, batch: Batch) -> Tensor:
        """Return the weighted sum."""
        return torch.stack([weight * loss(distribution, batch) for weight, loss in self.terms]).sum()


def parts_of(loss: Any) -> Iterator[Any]:
    """Yield a loss and all losses inside it: the terms of sums, and what learned signals and the like wrap."""
    yield loss
    inside = [term for _, term in loss.terms] if isinstance(loss, WeightedSum) else []
    for one in [*inside, loss.loss] if hasattr(loss, "loss") else inside:
        yield from parts_of(one)


@dataclass(frozen=True)
class PreUpdateCredit:
    """Credit for the exploring policy: how well adapting on its data went (E-MAML, Stadie et al. 2018).

    ``-weight · Σ log π_θ(support) · outcome``, summed over all steps of the support: the score-function term that
    plain `vpg` meta-gradients lack (arXiv:1803.01118, eq. 4, second term). The outcome is one number per task: the
    adapted policy's return per step minus a baseline. The estimate is unbiased with weight 1 if the outer advantages
    are not normalised, otherwise with a weight of one over their standard deviation.

    The outcome gives the same credit to all episodes of a task. ``coverage`` is the weight of an additional credit to
    each single episode for its lead, that is, for how far its largest reward exceeds those of the task's other episodes
    (`metarl.exploration.leads`). It teaches episodes to explore where the others do not. This term is a `Clipped` loss,
    a mean over steps with clip range ``clip``: when a trace is replayed several times, an unclipped loss would drive
    the policy ever further away from the actions of episodes without a lead.
    """

    weight: float = 1.0
    coverage: float = 0.0
    clip: float = 0.2

    def __post_init__(self) -> None:
        """Reject values that are not finite numbers, and a clip range that is not positive."""
        for name in ("weight", "coverage", "clip"):
            checks.number(name, getattr(self, name))
            _refuse_infinite(name, getattr(self, name))
        if not self.clip > 0.0:
            raise ValueError(f"the clip range must be positive, got {self.clip}")

    def __call__(
        self, distribution: Distribution, support: Batch, outcome: Tensor, lead: Tensor | None = None
    ) -> Tensor:
        """Return the 0-d loss.

        Args:
            distribution: the action distribution, on the support, of the policy that sampled it.
            support: a support batch ``[H, N, ...]``.
            outcome: 0-d.
            lead: the lead of each episode ``[N]``, if there is a coverage term.
        """
        loss = -self.weight * (distribution.log_prob(support.action) * support.mask).sum() * outcome
        if lead is None:
            return loss
        leading = support._replace(advantage=lead.expand_as(support.mask))
        return loss + self.coverage * Clipped(self.clip)(distribution, leading)
