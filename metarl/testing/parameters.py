"""Findings about learned parameters: not registered with any module, or without an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

_UNUSED = "is learned but no"


def unused(name: str, what: str) -> str:
    """Describe a learned parameter on which nothing depends of what is named, such as ``"action"``."""
    return f"{name} {_UNUSED} {what} depends on it"


def is_fault(finding: str) -> bool:
    """Return whether a finding of a check is a fault; an unused parameter may be so by design, or at first only."""
    return _UNUSED not in finding


def unregistered(thing: object) -> Iterator[str]:
    """Describe each attribute of an object or its modules that holds an unregistered ``nn.Parameter``.

    Found are parameters in plain lists, tuples or mappings, and parameters of objects that are not modules.
    """
    owners = list(thing.modules()) if isinstance(thing, nn.Module) else [thing]
    known = {id(p) for owner in owners if isinstance(owner, nn.Module) for p in owner.parameters()}
    for owner in owners:
        for name, value in getattr(owner, "__dict__", {}).items():
            if any(isinstance(p, nn.Parameter) and id(p) not in known for p in _parts(value)):
                yield (
                    f"{name} of {type(owner).__name__} is never learned or saved: an nn.Parameter must be an attribute "
                    "of an nn.Module, or in an nn.ParameterList or nn.ParameterDict"
                )


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]
