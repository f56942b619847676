"""The one-page report: complete, safe, self-contained and reproducible, whatever the folders contain."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from envs.ranges import Choice, Fixed, LogRange, Range, Union
from experiments import compare, evaluate, report, train
from experiments.figures import canvas, panels, rate_panels
from experiments.reporting import pages, sections, summaries, tables
from experiments.reporting.desk import Desk, Section
from experiments.reporting.live import Live
from experiments.reporting.sources import Contender, Material, distances, fault, read
from metarl import stats

ROOT = Path(__file__).parents[1]
TINY = ["--hidden", "8", "--tasks", "2", "--episodes", "4", "--query-episodes", "4"]
HOSTILE = "<script>alert('x')</script>\"&amp;$x$"
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page is made of: whether tags close in order, ids, addresses, words, and the source of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[tuple[str, str]] = []
        self.words: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.wrong += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]
        loads = {"src", "href", "srcset", "xlink:href", "data", "action", "poster"}
        self.addresses += [(name, value or "") for name, value in attrs if name in loads]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> in {self.open[-3:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.setdefault(self.open[-1] if self.open else "", []).append(data)


def assert_whole(text: str) -> Page:
    """Well-formed, with ids that are used once, and nothing that is fetched from anywhere."""
    page = Page(text)
    assert page.wrong == [] and page.open == []
    assert len(page.ids) == len(set(page.ids))
    for name, value in page.addresses:
        assert value.startswith(("#", "data:")), (name, value[:60])
        assert name == "href" or value.startswith("data:image/"), (name, value[:60])
        if value.startswith("#"):
            assert value[1:] in page.ids
    assert not re.search(r"(?:src|href|srcset|action|data)\s*=\s*[\"']?\s*(?:https?:)?//", text)
    assert "@import" not in text and not re.search(r"url\(\s*[\"']?(?!#)", text)
    assert "https://" not in text and "http://" not in text
    return page


def asked(argv: list[str], output: Path) -> str:
    """Make a report; returns the page."""
    assert report.main([*argv, "--output", str(output)]) == 0
    return output.read_text()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of navigation with two splits, one of CartPole, and a tiny comparison."""
    folder, threads = tmp_path_factory.mktemp("made"), torch.get_num_threads()
    torch.set_num_threads(1)
    for name, *preset in (
        ("navigation", "navigation-fixed"),
        ("cartpole", "cartpole-polarity", "--inner-loss", "learned-advantage"),
    ):
        argv = [*preset, *TINY, "--horizon", "10", "--env-steps", "2000", "--output", str(folder / name)]
        assert train.main([*argv, "--no-evaluate"]) == 0
        for split in ("test", "validation"):
            assert evaluate.main([str(folder / name), "--split", split, "--tasks", "12", "--score-episodes", "2"]) == 0
            made = folder / name / "evaluation"
            (made / f"{split}-tasks=12-score_episodes=2.json").rename(made / f"{split}.json")
    argv = ["navigation-fixed", *TINY, "--horizon", "10", "--env-steps", "1000", "--output", str(folder / "compared")]
    argv += ["--rules", "meta-sgd", "no-adaptation", "maml", "--rates", "0.1", "0.3", "--seeds", "2"]
    argv += ["--rate-lrs", "0.003", "0.03"]
    assert compare.main([*argv, "--held-out", "8", "--workers", "1"]) == 0
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run of navigation, to be broken."""
    return Path(shutil.copytree(made / "navigation", tmp_path / "run"))


@pytest.fixture
def compared(made: Path, tmp_path: Path) -> Path:
    """A copy of the comparison, to be broken."""
    return Path(shutil.copytree(made / "compared", tmp_path / "compared"))


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a JSON file; what ``change`` returns takes its place, or what it has changed."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


# --- whole pages ------------------------------------------------------------------------------------------------


def test_a_page_about_a_run_of_navigation(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = asked([str(made / "navigation")], tmp_path / "page.html")
    page = assert_whole(text)
    assert {"adaptation", "splits", "steps", "plane", "motion", "learning", "run"} <= set(page.ids)
    assert not {"comparison", "signals"} & set(page.ids) and "missing" not in capsys.readouterr().out
    words = " ".join(part for parts in page.words.values() for part in parts)
    for told in ("navigation-fixed", "environment steps", "Task fingerprint", "hidden", "12 held-out tasks"):
        assert told in words, told
    assert "data:image/gif;base64," in text and "prefers-reduced-motion" in text and "prefers-color-scheme" in text
    files = {file.name for file in (tmp_path / "page_files").iterdir()}
    for name in ("adaptation", "tasks", "profiles", "splits", "step-sizes", "steps", "plane-1", "learning"):
        assert {f"{name}.png", f"{name}.svg"} <= files
    for name in ("adaptation-test", "splits", "step-sizes", "steps", "settings"):
        assert {f"{name}.csv", f"{name}.md"} <= files
    assert len(text.encode()) < 5_000_000


def test_what_an_earlier_report_left_behind_is_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    asked([str(made / "cartpole"), "--no-moving"], page)
    assert "there before" not in capsys.readouterr().out
    asked([str(made / "navigation"), "--no-moving"], page)
    (told,) = (line for line in capsys.readouterr().out.splitlines() if "there before" in line)
    assert told.startswith("  not of this report, but there before: ") and " signals.png" in told
    assert "adaptation.png" not in told


def test_a_page_about_a_run_of_cartpole(made: Path, tmp_path: Path) -> None:
    text = asked([str(made / "cartpole")], tmp_path / "page.html")
    page = assert_whole(text)
    assert {"motion", "splits", "signals"} <= set(page.ids) and "plane" not in page.ids
    assert "Learned advantage" in page.words["h2"]
    assert all((tmp_path / "page_files" / f"{name}.png").exists() for name in ("by-constant", "signals"))
    assert "img" in Page(text).tags
    still = asked([str(made / "cartpole"), "--no-moving"], tmp_path / "still.html")
    assert "image/gif" not in still


def test_a_page_about_a_comparison(made: Path, tmp_path: Path) -> None:
    text = asked([str(made / "compared")], tmp_path / "page.html")
    page = assert_whole(text)
    assert {"comparison", "adaptation", "tasks", "aggregates", "steps", "tuning", "run"} <= set(page.ids)
    files = {file.name for file in (tmp_path / "page_files").iterdir()}
    assert {"ranking.png", "differences.svg", "tuning.png", "comparison.csv", "tuning.md", "aggregates.csv"} <= files
    rows = list(csv.DictReader(io.StringIO((tmp_path / "page_files" / "comparison.csv").read_text())))
    assert {row["rule"] for row in rows} == {"meta-sgd", "no-adaptation", "maml"}
    written = json.loads((made / "compared" / "comparison.json").read_text())["results"]
    for row in rows:
        column = 0 if row["rule"] == "no-adaptation" else 1
        scores = np.array([result["sampled"] for result in written[row["rule"]]])[..., column]
        found = stats.interval(scores, stats.mean, seed=0)
        told = [float(row[name]) for name in ("after", "after: low", "after: high")]
        assert told == [pytest.approx(value) for value in (found.estimate, found.low, found.high)]
    assert [float(row["after"]) for row in rows] == sorted((float(row["after"]) for row in rows), reverse=True)
    tried = list(csv.DictReader(io.StringIO((tmp_path / "page_files" / "tuning.csv").read_text())))
    told = ["meta-sgd, rate_lr 0.003", "meta-sgd, rate_lr 0.03", "no-adaptation", "maml"]
    assert [row["rule"] for row in tried] == told and [float(row["trials"]) for row in tried] == [2, 2, 1, 4]


def test_a_page_that_compares_runs(made: Path, run: Path, tmp_path: Path) -> None:
    """Runs of one configuration are one rule with several seeds; another rule stands beside it."""
    seed = shutil.copytree(run, tmp_path / "seed")
    rewrite(seed / "config.json", lambda config: config.update(seed=7))
    rewrite(seed / "evaluation" / "test.json", lambda result: result.update(seed=7))
    other = shutil.copytree(run, tmp_path / "other")
    rewrite(other / "config.json", lambda config: config.update(rule="maml"))
    material = read([run, seed, other])
    assert [contender.label for contender in material.contenders] == ["meta-sgd", "maml"]
    assert [len(contender.results["test"]) for contender in material.contenders] == [2, 1]
    page = assert_whole(asked([str(path) for path in (run, seed, other)], tmp_path / "page.html"))
    assert {"comparison", "splits", "learning"} <= set(page.ids) and "plane" not in page.ids
    rewrite(other / "config.json", lambda config: config.update(rule="meta-sgd", rate=9.0))
    assert [c.label for c in read([run, other]).contenders] == ["meta-sgd (rate 0.3)", "meta-sgd (rate 9.0)"]
    again = read([run, shutil.copytree(run, tmp_path / "again")])
    assert len(again.contenders[0].results["test"]) == 1
    assert any("repeats" in what for what, _ in again.missing)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config, result: config.update(env_steps=5), "budgets of 2000 and 5 environment steps"),
        (lambda config, result: config.update(env_steps="<b>"), "budgets of 2000 and <b> environment steps"),
        (lambda config, result: result["protocol"].update(score_episodes=3), "not scored alike on test"),
        (lambda config, result: result["protocol"].update(seed=3), "not scored alike on test"),
        (lambda config, result: result["task"]["goal_x"].reverse(), "not scored alike on test"),
        (lambda config, result: result.update(env_steps=999), "scored on test after 999 environment steps of training"),
        (
            lambda config, result: (config.update(rule="meta-sgd", seed=9), result.update(seed=9, env_steps=999)),
            "meta-sgd, seed 9, was scored on test after 999 environment steps of training, another run after 2,000",
        ),
        (lambda config, result: result["protocol"].update(episodes=9), "adapt on 4 and 9 episodes per step on test"),
    ],
)
def test_unequal_runs_are_not_compared(
    run: Path, tmp_path: Path, change: Callable[[Any, Any], Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    config, result = (json.loads((other / name).read_text()) for name in ("config.json", "evaluation/test.json"))
    config["rule"] = "maml"
    change(config, result)
    (other / "config.json").write_text(json.dumps(config))
    (other / "evaluation" / "test.json").write_text(json.dumps(result))
    assert report.main([str(run), str(other), "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert told in error and "not comparable" in error


def test_runs_are_compared_by_the_looks_that_they_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the refusal of unequal runs advises."""
    folders = [str(tmp_path / name) for name in ("few", "many")]
    for folder, episodes in zip(folders, ("2", "4"), strict=True):
        argv = [*TINY[:4], "--query-episodes", "4", "--episodes", episodes, "--horizon", "5", "--env-steps", "100"]
        assert train.main(["navigation-fixed", *argv, "--no-evaluate", "--output", folder]) == 0
    looks = ["--tasks", "3", "--score-episodes", "2"]
    for folder in folders:
        assert evaluate.main([folder, *looks]) == 0
    page = ["--no-moving", "--output", str(tmp_path / "page.html")]
    assert report.main([*folders, *page]) == 2
    assert "not comparable; pass --episodes to evaluate.py, or make a page for each" in capsys.readouterr().err
    assert evaluate.main([folders[0], *looks, "--episodes", "4"]) == 0
    assert report.main([*folders, *page]) == 0
    found = read([Path(folder) for folder in folders])
    assert found.splits == ["test-tasks=3-episodes=4-score_episodes=2"] and len(found.contenders) == 2
    assert any("has a protocol that not all of these runs share" in what for what, _ in found.missing)
    assert read([Path(folders[0])]).splits == sorted(
        ["test-tasks=3-score_episodes=2", "test-tasks=3-episodes=4-score_episodes=2"]
    )


def test_a_comparison_that_was_made_unequal_is_refused(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(compared / "comparison.json", lambda found: found["results"]["meta-sgd"][0].update(training_env_steps=9))
    assert report.main([str(compared)]) == 2
    assert "expected training for 1,000 environment steps, got 9: not comparable" in capsys.readouterr().err

    def forget(found: Any) -> None:
        found["results"]["meta-sgd"][0].pop("training_env_steps")

    rewrite(compared / "comparison.json", forget)
    assert any("the budget spent by each rule was not recorded" in what for what, _ in read([compared]).missing)


def test_who_does_not_know_the_floor_is_normalised_like_the_others(compared: Path, tmp_path: Path) -> None:
    """As an oracle's view of the tasks, whose wrapper only vouches for the ceiling."""

    def forget(found: Any) -> None:
        for result in found["results"]["no-adaptation"]:
            del result["references"]["floor"]

    whole = asked([str(compared)], tmp_path / "whole.html")
    rewrite(compared / "comparison.json", forget)
    assert asked([str(compared)], tmp_path / "less.html").replace("less_files", "whole_files") == whole
    assert "optimality gap" in whole


def test_costs_are_told_in_every_currency(made: Path, tmp_path: Path) -> None:
    page = assert_whole(asked([str(made / "compared")], tmp_path / "page.html"))
    assert "cost" in page.ids and {"cost-steps.svg", "cost-episodes.png"} <= names_in(tmp_path / "page_files")
    rows = {row["rule"]: row for row in csv.DictReader(io.StringIO((tmp_path / "page_files/costs.csv").read_text()))}
    written = json.loads((made / "compared" / "comparison.json").read_text())["results"]
    assert set(rows) == set(written)
    for rule, row in rows.items():
        after = 0 if rule == "no-adaptation" else 1
        steps = np.mean([result["adaptation_steps"] for result in written[rule]], (0, 1))[after]
        seconds = np.mean([result["seconds"] for result in written[rule]])
        assert float(row["episodes on a task"]) == 4.0 * after and float(row["adaptation steps on a task"]) == after
        assert float(row["environment steps on a task"]) == pytest.approx(steps)
        assert float(row["seconds"]) == pytest.approx(seconds)
        assert float(row["training: environment steps"]) >= 1000.0
    assert "cost" in assert_whole(asked([str(made / "cartpole")], tmp_path / "one.html")).ids
    spent = json.loads((made / "cartpole" / "status.json").read_text())["env_steps"]
    told = next(csv.DictReader(io.StringIO((tmp_path / "one_files/costs.csv").read_text())))
    assert float(told["training: environment steps"]) == spent


def test_who_adapts_by_playing_is_said_to_take_no_gradient_steps() -> None:
    scores = [[1.0, 2.0], [3.0, 4.0]]
    steps, plays = contender("a", scores, [0, 1]), replace(contender("b", scores, [0, 1]), remembers=True)
    assert summaries.steps_words(steps, "test") == "after one gradient step"
    assert summaries.steps_words(plays, "test") == "after one episode"
    assert "after one episode" in summaries.headline([plays], plays, "test")


def test_training_is_drawn_with_intervals_over_seeds_against_steps_and_seconds(made: Path, tmp_path: Path) -> None:
    seed = shutil.copytree(made / "navigation", tmp_path / "seed")
    rewrite(seed / "config.json", lambda config: config.update(seed=7))
    lines = [json.loads(line) for line in (seed / "metrics.jsonl").read_text().splitlines()]
    changed = [json.dumps(line | {"return/step_1": line["return/step_1"] + 1.0}) + "\n" for line in lines]
    (seed / "metrics.jsonl").write_text("".join(changed))
    text = asked([str(made / "navigation"), str(seed)], tmp_path / "page.html")
    assert "95 % intervals over seeds" in text and "seconds of training" in text
    assert {"learning.svg", "learning-seconds.svg", "rates-over-training.svg"} <= names_in(tmp_path / "page_files")
    assert "95 % intervals over seeds" not in asked([str(made / "navigation")], tmp_path / "one.html")


def test_any_family_with_a_drawing_moves_in_the_page(tmp_path: Path) -> None:
    argv = ["navigation-fixed", "--benchmark", "pendulum-packer", *TINY, "--horizon", "8", "--env-steps", "300"]
    assert train.main([*argv, "--output", str(tmp_path / "run")]) == 0
    text = asked([str(tmp_path / "run")], tmp_path / "page.html")
    assert (
        "motion" in assert_whole(text).ids and "One episode before adapting, then one after each gradient step." in text
    )


def test_one_step_size_for_everything_is_told_and_not_drawn(made: Path, tmp_path: Path) -> None:
    text = asked([str(made / "compared")], tmp_path / "page.html")
    assert "nothing to draw: maml 0." in text
    assert not any("steps-3-maml" in name for name in names_in(tmp_path / "page_files"))
    assert summaries.one_rate({"a": np.array([0.3, 0.3]), "b": np.array([0.3])}) == 0.3
    assert summaries.one_rate({"a": np.array([0.3, 0.3]), "b": np.array([0.31])}) is None


def test_the_best_never_share_a_colour(made: Path, tmp_path: Path) -> None:
    """More contenders than colours: those drawn in one picture are the best, and told apart."""
    rng = np.random.default_rng(0)
    many = [contender(f"c{i}", rng.normal(size=(2, 5)).tolist(), [0, 1]) for i in range(14)]
    desk = Desk(Material(many), tmp_path, Live(()))
    assert len({desk.colors[one.label] for one in desk.few()}) == len(desk.few()) == 6


def names_in(folder: Path) -> set[str]:
    """The files of a folder."""
    return {file.name for file in folder.iterdir()}


def test_equal_inputs_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    for name in ("navigation", "compared"):
        texts = [asked([str(made / name)], tmp_path / part / "page.html") for part in ("a", "b")]
        assert texts[0] == texts[1]
        first, second = (sorted((tmp_path / part / "page_files").iterdir()) for part in ("a", "b"))
        assert [file.name for file in first] == [file.name for file in second]
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes(), one.name
        shutil.rmtree(tmp_path / "a"), shutil.rmtree(tmp_path / "b")


def test_the_page_lies_in_the_folder_unless_told_otherwise(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert report.main([str(run), "--no-moving"]) == 0 and (run / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "other")
    rewrite(tmp_path / "other" / "config.json", lambda config: config.update(seed=3))
    assert report.main(["run", "other"]) == 0 and (tmp_path / "report.html").exists()


# --- hostile names ----------------------------------------------------------------------------------------------


def test_names_and_notes_are_never_markup(compared: Path, tmp_path: Path) -> None:
    def change(written: dict[str, Any]) -> None:
        written["results"] = {f"{HOSTILE}{i}": found for i, found in enumerate(written["results"].values())}
        written["command"] = f"python x {HOSTILE}"
        written["config"]["benchmark"] = f"</title>{HOSTILE}"
        written["system"]["platform"] = HOSTILE

    rewrite(compared / "comparison.json", change)
    rewrite(compared / "tuning.json", lambda trials: trials[0].update(rule=f"{HOSTILE}0"))
    text = asked([str(compared), "--note", f"<img src=x onerror=alert(1)>{HOSTILE}"], tmp_path / "page.html")
    page = assert_whole(text)
    assert "img" not in page.tags and page.tags.count("script") == 1
    assert "alert('x')" not in "".join(page.words["script"])
    assert any(HOSTILE in part for part in page.words["p"])
    found = json.loads((compared / "comparison.json").read_text())["results"].popitem()[1]
    long = {f"{'x' * 500}{i}": found for i in range(12)} | {f"{'y ' * 50}": found}
    rewrite(compared / "comparison.json", lambda written: written.update(results=long))
    assert_whole(asked([str(compared)], tmp_path / "page.html"))
    for name in ("__x", "\u0000\u001b[31m", "汉字 \U0001f600", "x" * 500, "  ", "_"):
        rewrite(
            compared / "comparison.json", lambda w, n=name: w.update(results={n: next(iter(w["results"].values()))})
        )
        assert_whole(asked([str(compared)], tmp_path / "page.html"))


def test_a_table_is_no_formula_and_keeps_its_columns() -> None:
    names = ["=1+1", "+x", "-x", "@x", "\tx", "a|b", "line\nbreak", "`*_[x](y)<b>"]
    rows = [[tables.words(name), tables.figure(-1.5, 2)] for name in names]
    table = tables.Table("t", ("rule", "value"), rows)
    told = list(csv.reader(io.StringIO(table.csv)))
    assert all(row[0][:1] not in {"=", "+", "-", "@", "\t"} for row in told)
    assert [float(row[1]) for row in told[1:]] == [-1.5] * len(names)
    for line in table.markdown.splitlines():
        assert len(re.split(r"(?<!\\)\|", line)) == 4
    assert base64.b64decode(table.csv_link.partition(",")[2]).decode() == table.csv


def test_a_run_that_does_not_adapt_misses_no_step_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["navigation-fixed", "--rule", "maml", "--steps", "0", *TINY, "--horizon", "10", "--env-steps", "500"]
    assert train.main([*argv, "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    page = asked([str(tmp_path / "run")], tmp_path / "report.html")
    assert "It does not adapt" in page and "Learned step sizes" not in page
    assert "missing" not in capsys.readouterr().out
    drawn = (tmp_path / "report_files" / "adaptation.svg").read_text()
    assert ">\N{MINUS SIGN}0.10<" not in drawn and ">0<" in drawn  # steps are whole, also where there are none


# --- missing and broken files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", "config.json is not there"),
        ("status.json", "status.json is not there"),
        ("system.json", "system.json is not there"),
        ("command.txt", "command.txt is not there"),
        ("evaluation", "no held-out evaluation"),
        ("checkpoints", "no checkpoint of run can be used"),
        ("metrics.jsonl", ""),
    ],
)
def test_what_is_missing_is_named(
    run: Path, tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = run / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = assert_whole(asked([str(run), "--no-moving"], tmp_path / "page.html"))
    words = " ".join(part for parts in page.words.values() for part in parts)
    assert told in words and told in capsys.readouterr().out


GARBAGE = [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b'"text"', b"[" * 100_000, b'{"sampled": 1}', b"NaN", b"7"]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_no_garbage_ends_in_a_traceback(made: Path, tmp_path: Path, garbage: bytes) -> None:
    """Every file of a folder in turn is read as garbage; then there are pages about folders of little else."""
    names = ("evaluation/test.json", "config.json", "status.json", "system.json", "command.txt", "metrics.jsonl")
    folder, compared = tmp_path / "run", shutil.copytree(made / "compared", tmp_path / "compared")
    (folder / "evaluation").mkdir(parents=True)
    for broken in names:
        for name in names:
            shutil.copy(made / "navigation" / name, folder / name)
        (folder / broken).write_bytes(garbage)
        read([folder])
    shutil.copy(made / "navigation" / names[0], folder / names[0])
    for name in names[1:]:
        (folder / name).write_bytes(garbage)
    page = assert_whole(asked([str(folder)], tmp_path / "page.html"))
    assert "adaptation" in page.ids
    (compared / "tuning.json").write_bytes(garbage)
    rewrite(compared / "comparison.json", lambda written: written["results"].pop("no-adaptation") and None)
    page = assert_whole(asked([str(compared)], tmp_path / "page.html"))
    assert "comparison" in page.ids and "tuning" not in page.ids
    (compared / "comparison.json").write_bytes(garbage)
    assert read([compared]).missing


def test_an_unfinished_comparison_says_so(compared: Path, tmp_path: Path) -> None:
    (compared / "comparison.json").unlink()
    page = assert_whole(asked([str(compared)], tmp_path / "page.html"))
    words = " ".join(part for parts in page.words.values() for part in parts)
    assert "the experiment is not finished (15 jobs are)" in words and "tuning" in page.ids


def test_seeds_that_diverged_are_counted_and_told(compared: Path, tmp_path: Path) -> None:
    def change(written: dict[str, Any]) -> None:
        written["results"]["meta-sgd"][0] = {"diverged": "it did"}
        written["results"]["maml"][1]["sampled"][0][0] = float("nan")
        written["results"]["no-adaptation"] = [{"diverged": "x"}] * 2

    rewrite(compared / "comparison.json", change)
    material = read([compared])
    assert [len(c.results.get("test", [])) for c in material.contenders] == [1, 0, 1]
    told = [what for what, _ in material.missing]
    assert any("1 of 2 seeds diverged" in what for what in told) and any("not finite" in what for what in told)
    assert_whole(asked([str(compared)], tmp_path / "page.html"))


def test_a_failed_run_tells_its_reason(run: Path, tmp_path: Path) -> None:
    rewrite(run / "status.json", lambda status: status.update(status="failed", reason="DivergedError: lower it"))
    text = asked([str(run), "--no-moving"], tmp_path / "page.html")
    assert "run is not finished: failed (DivergedError: lower it)" in text and "--resume" in text


def test_seeds_evaluated_differently_are_left_out(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    rewrite(other / "config.json", lambda config: config.update(seed=5))
    rewrite(other / "evaluation" / "test.json", lambda result: result["protocol"].update(seed=1))
    material = read([run, other])
    assert len(material.contenders[0].results["test"]) == 1
    assert any("evaluated differently" in what for what, _ in material.missing)


def test_an_evaluation_of_an_earlier_checkpoint_is_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = json.loads((run / "evaluation" / "test.json").read_text())["iteration"]
    rewrite(run / "evaluation" / "validation.json", lambda result: result.update(iteration=last - 1))
    assert read([run]).splits == ["test"]
    asked([str(run), "--no-moving"], tmp_path / "page.html")
    told = f"evaluation/validation.json of run is of iteration {last - 1}, but the last checkpoint of {last}"
    assert f"  missing: {told}; it was left out: evaluate again\n" in capsys.readouterr().out
    rewrite(run / "evaluation" / "validation.json", lambda result: result.pop("iteration") and None)
    assert read([run]).splits == ["test", "validation"]  # written before they told
    rewrite(run / "evaluation" / "validation.json", lambda result: result.update(iteration=last - 1))
    shutil.rmtree(run / "checkpoints")
    assert read([run]).splits == ["test", "validation"]


def test_a_single_score_has_no_interval(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "evaluation")
    assert evaluate.main([str(run), "--constants", "goal_x=0.7", "goal_y=0.7", "--steps", "1"]) == 0
    page = assert_whole(asked([str(run), "--no-moving"], tmp_path / "page.html"))
    words = " ".join(part for parts in page.words.values() for part in parts)
    assert "A single score has no interval." in words and "intervals over" not in words
    (table,) = (tmp_path / "page_files").glob("adaptation-constants-goal-x-0-7-*.md")
    assert not re.search(r"\[[−0-9]", table.read_text())
    one, other = contender("a", [[1.0]], [0]), contender("b", [[2.0]], [0])
    assert "[" not in summaries.headline([one], one, "test")
    assert "of a single score: may be chance" in summaries.headline([one, other], one, "test")
    assert asked([str(run), str(shutil.copytree(run, tmp_path / "again"))], tmp_path / "two.html")


def test_a_page_says_what_its_brackets_are_over(tmp_path: Path) -> None:
    for scores, words in (
        ([[1.0, 2.0], [3.0, 4.0]], "over both."),
        ([[1.0, 2.0]], "over tasks; they say nothing about other seeds."),
        ([[1.0], [2.0]], "over seeds."),
        ([[1.0]], "A single score has no interval."),
    ):
        one = contender("a", scores, list(range(len(scores))))
        assert pages.basis(Desk(Material([one]), tmp_path, Live(()))).endswith(words)


def test_a_return_that_is_shown_as_the_same_stays() -> None:
    same = contender("a", [[0.001, 0.0], [0.0, -0.0011]], [0, 1])
    assert "the return stays at 0.000 [" in summaries.headline([same], same, "test")


def test_a_rule_without_a_step_size_of_the_grid_shows_none(compared: Path) -> None:
    def rename(found: Any) -> None:
        for part in ("results", "rates"):
            found[part] = {name.replace("meta-sgd", "a.b:C"): value for name, value in found[part].items()}

    rewrite(compared / "comparison.json", rename)
    rates = {one.label: one.config["rate"] for one in read([compared]).contenders}
    assert rates["a.b:C"] is None and rates["maml"] in {0.1, 0.3}


@pytest.mark.parametrize("names", [("norml", "maml"), ("maml", "norml")])
def test_what_defines_one_contender_is_no_setting_of_the_comparison(
    names: tuple[str, str], compared: Path, tmp_path: Path
) -> None:
    def rename(found: Any) -> None:
        for part in ("results", "rates"):
            found[part] = {name: found[part][old] for name, old in zip(names, ("meta-sgd", "maml"), strict=True)}

    rewrite(compared / "comparison.json", rename)
    table = pages.settings(Desk(read([compared]), tmp_path / "files", Live(())))
    assert table is not None and table.columns[1] == "this comparison"
    told = {row[0].text: row[1].text for row in table.rows}
    assert told["env_steps"] == "1000" and not {"inner_loss", "rate_lr", "rule", "rate"} & set(told)


def wrong_results() -> dict[str, Callable[[dict[str, Any]], Any]]:
    return {
        "no scores": lambda result: result.pop("sampled"),
        "ragged": lambda result: result["sampled"][0].pop(),
        "words": lambda result: result["sampled"][0].__setitem__(0, "x"),
        "other shape": lambda result: result["mode"].pop(),
        "empty": lambda result: result.update(sampled=[], mode=[], adaptation_steps=[]),
        "other tasks": lambda result: next(iter(result["task"].values())).pop(),
        "not finite": lambda result: result["sampled"][0].__setitem__(0, math.inf),
        "no table": lambda result: result.update(task=3),
        "a seed that is a list": lambda result: result.update(seed=[1]),
    }


@pytest.mark.parametrize("what", wrong_results())
def test_a_result_with_a_fault_is_seen(made: Path, what: str) -> None:
    result = json.loads((made / "navigation" / "evaluation" / "test.json").read_text())
    assert fault(result) is None
    wrong_results()[what](result)
    assert fault(result)


@pytest.mark.parametrize(
    "text",
    ["<p><b></p></b>", "<p>", "<i id=a></i><i id=a></i>", "<img src='x.png'>", "<a href='https://x'></a>",
     "<a href=#x></a>", "<style>@import 'x'</style>", "<p style='background:url(x)'></p>", "<p onclick=x></p>"],
)  # fmt: skip
def test_a_page_that_is_not_whole_is_seen(text: str) -> None:
    with pytest.raises(AssertionError):
        assert_whole(text)


# --- wrong input ------------------------------------------------------------------------------------------------


def wrong(tmp_path: Path, made: Path) -> dict[str, tuple[list[str], str]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "search" / "jobs").mkdir(parents=True)
    (tmp_path / "search" / "tune.json").write_text("{}")
    run, compared = str(made / "navigation"), str(made / "compared")
    return {
        "nothing": ([], "got none"),
        "no such folder": ([str(tmp_path / "gone")], "no such folder"),
        "an empty folder": ([str(tmp_path / "empty")], "found files of neither"),
        "a file": ([str(tmp_path / "file")], "found files of neither"),
        "a search": ([str(tmp_path / "search")], "holds a search, expected a run folder or a comparison folder; its"),
        "two comparisons": ([compared, compared], "one comparison folder alone"),
        "a comparison and a run": ([run, compared], "one comparison folder alone"),
        "other benchmarks": ([run, str(made / "cartpole")], "scored on different benchmarks"),
        "no page": ([run, "--output", str(tmp_path / "x.pdf")], "ends in .html"),
        "a folder as page": ([run, "--output", str(tmp_path)], "ends in .html"),
    }


WRONG = (
    "nothing",
    "no such folder",
    "an empty folder",
    "a file",
    "a search",
    "two comparisons",
    "a comparison and a run",
    "other benchmarks",
    "no page",
    "a folder as page",
)


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(
    made: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, told = wrong(tmp_path, made)[what]
    assert report.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and told in error


# --- parts ------------------------------------------------------------------------------------------------------


def test_distances_to_the_training_range_by_hand() -> None:
    ranges = {"a": Range(0.0, 2.0), "b": LogRange(1.0, 100.0), "c": Fixed(3.0), "d": Union(((0.0, 1.0), (3.0, 4.0)))}
    inside = {"a": 1.0, "b": 10.0, "c": 3.0, "d": 0.5}

    def far(**changes: float) -> float:
        task = {name: [value] for name, value in (inside | changes).items()}
        return float(distances(ranges, task)[0])

    assert far() == 0.0
    assert far(a=3.0) == pytest.approx(0.5) and far(a=-2.0) == pytest.approx(1.0)
    assert far(b=1000.0) == pytest.approx(0.5)  # one decade of two
    assert far(d=2.0) == pytest.approx(0.25)  # in the hole: one from either part, of a width of four
    assert far(a=3.0, b=1e4) == pytest.approx(1.0)  # the largest counts
    assert far(c=4.0) == math.inf
    assert far(c=float(np.float32(3.0000001))) == 0.0
    assert distances({"p": Choice((-1.0, 1.0))}, {"p": [1.0, -1.0, 0.0]}).tolist() == [0.0, 0.0, 0.5]


def test_visible_shows_all_unless_some_are_very_far_below() -> None:
    assert canvas.visible(np.array([1.0, 2.0, 3.0])) == (1.0, 3.0)
    assert canvas.visible(np.array([-1000.0, 2.0, 3.0])) == (-2.0, 3.0)
    assert canvas.visible(np.array([5.0])) == (5.0, 5.0)


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [(-0.001, 2, "0.00"), (-1.5, 1, "−1.5"), (12345.6, 1, "12,345.6"), (math.inf, 1, "∞"), (math.nan, 1, "–")],
)
def test_numbers_as_they_are_shown(value: float, decimals: int, shown: str) -> None:
    assert tables.number(value, decimals) == shown


def test_shares_are_never_rounded_to_none() -> None:
    told = [
        tables.percent(share, decimals=1).text.replace("\N{NARROW NO-BREAK SPACE}", " ") for share in (0.0, 1e-5, 0.5)
    ]
    assert told == ["0.0 %", "<0.1 %", "50.0 %"]


def contender(label: str, scores: list[list[float]], seeds: list[int]) -> Contender:
    """One with scores of one adaptation step, ``[seeds, tasks]``."""
    results = [
        {"seed": seed, "fingerprint": "f", "task": {"a": [0.0] * len(row)}, "references": {},
         "protocol": {}, "sampled": [[0.0, value] for value in row], "mode": [[0.0, value] for value in row]}
        for seed, row in zip(seeds, scores, strict=True)
    ]  # fmt: skip
    return Contender(label, {"steps": 1}, {"test": results})


def test_the_worst_tenth_of_few_tasks_has_no_interval(tmp_path: Path) -> None:
    """That of 49 tasks would cover too rarely: a tenth of ten is one task, which is the lower end of its interval."""
    scores = np.random.default_rng(2).normal(size=(3, summaries.LEAST))
    found = summaries.tail(scores)
    assert found == stats.interval(scores, stats.worst_decile, seed=0)
    few = summaries.tail(scores[:, 1:])
    assert math.isnan(few.low) and math.isnan(few.high) and few.estimate == stats.worst_decile(scores[:, 1:])
    for tasks in (summaries.LEAST, summaries.LEAST - 1):
        one = contender("a", scores[:, :tasks].tolist(), [0, 1, 2])
        told = {name: ends for name, _, ends in pages.tiles(Desk(Material([one]), tmp_path, Live(())))}
        assert (
            bool(told["Worst tenth of tasks"]) == (tasks == summaries.LEAST) and told["Return after one gradient step"]
        )


def test_who_was_not_trained_has_spent_nothing() -> None:
    """Nought is not the same as what nobody has recorded."""
    spent = {"training_env_steps": 0, "iterations": 0, "seconds": 0.0}
    one, unknown = contender("from-scratch", [[1.0, 2.0]], [0]), contender("b", [[1.0, 2.0]], [0])
    one.results["test"][0].update(spent)
    rows = summaries.costs([one, unknown], "test", [], {}).rows
    assert [cell.text for cell in rows[0][-3:]] == ["0", "0", "0"]
    assert [cell.text for cell in rows[1][-3:]] == [tables.NONE] * 3


def test_a_profile_of_who_is_far_below_the_floor_runs_from_left_to_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.random.default_rng(3).normal(-500.0, 50.0, size=(2, 12))
    one = contender("broken", scores.tolist(), [0, 1])
    for result in one.results["test"]:
        result["references"] = {"floor": [-4.0] * 12, "ceiling": [-0.5] * 12}
        result["sampled"] = [[value - 1.0, value] for _, value in result["sampled"]]
    drawn: list[np.ndarray] = []
    monkeypatch.setattr(
        panels, "profiles", lambda path, found, points, *_: drawn.append(points) or canvas.Drawn("", "")
    )
    desk = Desk(Material([one]), tmp_path, Live(()))
    sections._profiles(desk, Section("x", "x"), [one])
    points, scaled = drawn[0], (scores + 4.0) / 3.5
    assert (np.diff(points) > 0.0).all() and points[0] < np.median(scaled) < scaled.max() < points[-1]


def test_nine_tenths_of_no_gain_are_never_there() -> None:
    def learned(*returns: float) -> panels.Learned:
        found = stats.sample_efficiency(np.array(returns)[None, None], stats.mean, seed=0)
        return panels.Learned("a", "#000000", "-", np.arange(float(len(returns))), found)

    assert sections._most(learned(0.0, 5.0, 9.5, 10.0)) == 2.0
    for nothing in (learned(3.0, 3.0, 3.0), learned(3.0, 2.0, 1.0)):
        assert math.isnan(sections._most(nothing))


def test_a_task_that_stays_as_it_was_is_not_called_better(tmp_path: Path) -> None:
    before = np.array([1.0, 2.0, 3.0])
    svg = panels.scatter(tmp_path / "tasks", "title", before, np.array([1.0, 2.5, 2.0]), "after").svg
    assert "no worse: 2 tasks" in svg and ">worse: 1 tasks" in svg


def test_titles_of_costs_are_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, ends = canvas.Figure.savefig, {}

    def look(figure: Any, *args: Any, **kwargs: Any) -> None:
        save(figure, *args, **kwargs)
        if figure._suptitle is not None:
            extent = figure._suptitle.get_window_extent(FigureCanvasAgg(figure).get_renderer())
            ends[figure._suptitle.get_text()] = extent.x1 / figure.bbox.width

    monkeypatch.setattr(canvas.Figure, "savefig", look)
    one = contender("a", [[1.0, 2.0], [3.0, 4.0]], [0, 1])
    for result in one.results["test"]:
        result |= {"adaptation_steps": [[0.0, 9.0]] * 2, "adaptation_episodes": [[0.0, 2.0]] * 2}
    assert sections.cost(Desk(Material([one]), tmp_path, Live(()))) is not None
    assert list(ends) == ["Return against environment steps", "Return against episodes"]
    assert max(ends.values()) < 1.0


def test_differences_pair_the_seeds_that_both_have() -> None:
    a = contender("a", [[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [0, 1, 5])
    b = contender("b", [[3.0, 3.0], [1.0, 1.0]], [1, 0])
    pair = summaries.paired(a, b, "test")
    assert pair is not None
    np.testing.assert_array_equal(pair[0] - pair[1], [[0.0, 1.0], [0.0, 1.0]])
    assert summaries.paired(a, contender("c", [[1.0, 2.0]], [7]), "test") is None


def test_how_often_one_beats_the_other_has_an_interval_unless_it_is_nearly_always() -> None:
    rng, seeds = np.random.default_rng(1), [0, 1, 2, 3]
    base = rng.normal(size=(4, 30))
    reference, near, far = (contender(str(by), (base + by).tolist(), seeds) for by in (0.0, 0.5, 50.0))
    cell = summaries.beats(near, reference, "test")
    expected = stats.improvement_interval(base + 0.5, base, seed=0)
    assert cell.value == expected.estimate and cell.ends == expected[:2] and cell.interval.startswith("[")
    assert summaries.beats(far, reference, "test").plain == "100\N{NARROW NO-BREAK SPACE}%"
    assert summaries.beats(reference, reference, "test") == tables.nothing()
    fewer = contender("fewer", base[:3].tolist(), seeds[:3])
    assert summaries.beats(fewer, reference, "test").ends is None


def test_the_headline_says_when_an_order_may_be_chance() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(4, 20))
    good, same = (base + 5.0).tolist(), (base + 0.01 * rng.normal(size=base.shape)).tolist()
    seeds = [0, 1, 2, 3]
    low, high = contender("low", base.tolist(), seeds), contender("high", good, seeds)
    assert "clear of zero" in summaries.headline([high, low], low, "test")
    assert "may be chance" in summaries.headline([contender("same", same, seeds), low], low, "test")
    assert "rises from 0" in summaries.headline([high], high, "test")


def test_figures_in_the_page_use_its_colours_and_ids_of_their_own(tmp_path: Path) -> None:
    row = panels.Row("<&\"'$a_b$", stats.Interval(0.0, 2.0, 1.0, "tasks"), "#0072B2")
    one, two = (panels.forest(tmp_path / name, "title <b>", [row], "x").svg for name in ("one", "two"))
    assert "var(--c0)" in one and "#0072b2" not in one.lower() and "&lt;&amp;" in one and "<b>" not in one
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two))
    Page(one)
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"


def test_labels_of_a_symmetric_log_scale_are_numbers(tmp_path: Path) -> None:
    """Words of a figure are not parsed as mathematics: rules may be called $x$. So must numbers not be."""
    rates = {"a": np.array([20.0, 0.1, 0.1]), "b": np.array([-3.0, 0.01, 0.1])}
    for svg in (
        rate_panels.rates_by_step(tmp_path / "steps", "title", rates).svg,
        rate_panels.rate_strips(tmp_path / "strips", {"a": np.array([0.1] * 50 + [90.0, -40.0])}).svg,
    ):
        assert "mathdefault" not in svg and ">10<" in svg


def test_labels_of_tried_step_sizes_leave_each_other_room() -> None:
    assert rate_panels.apart(np.array([0.1, 0.3, 1.0])).tolist() == [0.1, 0.3, 1.0]
    grid = np.array([1e-4, 3e-4, 1e-3, 0.1, 0.3, 1.0])
    shown = rate_panels.apart(grid)
    assert shown[0] == 1e-4 and shown[-1] == 1.0 and set(shown) < set(grid)
    assert np.diff(np.log(shown)).min() >= 0.13 * np.log(1e4) - 1e-9
    assert rate_panels.apart(np.array([0.5])).tolist() == [0.5]


def test_what_is_better_than_expected_stays_in_the_picture(tmp_path: Path) -> None:
    """The most probable action may be worth far more than sampled ones, and untrained steps more than trained ones."""
    result = {"sampled": [[0.0, 1.0, 2.0]] * 3, "mode": [[5.0, 9.0, 9.0]] * 3, "references": {}}
    svg = panels.curves(tmp_path / "curves", {"a": [result]}, 1, {"a": "#0072B2"}).svg
    assert ">8<" in svg or ">9<" in svg or ">7.5<" in svg


def test_bands_are_drawn_however_wide(tmp_path: Path) -> None:
    scores = [[[0.0, value]] * 3 for value in (-1000.0, 1002.0)]  # two seeds, whose mean is 1
    results = [{"sampled": one, "mode": [[0.0, 1.0]] * 3, "references": {}} for one in scores]
    found = stats.sample_efficiency(np.array(scores), stats.mean, seed=0)
    lines = {"a": panels.Paid(np.array([0.0, 5.0]), found, 1)}
    for svg in (
        panels.curves(tmp_path / "curves", {"a": results}, 1, {"a": "#0072B2"}).svg,
        panels.costs(tmp_path / "costs", "title", lines, "episodes", {"a": "#0072B2"}).svg,
    ):
        assert "PolyCollection" in svg


def test_a_legend_of_many_rows_takes_nothing_from_the_axes(tmp_path: Path) -> None:
    heights = []
    for count in (2, 12):
        with canvas.panel(tmp_path / str(count), "title") as (figure, _):
            axes = figure.add_subplot()
            canvas.legend(figure, [canvas.Line2D([], [], label=f"rule {i}") for i in range(count)])
        heights.append(axes.get_position().height * figure.get_figheight())
    assert heights[1] == pytest.approx(heights[0], abs=0.15)


def test_importing_metarl_loads_nothing_of_a_report() -> None:
    heavy = ("jinja2", "matplotlib", "scipy", "stable_baselines3", "PIL")
    code = f"import sys, metarl; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_templates_are_shipped() -> None:
    import tomllib

    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "templates/*" in shipped["experiments.reporting"]
    folder = ROOT / "experiments" / "reporting" / "templates"
    assert {file.name for file in folder.iterdir()} == {"report.html", "parts.html", "style.css", "page.js"}
