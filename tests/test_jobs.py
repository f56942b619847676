"""Jobs in processes: run once, kept when interrupted, and no worker left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments import jobs as jobs_module
from experiments.compare import Job
from experiments.config import Config
from experiments.errors import InputError
from experiments.evaluate import Protocol
from experiments.finetune import Job as Finetuning
from experiments.jobs import crew, key_of, run_all
from experiments.reproduce import Job as Reproduction
from experiments.tables import Column
from tests.helpers import do_jobs_here

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Note:
    """Writes down which process does it, and then takes its time."""

    folder: str
    number: int
    seconds: float = 0.0
    fails: bool = False
    kills: bool = False

    @property
    def name(self) -> str:
        return f"note {self.number}"

    @property
    def key(self) -> str:
        return key_of(self.number)

    def run(self) -> dict[str, Any]:
        (Path(self.folder) / f"worker-{self.number}").write_text(str(os.getpid()))
        if self.fails:
            raise ValueError("as it should")
        if self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return {"number": self.number}

    def summary(self, result: dict[str, Any]) -> str:
        return str(result["number"])


def workers(folder: Path) -> dict[str, int]:
    return {file.name: int(file.read_text() or 0) for file in folder.glob("worker-*")}


def begun_and_kept(folder: Path) -> bool:
    """Whether the second job is under way and the first is on the disk: which comes first is a matter of chance."""
    return bool(workers(folder).get("worker-1")) and any((folder / "jobs").glob("*.json"))


def gone(process: int, patience: float = 10.0) -> bool:
    """Whether the process ends before long."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_finished_job_is_never_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Note(str(tmp_path), number) for number in range(3)]
    first = run_all(jobs[:2], tmp_path / "jobs", 1)
    assert first == {job.key: {"number": job.number} for job in jobs[:2]}
    (tmp_path / "worker-0").unlink()
    assert run_all(jobs, tmp_path / "jobs", 2).keys() == {job.key for job in jobs}
    told = capsys.readouterr().out
    assert "worker-0" not in workers(tmp_path) and "[1/1] note 2: 2" in told and "other code" not in told


def test_jobs_that_other_code_has_finished_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Note(str(tmp_path), number) for number in range(2)]
    run_all(jobs[:1], tmp_path / "jobs", 1)
    with monkeypatch.context() as patch:
        patch.setattr(jobs_module, "code", lambda: "other")
        found = run_all(jobs, tmp_path / "jobs", 1)
    assert found == {job.key: {"number": job.number} for job in jobs}
    told = f"note: 1 of 2 jobs in {tmp_path / 'jobs'} were run by another version of the code; delete them to run"
    assert f"{told} them again\n" in capsys.readouterr().out
    run_all(jobs, tmp_path / "jobs", 1)
    assert told in capsys.readouterr().out  # the second is the other's now


def test_a_job_on_a_benchmark_that_has_changed_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, scored = Config(), Config(benchmark="navigation-halfcircle", scored_in="navigation-halfcircle-dense")

    def keys() -> list[str]:
        found = [Job("maml", one, Protocol()).key for one in (plain, scored)]
        found.append(Reproduction("best", Column(plain), (Protocol(),)).key)
        return [*found, Finetuning(plain, Protocol(), (), 2, 16, 2).key]

    def changed(name: str) -> list[bool]:
        real = jobs_module._fingerprint
        with monkeypatch.context() as patch:
            patch.setattr(jobs_module, "_fingerprint", lambda one, horizon: real(one, horizon) + "x" * (one == name))
            return [a != b for a, b in zip(before, keys(), strict=True)]

    before = keys()
    assert before == keys() and len(set(before)) == 4
    assert changed("navigation-fixed") == [True, False, True, True]
    assert changed("navigation-halfcircle") == changed("navigation-halfcircle-dense") == [False, True, False, False]
    assert changed("bandit-5") == [False] * 4


def test_a_job_with_a_plug_in_that_has_been_edited_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    own, plain = Config(rule="examples.own_rule:SignSGD"), Config()
    before = [Job("x", one, Protocol()).key for one in (own, plain)]
    monkeypatch.setattr("experiments.plugins._fingerprint", lambda module: f"edited {module}")
    assert [Job("x", one, Protocol()).key == key for one, key in zip((own, plain), before, strict=True)] == [
        False,
        True,
    ]


def test_a_plug_in_that_is_edited_before_a_worker_imports_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results would be taken for those of the plug-in that this process has read, now and by later commands."""
    module = tmp_path / "a_rule_to_edit.py"
    module.write_text((ROOT / "examples" / "own_rule.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    tiny = {"horizon": 4, "hidden": (4,), "tasks": 2, "episodes": 2, "query_episodes": 2, "env_steps": 1}
    protocol = Protocol("validation", tasks=2, steps=1, score_episodes=1)
    job = Job("as-configured", Config(rule="a_rule_to_edit:SignSGD", **tiny), protocol)
    assert job.key in run_all([job], tmp_path / "before", 1)
    module.write_text(module.read_text() + "\n")
    with pytest.raises(InputError, match="as-configured, .*expected the benchmark and plug-ins .* the same command"):
        run_all([job], tmp_path / "after", 1)
    assert not list((tmp_path / "after").glob("*.json"))


def test_the_code_of_a_job_is_that_which_the_workers_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Note(str(tmp_path), 0)
    do_jobs_here(monkeypatch)
    now = iter(["begun with", "edited while it ran"])
    monkeypatch.setattr(jobs_module, "code", lambda: next(now))
    run_all([job], tmp_path / "jobs", 1)
    assert json.loads((tmp_path / "jobs" / f"{job.key}.json").read_text())["code"] == "begun with"
    assert next(now) == "edited while it ran"


def test_a_crew_stays_and_is_told_of_other_code_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, twice = (Note(str(tmp_path), number) for number in (0, 1, 1))
    monkeypatch.setattr(jobs_module, "code", lambda: "other")
    with crew(tmp_path / "jobs", 1) as work:
        assert work([first]) == {first.key: {"number": 0}}
        assert work([second, twice]) == {second.key: {"number": 1}}
        assert work([first, second]).keys() == {first.key, second.key}
    processes = set(workers(tmp_path).values())
    assert len(processes) == 1 and os.getpid() not in processes and gone(processes.pop())
    told = capsys.readouterr().out
    assert told.count("[1/1]") == 2  # one that is asked for twice is done once
    monkeypatch.undo()
    with crew(tmp_path / "jobs", 1) as work:
        for job in (first, second, first):
            work([job])
    assert capsys.readouterr().out.count("note: 2 of 2 jobs") == 1


@pytest.mark.parametrize("left", ["", "{", "{}"])
def test_a_result_that_cannot_be_read_is_made_anew(tmp_path: Path, left: str) -> None:
    job = Note(str(tmp_path), 0)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / f"{job.key}.json").write_text(left)
    assert run_all([job], tmp_path / "jobs", 1) == {job.key: {"number": 0}}


def test_a_job_that_fails_ends_the_others(tmp_path: Path) -> None:
    jobs = [Note(str(tmp_path), 0, fails=True), Note(str(tmp_path), 1, seconds=60.0)]
    started = time.monotonic()
    with pytest.raises(ValueError, match="as it should"):
        run_all(jobs, tmp_path / "jobs", 1)
    assert time.monotonic() - started < 50.0 and not list((tmp_path / "jobs").glob("*.json"))


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path: Path) -> None:
    jobs = [Note(str(tmp_path), 0), Note(str(tmp_path), 1, kills=True)]
    with pytest.raises(OSError, match="a worker process was killed, .* run the same command again"):
        run_all(jobs, tmp_path / "jobs", 1)
    assert len(list((tmp_path / "jobs").glob("*.json"))) == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_interrupted_it_leaves_no_worker_and_keeps_what_is_finished(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    jobs = f"[Note({str(tmp_path)!r}, 0), Note({str(tmp_path)!r}, 1, seconds=60.0)]"
    main = f"run_all({jobs}, Path({str(tmp_path / 'jobs')!r}), 1)"
    text = "import os, signal, sys; from pathlib import Path; from tests.test_jobs import Note, run_all\n"
    text += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by what runs in the background
    text += "if __name__ == '__mp_main__':\n    os.kill(os.getpid(), signal.SIGINT)\n"  # while a worker starts
    text += "from experiments.errors import script\n"
    text += f"if __name__ == '__main__':\n    sys.exit(script(lambda argv: {main})([]))\n"
    (tmp_path / "main.py").write_text(text)
    command = [sys.executable, str(tmp_path / "main.py")]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=paths, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            until = time.monotonic() + 60.0
            while not begun_and_kept(tmp_path) and time.monotonic() < until:
                time.sleep(0.05)
            worker = workers(tmp_path)["worker-1"]
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as ctrl-C in a terminal does
            else:
                process.send_signal(number)
            _, errors = process.communicate(timeout=30.0)
        finally:
            process.kill()
    assert process.returncode == code, errors
    if number != signal.SIGKILL:
        assert errors.count("\n") == 1 and "the same command" in errors
    assert gone(worker)
    kept = [json.loads(file.read_text()) for file in (tmp_path / "jobs").glob("*.json")]
    assert kept == [{"number": 0, "code": jobs_module.code()}]
