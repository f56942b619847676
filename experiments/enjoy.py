"""Watch a trained agent adapt: one episode on a task it has never seen, and one after each gradient step on it.

    python experiments/enjoy.py runs/NAME                                  # a GIF in the run's figures
    python experiments/enjoy.py runs/NAME --split extrapolation --index 3 --steps 3
    python experiments/enjoy.py runs/NAME --constants polarity=-1 force_magnitude=9.1 --window

All episodes start from the same state. Training tasks are refused.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from envs.adapters import drawing
from experiments import runs
from experiments.adapting import Episode, OneTask, adapted, one_held_out, play
from experiments.build import Setup
from experiments.cli import Plugins, parse
from experiments.errors import InputError, script
from experiments.evaluate import TEST_SEED, refuse_met
from experiments.figures.animations import write_gif
from experiments.figures.stages import COLORS, Film, after, pace, shown_constants
from experiments.streams import stream
from metarl.evaluation import refuse_training_tasks
from metarl.types import Params

FASTEST = 50  # frames per second: GIF counts in hundredths of a second, and browsers slow down faster ones
HEADLESS = ("offscreen", "dummy")  # what SDL falls back to without a display
ACTIONS = tyro.conf.create_mutex_group(required=False)


@dataclass(frozen=True)
class Options(OneTask):
    """What to watch, and how."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder"""
    steps: int | None = None
    """gradient steps; defaults to as many as in training"""
    episodes: int | None = None
    """episodes per adaptation step; defaults to as many as in training"""
    mode: Annotated[tyro.conf.FlagCreatePairsOff[bool], ACTIONS] = False
    """play the mean (or most likely) action"""
    sampled: Annotated[tyro.conf.FlagCreatePairsOff[bool], ACTIONS] = False
    """play sampled actions, as in training; also if neither flag is given"""
    seed: int = TEST_SEED
    """seed of the noise"""
    output: Path | None = None
    """GIF to write; defaults to figures/enjoy-SPLIT-INDEX.gif in the run folder"""
    window: bool = False
    """show it in a window instead, until you press Escape or Q"""
    fps: int | None = None
    """frames per second; defaults to 25, or fewer if episodes are short"""
    plugin: Plugins = ()
    """import path that the run may import"""


@script
def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__)
    refuse(options)
    screen = open_screen() if options.window else None
    runs.prepare_machine()
    setup, _ = runs.load(options.run, torch.device("cpu"), plugins=options.plugin)
    task = one_held_out(setup.benchmark, options.split, options.index, options.constants)
    refuse_met(setup.benchmark, task, options.constants)
    refuse_training_tasks(setup.benchmark, task)
    refuse_without_picture(setup, task)
    film = make_film(setup, task, options)
    for k, stage in enumerate(film.stages):
        print(f"{after(k)}: return {stage.returns[-1]:.2f} in {len(stage.states) - 1} time steps")
    if screen is not None:
        show(screen, film)
    if screen is None or options.output is not None:
        name = "constants" if options.constants else f"{options.split}-{options.index}"
        path = options.output or runs.run_of(options.run) / "figures" / f"enjoy-{name}.gif"
        print(write(path, film))


def write(path: Path, film: Film) -> Path:
    """Write the film as a GIF, rounding its frame duration to hundredths of a second."""
    return write_gif(path, film, frame_ms=10 * round(100 / film.fps), hold_ms=2500, colors=COLORS)


def refuse(options: Options) -> None:
    """Check the options before anything is loaded.

    Raises:
        InputError: a number is out of range, a task is given in two ways, or the output is not a GIF.
    """
    options.refuse_two()
    if (options.steps or 0) < 0 or (options.episodes is not None and options.episodes < 1):
        raise InputError(f"expected steps >= 0 and episodes >= 1, got {options.steps} and {options.episodes}")
    if options.fps is not None and not 1 <= options.fps <= FASTEST:
        raise InputError(f"expected 1 to {FASTEST} frames per second, got --fps {options.fps}")
    if options.output is not None and (options.output.suffix.lower() != ".gif" or options.output.is_dir()):
        raise InputError(f"expected an output that ends in .gif, got {options.output}")


def refuse_without_picture(setup: Setup, task: Params) -> None:
    """Check that the family can be drawn.

    Raises:
        InputError: there is no drawing of this family.
    """
    family: Any = setup.benchmark.family
    state = family.reset(task, (1,), generator=stream(0, "looking"))
    if not drawing.has_picture(family, {name: 0.0 for name in state}):
        known = ", ".join(sorted(drawn.__name__ for drawn in drawing.PICTURES))
        raise InputError(
            f"{type(family).__name__} cannot be drawn; expected one of {known}, a family with x and y in its state, "
            "or a variant of these; evaluate.py prints the returns as numbers"
        )


def make_film(setup: Setup, task: Params, options: Options) -> Film:
    """Adapt to the task and play an episode at every stage; return the film of them."""
    steps = setup.config.steps if options.steps is None else options.steps
    noise = stream(options.seed, "adapting")
    stages: list[Episode] = [
        play(setup, task, params, act="mode" if options.mode else "sample", seed=options.seed)
        for params in adapted(setup, task, steps, episodes=options.episodes, generator=noise)
    ]
    where = "a task of your own" if options.constants else f"task {options.index} of {options.split}"
    family: Any = setup.benchmark.family
    return Film(
        title=f"{setup.benchmark.name}: {where}",
        constants=shown_constants(family, task),
        stages=stages,
        family=family,
        task=task,
        fps=options.fps or pace(stages),
    )


def open_screen() -> Any:
    """Return the pygame module after checking that there is a display.

    Raises:
        InputError: pygame is not installed, or there is no display.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # no greeting on stdout
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # otherwise Wayland's library complains
    try:
        import pygame
    except ImportError as error:
        raise InputError(
            "--window needs pygame, which is not installed: pip install pygame-ce, or leave --window out to get a GIF"
        ) from error
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
    except pygame.error as error:
        raise InputError(f"no display for --window ({error}); leave it out to get a GIF") from error
    if driver in HEADLESS and os.environ.get("SDL_VIDEODRIVER") != driver:  # unless the user asked for it by name
        pygame.display.quit()
        raise InputError("no display was found for --window; leave it out to get a GIF")
    return pygame


def show(pygame: Any, film: Film) -> None:
    """Play the film in a loop until the window is closed."""
    clock, surface = pygame.time.Clock(), None
    try:
        while True:
            for picture in film:
                if surface is None:
                    surface = pygame.display.set_mode(picture.size)
                    pygame.display.set_caption(film.title)
                surface.blit(pygame.image.frombuffer(picture.tobytes(), picture.size, "RGB"), (0, 0))
                pygame.display.flip()
                clock.tick(film.fps)
                for event in pygame.event.get():
                    if event.type == pygame.QUIT or (
                        event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q)
                    ):
                        return
    finally:
        pygame.display.quit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
