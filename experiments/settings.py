"""Fields of a configuration and several values of each, as words on a command line: ``rule=maml,meta-sgd``.

Commas part values, an x the sizes of layers (``hidden=64x64,32``), two dots the ends of a range (``rate=0.03..3``);
``none`` is no value, or no layers. Values are judged as those of flags are.
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
    "benchmark": "scores on other tasks are no measure of a setting",
    "horizon": "returns of longer episodes are others",
    "seed": "all are trained from the same seeds, of which --seeds tells how many",
    "env_steps": "all are trained for the same number of environment steps, which --env-steps tells",
    "compile": "it changes how long training takes, and not what comes of it",
}
"""Fields that stay as they are, and why."""


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both among them."""

    low: float
    high: float
    whole: bool

    @property
    def logarithmic(self) -> bool:
        """Whether ratios count: floats above zero whose ends differ by a factor of ten or more."""
        return not self.whole and self.low > 0.0 and self.high >= 10.0 * self.low

    def text(self, value: float) -> str:
        """A value as a command line tells it: three digits of a float, within the range."""
        return str(value) if self.whole else repr(min(max(float(f"{value:.3g}"), self.low), self.high))


Space = Mapping[str, Range | tuple[str, ...]]
"""By field, where to look: a range, or values as they are written."""


def read(words: Sequence[str]) -> dict[str, str]:
    """By field, what is to be tried of it, as it is written.

    Raises:
        InputError: no ``field=...``, no field of a configuration or one of `FIXED`, or one that is given twice.
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
            raise InputError(f"expected every setting once, got {name} again in {word!r}; put a comma between values")
        found[name] = text
    return found


def changed(config: Config, settings: Mapping[str, str]) -> Config:
    """The configuration with some fields as they are written.

    Raises:
        ValidationError: a value that the field cannot have.
    """
    return Config(**config.model_dump() | {field: _value(field, text) for field, text in settings.items()})


def _value(field: str, text: str) -> Any:
    """What the configuration is to judge."""
    kind = Config.model_fields[field].annotation
    layers = get_origin(kind) is tuple
    if text == "none" and (layers or NoneType in get_args(kind)):
        return () if layers else None
    return tuple(text.split("x")) if layers else text


def written(value: Any) -> str:
    """A value as a command line tells it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def values(config: Config, field: str, text: str) -> dict[str, Config]:
    """The configuration with each of a field's values, by the value as it is written.

    Raises:
        InputError: a value that is given twice, whichever way it is written.
        ValidationError: one that the field cannot have.
    """
    found: dict[str, Config] = {}
    for word in text.split(","):
        one = changed(config, {field: word})
        if word in found or one in found.values():
            raise InputError(f"expected every value of {field} once, got {word} again; leave it out")
        found[word] = one
    return found


def space(config: Config, words: Sequence[str]) -> dict[str, Range | tuple[str, ...]]:
    """By field, where to look.

    Raises:
        InputError: see `read`, `values`; or a range of what is no number or whose first end is not below the other, or
            a value alone.
        ValidationError: a value or an end that the field cannot have.
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
        raise InputError(f"{field}: expected values, as a range is of numbers, got {text}; put commas between them")
    if low >= high:
        raise InputError(f"{field}: expected a range from its smaller end to its larger, got {text}")
    return Range(low, high, whole=isinstance(low, int))
