"""Checkpoints under faults: killed writers, damaged and hostile files, wrong shapes. Ids are from the fault list."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metarl import checkpoints
from metarl.checkpoints import CheckpointError, is_another_process, latest, load, restore, save

ROOT = Path(__file__).parents[1]


def state(value: float = 1.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "learner": {"policy.net.0.weight": torch.full((2, 3), value), "rule.log_rates": torch.zeros(())},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]},
        "generator": generator.get_state(),
        "config": {"family": "cartpole", "hidden": [64, 64], "seed": 1, "note": None, "done": False},
    }


def check_equal(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            check_equal(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert type(left) is type(right) and len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            check_equal(a, b)
    else:
        assert type(left) is type(right) and left == right


def check_refused(path: Path, *parts: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("expected ") and ", got" in message and "; " in message
    for part in parts:
        assert part in message
    return message


def names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


def refit(folder: Path, **changes: Any) -> None:
    """Make the manifest fit whatever lies in state.pt, then change it."""
    raw = (folder / "state.pt").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", state(), 7)
    assert folder.name == "step_7" and latest(tmp_path / "run") == folder
    check_equal(load(tmp_path / "run"), state())
    check_equal(load(folder), state())
    generator = torch.Generator()
    generator.set_state(load(folder)["generator"])
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=torch.Generator().manual_seed(3)))


def test_adam_and_module_states_fit(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    save(tmp_path, {"module": module.state_dict(), "optimizer": optimizer.state_dict()}, 1)
    loaded = load(tmp_path)
    torch.optim.Adam(nn.Linear(3, 2).parameters()).load_state_dict(loaded["optimizer"])
    fresh = nn.Linear(3, 2)
    restore(fresh, loaded["module"])
    assert torch.equal(fresh.weight, module.weight)


def test_numpy_scalars_and_views_become_plain_and_small(tmp_path: Path) -> None:
    big = torch.zeros(1_000_000)
    folder = save(tmp_path, {"a": np.float64(0.5), "b": np.int64(3), "c": np.bool_(True), "view": big[:2]}, 0)
    loaded = load(folder)
    assert [type(loaded[name]) for name in "abc"] == [float, int, bool]
    assert (folder / "state.pt").stat().st_size < 10_000


class Killed(BaseException):
    """Stands in for SIGKILL; the tests that raise it also take away every chance to clean up."""


BOUNDARIES = [("fsync", n) for n in range(6)] + [("replace", n) for n in range(2)] + [("save", 0)]


@pytest.mark.parametrize(("name", "nth"), BOUNDARIES)
@pytest.mark.parametrize("after", [False, True])
def test_c1_killed_at_any_write_the_previous_checkpoint_loads(
    name: str, nth: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state(1.0), 1)
    owner: Any = torch if name == "save" else os
    original, calls = getattr(owner, name), []

    def hooked(*args: Any) -> Any:
        calls.append(args)
        if len(calls) != nth + 1:
            return original(*args)
        if after:
            original(*args)
        elif name == "save":
            args[1].write(b"half of it")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, hooked)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            save(tmp_path, state(2.0), 2)
    value = float(load(tmp_path)["learner"]["policy.net.0.weight"][0, 0])
    assert value == (2.0 if latest(tmp_path).name == "step_2" else 1.0)
    save(tmp_path, state(3.0), 3)  # C-15: the leftovers go
    assert not [path for path in names(tmp_path) if path.startswith(".tmp")]
    check_equal(load(tmp_path), state(3.0))


def test_c1_the_boundaries_are_all_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"fsync": 0, "replace": 0}

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def call(*args: Any) -> Any:
            counts[name] += 1
            return original(*args)

        return call

    for name in counts:
        monkeypatch.setattr(os, name, counted(name))
    save(tmp_path, state(), 1)
    assert [(name, n) for name, count in counts.items() for n in range(count)] + [("save", 0)] == BOUNDARIES


def test_c2_a_full_disk_is_an_oserror_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(1.0), 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, state(2.0), 2)
    assert names(tmp_path) == {"step_1", "last"}
    check_equal(load(tmp_path), state(1.0))


def test_c3_one_flipped_bit_is_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(tmp_path, state(1.0), 1)
    folder = save(tmp_path, state(2.0), 2)
    raw = bytearray((folder / "state.pt").read_bytes())
    raw[raw.index(torch.full((2,), 2.0).numpy().tobytes())] ^= 1
    (folder / "state.pt").write_bytes(raw)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was deserialised"))
    check_refused(folder, "SHA-256", str(folder / "state.pt"), f"valid checkpoint is {good}")
    check_refused(tmp_path, str(good))  # named, and not fallen back to


@pytest.mark.parametrize("refitted", [False, True])
@pytest.mark.parametrize("cut", ["0", "10", "half", "all but 10"])
def test_c4_a_cut_file_is_refused(cut: str, refitted: bool, tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    raw = (folder / "state.pt").read_bytes()
    keep = {"0": 0, "10": 10, "half": len(raw) // 2, "all but 10": len(raw) - 10}[cut]
    (folder / "state.pt").write_bytes(raw[:keep])
    if refitted:
        refit(folder)
    check_refused(folder, "no other valid checkpoint")


def duplicated(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"schema": 1', '"schema": 1, "schema": 1'))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "state.pt").unlink(),
        lambda f: (f / "manifest.json").write_text("not JSON"),
        lambda f: (f / "manifest.json").write_text("[1]"),
        lambda f: (f / "manifest.json").write_text("[" * 30_000),
        lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        lambda f: (f / "manifest.json").write_text("{" + " " * 70_000 + "}"),
        lambda f: refit(f, sha256="0" * 64),
        lambda f: refit(f, sha256=3),
        lambda f: refit(f, size=10**15),
        lambda f: refit(f, size=True),
        lambda f: refit(f, schema="1"),
        lambda f: refit(f, step=-1),
        lambda f: refit(f, format="another program"),
        duplicated,
        lambda f: (f / "extra.txt").write_text("x"),
        lambda f: ((f / "state.pt").rename(f.parent / "away"), (f / "state.pt").symlink_to(f.parent / "away")),
    ],
)
def test_c5_a_wrong_manifest_or_folder_is_refused(damage: Callable[[Path], Any], tmp_path: Path) -> None:
    good, folder = save(tmp_path, state(), 1), save(tmp_path, state(), 2)
    damage(folder)
    check_refused(folder, str(good))


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("raw_pickle", [False, True])
def test_c6_code_in_the_file_is_not_run(raw_pickle: bool, tmp_path: Path) -> None:
    folder, marker = save(tmp_path, state(), 1), tmp_path / "marker"
    payload = {"learner": Hostile(marker)}
    if raw_pickle:
        (folder / "state.pt").write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, folder / "state.pt")
    refit(folder)
    check_refused(folder)
    assert not marker.exists()
    if not raw_pickle:  # the payload works: it is the loader that holds it back
        torch.load(folder / "state.pt", weights_only=False)
        assert marker.exists()


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    raw = io.BytesIO((folder / "state.pt").read_bytes())
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(folder / "state.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    refit(folder)
    check_refused(folder, "compressed")


def nested(value: Any, times: int) -> Any:
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (torch.zeros(1).expand(10**13), "no larger than their stored data"),
        (torch.zeros(3).as_strided((2, 2), (1, 1)), "no larger than their stored data"),
        (nested(1.0, 40), "every part to occur once"),
        ({"b": nested([torch.zeros(1)], 40)}, "every part to occur once"),
        ([torch.zeros(1000)] * 1000, "once"),
        ([row[:] for row in [torch.zeros(1000)] * 1000], "once"),
    ],
    ids=["expanded", "overlapping", "a list of lists", "a list of lists of tensors", "a tensor", "views of a tensor"],
)
def test_a_small_file_that_would_become_large_is_refused_at_once(value: Any, part: str, tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    torch.save({"a": value}, folder / "state.pt")
    refit(folder)
    assert (folder / "state.pt").stat().st_size < 200_000
    check_refused(folder, part)


@pytest.mark.parametrize("depth", [100, 5000])
def test_nesting_without_end_is_refused(depth: int, tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    raw = io.BytesIO((folder / "state.pt").read_bytes())
    lists = b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * depth + b"a" * (depth - 1) + b"s."  # {"a": [[[...]]]}
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(folder / "state.pt", "w") as target:
        for member in source.namelist():
            target.writestr(member, lists if member.endswith("data.pkl") else source.read(member))
    refit(folder)
    check_refused(folder, "at most 64 nested levels")


def test_what_is_expanded_or_shared_here_is_whole_there(tmp_path: Path) -> None:
    row, shared = torch.arange(3.0), {"betas": (0.9, 0.999), "empty": []}
    given = {"rows": row.expand(4, 3), "one": shared, "two": shared, "three": [shared["betas"]] * 2}
    save(tmp_path, given, 1)
    check_equal(load(tmp_path), {**given, "rows": row.repeat(4, 1)})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_numbers_are_kept_and_must_be_finite(dtype: torch.dtype, tmp_path: Path) -> None:
    value = torch.tensor([0.5, -2.0, 448.0]).to(dtype)
    save(tmp_path, {"a": value}, 1)
    loaded = load(tmp_path)["a"]
    assert loaded.dtype == dtype and torch.equal(loaded.view(torch.uint8), value.view(torch.uint8))
    with pytest.raises(CheckpointError, match="finite"):
        save(tmp_path, {"a": torch.tensor([0.5, float("nan")]).to(dtype)}, 2)


@pytest.mark.parametrize("value", [torch.ones(2), [1], {"a": {1, 2}}, {"a": torch.float32}, {(1, 2): 3}])
def test_types_that_torch_would_load_but_we_never_write_are_refused(value: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    torch.save(value, folder / "state.pt")
    refit(folder)
    check_refused(folder)


FORBIDDEN = {"pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "eval", "exec", "yaml.load",
             "os.system", "joblib.load"}  # fmt: skip


def unsafe_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "pickle", "cloudpickle", "yaml"}:
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name in {"load", "loads"}]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        safe = isinstance(only := given.get("weights_only"), ast.Constant) and only.value is True
        shell = given.get("shell")
        if name in FORBIDDEN or (name == "torch.load" and not safe):
            found.append(f"line {node.lineno}: {name}")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"line {node.lineno}: shell=")
    return found


@pytest.mark.parametrize("folder", ["metarl", "envs", "experiments"])
def test_c8_no_source_can_run_code_from_a_file(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert unsafe_calls(path.read_text()) == [], path


@pytest.mark.parametrize(
    "snippet",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=flag)", "pickle.loads(b)",
     "from torch import load", "eval(x)", "exec(x)", "yaml.load(f)", "subprocess.run(c, shell=True)"],
)  # fmt: skip
def test_c8_the_scan_sees(snippet: str) -> None:
    assert unsafe_calls(snippet)
    assert not unsafe_calls("torch.load(f, weights_only=True)\nmodel.eval()\nlevel.load(f)")


def test_c9_other_schemas_are_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path, state(), 1)
    refit(folder, schema=checkpoints.SCHEMA + 1, metarl="9.9.9")
    check_refused(folder, "made by a newer version", "9.9.9")
    refit(folder, schema=checkpoints.SCHEMA - 1, metarl="0.0.1")
    check_refused(folder, "made by an older version", "0.0.1")


def test_c10_restore_lists_the_first_differences() -> None:
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    good = {name: value.clone() + 1 for name, value in module.state_dict().items()}
    wrong: list[tuple[Any, str]] = [
        ("runs/mine", r"expected a state_dict, got str; read a checkpoint with load\(path\)"),
        ({"weight": good["weight"]}, "bias is missing"),
        (good | {"extra": torch.ones(1)}, "extra is unexpected"),
        (good | {"weight": torch.ones(2, 4)}, r"weight is \[2, 4\] float32 but should be \[2, 3\] float32"),
        (good | {"weight": good["weight"].double()}, "float64 but should be .* float32"),
        (good | {"weight": torch.ones(2, 3, dtype=torch.int64)}, "int64"),
        (good | {"bias": torch.tensor([0.0, float("nan")])}, "bias is not finite"),
        (good | {"bias": [0.0, 1.0]}, "bias is a list"),
        (good | {f"x\n{i}": torch.ones(1) for i in range(9)}, "and 5 more"),
    ]
    for state_dict, message in wrong:
        with pytest.raises(CheckpointError, match=message) as caught:
            restore(module, state_dict)
        assert "\n" not in str(caught.value)
        assert torch.equal(module.weight, before)
    restore(module, good)
    assert torch.equal(module.weight, before + 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_c11_non_finite_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    kept = save(tmp_path, state(), 1)
    for wrong in ({"a": {"b": torch.tensor([1.0, bad])}}, {"a": {"b": bad}}, {"a": {"b": torch.tensor(bad).half()}}):
        with pytest.raises(CheckpointError, match="state.a.b"):
            save(tmp_path, wrong, 2)
    assert names(tmp_path) == {"step_1", "last"}
    torch.save({"a": torch.tensor(bad)}, kept / "state.pt")
    refit(kept)
    check_refused(kept, "finite")


def test_what_is_not_plain_is_refused_before_writing(tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    values = [np.ones(2), Path("x"), {1}, nn.Linear(1, 1), torch.ones(2, 2).to_sparse(), torch.ones(1, device="meta")]
    for value in [{"a": value} for value in values] + [cyclic, [1], {(1,): 2}, {True: 1}]:
        with pytest.raises(CheckpointError, match="expected .*, got .*; "):
            save(tmp_path, value, 1)  # type: ignore[arg-type]
    for step, keep in ((-1, 3), (True, 3), (1.0, 3), (10**18, 3), (1, 0), (1, 2.5), (1, True)):
        with pytest.raises(CheckpointError, match="expected .*, got "):
            save(tmp_path, {}, step, keep_last=keep)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_c15_permissions_are_the_umasks(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        folder = save(tmp_path, state(), 1)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "state.pt", folder / "manifest.json")]
    assert modes == [0o755, 0o644, 0o644]


def test_c15_leftovers_of_a_living_process_stay(tmp_path: Path) -> None:
    save(tmp_path, state(), 1)
    living, dead = tmp_path / "checkpoints" / f".tmp-{os.getppid()}-0", tmp_path / "checkpoints" / ".tmp-99999999-0"
    living.mkdir()
    dead.mkdir()
    (dead / "state.pt").write_bytes(b"half")
    check_equal(load(tmp_path), state())
    save(tmp_path, state(), 2)
    assert living.exists() and not dead.exists()


def test_threads_take_turns(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def work(first: int) -> None:
        meeting.wait()
        for k in range(10):
            save(tmp_path, state(float(first + k)), first + k, keep_last=2)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (0, 5)))
    assert latest(tmp_path).name in ("step_9", "step_9.1", "step_14")
    assert float(load(tmp_path)["learner"]["policy.net.0.weight"][0, 0]) in (9.0, 14.0)
    assert not [name for name in names(tmp_path) if name.startswith(".tmp")]


def test_c18_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in range(1, 8):
        save(tmp_path, state(step), step, keep_last=3)
        assert names(tmp_path) == {f"step_{kept}" for kept in range(max(1, step - 2), step + 1)} | {"last"}


def test_a_process_is_another_one_while_it_lives() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_another_process(child.pid)
    child.communicate(b"\n")
    assert not is_another_process(child.pid)
    assert is_another_process(1)  # for most users one that they may not send signals to
    assert not is_another_process(os.getpid()) and not is_another_process(10**30)


def test_c18_nothing_is_removed_before_the_new_one_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(), 1)
    seen: list[str] = []
    original = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (seen.append(latest(tmp_path).name), original(path)))
    save(tmp_path, state(), 2, keep_last=1)
    assert seen == ["step_2"] and names(tmp_path) == {"step_2", "last"}


def test_saving_a_step_again_and_resuming_from_earlier(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, state(step), step)
    again = save(tmp_path, state(-20.0), 20)  # resumed from 10
    assert again.name == "step_20.1" and latest(tmp_path) == again
    assert names(tmp_path) == {"step_10", "step_20.1", "step_30", "last"}
    check_equal(load(tmp_path), state(-20.0))


def test_a_missing_or_foreign_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "step_3").mkdir()
    (tmp_path / "step_4").mkdir()
    (tmp_path / "step_4" / "model.zip").write_text("another program's")
    for name in ("nowhere", "file", "foreign", "empty", "step_3", "step_4", "step_5"):
        check_refused(tmp_path / name, name)


@pytest.mark.parametrize("text", ["", "../../etc", "step_9", "step_1/../step_1", "\x00", "step_1" * 100])
def test_a_wrong_pointer_is_refused(text: str, tmp_path: Path) -> None:
    good = save(tmp_path, state(), 1)
    (tmp_path / "checkpoints" / "last").write_text(text)
    check_refused(tmp_path, str(good))
