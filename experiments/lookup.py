"""Look up objects by name: in a table, among those that installed packages offer, or at an import path."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import operator
from collections.abc import Mapping
from typing import Any

from experiments.errors import InputError
from metarl import checks

GROUPS = {
    "benchmark": "metarl.benchmarks",
    "policy": "metarl.policies",
    "rule": "metarl.rules",
    "inner loss": "metarl.losses",
    "outer loss": "metarl.losses",
}
"""Kinds of objects that may be imported, with the entry-point group in which packages offer them."""


def choose(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return the table's entry for ``name``.

    Raises:
        InputError: there is no such name. The message lists the known ones and suggests a similar one.
    """
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, 1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InputError(f"unknown {kind} {name!r}; {hint}known are {', '.join(table)}")


def choose_or_import(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return the table's entry, or an object that an installed package offers or that is at ``package.module:NAME``.

    Only the kinds of `GROUPS` may be imported, and `runs.load` requires the user's permission before a stored
    configuration imports anything.

    Installed packages may offer further names in these entry-point groups. The names are read from the packages'
    metadata; an object is imported only if the user gives its name. A package cannot replace a name of the table.

    Raises:
        InputError: the name is unknown, cannot be imported, or is offered by several packages.
    """
    if is_plugin(kind, name, table):
        return _imported(kind, name, import_path(kind, name))
    try:
        return choose(kind, name, table if name in table else {**table, **offered_names(kind)})
    except InputError as error:
        raise InputError(f"{error}; or give package.module:NAME") from error


def import_path(kind: str, name: str) -> str:
    """Return the import path ``package.module:NAME`` of a name for which `is_plugin` is true.

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
    """Return whether `choose_or_import` would import this name from outside of this project."""
    return name not in table and (":" in name or name in offered_names(kind))


def offered_names(kind: str) -> dict[str, list[str]]:
    """Return the import paths ``package.module:NAME`` that installed packages offer, by name, importing nothing."""
    paths: dict[str, list[str]] = {}
    for entry in importlib.metadata.entry_points(group=GROUPS[kind]):
        path = entry.value.partition("[")[0].strip()  # a bracket begins the entry point's extras, ignored here
        if path not in paths.setdefault(entry.name, []):
            paths[entry.name].append(path)
    return paths


def _imported(kind: str, name: str, path: str) -> Any:
    """Return the object at an import path; error messages quote the name that the user gave."""
    module, _, attribute = path.partition(":")
    try:
        return operator.attrgetter(attribute.strip())(importlib.import_module(module.strip()))
    except ModuleNotFoundError as error:
        raise InputError(
            f"{kind} {name!r} cannot be imported: {error}; expected package.module:NAME, installed or on"
            " PYTHONPATH (. is the current folder)"
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{kind} {name!r} cannot be imported: {error}; expected package.module:NAME") from error
    except Exception as error:  # third-party code may raise anything
        raise InputError(f"{kind} {name!r} cannot be imported, {checks.raised(error)}; fix the module") from error
