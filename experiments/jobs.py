"""Long work as jobs: side by side in processes of one thread each, and never done twice.

A finished job is a file named after its key in the output folder: work that was interrupted goes on where it stopped.
The file tells which programs made it, and whoever goes on with others is told.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from experiments import runs
from experiments.build import build_benchmark
from experiments.config import Config
from experiments.plugins import fingerprints
from experiments.stopping import follow_the_parent, stoppable
from metarl import DivergedError, NonFiniteError


class Job(Protocol):
    """What can be done in a process of its own; everything it holds can be pickled."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def key(self) -> str:
        """Decides whether a finished job on the disk is this one."""

    def run(self) -> dict[str, Any]:
        """Do it; plain JSON values.

        Raises:
            DivergedError, NonFiniteError: a result, too: ``{"diverged": why}``.
        """

    def summary(self, result: dict[str, Any]) -> str:
        """The result in a few words, unless it diverged."""


Results = dict[str, dict[str, Any]]
"""By job key."""
Work = Callable[[Sequence[Job]], Results]


def key_of(*parts: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()[:16]


def benchmarks_of(config: Config) -> list[str]:
    """Fingerprints of what is trained and scored on, and of plug-ins: under one name there may be others tomorrow."""
    names = [config.benchmark] if config.scored_in is None else [config.benchmark, config.scored_in]
    own = fingerprints(config.model_dump(mode="json"))
    return [*(_fingerprint(name, config.horizon) for name in names), *own.values()]


@functools.cache
def _fingerprint(benchmark: str, horizon: int | None) -> str:
    """Once a process: some benchmarks make environments."""
    return build_benchmark(Config(benchmark=benchmark, horizon=horizon)).fingerprint()


@functools.cache
def code() -> str:
    """A hash of the programs that jobs are made by: every module of this project that they could use."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(file for folder in ("envs", "experiments", "metarl") for file in (root / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def do(job: Job) -> dict[str, Any]:
    """What a worker does; a job that diverges must not end the others."""
    runs.prepare_machine(threads=1)
    try:
        return job.run()
    except (DivergedError, NonFiniteError) as error:
        return {"diverged": str(error)}


def run_all(jobs: Sequence[Job], folder: Path, workers: int) -> Results:
    """Results by job key; only what is not in the folder yet is run.

    Raises:
        InputError: another process is at work in the folder.
        OSError: a worker was killed.
    """
    with crew(folder, workers) as work:
        return work(jobs)


@contextmanager
def crew(folder: Path, workers: int) -> Iterator[Work]:
    """`run_all` as a function to be called again and again: its processes stay, as starting one takes seconds."""
    makers: dict[str, str | None] = {}
    with runs.locked(folder), stoppable(), _processes(workers) as pool:

        def work(jobs: Sequence[Job]) -> Results:
            _finish({job.key: job for job in jobs if not _is_finished(folder / f"{job.key}.json")}, folder, pool)
            found: Results = {job.key: json.loads((folder / f"{job.key}.json").read_text()) for job in jobs}
            makers.update({key: result.pop("code", None) for key, result in found.items()})
            return found

        yield work
    others = sum(by != code() for by in makers.values())
    if others:
        print(
            f"note: {others} of {len(makers)} jobs in {folder} were finished by other code; delete them to do them anew"
        )


def _finish(missing: Mapping[str, Job], folder: Path, pool: ProcessPoolExecutor) -> None:
    """Do what is missing, and keep every result as soon as it is there."""
    pending = {pool.submit(do, job): job for job in missing.values()}
    for number, future in enumerate(as_completed(pending), 1):
        job, result = pending[future], future.result()
        runs.write_json(folder / f"{job.key}.json", result | {"code": code()})
        print(f"[{number}/{len(missing)}] {job.name}: {result.get('diverged') or job.summary(result)}", flush=True)


def _is_finished(file: Path) -> bool:
    """Whether a job's result can be read; one that cannot is made anew."""
    try:
        return "code" in json.loads(file.read_text())
    except (OSError, ValueError):
        return False


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that do not outlive a failure or an interruption.

    Raises:
        OSError: somebody has killed one.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked torch process may hang
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=follow_the_parent) as pool:
        try:
            yield pool
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise OSError(
                    "a worker process was killed, perhaps for want of memory, of which fewer --workers need less; "
                    "finished jobs are kept: give the same command again"
                ) from error
            raise
