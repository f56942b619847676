"""The notebook runs from top to bottom, with less training, and its stored outputs match its code."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

PATH = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
TEXT = PATH.read_text()
NOTEBOOK: dict[str, Any] = json.loads(TEXT)
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
BUDGET = re.compile(r"^ITERATIONS = \d+", re.MULTILINE)


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_it_is_a_notebook_that_any_jupyter_opens() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in CODE:
        assert {"metadata", "outputs", "execution_count", "source"} <= cell.keys()
    assert NOTEBOOK["cells"][0]["cell_type"] == "markdown"
    assert sum(cell["cell_type"] == "markdown" for cell in NOTEBOOK["cells"]) >= len(CODE) - 2


def test_what_is_stored_is_small_whole_and_of_no_machine() -> None:
    assert len(TEXT) < 150_000
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))  # one run, from top to bottom
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result", "display_data"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", TEXT)


def test_it_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [source(cell) for cell in CODE]
    assert sum(len(BUDGET.findall(text)) for text in texts) == 1
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {}
    for cell, text in zip(CODE, texts, strict=True):
        exec(compile(BUDGET.sub("ITERATIONS = 2", text), cell["id"], "exec"), names)
    assert len(names["before"]) == len(names["after"]) == 2
    assert names["curve"].sampled.shape == (40, 4) and bool((names["curve"].sampled > 0).all())
    assert [axes.get_title() for axes in names["figure"].axes] == [
        "training tasks",
        "40 held-out tasks, and their mean",
    ]
    plt.close("all")
    printed = capsys.readouterr().out
    for variant in ("as trained", "long poles", "late motor"):
        assert re.search(rf"^{variant}: return \d+ -> \d+$", printed, re.MULTILINE)


def test_what_it_tells_was_learned_is_what_it_stored() -> None:
    """The words promise one step that works, on new tasks and on variants; the stored numbers must say so."""
    stored = {cell["id"]: "".join("".join(o.get("text", [])) for o in cell["outputs"]) for cell in CODE}
    curve = next(cell for cell in CODE if cell["id"] == "curve")["outputs"][0]["data"]["text/plain"]
    found = torch.tensor(ast.literal_eval("".join(curve).removeprefix("tensor(").removesuffix(")")))
    assert found[0] < 50 and found[1] > 150
    gains = re.findall(r": return (\d+) -> (\d+)", stored["variant"])
    assert len(gains) == 3 and all(int(after) > 2 * int(before) for before, after in gains)
    last = int(re.findall(r"iteration (\d+)", stored["training"])[-1])
    assert f"ITERATIONS = {last}" in source(CODE[0])
