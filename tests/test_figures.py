"""Figures: each is written, readable, not blank and reproducible, and is left out without its inputs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import figures
from experiments.build import Setup, build
from experiments.config import Config
from experiments.evaluate import Protocol, held_out_tasks, measure
from experiments.figures import animations, canvas, curves, learning, page, panels, plane, rate_panels, signals
from experiments.figures.finetuning import finetuning
from experiments.learned import reinforced
from metarl import Plan
from metarl.diagnostics import Estimates

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"hidden": (8,), "episodes": 4, "tasks": 2, "query_episodes": 4}
CARTPOLE = Config(benchmark="cartpole-polarity", horizon=30, **SMALL)
NAVIGATION = Config(benchmark="navigation-fixed", horizon=12, **SMALL)


def result(
    seed: int = 0, *, steps: int = 2, shift: float = 0.0, split: str = "test", tasks: int = 12
) -> dict[str, Any]:
    """An evaluation as `measure` returns it, with made-up scores that rise with the steps."""
    rng = np.random.default_rng(seed)
    scores = shift + 10.0 * np.arange(steps + 1) + rng.normal(size=(tasks, steps + 1))
    return {
        "benchmark": "cartpole-polarity",
        "fingerprint": "f",
        "rule": "meta-sgd",
        "seed": seed,
        "split": split,
        "protocol": {"steps": steps, "episodes": None, "score_episodes": 20},
        "task": {"gravity": [9.8] * tasks},
        "references": {"ceiling": [30.0] * tasks, "floor": [-5.0] * tasks},
        "sampled": scores.tolist(),
        "mode": (scores + 3.0).tolist(),
        "reported": steps,
    }


def run_folder(path: Path, *, rows: int = 60, steps: int = 1) -> Path:
    """A run folder that holds nothing but metrics, one of them not finite."""
    path.mkdir(parents=True)
    lines = [
        {"step": i, "env_steps_total": 1e4 * (i + 1)} | {f"return/step_{k}": float(i * k) for k in range(steps + 1)}
        for i in range(rows)
    ]
    lines[rows // 2]["return/step_0"] = None
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def assert_drawn(files: list[Path], *, colors: int = 60) -> None:
    """A PNG and an SVG of one name; the PNG is large enough and far from blank."""
    png, svg = files
    assert (png.suffix, svg.suffix) == (".png", ".svg") and png.stem == svg.stem
    assert svg.read_text().lstrip().startswith("<?xml")
    with Image.open(png) as image:
        image.load()
        assert min(image.size) >= 300
        found = image.convert("RGB").getcolors(image.width * image.height)
    assert found is not None and len(found) > colors
    assert max(count for count, _ in found) < 0.99 * sum(count for count, _ in found)


def frames_of(path: Path) -> tuple[list[Image.Image], int]:
    """The different frames of a GIF, and how many frames were shown: Pillow joins equal ones into a longer one."""
    found, milliseconds = [], 0
    with Image.open(path) as image:
        for k in range(image.n_frames):
            image.seek(k)
            found.append(image.convert("RGB"))
            milliseconds += image.info["duration"]
    return found, (milliseconds - 1500) // animations.FRAME_MS + 1


def test_adaptation_curves_of_a_real_evaluation(tmp_path: Path) -> None:
    setup = build(NAVIGATION, CPU)
    measured = measure(setup, Protocol(tasks=4, steps=1, score_episodes=2))
    assert_drawn(figures.adaptation_curves(tmp_path / "curve", {"meta-sgd": [measured]}))


@pytest.mark.parametrize(
    "results",
    [
        {"a": [result(0), result(1), result(2)]},
        {"a": [result(0)], "b": [result(0, shift=2.0)]},
        {"a": [result(0, tasks=1, split="constants")]},
        {"a": [result(0, tasks=150)]},
        {"a": [result(0, steps=0)]},
        {"a": [result(0) | {"references": {}}]},
    ],
    ids=["seeds", "labels", "one task", "many tasks", "no steps", "no references"],
)
def test_adaptation_curves_of_every_kind(tmp_path: Path, results: dict[str, list[dict[str, Any]]]) -> None:
    assert_drawn(figures.adaptation_curves(tmp_path / "curve.png", results))


def test_far_references_are_left_out_and_near_ones_drawn() -> None:
    def lines(ceiling: float) -> int:
        axes = page.Figure().add_subplot()
        curves.draw_curves(axes, {"a": [result() | {"references": {"ceiling": [ceiling] * 12}}]})
        return len([text for text in axes.texts if text.get_text().startswith("ceiling")])

    assert (lines(25.0), lines(500.0)) == (1, 0)


LEVELS = {0.827: "ceiling 0.83", -0.53: "ceiling −0.53", -13.61: "ceiling −13.6", 1e3: "ceiling 1,000.0"}


@pytest.mark.parametrize("level", LEVELS)
def test_labels_of_references_have_enough_digits(level: float, tmp_path: Path) -> None:
    axes, scored = page.Figure().add_subplot(), result(shift=level) | {"references": {"ceiling": [level] * 12}}
    curves.draw_curves(axes, {"a": [scored]})
    assert LEVELS[level] in [text.get_text() for text in axes.texts]
    assert LEVELS[level] in panels.curves(tmp_path / "a", {"a": [scored]}, 1, {"a": "#0072B2"}).svg


@pytest.mark.parametrize(
    ("episodes", "told"),
    [((5, 5), " (5 episodes each)"), ((1, 1), " (1 episode each)"), ((5, 2), ""), ((None, None), "")],
)
def test_the_episodes_of_a_step_are_told_if_they_are_the_same_for_all(
    episodes: tuple[int | None, int | None], told: str
) -> None:
    results = {
        label: [run | {"protocol": run["protocol"] | {"episodes": count}}]
        for label, count, run in zip("ab", episodes, (result(), result(1)), strict=True)
    }
    results["c"] = [result(steps=0)]  # takes no step
    axes = page.Figure().add_subplot()
    curves.draw_curves(axes, results)
    assert axes.get_xlabel() == "gradient steps on the new task" + told


def test_comparison_draws_rules_seeds_and_a_policy_that_does_not_adapt(tmp_path: Path) -> None:
    results = {
        "meta-sgd": [result(seed, shift=5.0) for seed in (0, 1, 2)],
        "maml": [result(seed, shift=2.0) for seed in (0, 1, 2)],
        "no-adaptation": [result(seed, steps=0) for seed in (0, 1, 2)],
    }
    assert_drawn(figures.comparison(tmp_path / "comparison", results))
    assert_drawn(figures.comparison(tmp_path / "first", results, reference="meta-sgd"))
    assert (tmp_path / "comparison.png").read_bytes() != (tmp_path / "first.png").read_bytes()


def test_pairs_match_seeds_and_repeat_the_policy_that_does_not_adapt() -> None:
    runs = [result(seed, shift=4.0) for seed in (2, 1, 9)]
    pairs = list(curves._pairs(runs, [result(seed) for seed in (1, 2)]))
    assert len(pairs) == 3
    np.testing.assert_allclose([(a - b) for a, b in pairs], 4.0)
    still = list(curves._pairs(runs, [result(seed, steps=0) for seed in (1, 2)]))
    assert len(still) == 3 and (still[0][1] == still[2][1]).all()
    assert list(curves._pairs(runs, [result(5)])) == []
    assert list(curves._pairs(runs, [result(1) | {"fingerprint": "other"}])) == []


@pytest.mark.parametrize("steps", [0, 2])
def test_learning_curve_of_one_seed_and_of_several_labels(tmp_path: Path, steps: int) -> None:
    seeds = [run_folder(tmp_path / name, rows=rows, steps=steps) for name, rows in (("a", 60), ("b", 45))]
    assert_drawn(figures.learning_curve(tmp_path / "one", {"a": seeds[:1]}))
    assert_drawn(figures.learning_curve(tmp_path / "two", {"a": seeds, "b": seeds[:1]}))


def test_learning_curve_tells_where_the_adapted_policy_is_scored_otherwise(tmp_path: Path) -> None:
    seed = run_folder(tmp_path / "a")
    for scored_in, told in ((None, False), ("navigation-halfcircle-dense", True)):
        _, svg = figures.learning_curve(tmp_path / f"drawn-{told}", {"a": [seed]}, scored_in=scored_in)
        assert ("after adapting in other units, as scored in navigation-halfcircle-dense" in svg.read_text()) is told


def test_metrics_are_read_with_gaps_as_nan(tmp_path: Path) -> None:
    columns = learning.read_metrics(run_folder(tmp_path / "a", rows=6))
    assert np.isnan(columns["return/step_0"]).tolist() == [False, False, False, True, False, False]
    assert columns["return/step_1"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("count", [1, 5, 400])
def test_running_mean_keeps_the_length_and_a_constant(count: int) -> None:
    assert learning.running_mean(np.full(count, 3.0)) == pytest.approx(np.full(count, 3.0))


def test_running_mean_is_the_mean_of_the_window() -> None:
    values = np.random.default_rng(0).normal(size=60)  # a window of three
    assert learning.running_mean(values)[10] == pytest.approx(values[9:12].mean())
    assert learning.running_mean(values)[0] == pytest.approx(values[:2].mean())


@pytest.mark.parametrize(
    ("rule", "drawn"),
    [("meta-sgd", True), ("per-layer", True), ("per-step", True), ("learned-rate", True), ("maml", False)],
)
def test_step_sizes_are_drawn_of_whatever_has_rates(tmp_path: Path, rule: str, drawn: bool) -> None:
    setup = build(CARTPOLE.model_copy(update={"rule": rule}), CPU)
    generator = torch.Generator().manual_seed(0)
    for parameter in setup.learner.rule.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    files = figures.draw_run(tmp_path, setup)
    assert [file.name for file in files] == (["step-sizes.png", "step-sizes.svg"] if drawn else [])
    if drawn:
        assert_drawn(files)


@pytest.mark.parametrize(("rates", "scale"), [([-0.1, 0.2, 0.3], "linear"), ([0.01, -0.01, 0.01, 0.01, 9.0], "symlog")])
def test_step_sizes_far_apart_are_drawn_on_a_symmetric_log_scale(
    rates: list[float], scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with canvas.panel(tmp_path / "kept", "x") as (figure, _):
        monkeypatch.setattr(rate_panels, "panel", lambda *given: contextlib.nullcontext((figure, None)))
        rate_panels.rate_strips(tmp_path / "steps", {"w": np.array(rates)})
        assert figure.axes[0].get_xscale() == scale


@pytest.mark.parametrize(("name", "inner_loss"), [("reward", "learned-reward"), ("advantage", "learned-advantage")])
def test_what_is_reinforced_is_looked_at_on_steps_that_were_lived(name: str, inner_loss: str) -> None:
    setup = build(CARTPOLE.model_copy(update={"inner_loss": inner_loss}), CPU)
    task = held_out_tasks(setup.benchmark, Protocol(tasks=3))
    before = reinforced(setup, task, seed=1)
    assert before is not None and before.name == name
    assert torch.equal(before.given, before.corrected)
    with torch.no_grad():
        setup.learner.inner.network.head.bias.fill_(0.5)  # type: ignore[union-attr, operator]
    after = reinforced(setup, task, seed=1)
    assert after is not None and torch.equal(after.given, before.given)
    torch.testing.assert_close(after.corrected, after.given + 0.5)
    if name == "reward":
        assert bool((after.given == 1.0).all()) and 3 * 4 < len(after.given) < 3 * 4 * 30  # CartPole's, until it falls
    assert reinforced(build(CARTPOLE, CPU), task, seed=1) is None


def test_the_mean_of_what_is_reinforced_and_how_much_a_quadratic_explains(tmp_path: Path) -> None:
    given = np.linspace(-1.0, 1.0, 4801)
    x, y = signals.means(given, given**2)
    assert len(x) == signals.BINS and y == pytest.approx(x**2 + (2.0 / signals.BINS) ** 2 / 12.0, abs=1e-4)
    noise = np.random.default_rng(0).permutation(np.repeat([-1.0, 1.0, -1.0], 1601)[:4801])
    assert signals.explained(given, 1.0 - given**2) == pytest.approx(1.0)
    assert signals.explained(given, noise) < 0.01
    assert np.isnan(signals.explained(given, np.full(4801, 3.0)))
    assert_drawn(list(signals.reinforced(tmp_path / "signals", "reward", given, given**2).files))
    assert_drawn(list(signals.reinforced(tmp_path / "one", "reward", given[:1], given[:1]).files))


@pytest.mark.parametrize("tasks", [1, 4])
def test_paths_are_drawn_for_navigation_only(tmp_path: Path, tasks: int) -> None:
    assert_drawn(figures.paths_in_the_plane(tmp_path / "paths", build(NAVIGATION, CPU), tasks))
    assert figures.paths_in_the_plane(tmp_path / "none", build(CARTPOLE, CPU), tasks) == []
    assert not (tmp_path / "none.png").exists()


def test_walks_join_start_observations_and_the_last_position() -> None:
    setup = build(NAVIGATION, CPU)
    task = held_out_tasks(setup.benchmark, Protocol(tasks=2))
    before, after = plane.before_and_after(setup, task, 3, torch.Generator().manual_seed(0))
    assert before.mask.shape == (2, 12, 4) and after.mask.shape == (2, 12, 3)
    walk = plane.walks(after, task, 1)[2]
    assert walk.shape == (13, 2) and walk[0].tolist() == [0.0, 0.0]
    assert np.abs(np.diff(walk, axis=0)).max() <= 0.1 + 1e-6  # every move is a legal one, the last included
    ended = after._replace(terminated=torch.ones_like(after.terminated))
    goal = [float(task["goal_x"][1]), float(task["goal_y"][1])]
    assert plane.walks(ended, task, 1)[2][-1].tolist() == pytest.approx(goal)


def test_pictures_show_the_first_of_the_scored_tasks() -> None:
    setup = build(NAVIGATION, CPU)
    scored = held_out_tasks(setup.benchmark, Protocol())
    shown = plane.first_tasks(setup, 6)
    assert all(torch.equal(values[:6], shown[name]) for name, values in scored.items())


def test_before_and_after_leaves_the_learner_alone() -> None:
    setup = build(CARTPOLE, CPU)
    task = held_out_tasks(setup.benchmark, Protocol(tasks=1))
    kept = {name: value.clone() for name, value in setup.learner.state_dict().items()}
    _, after = plane.before_and_after(setup, task, 2, torch.Generator().manual_seed(0))
    assert all(torch.equal(kept[name], value) for name, value in setup.learner.state_dict().items())
    assert not any(leaf.requires_grad for leaf in after.distribution)


def test_a_run_folder_is_drawn_with_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup, folder = build(NAVIGATION, CPU), run_folder(tmp_path / "run")
    files = figures.draw_run(folder, setup, result() | {"split": "test"})
    assert sorted(f.name for f in files if f.suffix == ".png") == [
        "adaptation-test.png", "learning.png", "paths.png", "step-sizes.png"]  # fmt: skip
    assert all(file.stat().st_size > 0 for file in files)
    printed = capsys.readouterr().out
    assert printed.startswith(f"figures in {folder / 'figures'}: ") and printed.count("\n") == 1
    assert all(file.name in printed for file in files if file.suffix == ".png")


def test_missing_inputs_are_skipped_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CARTPOLE.model_copy(update={"rule": "maml"})
    assert figures.draw_run(tmp_path, build(config, CPU)) == []
    assert figures.adaptation_curves(tmp_path / "a", {"a": []}) == []
    assert figures.learning_curve(tmp_path / "l", {"a": [tmp_path / "nowhere"]}) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert figures.learning_curve(tmp_path / "l", {"a": [tmp_path]}) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "env_steps_total": 9.0, "return/step_0": 2.0}\n')
    assert figures.learning_curve(tmp_path / "l", {"a": [tmp_path]}) == []  # one iteration is no curve
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert capsys.readouterr().out == ""


def test_equal_inputs_give_equal_files_and_matplotlib_stays_as_it_was(tmp_path: Path) -> None:
    settings = dict(page.matplotlib.rcParams)
    first, second = (figures.adaptation_curves(tmp_path / name / "x", {"a": [result()]}) for name in "ab")
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True)] == [True, True]
    assert dict(page.matplotlib.rcParams) == settings


def test_neither_a_display_nor_pyplot_is_needed() -> None:
    code = "import sys, experiments.figures.animations; print('matplotlib.pyplot' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={}, check=True)
    assert found.stdout.strip() == "False"


def test_cartpole_is_animated_frame_by_frame(tmp_path: Path) -> None:
    path = animations.animate_cartpole(tmp_path / "cart.gif", build(CARTPOLE, CPU))
    setup = build(CARTPOLE, CPU)
    noise = plane.stream(Protocol().seed, "animation", CPU)
    _, after = plane.before_and_after(setup, plane.first_tasks(setup, 1), 1, noise)
    shown = int(after.mask.sum()) + animations.REST
    frames, count = frames_of(path)
    assert count == len(range(0, shown + 3, 3)) >= len(frames)
    assert frames[0].size == (animations.WIDTH, animations.CART_HEIGHT)
    assert len(set(frames[0].get_flattened_data())) > 20 and frames[0].tobytes() != frames[3].tobytes()
    assert path.stat().st_size < 1_500_000


def test_navigation_is_animated_frame_by_frame(tmp_path: Path) -> None:
    path = animations.animate_navigation(tmp_path / "plane.gif", build(NAVIGATION, CPU))
    frames, count = frames_of(path)
    assert len(frames) == count == NAVIGATION.horizon + 1
    assert len(set(frames[-1].get_flattened_data())) > 20 and frames[0].tobytes() != frames[-1].tobytes()


@pytest.mark.parametrize(
    ("animate", "config"),
    [(animations.animate_cartpole, CARTPOLE), (animations.animate_navigation, NAVIGATION)],
    ids=["cartpole", "navigation"],
)
def test_animations_are_reproducible_and_refuse_other_families(
    tmp_path: Path, animate: Callable[..., Path], config: Config
) -> None:
    first, second = (animate(tmp_path / name, build(config, CPU)).read_bytes() for name in ("a.gif", "b.gif"))
    assert first == second
    wrong = NAVIGATION if config is CARTPOLE else CARTPOLE
    with pytest.raises(TypeError, match="expected a .* benchmark, got"):
        animate(tmp_path / "c.gif", build(wrong, CPU))
    assert not (tmp_path / "c.gif").exists()


def cart_moments(setup: Setup, episodes: int) -> tuple[Any, list[dict[str, Any]]]:
    setup = replace(setup, plan=Plan(episodes=episodes))
    noise = torch.Generator().manual_seed(0)
    before, _ = plane.before_and_after(setup, plane.first_tasks(setup, 1), 1, noise)
    return before, animations._moments(before)


def test_moments_play_whole_episodes_and_count_falls() -> None:
    before, moments = cart_moments(build(CARTPOLE.model_copy(update={"horizon": 200}), CPU), 3)
    steps = int(before.mask.sum())
    assert len(moments) == steps + 3 * animations.REST
    assert moments[-1]["falls"] == int(before.terminated.sum()) and moments[-1]["episode"] == 3
    assert sum(moment["action"] is not None for moment in moments) == steps
    assert moments[0]["falls"] == 0 and "fell" not in moments[0] and moments[-1]["fell"]


def test_a_cart_that_stays_up_is_not_said_to_have_fallen() -> None:
    _, moments = cart_moments(build(CARTPOLE.model_copy(update={"horizon": 3}), CPU), 2)
    assert moments[-1]["fell"] is False and moments[-1]["falls"] == 0


@pytest.mark.parametrize("polarity", [-1.0, 1.0])
@pytest.mark.parametrize("action", [0.0, 1.0])
def test_the_arrow_points_where_the_force_pushes(polarity: float, action: float) -> None:
    canvas = animations.Canvas(animations.WIDTH, animations.CART_HEIGHT)
    now = {"x": 0.0, "theta": 0.0, "action": action, "episode": 1, "step": 1, "falls": 0}
    task = {"half_length": torch.tensor([0.5]), "polarity": torch.tensor([polarity])}
    animations._cart_panel(canvas, 0.0, now, task)
    blue = np.array(canvas.finish())[..., 2] > np.array(canvas.finish())[..., 0] + 100.0
    center = animations.WIDTH / 4
    pushed = polarity * (2 * action - 1)
    assert blue.any() and np.sign(np.nonzero(blue)[1].mean() - center) == pushed


def learned(seed: int, rule: str, *, shift: float = 0.0) -> dict[str, Any]:
    rates = {"network.head.weight": [0.1, 0.2, 0.2], "log_std": [-0.1, 0.0, 3.0]}
    return result(seed, shift=shift) | {
        "rule": rule,
        "learned": {"effective rates": rates, "meta/rate_negative": 0.25},
    }


def test_rules_are_ranked_and_their_steps_drawn(tmp_path: Path) -> None:
    results = {
        rule: [learned(seed, rule, shift=shift) for seed in range(2)]
        for rule, shift in (("maml", 0.0), ("broken", -900.0), ("meta-sgd", 3.0))
    }
    assert_drawn(figures.ranking(tmp_path / "ranking", results, reference="maml"))
    results["no-adaptation"] = [result(seed) for seed in range(2)]  # has nothing to tell about steps
    assert_drawn(figures.step_lengths(tmp_path / "steps", results))
    assert figures.ranking(tmp_path / "none", {}, reference="maml") == []
    assert figures.step_lengths(tmp_path / "none", {"no-adaptation": [result()]}) == []
    assert not list(tmp_path.glob("none*"))


def test_what_a_mean_is_over() -> None:
    told = [page.over(*shape) for shape in ((5, 100), (1, 100), (5, 1), (1, 1))]
    assert told == ["5 seeds and 100 tasks", "100 tasks, one seed", "5 seeds, one task", "one seed and task"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_say_what_their_intervals_are_over(tmp_path: Path, seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one seed they are over tasks alone."""
    drawn: list[Any] = []
    monkeypatch.setattr(page.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    figures.ranking(tmp_path / "ranking", {"a": [result(seed) for seed in range(seeds)]}, reference="a")
    scores = {field: np.zeros((seeds, 4, 2)) for field in ("sampled", "mode")}
    own = {"env_steps": [[0, 8]], "sampled": [[0.0, 1.0]]}
    finetuning(tmp_path / "finetune", "x", {"a": scores, "b": scores}, [{"env_steps": [0, 16], "own": own}] * seeds)
    titles = [figure.axes[0].get_title(loc="left") for figure in (drawn[0], drawn[-1])]
    expected = ["12 tasks, one seed", "4 tasks, one seed"] if seeds == 1 else ["3 seeds and 12", "3 seeds and 4"]
    assert all(words in title for words, title in zip(expected, titles, strict=True)), titles


@pytest.mark.parametrize("broken", [-5.0, -400.0])
def test_a_broken_seed_does_not_squeeze_a_ranking(
    tmp_path: Path, broken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interval is as long as its mean is low: one of several seeds lifts the mean above what is called broken."""
    drawn: list[Any] = []
    monkeypatch.setattr(page.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    results = {
        name: [result(seed, shift=shift - 25.0) for seed, shift in enumerate((0.0, 0.0, 0.0, 0.0, last))]
        for name, last in (("whole", 0.0), ("broken", broken))
    }
    figures.ranking(tmp_path / "ranking", results, reference="whole")
    assert drawn[0].axes[0].get_xscale() == ("symlog" if broken == -400.0 else "linear")


@pytest.mark.parametrize("rules", [1, 2, 5])
def test_nothing_that_stands_around_step_lengths_is_cut_off(
    tmp_path: Path, rules: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(page.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    names = [f"network.{layer}.{kind}" for layer in ("hidden.0", "hidden.1", "head") for kind in ("weight", "bias")]
    learned = {"effective rates": {name: [0.1, 0.2, 0.3] for name in names}}
    figures.step_lengths(tmp_path / "steps", {f"rule-{i}": [{"learned": learned}] for i in range(rules)})
    box, size = drawn[0].get_tightbbox(), drawn[0].get_size_inches()
    assert box.x0 >= 0.0 and box.y0 >= 0.0 and box.x1 <= size[0] and box.y1 <= size[1]


def test_estimators_are_drawn(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(50, generator=generator)
    found = {
        name: Estimates(signal + noise * torch.randn(8, 50, generator=generator), 0.1)
        for name, noise in (("lvc", 0.5), ("credit", 100.0))
    }
    assert found["lvc"].noise < 1.0 and found["credit"].noise > 10.0
    assert_drawn(figures.estimators(tmp_path / "estimators", found))
