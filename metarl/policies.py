"""Policies: networks that map observations to action distributions, for one or many parameter sets.

A policy owns the *initial* parameters, but is called with explicit parameters::

    distribution = policy(params, observation)

``params`` are un-stacked (``[...]``, for one task or shared by all), or stacked over tasks (``[T, ...]``, with
observations ``[T, ..., O]``). The library's own layers apply stacked parameters with one batched product, which is
several times faster in a rollout than ``vmap`` over ``functional_call``. `ModuleNetwork` lifts any other ``nn.Module``
by ``vmap``.
"""

from __future__ import annotations

import copy
import math
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
"""Held while a `ModuleNetwork` runs with parameters swapped in for its own, because tasks are replayed on threads."""


FEW = 2**13  # below this many numbers `torch.tanh` is as fast as the three simpler operations that replace it


def tanh(x: Tensor) -> Tensor:
    """Return ``torch.tanh(x)``; on a CPU and without gradients a faster approximation within 2e-7 of it.

    The approximation uses a sigmoid. torch computes tanh with MKL, which is three times as slow on processors not made
    by Intel and then takes half the time of a wide rollout. With gradients or few rows, three operations instead of
    one cost as much as they save; compiled programs have an even faster replacement.
    """
    if x.numel() < FEW or x.device.type != "cpu" or torch.is_grad_enabled() or tracing():
        return torch.tanh(x)
    return torch.rsub(torch.sigmoid(x + x), -1.0, alpha=-2.0)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``x @ weight.mT + bias`` for un-stacked or stacked weights.

    Args:
        x: ``[..., in]``, or ``[T, ..., in]`` with stacked weights.
        weight: ``[out, in]`` or ``[T, out, in]``.
        bias: ``[out]`` or ``[T, out]``.

    Raises:
        TypeError: inputs that are not a tensor, such as Gymnasium's NumPy observations.
        ValueError: inputs whose size, dtype or number of tasks does not match the weights.
    """
    cast = x.dtype == weight.dtype or _autocast(x)
    if x.shape[-1] != weight.shape[-1] or not cast:
        raise ValueError(
            f"expected {weight.shape[-1]} inputs of {weight.dtype}, got {x.shape[-1]} of {x.dtype}: give observations "
            "the size and dtype of the policy's parameters"
        )
    if weight.dim() == 3 or bias.dim() == 2:
        _refuse_other_tasks(weight if weight.dim() == 3 else bias, x)
    if weight.dim() == 2 and bias.dim() == 1 and weight.shape[1] < weight.shape[0]:
        # with few inputs, a product with a row-major matrix has a faster gradient (5 x, for 2 inputs and 100 outputs)
        rows = x.reshape(-1, x.shape[-1])
        return torch.addmm(bias, rows, weight.T.contiguous()).reshape(*x.shape[:-1], weight.shape[0])
    if weight.dim() == 2 and bias.dim() == 1:
        return linear(x, weight, bias)
    if weight.dim() == 2:  # the weight is frozen, so that only the bias is stacked over tasks
        weight = weight.expand(len(bias), *weight.shape)
    rows = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.baddbmm(bias.unsqueeze(-2), rows, weight.mT).reshape(*x.shape[:-1], weight.shape[-2])


def _refuse_other_tasks(stacked: Tensor, x: Tensor) -> None:
    """Check that inputs ``[T, ..., in]`` are those of as many tasks as a parameter is stacked over, ``[T, ...]``."""
    tasks = len(stacked)
    if x.dim() < 2 or len(x) != tasks:
        raise ValueError(
            f"expected inputs [{tasks}, ...] for the parameters of {tasks} tasks, got {list(x.shape)}: index the task, "
            "params = {name: leaf[0] for name, leaf in params.items()}, or give each task its own inputs"
        )


def _autocast(x: Tensor) -> bool:
    checks.of_type("observation", x, Tensor, "a tensor, such as torch.from_numpy(observation)")
    return torch.is_autocast_enabled(x.device.type)


def given(module: nn.Module, params: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the parameter ``name`` from ``params``, or the module's own if it is frozen (not adapted nor learned).

    Raises:
        ValueError: the parameter is neither in ``params`` nor frozen.
    """
    found = params.get(name)
    return _frozen(module, name).detach() if found is None else found


def _frozen(module: nn.Module, name: str) -> nn.Parameter:
    own = module.get_parameter(name)
    if own.requires_grad:
        raise ValueError(
            f"expected a value for every parameter that is not frozen, but {name} of the {type(module).__name__} is "
            "missing; use the names of policy.initial()"
        )
    return own


class Network(nn.Module, ABC):
    """A network that owns its initial parameters, and computes outputs with parameters passed by name."""

    @abstractmethod
    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return outputs ``[..., out]`` for inputs ``[..., in]``; stacked parameters need inputs ``[T, ..., in]``."""

    def layer_inputs(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Return the inputs ``[..., in]`` of every affine layer, by the layer's name; empty if they are not known."""
        del params, x
        return {}


class MLP(Network):
    """Multi-layer perceptron: ``hidden`` layers, each followed by an activation, and a linear ``head``.

    A ``context`` adds inputs that are themselves parameters, so that the network can adapt to a task by adapting the
    context alone (CAVIA, Zintgraf et al. 2019, arXiv:1810.03642). CAVIA starts adapting from a zero context; here it
    starts from a learned one, which is equivalent because the first layer has a bias. An ``input_scale`` divides every
    input by its unit, so that sensors of different magnitudes have equal weight in the first layer and its gradient.
    Weights are initialized orthogonally (gain √2 in the hidden layers, ``head_gain`` in the head), biases and context
    to zero.
    """

    input_scale: Tensor | None
    """Units of the inputs ``[in]``; a buffer, so neither adapted nor learned, but saved with the parameters."""

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
        """Build the network.

        Args:
            inputs: number of inputs, without the context.
            hidden: units of each hidden layer.
            outputs: number of outputs.
            activation: follows every hidden layer.
            head_gain: gain of the head's orthogonal weights.
            context: number of context inputs.
            input_scale: units of the inputs, ``[inputs]``.
            generator: draws the weights.

        Raises:
            TypeError: sizes that are not whole numbers, an activation that is not a function, scales that are not a
                tensor, or no generator.
            ValueError: a size below 1, a negative context, or scales that are not one positive, finite number per
                input.
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
        if input_scale is not None:
            _refuse_scales(input_scale, inputs)
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
        """Return outputs ``[..., out]``; see `Network.forward`."""
        last = self.layer_inputs(params, x)["head"]
        return affine(last, given(self, params, "head.weight"), given(self, params, "head.bias"))

    def layer_inputs(self, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """See `Network.layer_inputs`."""
        if self.input_scale is not None:
            x = x / self.input_scale
        if hasattr(self, "context"):
            told = given(self, params, "context")  # [C], or [T, C] against inputs [T, ..., in]
            if told.dim() > 1:
                _refuse_other_tasks(told, x)
            told = told.reshape(*told.shape[:-1], *(1,) * (x.dim() - told.dim()), told.shape[-1])
            x = torch.cat([x, told.expand(*x.shape[:-1], told.shape[-1])], -1)
        activation = tanh if self.activation is torch.tanh else self.activation
        read = {}
        for i in range(len(self.hidden)):
            read[f"hidden.{i}"] = x
            weight, bias = (given(self, params, f"hidden.{i}.{name}") for name in ("weight", "bias"))
            x = activation(affine(x, weight, bias))
        return {**read, "head": x}


def _refuse_scales(scales: Tensor, inputs: int) -> None:
    """Check that there is one positive, finite scale per input; an infinite one would hide its input."""
    checks.of_type("input_scale", scales, Tensor, "a tensor, such as torch.tensor([1.0, 0.1])")
    if not (scales.shape == (inputs,) and bool(((scales > 0.0) & scales.isfinite()).all())):
        raise ValueError(
            f"expected {inputs} input scales above 0 and finite, one for every input, got {scales.tolist()}"
        )


def _undrawn(inputs: int, outputs: int) -> nn.Linear:
    """Return an uninitialized layer; the usual constructor would draw values from torch's global generator."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
    return layer


NETWORK = "a Network, such as MLP(4, [64], 2, generator=generator) or ModuleNetwork(module)"


class ModuleNetwork(Network):
    """Any ``nn.Module`` from ``[..., in]`` to ``[..., out]`` as a network, lifted over tasks by ``vmap``.

    Buffers, and parameters that do not require a gradient, are neither adapted nor meta-learned.
    """

    def __init__(self, module: nn.Module) -> None:
        """Wrap ``module``; its parameters become the initial parameters.

        Raises:
            TypeError: ``module`` is not an ``nn.Module``.
        """
        super().__init__()
        checks.of_type("module", module, nn.Module, "a torch.nn.Module")
        self.module = module
        self._dims = {name: parameter.dim() for name, parameter in module.named_parameters()}
        self._shared = _shared(module)

    def forward(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return outputs ``[..., out]``; see `Network.forward`."""
        own = subtree(params, "module")
        if len(own) < len(self._dims):
            for name in self._dims.keys() - own.keys():
                _frozen(self.module, name)
        if any(leaf.dim() > self._dims[name] for name, leaf in own.items()):
            stacked: Tensor = torch.vmap(self._call)(own, x)
            return stacked
        return self._call(own, x)

    def _call(self, params: Params, x: Tensor) -> Tensor:
        further = {name: params[first] for name, first in self._shared.items() if first in params}
        with _SWAP:  # torch's own `tie_weights` leaves new values behind in a module that occurs twice
            output: Tensor = functional_call(self.module, {**params, **further}, (x,), tie_weights=False)
        return output


def _shared(module: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that several modules share, each with the parameter's first name.

    A module that occurs several times has one set of parameters with one name each.
    """
    first: dict[int, str] = {}
    names = {
        name: first.setdefault(id(parameter), name)
        for prefix, part in module.named_modules()
        for name, parameter in part.named_parameters(prefix, recurse=False, remove_duplicate=False)
    }
    return {name: one for name, one in names.items() if name != one}


class Policy(nn.Module, ABC):
    """Maps parameters and observations to action distributions, and draws the noise for sampling actions."""

    @abstractmethod
    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Distribution:
        """Return the action distribution of each row.

        ``observation`` is ``[..., O]``, or ``[T, ..., O]`` with stacked parameters.
        """

    @abstractmethod
    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Draw noise for one action in each of ``rows``, on the generator's device."""

    def layer_inputs(self, params: Mapping[str, Tensor], observation: Tensor) -> dict[str, Tensor]:
        """Return the inputs of every affine layer of ``self.network``, by the layer's name; empty if not known."""
        network = getattr(self, "network", None)
        if not isinstance(network, Network):
            return {}
        return with_prefix("network", network.layer_inputs(subtree(params, "network"), observation))

    def initial(self) -> Params:
        """Return the meta-learned initialization: every parameter that requires a gradient, by name.

        Parameters frozen by ``requires_grad_(False)`` are left out; the policy uses their values as they are.
        """
        with _SWAP:
            return {name: p for name, p in self.named_parameters() if p.requires_grad}


def complete(policy: Policy, params: Mapping[str, Tensor]) -> Params:
    """Return one task's parameters together with the policy's frozen ones, without a graph.

    Raises:
        ValueError: a parameter that is stacked over tasks or unknown to the policy, or a missing one that isn't frozen.
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
    """Check that the policy has a parameter of every name in ``params``; it would silently ignore others.

    Only `CategoricalPolicy` and `GaussianPolicy` are checked.

    Raises:
        ValueError: the policy has no parameter of some name.
    """
    known = {name for name, _ in policy.named_parameters()}
    if not isinstance(policy, CategoricalPolicy | GaussianPolicy):
        return
    if unknown := [name for name in params if name not in known]:
        raise ValueError(f"the policy has no parameter {unknown[0]!r}: use the names of policy.initial()")


def is_stacked(policy: Policy, params: Mapping[str, Tensor]) -> bool:
    """Return whether there is one parameter set per task ``[T, ...]``, rather than one for all ``[...]``."""
    return any(params[name].dim() > leaf.dim() for name, leaf in policy.initial().items())


def refuse_misfit(policy: Policy, family: TaskFamily) -> None:
    """Check that a policy fits a family's observation and action spaces.

    Only `CategoricalPolicy` and `GaussianPolicy` are checked.

    Raises:
        ValueError: the spaces are not supported by either policy, or the policy has another kind of actions or another
            number of observations or actions; the message says which policy would fit.
    """
    if not isinstance(policy, CategoricalPolicy | GaussianPolicy):
        return
    seen, actions = family.observation_space, family.action_space
    discrete = isinstance(actions, Discrete) and int(actions.start) == 0
    row = isinstance(actions, Box) and len(actions.shape) == 1 and np.issubdtype(actions.dtype, np.floating)
    if not (discrete or row):
        raise ValueError(f"expected actions from Discrete(n) starting at 0 or a 1-d Box of floats, got {actions}")
    if seen.shape is None or len(seen.shape) != 1:
        raise ValueError(f"expected observations from a 1-d Box, got {seen}: flatten them in the family's observe")
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
                f"observations have {wanted[0]} numbers: expected a {needed} with an MLP of {wanted[0]} inputs and "
                f"{wanted[1]} outputs, got {inputs} inputs and {outputs} outputs"
            )


def refuse_width(policy: Policy, family: TaskFamily) -> None:
    """Check that the network of a policy has one output per action, for networks that `refuse_misfit` cannot check.

    Subclasses of this module's policies are not checked. The network is run on the ``meta`` device, with shapes but no
    values, so that nothing is drawn and no buffer changes; this takes milliseconds.

    Raises:
        ValueError: the number of outputs differs from the number of actions.
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
    except Exception:  # the network cannot run without values, in any of many ways: skip the check
        return
    actions = family.action_space
    size = int(actions.n) if isinstance(actions, Discrete) else int(np.prod(actions.shape))
    if outputs != (size,):
        raise ValueError(f"the family has {size} actions: expected a network with as many outputs, got {list(outputs)}")


class GaussianPolicy(Policy):
    """Diagonal Gaussian with a mean from a network and a free, state-independent log standard deviation."""

    def __init__(self, network: Network, actions: int, *, log_std: float = 0.0, min_log_std: float = -5.0) -> None:
        """Build a policy whose ``network`` outputs means ``[..., actions]``.

        ``log_std`` is the initial log standard deviation, ``min_log_std`` its lower bound.

        Raises:
            TypeError: ``network`` is not a `Network`, ``actions`` is not a whole number, or another is not a number.
            ValueError: ``actions`` is below 1, or differs from the outputs of an `MLP`; ``log_std`` is not finite, or
                below ``min_log_std``; or the latter is NaN or infinity.
        """
        super().__init__()
        checks.of_type("network", network, Network, NETWORK)
        checks.whole("actions", actions)
        checks.number("log_std", log_std)
        checks.number("min_log_std", min_log_std)
        if not math.isfinite(log_std) or not min_log_std < math.inf:
            raise ValueError(f"log_std and min_log_std must be finite, got {log_std} and {min_log_std}")
        if log_std < min_log_std:
            raise ValueError(
                f"log_std: expected at least min_log_std, {min_log_std}, below which it gets no gradient, got "
                f"{log_std}; raise it or lower min_log_std"
            )
        if type(self) is GaussianPolicy and isinstance(network, MLP) and network.head.out_features != actions:
            raise ValueError(
                f"expected a network with {actions} outputs, one per action, got {network.head.out_features}"
            )
        self.network = network
        self.log_std = nn.Parameter(torch.full((actions,), float(log_std)))
        self.min_log_std = min_log_std

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Gaussian:
        """See `Policy.forward`; mean and log standard deviation are ``[..., A]``."""
        mean = self.network(subtree(params, "network"), observation)
        log_std = given(self, params, "log_std").clamp_min(self.min_log_std)
        if log_std.dim() > 1:  # stacked: [T, A] against a mean of [T, ..., A]
            _refuse_other_tasks(log_std, observation)
            log_std = log_std.reshape(log_std.shape[0], *(1,) * (mean.dim() - 2), log_std.shape[-1])
        return Gaussian(mean, log_std.expand_as(mean))

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Draw standard normal noise ``[*rows, A]``."""
        return torch.randn(*rows, self.log_std.shape[0], generator=generator, device=generator.device)


class CategoricalPolicy(Policy):
    """Discrete actions, with logits from a network."""

    def __init__(self, network: Network) -> None:
        """Build a policy whose ``network`` outputs logits ``[..., n]``.

        Raises:
            TypeError: ``network`` is not a `Network`.
        """
        super().__init__()
        checks.of_type("network", network, Network, NETWORK)
        self.network = network

    def forward(self, params: Mapping[str, Tensor], observation: Tensor) -> Categorical:
        """See `Policy.forward`; logits ``[..., n]``."""
        return Categorical(self.network(subtree(params, "network"), observation))

    def noise(self, rows: tuple[int, ...], *, generator: torch.Generator) -> Tensor:
        """Draw noise ``[*rows]``, uniform in [0, 1)."""
        return torch.rand(*rows, generator=generator, device=generator.device)
