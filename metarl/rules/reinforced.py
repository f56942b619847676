"""A schedule learned by reinforcement: no gradient passes through the inner loop.

The schedule is itself an agent. At every step it sees the training state, draws a change of log-rate for each
parameter tensor from a Gaussian policy, and is paid what adapting gained. Its meta-gradient is the score function's
(REINFORCE, Williams 1992), as for step sizes in Daniel et al. (2016) and Xu et al. (2017, arXiv:1705.11159).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.rules.base import DRAWN, LOG_PROB, NOISE, RuleState
from metarl.rules.networks import linear, zero_head
from metarl.rules.scheduled import SIGNALS, Schedule


class RLSchedule(Schedule):
    """``s_k ~ N(m(signals), σ²)`` with a small network m and a learned σ; scored by what adapting gained.

    What was drawn is data: replay sees the same changes and differentiates their log-probability only, also where the
    schedule has changed since, as in later epochs. Without noise, as in evaluation, the schedule acts by its mean. Wrap
    the scheduled rule in `FirstOrder` to leave out the second derivatives of the wrapped rule, too.
    """

    def __init__(self, *, steps: int, units: int = 16, spread: float = 0.2, generator: torch.Generator) -> None:
        """Start with changes about zero.

        Args:
            steps: draw noise for this many steps; later ones act by the mean.
            units: in one hidden layer.
            spread: the first σ, before the bound of `Scheduled`.
            generator: draws the weights.

        Raises:
            ValueError: no step, or a spread that is not positive.
        """
        super().__init__()
        if steps < 1 or not spread > 0.0:
            raise ValueError(f"expected at least one step and a positive spread, got {(steps, spread)}")
        self.steps = steps
        self.hidden, self.head = linear(SIGNALS, units, generator), zero_head(units)
        self.log_std = nn.Parameter(torch.tensor(math.log(spread)))

    def init(self, count: int, like: Tensor) -> RuleState:
        """No noise ``[steps, P]``, nothing drawn ``[steps, P + 1]``, and the log-probability of that."""
        zeros = like.new_zeros(self.steps, count)
        return {NOISE: zeros, DRAWN: like.new_zeros(self.steps, count + 1), LOG_PROB: zeros.sum()}

    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """See `Schedule.forward`."""
        mean = self.head(self.hidden(signals.detach()).tanh()).squeeze(-1)
        at = torch.arange(self.steps, dtype=step.dtype, device=step.device) == step
        noise, before = ((state[name] * at.unsqueeze(-1)).sum(0) for name in (NOISE, DRAWN))
        fresh = mean + self.log_std.exp() * noise
        drawn = torch.where(before[-1] > 0.0, before[:-1], fresh).detach()
        surprise = (drawn - mean) / self.log_std.exp()
        log_prob = (-0.5 * surprise.square() - self.log_std).sum()
        entry = torch.cat([drawn, torch.ones_like(drawn[:1])])  # that it was drawn stands in the last column
        memory = torch.where(at.unsqueeze(-1), entry, state[DRAWN])
        return drawn, {**state, DRAWN: memory, LOG_PROB: state[LOG_PROB] + log_prob * at.any()}
