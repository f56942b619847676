"""What all figures of a page are drawn on: a size for phones, files beside the page, and the page's own colours."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.figures.page import BEFORE, COLORS, INK, MUTED, STYLE, Array

SIZE = (4.2, 3.3)  # inches; a phone is about as wide
NARROW = {
    **STYLE,
    "font.size": 10.5,
    "axes.titlesize": 10.0,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",  # words stay words: they are found, read aloud and set in the page's own type
    "text.parse_math": False,  # a rule may be called $x$
}
LONGEST = 24  # letters of a label in a figure
ROW = 0.2  # inches of a legend's row
GRID = STYLE["grid.color"]
THEME = {
    **{color.lower(): f"var(--c{i})" for i, color in enumerate(COLORS)},
    INK.lower(): "var(--ink)",
    MUTED.lower(): "var(--muted)",
    BEFORE.lower(): "var(--before)",
    str(GRID).lower(): "var(--grid)",
    "#ffffff": "var(--paper)",
}


@dataclass
class Drawn:
    """A figure: what it is called, its files, and the SVG for a page."""

    name: str
    title: str
    files: list[Path] = field(default_factory=list)
    svg: str = ""


@contextmanager
def panel(path: Path, title: str, size: tuple[float, float] = SIZE) -> Iterator[tuple[Figure, Drawn]]:
    """A figure of ``size`` inches; at the end it is written beside ``path``, and its page's SVG is made."""
    drawn = Drawn(path.name, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(NARROW), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the PNG's font lacks
        figure = Figure(figsize=size, layout="constrained")
        yield figure, drawn
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        drawn.svg = themed(buffer.getvalue(), drawn.name, title)
        figure.suptitle(title, x=0.012, ha="left", fontsize=11.0, fontweight="bold")
        for kind in ("png", "svg"):
            metadata = {"Date": None} if kind == "svg" else {}
            file = path.with_name(f"{path.name}.{kind}")
            figure.savefig(file, dpi=160, facecolor="white", metadata=metadata)
            drawn.files.append(file)


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Below the axes, which keep their height: every row but the first makes the figure higher.

    Matplotlib hides labels that start with an underscore; rules may be called so.
    """
    figure.set_figheight(figure.get_figheight() + ROW * (-(-len(handles) // 2) - 1))
    for handle in handles:
        label = short(str(handle.get_label()))
        handle.set_label(f" {label}" if label.startswith("_") else label)
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def short(label: str) -> str:
    """A label that leaves room for the picture."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def themed(svg: str, prefix: str, title: str) -> str:
    """An SVG document made part of a page: no header, the page's colours and type, names of its own.

    Args:
        svg: as matplotlib writes it.
        prefix: put before every id, so that two figures of a page do not share one.
        title: read aloud instead of the picture.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    rest = re.sub(r"<!--.*?-->", "", rest, flags=re.S)
    rest = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend)[^"]*"', "", rest)
    own = re.sub(r"\W", "-", prefix)
    rest = re.sub(r' id="', f' id="{own}-', rest)
    rest = re.sub(r'(?:xlink:)?href="#', f'href="#{own}-', rest).replace("url(#", f"url(#{own}-")
    rest = re.sub(r"(?:font-family: |(?<=px ))'[^;\"]*sans-serif", _without_family, rest)
    for color, variable in THEME.items():
        rest = rest.replace(color, variable)
    rest = re.sub(r"\n\s*", "\n", rest)
    box_text = box.group(1) if box else ""
    return f'<svg viewBox="{box_text}" role="img" aria-label="{html.escape(title)}">{rest}'


def _without_family(match: re.Match[str]) -> str:
    """Matplotlib's fonts replaced by the page's."""
    return "font-family: inherit" if match.group(0).startswith("font-family") else "inherit"


def decade_above(typical: float) -> float:
    """The power of ten from which on a symmetric logarithmic scale is logarithmic: its labels do not meet at zero."""
    return float(10.0 ** math.ceil(math.log10(typical)))


def plain_numbers(axis: Axis) -> None:
    """Labels of a logarithmic axis as plain numbers: matplotlib's own are mathematics, which is not parsed here."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    axis.set_minor_formatter(NullFormatter())


def visible(values: Array) -> tuple[float, float]:
    """The range of returns worth a picture: from the best down to all of them, unless some are very far below."""
    best, middle = float(np.max(values)), float(np.median(values))
    worst = float(np.min(values))
    return (max(worst, middle - 4.0 * (best - middle)) if best > middle else worst), best
