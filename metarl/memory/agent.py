"""An actor-critic with a gated recurrent unit (GRU) between observations and actions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.nn.utils import skip_init

from metarl.distributions import Distribution
from metarl.policies import MLP, CategoricalPolicy, GaussianPolicy, Policy
from metarl.types import TaskFamily

FARTHEST = 10.0  # scaled inputs are clipped to this many standard deviations
RECENT = 0.1  # minimum weight of the latest trials in the scale of values, as values grow while the agent learns


class MemoryPolicy(nn.Module):
    """A GRU that reads observations, a head that maps its memory to actions, and a critic that maps it to values.

    Observations are standardised and values are predicted in standardised units; their means and standard deviations
    are running estimates from training, see `rescale_inputs` and `rescale_values`. ``state_dict()`` includes them.
    """

    input_mean: Tensor  # [O]
    input_std: Tensor  # [O]
    value_mean: Tensor  # []
    value_std: Tensor  # []
    trained: Tensor  # [] how often the scales of the inputs have been updated

    def __init__(
        self, inputs: int, units: int, head: Policy, *, hidden: Sequence[int] = (), generator: torch.Generator
    ) -> None:
        """Assemble an agent; `memory_policy` builds one that fits a family.

        Args:
            inputs: O, size of an observation.
            units: M, size of the memory.
            head: maps memories ``[..., M]`` to action distributions.
            hidden: units of the critic's hidden layers.
            generator: draws the weights, which are orthogonal for every gate; biases are zero.

        Raises:
            ValueError: a size below 1.
        """
        super().__init__()
        if min(inputs, units) < 1:
            raise ValueError(f"expected at least one input and one memory unit, got {inputs} and {units}")
        self.inputs, self.units = inputs, units
        self.look: nn.Linear = skip_init(nn.Linear, inputs, 3 * units)  # type: ignore[no-untyped-call]
        self.recall: nn.Linear = skip_init(nn.Linear, units, 3 * units)  # type: ignore[no-untyped-call]
        for layer in (self.look, self.recall):
            nn.init.zeros_(layer.bias)
            for gate in layer.weight.detach().chunk(3):  # r, z, n: the order of torch.nn.GRU
                nn.init.orthogonal_(gate, generator=generator)
        self.head = head
        self.critic = MLP(units, hidden, 1, head_gain=1.0, generator=generator)
        scales = {"input_mean": torch.zeros(inputs), "input_std": torch.ones(inputs), "trained": torch.zeros(())}
        for name, value in {**scales, "value_mean": torch.zeros(()), "value_std": torch.ones(())}.items():
            self.register_buffer(name, value)

    def blank(self, rows: tuple[int, ...]) -> Tensor:
        """Return the memory before a trial, which is zero, ``[*rows, M]``."""
        return self.look.weight.new_zeros(*rows, self.units)

    def remember(self, observation: Tensor, memory: Tensor) -> Tensor:
        """Return the memory ``[..., M]`` after an observation ``[..., O]``, given the memory before it."""
        return self._cell(*self._looked(observation), memory)

    def unroll(self, observation: Tensor, memory: Tensor) -> Tensor:
        """Return the memory after each of H successive observations.

        Args:
            observation: ``[H, R, O]``.
            memory: memory before the first observation, ``[R, M]``.

        Returns:
            ``[H, R, M]``.
        """
        memories = []
        looked = (part.unbind(0) for part in self._looked(observation))  # the non-recurrent part, for all steps at once
        for gates, new in zip(*looked, strict=True):
            memory = self._cell(gates, new, memory)
            memories.append(memory)
        return torch.stack(memories)

    def forward(self, observation: Tensor, memory: Tensor) -> tuple[Distribution, Tensor]:
        """Return action distributions, and values in standardised units ``[H, R]``; arguments as for `unroll`."""
        memories = self.unroll(observation, memory)
        return self.head(self.head.initial(), memories), self._relative_value(memories)

    def value(self, memory: Tensor) -> Tensor:
        """Return the value, in units of reward, ``[...]`` for memories ``[..., M]``."""
        return self._relative_value(memory) * self.value_std + self.value_mean

    @torch.no_grad()
    def rescale_values(self, target: Tensor, weight: Tensor) -> None:
        """Update the scale of values from their targets ``[L, S]``, without changing any value.

        The critic's last layer is adjusted to compensate for the new scale (van Hasselt et al. 2016, "Learning values
        across many orders of magnitude", arXiv:1602.07714).
        """
        mean, std = _moments(target.unsqueeze(-1), weight)
        share = (1.0 / (self.trained + 1.0)).clamp_min(RECENT)
        old_mean, old_std = self.value_mean.clone(), self.value_std.clone()
        self.value_mean.lerp_(mean[0], share)
        self.value_std.lerp_(std[0], share)
        last = self.critic.head
        last.weight *= old_std / self.value_std
        last.bias.copy_((last.bias * old_std + old_mean - self.value_mean) / self.value_std)

    @torch.no_grad()
    def rescale_inputs(self, observation: Tensor, weight: Tensor) -> None:
        """Update the scale of inputs from observations ``[L, S, O]``, as a mean over all calls. This changes the agent.

        Call it only after training on all trials that were played with the old scale.
        """
        self.trained += 1.0
        for average, new in zip((self.input_mean, self.input_std), _moments(observation, weight), strict=True):
            average.lerp_(new, 1.0 / self.trained)

    def _looked(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        scaled = ((observation - self.input_mean) / self.input_std).clamp(-FARTHEST, FARTHEST)
        return self._split(self.look(scaled))

    def _split(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Split products into those of the gates r and z ``[..., 2 M]`` and that of n ``[..., M]``."""
        gates, new = products.split_with_sizes((2 * self.units, self.units), -1)
        return gates, new

    def _cell(self, gates: Tensor, new: Tensor, memory: Tensor) -> Tensor:
        """Take a step of the GRU, given the products of its weights with the observation."""
        recalled_gates, recalled = self._split(self.recall(memory))
        reset, update = torch.sigmoid(gates + recalled_gates).chunk(2, -1)
        return torch.lerp(torch.tanh(torch.addcmul(new, reset, recalled)), memory, update)

    def _relative_value(self, memory: Tensor) -> Tensor:
        value: Tensor = self.critic(dict(self.critic.named_parameters()), memory).squeeze(-1)
        return value


def _moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted mean and standard deviation ``[F]`` of ``x`` ``[L, S, F]``; a deviation near zero is set to 1."""
    share = (weight / weight.sum()).unsqueeze(-1)
    mean = (x * share).sum((0, 1))
    std = ((x - mean).square() * share).sum((0, 1)).sqrt()
    return mean, torch.where(std < 1e-4, torch.ones_like(std), std)


def memory_policy(
    family: TaskFamily,
    *,
    units: int = 64,
    hidden: Sequence[int] = (),
    log_std: float = 0.0,
    generator: torch.Generator,
) -> MemoryPolicy:
    """Build an agent that fits a family's spaces, with categorical actions, or Gaussian ones for a flat Box.

    Args:
        family: a family of trials.
        units: M, size of the memory.
        hidden: units of the tanh layers from the memory to the actions, and of those from the memory to the value.
        log_std: initial log standard deviation of Gaussian actions.
        generator: draws the weights.

    Raises:
        ValueError: observations that are not a flat Box, actions that are neither Discrete nor a flat Box, or a size
            below 1.
    """
    seen, actions = family.observation_space, family.action_space
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise ValueError(f"expected observations from a flat Box, got shape {seen.shape}; flatten them in the family")
    if not isinstance(actions, Discrete) and not (isinstance(actions, Box) and len(actions.shape) == 1):
        raise ValueError(f"expected actions from a Discrete or a flat Box, got {actions}; use another family")
    count = int(actions.n) if isinstance(actions, Discrete) else int(actions.shape[0])
    network = MLP(units, hidden, count, generator=generator)
    discrete = isinstance(actions, Discrete)
    head = CategoricalPolicy(network) if discrete else GaussianPolicy(network, count, log_std=log_std)
    return MemoryPolicy(int(seen.shape[0]), units, head, hidden=hidden, generator=generator)
