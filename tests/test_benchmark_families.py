"""The benchmark of families and adapters, run as a user would, at a tiny size."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import families
from envs.adapters.registration import FAMILIES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_family_runs_through_every_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "families.json"
    assert (
        families.main(["--rows", "4", "--steps", "2", "--repeats", "2", "--threads", "1", "--output", str(output)]) == 0
    )
    table = json.loads(output.read_text())["table"]
    adapters = {name: {line["adapter"] for line in table if line["family"] == name} for name in FAMILIES}
    ours = {"native", "Gymnasium VectorEnv", "SB3 VecEnv"}
    for name, found in adapters.items():
        assert found == ours | ({"Gymnasium's SyncVectorEnv", "GymnasiumFamily"} if name in families.PEERS else set())
    for line in table:
        assert line["steps a second"] == pytest.approx(8 / statistics.median(line["seconds"]))
        assert line["native"]["median"] == 1.0 or line["adapter"] != "native"
    assert "times as slow as native" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--families", "CatPole"], ["--rows", "0"], ["--steps", "0"], ["--device", "meta"]])
def test_wrong_input_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert families.main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
