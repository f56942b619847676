"""Animations of one held-out task, before and after one gradient step, as GIF files.

They need only Pillow. Frames are drawn at twice their size and scaled down, which smooths all edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from envs import CartPole, Navigation
from envs.cartpole import POSITION_LIMIT
from experiments.build import Setup
from experiments.evaluate import Protocol
from experiments.figures.page import AFTER, BEFORE, COLORS, INK, MUTED
from experiments.figures.plane import before_and_after, extent, first_tasks, walks
from experiments.streams import stream
from metarl import Batch
from metarl.types import Params

Point = tuple[float, float]

SCALE = 2  # pixels drawn per pixel written, in both directions
FRAME_MS = 40  # 25 frames a second; GIF counts in hundredths of a second
WIDTH, HEADER = 640, 66  # pixels
PALE, WHITE, GOAL, DONE, POLE = "#D8D8D8", "#FFFFFF", COLORS[1], COLORS[2], COLORS[4]


class Canvas:
    """An image addressed in logical pixels, drawn at `SCALE` times its size and scaled down at the end."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), WHITE)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], color: str, width: float = 1.0) -> None:
        """Draw a polyline with round joints."""
        if len(points) > 1:
            self._draw.line(_scaled(points), fill=color, width=max(1, round(width * SCALE)), joint="curve")

    def polygon(self, points: Sequence[Point], color: str) -> None:
        """Draw a filled polygon."""
        self._draw.polygon(_scaled(points), fill=color)

    def box(self, corner: Point, opposite: Point, color: str, radius: float = 0.0) -> None:
        """Draw a filled rectangle with rounded corners."""
        self._draw.rounded_rectangle(_scaled((corner, opposite)), radius=radius * SCALE, fill=color)

    def disc(self, center: Point, radius: float, color: str) -> None:
        """Draw a filled circle."""
        self._draw.circle(_scaled((center,))[0], radius * SCALE, fill=color)

    def text(self, at: Point, words: str, color: str = INK, *, size: float = 13.0, anchor: str = "la") -> None:
        """Draw text at a point; the anchor is Pillow's: l, m, r and a (top), m, s (baseline)."""
        self._draw.text(_scaled((at,))[0], words, fill=color, font=ImageFont.load_default(size * SCALE), anchor=anchor)

    def paste(self, corner: Point, pixels: npt.NDArray[np.uint8]) -> None:
        """Paste an image ``[height, width, 3]``, given in physical pixels, with its upper left corner at ``corner``."""
        (x, y) = _scaled((corner,))[0]
        self._image.paste(Image.fromarray(pixels), (round(x), round(y)))

    def finish(self) -> Image.Image:
        """Return the image scaled down to its final size."""
        return self._image.resize(self._size, Image.Resampling.LANCZOS)


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def write_gif(
    path: Path,
    frames: Iterable[Image.Image],
    *,
    frame_ms: int = FRAME_MS,
    hold_ms: int = 1500,
    colors: Sequence[str] = (),
) -> Path:
    """Write frames as a GIF that loops for ever; all share one palette, so that nothing flickers.

    Args:
        path: the GIF to write.
        frames: images of the same size.
        frame_ms: duration of a frame; GIF counts in hundredths of a second.
        hold_ms: duration of the last frame.
        colors: colours used besides those of this module.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    palette = _palette(colors)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [frame_ms] * (len(indexed) - 1) + [hold_ms]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)
    return path


def _palette(colors: Sequence[str] = ()) -> Image.Image:
    """Return a palette of every colour in use and seven lighter shades of each, for smooth edges."""
    shades = [
        tuple(round(255 - share / 8 * (255 - part)) for part in ImageColor.getrgb(color))
        for color in (INK, MUTED, BEFORE, AFTER, GOAL, POLE, DONE, *colors)
        for share in range(1, 9)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for shade in [(255, 255, 255), *shades] for part in shade])
    return palette


def _header(canvas: Canvas, title: str, left: str, right: str) -> None:
    """Draw the frame's title, and a title over each half."""
    canvas.text((WIDTH / 2, 8), title, size=17, anchor="ma")
    canvas.text((WIDTH / 4, 38), left, MUTED, size=15, anchor="ma")
    canvas.text((3 * WIDTH / 4, 38), right, AFTER, size=15, anchor="ma")


# --- cart-pole --------------------------------------------------------------------------------------------------

CART_HEIGHT, TRACK_Y = 312, 222
METRE = 56.0  # pixels per metre; the track of 4.8 m fills a panel


def animate_cartpole(path: Path, setup: Setup, *, seconds: float = 8.0) -> Path:
    """Animate the adaptation episodes of a held-out task beside an episode after one gradient step on them.

    The left half plays the adaptation episodes one after another and counts the falls; the right half plays one
    episode after the step. Both show the same time step.

    Args:
        path: the GIF to write.
        setup: a trained run on a CartPole benchmark.
        seconds: longest duration; a horizon of 500 steps takes 7 s, with every third step shown.

    Raises:
        TypeError: the benchmark's family is not CartPole.
    """
    if not isinstance(setup.benchmark.family, CartPole):
        raise TypeError(f"expected a CartPole benchmark, got {type(setup.benchmark.family).__name__}")
    task = first_tasks(setup, 1)
    before, after = before_and_after(setup, task, 1, stream(Protocol().seed, "animation", setup.device))
    left, right = _moments(before), _moments(after)
    stride = max(3, math.ceil(len(right) / (1000 * seconds / FRAME_MS)))
    title = _task_title(task)
    frames = []
    for t in range(0, len(right) + stride, stride):
        canvas = Canvas(WIDTH, CART_HEIGHT)
        words = f"before: the {before.mask.shape[-1]} episodes it adapts on"
        _header(canvas, title, words, "after one gradient step")
        _cart_panel(canvas, 0.0, left[min(t, len(left) - 1)], task)
        _cart_panel(canvas, WIDTH / 2, right[min(t, len(right) - 1)], task)
        canvas.line([(WIDTH / 2, HEADER - 26), (WIDTH / 2, CART_HEIGHT - 32)], PALE, 1.5)
        canvas.text((WIDTH / 2, CART_HEIGHT - 22), "arrow: the force applied", MUTED, size=12, anchor="ma")
        frames.append(canvas.finish())
    return write_gif(path, frames)


Moment = dict[str, Any]
"""What a panel shows at one time: x, theta, action, episode, step, falls, and, at its end, whether the pole fell."""

REST = 18  # time steps for which the end of an episode is shown


def _moments(batch: Batch) -> list[Moment]:
    """Return the moments of the first task's episodes one after another; the end of each is repeated `REST` times."""
    found: list[Moment] = []
    falls = 0
    for n in range(batch.mask.shape[-1]):
        length = int(batch.mask[0, :, n].sum())
        fell = bool(batch.terminated[0, :, n].any())
        for t in range(length):
            x, _, theta, _ = batch.observation[0, t, n].tolist()
            action = float(batch.action[0, t, n])
            found.append({"x": x, "theta": theta, "action": action, "episode": n + 1, "step": t + 1, "falls": falls})
        falls += fell
        found += [found[-1] | {"action": None, "falls": falls, "fell": fell}] * REST
    return found


def _task_title(task: Params) -> str:
    polarity, force = float(task["polarity"]), float(task["force_magnitude"])
    sign = "polarity +1" if polarity > 0 else "polarity -1 (reversed)"
    return f"Hidden from the agent: {sign}, force {force:.1f} N"


def _cart_panel(canvas: Canvas, left: float, now: Moment, task: Params) -> None:
    """Draw track, cart, pole, the force that is actually applied, and counters."""
    middle = left + WIDTH / 4
    ends = [middle - POSITION_LIMIT * METRE, middle + POSITION_LIMIT * METRE]
    canvas.line([(ends[0], TRACK_Y), (ends[1], TRACK_Y)], MUTED, 2)
    for end in ends:
        canvas.line([(end, TRACK_Y - 9), (end, TRACK_Y + 9)], MUTED, 2)
    x, fell = middle + METRE * now["x"], now.get("fell")
    pole = min(125.0, 3 * METRE * float(task["half_length"]))  # longer than to scale, so that 12 degrees are visible
    foot = (x, TRACK_Y - 30)
    tip = (foot[0] + pole * math.sin(now["theta"]), foot[1] - pole * math.cos(now["theta"]))
    canvas.box((x - 26, TRACK_Y - 30), (x + 26, TRACK_Y - 6), INK, 4)
    for wheel in (x - 15, x + 15):
        canvas.disc((wheel, TRACK_Y - 5), 5, MUTED)
    canvas.line([foot, tip], GOAL if fell else POLE, 7)
    canvas.disc(foot, 4, WHITE)
    if now["action"] is not None:
        _force_arrow(canvas, x, float(task["polarity"]) * (2 * now["action"] - 1))
    counters = TRACK_Y + 44
    canvas.text((left + 18, counters), f"episode {now['episode']}", MUTED, size=15)
    canvas.text((middle, counters), f"step {now['step']}", INK, size=15, anchor="ma")
    color = GOAL if now["falls"] else MUTED
    canvas.text((left + WIDTH / 2 - 18, counters), f"falls {now['falls']}", color, size=15, anchor="ra")
    if fell is not None:
        words = f"fell at step {now['step']}" if fell else f"still up after all {now['step']} steps"
        canvas.text((middle, TRACK_Y + 16), words, GOAL if fell else DONE, size=17, anchor="ma")


def _force_arrow(canvas: Canvas, x: float, direction: float) -> None:
    """Draw an arrow beside the cart, on the side towards which it is pushed."""
    y, start, end = TRACK_Y - 18, x + direction * 30, x + direction * 58
    canvas.line([(start, y), (end - direction * 6, y)], AFTER, 4)
    canvas.polygon([(end + direction * 4, y), (end - direction * 8, y - 8), (end - direction * 8, y + 8)], AFTER)


# --- navigation -------------------------------------------------------------------------------------------------

PLANE = 300  # pixels, the side of a square panel
EPISODES, TAIL = 8, 6  # number of paths shown, and of their last points that are drawn in full colour


def animate_navigation(path: Path, setup: Setup) -> Path:
    """Animate paths in the plane as they grow on a held-out task, before and after one gradient step.

    Raises:
        TypeError: the benchmark's family is not Navigation.
    """
    if not isinstance(setup.benchmark.family, Navigation):
        raise TypeError(f"expected a Navigation benchmark, got {type(setup.benchmark.family).__name__}")
    task = first_tasks(setup, 1)
    before, after = before_and_after(setup, task, EPISODES, stream(Protocol().seed, "animation", setup.device))
    halves = [walks(before, task, 0)[:EPISODES], walks(after, task, 0)]
    reach, longest = 1.15 * extent(before, after, task), max(len(walk) for half in halves for walk in half)
    goal = (float(task["goal_x"]), float(task["goal_y"]))
    title = f"The goal ({goal[0]:.2f}, {goal[1]:.2f}) is hidden from the agent"
    frames = []
    for t in range(longest):
        canvas = Canvas(WIDTH, HEADER + PLANE + 44)
        _header(canvas, title, "before adapting", "after one gradient step")
        for half, (paths, color) in enumerate(zip(halves, (BEFORE, AFTER), strict=True)):
            _plane(canvas, half, [walk[: t + 1] for walk in paths], task, (color, reach))
        _footer(canvas, HEADER + PLANE + 22, t)
        frames.append(canvas.finish())
    return write_gif(path, frames)


def _plane(canvas: Canvas, half: int, paths: list[Any], task: Params, look: tuple[str, float]) -> None:
    """Draw one panel: a frame, paths with a dot at their heads, start and goal.

    ``look`` is the colour of the paths and the panel's reach: half its side in units of length.
    """
    color, reach = look
    corner = (WIDTH / 2 * half + (WIDTH / 2 - PLANE) / 2, float(HEADER))

    def pixel(x: float, y: float) -> Point:
        inside_x, inside_y = (min(1.0, max(-1.0, part / reach)) for part in (x, y))
        return (corner[0] + PLANE * (inside_x + 1) / 2, corner[1] + PLANE * (1 - inside_y) / 2)

    edges = [(-reach, -reach), (reach, -reach), (reach, reach), (-reach, reach), (-reach, -reach)]
    canvas.line([pixel(*edge) for edge in edges], PALE, 1.5)
    for walk in paths:
        canvas.line([pixel(*point) for point in walk], _faint(color), 1.0)
    for walk in paths:
        canvas.line([pixel(*point) for point in walk[-TAIL:]], color, 1.5)
        canvas.disc(pixel(*walk[-1]), 4.5, color)
    canvas.disc(pixel(float(task["start_x"]), float(task["start_y"])), 5, INK)
    _star(canvas, pixel(float(task["goal_x"]), float(task["goal_y"])), 13, WHITE)
    _star(canvas, pixel(float(task["goal_x"]), float(task["goal_y"])), 10, GOAL)


def _faint(color: str) -> str:
    """Return a light shade of a colour (3/8 of it, the rest white) that is in the palette."""
    red, green, blue = (round(255 - 3 / 8 * (255 - part)) for part in ImageColor.getrgb(color))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _footer(canvas: Canvas, y: float, step: int) -> None:
    """Draw the legend of the marks, and the time step."""
    canvas.disc((WIDTH / 4 - 60, y), 5, INK)
    canvas.text((WIDTH / 4 - 48, y), "start", MUTED, size=15, anchor="lm")
    _star(canvas, (WIDTH / 4 + 28, y), 10, GOAL)
    canvas.text((WIDTH / 4 + 42, y), "goal", MUTED, size=15, anchor="lm")
    canvas.text((3 * WIDTH / 4, y), f"step {step}", INK, size=15, anchor="mm")


def _star(canvas: Canvas, center: Point, radius: float, color: str) -> None:
    """Draw a five-pointed star."""
    corners = []
    for i in range(10):
        length, angle = (radius if i % 2 == 0 else 0.45 * radius), math.pi * i / 5
        corners.append((center[0] + length * math.sin(angle), center[1] - length * math.cos(angle)))
    canvas.polygon(corners, color)
