"""Run folders: record what is run and with which versions, save checkpoints, report the status, resume."""

from __future__ import annotations

import fcntl
import gzip
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import metarl
from experiments.build import Progress, Setup, build
from experiments.config import Config
from experiments.errors import InputError, existing, one_line_warnings
from experiments.plugins import fingerprints, imported
from metarl import checkpoints

PACKAGES = ("torch", "gymnasium", "numpy", "scipy")


def prepare_machine(threads: int | None = None, *, deterministic: bool = False) -> None:
    """Configure the process. Only scripts call this, never the library.

    Warnings are printed in one line, as errors are. By default, glibc returns big temporaries to the system after
    every operation and takes page faults for the next ones; keeping them makes a second-order update up to twice as
    fast on a CPU.

    Args:
        threads: number of CPU threads; None leaves it to torch.
        deterministic: make a GPU give the same bits in every run, at some cost in speed. A CPU does so anyway.

    Raises:
        InputError: ``threads`` is less than 1.
    """
    if threads is not None and threads < 1:
        raise InputError(f"expected threads >= 1, got {threads}; leave --threads out for torch's own choice")
    one_line_warnings()
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's products are first used
        torch.use_deterministic_algorithms(True)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        import ctypes

        m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """Return the device with the given name, where ``auto`` is the CPU.

    With fewer than thousands of rows a GPU is slower, so it has to be asked for by name.

    Raises:
        InputError: the device is unknown or not available.
    """
    try:
        device = torch.device("cpu" if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not available; use --device cpu") from error
    return device


def place(config: Config, output: Path | None) -> Path:
    """Return ``output``, or make a new folder under ``runs`` named after benchmark, rule, seed and time."""
    if output is not None:
        return output
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.benchmark}__{config.rule}__s{config.seed}__{stamp}".replace(":", ".").replace("/", ".")
    for number in itertools.count(1):  # several runs may begin in the same second
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("numbers do not end")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder, which is made if missing, against other processes on this machine.

    The system releases the lock when the process ends, however it ends. Warns if the file system has no locks.

    Raises:
        InputError: another process holds the lock, or the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another process is using this folder; wait for it, or stop it first"
            ) from error
        except OSError as error:  # not every file system has locks
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}); make sure that no other process writes to it",
                stacklevel=3,
            )
        yield


def create(config: Config, folder: Path, device: torch.device) -> None:
    """Record in a run folder, which the caller has `locked`, what is about to be run.

    Raises:
        InputError: the folder already holds a run that has a checkpoint, or may still save one, or has finished.
    """
    if (folder / "config.json").exists() and not _came_to_nothing(folder, alone=True):
        advice = f"or continue it with --resume {folder}" if _resumable(folder) else f"as {_without_checkpoint(folder)}"
        raise InputError(f"{folder} already holds a run; choose another --output, {advice}")
    machine = system(device) | {"plugins": fingerprints(config.model_dump(mode="json"))}
    (folder / "command.txt").write_text(shlex.join(["python", *sys.argv]) + "\n")
    write_json(folder / "system.json", machine)
    write_json(folder / "status.json", running())
    write_json(folder / "config.json", config.model_dump(mode="json"))


def run_of(folder: Path) -> Path:
    """Return the run folder, given either itself or one of its checkpoints ``RUN/checkpoints/step_N``."""
    whole = folder.resolve()
    return whole.parent.parent if whole.parent.name == "checkpoints" else folder


def running(seconds: float = 0.0) -> dict[str, Any]:
    """Return the status of a run that this process trains; ``seconds`` is the training time of earlier processes."""
    return {"status": "running", "process": os.getpid(), "host": platform.node(), "seconds": seconds}


def seconds_of(folder: Path) -> float:
    """Return how many seconds a run has trained so far, or 0 if its status does not say."""
    found = _status(folder).get("seconds")
    return float(found) if isinstance(found, int | float) else 0.0


def _resumable(folder: Path) -> bool:
    """Return whether the folder's run has saved a checkpoint."""
    return (folder / "checkpoints" / "last").exists()


def _came_to_nothing(folder: Path, *, alone: bool = False) -> bool:
    """Return whether the folder's run ended before its first checkpoint, so that the folder may be reused.

    A status of ``running`` can be left over from a process that was killed. With ``alone`` the caller has `locked` the
    folder, so that a run of this machine has certainly ended; otherwise its process is looked up.
    """
    status = _status(folder)
    if _resumable(folder) or status.get("status") not in {"running", "interrupted", "failed"}:
        return False
    here = status.get("host") == platform.node()
    # false for this very process, too, whose run is only about to begin
    return status["status"] != "running" or (here and (alone or not checkpoints.is_another_process(status["process"])))


def _status(folder: Path) -> dict[str, Any]:
    """Return the contents of ``status.json``, or an empty dict if it is missing or cannot be read."""
    try:
        found = json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_checkpoint(folder: Path) -> str:
    """Say, as part of an error message, why a run has no checkpoint and what to do about it."""
    status = _status(folder)
    if status.get("status") == "finished":
        return "its checkpoints were removed; restore them, if they are to be used"
    if _came_to_nothing(folder):
        return "it ended before its first checkpoint; train again with the same --output"
    gone = f"process {status['process']} on {status['host']} has ended" if "process" in status else "no process uses it"
    return f"it has no checkpoint yet; wait for one, or remove the folder if {gone}"


def system(device: torch.device) -> dict[str, Any]:
    """Return versions, machine and git commit, to be stored beside results."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, cwd=Path(__file__).parent, check=False).stdout
    except OSError:  # git is not installed
        commit = ""
    return {
        "python": platform.python_version(),
        "metarl": metarl.__version__,
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "commit": commit.strip() or None,
    }


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON, atomically, so that a reader never sees half a file.

    ``indent=None`` puts everything on one line, for big tables of numbers. A file whose name ends in ``.gz`` is
    compressed, without a time stamp, so that equal values give equal bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    temporary.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    temporary.replace(path)


def save(folder: Path, setup: Setup, progress: Progress) -> None:
    """Write a checkpoint from which the run can be resumed bit for bit."""
    state = {
        "config": setup.config.model_dump(mode="json"),
        "benchmark": setup.benchmark.fingerprint(),
        "learner": setup.learner.state_dict(),
        "optimizer": setup.optimizer.state_dict(),
        "generator": setup.generator.get_state(),
        "task_generator": setup.task_generator.get_state(),
        "threads": torch.get_num_threads(),
        "iteration": progress.iteration,
        "env_steps": progress.env_steps,
        "made_by": made_by(setup.config),
    }
    checkpoints.save(folder, state, progress.iteration)


def refuse_contradiction(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a checkpoint's configuration agrees with the ``config.json`` of its run folder.

    That file records the run; editing it does not change the run.

    Raises:
        InputError: they differ in a field other than ``env_steps``.
    """
    file = run_of(folder) / "config.json"
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    if not isinstance(told, dict):
        return
    for name, value in json.loads(json.dumps(dict(config))).items():
        # extending the budget writes the checkpoint first and the file a moment later
        if name != "env_steps" and told.get(name, value) != value:
            raise InputError(
                f"{file} says {name} = {told[name]!r}, but the checkpoint was trained with {value!r}; expected the "
                "file as train.py wrote it: undo the change"
            )


def made_by(config: Config) -> dict[str, dict[str, str]]:
    """Return the versions of the packages and the fingerprints of the plug-ins that produce a run's numbers."""
    packages = {"python": platform.python_version(), "metarl": metarl.__version__}
    packages |= {name: version(name) for name in PACKAGES}
    return {"packages": packages, "plugins": fingerprints(config.model_dump(mode="json"))}


def warn_of_changes(folder: Path, before: Mapping[str, Mapping[str, str]], config: Config, *, packages: bool) -> None:
    """Warn if plug-ins or, with ``packages``, versions of packages have changed since a checkpoint was written."""
    now = made_by(config)
    for name, was in before.get("plugins", {}).items():
        if now["plugins"][name] != was:
            warnings.warn(f"{folder}: the module of {name} has changed since this run was trained", stacklevel=2)
    replaced = {name: was for name, was in before.get("packages", {}).items() if now["packages"][name] != was}
    if packages and replaced:
        told = ", ".join(f"{name} {now['packages'][name]} instead of {was}" for name, was in replaced.items())
        warnings.warn(
            f"{folder}: continues with {told}; results may not match an uninterrupted run bit for bit",
            stacklevel=2,
        )


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    plugins: Sequence[str] = (),
    resume: bool = False,
) -> tuple[Setup, Progress]:
    """Return a run as its last checkpoint left it.

    Args:
        folder: a run folder, or one of its checkpoints.
        device: where to put it.
        plugins: import paths that this run's configuration is allowed to import.
        resume: whether training will continue. It then uses the recorded number of threads, since results on a CPU
            depend on it, and requires the same kind of device, since the noise generator's state belongs to it.

    Raises:
        InputError: there is no run, or no checkpoint, or the checkpoint contradicts ``config.json``; a plug-in is not
            allowed; the benchmark has changed since; or training would resume on another kind of device.
        CheckpointError: the checkpoint is damaged or does not fit.
    """
    folder, device = Path(folder), torch.device(device)
    existing(folder, "run folder")
    if (folder / "config.json").exists() and not (folder / "checkpoints").exists():
        raise InputError(f"{folder}: the run cannot be loaded, as {_without_checkpoint(folder)}")
    state = checkpoints.load(folder)
    if "config" not in state or "benchmark" not in state:
        raise InputError(f"{folder}: this checkpoint is not of a training run; expected one written by train.py")
    refuse_contradiction(folder, state["config"])
    config = Config(**state["config"])
    allowed = {plugins} if isinstance(plugins, str) else set(plugins)
    if refused := [name for name in imported(state["config"]) if name not in allowed]:
        flags = " ".join(f"--plugin {name}" for name in refused)
        raise InputError(
            f"{folder}: the run imports {', '.join(refused)}, not part of metarl; allow it with {flags}, or in Python "
            f"with plugins={refused}"
        )
    if resume:
        torch.set_num_threads(state["threads"])
    setup = build(config, device)
    if setup.benchmark.fingerprint() != state["benchmark"]:
        raise InputError(
            f"{folder}: benchmark {config.benchmark!r} has changed since this run was trained, so its held-out tasks "
            "may have been trained on; use the version that made the run, or train again"
        )
    checkpoints.restore(setup.learner, state["learner"])
    setup.optimizer.load_state_dict(state["optimizer"])
    if state["generator"].shape == setup.generator.get_state().shape:
        setup.generator.set_state(state["generator"])
    elif resume:
        raise InputError(
            f"{folder}: trained on another kind of device than {device}; resume on that kind, with --device"
        )
    setup.task_generator.set_state(state["task_generator"])
    warn_of_changes(folder, state.get("made_by", {}), config, packages=resume)
    return setup, Progress(state["iteration"], state["env_steps"])
