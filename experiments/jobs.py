"""Run long work as jobs: in parallel, in processes of one thread each, and never twice.

A finished job is stored in the output folder as a file named after its key, so that interrupted work resumes where it
stopped. The file records a hash of the code that made it; a note is printed if the code has changed since.
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

from envs.adapters.rows import terminal_signals_blocked
from experiments import runs
from experiments.build import build_benchmark
from experiments.config import Config
from experiments.errors import InputError
from experiments.plugins import fingerprints
from experiments.stopping import follow_the_parent, stoppable
from metarl import DivergedError, NonFiniteError


class Job(Protocol):
    """A piece of work that can run in a separate process; it must be picklable."""

    @property
    def name(self) -> str:
        """Name of the job in messages."""

    @property
    def key(self) -> str:
        """Identifies the job: a stored result with the same key is reused."""

    def run(self) -> dict[str, Any]:
        """Do the work and return its result as plain JSON values.

        Raises:
            DivergedError, NonFiniteError: the job diverged, which is recorded as the result ``{"diverged": why}``.
        """

    def summary(self, result: dict[str, Any]) -> str:
        """Return a few words about a result that did not diverge."""


Results = dict[str, dict[str, Any]]
"""Results by job key."""
Work = Callable[[Sequence[Job]], Results]


def key_of(*parts: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True).encode()).hexdigest()[:16]


def benchmarks_of(config: Config) -> list[str]:
    """Return fingerprints of the benchmarks and plug-ins of a configuration, since names alone do not pin them down."""
    names = [config.benchmark] if config.scored_in is None else [config.benchmark, config.scored_in]
    own = fingerprints(config.model_dump(mode="json"))
    return [*(_fingerprint(name, config.horizon) for name in names), *own.values()]


@functools.cache
def _fingerprint(benchmark: str, horizon: int | None) -> str:
    """Return a benchmark's fingerprint, cached because some benchmarks have to make environments for it."""
    return build_benchmark(Config(benchmark=benchmark, horizon=horizon)).fingerprint()


def code() -> str:
    """Return a hash of the code of jobs: of every module of this project that they could use."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(file for folder in ("envs", "experiments", "metarl") for file in (root / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def do(job: Job, key: str) -> dict[str, Any]:
    """Run a job in a worker; divergence becomes a result, so that it does not end the other jobs.

    Raises:
        InputError: the job has another key here than in the process that stores its result under ``key``.
    """
    runs.prepare_machine(threads=1)
    if job.key != key:
        raise InputError(
            f"{job.name}: expected the benchmark and plug-ins that this command began with, but they have been edited "
            "since; run the same command again"
        )
    try:
        return job.run()
    except (DivergedError, NonFiniteError) as error:
        return {"diverged": str(error)}


def run_all(jobs: Sequence[Job], folder: Path, workers: int) -> Results:
    """Return results by job key; only jobs without a result in the folder are run.

    Raises:
        InputError: another process is using the folder, or see `do`.
        OSError: a worker was killed.
    """
    with crew(folder, workers) as work:
        return work(jobs)


@contextmanager
def crew(folder: Path, workers: int) -> Iterator[Work]:
    """Yield a function that works like `run_all` and can be called repeatedly with the same worker processes.

    Starting a process takes seconds. On leaving, prints a note if some results were made by other code.
    """
    ours, makers = code(), dict[str, str | None]()  # now, before the workers import it: it may be edited later
    with runs.locked(folder), stoppable(), _processes(workers) as pool:

        def work(jobs: Sequence[Job]) -> Results:
            missing = {job.key: job for job in jobs if not _is_finished(folder / f"{job.key}.json")}
            _finish(missing, folder, pool, ours)
            found: Results = {job.key: json.loads((folder / f"{job.key}.json").read_text()) for job in jobs}
            makers.update({key: result.pop("code", None) for key, result in found.items()})
            return found

        yield work
    others = sum(by != ours for by in makers.values())
    if others:
        print(
            f"note: {others} of {len(makers)} jobs in {folder} were run by another version of the code; delete them to "
            "run them again"
        )


def _finish(missing: Mapping[str, Job], folder: Path, pool: ProcessPoolExecutor, ours: str) -> None:
    """Run the missing jobs, storing every result as soon as it is ready, with the hash of our code."""
    with terminal_signals_blocked():  # this starts the workers
        pending = {pool.submit(do, job, key): job for key, job in missing.items()}
    for number, future in enumerate(as_completed(pending), 1):
        job, result = pending[future], future.result()
        runs.write_json(folder / f"{job.key}.json", result | {"code": ours})
        print(f"[{number}/{len(missing)}] {job.name}: {result.get('diverged') or job.summary(result)}", flush=True)


def _is_finished(file: Path) -> bool:
    """Return whether a job's result exists and can be read; otherwise the job is run again."""
    try:
        return "code" in json.loads(file.read_text())
    except (OSError, ValueError):
        return False


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of workers that are terminated on a failure or an interruption.

    Raises:
        OSError: a worker was killed.
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
                    "a worker process was killed, perhaps because memory ran out (fewer --workers need less); "
                    "finished jobs are kept: run the same command again"
                ) from error
            raise
