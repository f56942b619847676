"""A network that judges single transitions, for inner losses that learn what to make of them."""

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
    """A number for every step, from ``(s, a, s' - s, r, end)`` and what else is given; zero until it has learned.

    The change s' - s is the sum of what the action did and of what would have happened anyway. With ``effects`` the
    network sees the action's part by itself, too: what it does at once and a step later, taken together, by a linear
    fit to the task's episodes, for which few steps are enough (`metarl.dynamics.effects`).
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
        """Draw the weights.

        Args:
            observations: O, size of an observation.
            actions: how many there are to choose from, or the size A of a continuous action; 0 hides it.
            discrete: which of the two.
            more: further numbers a step.
            effects: whether to see what actions do by themselves.
            hidden: units of the hidden layers; none is a linear judgement.
            generator: draws the weights.
        """
        super().__init__()
        self.actions, self.discrete, self.effects = actions, discrete, effects
        sizes = ((2 + effects) * observations + actions + 2 + more, *hidden)
        self.layers = nn.ModuleList(linear(*size, generator) for size in pairwise(sizes))
        self.head = zero_head(sizes[-1])

    def forward(self, batch: Batch, *more: Tensor) -> Tensor:
        """``[H, N]`` for a batch ``[H, N, ...]`` of one task, and as many further ``[H, N]`` as were announced."""
        seen = symlog(torch.cat([self.transitions(batch), *(one.unsqueeze(-1) for one in more)], -1))
        judged: Tensor = on_live(self.judge, batch, seen)
        return judged

    def judge(self, seen: Tensor) -> Tensor:
        """``[...]`` for steps in numbers ``[..., F]``."""
        for layer in self.layers:
            seen = layer(seen).tanh()
        judged: Tensor = self.head(seen)
        return judged.squeeze(-1)

    def transitions(self, batch: Batch) -> Tensor:
        """Every step in numbers, ``[H, N, 2 O + A + 2]``, and O more with effects; A is 0 where actions are hidden.

        The next state of an episode's last step is not known (a batch holds no observations beyond the end): its
        change is 0 and ``end`` is 1.

        Raises:
            ValueError: continuous actions of another size than was announced.
        """
        seen = batch.observation
        after, known = successors(batch)
        change = (after - seen) * known.unsqueeze(-1)
        action = batch.action
        if self.discrete:
            action = action.unsqueeze(-1) == torch.arange(
                self.actions, device=action.device
            )  # one_hot cannot be lifted
        elif self.actions not in (0, action.shape[-1]):
            raise ValueError(f"expected actions of size {self.actions} as announced, got {action.shape[-1]}")
        action = action[..., : self.actions]
        told = [seen, action.to(seen.dtype), change, torch.stack([batch.reward, 1.0 - known], -1)]
        return torch.cat([*told, effects(batch)] if self.effects else told, -1)
