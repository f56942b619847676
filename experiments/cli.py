"""Command lines: a preset's name, then flags for every field of a configuration and of a script's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose
from experiments.names import (
    ACTIVATIONS,
    BASELINES,
    BENCHMARKS,
    INNER_LOSSES,
    LOSSES,
    META_OPTIMIZERS,
    PARAMETERISATIONS,
    RULES,
)
from experiments.presets import PRESETS

Options = TypeVar("Options")


Plugins = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""What a stored run may import; the flag is given once for each."""


def parse(kind: type[Options], argv: Sequence[str], description: str | None, start: Options | None = None) -> Options:
    """Flags for the fields of ``kind``, changing ``start``; a misspelt one ends with exit code 2 and a suggestion."""
    return tyro.cli(kind, args=list(argv), description=description, default=start)


def preset(name: str) -> Config:
    """A preset's configuration.

    Raises:
        InputError: no such preset.
    """
    if name in BENCHMARKS and name not in PRESETS:
        raise InputError(f"{name!r} is a benchmark: expected a preset, which --benchmark {name} then changes")
    config: Config = choose("preset", name, PRESETS)[1]
    return config


KNOWN: Mapping[str, Mapping[str, Any]] = {
    "activation": ACTIVATIONS,
    "baseline": BASELINES,
    "benchmark": BENCHMARKS,
    "inner_loss": INNER_LOSSES,
    "meta_optimizer": META_OPTIMIZERS,
    "outer_loss": LOSSES,
    "parameterisation": PARAMETERISATIONS,
    "rule": RULES,
}
"""Fields that name an entry of a table."""


def _help(name: str) -> str:
    """What ``--help`` says of a field of the configuration."""
    said = Config.model_fields[name].description or ""
    return f"{said}: {', '.join(KNOWN[name])}" if name in KNOWN else said


def parse_config(kind: type[Options], argv: Sequence[str], description: str | None) -> tuple[Config, Options]:
    """A preset's name, flags that change it, and the flags of ``kind``.

    tyro reads plain types and pydantic judges the values afterwards, so that a refused value is one line.
    Without a preset (or with ``--help`` alone) the defaults of `Config` are the start.
    """
    named = bool(argv) and not argv[0].startswith("-")
    if not argv:
        raise InputError(f"expected a preset: {', '.join(PRESETS)}; or --help")
    base = preset(argv[0]) if named else Config()
    fields: list[tuple[str, Any, Any]] = [
        (name, Annotated[info.annotation, tyro.conf.arg(help=_help(name))], field(default=getattr(base, name)))
        for name, info in Config.model_fields.items()
    ]
    flags = make_dataclass("Flags", fields, frozen=True)
    both = make_dataclass(
        "Both",
        [("config", tyro.conf.OmitArgPrefixes[flags]), ("options", tyro.conf.OmitArgPrefixes[kind])],  # type: ignore[valid-type]
    )
    listing = "\n".join(f"    {name}: {line}" for name, (line, _) in PRESETS.items())
    parsed = tyro.cli(both, args=list(argv[named:]), description=f"{description}\nPresets:\n{listing}")
    return Config(**vars(parsed.config)), parsed.options
