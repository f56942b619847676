"""Optimal play of a Bernoulli bandit whose probabilities are uniform in [0, 1]: exact values and Gittins indices.

After s pay-outs in m pulls, an arm's probability has the posterior Beta(1 + s, 1 + m - s), and the next pull pays with
probability p = (1 + s) / (2 + m). `bayes_value` computes the exact optimum by dynamic programming over the posteriors
of all arms, but their number explodes.

A Gittins index considers one arm at a time. It is the certain payment per pull, l, that makes a player indifferent to
pulling the arm, if the player has r pulls left and may switch permanently to the certain payment at any time. With G
the gain over the certain payment and g the discount,

    G_r(s, m, l) = p - l + g (p max(0, G_{r-1}(s+1, m+1, l)) + (1 - p) max(0, G_{r-1}(s, m+1, l)))

decreases in l, and the index is its root. For r to infinity and g < 1, pulling the arm with the largest index is
optimal (Gittins & Jones 1974; Gittins 1979, "Bandit processes and dynamic allocation indices"). For g = 1 and r the
number of pulls left, it is nearly but not exactly optimal (Lattimore 2016, arXiv:1511.06014).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .checks import whole

HALVINGS = 24  # bisection steps on the interval that contains an index: error below 1e-7


def bayes_value(arms: int, pulls: int) -> float:
    """Return the exact largest expected sum of ``pulls`` pay-outs for a player who knows only the prior.

    Enumerates all multisets of posteriors, which takes seconds for 15 pulls with any number of arms or 60 pulls with
    two arms. Arms beyond the number of pulls make no difference.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is below 1.
    """
    arms, pulls = whole("arms", arms), whole("pulls", pulls)

    @functools.cache
    def value(tried: tuple[tuple[int, int], ...]) -> float:
        """Return the value of the remaining pulls, given the sorted ``(pay-outs, blanks)`` of every arm tried."""
        if sum(won + lost for won, lost in tried) == pulls:
            return 0.0
        best = 0.0
        for arm in set(tried) | ({(0, 0)} if len(tried) < arms else set()):
            others = list(tried)
            if arm in others:
                others.remove(arm)
            won, lost = arm
            chance = (1 + won) / (2 + won + lost)
            luckily, unluckily = (tuple(sorted([*others, new])) for new in ((won + 1, lost), (won, lost + 1)))
            best = max(best, chance * (1 + value(luckily)) + (1 - chance) * value(unluckily))
        return best

    return value(())


def gittins_index(won: Tensor, lost: Tensor, pulls: int, discount: float = 1.0) -> Tensor:
    """Return the index of arms with posteriors Beta(won, lost), float64 in the shape of the arguments.

    For the index of the infinite discounted game, choose ``pulls`` so large that ``discount ** pulls`` is negligible.
    The time grows with the square of ``pulls``.

    Args:
        won: first parameter of the posterior, including the prior's 1; any positive numbers.
        lost: second parameter.
        pulls: number of pulls left, including the next one.
        discount: discount factor per pull, in (0, 1].

    Raises:
        TypeError: ``pulls`` is not an integer.
        ValueError: ``pulls`` is below 1, or ``discount`` is outside (0, 1].
    """
    pulls = whole("pulls", pulls)
    if not 0 < discount <= 1:
        raise ValueError(f"discount: expected a number within (0, 1], got {discount}; 1 does not discount")
    won, lost = won.double().unsqueeze(-1), lost.double().unsqueeze(-1)
    low = won / (won + lost)
    high = torch.ones_like(low)
    luck = torch.arange(pulls, dtype=torch.float64, device=low.device)  # number of pay-outs in the further pulls
    for _ in range(HALVINGS):
        sure = (low + high) / 2
        gain = low.new_zeros(*low.shape[:-1], pulls + 1)
        for further in reversed(range(pulls)):
            chance = (won + luck[: further + 1]) / (won + lost + further)
            later = gain.clamp_min(0)
            gain = chance - sure + discount * torch.lerp(later[..., :-1], later[..., 1:], chance)
        low, high = torch.where(gain >= 0, sure, low), torch.where(gain >= 0, high, sure)
    return ((low + high) / 2).squeeze(-1)


def gittins_table(pulls: int, levels: int = 128) -> Tensor:
    """Return the undiscounted indices of every posterior that can occur in a game of ``pulls`` pulls.

    Finds all roots at once: G is computed for ``levels`` certain payments and interpolated between them. The table is
    slightly too high, most of all for arms that have always paid: with 128 levels by less than 0.0025 for 30 pulls and
    0.005 for 100, which take half a second.

    Args:
        pulls: number of pulls in the whole game.
        levels: number of intervals between certain payments from 0 to 1.

    Returns:
        Float64 ``[pulls + 1, pulls, pulls]``: at ``[r, m, s]``, the index of an arm with s pay-outs in m pulls when r
        pulls are left; NaN where ``s > m`` or ``m + r > pulls``.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is below 1.
    """
    pulls, levels = whole("pulls", pulls), whole("levels", levels)
    sure = torch.linspace(0, 1, levels + 1, dtype=torch.float64).reshape(-1, 1, 1)
    made = torch.arange(pulls, dtype=torch.float64)
    table = torch.full((pulls + 1, pulls, pulls), torch.nan, dtype=torch.float64)
    gain = torch.zeros(levels + 1, pulls + 1, pulls + 1, dtype=torch.float64)
    for left in range(1, pulls + 1):
        most = pulls - left + 1  # number of values that m and s can take
        chance = (1 + made[:most]) / (2 + made[:most, None])  # [m, s]; entries with s > m are meaningless and not used
        later = gain.clamp_min(0)[:, 1:]
        gain = chance - sure + torch.lerp(later[:, :most, :most], later[:, :most, 1 : most + 1], chance)
        table[left, :most, :most] = _root(sure, gain)
    return table.masked_fill(made > made[:, None], torch.nan)


def _root(sure: Tensor, gain: Tensor) -> Tensor:
    """Return where the decreasing ``gain`` ``[levels + 1, m, s]`` crosses zero, interpolated linearly; ``[m, s]``."""
    last = ((gain >= 0).sum(0, keepdim=True) - 1).clamp(0, len(sure) - 2)
    above, below = gain.gather(0, last)[0], gain.gather(0, last + 1)[0]
    start = sure.flatten()[last[0]]
    return start + above / (above - below) / (len(sure) - 1)
