"""The reproduction script from the shell: every column and seed, nothing run twice, diverged runs, wrong names."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import compare, reproduce
from experiments.build import build
from experiments.config import Config
from experiments.contenders import CONTENDERS
from experiments.evaluate import Protocol
from experiments.tables import TABLES, Column, Row, Table

TINY = Config(horizon=8, env_steps=100, tasks=2, episodes=4, query_episodes=4, hidden=(8,))
SMALL = Protocol("test", tasks=5, steps=1, episodes=4, score_episodes=2)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"best": Column(TINY), "K = 0": Column(TINY, "oracle")}
    rows = (
        Row("before", SMALL, 0),
        Row("after", SMALL, 1, "−8.6"),
        Row("far", Protocol("extrapolation", 5, 1, 2, 2), 1),
    )
    monkeypatch.setitem(TABLES, "tiny", Table("A table", columns, rows))


def test_a_table_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["tiny", "--seeds", "2", "--workers", "1", "--output", str(tmp_path)]
    assert reproduce.main(argv) == 0
    first = capsys.readouterr().out
    assert "[4/4]" in first
    table = (tmp_path / "table.md").read_text()
    assert (
        re.search(r"\| after \| −8.6 \| -?\d", table)
        and "2 seeds; 95 % intervals over seeds and tasks; minutes" in table
        and "| far |" in table
    )
    about = json.loads(gzip.decompress((tmp_path / "reproduction.json.gz").read_bytes()))
    assert (
        about["columns"]["best"]["env_steps"] == 100
        and about["columns"]["K = 0"]["contender"] == "oracle"
        and about["command"].startswith("python ")
    )
    first_run = about["results"]["best"][0]["measures"][0]
    assert set(first_run) == {"sampled", "mode", "adaptation_steps"} and len(about["held_out"]["best"]) == 2
    assert about["held_out"]["best"][0]["protocol"]["tasks"] == len(first_run["sampled"]) == 5
    assert reproduce.main(argv) == 0
    again = capsys.readouterr().out
    assert "[1/" not in again and (tmp_path / "table.md").read_text() == table
    runs = [json.loads(file.read_text()) for file in (tmp_path / "jobs").glob("*.json")]
    assert reproduce.main([*argv, "--columns", "K = 0"]) == 0
    alone = (tmp_path / "table.md").read_text()
    assert "[1/" not in capsys.readouterr().out and "| K = 0 |" in alone and "best" not in alone
    assert len(runs) == 4 and all(len(run["measures"]) == 2 for run in runs)  # before and after share a protocol
    assert {len(run["measures"][0]["sampled"][0]) for run in runs} == {1, 2}  # K = 0 is scored without adapting


def test_a_run_that_diverges_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Column(TINY).changed(rule="maml", rate=1e38, patience=0)
    columns = {"broken": broken, "best": Column(TINY)}
    monkeypatch.setitem(TABLES, "tiny", Table("A table", columns, (Row("after", SMALL, 1),)))
    assert reproduce.main(["tiny", "--seeds", "1", "--workers", "1", "--output", str(tmp_path)]) == 0
    told = (tmp_path / "table.md").read_text()
    assert "1 of 1 seeds diverged" in told and "1 seeds; 95 % intervals over tasks; minutes" in told


@pytest.mark.parametrize("name", [name for name in TABLES if name != "tiny"])
def test_every_table_can_be_built_and_measures_what_exists(name: str) -> None:
    table = TABLES[name]
    for column in table.columns.values():
        assert column.contender in CONTENDERS
        setup = build(column.config, torch.device("cpu"))
        assert {row.protocol.split for row in table.rows} <= set(setup.benchmark.splits)
        assert column.config.seed <= compare.TUNING_SEED
    assert all(0 <= row.step <= (row.protocol.steps or 0) for row in table.rows)
    assert all(row.protocol.split != "validation" for row in table.rows)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["navigation-fxed"], "did you mean 'navigation-fixed'"),
        (["tiny", "--seeds", "0"], "1 to 1000"),
        (["tiny", "--columns", "bst"], "did you mean 'best'"),
        (["tiny", "--env-steps", "0"], "expected workers and env_steps >= 1, got 2 and 0"),
        (["tiny", "--env-steps", "200"], "which must not overwrite the table's folder; pass an --output"),
        (["tiny", "--workers", "0"], "expected workers and env_steps >= 1, got 0 and None"),
    ],
)
def test_wrong_input_is_one_line(
    argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reproduce.main(argv) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_rows_can_count_what_is_earned_on_the_way_and_who_stays_up() -> None:
    returns = np.array([[[0.5, 0.75, 1.0], [0.0, 0.25, 0.25]], [[1.0, 1.0, 1.0], [0.5, 0.5, 0.75]]])  # [S, T, K + 1]
    ten = Protocol("test", tasks=2, steps=2, episodes=10)
    np.testing.assert_allclose(Row("", ten, 2, score="earned").scores(returns), [[22.5, 5.0], [30.0, 17.5]])
    np.testing.assert_allclose(Row("", ten, 1).scores(returns), [[0.75, 0.25], [1.0, 0.5]])
    up = Row("", ten, 1, score="upright").scores(195.0 * returns)
    np.testing.assert_allclose(up, [[0.0, 0.0], [100.0, 0.0]])
    np.testing.assert_allclose(Row("", ten, 2).scores(returns[..., :1]), returns[..., 0])  # one that takes no steps
