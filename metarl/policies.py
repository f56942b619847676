"""Policies: networks that turn observations into action distributions, for one or many parameter sets.

A policy owns the *initial* parameters; it is called with parameters given from outside::

    distribution = policy(params, observation)

``params`` are un-stacked (``[...]``, one task or one shared start) or stacked over tasks (``[T, ...]``
with observations ``[T, ..., O]``). The library's own layers act on stacked parameters by one batched
product, which is several times faster in a rollout than ``vmap`` over ``functional_call``; any other
``nn.Module`` is lifted by ``vmap`` through `ModuleNetwork`.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear
from torch.nn.utils import skip_init

from metarl import checks
from metarl.compilation import tracing
from metarl.distributions import Categorical, Distribution, Gaussian
from metarl.trees import subtree, with_prefix
from metarl.types import Params, TaskFamily

_SWAP = threading.Lock()
"""Held while a `ModuleNetwork` runs with given parameters in the place of its own: tasks are replayed on threads."""


FEW = 2**13  # numbers of which `torch.tanh` is done as soon as three simpler operations are


def tanh(x: Tensor) -> Tensor:
    """``torch.tanh``, and within 2e-7 of it where no gradient is wanted.

    By a sigmoid there, on a CPU: torch leaves tanh to MKL, which takes three times as long on a processor not Intel's,
    half of a wide rollout. For few rows, and with gradients, three operations instead of one cost what they save, and
    a compiled program has a faster way still.
    """
    if x.numel() < FEW or x.device.type != "cpu" or torch.is_grad_enabled() or tracing():
        return torch.tanh(x)
    return torch.rsub(torch.sigmoid(x + x), -1.0, alpha=-2.0)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.mT + bias`` with un-stacked or stacked weights.

    Args:
        x: ``[..., in]``, or ``[T, ..., in]`` with stacked weights.
        weight: ``[out, in]`` or ``[T, out, in]``.
        bias: ``[out]`` or ``[T, out]``.

    Raises:
        TypeError: inputs that are no tensor, such as Gymnasium's observations.
        ValueError: inputs of another size or dtype than the weights are for, or of another number of tasks.
    """
    cast = x.dtype == weight.dtype or _autocast(x)
    if x.shape[-1] != weight.shape[-1] or not cast:
        raise ValueError(
            f"expected {weight.shape[-1]} inputs of {weight.dtype}, got {x.shape[-1]} of {x.dtype}: give what is seen "
            "and the parameters that read it one size and dtype"
        )
    if weight.dim() == 3 and x.shape[:1] != weight.shape[:1]:
        raise ValueError(
            f"expected inputs [{len(weight)}, ...] for the parameters of {len(weight)} tasks, got {list(x.shape)}: "
            "index the task, params = {name: leaf[0] for name, leaf in params.items()}, or give each its own"
        )
    if weight.dim() == 2 and bias.dim() == 1 and weight.shape[1] < weight.shape[0]:
        # a few inputs: the product with a row-major matrix has the faster gradient (5 x, for 2 inputs and 100 outputs)
        rows = x.reshape(-1, x.shape[-1])
        return torch.addmm(bias, rows, weight.T.contiguous()).reshape(*x.shape[:-1], weight.shape[0])
    if weight.dim() == 2 and bias.dim() == 1:
        return linear(x, weight, bias)
    if weight.dim() == 2:  # frozen, where the bias is not
        weight = weight.expand(len(bias), *weight.shape)
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT).reshape(*x.shape[:-1], weight.shape[-2])


def _autocast(x: Tensor) -> bool:
    checks.of_type("what is seen", x, Tensor, "a tensor, such as torch.from_numpy(observation)")
    return torch.is_autocast_enabled(x.device.type)


def given(module: nn.Module, params: Mapping[str, Tensor], name: str) -> Tensor:
    """The parameter of that name, or the module's own where it is frozen, and so neither adapted nor learned.

    Raises:
        ValueError: it is neither given nor frozen.
    """
    found = params.get(name)
    return _frozen(module, name).detach() if found is None else found


def _frozen(module: nn.Module, name: str) -> nn.Parameter:
    own = module.get_parameter(name)
    if own.requires_grad:
        raise ValueError(
            f"expected a value for every parameter that is not frozen, {name} of the {type(module).__name__} is "
            "missing; name them as policy.initial() does"
        )
    return own


class Network(nn.Module, ABC):
    """Owns initial parameters; computes outputs from parameters given by name."""

    @abstractmethod
    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs ``[..., out]`` for inputs ``[..., in]``; stacked parameters need a leading ``T``."""

    def layer_inputs(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """What every affine layer reads ``[..., in]``, by the layer's name; nothing where that is not known."""
        del params, x
        return {}


class MLP(Network):
    """Multi-layer perceptron: ``hidden`` layers with an activation between, and a linear ``head``.

    With a ``context`` there are inputs that are parameters: a task can be told to the network by adapting
    them alone (CAVIA, Zintgraf et al. 2019, arXiv:1810.03642; there adapting begins at zero, here at what has been
    learned, which comes to the same as the first layer has a bias). With an ``input_scale`` every input is first
    divided by its own unit, so that sensors of different sizes weigh alike in the first layer and in its gradient.
    Weights are orthogonal (gain √2 in the hidden layers, ``head_gain`` in the head), biases and context zero.
    """

    input_scale: Tensor | None
    """Units of the inputs ``[in]``, a buffer: neither adapted nor learned, and saved with the parameters."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        head_gain: float = 0.01,
        context: int = 0,
        input_scale: Tensor | None = None,
        generator: torch.Generator,
    ) -> None:
        """Sizes in units, ``context`` in inputs, which start at zero; ``generator`` draws the weights.

        Raises:
            TypeError: sizes that are no whole numbers, an activation that is no function, no generator.
            ValueError: a size below 1, or not one scale above 0 for every input.
        """
        super().__init__()
        checks.of_type("hidden", hidden, Sequence, "sizes, such as [64, 64]")
        checks.function("activation", activation, "a function, such as torch.relu")
        checks.generator(generator)
        if not all(isinstance(size, Integral) for size in (inputs, context, *hidden, outputs)):
            raise TypeError(f"expected whole numbers of units, got {inputs} -> {list(hidden)} -> {outputs}")
        sizes = [inputs + context, *hidden]
        if min(inputs, *hidden, outputs) < 1 or context < 0:
            raise ValueError(f"every layer needs at least one unit, got {inputs} -> {list(hidden)} -> {outputs}")
        if input_scale is not None and not (input_scale.shape == (inputs,) and bool((input_scale > 0.0).all())):
            raise ValueError(f"expected {inputs} input scales above 0, one for every input, got {input_scale.tolist()}")
        self.register_buffer("input_scale", input_scale)
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.hidden = nn.ModuleList([_undrawn(a, b) for a, b in pairs])
        self.head = _undrawn(sizes[-1], outputs)
        self.activation = activation
        if context:
            self.context = nn.Parameter(torch.zeros(context))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("weight"):
                gain = head_gain if name.startswith("head") else 2.0**0.5
                nn.init.orthogonal_(parameter, gain, generator=generator)

    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs ``[..., out]``; see `Network.forward`."""
        last = self.layer_inputs(params, x)["head"]
        return affine(last, given(self, params, "head.weight"), given(self, params, "head.bias"))

    def layer_inputs(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """See `Network.layer_inputs`."""
        if self.input_scale is not None:
            x = x / self.input_scale
        if hasattr(self, "context"):
            told = given(self, params, "context")  # [C], or [T, C] against inputs [T, ..., in]
            told = told.reshape(*told.shape[:-1], *(1,) * (x.dim() - told.dim()), told.shape[-1])
            x = torch.cat([x, told.expand(*x.shape[:-1], told.shape[-1])], -1)
        activation = tanh if self.activation is torch.tanh else self.activation
        read = {}
        for i in range(len(self.hidden)):
            read[f"hidden.{i}"] = x
            weight, bias = (given(self, params, f"hidden.{i}.{name}") for name in ("weight", "bias"))
            x = activation(affine(x, weight, bias))
        return {**read, "head": x}


def _undrawn(inputs: int, outputs: int) -> nn.Linear:
    """A layer without initial values: the usual constructor would draw them from torch's global generator."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    return layer


NETWORK = "a Network, such as MLP(4, [64], 2, generator=generator) or ModuleNetwork(module)"


class ModuleNetwork(Network):
    """Any ``nn.Module`` from ``[..., in]`` to ``[..., out]`` as a network, lifted over tasks by ``vmap``.

    Parameters that do not require a gradient and buffers stay as they are: they are neither adapted
    nor meta-learned.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wraps ``module``; its parameters become the initial ones.

        Raises:
            TypeError: it is no module.
        """
        super().__init__()
        checks.of_type("module", module, nn.Module, "a torch.nn.Module")
        self.module = module
        self._dims = {name: parameter.dim() for name, parameter in module.named_parameters()}

    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Outputs ``[..., out]``; see `Network.forward`."""
        own = subtree(params, "module")
        if len(own) < len(self._dims):
            for name in self._dims.keys() - own.keys():
                _frozen(self.module, name)
        if any(leaf.dim() > self._dims[name] for name, leaf in own.items()):
            stacked: Tensor = torch.vmap(self._call)(own, x)
            return stacked
        return self._call(own, x)

    def _call(self, params: Params, x: Tensor) -> Tensor:
        with _SWAP:
            output: Tensor = functional_call(self.module, params, (x,))
        return output


class Policy(nn.Module, ABC):
    """Maps parameters and observations to an action distribution, and draws the noise to act with."""

    @abstractmethod
    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Distribution:
        """Action distribution of each row; ``observation`` is ``[..., O]``, or ``[T, ..., O]`` if stacked."""

    @abstractmethod
    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Noise for ``rows`` actions, on the generator's device."""

    def layer_inputs(self, params: Mapping[str, Tensor], observation: Tensor) -> dict[str, Tensor]:
        """What every affine layer reads, by the layer's name; of ``self.network``, if there is one."""
        network = getattr(self, "network", None)
        if not isinstance(network, Network):
            return {}
        return with_prefix("network", network.layer_inputs(subtree(params, "network"), observation))

    def initial(self) -> Params:
        """The meta-learned initialization: every parameter that requires a gradient, by name.

        Freeze the others by ``requires_grad_(False)``: they act as they are.
        """
        with _SWAP:
            return {name: p for name, p in self.named_parameters() if p.requires_grad}


def complete(policy: Policy, params: Mapping[str, Tensor]) -> Params:
    """The parameters of one task together with the policy's frozen ones, without a graph: all that it acts by.

    Raises:
        ValueError: parameters stacked over several tasks, of other names, or fewer than are not frozen.
    """
    refuse_unknown(policy, params)
    found = {name: (given(policy, params, name).detach(), p) for name, p in policy.named_parameters()}
    for name, (leaf, own) in found.items():
        if leaf.dim() != own.dim():
            raise ValueError(
                f"expected the parameters of one task, got {name} of shape {tuple(leaf.shape)}: index the task"
            )
    return {name: leaf for name, (leaf, _) in found.items()}


def refuse_unknown(policy: Policy, params: Mapping[str, Tensor]) -> None:
    """Check that parameters are called as the policy's are; one that is not of this module is trusted.

    Raises:
        ValueError: it has none of that name, and would act by its own instead.
    """
    known = {name for name, _ in policy.named_parameters()}
    if not isinstance(policy, CategoricalPolicy | GaussianPolicy):
        return
    if unknown := [name for name in params if name not in known]:
        raise ValueError(f"the policy has no parameter {unknown[0]!r}: name them as policy.initial() does")


def is_stacked(policy: Policy, params: Mapping[str, Tensor]) -> bool:
    """Whether there is one set of parameters a task ``[T, ...]``, or one for all ``[...]``."""
    return any(params[name].dim() > leaf.dim() for name, leaf in policy.initial().items())


def refuse_misfit(policy: Policy, family: TaskFamily) -> None:
    """Check that a policy fits a family's observations and actions; one that is not of this module is trusted.

    Raises:
        ValueError: spaces that no policy of this module serves; another kind of actions, or another number of them or
            of observations; tells which policy would fit.
    """
    if not isinstance(policy, CategoricalPolicy | GaussianPolicy):
        return
    seen, actions = family.observation_space, family.action_space
    discrete = isinstance(actions, Discrete) and int(actions.start) == 0
    row = isinstance(actions, Box) and len(actions.shape) == 1 and np.issubdtype(actions.dtype, np.floating)
    if not (discrete or row):
        raise ValueError(f"expected actions Discrete(n) from 0, or a Box of one axis and real numbers, got {actions}")
    if seen.shape is None or len(seen.shape) != 1:
        raise ValueError(f"expected observations of one axis, got {seen}: flatten them in the family's observe")
    size = int(actions.n) if discrete else int(np.prod(actions.shape))
    needed = f"{'CategoricalPolicy' if discrete else 'GaussianPolicy'} for {size} actions"
    kind = CategoricalPolicy if discrete else GaussianPolicy
    if not isinstance(policy, kind):
        raise ValueError(f"the family's actions are {actions}: expected a {needed}, got a {type(policy).__name__}")
    network = policy.network
    if isinstance(network, MLP) and type(policy) is kind:
        layers = [*network.hidden, network.head]
        inputs = layers[0].in_features - (len(network.context) if hasattr(network, "context") else 0)
        outputs = layers[-1].out_features
        if (inputs, outputs) != (wanted := (int(np.prod(seen.shape)), size)):
            raise ValueError(
                f"the family shows {wanted[0]} numbers: expected a {needed} on an MLP from {wanted[0]} to {wanted[1]}, "
                f"got one from {inputs} to {outputs}"
            )


def refuse_width(policy: Policy, family: TaskFamily) -> None:
    """Check that the network of a policy that `refuse_misfit` has passed puts out a number an action, if it can tell.

    That of a subclass may put out what it likes. By a copy that has shapes but no values, so that nothing is drawn and
    no buffer changes: milliseconds.

    Raises:
        ValueError: it puts out more or fewer.
    """
    if not isinstance(policy, CategoricalPolicy | GaussianPolicy) or type(policy).__module__ != __name__:
        return
    if isinstance(policy.network, MLP):
        return
    try:
        empty = copy.deepcopy(policy.network).to("meta")
        params = dict(empty.named_parameters())
        row = torch.empty(2, *family.observation_space.shape, device="meta", dtype=next(iter(params.values())).dtype)
        outputs = tuple(empty(params, row).shape[1:])
    except Exception:  # whatever a network does that needs values
        return
    actions = family.action_space
    size = int(actions.n) if isinstance(actions, Discrete) else int(np.prod(actions.shape))
    if outputs != (size,):
        raise ValueError(f"the family has {size} actions: expected a network of as many outputs, got {list(outputs)}")


class GaussianPolicy(Policy):
    """Diagonal Gaussian; the mean from a network, the log standard deviation a free, state-independent parameter."""

    def __init__(self, network: Network, actions: int, *, log_std: float = 0.0, min_log_std: float = -5.0) -> None:
        """``network`` gives ``[..., actions]``; ``log_std`` is the start, ``min_log_std`` the floor.

        Raises:
            TypeError: no network, or actions that are no whole number.
            ValueError: no action, or another number of them than an `MLP` puts out.
        """
        super().__init__()
        checks.of_type("network", network, Network, NETWORK)
        checks.whole("actions", actions)
        if type(self) is GaussianPolicy and isinstance(network, MLP) and network.head.out_features != actions:
            raise ValueError(f"expected a network of {actions} outputs, one an action, got {network.head.out_features}")
        self.network = network
        self.log_std = nn.Parameter(torch.full((actions,), float(log_std)))
        self.min_log_std = min_log_std

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Gaussian:
        """See `Policy.forward`; both fields are ``[..., A]``."""
        mean = self.network(subtree(params, "network"), observation)
        log_std = given(self, params, "log_std").clamp_min(self.min_log_std)
        if log_std.dim() > 1:  # stacked: [T, A] against a mean of [T, ..., A]
            log_std = log_std.reshape(log_std.shape[0], *(1,) * (mean.dim() - 2), log_std.shape[-1])
        return Gaussian(mean, log_std.expand_as(mean))

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Standard normal, ``[*rows, A]``."""
        return torch.randn(*rows, self.log_std.shape[0], generator=generator, device=generator.device)


class CategoricalPolicy(Policy):
    """Discrete actions; the logits from a network."""

    def __init__(self, network: Network) -> None:
        """``network`` gives ``[..., n]`` logits.

        Raises:
            TypeError: no network.
        """
        super().__init__()
        checks.of_type("network", network, Network, NETWORK)
        self.network = network

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Categorical:
        """See `Policy.forward`; logits ``[..., n]``."""
        return Categorical(self.network(subtree(params, "network"), observation))

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Uniform in [0, 1), ``[*rows]``."""
        return torch.rand(*rows, generator=generator, device=generator.device)
