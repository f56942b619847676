"""The committed tables are those of the committed raw scores; intervals, which take minutes, are left out."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import ablate, compare, finetune, publishing, reproduce
from experiments.config import Config
from experiments.contenders import contender
from experiments.tables import TABLES

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def means_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables without intervals."""

    def mean(scores: publishing.Scores, statistic: Any = publishing.stats.mean, *, digits: int = 2) -> tuple[str, str]:
        return f"{float(statistic(scores)):.{digits}f}", "–"

    monkeypatch.setattr(publishing, "parts", mean)


def without_intervals(folder: str) -> str:
    """A committed table."""
    return re.sub(r"(?<=\d) \[[^]|]*\d\]", "", (RESULTS / folder / "table.md").read_text())


def config_of(written: dict[str, Any]) -> Config:
    """The recorded configuration: what has been added to it since has its default."""
    return Config(**{name: value for name, value in written["config"].items() if name in Config.model_fields})


@pytest.mark.parametrize("folder", sorted(file.parent.name for file in RESULTS.glob("*/reproduction.json.gz")))
def test_reproduced_tables_are_those_of_their_scores(folder: str) -> None:
    written = json.loads(gzip.decompress((RESULTS / folder / "reproduction.json.gz").read_bytes()))
    (table,) = (one for one in TABLES.values() if one.about == written["about"])
    assert json.loads(json.dumps([asdict(row) for row in table.rows])) == written["rows"]
    protocols = tuple(dict.fromkeys(row.protocol for row in table.rows))
    lines = reproduce.lines(table, protocols, reproduce.whole(written))
    assert "\n".join(lines) + "\n" == without_intervals(folder)


@pytest.mark.parametrize("folder", ["compare-rules", *sorted(file.name for file in RESULTS.glob("rates-*"))])
def test_tables_of_rules_are_those_of_their_scores(folder: str) -> None:
    written = json.loads((RESULTS / folder / "comparison.json").read_text())
    config = config_of(written)
    tuned = {
        name: contender(name).config(config).model_copy(update={"rate": rate, "rate_lr": written["rate_lrs"][name]})
        for name, rate in written["rates"].items()
    }
    assert "\n".join(compare.table(tuned, written["results"])) + "\n" == without_intervals(folder)


@pytest.mark.parametrize("folder", sorted(file.parent.name for file in RESULTS.glob("*/ablation.json")))
def test_tables_of_ablations_are_those_of_their_scores(folder: str) -> None:
    written = json.loads((RESULTS / folder / "ablation.json").read_text())
    reference = written["results"][ablate.REFERENCE]
    split, tasks = reference[0]["split"], len(reference[0]["sampled"])
    options = ablate.Options(RESULTS, tuple(written["vary"]), seeds=len(reference), split=split, held_out=tasks)
    lines = ablate.table(config_of(written), options, written["results"])
    assert "\n".join(lines) + "\n" == without_intervals(folder)


@pytest.mark.parametrize("folder", sorted(file.parent.name for file in RESULTS.glob("*/finetune.json")))
def test_fine_tuning_tables_are_those_of_their_scores(folder: str) -> None:
    written = json.loads((RESULTS / folder / "finetune.json").read_text())
    tuned = {trial["way"]: trial["chosen"] for trial in written["tuning"]}
    options: Any = SimpleNamespace(**written["options"])
    lines = finetune.table(config_of(written), options, tuned, written["results"])
    assert "\n".join(lines) + "\n" == without_intervals(folder)
