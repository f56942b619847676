"""A run folder: what was run, with which versions, where it stands, and how to go on."""

from __future__ import annotations

import gzip
import json
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import metarl
from experiments.build import Progress, Setup, build
from experiments.config import Config
from experiments.errors import InputError, existing
from experiments.lookup import offered_names
from experiments.names import BENCHMARKS, RULES
from metarl import checkpoints

PACKAGES = ("torch", "gymnasium", "numpy", "scipy")


def prepare_machine(threads: int | None = None, *, deterministic: bool = False) -> None:
    """Settings of the process, made by scripts and never by the library.

    A warning is told in one line, as an error is.
    A CPU gives the same bits in every run anyway; ``deterministic`` asks a GPU for it, at some cost in speed.
    glibc gives big temporaries back to the system after every operation and faults them in again for the
    next: keeping them makes a second-order update up to twice as fast on a CPU.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
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
    """``auto`` is the CPU: below thousands of rows a GPU is slower, so it is asked for by name.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    try:
        device = torch.device("cpu" if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not to be had here; use --device cpu") from error
    return device


def create(config: Config, output: Path | None, device: torch.device) -> Path:
    """Make the run folder and write down what is about to be run.

    Raises:
        InputError: the folder already holds a run that came to something, or may yet.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.benchmark}__{config.rule}__s{config.seed}__{stamp}".replace(":", ".").replace("/", ".")
    folder = output if output is not None else Path("runs") / name
    if (folder / "config.json").exists() and not _came_to_nothing(folder):
        raise InputError(f"{folder} already holds a run; choose another --output, or go on with --resume {folder}")
    machine = system(device)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.txt").write_text(shlex.join(["python", *sys.argv]) + "\n")
    write_json(folder / "system.json", machine)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    return folder


def _came_to_nothing(folder: Path) -> bool:
    """Whether the run there has ended without an iteration: its folder is free for another try."""
    status = folder / "status.json"
    return status.exists() and json.loads(status.read_text()).get("iterations") == 0


def system(device: torch.device) -> dict[str, Any]:
    """Versions, machine and git commit, to be quoted beside results."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return {
        "python": platform.python_version(),
        "metarl": metarl.__version__,
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "commit": commit.stdout.strip() or None,
    }


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write atomically: a reader never sees half a file. ``indent=None`` puts big tables of numbers on one line.

    A name that ends in ``.gz`` is compressed, equal values to equal bytes.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    temporary.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    temporary.replace(path)


def save(folder: Path, config: Config, setup: Setup, progress: Progress) -> None:
    """Write a checkpoint that a run can be resumed from bit for bit."""
    state = {
        "config": config.model_dump(mode="json"),
        "benchmark": setup.benchmark.fingerprint(),
        "learner": setup.learner.state_dict(),
        "optimizer": setup.optimizer.state_dict(),
        "generator": setup.generator.get_state(),
        "task_generator": setup.task_generator.get_state(),
        "threads": torch.get_num_threads(),
        "iteration": progress.iteration,
        "env_steps": progress.env_steps,
    }
    checkpoints.save(folder, state, progress.iteration)


def load(
    folder: Path, device: torch.device, *, plugins: Sequence[str] = (), restore_threads: bool = False
) -> tuple[Config, Setup, Progress]:
    """The run as its last checkpoint left it.

    Args:
        folder: a run folder.
        device: where to go on.
        plugins: import paths the user allows this run's configuration to name.
        restore_threads: set the recorded number of threads: results on a CPU depend on it.

    Raises:
        InputError: no run there, a plug-in not allowed, a benchmark that has changed since.
        CheckpointError: the checkpoint is damaged or does not fit.
    """
    existing(folder, "run folder")
    state = checkpoints.load(folder)
    if "config" not in state or "benchmark" not in state:
        raise InputError(f"{folder}: this checkpoint is not of a training run; expected one written by train.py")
    config = Config(**state["config"])
    for kind, name, table in (("benchmark", config.benchmark, BENCHMARKS), ("rule", config.rule, RULES)):
        if name not in table and (":" in name or name in offered_names(kind)) and name not in plugins:
            raise InputError(f"{folder}: the run uses the plug-in {name}; allow its import with --plugin {name}")
    if restore_threads:
        torch.set_num_threads(state["threads"])
    setup = build(config, device)
    if setup.benchmark.fingerprint() != state["benchmark"]:
        raise InputError(
            f"{folder}: benchmark {config.benchmark!r} has changed since this run was trained, so its held-out tasks "
            "may have been trained on; use the version that made the run, or train again"
        )
    checkpoints.restore(setup.learner, state["learner"])
    setup.optimizer.load_state_dict(state["optimizer"])
    setup.generator.set_state(state["generator"])
    setup.task_generator.set_state(state["task_generator"])
    return config, setup, Progress(state["iteration"], state["env_steps"])
