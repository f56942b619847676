"""Parse command lines: a preset or a configuration file, then flags for configuration fields and script options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from pydantic import ValidationError

from experiments.config import Config
from experiments.errors import InputError, describe, existing
from experiments.lookup import choose
from experiments.names import (
    ACTIVATIONS,
    BASELINES,
    BENCHMARKS,
    INNER_LOSSES,
    LOSSES,
    META_OPTIMIZERS,
    PARAMETERISATIONS,
    POLICIES,
    RULES,
)
from experiments.plugins import imports
from experiments.presets import PRESETS

Options = TypeVar("Options")


Plugins = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""Import paths that a stored run may import; the flag is repeated for each."""


REGISTRY = tyro.constructors.ConstructorRegistry()
"""How flags are read where tyro's own way does not do."""


@REGISTRY.primitive_rule
def _whole(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    """Read whole numbers also as ``1e6``, as budgets are often written."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def whole_number(text: str) -> int:
    """Return the whole number that a text stands for, such as ``20``, ``1_000_000`` or ``1e6``.

    Raises:
        ValueError: it stands for none.
    """
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if (number := float(text)).is_integer():
            return int(number)
    raise ValueError(f"expected a whole number, such as 20 or 1e6, got {text!r}")


def parse(kind: type[Options], argv: Sequence[str], description: str | None, start: Options | None = None) -> Options:
    """Parse flags into a ``kind``, with defaults from ``start``; an unknown flag exits with code 2 and a suggestion."""
    return tyro.cli(kind, args=list(argv), description=description, default=start, registry=REGISTRY)


def stored(file: Path, argv: Sequence[str]) -> Config:
    """Return a configuration stored as JSON, such as a run's ``config.json``.

    Raises:
        InputError: the file does not exist, is not a configuration, or imports a plug-in that no flag in ``argv``
            allows.
    """
    try:
        config = Config.model_validate_json(existing(file, "configuration file").read_bytes())
    except ValidationError as error:
        raise InputError(f"{file}: expected a configuration, such as a run's config.json; {describe(error)}") from error
    for name, path in imports(vars(config)).items():
        if name not in given(argv):
            flag = f"--{name.replace('_', '-')} {path}"
            raise InputError(
                f"{file} imports {path}, which is not part of metarl; allow it with {flag}, or choose another file"
            )
    return config


def start(name: str, argv: Sequence[str]) -> Config:
    """Return the configuration that a command line begins with, given the name of a preset or of a JSON file.

    Raises:
        InputError: the name is that of a folder, or see `stored` and `preset`.
    """
    if Path(name).is_dir():
        raise InputError(
            f"{name} is a folder, expected a preset or a file; start from {Path(name) / 'config.json'}, or continue "
            f"the run with --resume {name}"
        )
    return stored(Path(name), argv) if name.endswith(".json") else preset(name)


def preset(name: str) -> Config:
    """Return a preset's configuration.

    Raises:
        InputError: there is no such preset.
    """
    if name in BENCHMARKS and name not in PRESETS:
        raise InputError(f"{name!r} is a benchmark, expected a preset; choose one and add --benchmark {name}")
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
    "policy": POLICIES,
    "rule": RULES,
}
"""Tables of the configuration fields whose values are names."""


def _help(name: str) -> str:
    """Return the help text of a configuration field, with the known names if it has a table of them."""
    said = Config.model_fields[name].description or ""
    return f"{said}: {', '.join(KNOWN[name])}" if name in KNOWN else said


def given(argv: Sequence[str]) -> set[str]:
    """Return the configuration fields that have a flag in ``argv``, including ``--no-...`` flags."""
    names = {part.partition("=")[0][2:].replace("-", "_") for part in argv if part.startswith("--")}
    return {name for name in Config.model_fields if {name, f"no_{name}"} & names}


def refuse_unread(fields: Iterable[str], read: Iterable[str]) -> None:
    """Check that every setting has an effect: one that changes nothing is a mistake, or an experiment that never was.

    Args:
        fields: configuration fields that the user has set.
        read: configuration fields that take effect, such as `experiments.build.Setup.read`.

    Raises:
        InputError: a field is set but takes no effect.
    """
    unread = sorted(set(fields) - set(read))
    if unread:
        flags = ", ".join("--" + name.replace("_", "-") for name in unread)
        raise InputError(f"{flags}: unused with these settings; leave it out, or choose settings that use it")


def parse_config(kind: type[Options], argv: Sequence[str], description: str | None) -> tuple[Config, Options]:
    """Parse a command line: the name of a preset or JSON file, flags that change its configuration, flags of ``kind``.

    tyro parses plain types and pydantic validates the values afterwards, so that an invalid value gives a one-line
    error. ``--help`` without a preset shows the defaults of `Config`.
    """
    named = bool(argv) and not argv[0].startswith("-")
    if not named and not {"-h", "--help"} & set(argv):
        raise InputError(f"expected a preset first: {', '.join(PRESETS)}; see --help")
    base = start(argv[0], argv) if named else Config()
    fields: list[tuple[str, Any, Any]] = [
        (name, Annotated[info.annotation, tyro.conf.arg(help=_help(name))], field(default=getattr(base, name)))
        for name, info in Config.model_fields.items()
    ]
    flags = make_dataclass("Flags", fields, frozen=True)
    both = make_dataclass(
        "Both",
        [("config", tyro.conf.OmitArgPrefixes[flags]), ("options", tyro.conf.OmitArgPrefixes[kind])],  # type: ignore[valid-type]
    )
    listing = "\n".join(["Presets:", *(f"    {name}: {line}" for name, (line, _) in PRESETS.items())])
    parsed = tyro.cli(both, args=list(argv[named:]), description=f"{description}\n{listing}", registry=REGISTRY)
    return Config(**vars(parsed.config)), parsed.options
