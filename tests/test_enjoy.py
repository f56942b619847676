"""Watching an agent adapt: episodes are played with the adapted parameters, and wrong options give one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from envs import CartPole, Navigation
from envs.adapters import drawing
from envs.wrappers import Delayed, Trials
from experiments import enjoy, train
from experiments.adapting import Episode, adapted, one_held_out, play
from experiments.build import Setup, build
from experiments.config import Config
from experiments.evaluate import Protocol, held_out_tasks
from experiments.figures import stages
from metarl import explore
from tests.helpers import seeded

ROOT = Path(__file__).parents[1]

SMALL: dict[str, Any] = {"hidden": (8,), "episodes": 4, "tasks": 2, "query_episodes": 4, "rate": 1.0}
TINY = ["--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4", "--env-steps", "200"]
DRAWN = [
    "cartpole-polarity", "cartpole-all", "pendulum-packer", "acrobot-packer", "mountain-car-packer", "navigation-fixed",
    "navigation-halfcircle", "navigation-walls", "navigation-grid", "navigation-wind", "navigation-momentum",
]  # fmt: skip


def small(benchmark: str, horizon: int = 12, **more: Any) -> Setup:
    return build(Config(benchmark=benchmark, horizon=horizon, **SMALL, **more), torch.device("cpu"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    argv = ["navigation-fixed", *TINY, "--horizon", "8", "--rate", "3", "--no-evaluate", "--output", str(folder)]
    assert train.main(argv) == 0
    return folder


def test_the_task_is_the_one_that_is_scored() -> None:
    benchmark = small("navigation-fixed").benchmark
    scored = held_out_tasks(benchmark, Protocol(split="extrapolation"))
    for index in (0, 7, 99):
        task = one_held_out(benchmark, "extrapolation", index, ())
        assert {name: float(value) for name, value in task.items()} == {
            name: float(value[index]) for name, value in scored.items()
        }


@pytest.mark.parametrize("rule", ["meta-sgd", "hypergradient"])
def test_parameters_are_those_that_exploring_and_replay_give(rule: str) -> None:
    setup = small("cartpole-polarity", horizon=20, rule=rule, steps=3)
    task = one_held_out(setup.benchmark, "test", 0, ())
    found = adapted(setup, task, 3, generator=seeded(1))
    trace = explore(setup.learner, setup.benchmark.family, task, setup.plan, generator=seeded(1))
    for k in range(4):
        expected = torch.vmap(lambda support: setup.learner.adapt(support))(trace.support[:k]) if k else None
        for name, leaf in setup.learner.policy.initial().items():
            assert found[k][name].shape == leaf.shape
            torch.testing.assert_close(found[k][name], leaf if expected is None else expected[name][0])


def test_returns_so_far_follow_from_the_states_played() -> None:
    """Navigation pays minus the distance to the goal, whatever the policy does."""
    setup = small("navigation-fixed")
    task = one_held_out(setup.benchmark, "test", 0, ())
    episode = play(setup, task, setup.learner.policy.initial(), act="sample", seed=0)
    goal = np.array([float(task["goal_x"]), float(task["goal_y"])])
    places = np.array([[state["x"], state["y"]] for state in episode.states])
    distance = np.linalg.norm(places[1:] - goal, axis=1)
    assert len(places) == 13 and (places[0] == 0).all()
    np.testing.assert_allclose(episode.returns, [0.0, *-np.cumsum(distance)], rtol=1e-4, atol=1e-4)


def test_an_episode_ends_where_the_pole_falls() -> None:
    setup = small("cartpole-polarity", horizon=200)
    task = one_held_out(setup.benchmark, "test", 0, ())
    episode = play(setup, task, setup.learner.policy.initial(), act="sample", seed=0)
    angles = np.abs([state["theta"] for state in episode.states])
    assert len(angles) < 200 and episode.returns[-1] == len(angles) - 1
    assert angles[-1] > np.deg2rad(12) > angles[:-1].max()


def test_stages_start_alike_and_the_mean_action_is_another_one() -> None:
    setup = small("navigation-varying")
    task = one_held_out(setup.benchmark, "test", 0, ())
    params = setup.learner.policy.initial()
    first, again = (play(setup, task, params, act="sample", seed=3) for _ in range(2))
    mode = play(setup, task, params, act="mode", seed=3)
    assert first == again and mode.states[0] == first.states[0] and mode.states[1] != first.states[1]


@pytest.mark.parametrize("benchmark", DRAWN)
def test_every_family_with_a_drawing_is_filmed(benchmark: str) -> None:
    setup = small(benchmark)
    task = one_held_out(setup.benchmark, "test", 0, ())
    enjoy.refuse_without_picture(setup, task)
    film = enjoy.make_film(setup, task, enjoy.Options(Path("run"), steps=2))
    pictures = list(film)
    hold = round(stages.HOLD * film.fps)
    assert len(film.stages) == 3 and len(pictures) == sum(len(stage.states) - 1 + hold for stage in film.stages)
    assert len({picture.size for picture in pictures}) == 1
    picture = np.asarray(pictures[0])[-stages.HEIGHT - 30 : -30]  # below the words
    assert 0.001 < (picture != 255).any(-1).mean() < 0.9
    assert pictures[0].tobytes() != pictures[-1].tobytes() == pictures[-2].tobytes()


def test_a_gif_shows_every_stage(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "film.gif"
    assert enjoy.main([str(run), "--steps", "2", "--output", str(path), "--fps", "10"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told[:3]] == [
        "before adapting",
        "after 1 gradient step",
        "after 2 gradient steps",
    ]
    assert told[3] == str(path) and path.stat().st_size < 200_000
    with Image.open(path) as image:
        milliseconds = 0
        for k in range(image.n_frames):
            image.seek(k)
            milliseconds += image.info["duration"]
        assert image.n_frames == 3 * (8 + 1) and image.width == stages.WIDTH
    assert milliseconds == pytest.approx(100 * 3 * (8 + 12) - 100 + 2500)


def test_defaults_go_to_the_run_and_mode_is_not_sampled(run: Path, tmp_path: Path) -> None:
    for flags in ([], ["--index", "3"], ["--constants", "goal_x=0.7", "goal_y=0.7"]):
        assert enjoy.main([str(run), *flags]) == 0
    names = ("enjoy-test-0", "enjoy-test-3", "enjoy-constants")
    files = [(run / "figures" / f"{name}.gif").read_bytes() for name in names]
    assert len(set(files)) == 3
    for flag, same in (("--sampled", True), ("--mode", False)):
        output = tmp_path / f"{flag}.gif"
        assert enjoy.main([str(run), flag, "--output", str(output)]) == 0
        assert (output.read_bytes() == files[0]) is same


WRONG = {
    "training split": (["--split", "train"], "training tasks cannot be evaluated on"),
    "training task": (["--constants", "goal_x=0.2012", "goal_y=0.1001"], "expected a held-out one, such as goal_x=0."),
    "unknown split": (["--split", "tset"], "has no split 'tset'"),
    "index": (["--index", "100"], "expected a task index from 0 to 99"),
    "unknown constant": (["--constants", "gaol_x=0.1"], "no constant 'gaol_x'"),
    "a constant twice": (["--constants", "goal_x=0.7", "goal_x=0.8"], "expected every constant once"),
    "a split and a task": (
        ["--split", "validation", "--constants", "goal_x=0.7"],
        "got both (--split validation --index 0)",
    ),
    "an index and a task": (["--index", "7", "--constants", "goal_x=0.7"], "got both (--split test --index 7)"),
    "steps": (["--steps", "-1"], "expected steps >= 0"),
    "episodes": (["--episodes", "0"], "episodes >= 1"),
    "too fast": (["--fps", "51"], "expected 1 to 50 frames per second"),
    "no time": (["--fps", "0"], "expected 1 to 50 frames per second"),
    "no GIF": (["--output", "film.mp4"], "ends in .gif"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, words = WRONG[case]
    assert enjoy.main([str(run), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_only_one_kind_of_action_and_only_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        enjoy.main([str(run), "--mode", "--sampled"])
    assert stop.value.code == 2
    capsys.readouterr()
    assert enjoy.main([str(run / "nowhere")]) == 2
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["bandit-5", "tabular-random"])
def test_families_without_a_drawing_are_told_which_have_one(
    benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    argv = ["navigation-fixed", "--benchmark", benchmark, *TINY, "--no-evaluate", "--output", folder]
    assert train.main(argv) == 0
    capsys.readouterr()
    assert enjoy.main([folder]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be drawn; expected" in error
    for family in drawing.PICTURES:
        assert family.__name__ in error


def lasting(steps: int) -> Episode:
    return Episode([{"x": 0.0}] * (steps + 1), [0.0] * (steps + 1))


def test_episodes_are_shown_neither_too_fast_nor_for_too_long() -> None:
    assert [stages.pace([lasting(3), lasting(steps)]) for steps in (3, 15, 500)] == [2, 5, 25]
    film = stages.Film("", [], [], CartPole(), {}, 25)
    hold = round(25 * stages.HOLD)
    for steps in (1, 10, 150, 151, 500):
        shown = film.moments(lasting(steps))
        assert shown[0] == 0 and shown[-hold:] == [steps] * hold
        assert len(shown) - hold == (steps if steps <= 25 * stages.LONGEST else -(-steps // -(-steps // 150)))


def test_constants_that_vary_and_those_of_the_user_are_shown() -> None:
    setup = small("cartpole-polarity")
    usual = one_held_out(setup.benchmark, "test", 0, ())
    own = one_held_out(setup.benchmark, "test", 0, ("gravity=12", "polarity=-1"))
    names = [text.split()[0] for text in stages.shown_constants(setup.benchmark.family, usual)]
    assert names == ["force_magnitude", "polarity"]
    shown = stages.shown_constants(setup.benchmark.family, own)
    assert shown == ["gravity 12 m/s^2", "force_magnitude 10 N", "polarity -1"]
    lines = stages._wrapped([f"constant_{i} 3.14 kg m^2" for i in range(40)])
    assert len(lines) == stages.LINES and lines[-1].endswith("more")


class Quit:
    """Closes the window after some pictures."""

    def __init__(self, pygame: Any, after: int) -> None:
        self.pygame, self.left = pygame, after

    def __call__(self) -> list[Any]:
        self.left -= 1
        event = self.pygame.event.Event
        wanted = event(self.pygame.KEYDOWN, key=self.pygame.K_q) if self.left == 0 else None
        return [event(self.pygame.KEYDOWN, key=self.pygame.K_a), *([wanted] if wanted else [])]


def test_a_window_plays_until_it_is_closed(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = enjoy.open_screen()
    quits = Quit(pygame, after=70)  # one round is 2 · (8 + 4) pictures
    monkeypatch.setattr(pygame.event, "get", quits)
    before = set((run / "figures").glob("*"))
    assert enjoy.main([str(run), "--window", "--fps", "50"]) == 0
    assert quits.left == 0 and set((run / "figures").glob("*")) == before
    quits.left = 1
    assert enjoy.main([str(run), "--window", "--output", str(tmp_path / "too.gif")]) == 0
    assert (tmp_path / "too.gif").exists() and not pygame.display.get_init()


@pytest.mark.parametrize("why", ["no driver", "offscreen"])
def test_without_a_display_one_line_says_to_use_the_gif(
    why: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pygame

    def fail() -> None:
        raise pygame.error("No available video device")

    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    monkeypatch.setattr(pygame.display, "init", fail if why == "no driver" else lambda: None)
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    assert enjoy.main([str(run), "--window"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no display" in error and "leave it out to get a GIF" in error


def test_looking_for_a_display_prints_nothing() -> None:
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"}
    code = "from experiments import enjoy\ntry: enjoy.open_screen()\nexcept enjoy.InputError as error: print(error)"
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)
    assert done.stderr == "" and done.stdout.count("\n") == 1 and "no display was found for --window" in done.stdout


def test_without_pygame_one_line_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert enjoy.main([str(run), "--window"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install pygame-ce" in error and "GIF" in error


def picture(family: Any, view: drawing.View, **state: float) -> drawing.Frame:
    task = {name: parameter.default for name, parameter in family.parameters.items()}
    return drawing.picture(family, task, state, np.zeros(1, dtype=np.float32), view)


def test_larger_pictures_are_the_same_picture() -> None:
    plain = picture(CartPole(), drawing.View(), x=0.5, theta=0.1)
    large = picture(CartPole(), drawing.View(3), x=0.5, theta=0.1)
    assert plain.shape == (200, 300, 3) and large.shape == (600, 900, 3)
    assert (large[1::3, 1::3] == plain).all()  # every third pixel has the centre of a plain one


def test_a_film_of_trials_keeps_its_scale() -> None:
    family = Trials(Navigation(5, goal_x=0.4), 2)
    states = [{"now.x": x, "now.y": 0.0, "episode": 0.0} for x in (0.0, 2.0)]
    task = family.sample(1, generator=seeded(0))
    film = stages.Film("a trial", [], [Episode(states, [0.0, 0.0])], family, task, fps=25)
    near, far = (np.asarray(frame) for frame in (next(iter(film)), list(film)[-1]))
    goal = [np.argwhere((frame == drawing.GREEN).all(-1)).mean(0) for frame in (near, far)]
    np.testing.assert_allclose(goal[0], goal[1], atol=1.0)


def test_wrapped_families_are_drawn_as_what_is_inside_and_trails_are_drawn_in_the_plane() -> None:
    inside, wrapped = (
        picture(family, drawing.View(), x=0.5, theta=0.1) for family in (CartPole(), Delayed(CartPole()))
    )
    assert (inside == wrapped).all()
    past = [{"x": 0.0, "y": 0.0}, {"x": 0.4, "y": 0.0}]
    trail = picture(Navigation(), drawing.View(past=past), x=0.4, y=0.4)
    bare = picture(Navigation(), drawing.View(), x=0.4, y=0.4)
    blue = (trail == drawing.BLUE).all(-1)
    assert blue.any() and not (bare == drawing.BLUE).all(-1).any()
    rows, columns = np.nonzero(blue)
    assert columns.max() > 150 + 60 and rows.min() < 50  # right of the middle, and up to the point
    far = picture(Navigation(), drawing.View(reach=5.0), x=0.4, y=0.4)
    red = [np.argwhere((one == drawing.RED).all(-1)).mean(0) for one in (bare, far)]
    assert abs(red[1] - (99.5, 149.5)).max() < 12 < abs(red[0] - (99.5, 149.5)).max()
