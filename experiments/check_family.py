"""Say in plain words what is wrong with a family of environments of one's own.

python experiments/check_family.py NAME             (a benchmark of metarl or of an installed package)
python experiments/check_family.py package.module:NAME [--horizon 100]

NAME is a benchmark or a family, or a function or class that makes one. Exit code 0 if nothing was found, 1
with findings, 2 if there is nothing to check.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.build import find_benchmark
from experiments.cli import parse
from experiments.errors import InputError, script
from metarl.testing import check_family

FOUND = 1


@dataclass(frozen=True)
class Options:
    """What to check."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """benchmark or family, by name or package.module:NAME"""
    horizon: int | None = None
    """time limit in steps; its own unless given"""


def main(argv: list[str]) -> int:
    found: list[str] = []
    return script(lambda given: found.extend(check(given)))(argv) or (FOUND if found else 0)


def check(argv: list[str]) -> list[str]:
    """Check and print what was found, one line a finding."""
    options = parse(Options, argv, __doc__)
    if not options.name:
        raise InputError("expected a benchmark or family, by name or package.module:NAME; see --help")
    try:
        made = find_benchmark(options.name, options.horizon)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error
    family = getattr(made, "family", made)
    if not hasattr(family, "step"):
        raise InputError(f"{options.name!r} is of type {type(made).__name__}; expected a benchmark or a family")
    found = check_family(family)
    for line in found:
        print(f"- {line}")
    print(f"{options.name}: " + (f"{len(found)} finding(s)" if found else "nothing found"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
