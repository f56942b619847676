"""The committed tables match the committed raw scores; intervals, which take minutes, are not checked."""

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
from experiments.evaluate import score_matrix
from experiments.tables import TABLES
from metarl import stats

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


@pytest.mark.parametrize("folder", sorted(file.parent.name for file in RESULTS.glob("*/comparison.json")))
def test_tables_of_rules_are_those_of_their_scores(folder: str) -> None:
    written = json.loads((RESULTS / folder / "comparison.json").read_text())
    config = config_of(written)
    for name, results in written["results"].items():  # older ones do not tell by which column they are judged
        steps = contender(name).config(config).steps
        written["results"][name] = [{"reported": steps} | result for result in results]
    tuned = {
        name: contender(name).config(config).model_copy(update={"rate": rate, "rate_lr": rate_lr_of(name, written)})
        for name, rate in written["rates"].items()
    }
    assert "\n".join(compare.table(tuned, written["results"])) + "\n" == without_intervals(folder)


def rate_lr_of(name: str, written: dict[str, Any]) -> float | None:
    """The meta step size of what a contender learns; older comparisons had the configuration's for everybody."""
    if "rate_lrs" in written:
        found: float | None = written["rate_lrs"][name]
        return found
    return compare.trials(name, config_of(written), compare.Options(RESULTS))[0].rate_lr


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


NUMBER = r"[−+-]?\d(?:[\d,]*\d)?(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER})\**\s*\[({NUMBER}), ({NUMBER})\]")
NOT_KEPT = {
    "before the last change of a preset": """
        −1.46 [−1.62, −1.32] −2.12 [−2.33, −1.91] 499.0 [496.7, 499.9] 498.8 [497.0, 499.7] 494.6 [488.9, 498.1]
        472.9 [447.5, 489.3] 189.3 [168.1, 212.9] 300.5 [265.7, 336.1] 347.9 [313.5, 381.0] 0.84 [0.61, 1.08]
        2.74 [2.46, 3.04] 4.06 [3.55, 4.59] 4.86 [4.44, 5.32] 5.75 [5.43, 6.08] 6.00 [5.47, 6.56] 9.89 [9.54, 10.23]
        −17.2 [−49.3, −0.8]""",
    "of fewer seeds": "0.80 [0.20, 1.75]",
    "of narrower grids of step sizes": "127 [27, 229] 8.3 [1.6, 17.1] 5.1 [0.3, 10.8]",
    "of a single learner": """
        −11.9 [−13.5, −10.4] 486.6 [480.3, 490.8] 432.0 [406.4, 454.1] 430.6 [402.4, 456.8] 496.9 [495.9, 497.9]
        390.4 [370.4, 411.4]""",
}
RATES = ("rates-navigation-fixed", "rates-cartpole-polarity", "rates-cartpole-all")
PAIRED = {  # of contenders in a comparison or in two, and after how many steps or episodes
    **{
        (folder, *pair): 1
        for folder in RATES
        for pair in (("offset-meta-sgd", "offset"), ("meta-sgd", "learned-rate"), ("offset-meta-sgd", "meta-sgd"))
    },
    ("compare-navigation-fixed-best", "offset-meta-sgd", "maml", "compare-navigation-fixed"): 1,
    ("compare-navigation-fixed-best", "offset-meta-sgd", "meta-sgd", "compare-navigation-fixed"): 1,
}


def told(text: str) -> list[tuple[str, list[float], list[int]]]:
    """Estimates with their intervals in a text: as they stand there, as numbers, and their decimals."""
    found = []
    for match in INTERVAL.finditer(text):
        plain = [part.replace("−", "-").replace(",", "").lstrip("+") for part in match.groups()]
        decimals = [len(part.partition(".")[2]) for part in plain]
        found.append((match.group().replace("*", ""), [float(part) for part in plain], decimals))
    return found


def columns_of(folder: str, name: str) -> Any:
    """Scores ``[seeds, tasks, columns]`` of a contender in a comparison."""
    return score_matrix(json.loads((RESULTS / folder / "comparison.json").read_text())["results"][name])


def test_intervals_that_are_told_are_those_of_the_tables() -> None:
    """In RESULTS.md and the README, rounded; but for those whose scores were not kept."""
    known = [numbers for file in RESULTS.glob("*/table.md") for _, numbers, _ in told(file.read_text())]
    for (folder, one, other, *elsewhere), step in PAIRED.items():
        gap = columns_of(folder, one)[..., step] - columns_of(*elsewhere or (folder,), other)[..., step]
        found = stats.interval(gap, stats.mean, seed=0)
        known.append([found.estimate, found.low, found.high])
    memory = columns_of("comparators-cartpole-polarity", "rl2")
    found = stats.interval(memory[..., 2] - memory[..., 0], stats.mean, seed=0)
    known.append([found.estimate, found.low, found.high])
    known += [[-estimate, -high, -low] for estimate, low, high in known]  # what it costs is what it is worth without
    lost = {words for texts in NOT_KEPT.values() for words, _, _ in told(texts)}
    unknown, seen = [], set()
    for page in ("RESULTS.md", "README.md"):
        text = re.sub(r"```.*?```", "", (RESULTS.parent / page).read_text(), flags=re.S)
        for words, numbers, decimals in told(text):
            seen.add(words)
            rounded = [0.5 * 10.0**-places + 0.0051 for places in decimals]  # tables are rounded, too
            near = (all(abs(a - b) <= most for a, b, most in zip(numbers, row, rounded, strict=True)) for row in known)
            unknown += [] if words in lost or any(near) else [words]
    assert unknown == []
    assert lost <= seen  # nothing is excused that is no longer told
