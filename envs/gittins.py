"""What the best player can expect of a Bernoulli bandit whose probabilities are uniform in [0, 1].

After s pay-outs in m pulls, an arm's probability has the posterior Beta(1 + s, 1 + m - s), and the next
pull pays with p = (1 + s) / (2 + m). The exact optimum follows by dynamic programming over the posteriors
of all arms, `bayes_value`, whose number explodes. An index looks at one arm at a time: it is the sure
payment per pull l for which a player with r pulls left, who may change over to the sure payment for good
at any time, does not care whether to pull. With G the gain over the sure payment, and discount g,

    G_r(s, m, l) = p - l + g (p max(0, G_{r-1}(s+1, m+1, l)) + (1 - p) max(0, G_{r-1}(s, m+1, l)))

falls in l, and the index is its root. With r to infinity and g < 1, pulling the arm of the largest index
is optimal (Gittins & Jones 1974; Gittins 1979, "Bandit processes and dynamic allocation indices"). With
g = 1 and r the pulls left it is not quite, but nearly (Lattimore 2016, arXiv:1511.06014).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .checks import whole

HALVINGS = 24  # of the interval that holds an index: error below 1e-7


def bayes_value(arms: int, pulls: int) -> float:
    """Largest expected sum of ``pulls`` pay-outs that a player who knows only the prior can reach, exactly.

    Works through all multisets of posteriors: seconds for 15 pulls of any number of arms or 60 of two.
    Arms beyond the number of pulls change nothing.

    Raises:
        TypeError: a number that is no integer.
        ValueError: no arms or no pulls.
    """
    arms, pulls = whole("arms", arms), whole("pulls", pulls)

    @functools.cache
    def value(tried: tuple[tuple[int, int], ...]) -> float:
        """Of what is left to pull, after ``(pay-outs, blanks)`` from every arm tried, sorted."""
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
    """Index of arms with posteriors Beta(won, lost) and ``pulls`` pulls left, float64 of the arguments' shape.

    For the index of the discounted game without end, take so many pulls that ``discount ** pulls``
    vanishes. Time grows as the square of ``pulls``.

    Args:
        won: first parameter of the posterior, the prior's 1 included; any positive numbers.
        lost: second parameter.
        pulls: how many pulls are left, this one included.
        discount: of each further pull, in (0, 1].

    Raises:
        TypeError: ``pulls`` is no integer.
        ValueError: no pulls, or a discount outside (0, 1].
    """
    pulls = whole("pulls", pulls)
    if not 0 < discount <= 1:
        raise ValueError(f"discount: expected a number within (0, 1], got {discount}; 1 does not discount")
    won, lost = won.double().unsqueeze(-1), lost.double().unsqueeze(-1)
    low = won / (won + lost)
    high = torch.ones_like(low)
    luck = torch.arange(pulls, dtype=torch.float64, device=low.device)  # pay-outs among further pulls
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
    """Undiscounted indices of every posterior that ``pulls`` pulls can lead to.

    All roots at once: G is computed for ``levels`` sure payments and interpolated between them, which with
    128 of them errs by less than 0.001. 100 pulls take half a second.

    Args:
        pulls: of the whole game.
        levels: how many sure payments between 0 and 1.

    Returns:
        Float64 ``[pulls + 1, pulls, pulls]``: the index at ``[r, m, s]`` with r pulls left, of an arm with s
        pay-outs in m pulls; NaN where ``s > m`` or ``m + r > pulls``.

    Raises:
        TypeError: a number that is no integer.
        ValueError: no pulls, or no levels.
    """
    pulls, levels = whole("pulls", pulls), whole("levels", levels)
    sure = torch.linspace(0, 1, levels + 1, dtype=torch.float64).reshape(-1, 1, 1)
    made = torch.arange(pulls, dtype=torch.float64)
    table = torch.full((pulls + 1, pulls, pulls), torch.nan, dtype=torch.float64)
    gain = torch.zeros(levels + 1, pulls + 1, pulls + 1, dtype=torch.float64)
    for left in range(1, pulls + 1):
        most = pulls - left + 1  # this many values of m, and of s, can occur
        chance = (1 + made[:most]) / (2 + made[:most, None])  # [m, s]; those with s > m are nonsense and unread
        later = gain.clamp_min(0)[:, 1:]
        gain = chance - sure + torch.lerp(later[:, :most, :most], later[:, :most, 1 : most + 1], chance)
        table[left, :most, :most] = _root(sure, gain)
    return table.masked_fill(made > made[:, None], torch.nan)


def _root(sure: Tensor, gain: Tensor) -> Tensor:
    """Where the falling ``gain`` ``[levels + 1, m, s]`` crosses zero, by linear interpolation; ``[m, s]``."""
    last = ((gain >= 0).sum(0, keepdim=True) - 1).clamp(0, len(sure) - 2)
    above, below = gain.gather(0, last)[0], gain.gather(0, last + 1)[0]
    start = sure.flatten()[last[0]]
    return start + above / (above - below) / (len(sure) - 1)
