"""Findings about learned parameters: not registered with any module, or without an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_UNUSED = "is learned but no"


def unused(name: str, what: str) -> str:
    """Describe a learned parameter on which nothing depends of what is named, such as ``"action"``."""
    return f"{name} {_UNUSED} {what} depends on it"


def is_fault(finding: str) -> bool:
    """Return whether a finding of a check is a fault; an unused parameter may be so by design, or at first only."""
    return _UNUSED not in finding


def unregistered(thing: object) -> Iterator[str]:
    """Describe each attribute of an object or its modules that holds a tensor to be learned but is not registered.

    Found are parameters in plain lists, tuples or mappings, parameters of objects that are not modules, and other leaf
    tensors that require gradients.
    """
    owners = list(thing.modules()) if isinstance(thing, nn.Module) else [thing]
    known = {id(p) for owner in owners if isinstance(owner, nn.Module) for p in owner.parameters()}
    for owner in owners:
        for name, value in getattr(owner, "__dict__", {}).items():
            if any(_learnable(p) and id(p) not in known for p in _parts(value)):
                yield (
                    f"{name} of {type(owner).__name__} is never learned or saved: it must be an nn.Parameter, as an "
                    "attribute of an nn.Module or in an nn.ParameterList or nn.ParameterDict"
                )


def _learnable(value: Any) -> bool:
    return isinstance(value, Tensor) and (isinstance(value, nn.Parameter) or (value.requires_grad and value.is_leaf))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]
