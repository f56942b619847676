"""The benchmark scripts: their arithmetic, their protocol with peers, and every script run at a tiny size."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import common, growth, meta_iteration, rollout, seeds, time_to_result
from benchmarks.meta_iteration import Size
from experiments.config import Config
from experiments.errors import InputError
from metarl.rollouts import per_row

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SCRIPTS = {module.__name__.split(".")[1]: module for module in (meta_iteration, rollout, time_to_result, seeds, growth)}
SIZE = ["--tasks", "2", "--episodes", "2", "--horizon", "4", "--width", "4"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- arithmetic


def test_a_ratio_is_taken_within_each_turn() -> None:
    slow, fast = [2.0, 40.0, 3.0], [1.0, 10.0, 3.0]  # the second turn was slow for both
    assert common.ratios(slow, fast) == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert common.summary(slow) == {"median": 3.0, "min": 2.0, "max": 40.0}
    with pytest.raises(ValueError):
        common.ratios(slow, fast[:2])


def test_a_summary_is_scaled_and_shown() -> None:
    summary = common.summary([0.0012, 0.0011, 0.0019])
    assert common.spread(common.scaled(summary, 1e3)) == "1.2 (1.1, 1.9)"
    assert common.spread({"median": 1.0, "min": 1.0, "max": 1.0}) == "1" and common.spread(None) == "-"


def test_contenders_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []
    contenders: dict[str, common.Contender] = {name: functools.partial(calls.append, name) for name in "ab"}
    times = common.alternate(contenders, 3, CPU)
    assert "".join(calls) == "ab" * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_warm_contenders_run_once_more_before_each_turn_untimed() -> None:
    calls: list[str] = []
    contenders: dict[str, common.Contender] = {name: functools.partial(calls.append, name) for name in "ab"}
    times = common.alternate(contenders, 2, CPU, warm=True)
    assert "".join(calls) == "ab" + "aabb" * 2
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power: float) -> None:
    xs = [20, 40, 80, 320]
    ys = [3e-3 * x**power for x in xs]
    assert growth.exponent(xs, ys) == pytest.approx(power)
    assert growth.exponent(xs, [None, *ys[1:]]) == pytest.approx(power)  # a point that failed
    assert growth.exponent(xs, [0.0, *ys[1:]]) == pytest.approx(power)  # memory too small to be seen


def test_an_exponent_needs_two_points() -> None:
    assert growth.exponent([1, 2], [None, 3.0]) is None
    assert growth.exponent([2, 2], [1.0, 3.0]) is None


def test_only_points_from_the_base_on_are_fitted() -> None:
    sizes = growth.points("tasks", Size(), quick=False)
    lines = [{"tasks": s.tasks, "median": float(s.tasks) if s.tasks >= 20 else 20.0} for s in sizes]
    fits = growth.fit("tasks", Size(), lines)
    assert fits["time"] == pytest.approx(1.0) and fits["memory"] is None


def test_points_hold_the_base_and_a_quick_run_takes_three() -> None:
    base = Size(width=70)
    assert [size.width for size in growth.points("width", base, quick=False)] == [32, 64, 70, 100, 128, 256, 512]
    assert [size.width for size in growth.points("width", base, quick=True)] == [70, 128, 512]
    assert all(size.tasks == base.tasks for size in growth.points("width", base, quick=True))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot start anew")
def test_peak_memory_sees_what_a_run_allocates_every_time() -> None:
    for _ in range(2):
        assert 60 < common.peak_memory(lambda: torch.ones(2**24), CPU) < 80  # 64 MiB
        assert common.peak_memory(lambda: None, CPU) < 4


# ---------------------------------------------------------------- peers

SERVES = """
import sys
print("warming up", file=sys.stderr)
print("ready", file=sys.stderr, flush=True)
for turn, line in enumerate(sys.stdin):
    print(0.5 + turn, flush=True)
"""
DIES = SERVES.replace("print(0.5 + turn, flush=True)", "sys.exit('out of breath')")
MUMBLES = SERVES.replace("0.5 + turn", "'soon'")
NEVER_READY = "raise SystemExit('no such workload')"


def peer(folder: Path, source: str) -> str:
    """The command of a peer with this source."""
    path = folder / "peer.py"
    path.write_text(source)
    return shlex.join([sys.executable, str(path)])


def test_a_peer_is_asked_for_one_run_a_turn(tmp_path: Path) -> None:
    with common.Peer(peer(tmp_path, SERVES)) as contender:
        assert contender.process.poll() is None
        assert common.alternate({"peer": contender}, 2, CPU) == {"peer": [1.5, 2.5]}  # after one that warms up
    assert contender.process.poll() == 0  # it ends by itself


@pytest.mark.parametrize(("source", "words"), [(DIES, "out of breath"), (MUMBLES, "printed no time")])
def test_a_peer_that_gives_no_time_is_told_with_its_last_words(tmp_path: Path, source: str, words: str) -> None:
    with common.Peer(peer(tmp_path, source)) as contender, pytest.raises(InputError, match=words):
        contender.run()
    assert contender.process.poll() is not None


@pytest.mark.parametrize("source", [NEVER_READY, None])
def test_a_peer_that_does_not_start_is_told(tmp_path: Path, source: str | None) -> None:
    command = peer(tmp_path, source) if source else str(tmp_path / "nothing")
    with pytest.raises(InputError, match="no such workload" if source else "cannot be started"):
        common.Peer(command)


# ---------------------------------------------------------------- W2's sides do the same


@pytest.mark.parametrize("tasks", [6, 3])
def test_by_hand_and_the_library_record_the_same_numbers(tasks: int) -> None:
    case = rollout.Case("policy", 6, 12, tasks)
    batch: Any = rollout.policy_sides(case, CPU)["eager"]()  # sides made anew draw from a generator made anew
    record: Any = rollout.policy_sides(case, CPU)["by-hand"]()
    observation, action, logits, alive, terminated = record
    torch.testing.assert_close(batch.observation, observation, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(batch.distribution.logits.log_softmax(-1), logits.log_softmax(-1), rtol=1e-4, atol=1e-5)
    assert torch.equal(batch.action, action) and torch.equal(batch.mask, alive.float())
    assert torch.equal(batch.terminated, terminated)


@pytest.mark.parametrize("steps", [10, 200, 400])
def test_no_pole_falls_and_every_row_has_constants_of_its_own(steps: int) -> None:
    family = rollout.family_for(steps)
    generator = torch.Generator().manual_seed(0)
    task = family.sample(512, generator=generator)
    assert {name for name, value in task.items() if len(value.unique()) > 1} == set(rollout.CONSTANTS)
    constants = per_row(task)
    state = family.reset(constants, (512, 1), generator=generator)
    actions = torch.randint(2, (steps, 512, 1), generator=generator)
    _, rewards, ends = rollout.step_all(family, constants, state, actions)
    assert bool((rewards == steps).all()) and not ends.any()


def test_steps_in_blocks_are_all_the_steps() -> None:
    def plainly(key: Any, function: Callable[..., Any], *trees: Any) -> Any:
        return function(*trees)

    family, generator = rollout.family_for(23), torch.Generator().manual_seed(0)
    constants = per_row(family.sample(4, generator=generator))
    state = family.reset(constants, (4, 2), generator=generator)
    actions = torch.randint(2, (23, 4, 2), generator=generator)
    whole = rollout.step_all(family, constants, state, actions)
    parts = rollout.step_in_blocks(plainly, family, constants, state, actions)  # type: ignore[arg-type]
    for name, value in whole[0].items():
        assert torch.equal(value, parts[0][name])
    assert torch.equal(whole[1], parts[1]) and torch.equal(whole[2], parts[2])


# ---------------------------------------------------------------- the scripts


def keys(value: Any) -> set[str]:
    """All keys at any depth."""
    if isinstance(value, dict):
        return set(value) | keys(list(value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def run(name: str, output: Path, *flags: str) -> dict[str, Any]:
    """What a script writes; all that its docstring names must be there."""
    assert SCRIPTS[name].main([*flags, "--threads", "1", "--output", str(output)]) == 0
    document: dict[str, Any] = json.loads(output.read_text())
    _, about = (SCRIPTS[name].__doc__ or "").split("The document:")
    named = set(re.findall(r"``([^`]+)``", about))
    assert len(named) > 5 and named - {"failed"} <= keys(document)
    assert document["machine"]["threads"] == 1 and document["command"]
    return document


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_docstring_says_how_a_script_is_run(name: str) -> None:
    assert f"\n    python -m benchmarks.{name} " in (SCRIPTS[name].__doc__ or "")


def test_the_whole_iteration_and_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = [name for name in (*meta_iteration.VARIANTS, "parts") if name != "compiled"]
    flags = [*SIZE, "--repeats", "2", "--only", *plain, "--peer", peer(tmp_path, SERVES)]
    document = run("meta_iteration", tmp_path / "new" / "w1.json", *flags)
    rows = {row["name"]: row for row in document["table"]}
    assert {"iteration", "peer 1", "oracle", "trust-region", "rollout, shared", "update"} <= set(rows)
    assert rows["peer 1"]["seconds"] == [1.5, 2.5] and rows["peer 1"]["peak MiB"] is None
    ours = rows["iteration"]["seconds"]
    assert rows["peer 1"]["ratios"]["iteration"]["max"] == max(a / b for a, b in zip([1.5, 2.5], ours, strict=True))
    assert "/ peer 1" in capsys.readouterr().out


def test_the_rollout(tmp_path: Path) -> None:
    command = peer(tmp_path, SERVES) + " {kind} {rows} {steps}"
    sides = [side for side in rollout.SIDES if side != "compiled"]
    flags = ["--rows", "1", "4", "--steps", "3", "--repeats", "1", "--only", *sides, "--peer", command]
    table = run("rollout", tmp_path / "w2.json", *flags)["table"]
    assert {line["name"] for line in table} == {*sides, "peer 1"}
    assert {(line["rows"], line["tasks"]) for line in table} == {(1, 1), (4, 4)}  # every row constants of its own
    last = table[-1]
    assert last["command"].endswith("policy 4 3") and last["steps/s"]["median"] == 4 * 3 / 1.5


def test_the_compiled_rollout(tmp_path: Path) -> None:
    flags = ["--rows", "4", "--steps", "1", "--repeats", "1", "--kinds", "random", "--only", "eager", "compiled"]
    table = run("rollout", tmp_path / "w2.json", *flags, "--tasks", "2")["table"]
    assert [(line["name"], line["tasks"]) for line in table] == [("eager", 2), ("compiled", 2)]


@pytest.mark.parametrize(("target", "status"), [(-1e9, "reached"), (1e9, "not reached")])
def test_the_time_to_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: float, status: str) -> None:
    small = Config(hidden=(4,), tasks=2, episodes=2, query_episodes=2, horizon=4)
    monkeypatch.setattr(time_to_result, "preset", lambda name: small)
    monkeypatch.setattr(time_to_result, "TARGETS", {"small": target})
    flags = ["--presets", "small", "--seeds", "3", "4", "--every", "2", "--tasks", "2", "--limit", "0.001"]
    table = run("time_to_result", tmp_path / "w3.json", *flags)["table"]
    assert [(line["seed"], line["status"], line["iterations"]) for line in table] == [(3, status, 2), (4, status, 2)]
    assert all(line["environment steps"] == 2 * 2 * 2 * 2 * 4 and len(line["scores"]) == 1 for line in table)
    assert all(0 < line["training seconds"] < line["total seconds"] for line in table)


@pytest.mark.parametrize("flags", [[], ["--compile"]])
def test_many_seeds(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, leaves, options: graph)  # the trace alone
    table = run("seeds", tmp_path / "w4.json", *SIZE, "--counts", "1", "2", "--repeats", "2", *flags)["table"]
    names = ["apart", "together", *(["apart, compiled", "together, compiled"] if flags else [])]
    assert [(line["seeds"], line["name"]) for line in table] == [(count, name) for count in (1, 2) for name in names]
    for first in range(0, len(table), len(names)):
        apart, *others = table[first : first + len(names)]
        for line in (apart, *others):
            turns = [a / b for a, b in zip(line["seconds"], apart["seconds"], strict=True)]
            assert line["ratio"]["median"] == pytest.approx(statistics.median(turns))
            whole = line["set-up"] + seeds.ITERATIONS * line["median"]
            assert line["ratio of a run"] == pytest.approx(whole / (seeds.ITERATIONS * apart["median"]))
            assert line["set-up"] > 0.0


def test_growth_in_processes_of_their_own_where_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "AXES", {"width": (4, 2 * 10**7)})  # whose weights no address space holds
    document = run("growth", tmp_path / "w5.json", *SIZE, "--axes", "width", "--repeats", "1")
    small, large = document["table"]["width"]
    assert small["median"] > 0 and "failed" in large and "median" not in large
    assert document["exponents"] == {"width": {"time": None, "memory": None}}


WRONG: dict[str, list[list[str]]] = {
    "meta_iteration": [["--repeats", "0"], ["--tasks", "0"], ["--peer", "no-such-program"]],
    "rollout": [
        ["--repeats", "0"],
        ["--rows", "0"],
        ["--steps", "0"],
        ["--rows", "3", "--tasks", "2"],
        ["--kinds", "random", "--rows", "1", "2", "--peer", "anything"],  # for which rows?
        ["--kinds", "random", "--rows", "1", "--steps", "1", "--peer", "no-such-program"],
    ],
    "time_to_result": [["--every", "0"], ["--tasks", "0"], ["--limit", "0"]],
    "seeds": [["--repeats", "0"], ["--counts", "0"], ["--width", "0"]],
    "growth": [["--repeats", "0"], ["--width", "0"]],
}
for flags in WRONG.values():
    flags += [["--device", "nonsense"], ["--device", "meta"], ["--threads", "0"], ["--output", "."]]


@pytest.mark.parametrize(("name", "flags"), [(name, flags) for name, several in WRONG.items() for flags in several])
def test_wrong_input_is_one_line_and_exit_code_2(
    name: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert SCRIPTS[name].main(flags) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and not captured.out


def test_a_peer_that_dies_between_two_turns_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*SIZE, "--only", "iteration", "--repeats", "1", "--peer", peer(tmp_path, DIES)]
    assert meta_iteration.main(flags) == 2
    assert "out of breath" in capsys.readouterr().err


# ---------------------------------------------------------------- the yardstick, and all on a GPU


def test_only_the_yardstick_needs_jax_and_says_so_in_one_line() -> None:
    names = ", ".join(["common", *SCRIPTS])
    code = f"""
import runpy, sys
sys.modules["jax"] = None  # whoever imports it fails
from benchmarks import {names}
sys.argv = ["yardstick_jax", "w1"]
runpy.run_module("benchmarks.yardstick_jax", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_yardstick_steps_our_cartpole() -> None:
    pytest.importorskip("jax")
    from benchmarks import yardstick_jax as yardstick

    family, generator = rollout.family_for(200), torch.Generator().manual_seed(0)
    task = family.sample(8, generator=generator) | {"time_step": torch.full((8,), 0.02)}
    state = {name: 6 * value for name, value in family.reset(task, (8,), generator=generator).items()}
    action = torch.arange(8) % 2
    physics = yardstick.Physics(*(task[name].numpy() for name in rollout.CONSTANTS))
    theirs, fallen = yardstick.cartpole(physics, tuple(value.numpy() for value in state.values()), action.numpy() == 1)
    ours, _, terminated = family.step(task, state, action)
    for a, b in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(a, torch.tensor(b.tolist()), rtol=1e-5, atol=1e-6)
    assert terminated.tolist() == fallen.tolist() and 0 < sum(fallen.tolist()) < 8


STUB = """#!/bin/sh
# Stands for Python: notes what it is asked, writes no figures, and fails where seeds are timed.
echo "$*" >> "$NOTES"
case "$*" in *benchmarks.seeds*) exit 3;; esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("mode", [[], ["--tiny"], ["--quick"]])
def test_all_benchmarks_on_a_gpu_in_one_call(tmp_path: Path, mode: list[str]) -> None:
    stub, notes = tmp_path / "python", tmp_path / "notes"
    stub.write_text(STUB)
    stub.chmod(0o755)
    surroundings = {**os.environ, "PYTHON": str(stub), "NOTES": str(notes), "DEVICE": "cuda:1"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out"), *mode]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=60)
    quick = mode == ["--quick"]
    failed = "failed: seeds\n" if quick else "failed: seeds seeds-compiled\n"
    assert done.returncode == 1 and done.stderr == failed  # and the rest ran all the same
    asked = notes.read_text().splitlines()
    assert asked[0].startswith("-m pytest -q -m gpu -W default tests/test_gpu.py ") and "time_to_result" in asked[-1]
    files = {file for file in asked[0].split() if file.endswith(".py")}
    marked = {f"tests/{file.name}" for file in (ROOT / "tests").glob("*.py") if "mark.gpu" in file.read_text()}
    assert files == marked - {"tests/test_testing_families.py", "tests/test_benchmarks.py"}
    for line in asked[1:]:
        _, module, *flags = line.split()
        name = module.removeprefix("benchmarks.")
        assert flags[:2] == ["--device", "cuda:1"] and flags[2] == "--output"
        with pytest.raises(SystemExit) as ended:  # by --help, having understood all before it
            SCRIPTS[name].main([*flags, "--help"])
        assert ended.value.code == 0
    names = [Path(line.split()[5]).stem for line in asked[1:]]
    assert len(names) == len(set(names))
    expected = {"time_to_result-compile"} if quick else {*SCRIPTS, "growth-compiled", "seeds-compiled"}
    assert set(names) >= expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("flags", [["--tiny"], ["out", "--small"], ["out", "--tiny", "more"]])
def test_gpu_refuses_what_it_does_not_know(tmp_path: Path, flags: list[str]) -> None:
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and not list(tmp_path.iterdir())
