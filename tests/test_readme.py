"""What README and GUIDE show to newcomers, and RESULTS claims, works as written."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import (
    ablate,
    check,
    compare,
    enjoy,
    estimators,
    evaluate,
    export,
    finetune,
    report,
    reproduce,
    train,
    tune,
)
from experiments.cli import PRESETS
from experiments.config import Config
from experiments.names import BENCHMARKS, RULES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EVERYTHING = "\n".join((ROOT / name).read_text() for name in ("README.md", "GUIDE.md", "RESULTS.md"))


def test_the_python_examples_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    lines = [line for line in code[1].splitlines() if line.strip()]
    assert len(lines) <= 24, "the README promises some twenty lines"
    short = code[1].replace("iteration == 20", "iteration == 1").replace('"test", 50', '"test", 3')
    assert short != code[1]
    names: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    before, after = (float(x) for x in re.findall(r"\[([\d.]+), ([\d.]+)\]", printed)[-1])
    assert 0 < before <= 500 and 0 < after <= 500
    monkeypatch.chdir(tmp_path)
    _, one_task, adapters = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(one_task, "README.md", "exec"), names)
    assert capsys.readouterr().out in ("tensor(0)\n", "tensor(1)\n")
    start = names["learner"].start()[0]
    assert all(not torch.equal(names["adapted"][name], leaf) for name, leaf in start.items())
    lines = [line for line in adapters.splitlines() if not line.startswith("lander")]  # whose engine may be missing
    exec(compile("\n".join(lines), "README.md", "exec"), names)
    assert names["model"].num_timesteps == 200 * names["env"].num_envs


@pytest.mark.parametrize("preset", ["navigation-fixed", "cartpole-polarity"])
def test_the_guides_loop_of_ones_own_runs(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--hidden", "8", "--horizon", "10", "--env-steps", "2000", "--no-evaluate", "--output", "runs/NAME"]
    assert train.main([preset, *flags, "--tasks", "2", "--episodes", "2", "--query-episodes", "2"]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "GUIDE.md").read_text(), re.DOTALL)
    short = code.replace("50_000", "100")
    assert short != code
    names: dict[str, Any] = {}
    exec(compile(short, "GUIDE.md", "exec"), names)
    assert math.isfinite(names["earned"]) and names["model"].num_timesteps >= 100
    assert any(not torch.equal(names["fine_tuned"][name], leaf) for name, leaf in names["adapted"].items())


SCRIPTS = (train, evaluate, compare, ablate, tune, enjoy, estimators, check, export, finetune, report, reproduce)


def test_every_flag_preset_and_rule_of_the_shell_examples_exists() -> None:
    scripts = {module.__name__.rpartition(".")[2]: module for module in SCRIPTS}
    known = set(Config.model_fields)
    for module in scripts.values():
        for options in ("Options", "Resume", "Protocol"):
            known |= set(getattr(getattr(module, options, None), "__dataclass_fields__", {}))
    commands = re.findall(r"python experiments/(\w+)\.py ([^`\n#]*)", EVERYTHING)
    assert len(commands) >= 5
    for script, arguments in commands:
        assert script in scripts or script == "demo"
        for flag in re.findall(r"--([a-z-]+)", arguments):
            assert flag.removeprefix("no-").replace("-", "_") in known | {"help"}, flag
        words = arguments.split()
        if script in ("train", "compare", "ablate", "tune", "estimators") and not words[0].startswith("-"):
            assert words[0] in PRESETS or words[0] == "runs/NAME/config.json"


def test_what_the_tables_name_exists() -> None:
    listed = re.findall(r"`((?:navigation|cartpole|pendulum|acrobot|mountain-car|bandit|tabular)-[a-z0-9-]+)`", README)
    assert set(listed) >= set(BENCHMARKS) and set(listed) <= set(BENCHMARKS) | set(PRESETS)
    assert {"meta-sgd", "maml"} <= set(RULES)


def test_every_file_of_the_map_exists() -> None:
    block = README.split("## Map of the code")[1].split("```")[1]
    for name in re.findall(r"\b(\w+\.py)\b", block):
        assert list(ROOT.glob(f"*/{name}")), name
    folders = re.findall(r"^(  )?(\w+)/", block, re.MULTILINE)
    assert len(folders) > 10
    for inside, name in folders:
        assert list(ROOT.glob(f"*/{name}" if inside else name)), name


def test_pictures_and_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", EVERYTHING)
    assert any(anchor for _, anchor in targets)
    for target, anchor in targets:
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", (ROOT / target).read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], anchor
