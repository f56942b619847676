"""Animation of one agent that adapts: an episode before adapting, then one after each gradient step.

Environments are drawn by `envs.adapters.drawing`, at twice the size at which they are shown, then smoothed.
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
ZOOM = 3  # magnification of the drawing before it is scaled down
WIDTH, HEIGHT = ZOOM * drawing.WIDTH // SCALE, ZOOM * drawing.HEIGHT // SCALE  # size of the drawing in logical pixels
LONGEST, SHORTEST = 6.0, 3.0  # seconds: most for any episode, and least for the longest episode
MOST, LEAST, LINES = 25, 2, 4  # most and fewest frames per second; most lines of constants
HOLD = 1.2  # seconds for which the end of a stage is held


@dataclass(frozen=True)
class Film:
    """An animation of one task; iterating over it draws its frames."""

    title: str
    constants: Sequence[str]
    """the task's constants, each as a short text"""
    stages: Sequence[Episode]
    """an episode before adapting, one after one step, ..."""
    family: Any
    task: Task
    fps: int

    def __iter__(self) -> Iterator[Image.Image]:
        """Draw and yield the frames one by one; the last frame of a stage is repeated to hold it."""
        reach = max(0.5, *(drawing.reach(self.family, one.states) for one in self.stages))
        for k, stage in enumerate(self.stages):
            for t in self.moments(stage):
                yield self._picture(k, t, reach)

    def moments(self, stage: Episode) -> list[int]:
        """Return the time steps shown of a stage, with its own stride: a fall after 20 steps has to be visible, too."""
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
    """Return the name of the stage after ``k`` gradient steps."""
    return f"after {k} gradient step{'s' * (k > 1)}" if k else "before adapting"


def pace(stages: Sequence[Episode]) -> int:
    """Return a number of frames per second at which even short episodes can be followed."""
    longest = max(len(stage.states) - 1 for stage in stages)
    return round(min(MOST, max(LEAST, longest / SHORTEST)))


def shown_constants(family: Any, task: Params) -> list[str]:
    """Return texts of the constants that vary between tasks or that the user has set, with values and units."""
    found = []
    for name, distribution in getattr(family, "ranges", {}).items():
        low, high = distribution.bounds
        if low < high or not bool(distribution.contains(task[name]).all()):
            unit = family.parameters[name].unit
            found.append(f"{name} {float(task[name]):.3g}{'' if unit == '1' else f' {unit}'}")
    return found


def _wrapped(words: Sequence[str], width: int = 76) -> list[str]:
    """Wrap entries into at most `LINES` lines; the last line counts those that do not fit."""
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
