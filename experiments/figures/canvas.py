"""Base of all figures of a report: a size that suits phones, files beside the page, and the page's colours."""

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
    "svg.fonttype": "none",  # keep text as text, to be searched, read aloud and set in the page's font
    "text.parse_math": False,  # labels may contain dollar signs
}
LONGEST = 24  # most characters of a label in a figure
ROW = 0.2  # height of a legend's row in inches
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
    """A drawn figure: its name and title, its files, and its SVG for embedding in a page."""

    name: str
    title: str
    files: list[Path] = field(default_factory=list)
    svg: str = ""


@contextmanager
def panel(path: Path, title: str, size: tuple[float, float] = SIZE) -> Iterator[tuple[Figure, Drawn]]:
    """Yield a figure of ``size`` inches; on leaving, write it to ``path`` as PNG and SVG, and make the page's SVG."""
    drawn = Drawn(path.name, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(NARROW), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the PNG's font does not cover all scripts
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
    """Add a legend below the axes, making the figure higher by every row after the first so that axes keep their size.

    Labels that start with an underscore, which matplotlib would hide, get a space in front.
    """
    figure.set_figheight(figure.get_figheight() + ROW * (-(-len(handles) // 2) - 1))
    for handle in handles:
        label = short(str(handle.get_label()))
        handle.set_label(f" {label}" if label.startswith("_") else label)
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def short(label: str) -> str:
    """Return a label shortened to `LONGEST` characters."""
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def themed(svg: str, prefix: str, title: str) -> str:
    """Return an SVG element to embed in a page: without header, with the page's colours and fonts, and with unique ids.

    Args:
        svg: SVG document as written by matplotlib.
        prefix: prefix of every id, so that figures of the same page do not share ids.
        title: label for screen readers.
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
    """Return the replacement of a matplotlib font by the page's font."""
    return "font-family: inherit" if match.group(0).startswith("font-family") else "inherit"


def decade_above(typical: float) -> float:
    """Return the power of ten from which a symlog scale is logarithmic, so that its labels do not collide at zero."""
    return float(10.0 ** math.ceil(math.log10(typical)))


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: matplotlib's default is math text, whose parsing is turned off."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
    axis.set_minor_formatter(NullFormatter())


def visible(values: Array) -> tuple[float, float]:
    """Return the range of returns to show: from the worst to the best, cut off far below the median."""
    best, middle = float(np.max(values)), float(np.median(values))
    worst = float(np.min(values))
    return (max(worst, middle - 4.0 * (best - middle)) if best > middle else worst), best
