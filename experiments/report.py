"""Write one self-contained page about a run, about several runs, or about a comparison.

    python experiments/report.py runs/NAME                      # runs/NAME/report.html
    python experiments/report.py runs/A runs/B --output mine.html
    python experiments/report.py results/compare-NAME

Run folders that differ only in their seeds are pooled; the other rules are compared with the last one. Figures (PNG,
SVG) and tables (CSV, Markdown) are written beside the page, in a folder of its name. Equal inputs give equal bytes. The
page names what is missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments import runs
from experiments.cli import Plugins, parse
from experiments.errors import InputError, script
from experiments.reporting.desk import Desk
from experiments.reporting.live import Live
from experiments.reporting.pages import make, render
from experiments.reporting.sources import read


@dataclass(frozen=True)
class Options:
    """What to show, and where."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """run folders, or one comparison folder"""
    output: Path | None = None
    """the page; defaults to report.html in the folder, or here for several folders"""
    note: str = ""
    """your own sentence at the top of the page"""
    moving: bool = True
    """include an animation of one held-out task"""
    plugin: Plugins = ()
    """import path that the runs may import"""


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    material = read(options.folders)
    page = options.output if options.output is not None else _beside(options.folders)
    if page.suffix not in {".html", ".htm"}:
        raise InputError(f"expected an output that ends in .html, got {page}; figures go to a folder of that name")
    if page.is_dir():
        raise InputError(f"{page} is a folder; name a file in it")
    runs.prepare_machine()
    shown = material.contenders[0].folders if len(material.contenders) == 1 else ()
    live = Live(shown, plugins=options.plugin, moving=options.moving)
    files = page.with_name(f"{page.stem}_files")
    before = {file: file.stat().st_mtime_ns for file in files.glob("*")}
    text = render(make(Desk(material, files, live), options.note))
    write(page, text)
    print(f"{page} ({len(text.encode()) / 1e6:.1f} MB); figures and tables in {files}")
    for what, advice in [*material.missing, *live.missing]:
        print(f"  missing: {what}; {advice}")
    old = [file.name for file, time in before.items() if file.stat().st_mtime_ns == time]
    if old:
        print(f"  not of this report, but there before: {', '.join(sorted(old))}")


def write(path: Path, text: str) -> None:
    """Write atomically: a browser never sees half a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _beside(folders: tuple[Path, ...]) -> Path:
    """Return the default path of the page: in the folder if there is one only, else in the current one."""
    return folders[0] / "report.html" if len(folders) == 1 else Path("report.html")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
