"""A network that maps single transitions to numbers, used by inner losses with a learned training signal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from metarl.dynamics import effects, successors
from metarl.objectives import symlog
from metarl.packing import on_live
from metarl.rules.networks import linear, zero_head
from metarl.types import Batch


class TransitionNetwork(nn.Module):
    """Maps every step's ``(s, a, s' - s, r, end)`` and optional further inputs to a number, which is zero at first.

    The change s' - s is the sum of the action's effect and of what would have happened anyway. With ``effects``, the
    action's effect alone is an additional input. It is the sum of the immediate effect and the effect one step later,
    estimated by a linear fit to the task's episodes, for which few steps suffice (`metarl.dynamics.effects`).
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        *,
        discrete: bool,
        more: int = 0,
        effects: bool = False,
        hidden: Sequence[int] = (32, 32),
        generator: torch.Generator,
    ) -> None:
        """Build the network.

        Args:
            observations: O, size of an observation.
            actions: A, the number of discrete actions or the size of a continuous action; 0 hides actions.
            discrete: whether actions are discrete.
            more: number of further inputs per step.
            effects: whether the actions' effects are inputs.
            hidden: units of the hidden layers; without any, the network is linear.
            generator: draws the weights.
        """
        super().__init__()
        self.actions, self.discrete, self.effects = actions, discrete, effects
        self.inputs = (2 + effects) * observations + actions + 2 + more
        sizes = (self.inputs, *hidden)
        self.layers = nn.ModuleList(linear(*size, generator) for size in pairwise(sizes))
        self.head = zero_head(sizes[-1])

    def forward(self, batch: Batch, *more: Tensor) -> Tensor:
        """Return ``[H, N]`` for a batch ``[H, N, ...]`` of one task and its further inputs, ``[H, N]`` each.

        Raises:
            ValueError: other sizes of observations or actions, or another number of further inputs, than declared.
        """
        seen = symlog(torch.cat([self.transitions(batch), *(one.unsqueeze(-1) for one in more)], -1))
        if seen.shape[-1] != self.inputs:
            raise ValueError(
                f"expected {self.inputs} numbers per step, as declared, got {seen.shape[-1]}, {len(more)} of them "
                "further inputs; build the network with the sizes of observations and actions, and with as many more="
            )
        judged: Tensor = on_live(self.judge, batch, seen)
        return judged

    def judge(self, seen: Tensor) -> Tensor:
        """Return the network's output ``[...]`` for steps with features ``[..., F]``."""
        for layer in self.layers:
            seen = layer(seen).tanh()
        judged: Tensor = self.head(seen)
        return judged.squeeze(-1)

    def transitions(self, batch: Batch) -> Tensor:
        """Return the features of every step, ``[H, N, 2 O + A + 2]``, or ``[H, N, 3 O + A + 2]`` with effects.

        The state after an episode's last step is unknown, as a batch holds no observations after the end; the change is
        then 0 and ``end`` is 1.

        Raises:
            ValueError: continuous actions whose size differs from ``actions``.
        """
        seen = batch.observation
        after, known = successors(batch)
        change = (after - seen) * known.unsqueeze(-1)
        action = batch.action
        if self.discrete:
            action = action.unsqueeze(-1) == torch.arange(
                self.actions, device=action.device
            )  # one_hot does not work under vmap
        elif self.actions not in (0, action.shape[-1]):
            raise ValueError(f"expected actions of size {self.actions}, as declared, got {action.shape[-1]}")
        action = action[..., : self.actions]
        told = [seen, action.to(seen.dtype), change, torch.stack([batch.reward, 1.0 - known], -1)]
        return torch.cat([*told, effects(batch)] if self.effects else told, -1)
