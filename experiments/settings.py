"""Parse configuration fields with several values each from words on a command line, such as ``rule=maml,meta-sgd``.

Commas separate values, an x separates sizes of layers (``hidden=64x64,32``), and two dots separate the ends of a range
(``rate=0.03..3``). ``none`` means no value, or no layers. Values are validated like those of flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from experiments.config import Config
from experiments.errors import InputError
from experiments.lookup import choose

FIXED = {
    "benchmark": "scores on different benchmarks cannot be compared",
    "horizon": "returns of shorter and longer episodes cannot be compared",
    "seed": "all settings are trained with the same seeds, as many as --seeds says",
    "env_steps": "all settings are trained for the same number of environment steps, set by --env-steps",
    "compile": "it changes how long training takes, not its result",
}
"""Fields that cannot be varied, and why."""


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included."""

    low: float
    high: float
    whole: bool

    @property
    def logarithmic(self) -> bool:
        """Whether the scale is logarithmic: for positive floats whose ends differ by a factor of ten or more."""
        return not self.whole and self.low > 0.0 and self.high >= 10.0 * self.low

    def text(self, value: float) -> str:
        """Return a value as written on a command line; a float is rounded to three digits within the range."""
        return str(value) if self.whole else repr(min(max(float(f"{value:.3g}"), self.low), self.high))


Space = Mapping[str, Range | tuple[str, ...]]
"""Search space by field: a range, or values as written on the command line."""


def read(words: Sequence[str]) -> dict[str, str]:
    """Split words ``field=values`` into a dict of unparsed values by field.

    Raises:
        InputError: a word has another form, or its field is unknown, one of `FIXED`, or given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"expected field=value,value, such as discount=0.9,0.95, got {word!r}")
        name = name.replace("-", "_")
        choose("setting", name, Config.model_fields)
        if name in FIXED:
            raise InputError(f"{name} cannot be varied: {FIXED[name]}; leave it out")
        if name in found:
            raise InputError(
                f"expected every setting once, got {name} again in {word!r}; separate its values by commas"
            )
        found[name] = text
    return found


def changed(config: Config, settings: Mapping[str, str]) -> Config:
    """Return the configuration with some fields changed to values as written on a command line.

    Raises:
        ValidationError: a value is invalid.
    """
    return Config(**config.model_dump() | {field: _value(field, text) for field, text in settings.items()})


def _value(field: str, text: str) -> Any:
    """Return a written value in the form in which `Config` validates it: text, a tuple of layer sizes, or None."""
    kind = Config.model_fields[field].annotation
    layers = get_origin(kind) is tuple
    if text == "none" and (layers or NoneType in get_args(kind)):
        return () if layers else None
    return tuple(text.split("x")) if layers else text


def written(value: Any) -> str:
    """Return a value as written on a command line."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def values(config: Config, field: str, text: str) -> dict[str, Config]:
    """Return the configuration with each of a field's comma-separated values, by the value as written.

    Raises:
        InputError: a value is given twice, even if written differently.
        ValidationError: a value is invalid.
    """
    found: dict[str, Config] = {}
    for word in text.split(","):
        one = changed(config, {field: word})
        if word in found or one in found.values():
            raise InputError(f"expected every value of {field} once, got {word} again; leave it out")
        found[word] = one
    return found


def space(config: Config, words: Sequence[str]) -> dict[str, Range | tuple[str, ...]]:
    """Return the search space that words describe, by field.

    Raises:
        InputError: a range is not of numbers or its first end is not below the other; there is only one value; or see
            `read` and `values`.
        ValidationError: a value or an end of a range is invalid.
    """
    return {field: _dimension(config, field, text) for field, text in read(words).items()}


def _dimension(config: Config, field: str, text: str) -> Range | tuple[str, ...]:
    first, dots, last = text.partition("..")
    if not dots:
        found = tuple(values(config, field, text))
        if len(found) < 2:
            raise InputError(f"{field}: expected several values or a range, got {text} alone; or pass it as a flag")
        return found
    low, high = (getattr(changed(config, {field: end}), field) for end in (first, last))
    if not {type(low), type(high)} <= {int, float}:
        raise InputError(f"{field}: expected a range of numbers, got {text}; list the values, separated by commas")
    if low >= high:
        raise InputError(f"{field}: expected a range low..high with low < high, got {text}")
    return Range(low, high, whole=isinstance(low, int))
