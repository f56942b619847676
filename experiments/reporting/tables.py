"""Tables that are shown on the page and written as CSV and Markdown, and the formatting of their numbers."""

from __future__ import annotations

import base64
import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from metarl.stats import Interval

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A table cell: text, a number, or a number with an interval."""

    text: str
    value: float | None = None
    """value for sorting and CSV; None for text"""
    interval: str = ""
    ends: tuple[float, float] | None = None
    swatch: int | None = None
    """index of the contender's colour in the figures"""
    strong: bool = False

    @property
    def plain(self) -> str:
        """Text and interval, with ASCII hyphens for minus signs and dashes."""
        return f"{self.text} {self.interval}".strip().replace(MINUS, "-").replace(NONE, "-")


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first column names the row."""

    name: str
    """name of its files"""
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    caption: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, to be aligned right."""
        columns = zip(*self.rows, strict=True) if self.rows else [[] for _ in self.columns]
        return [any(cell.value is not None for cell in column) for column in columns]

    @property
    def csv(self) -> str:
        """The table as CSV with all digits; intervals take two more columns."""
        wide = [any(row[i].ends is not None for row in self.rows) for i in range(len(self.columns))]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        header = [
            (name, f"{name}: low", f"{name}: high") if w else (name,)
            for name, w in zip(self.columns, wide, strict=True)
        ]
        writer.writerow([harmless(name) for names in header for name in names])
        for row in self.rows:
            cells = [_csv(cell, w) for cell, w in zip(row, wide, strict=True)]
            writer.writerow([part for parts in cells for part in parts])
        return buffer.getvalue()

    @property
    def csv_link(self) -> str:
        """The CSV as a data URL, to be saved from the page."""
        return "data:text/csv;base64," + base64.b64encode(self.csv.encode()).decode()

    @property
    def markdown(self) -> str:
        """The table in Markdown, with numbers as they are shown."""
        marks = ["---:" if right else "---" for right in self.numeric]
        lines = [[_markdown(name) for name in self.columns], marks]
        lines += [[_markdown(cell.plain) for cell in row] for row in self.rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def write(self, folder: Path) -> None:
        """Write ``NAME.csv`` and ``NAME.md``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.csv").write_text(self.csv, encoding="utf-8")
        (folder / f"{self.name}.md").write_text(self.markdown, encoding="utf-8")


def _csv(cell: Cell, wide: bool) -> list[str]:
    ends = ["", ""] if cell.ends is None else [repr(end) for end in cell.ends]
    first = harmless(cell.plain) if cell.value is None else repr(cell.value)
    return [first, *ends] if wide else [first]


def harmless(text: str) -> str:
    """Return the text, quoted if a spreadsheet might otherwise take it for a formula."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} and text != "-" else text


def _markdown(text: str) -> str:
    escaped = "".join("\\" + sign if sign in "\\|`*_[]<>" else sign for sign in text)
    return " ".join(escaped.split())


def clean(text: object, longest: int = 80) -> str:
    """Return text from a file on one line, without control characters and shortened to ``longest`` characters."""
    joined = " ".join(str(text).split())
    shown = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign)[0] == "C" else sign for sign in joined)
    return short(shown, longest)


def short(text: str, longest: int = 24) -> str:
    """Return a label shortened to ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def digits(values: Iterable[float]) -> int:
    """Return the number of decimals for a column: 1 if the largest absolute value is >= 20, 2 if it is >= 1, else 3."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 1 if largest >= 20.0 else 2 if largest >= 1.0 else 3


def number(value: float, decimals: int) -> str:
    """Return a number as shown in tables; NaN is a dash."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("" if value > 0 else MINUS) + "\N{INFINITY}"
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")  # no minus before a zero
    return text.replace("-", MINUS)


def words(text: object, *, swatch: int | None = None, strong: bool = False) -> Cell:
    """Return a cell with text."""
    return Cell(str(text), swatch=swatch, strong=strong)


def figure(value: float, decimals: int, *, strong: bool = False) -> Cell:
    """Return a cell with a number."""
    return Cell(number(value, decimals), float(value), strong=strong)


def percent(share: float, *, decimals: int = 0) -> Cell:
    """Return a cell with a share between 0 and 1 in percent."""
    shown = number(100.0 * share, decimals)
    if share > 0.0 and not shown.strip("0."):
        shown = "<" + number(10.0**-decimals, decimals)
    return Cell(f"{shown}\N{NARROW NO-BREAK SPACE}%", float(share))


def count(value: float) -> Cell:
    """Return a cell with a whole number."""
    return Cell(f"{value:,.0f}", float(value))


def nothing() -> Cell:
    """Return an empty cell, shown as a dash."""
    return Cell(NONE)


def with_interval(found: Interval, decimals: int, *, strong: bool = False) -> Cell:
    """Return a cell with an estimate and its interval, if it has one."""
    if math.isnan(found.low):
        return figure(found.estimate, decimals, strong=strong)
    ends = (float(found.low), float(found.high))
    return Cell(number(found.estimate, decimals), float(found.estimate), bracket(ends, decimals), ends, strong=strong)


def percent_with_interval(found: Interval) -> Cell:
    """Return a cell with a share between 0 and 1 and its interval, in percent."""
    ends = (float(found.low), float(found.high))
    shown = f"[{number(100.0 * ends[0], 0)}, {number(100.0 * ends[1], 0)}]"
    return replace(percent(found.estimate), interval=shown, ends=ends)


def bracket(ends: Sequence[float], decimals: int) -> str:
    """Return an interval as text; empty for a single score, which has none."""
    if math.isnan(ends[0]):
        return ""
    return f"[{number(ends[0], decimals)}, {number(ends[1], decimals)}]"


def said(found: Interval, decimals: int | None = None) -> str:
    """Return an estimate and its interval as text for a sentence."""
    places = digits(found[:3]) if decimals is None else decimals
    return f"{number(found.estimate, places)} {bracket(found[:2], places)}".rstrip()
