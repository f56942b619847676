"""Action distributions as plain tuples of tensors.

``torch.distributions`` validates arguments with data-dependent control flow and wraps them in objects. A tuple,
in contrast, passes through ``torch.func.vmap`` and can be stored in a batch. Noise is drawn outside, from an explicit
generator, and transformed into actions here, so that two policies can act on common noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOG_SQRT_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class Distribution(Protocol):
    """The interface of an action distribution, as used by losses and rollouts; rows may have any shape."""

    def sample(self, noise: Tensor) -> Tensor:
        """Return an action for each row, from noise drawn by the policy's ``noise``."""

    def mode(self) -> Tensor:
        """Return the most likely action of each row."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the joint log-probability of the whole action vector, one number per row."""

    def entropy(self) -> Tensor:
        """Return the entropy in nats, one number per row."""

    def kl(self, other: Distribution) -> Tensor:
        """Return KL(self ‖ other) in nats, one number per row."""

    def push(self, action: Tensor) -> Tensor:
        """Return each row's action as a vector ``[..., U]`` that is zero for doing nothing; a regressor for effects."""

    def deviation(self, action: Tensor) -> Tensor:
        """Return how each row's action deviates from the distribution: features ``[..., D]`` of mean 0 under self."""

    def mean_deviation(self, other: Distribution) -> Tensor:
        """Return the mean of `deviation` over actions of ``other``, ``[..., D]``."""

    def told(self) -> Tensor:
        """Return numbers ``[..., D]`` that identify each row's distribution, such as its parameters."""

    def information(self, weight: Tensor) -> Tensor:
        """Return the Fisher information of the network's outputs (logits or means), ``[A, A]``.

        It is the weighted mean over rows ``[R, A]``; the weights ``[R]`` must not all be zero.
        """


class Gaussian(NamedTuple):
    """Diagonal Gaussian; ``log_std`` broadcasts against ``mean``."""

    mean: Tensor  # [..., A]
    log_std: Tensor  # [..., A]

    def sample(self, noise: Tensor) -> Tensor:
        """Return ``mean + std * noise`` for standard normal noise of the mean's shape."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def mode(self) -> Tensor:
        """Return the mean, ``[..., A]``."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density, summed over the action's components, ``[...]``."""
        scaled = (action - self.mean) * (-self.log_std).exp()
        return (-0.5 * scaled.square() - self.log_std - LOG_SQRT_TWO_PI).sum(-1)

    def entropy(self) -> Tensor:
        """Return the differential entropy, ``[...]``."""
        return (self.log_std + 0.5 + LOG_SQRT_TWO_PI).expand_as(self.mean).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        """Return KL(self ‖ other) of two diagonal Gaussians, ``[...]``.

        Raises:
            TypeError: ``other`` is not a Gaussian.
        """
        if not isinstance(other, Gaussian):
            raise TypeError(f"expected a Gaussian to compare with, got {type(other).__name__}")
        variance_ratio = (2.0 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return 0.5 * (variance_ratio + shift - 1.0 - 2.0 * (self.log_std - other.log_std)).sum(-1)

    def push(self, action: Tensor) -> Tensor:
        """Return the action itself, ``[..., A]``."""
        return action

    def deviation(self, action: Tensor) -> Tensor:
        """Return z and z² - 1, ``[..., 2 A]``, z being each component's deviation from the mean in units of σ."""
        z = (action - self.mean) * (-self.log_std).exp()
        return torch.cat([z, z.square() - 1.0], -1)

    def mean_deviation(self, other: Distribution) -> Tensor:
        """See `Distribution.mean_deviation`.

        Raises:
            TypeError: ``other`` is not a Gaussian.
        """
        if not isinstance(other, Gaussian):
            raise TypeError(f"expected a Gaussian to compare with, got {type(other).__name__}")
        shift = (other.mean - self.mean) * (-self.log_std).exp()
        variance_ratio = (2.0 * (other.log_std - self.log_std)).exp()
        return torch.cat([shift, shift.square() + variance_ratio - 1.0], -1)

    def told(self) -> Tensor:
        """Return means and log standard deviations, ``[..., 2 A]``."""
        return torch.cat([self.mean, self.log_std.expand_as(self.mean)], -1)

    def information(self, weight: Tensor) -> Tensor:
        """Return the mean of ``diag(1 / σ²)``; see `Distribution.information`."""
        precision = (-2.0 * self.log_std).exp() * weight.unsqueeze(-1)
        return torch.diag_embed(precision.sum(0) / weight.sum())


def _cumulated(x: Tensor) -> Tensor:
    """Return ``y_i = Σ_{j ≤ i} x_j`` along the last axis."""
    if not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(-1)
    # cumsum has no deterministic implementation on a GPU
    ones = torch.ones(x.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
    return (x.double() @ ones.triu()).to(x.dtype)


class Categorical(NamedTuple):
    """Distribution over ``n`` discrete actions."""

    logits: Tensor  # [..., n], not necessarily normalised

    def sample(self, noise: Tensor) -> Tensor:
        """Map uniform noise ``[...]`` in [0, 1) to int64 actions ``[...]`` by inverse transform sampling."""
        if self.logits.shape[-1] == 2:  # one sigmoid instead of softmax and cumulative sum: the hot path of CartPole
            return (noise < torch.sigmoid(self._second_over_first())).long()
        below = _cumulated(self.logits.softmax(-1))[..., :-1]
        return (noise.unsqueeze(-1) >= below).sum(-1)

    def mode(self) -> Tensor:
        """Return the most likely action, int64 ``[...]``."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probability of integer actions ``[...]``."""
        if self.logits.shape[-1] == 2:  # a sigmoid here as well, because `gather` cannot be vectorised
            return logsigmoid(self._second_over_first() * (2 * action - 1))
        return self.logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the Shannon entropy, ``[...]``."""
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        """Return KL(self ‖ other), ``[...]``.

        Raises:
            TypeError: ``other`` is not a Categorical.
        """
        if not isinstance(other, Categorical):
            raise TypeError(f"expected a Categorical to compare with, got {type(other).__name__}")
        log_p = self.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - other.logits.log_softmax(-1))).sum(-1)

    def push(self, action: Tensor) -> Tensor:
        """Return one-hot minus 1/n, ``[..., n]``. No action does nothing, so the mean of all actions counts as zero."""
        return self._one_hot(action) - 1.0 / self.logits.shape[-1]

    def deviation(self, action: Tensor) -> Tensor:
        """Return one-hot minus the probabilities, ``[..., n]``."""
        return self._one_hot(action) - self.logits.softmax(-1)

    def mean_deviation(self, other: Distribution) -> Tensor:
        """See `Distribution.mean_deviation`.

        Raises:
            TypeError: ``other`` is not a Categorical.
        """
        if not isinstance(other, Categorical):
            raise TypeError(f"expected a Categorical to compare with, got {type(other).__name__}")
        return other.logits.softmax(-1) - self.logits.softmax(-1)

    def told(self) -> Tensor:
        """Return the probabilities, ``[..., n]``."""
        return self.logits.softmax(-1)

    def information(self, weight: Tensor) -> Tensor:
        """Return the mean of ``diag(p) - p pᵀ``; see `Distribution.information`."""
        p = self.logits.softmax(-1)
        weighted = p * (weight / weight.sum()).unsqueeze(-1)
        return torch.diag_embed(weighted.sum(0)) - weighted.mT @ p

    def _second_over_first(self) -> Tensor:
        """Return the log-odds of the second of two actions, ``[...]``."""
        return self.logits[..., 1] - self.logits[..., 0]

    def _one_hot(self, action: Tensor) -> Tensor:
        chosen = action.unsqueeze(-1) == torch.arange(self.logits.shape[-1], device=action.device)
        return chosen.to(self.logits.dtype)  # torch's one_hot does not work under vmap
