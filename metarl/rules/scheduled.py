"""Differentiable learning-rate schedules: a small model that observes the steps and scales their length.

``θ' = θ - α · exp(R tanh(s_k)) · g``. The rate α is that of the wrapped rule, learned or fixed. The schedule's output
``s_k``, one number per parameter tensor, multiplies it by a factor between ``exp(-R)`` and ``exp(R)``. The bound is
smooth, so that the schedule always gets a gradient; an output of zero leaves the wrapped rule unchanged.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metarl import checks
from metarl.rules.base import RuleState, Step, UpdateRule, instance
from metarl.rules.networks import LSTMCell, linear, zero_head
from metarl.trees import Tree, subtree, tree_map, with_prefix

SIGNALS = 5  # numbers that `signals` returns per parameter tensor


class Schedule(nn.Module, ABC):
    """Maps the signals of a step to one number for each of P parameter tensors."""

    def init(self, count: int, like: Tensor) -> RuleState:
        """Return the initial state for ``count`` = P tensors, with dtype and device of ``like``; empty by default."""
        del count, like
        return {}

    @abstractmethod
    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Return ``s_k`` ``[P]`` and the next state.

        Args:
            signals: ``[P, SIGNALS]``, see `signals`.
            step: k, 0-d, starting at 0.
            state: from `init` or from the previous call.
        """


class Scheduled(UpdateRule):
    """Scales a rule's updates by a schedule."""

    def __init__(self, rule: UpdateRule, schedule: Schedule, *, reach: float = math.log(10.0)) -> None:
        """``reach`` is R, the largest change of the rate on a log scale (by default a factor of ten).

        Raises:
            ValueError: ``reach`` is not positive and finite.
        """
        super().__init__()
        if not 0.0 < reach < math.inf:
            raise ValueError(f"a schedule's reach must be positive and finite, got {reach}")
        checks.of_type("schedule", schedule, Schedule, "a Schedule, such as MLPSchedule(generator=...)")
        self.rule, self.schedule, self.reach = instance(rule), schedule, reach

    def init(self, params: Mapping[str, Tensor]) -> RuleState:
        """Return the states of rule and schedule, the step counter, and previous updates of zero."""
        leaf = next(iter(params.values()))
        states = with_prefix("rule", self.rule.init(params))
        states |= with_prefix("schedule", self.schedule.init(len(params), leaf))
        states |= with_prefix("last", tree_map(torch.zeros_like, params))
        return {"step": leaf.new_zeros(()), **states}

    def update(self, step: Step, state: RuleState) -> tuple[Tree, RuleState]:
        """Apply the equation of the module docstring; see `UpdateRule.update`."""
        updates, own = self.rule.update(step, subtree(state, "rule"))
        seen = signals(step, subtree(state, "last"), state["step"])
        output, memory = self.schedule(seen, state["step"], subtree(state, "schedule"))
        factors = (self.reach * output.tanh()).exp()
        scaled = {name: factor * updates[name] for name, factor in zip(step.grads, factors.unbind(), strict=True)}
        states = with_prefix("rule", own) | with_prefix("schedule", memory) | with_prefix("last", scaled)
        return scaled, {"step": state["step"] + 1, **states}


def signals(step: Step, last: Tree, count: Tensor) -> Tensor:
    """Return the training state as a schedule sees it, ``[P, 5]``, with entries of order one; detached.

    For each parameter tensor: sign and logarithm of the loss, logarithm of the gradient's root mean square, cosine
    between the last update and the downhill direction (zero at the first step), and the step index.

    The result is detached because the logarithm of a small gradient has a huge derivative, which swamped the
    meta-gradient and made the initialization diverge. (Andrychowicz et al. 2016 drop these derivatives, too.)
    """
    loss = step.loss
    shared = [loss.tanh(), loss.square().add(1e-12).log() / 10, count / 10]
    rows = []
    for name, g in step.grads.items():
        size = g.square().mean().add(1e-12)
        cosine = -(g * last[name]).sum() / (g.square().sum() * last[name].square().sum() + 1e-24).sqrt()
        rows.append(torch.stack([shared[0], shared[1], size.log() / 10, cosine, shared[2]]))
    return torch.stack(rows).detach()


class MLPSchedule(Schedule):
    """A small network on the signals, shared by all parameter tensors."""

    def __init__(self, *, units: int = 16, generator: torch.Generator) -> None:
        """Create one hidden layer of ``units``; the output starts at zero."""
        super().__init__()
        self.hidden, self.head = linear(SIGNALS, units, generator), zero_head(units)

    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Return ``s_k`` and the next state; see `Schedule.forward`."""
        del step
        return self.head(self.hidden(signals).tanh()).squeeze(-1), state


class LSTMSchedule(Schedule):
    """An LSTM over the steps (Hochreiter & Schmidhuber 1997); weights are shared by all parameter tensors."""

    def __init__(self, *, units: int = 16, generator: torch.Generator) -> None:
        """Create an LSTM with ``units`` per parameter tensor; the output starts at zero."""
        super().__init__()
        self.cell, self.head = LSTMCell(SIGNALS, units, generator=generator), zero_head(units)

    def init(self, count: int, like: Tensor) -> RuleState:
        """Return a zero state ``[P, units]``."""
        return self.cell.init(count, like)

    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Return ``s_k`` and the next state; see `Schedule.forward`."""
        del step
        hidden, state = self.cell(signals, state)
        return self.head(hidden).squeeze(-1), state


class GPSchedule(Schedule):
    """Posterior mean of a Gaussian process over the step index (Rasmussen & Williams 2006, eq. 2.25).

    ``s_k = k(k, Z) (K(Z, Z) + σ² I)⁻¹ u`` at inducing steps Z, with learned values ``u`` for every parameter tensor
    and a learned length scale. It is smooth in k and returns to zero far from the inducing steps.
    """

    def __init__(self, tensors: int, *, steps: int, length: float = 2.0, noise: float = 1e-3) -> None:
        """Create a process for each of ``tensors`` parameter tensors.

        Args:
            tensors: P.
            steps: number of inducing steps 0, 1, ...: the number of adaptation steps in training.
            length: the initial length scale, in steps.
            noise: σ².

        Raises:
            ValueError: a value is not positive and finite.
        """
        super().__init__()
        if not (tensors >= 1 and steps >= 1 and 0.0 < length < math.inf and 0.0 < noise < math.inf):
            raise ValueError(
                f"expected positive, finite tensors, steps, length and noise, got {(tensors, steps, length, noise)}"
            )
        self.values = nn.Parameter(torch.zeros(tensors, steps))
        self.log_length = nn.Parameter(torch.tensor(math.log(length)))
        self.noise = noise

    def init(self, count: int, like: Tensor) -> RuleState:
        """Return an empty state.

        Raises:
            ValueError: ``count`` is not the number of tensors that the schedule was made for.
        """
        if count != len(self.values):
            raise ValueError(
                f"expected a GPSchedule of {count} tensors, as many as the policy's, got {len(self.values)}"
            )
        return super().init(count, like)

    def kernel(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the squared-exponential kernel matrix, ``[len(left), len(right)]``."""
        apart = (left.unsqueeze(-1) - right) / self.log_length.exp()
        return (-0.5 * apart.square()).exp()

    def forward(self, signals: Tensor, step: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Return ``s_k`` and the next state; see `Schedule.forward`."""
        del signals
        count = self.values.shape[-1]
        at = torch.arange(count, dtype=self.values.dtype, device=self.values.device)
        eye = torch.eye(count, dtype=at.dtype, device=at.device)
        weights = torch.linalg.solve(self.kernel(at, at) + self.noise * eye, self.values.mT)
        return (self.kernel(step.reshape(1), at) @ weights).squeeze(0), state
