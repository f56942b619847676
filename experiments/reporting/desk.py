"""The input of the sections of a page (`Desk`) and their building blocks (`Section`, `Figure`)."""

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

FEW = 6  # most contenders whose curves can be told apart in one figure
BESIDE = 6  # most columns of a table that fits beside a figure


@dataclass(frozen=True)
class Figure:
    """A drawing, or an animation as a data URL, with a caption that says what to see in it."""

    caption: str
    svg: Markup = Markup()
    moving: str = ""
    still: str = ""
    """image shown instead of the animation to readers who prefer reduced motion"""
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
        """Add a drawing. Its SVG is safe to embed, since matplotlib wrote it and escapes all text in it."""
        self.figures.append(Figure(caption, Markup(drawn.svg)))  # noqa: S704

    @property
    def beside(self) -> bool:
        """Whether its figure and tables may stand side by side: it has one figure, and its tables are narrow."""
        return len(self.figures) == 1 and bool(self.tables) and all(len(t.columns) <= BESIDE for t in self.tables)


class Desk:
    """Everything that the sections of a page share: the material, a colour for every contender, and the output folder.

    Args:
        material: what was read from the folders.
        folder: where figures and tables are written.
        live: the learner, if there is one.
    """

    def __init__(self, material: Material, folder: Path, live: Live) -> None:
        self.material, self.folder, self.live = material, folder, live
        self.split = material.splits[0] if material.splits else ""
        self.scored = material.on(self.split)
        # colours go to the best first, since those whose curves are drawn in one figure must not share a colour
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
        """The contender that others are compared with: the last one."""
        return self.scored[-1]

    def few(self) -> list[Contender]:
        """Return the best `FEW` of the scored contenders, in their original order."""
        best = summaries.ranked(self.scored, self.split)[:FEW]
        return [contender for contender in self.scored if contender in best]

    def path(self, name: str, contender: Contender | None = None) -> Path:
        """Return the path of a figure without suffix; it includes the contender's name if there are several."""
        own = "" if contender is None or self.alone else f"-{self.file_part(contender)}"
        return self.folder / f"{name}{own}"

    def file_part(self, contender: Contender) -> str:
        """Return a part of file names that is unique to the contender."""
        position = [one.label for one in self.material.contenders].index(contender.label)
        return f"{position + 1}-{summaries.file_name(contender.label)}"[:60]


def address(file: Path, kind: str) -> str:
    """Return the file's contents as a data URL of the MIME type ``kind``."""
    return f"data:{kind};base64," + base64.b64encode(file.read_bytes()).decode()


def listed(names: Sequence[str]) -> str:
    """Return the names joined as in ``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
