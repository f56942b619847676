"""A schedule learned by reinforcement, without a gradient through the inner loop.

The schedule is itself an agent. At every step it sees the training state, draws a change of log-rate for each
parameter tensor from a Gaussian policy, and is rewarded by what adapting gained. Its meta-gradient is the
score-function estimate (REINFORCE, Williams 1992), as for step sizes in Daniel et al. (2016) and Xu et al. (2017,
arXiv:1705.11159).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metarl.rules.base import DRAWN, NOISE, ODDS, RuleState
from metarl.rules.networks import linear, zero_head
from metarl.rules.scheduled import SIGNALS, Schedule


class RLSchedule(Schedule):
    """``s_k ~ N(m(signals), σ²)`` with a small network m and a learned σ, rewarded by what adapting gained.

    The draws are data: replay uses the same changes and differentiates their likelihood now relative to their
    likelihood when they were drawn. In later epochs, when the schedule has changed, this ratio keeps it from moving
    without bound away from changes that did not pay.

    Without noise, as in evaluation, the schedule outputs its mean. To drop the second derivatives of the scheduled rule
    as well, wrap it in `FirstOrder`.
    """

    def __init__(self, *, steps: int, units: int = 16, spread: float = 0.2, generator: torch.Generator) -> None:
        """Create a network whose mean starts at zero.

        Args:
            steps: number of steps with noise; later steps use the mean.
            units: width of the hidden layer.
            spread: the initial σ, before the bound of `Scheduled` is applied.
            generator: draws the initial weights.

        Raises:
            ValueError: ``steps`` is below 1, or ``spread`` is not positive and finite.
        """
        super().__init__()
        if steps < 1 or not 0.0 < spread < math.inf:
            raise ValueError(f"expected at least one step and a positive, finite spread, got {(steps, spread)}")
        self.steps = steps
        self.hidden, self.head = linear(SIGNALS, units, generator), zero_head(units)
        self.log_std = nn.Parameter(torch.tensor(math.log(spread)))

    def init(self, count: int, like: Tensor) -> RuleState:
        """Return zero noise ``[steps, P]``, zeros for the draws ``[steps, P + 2]``, and odds of one.

        A row of draws ends with their log-probability when they were made and with a 1 that marks the row as filled.
        """
        noise, drawn = like.new_zeros(self.steps, count), like.new_zeros(self.steps, count + 2)
        return {NOISE: noise, DRAWN: drawn, ODDS: like.new_ones(())}

    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Return this step's draws (in a replay, the recorded ones) and the next state; see `Schedule.forward`."""
        mean = self.head(self.hidden(signals.detach()).tanh()).squeeze(-1)
        at = torch.arange(self.steps, dtype=step.dtype, device=step.device) == step
        noise, before = ((state[name] * at.unsqueeze(-1)).sum(0) for name in (NOISE, DRAWN))
        fresh = mean + self.log_std.exp() * noise
        known = before[-1] > 0.0
        drawn = torch.where(known, before[:-2], fresh).detach()
        surprise = (drawn - mean) / self.log_std.exp()
        log_prob = (-0.5 * surprise.square() - self.log_std).sum()
        then = torch.where(known, before[-2], log_prob).detach()
        entry = torch.cat([drawn, torch.stack([then, torch.ones_like(then)])])
        memory = torch.where(at.unsqueeze(-1), entry, state[DRAWN])
        odds = torch.where(at.any(), (log_prob - then).exp(), 1.0)
        return drawn, {**state, DRAWN: memory, ODDS: state[ODDS] * odds}
