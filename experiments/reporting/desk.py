"""What sections are made from, and what they are made of."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from experiments.figures.canvas import Drawn
from experiments.figures.page import COLORS
from experiments.reporting import summaries
from experiments.reporting.live import Live
from experiments.reporting.sources import Contender, Material
from experiments.reporting.tables import Table

FEW = 6  # contenders whose curves can be told apart in one picture
BESIDE = 6  # columns of a table that still fits beside a figure


@dataclass(frozen=True)
class Figure:
    """A drawing, or a moving picture as an address that holds it; and a sentence that says what to see in it."""

    caption: str
    svg: Markup = Markup()
    moving: str = ""
    still: str = ""
    """shown instead of the moving picture to those who asked for less motion"""
    alt: str = ""


@dataclass
class Section:
    """A part of the page."""

    id: str
    title: str
    lead: str = ""
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    note: str = ""

    def draw(self, drawn: Drawn, caption: str) -> None:
        """Add a drawing. It is safe to show: matplotlib wrote it, and escapes the words in it."""
        self.figures.append(Figure(caption, Markup(drawn.svg)))  # noqa: S704

    @property
    def beside(self) -> bool:
        """Whether its one figure and its narrow tables stand side by side where there is room."""
        return len(self.figures) == 1 and bool(self.tables) and all(len(t.columns) <= BESIDE for t in self.tables)


class Desk:
    """The material on a desk, with a colour for every contender.

    Args:
        material: what was read.
        folder: where figures and tables are written.
        live: the learner, where there is one.
    """

    def __init__(self, material: Material, folder: Path, live: Live) -> None:
        self.material, self.folder, self.live = material, folder, live
        self.split = material.splits[0] if material.splits else ""
        self.scored = material.on(self.split)
        # the best first: those whose curves are drawn in one picture must not share a colour
        order = [*summaries.ranked(self.scored, self.split), *material.contenders]
        labels = list(dict.fromkeys(contender.label for contender in order))
        self.swatches = {label: i % len(COLORS) for i, label in enumerate(labels)}
        self.colors = {label: COLORS[i] for label, i in self.swatches.items()}

    @property
    def alone(self) -> bool:
        """Whether the page is about one contender."""
        return len(self.material.contenders) == 1

    @property
    def reference(self) -> Contender:
        """What others are compared with: the last."""
        return self.scored[-1]

    def few(self) -> list[Contender]:
        """The best of those that were scored, in their order; no more than can be told apart."""
        best = summaries.ranked(self.scored, self.split)[:FEW]
        return [contender for contender in self.scored if contender in best]

    def path(self, name: str, contender: Contender | None = None) -> Path:
        """Where a figure goes, without a suffix; with the contender's name if there are several."""
        own = "" if contender is None or self.alone else f"-{self.file_part(contender)}"
        return self.folder / f"{name}{own}"

    def file_part(self, contender: Contender) -> str:
        """A name for files, unlike that of any other contender."""
        position = [one.label for one in self.material.contenders].index(contender.label)
        return f"{position + 1}-{summaries.file_name(contender.label)}"[:60]


def address(file: Path, kind: str) -> str:
    """An address that holds the file."""
    return f"data:{kind};base64," + base64.b64encode(file.read_bytes()).decode()


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
