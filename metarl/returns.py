"""Discounted returns and generalised advantage estimation along the time axis (the last but one).

All episodes of a batch start together and are padded after their end. Discounted sums are therefore computed for all
episodes at once, in a handful of operations, and are differentiable in the discount.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def discounted_sum(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return ``y_t = Σ_{s ≥ t} factor^(s-t) x_s`` along the last but one axis.

    Computed by doubling: the sum over the next r steps plus the sum over the r steps after them is the sum over 2 r
    steps.

    Args:
        x: ``[..., H, N]``, zero on padding.
        factor: in [0, 1]; a 0-d tensor may carry a gradient.

    Returns:
        ``[..., H, N]``.
    """
    # the weight of what lies `reach` steps ahead; created on the device, as a copy from the host would synchronise
    weight = factor.to(x) if isinstance(factor, Tensor) else torch.full((), factor, dtype=x.dtype, device=x.device)
    reach = 1
    while reach < x.shape[-2]:
        x = torch.addcmul(x, pad(x[..., reach:, :], (0, 0, 0, reach)), weight)
        weight, reach = weight.square(), 2 * reach
    return x


def gae(
    reward: Tensor,
    value: Tensor,
    last_value: Tensor,
    *,
    terminated: Tensor,
    mask: Tensor,
    discount: float | Tensor,
    decay: float | Tensor,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    ``δ_t = r_t + γ V(s_{t+1}) - V(s_t)``, ``A_t = Σ_l (γλ)^l δ_{t+l}``. After a terminated step the next value
    is zero; an episode cut off by the time limit bootstraps from ``last_value``.

    Args:
        reward: ``[..., H, N]``.
        value: V(s_t), ``[..., H, N]``.
        last_value: V of the state after the last step, ``[..., N]``; zero to disable bootstrapping.
        terminated: ``[..., H, N]`` bool.
        mask: ``[..., H, N]``, 1 on real steps.
        discount: γ.
        decay: λ.

    Returns:
        Advantages ``[..., H, N]``, zero on padding.
    """
    next_value = torch.cat([value[..., 1:, :], last_value.unsqueeze(-2)], dim=-2)
    delta = reward + discount * next_value.masked_fill(terminated, 0.0) - value
    return discounted_sum(delta * mask, discount * decay) * mask
