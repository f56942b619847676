"""The ablation script from the shell: one change at a time, on common seeds and tasks, paired, and never run twice."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import ablate, evaluate
from experiments.config import Config
from experiments.presets import PRESETS
from experiments.settings import changed, read, values, written
from metarl import NonFiniteError, stats
from tests.helpers import do_jobs_here

SMALL = "--hidden 8 --tasks 2 --episodes 4 --query-episodes 4 --horizon 6 --env-steps 100"
SIZES = "--seeds 2 --held-out 4 --workers 1"
CONFIG = PRESETS["navigation-fixed"][1].model_copy(
    update={"hidden": (8,), "tasks": 2, "episodes": 4, "query_episodes": 4, "horizon": 6, "env_steps": 100}
)


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    do_jobs_here(monkeypatch)


def argv(output: Path, vary: str, more: str = "") -> list[str]:
    return [
        *["navigation-fixed", *SMALL.split(), *SIZES.split(), "--output", str(output)],
        *["--vary", *vary.split(), *more.split()],
    ]


def kept(output: Path) -> list[dict[str, Any]]:
    """Results of all finished jobs."""
    return [json.loads(file.read_text()) for file in (output / "jobs").glob("*.json")]


def rows(output: Path) -> dict[str, list[str]]:
    """The table's cells by the change that they are of."""
    lines = [line for line in (output / "table.md").read_text().splitlines() if line.startswith("| ")]
    found = [line.strip("| ").split(" | ") for line in lines]
    return {cells[0]: cells[1:] for cells in found}


def test_differences_are_paired_by_seed_and_task(tmp_path: Path) -> None:
    assert ablate.main(argv(tmp_path, "rule=maml,offset-meta-sgd")) == 0
    scores: dict[str, list[list[float]]] = {}
    for result in sorted(kept(tmp_path), key=lambda result: result["seed"]):
        assert result["seed"] in (1000, 1001) and result["split"] == "validation"
        scores.setdefault(result["rule"], []).append([task[CONFIG.steps] for task in result["sampled"]])
    found = rows(tmp_path)
    assert list(found) == ["change", "reference", "rule=maml", "rule=offset-meta-sgd"]
    head = found.pop("change")
    assert head[-1] == "− reference (paired)" and found["reference"][-1] == "–"
    for name, rule in zip(found, ("meta-sgd", "maml", "offset-meta-sgd"), strict=True):
        ours = scores[rule]
        mean = sum(map(sum, ours)) / 8
        assert float(found[name][head.index("after")].split()[0]) == pytest.approx(mean, abs=0.006)
        if rule != "meta-sgd":
            pairs = [(a, b) for mine, its in zip(ours, scores["meta-sgd"], strict=True) for a, b in zip(mine, its)]  # noqa: B905
            told = [float(number) for number in re.findall(r"-?\d+\.\d+", found[name][-1])]
            assert told[0] == pytest.approx(sum(a - b for a, b in pairs) / len(pairs), abs=0.006)
            whole = stats.paired_interval(np.array(ours), np.array(scores["meta-sgd"]), stats.mean, seed=0)
            assert told[1:] == pytest.approx([whole.low, whole.high], abs=0.006)


def test_all_are_trained_alike_and_scored_on_the_same_tasks(tmp_path: Path) -> None:
    assert ablate.main(argv(tmp_path, "rule=maml lr=0.01 epochs=1", "--seed 3")) == 0
    found = kept(tmp_path)
    assert len(found) == 8 and {result["seed"] for result in found} == {1003, 1004}
    for field in ("task", "protocol", "fingerprint", "training_env_steps"):
        assert len({json.dumps(result[field], sort_keys=True) for result in found}) == 1, field
    about = json.loads((tmp_path / "ablation.json").read_text())
    assert Config(**about["config"]) == CONFIG.model_copy(update={"seed": 3})
    assert [[run["seed"] for run in results] for results in about["results"].values()] == [[1003, 1004]] * 4
    text = (tmp_path / "table.md").read_text()
    assert "the reference: rule=meta-sgd, lr=0.003, epochs=3." in text and "100 environment steps" in text
    assert "2 seeds, 4 validation tasks; 95 % intervals over seeds and tasks." in text
    assert "Nothing is tuned" in text and "may choose settings; do not report them" in text
    assert (tmp_path / "comparison.png").exists()


def test_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main(argv(tmp_path, "discount=0.5,0.9")) == 0
    table = (tmp_path / "table.md").read_text()
    told = capsys.readouterr().out
    assert "] discount=0.9, seed 1001, validation: " in told and "] reference, seed 1000, validation: " in told
    assert "[6/6]" in told
    assert ablate.main(argv(tmp_path, "discount=0.5,0.9")) == 0
    assert "[1/" not in capsys.readouterr().out and (tmp_path / "table.md").read_text() == table
    assert ablate.main(argv(tmp_path, "discount=0.9,0.5 lr=0.01", "--grid")) == 0
    assert "[1/6]" in capsys.readouterr().out  # three more of six
    assert list(rows(tmp_path))[1:] == [
        "reference",
        "lr=0.01",
        "discount=0.9",
        "discount=0.9, lr=0.01",
        "discount=0.5",
        "discount=0.5, lr=0.01",
    ]


def test_scores_on_test_tasks_are_asked_for(tmp_path: Path) -> None:
    assert ablate.main(argv(tmp_path, "hidden=4x4,none", "--split test --seeds 1")) == 0
    assert {result["split"] for result in kept(tmp_path)} == {"test"} and len(kept(tmp_path)) == 3
    assert "Whoever chooses settings by scores on test tasks must not report" in (tmp_path / "table.md").read_text()


def test_a_variant_that_diverges_is_shown_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main(argv(tmp_path, "rate=1e38 lr=0.01", "--rule maml")) == 0
    assert rows(tmp_path)["rate=1e38"] == ["2 of 2 seeds diverged", *"–––––"]
    assert ablate.main(argv(tmp_path / "other", "rate=0.1", "--rule maml --rate 1e38")) == 4
    error = capsys.readouterr().err
    assert "the reference diverged" in error and error.count("\n") == 1


def test_divergence_beyond_the_trained_steps_costs_these_steps_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(learner: Any, benchmark: Any, task: Any, adaptation: Any, **others: Any) -> Any:
        begun.append(adaptation.steps)
        if adaptation.steps > CONFIG.steps and len(begun) in broken:
            raise NonFiniteError("the rule MetaSGD diverged")
        return evaluated(learner, benchmark, task, adaptation, **others)

    evaluated, begun, broken = evaluate.evaluate, list[int](), set[int]()
    monkeypatch.setattr(evaluate, "evaluate", breaking)
    assert ablate.main(argv(tmp_path / "whole", "lr=0.01")) == 0
    begun, broken = [], {1, 5}  # the first seed of the reference, and the second of the variant
    assert ablate.main(argv(tmp_path / "cut", "lr=0.01")) == 0
    assert begun == [3, 1, 3, 3, 3, 1]
    assert "seed 1000, validation: measuring up to step 1, as trained for; beyond it: the" in capsys.readouterr().out
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    about = json.loads((tmp_path / "cut" / "ablation.json").read_text())
    assert {np.shape(run["sampled"]) for found in about["results"].values() for run in found} == {(4, 2)}
    assert (tmp_path / "cut" / "comparison.png").exists()


def test_a_variant_adapts_as_it_was_trained_to(tmp_path: Path) -> None:
    assert ablate.main(argv(tmp_path, "steps=0,4 episodes=2", "--seeds 1")) == 0
    found = rows(tmp_path)
    episodes = found.pop("change").index("episodes")
    assert {name: cells[episodes] for name, cells in found.items()} == {
        "reference": "4",
        "steps=0": "0",
        "steps=4": "16",
        "episodes=2": "2",
    }


def test_many_are_ranked(tmp_path: Path) -> None:
    more = "--seeds 1 --held-out 2 --env-steps 1"
    assert ablate.main(argv(tmp_path, "discount=0.1,0.2,0.3,0.4,0.5,0.6", more)) == 0
    assert (tmp_path / "ranking.png").exists() and not (tmp_path / "comparison.png").exists()


def test_unequal_training_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ablate.run_all

    def longer(jobs: Sequence[Any], folder: Path, workers: int) -> dict[str, dict[str, Any]]:
        found = real(jobs, folder, workers)
        found[jobs[-1].key]["training_env_steps"] *= 10
        return found

    monkeypatch.setattr(ablate, "run_all", longer)
    assert ablate.main(argv(tmp_path, "rule=maml")) == 2
    assert "rule=maml: expected training for 100 environment steps" in capsys.readouterr().err


def named(*vary: str, grid: bool = False) -> dict[str, Config]:
    return ablate.variants(CONFIG, ablate.Options(Path("unused"), vary, grid))


def test_one_setting_is_changed_at_a_time_or_all_are_combined() -> None:
    single = named("discount=0.5,0.9", "max-norm=none", "scale_inputs=true", "hidden=64x32,none")
    changes = [
        *[{}, {"discount": 0.5}, {"discount": 0.9}, {"max_norm": None}],
        *[{"scale_inputs": True}, {"hidden": (64, 32)}, {"hidden": ()}],
    ]
    assert list(single.values()) == [CONFIG.model_copy(update=change) for change in changes]
    assert list(single) == [
        *["reference", "discount=0.5", "discount=0.9", "max_norm=none"],
        *["scale_inputs=true", "hidden=64x32", "hidden=none"],
    ]
    grid = named("discount=0.5,0.9", "rule=maml", "epochs=1", grid=True)
    assert len(grid) == 3 * 2 * 2 and list(grid)[0] == "reference" and grid["reference"] == CONFIG
    assert grid["discount=0.5, rule=maml, epochs=1"] == CONFIG.model_copy(
        update={"discount": 0.5, "rule": "maml", "epochs": 1}
    )
    combined = itertools.product((0.99, 0.5, 0.9), ("meta-sgd", "maml"), (3, 1))
    assert sorted((one.discount, one.rule, one.epochs) for one in grid.values()) == sorted(combined)
    assert named("discount=0.5", "rule=maml").items() <= named("discount=0.5", "rule=maml", grid=True).items()


@pytest.mark.parametrize("field", ["hidden", "rate_lr", "rule", "discount", "scale_inputs", "scored_in", "steps"])
def test_a_value_is_read_as_it_is_written(field: str) -> None:
    for _, config in PRESETS.values():
        text = written(getattr(config, field))
        assert changed(Config(), {field: text}) == Config(**{field: getattr(config, field)})
        assert values(config, field, text) == {text: config}
    assert read([f"{field.replace('_', '-')}=a=b"]) == {field: "a=b"}


WRONG = {
    "seeds that tune": ("discount=0.5 --split test --seed 999", "seed 1000 tunes settings and cannot be reported"),
    "what nothing reads": ("max_kl=0.1 meta_optimizer=trust-region", "--max-kl: unused with these settings"),
    "a flag that nothing reads": ("discount=0.5 --max-kl 0.1", "--max-kl: unused with these settings"),
    "nothing": ("", "expected settings to vary, got none; pass --vary field=value,value"),
    "no values": ("discount", "expected field=value,value, such as discount=0.9,0.95, got 'discount'"),
    "unknown field": ("discont=0.5", "unknown setting 'discont'; did you mean 'discount'?"),
    "bad value": ("discount=1.5", "discount: Input should be less than or equal to 1, got '1.5'"),
    "no number": ("discount=high", "discount: Input should be a valid number"),
    "no value": ("discount=0.5,", "discount: Input should be a valid number"),
    "none where there must be one": ("discount=none", "discount: Input should be a valid number"),
    "no sizes": ("hidden=64x", "hidden.1: Input should be a valid integer"),
    "none of several layers": ("hidden=64xnone", "hidden.1: Input should be a valid integer"),
    "a range": ("rate=0.1..1", "rate: Input should be a valid number"),
    "not infinite": ("lr=inf", "lr: Input should be a finite number"),
    "its own value": ("discount=0.5,0.990", "discount=0.990 is the value that the reference already has; leave it"),
    "its own layers": ("hidden=8", "hidden=8 is the value that the reference already has"),
    "twice": ("discount=0.5,0.50", "expected every value of discount once, got 0.50 again; leave it out"),
    "a field twice": ("discount=0.5 rule=maml discount=0.9", "expected every setting once, got discount again"),
    "seed": ("seed=1,2", "seed cannot be varied: all settings are trained with the same seeds"),
    "budget": ("env_steps=10", "env_steps cannot be varied: all settings are trained for the same number"),
    "budget as a flag": ("env-steps=10", "env_steps cannot be varied"),
    "benchmark": ("benchmark=cartpole-wide", "benchmark cannot be varied: scores on different benchmarks"),
    "horizon": ("horizon=3", "horizon cannot be varied"),
    "compile": ("compile=true", "compile cannot be varied"),
    "unknown rule": ("rule=maml,metasgd", "did you mean 'meta-sgd'?"),
    "a name like any other": ("rule=none", "unknown rule 'none'"),
    "cannot be built": ("rule=maml,cavia", "pass --context 5"),
    "cannot be combined": ("baseline=cross-fitted episodes=5 --grid", "an even number of episodes, got 5"),
    "no seeds": ("discount=0.5 --seeds 0", "error: expected --seeds >= 1, got 0\n"),
    "no tasks": ("discount=0.5 --held-out 0", "error: expected --held-out >= 1, got 0\n"),
    "no workers": ("discount=0.5 --workers 0", "error: expected --workers >= 1, got 0\n"),
    "training tasks": ("discount=0.5 --split train", "training tasks cannot be evaluated on"),
    "unknown split": ("discount=0.5 --split tset", "has no split 'tset'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_before_any_work(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = WRONG[case]
    vary = [] if not text else ["--vary", *text.split()]
    start = ["navigation-fixed", *SMALL.split(), "--output", str(tmp_path / "x")]
    assert ablate.main([*start, *vary]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "benchmark", "message"),
    [
        (
            "comparison.json",
            "navigation-fixed",
            "holds a comparison on navigation-fixed, not an ablation on",
        ),
        ("tune.json", "navigation-fixed", "holds a search on navigation-fixed, not an ablation"),
        ("finetune.json", "bandit-5", "holds a fine-tuning experiment on bandit-5, not an ablation"),
        ("ablation.json", "bandit-5", "holds an ablation on bandit-5, not an ablation on navigation-fixed; choose"),
        ("config.json", "navigation-fixed", "holds a run; choose another --output"),
    ],
)
def test_results_take_no_others_place(
    file: str, benchmark: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).write_text(json.dumps({"config": {"benchmark": benchmark}}))
    assert ablate.main(argv(tmp_path, "discount=0.5")) == 2
    assert message in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1
