"""From a name to an object: of a table, of an installed package, or at an import path."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import operator
from collections.abc import Mapping
from typing import Any

from experiments.errors import InputError

GROUPS = {
    "benchmark": "metarl.benchmarks",
    "policy": "metarl.policies",
    "rule": "metarl.rules",
    "inner loss": "metarl.losses",
    "outer loss": "metarl.losses",
}
"""Entry-point groups by kind: what may be imported, and from where."""


def choose(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The table's entry.

    Raises:
        InputError: no such name; tells what is known and what comes close.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"unknown {kind} {name!r}; {hint}known are {', '.join(table)}")


def choose_or_import(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The table's entry, or the object that an installed package offers, or at a path ``package.module:NAME``.

    Only the kinds of `GROUPS` may be imported, and `runs.load` asks the user before a stored configuration may.

    An installed package may offer names of its own, in these entry-point groups. They are read from its metadata,
    and imported only if the user gives one. A name of the table cannot be taken.

    Raises:
        InputError: none of these, or a name that several packages offer.
    """
    if is_plugin(kind, name, table):
        return _imported(kind, name, import_path(kind, name))
    try:
        return choose(kind, name, table if name in table else {**table, **offered_names(kind)})
    except InputError as error:
        raise InputError(f"{error}; or give package.module:NAME") from error


def import_path(kind: str, name: str) -> str:
    """The path ``package.module:NAME`` of what `is_plugin`.

    Raises:
        InputError: several packages offer the name.
    """
    if ":" in name:
        return name
    path, *others = offered_names(kind)[name]
    if others:
        raise InputError(f"{kind} {name!r} is offered by several packages; give one of {', '.join([path, *others])}")
    return path


def is_plugin(kind: str, name: str, table: Mapping[str, Any]) -> bool:
    """Whether `choose_or_import` would import for this name what is no part of this project."""
    return name not in table and (":" in name or name in offered_names(kind))


def offered_names(kind: str) -> dict[str, list[str]]:
    """Import paths ``package.module:NAME`` that installed packages offer, by name; nothing is imported."""
    paths: dict[str, list[str]] = {}
    for entry in importlib.metadata.entry_points(group=GROUPS[kind]):
        path = entry.value.partition("[")[0].strip()  # what follows are extras, which nobody installs here
        if path not in paths.setdefault(entry.name, []):
            paths[entry.name].append(path)
    return paths


def _imported(kind: str, name: str, path: str) -> Any:
    """The object at an import path; errors speak of the name that the user gave."""
    module, _, attribute = path.partition(":")
    try:
        return operator.attrgetter(attribute.strip())(importlib.import_module(module.strip()))
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind} {name!r} cannot be imported: {error}; expected package.module:NAME, installed or found by"
            " PYTHONPATH (. is this folder)"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{kind} {name!r} cannot be imported: {error}; expected package.module:NAME") from error
    except Exception as error:  # whatever somebody else's code may raise
        raise InputError(
            f"{kind} {name!r} cannot be imported, {type(error).__name__}: {error}; mend the module"
        ) from error
