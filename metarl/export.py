"""Export what was learned: policies as plain torch modules or files, and learned step sizes.

Exported modules and files can be used without this project.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from metarl import checks
from metarl.learner import Learner
from metarl.policies import MLP, CategoricalPolicy, GaussianPolicy, Policy, complete
from metarl.rules import Step
from metarl.types import Params

ACTIVATIONS: dict[Callable[[Tensor], Tensor], type[nn.Module]] = {torch.tanh: nn.Tanh, torch.relu: nn.ReLU}


class PerParameterSGD(torch.optim.Optimizer):
    """``p ← p - α ∘ g`` with a step size for every parameter, to use what Meta-SGD learned in any training loop.

    The groups' ``lr``, initially 1, multiplies all step sizes, so that torch's learning-rate schedulers work.
    """

    def __init__(self, params: Iterable[nn.Parameter], rates: Iterable[Tensor | float]) -> None:
        """Build the optimizer with one rate per parameter: a number, or a tensor that broadcasts to its shape.

        Raises:
            ValueError: different numbers of rates and parameters, or a rate that does not fit its parameter.
        """
        given, alphas = list(params), list(rates)
        if len(given) != len(alphas):
            raise ValueError(f"expected a rate for each of {len(given)} parameters, got {len(alphas)}")
        groups: list[dict[str, Any]] = []
        for p, alpha in zip(given, alphas, strict=True):
            rate = torch.as_tensor(alpha, dtype=p.dtype, device=p.device).detach()
            try:
                rate = rate.expand(p.shape).clone()
            except RuntimeError as error:
                shapes = f"{tuple(rate.shape)} does not fit a parameter of {tuple(p.shape)}"
                raise ValueError(f"a rate of shape {shapes}") from error
            groups.append({"params": [p], "rate": rate})
        super().__init__(groups, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step on the gradients in ``.grad``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.addcmul_(group["rate"], p.grad, value=-group["lr"])
        return loss


def learned_rates(learner: Learner) -> Params:
    """Return the step sizes of the first adaptation step, by parameter name and with the parameter's shape.

    If the rule's step sizes change from step to step (`PerStep`, momentum, adaptive step sizes), only those of the
    first step are returned. The step sizes apply to the policy's own parameters. If the policy has an ``input_scale``,
    those for the parameters of `to_module` differ: see `times_scale`.

    Raises:
        TypeError: ``learner`` is not a `Learner`.
        ValueError: the rule does more than multiply the gradient by a step size per parameter (clipping, curvature, an
            offset, ...), or the whole policy is frozen.
    """
    checks.of_type("learner", learner, Learner, "a Learner")
    params = {name: p.detach() for name, p in learner.policy.initial().items()}
    if not params:
        raise ValueError("expected a policy with trainable parameters, got only frozen ones: it has no step sizes")
    loss = next(iter(params.values())).new_zeros(())

    @torch.no_grad()
    def updates(grads: Mapping[str, Tensor]) -> Params:
        return learner.rule.update(Step(dict(grads), params, loss), learner.rule.init(params))[0]

    ones = updates({name: torch.ones_like(p) for name, p in params.items()})
    generator = torch.Generator().manual_seed(0)
    probe = {name: torch.randn(p.shape, generator=generator).to(p) for name, p in params.items()}
    for size in (1.0, 1e-4, 1e4):  # clipping would show at one of these sizes
        for name, u in updates({name: size * slope for name, slope in probe.items()}).items():
            if not torch.allclose(u / size, ones[name] * probe[name], rtol=1e-4, atol=1e-7):
                raise ValueError(
                    f"the rule {type(learner.rule).__name__} is not one step size per parameter: its update of {name} "
                    "is not proportional to the gradient, so an optimizer with fixed step sizes cannot reproduce it"
                )
    return {name: -u for name, u in ones.items()}


def to_module(policy: Policy, params: Mapping[str, Tensor]) -> nn.Sequential:
    """Return the network of an `MLP` policy as ``nn.Sequential``, from observations to action means or logits.

    An ``input_scale`` is folded into the weights of the first layer.

    Args:
        policy: a Gaussian or categorical policy on an `MLP` without context inputs.
        params: parameters of one task: the initialization, or adapted ones.

    Raises:
        TypeError: another kind of policy, network or activation.
        ValueError: parameters stacked over several tasks.
    """
    network = mlp_of(policy)
    own = times_scale(network, complete(policy, params), -1)
    layers: list[nn.Module] = []
    for i in range(len(network.hidden)):
        layers += [_linear(own, f"network.hidden.{i}"), ACTIVATIONS[network.activation]()]
    return nn.Sequential(*layers, _linear(own, "network.head"))


def times_scale(network: MLP, leaves: Mapping[str, Tensor], power: int) -> Params:
    """Return ``leaves`` with the first layer's weights multiplied by ``input_scale ** power``.

    A power of -1 converts parameters for scaled inputs to equivalent ones for raw inputs, and 1 converts them back. -2
    does the former for step sizes: with raw inputs, gradients are larger by the scale and parameters smaller by it.
    """
    first = "network.hidden.0.weight" if len(network.hidden) else "network.head.weight"
    if network.input_scale is None or first not in leaves:
        return dict(leaves)
    return dict(leaves) | {first: leaves[first] * network.input_scale**power}


def mlp_of(policy: Policy) -> MLP:
    """Return the network of a policy that can be exported to other libraries.

    Raises:
        TypeError: not a Gaussian or categorical policy on an `MLP` with tanh or ReLU and without context inputs.
    """
    network = policy.network if isinstance(policy, GaussianPolicy | CategoricalPolicy) else None
    if not isinstance(network, MLP) or network.activation not in ACTIVATIONS or hasattr(network, "context"):
        raise TypeError(
            "expected a Gaussian or categorical policy on an MLP with tanh or ReLU and no context inputs, got "
            + checks.told(policy)
            + ("" if network is None else f" on {checks.told(network)}")
            + (" with context inputs" if hasattr(network, "context") else "")
        )
    return network


def _linear(params: Mapping[str, Tensor], name: str) -> nn.Linear:
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    layer: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, weight.shape[1], weight.shape[0], dtype=weight.dtype, device=weight.device
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def save_policy(path: str | os.PathLike[str], policy: Policy, params: Mapping[str, Tensor]) -> None:
    """Write the weights of `to_module` to a safetensors file, with metadata sufficient to rebuild the policy.

    Tensors are named as in the ``nn.Sequential`` (``0.weight``, ...); a Gaussian policy adds ``log_std`` ``[A]``.
    The metadata are ``distribution`` (``gaussian`` or ``categorical``), ``activation`` (``tanh`` or ``relu``) and the
    layer ``sizes``.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written; one that was there before is kept.
        TypeError: see `to_module`.
    """
    from safetensors.torch import save

    module, network = to_module(policy, params), mlp_of(policy)
    tensors = {name: leaf.detach().cpu().contiguous() for name, leaf in module.state_dict().items()}
    if isinstance(policy, GaussianPolicy):
        log_std = complete(policy, params)["log_std"]
        tensors["log_std"] = log_std.clamp_min(policy.min_log_std).cpu().contiguous()
    sizes = [module[0].in_features, *(layer.out_features for layer in module if isinstance(layer, nn.Linear))]
    metadata = {
        "distribution": "gaussian" if isinstance(policy, GaussianPolicy) else "categorical",
        "activation": ACTIVATIONS[network.activation].__name__.lower(),
        "sizes": " ".join(map(str, sizes)),
    }
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_bytes(save(tensors, metadata))  # safetensors' own `save_file` raises errors that are no OSError
    temporary.replace(target)
