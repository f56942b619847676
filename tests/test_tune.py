"""The search script from the shell: within its ranges, on validation tasks, reproducible, and resumable."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs import TaskBenchmark
from experiments import train, tune
from experiments.build import build
from experiments.cli import given, parse_config, refuse_unread
from experiments.config import Config
from experiments.errors import InputError
from experiments.figures.tuning import tuning
from experiments.presets import PRESETS
from experiments.scoring import Job
from experiments.settings import Range, changed, space
from tests.helpers import do_jobs_here

SMALL = "--hidden 8 --tasks 2 --episodes 4 --query-episodes 4 --horizon 4 --env-steps 1 --steps 2"
SIZES = "--held-out 3 --workers 1"
CONFIG = PRESETS["navigation-fixed"][1].model_copy(
    update={"hidden": (8,), "tasks": 2, "episodes": 4, "query_episodes": 4, "horizon": 4, "env_steps": 1, "steps": 2}
)
USUAL = "rate=0.03..3 lr=1e-4..1e-2 decay=0.8,0.9,1.0 epochs=1..4"


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    do_jobs_here(monkeypatch)


def argv(output: Path, more: str, search: str = USUAL) -> list[str]:
    start = ["navigation-fixed", *SMALL.split(), *SIZES.split(), "--output", str(output)]
    return [*start, "--search", *search.split(), *more.split()]


def about(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "tune.json").read_text())
    return found


def kept(output: Path) -> list[dict[str, Any]]:
    """Results of all finished jobs."""
    return [json.loads(file.read_text()) for file in (output / "jobs").glob("*.json")]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of thirteen trials: the first ten are random."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        do_jobs_here(patch)
        assert tune.main(argv(folder, "--trials 13 --seed 5")) == 0
    return folder


def test_every_trial_is_within_the_ranges(searched: Path) -> None:
    trials = about(searched)["trials"]
    assert [trial["trial"] for trial in trials] == list(range(1, 14))
    for trial in trials:
        found = trial["settings"]
        assert list(found) == ["rate", "lr", "decay", "epochs"]
        assert 0.03 <= found["rate"] <= 3.0 and 1e-4 <= found["lr"] <= 1e-2
        assert found["decay"] in (0.8, 0.9, 1.0) and found["epochs"] in (1, 2, 3, 4)
        assert isinstance(found["epochs"], int) and math.isfinite(trial["score"])
        assert all(found[name] == float(f"{found[name]:.3g}") for name in ("rate", "lr"))
    assert min(trial["settings"]["rate"] for trial in trials) < 0.3  # by ratios: half of them are, and not a tenth


def test_the_best_is_written_as_a_configuration_and_as_a_command(searched: Path) -> None:
    found = about(searched)
    best = max(found["trials"], key=lambda trial: trial["score"])
    assert found["best"] == best["trial"]
    config = Config(**json.loads((searched / "best.json").read_text()))
    assert config == CONFIG.model_copy(update={"seed": 5, **best["settings"]})
    (command, other) = re.findall(r"^    python experiments/train.py (.*)$", (searched / "table.md").read_text(), re.M)
    assert parse_config(train.Options, shlex.split(command), "")[0] == config and command.startswith("navigation-fixed")
    assert other == str(searched / "best.json")
    lines = [line for line in (searched / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert lines[0] == "| trial | rate | lr | decay | epochs | validation return |" and len(lines) == 11
    scores = [float(line.split(" | ")[-1].split()[0]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True) and lines[1].startswith(f"| {best['trial']} | ")
    for name in ("tune.png", "tune.svg"):
        assert (searched / name).stat().st_size > 5000


def test_a_score_is_the_mean_return_after_the_steps_trained_with(tmp_path: Path) -> None:
    assert tune.main(argv(tmp_path, "--trials 2 --seeds 2", "rule=maml,offset-meta-sgd,fomaml,anil")) == 0
    returns: dict[str, list[float]] = {}
    for result in kept(tmp_path):
        returns.setdefault(result["rule"], []).append(np.mean([task[2] for task in result["sampled"]]))
        assert len(result["sampled"]) == 3 and len(result["sampled"][0]) == 3
    assert {result["seed"] for result in kept(tmp_path)} == {1000, 1001} and about(tmp_path)["seeds"] == [1000, 1001]
    for trial in about(tmp_path)["trials"]:
        assert trial["score"] == pytest.approx(np.mean(returns[trial["settings"]["rule"]]))
    assert "2 seeds from 1000 on, 3 validation tasks; 95 % intervals over seeds" in (tmp_path / "table.md").read_text()


def test_no_test_task_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, seeds = set(), set()
    real_sample, real_run = TaskBenchmark.sample, Job.run

    def sample(self: TaskBenchmark, split: str, tasks: int, **more: Any) -> Any:
        drawn.add(split if tasks > 1 else "one of each, when a benchmark is made")
        return real_sample(self, split, tasks, **more)

    def run(self: Job) -> Any:
        seeds.add(self.config.seed)
        return real_run(self)

    monkeypatch.setattr(TaskBenchmark, "sample", sample)
    monkeypatch.setattr(TaskBenchmark, "fingerprint", lambda self: "f")  # of tasks of every split, and plays none
    monkeypatch.setattr(Job, "run", run)
    assert tune.main(argv(tmp_path, "--trials 2")) == 0
    assert {"train", "validation"} <= drawn and "test" not in drawn and seeds == {1000}
    assert {result["split"] for result in kept(tmp_path)} == {"validation"}


def test_the_same_command_does_nothing_anew(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [(searched / name).read_bytes() for name in ("table.md", "best.json", "tune.svg")]
    trials = about(searched)["trials"]
    assert tune.main(argv(searched, "--trials 13 --seed 5")) == 0
    told = capsys.readouterr()
    assert "[1/1]" not in told.out and not told.err and about(searched)["trials"] == trials
    assert [(searched / name).read_bytes() for name in ("table.md", "best.json", "tune.svg")] == before


def test_an_interrupted_search_goes_on_where_it_stopped(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Job.run

    def run(self: Job) -> dict[str, Any]:
        if len(list((tmp_path / "jobs").glob("*.json"))) == 11:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", run)
        assert tune.main(argv(tmp_path, "--trials 13 --seed 5")) == 130
    assert "the same command" in capsys.readouterr().err and not (tmp_path / "tune.json").exists()
    assert tune.main(argv(tmp_path, "--trials 13 --seed 5")) == 0
    assert capsys.readouterr().out.count("[1/1] trial ") == 2
    assert about(tmp_path)["trials"] == about(searched)["trials"]


def test_more_trials_are_added_to_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count in ("11", "14"):  # neither is a multiple of the workers
        assert tune.main(argv(tmp_path, f"--trials {count} --workers 3")) == 0
    told = capsys.readouterr().out
    assert [told.count(f"trial {number}, ") for number in range(1, 15)] == [1] * 14
    assert tune.main(argv(tmp_path / "whole", "--trials 14 --workers 3")) == 0
    assert about(tmp_path)["trials"] == about(tmp_path / "whole")["trials"]


def test_what_comes_next_depends_on_what_came_before(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not so the first ten, which depend on the seed alone."""
    monkeypatch.setattr(tune, "score", lambda result: -result["mode"][0][0])
    assert tune.main(argv(tmp_path, "--trials 13 --seed 5")) == 0
    (whole, other) = ([trial["settings"] for trial in about(folder)["trials"]] for folder in (searched, tmp_path))
    assert whole[:10] == other[:10] and whole[10:] != other[10:]
    assert tune.main(argv(tmp_path, "--trials 1 --seed 6")) == 0
    assert about(tmp_path)["trials"][0]["settings"] != whole[0]


def test_one_that_diverges_is_worse_than_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(argv(tmp_path, "--trials 6 --rule maml", "rate=1e38,0.1")) == 0
    trials = about(tmp_path)["trials"]
    diverged = [trial for trial in trials if "without score" in trial]
    assert 0 < len(diverged) < 6 and all(trial["settings"]["rate"] == 1e38 for trial in diverged)
    assert about(tmp_path)["trials"][about(tmp_path)["best"] - 1]["settings"]["rate"] == 0.1
    text = (tmp_path / "table.md").read_text()
    assert f"the best of 6 trials, of which {len(diverged)} have no score" in text
    assert text.count("| 0.1 | ") == 1 and "1e38" not in text  # no settings twice
    capsys.readouterr()
    assert tune.main(argv(tmp_path / "all", "--trials 2 --rule maml", "rate=1e37,1e38")) == 4
    error = capsys.readouterr().err
    assert "none of 2 trials has a score, the first because of: " in error and error.count("\n") == 1


def test_the_sampler_is_told_how_bad_divergence_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.study import Study

    told: list[float] = []
    real = Study.tell

    def tell(self: Study, trial: Any, value: float) -> Any:
        told.append(value)
        return real(self, trial, value)

    monkeypatch.setattr(Study, "tell", tell)
    assert tune.main(argv(tmp_path, "--trials 6 --rule maml", "rate=1e38,0.1")) == 0
    scores = [trial.get("score", -math.inf) for trial in about(tmp_path)["trials"]]
    assert told == scores and -math.inf in told


def test_settings_that_do_not_go_together_end_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = argv(tmp_path, "--trials 8", "episodes=2..6 baseline=linear,cross-fitted")
    at = words.index("--episodes")  # what is searched is not given
    assert tune.main(words[:at] + words[at + 2 :]) == 0
    trials = about(tmp_path)["trials"]
    odd = [trial["settings"] for trial in trials if "without score" in trial]
    assert odd and all(one["episodes"] % 2 and one["baseline"] == "cross-fitted" for one in odd)
    assert "an even number of episodes, got" in capsys.readouterr().out
    assert len(kept(tmp_path)) <= 8 - len(odd)


def test_optuna_is_neither_heard_nor_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[logging.LogRecord] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", heard.append)
    monkeypatch.setattr(logging.getLogger("optuna"), "handlers", [listener])
    logging.getLogger("optuna").setLevel(logging.INFO)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert tune.main(argv(tmp_path, "--trials 12 --workers 2")) == 0
    assert not heard and not told and not capsys.readouterr().err


def test_ranges_and_values_are_read_as_they_are_written() -> None:
    words = ["rate=0.03..3", "log-std=-1..1", "lr=0.001..0.009", "entropy_penalty=0..10", "epochs=1..40"]
    found = space(CONFIG, [*words, "hidden=32x32,none", "rate_lr=none,0.1", "max_norm=.5..2", "normalize=true,false"])
    assert found == {
        "rate": Range(0.03, 3.0, whole=False),
        "log_std": Range(-1.0, 1.0, whole=False),
        "lr": Range(0.001, 0.009, whole=False),
        "entropy_penalty": Range(0.0, 10.0, whole=False),
        "epochs": Range(1, 40, whole=True),
        "hidden": ("32x32", "none"),
        "rate_lr": ("none", "0.1"),
        "max_norm": Range(0.5, 2.0, whole=False),
        "normalize": ("true", "false"),
    }
    ranges = {field: one for field, one in found.items() if isinstance(one, Range)}
    assert [field for field, one in ranges.items() if one.logarithmic] == ["rate"]
    assert Range(0.1, 1.0, whole=False).logarithmic
    distributions = {field: tune._distribution(one) for field, one in found.items()}
    assert [field for field, one in distributions.items() if getattr(one, "log", False)] == ["rate"]
    assert type(distributions["epochs"]).__name__ == "IntDistribution"
    assert distributions["hidden"].choices == ("32x32", "none")


def test_a_value_is_told_by_three_digits_and_stays_within_its_range() -> None:
    narrow = Range(0.12345, 0.12354, whole=False)
    assert [narrow.text(value) for value in (0.12345, 0.12354)] == ["0.12345", "0.12354"]
    wide = Range(1e-6, 3.0, whole=False)
    assert [wide.text(value) for value in (1e-6, 1.23456e-5, 0.123456, 3.0)] == ["1e-06", "1.23e-05", "0.123", "3.0"]
    assert changed(CONFIG, {"lr": "1.23e-05"}).lr == 1.23e-5
    assert Range(1, 40, whole=True).text(7) == "7"


@pytest.mark.parametrize("preset", PRESETS)
def test_flags_make_a_configuration_of_another(preset: str) -> None:
    config = PRESETS[preset][1]
    for other in ("navigation-fixed", "cartpole-polarity-best", "bandit-best"):
        argv = [other, *tune.flags(config, PRESETS[other][1])]
        found = parse_config(train.Watch, argv, "")[0]
        assert as_read(found, config) == as_read(config, config)
        refuse_unread(given(argv), build(found, torch.device("cpu")).read)
    assert tune.flags(config, config) == []
    _, command, _ = "\n".join(tune.advice(config, "bandit-best", PRESETS["bandit-best"][1], Path("x"))).rsplit("\n", 2)
    assert as_read(parse_config(train.Watch, shlex.split(command)[2:], "")[0], config) == as_read(config, config)


def as_read(config: Config, whole: Config) -> dict[str, Any]:
    """The fields that are read of a configuration such as ``whole``."""
    return {name: getattr(config, name) for name in build(whole, torch.device("cpu")).read & set(Config.model_fields)}


def test_what_is_advised_can_be_done(tmp_path: Path) -> None:
    """Settings that only another meta-optimizer reads are left out, and what is imported is allowed."""
    searched = Config(meta_optimizer="descent", perturbation=0.1, pairs=2, max_kl=0.5, rate=0.7)
    assert tune.flags(searched, Config()) == ["--rate", "0.7"]
    own = Config(rule="examples.own_rule:SignSGD")
    (tmp_path / "best.json").write_text(own.model_dump_json())
    *_, command = tune.advice(own, "navigation-fixed", Config(), tmp_path)
    assert parse_config(train.Watch, shlex.split(command)[2:], "")[0] == own


def test_pictures_of_one_setting_and_of_scores_far_below(tmp_path: Path) -> None:
    one = {"rate": Range(0.1, 100.0, whole=False)}
    texts = [{"rate": text} for text in ("0.1", "1.0", "10.0", "99.0")]
    for i, scores in enumerate(([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, -1e9, -math.inf], [-math.inf, 3.0, -math.inf, 1.0])):
        files = tuning(tmp_path / f"picture-{i}", one, texts, scores)
        assert [file.suffix for file in files] == [".png", ".svg"] and all(file.exists() for file in files)
        assert ("crosses" in files[1].read_text()) == (i > 0)


WRONG = {
    "searched and given": ("rate=0.1..1 --rate 0.5", "rate is searched: leave --rate out"),
    "what nothing reads": ("max_kl=0.1..0.2", "--max-kl: unused with these settings"),
    "nothing": ("", "expected settings to search, got none; pass --search field=low..high or field=value,value"),
    "no values": ("rate", "expected field=value,value, such as discount=0.9,0.95, got 'rate'"),
    "unknown field": ("rat=0.1..1", "unknown setting 'rat'; did you mean 'rate'?"),
    "bad value": ("discount=0.9,1.5", "discount: Input should be less than or equal to 1, got '1.5'"),
    "bad end": ("discount=0.9..1.5", "discount: Input should be less than or equal to 1, got '1.5'"),
    "no end": ("discount=0.9..", "discount: Input should be a valid number"),
    "infinite": ("rate=1..inf", "rate: Input should be a finite number"),
    "the wrong way": ("rate=3..0.03", "rate: expected a range low..high with low < high, got 3..0.03"),
    "empty": ("rate=3..3", "rate: expected a range low..high with low < high"),
    "no numbers": ("rule=maml..meta-sgd", "rule: expected a range of numbers, got maml..meta-sgd"),
    "a range of layers": ("hidden=8..16", "hidden: expected a range of numbers"),
    "a range of truths": ("normalize=false..true", "normalize: expected a range of numbers"),
    "a range from none": ("max_norm=none..1", "max_norm: expected a range of numbers"),
    "one value": ("rate=0.1", "rate: expected several values or a range, got 0.1 alone; or pass it as a flag"),
    "twice": ("discount=0.5,0.50", "expected every value of discount once, got 0.50 again"),
    "a field twice": ("rate=0.1..1 rate=1..2", "expected every setting once, got rate again"),
    "budget": ("env_steps=10..20", "env_steps cannot be varied: all settings are trained for the same number"),
    "seed": ("seed=1..9", "seed cannot be varied"),
    "unknown rule": ("rule=maml,metasgd", "did you mean 'meta-sgd'?"),
    "cannot be built": ("rule=maml,cavia", "pass --context 5"),
    "an end that cannot be built": ("rate=0..1 --parameterisation positive", "above 0"),
    "an end that is no step size": ("rate=-1..1", "rate: Input should be greater than or equal to 0, got '-1'"),
    "no trials": ("rate=0.1..1 --trials 0", "error: expected --trials >= 1, got 0\n"),
    "no seeds": ("rate=0.1..1 --seeds 0", "error: expected --seeds >= 1, got 0\n"),
    "no tasks": ("rate=0.1..1 --held-out 0", "error: expected --held-out >= 1, got 0\n"),
    "no workers": ("rate=0.1..1 --workers 0", "error: expected --workers >= 1, got 0\n"),
    "a seed that tunes": ("rate=0.1..1 --seed 1000", "seed 1000 tunes settings and cannot be reported"),
    "another": ("rate=0.1..1 --seed 1002 --seeds 3", "seeds 1000 to 1002 tune settings and cannot be reported"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_before_any_work(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = WRONG[case]
    search = [] if not text else ["--search", *text.split()]
    assert tune.main(["navigation-fixed", *SMALL.split(), "--output", str(tmp_path / "x"), *search]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


def test_seeds_beside_those_that_tune_are_free(tmp_path: Path) -> None:
    for seed in (999, 1003):
        options = tune.Options(tmp_path, seeds=3)
        tune.refuse(CONFIG.model_copy(update={"seed": seed}), space(CONFIG, ["rate=0.1..1"]), options)
    assert not list(tmp_path.iterdir())


def test_without_optuna_it_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune.main(argv(tmp_path / "x", "")) == 2
    error = capsys.readouterr().err
    assert "pip install -e '.[tune]'" in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_search_takes_no_others_place(tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text(json.dumps({"config": {"benchmark": "navigation-fixed"}}))
    with pytest.raises(InputError, match="holds an ablation on navigation-fixed, not a search on navigation-fixed"):
        tune.refuse(CONFIG, space(CONFIG, ["rate=0.1..1"]), tune.Options(tmp_path))
