"""A film of one agent adapting: an episode before, and one after each gradient step, one after the other.

The pictures are those of `envs.adapters.drawing`, taken twice as large as they are shown and smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from envs.adapters import drawing
from experiments.adapting import Episode
from experiments.figures.animations import SCALE, Canvas
from experiments.figures.page import AFTER, BEFORE, INK, MUTED
from metarl.types import Params, Task

COLORS = tuple("#" + bytes(color).hex() for color in (drawing.BLACK, drawing.RED, drawing.GREEN, drawing.BLUE))
ZOOM = 3  # pixels drawn for each of a plain drawing
WIDTH, HEIGHT = ZOOM * drawing.WIDTH // SCALE, ZOOM * drawing.HEIGHT // SCALE  # of the picture, in logical pixels
LONGEST, SHORTEST = 6.0, 3.0  # seconds that an episode is shown for at most, and the longest for at least
MOST, LEAST, LINES = 25, 2, 4  # pictures a second; lines of constants
HOLD = 1.2  # seconds that the end of a stage is shown for


@dataclass(frozen=True)
class Film:
    """What is shown, and how fast."""

    title: str
    constants: Sequence[str]
    """the task's, each as a few words"""
    stages: Sequence[Episode]
    """before adapting, after one step, ..."""
    family: Any
    task: Task
    fps: int

    def __iter__(self) -> Iterator[Image.Image]:
        """The pictures, drawn one by one; an end that is held is repeated."""
        reach = max(0.5, *(abs(state.get(axis, 0.0)) for one in self.stages for state in one.states for axis in "xy"))
        for k, stage in enumerate(self.stages):
            for t in self.moments(stage):
                yield self._picture(k, t, reach)

    def moments(self, stage: Episode) -> list[int]:
        """The time steps that are shown of a stage. Its stride is its own: a fall after 20 steps is to be seen, too."""
        last = len(stage.states) - 1
        stride = math.ceil(last / (LONGEST * self.fps))
        return [*range(0, last, stride), *[last] * round(HOLD * self.fps)]

    def _picture(self, k: int, t: int, reach: float) -> Image.Image:
        lines = _wrapped(["hidden from the agent:", *self.constants])
        top = 34 + 17 * len(lines) + 30
        canvas = Canvas(WIDTH, top + HEIGHT + 30)
        canvas.text((WIDTH / 2, 9), self.title, size=15, anchor="ma")
        for i, line in enumerate(lines):
            canvas.text((WIDTH / 2, 34 + 17 * i), line, MUTED, size=12, anchor="ma")
        stage, color = self.stages[k], AFTER if k else BEFORE
        canvas.text((12, top - 8), after(k), color, size=16, anchor="ls")
        canvas.text((WIDTH - 12, top - 8), f"return {stage.returns[t]:.1f}", INK, size=16, anchor="rs")
        canvas.paste((0, top), self._drawn(stage, t, reach))
        told = [f"{j or 'before'}: {one.returns[-1]:.1f}" for j, one in enumerate(self.stages[:k])]
        step = f"time step {t} of {len(stage.states) - 1}"
        canvas.text((WIDTH - 12, top + HEIGHT + 8), step, MUTED, size=12, anchor="ra")
        canvas.text((12, top + HEIGHT + 8), "   ".join(told[:1] + told[1:][-3:]), MUTED, size=12)
        return canvas.finish()

    def _drawn(self, stage: Episode, t: int, reach: float) -> drawing.Frame:
        task = {name: float(value) for name, value in self.task.items()}
        view = drawing.View(ZOOM, stage.states[:t], reach)
        return drawing.picture(self.family, task, stage.states[t], np.zeros(1, dtype=np.float32), view)


def after(k: int) -> str:
    """A stage's name."""
    return f"after {k} gradient step{'s' * (k > 1)}" if k else "before adapting"


def pace(stages: Sequence[Episode]) -> int:
    """Pictures a second that show short episodes slowly enough to be followed."""
    longest = max(len(stage.states) - 1 for stage in stages)
    return round(min(MOST, max(LEAST, longest / SHORTEST)))


def shown_constants(family: Any, task: Params) -> list[str]:
    """The constants that differ from task to task, and what the user has set, with their units."""
    found = []
    for name, distribution in getattr(family, "ranges", {}).items():
        low, high = distribution.bounds
        if low < high or not bool(distribution.contains(task[name]).all()):
            unit = family.parameters[name].unit
            found.append(f"{name} {float(task[name]):.3g}{'' if unit == '1' else f' {unit}'}")
    return found


def _wrapped(words: Sequence[str], width: int = 76) -> list[str]:
    """Entries in a few lines; what finds no room is counted."""
    lines, left = [""], list(words)
    while left:
        longer = f"{lines[-1]}    {left[0]}" if lines[-1] else left[0]
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
            left.pop(0)
        elif len(lines) < LINES:
            lines.append("")
        else:
            lines[-1] += f"    and {len(left)} more"
            break
    return lines
