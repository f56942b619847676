"""Checkpoints: written atomically, verified when loaded, and free of executable code.

Layout of a run folder::

    run/checkpoints/step_200/state.pt        tensors and plain values, nothing else
                             manifest.json   schema, versions, step, size and SHA-256 of state.pt
                    last                     the name of a step folder

Saving writes everything to a temporary folder, flushes it to the disk, and renames the folder into place. Then it
replaces ``last``, and only then removes old checkpoints. A process that is killed at any point leaves the previous
checkpoint intact.

Loading checks the pointer, the manifest, size and hash, reads with ``torch.load(weights_only=True)``, and checks types
and finiteness. If a check fails, the checkpoint is rejected with a one-line message that names the newest good one;
another checkpoint is never loaded in its place silently. The hash detects damage but not an attacker, who could write a
matching one; the protection against attackers is that loading never runs code from the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import re
import shutil
import stat
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

SCHEMA = 1
"""Version of the layout, increased by every change that makes older checkpoints unreadable."""

_STATE, _MANIFEST, _LAST = "state.pt", "manifest.json", "last"
_STEP = re.compile(r"step_([0-9]{1,18})(?:\.([0-9]{1,9}))?")  # ".n": this step was saved again, for the n-th time
_TEMPORARY = re.compile(r"\.tmp-([0-9]+)-[0-9]+")
_MANIFEST_BYTES, _POINTER_BYTES, _STATE_BYTES = 64 * 1024, 128, 64 * 1024**3
_DEPTH = 64
_SAVING = threading.Lock()
"""Held while a checkpoint is written, so that no other thread removes its temporary files as leftovers."""


class CheckpointError(ValueError):
    """A checkpoint or its state is rejected; one line says what was expected, what was found, and what to do."""

    def __init__(self, message: str) -> None:
        # Names and paths come from files and may contain line breaks.
        super().__init__(re.sub(r"[\x00-\x1f\x7f]", " ", message))


def save(run: str | os.PathLike[str], state: Mapping[str, Any], step: int, *, keep_last: int = 3) -> Path:
    """Write ``run/checkpoints/step_N`` atomically, point ``last`` at it, and then remove old checkpoints.

    Tensors are copied to the CPU. Of the steps up to this one, only the ``keep_last`` newest are kept; later steps
    (from a run that was resumed at an earlier step) are left alone. Saving the same step again writes ``step_N.1``, so
    that a checkpoint is never half replaced. Threads may save concurrently, but only one process may write to a run.

    Args:
        run: the run folder; created if missing.
        state: nested dicts (with strings or integers as keys), lists and tuples of dense tensors, ``None``, ``bool``,
            ``int``, ``float`` and ``str``. NumPy scalars are converted to Python's. The state of a random generator is
            a uint8 tensor and thus allowed.
        step: meta-iterations done.
        keep_last: how many checkpoints to keep, at least 1.

    Returns:
        The folder written.

    Raises:
        CheckpointError: the state holds another type or a number that is not finite, or an argument is invalid; nothing
            was written.
        OSError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise CheckpointError(f"expected step to be an integer of at least 0, got {step!r}; count meta-iterations")
    if step >= 10**18:
        raise CheckpointError(f"expected step to have at most 18 digits, got {step}; count meta-iterations")
    if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 1:
        raise CheckpointError(f"expected keep_last to be an integer of at least 1, got {keep_last!r}")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"expected state to be a dict, got {type(state).__name__}; give each part a name")
    plain = _plain(state, "state")
    folder = Path(run) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with _SAVING:
        return _save(folder, plain, step, keep_last)


def _save(folder: Path, state: Mapping[str, Any], step: int, keep_last: int) -> Path:
    """Save a state that holds only plain values and CPU tensors; see `save`."""
    _remove_leftovers(folder)
    temporary = _new_temporary(folder)
    try:
        _write(temporary, state, step)
        target = _free_name(folder, step)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync_folder(folder)
    _point(folder, target.name)
    _prune(folder, target, keep_last)
    return target


def latest(run: str | os.PathLike[str]) -> Path:
    """Return the folder that ``last`` points at, without verifying its contents; :func:`load` does that.

    Raises:
        CheckpointError: the run does not exist, the folder is not a run, or the pointer is missing or wrong.
    """
    folder = Path(run) / "checkpoints"
    if not folder.parent.is_dir():
        came = "a file" if folder.parent.exists() else "nothing"
        raise CheckpointError(f"expected a run folder at {run}, got {came}; check the path")
    if not folder.is_dir():
        raise CheckpointError(f"expected a run folder with checkpoints/ at {run}, got another folder; check the path")
    name = _read_pointer(folder)
    if name is None:
        came = "a file that does not name a step" if (folder / _LAST).exists() else "no such file"
        raise CheckpointError(f"expected a pointer file {folder / _LAST}, got {came}; {_advice(folder / 'none')}")
    if not (folder / name).is_dir():
        raise CheckpointError(
            f"expected {name}, to which {folder / _LAST} points, got no such folder; {_advice(folder / name)}"
        )
    return folder / name


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read a checkpoint after verifying it.

    Args:
        path: a step folder, or a run folder to read its latest checkpoint.

    Returns:
        The state as it was saved, with all tensors on the CPU; modules and optimizers copy them to their own device.

    Raises:
        CheckpointError: a check failed. The one-line message names the newest other good checkpoint.
    """
    folder = Path(path)
    if _STEP.fullmatch(folder.name) is None:
        folder = latest(folder)
    try:
        return _load(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(folder)}") from error


def is_another_process(number: int) -> bool:
    """Return whether a process with this id, other than the current one, is running on this machine."""
    try:
        os.kill(number, 0)  # signal 0 only checks that the process exists
    except PermissionError:  # it exists, but belongs to another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return number != os.getpid()


def restore(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load parameters and buffers into a module, after checking that all names, shapes and dtypes agree.

    ``Module.load_state_dict`` silently casts a wrong dtype and accepts NaN; here nothing is assigned unless everything
    matches.

    Raises:
        CheckpointError: names, shapes or dtypes differ (the first differences are listed), or a value is not finite.
    """
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(
            f"expected a state_dict, got {type(state_dict).__name__}; read a checkpoint with load(path)"
        )
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state_dict]
    wrong += [f"{name} is unexpected" for name in state_dict if name not in own]
    for name, here in own.items():
        there = state_dict.get(name, here)
        if not isinstance(there, Tensor):
            wrong.append(f"{name} is a {type(there).__name__}, not a tensor")
        elif (here.shape, here.dtype) != (there.shape, there.dtype):
            wrong.append(f"{name} is {_describe(there)} but should be {_describe(here)}")
        elif not _is_finite(there):
            wrong.append(f"{name} is not finite")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(
            f"expected the parameters of {type(module).__name__}, got {len(wrong)} differences: "
            f"{', '.join(wrong[:4])}{more}; build the module with the configuration that the checkpoint was made with"
        )
    module.load_state_dict(state_dict, strict=True)


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Copy nested tensors and plain values to the CPU; raise an error that names the first value of another type."""
    if depth > _DEPTH:
        raise CheckpointError(
            f"expected at most {_DEPTH} nested levels, got more at {where[:60]}; does it contain itself?"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        return _plain_tensor(value, where)
    if type(value) is float and not math.isfinite(value):
        raise CheckpointError(f"expected finite numbers, got {value} at {where}; use None for an unknown value")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise CheckpointError(f"expected strings or integers as keys, got {key!r} in {where}; rename it")
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = (_plain(item, f"{where}.{i}", depth + 1) for i, item in enumerate(value))
        return list(items) if type(value) is list else tuple(items)
    raise CheckpointError(
        f"expected tensors and plain values, got a {type(value).__name__} at {where}; convert it, for example with "
        "torch.as_tensor"
    )


def _plain_tensor(value: Tensor, where: str) -> Tensor:
    """Copy a tensor to a new storage on the CPU; saving a view would write its whole base tensor to the file."""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise CheckpointError(f"expected dense tensors with values, got {value.layout} at {where}; make it dense")
    if not _is_finite(value):
        raise CheckpointError(f"expected finite numbers, got NaN or infinity at {where}; the run had already diverged")
    return value.detach().to("cpu", copy=True)


def _is_finite(value: Tensor) -> bool:
    """Return whether all values are finite; integers always are."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    known = value.float() if value.dtype.itemsize == 1 else value  # isfinite does not support 8-bit floats
    return bool(torch.isfinite(known).all())


def _describe(value: Tensor) -> str:
    """Return shape and dtype as text."""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _write(folder: Path, state: Mapping[str, Any], step: int) -> None:
    """Write ``state.pt`` and ``manifest.json``; both are on the disk when this returns."""
    packed = io.BytesIO()  # write the file ourselves, because torch.save reports a full disk by unpredictable errors
    torch.save(state, packed)
    with (folder / _STATE).open("xb") as file:
        file.write(packed.getbuffer())
        _flush(file)
    with (folder / _STATE).open("rb") as file:  # read back, to hash what was actually written
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    manifest = {
        "format": "metarl checkpoint",
        "schema": SCHEMA,
        "step": step,
        "size": size,
        "sha256": digest,
        "metarl": _version(),
        "torch": str(torch.__version__),
    }
    with (folder / _MANIFEST).open("x", encoding="utf-8") as text:
        json.dump(manifest, text, indent=1)
        _flush(text)
    _fsync_folder(folder)


def _version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("metarl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _flush(file: IO[Any]) -> None:
    """Flush Python's buffer to the kernel, and the kernel's to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    """Sync a folder, without which a rename in it is not durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _new_temporary(folder: Path) -> Path:
    """Create a new temporary folder with the umask's permissions (``mkdtemp`` would make it private)."""
    for number in range(1000):
        path = folder / f".tmp-{os.getpid()}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise OSError(
        f"expected a free name for a temporary folder in {folder}, got 1000 taken ones; remove its .tmp-* folders"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders and pointer files of processes that have ended, or of this one."""
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or is_another_process(int(match[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _free_name(folder: Path, step: int) -> Path:
    """Return ``step_N``, or ``step_N.1`` etc. if it exists, because a folder cannot be replaced atomically."""
    attempts = [attempt for number, attempt, _ in _steps(folder) if number == step]
    return folder / (f"step_{step}.{max(attempts) + 1}" if attempts else f"step_{step}")


def _steps(folder: Path) -> list[tuple[int, int, Path]]:
    """Return step, attempt and path of every step folder, sorted."""
    found = ((match, path) for path in folder.iterdir() if (match := _STEP.fullmatch(path.name)))
    return sorted((int(match[1]), int(match[2] or 0), path) for match, path in found)


def _point(folder: Path, name: str) -> None:
    """Rewrite the pointer file atomically."""
    temporary = folder / f".tmp-{os.getpid()}-0"
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(name + "\n")
            _flush(file)
        os.replace(temporary, folder / _LAST)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(folder)


def _prune(folder: Path, newest: Path, keep_last: int) -> None:
    """Remove old step folders, but never the one that the pointer names."""
    kept = {newest.name, _read_pointer(folder)}
    steps = _steps(folder)
    now = next(entry for entry in steps if entry[2] == newest)
    past = [entry for entry in steps if entry <= now]
    # If a step was saved several times, only the last attempt is kept.
    newest_of = {number: path for number, _, path in past}
    kept |= {newest_of[number].name for number in sorted(newest_of)[-keep_last:]}
    for _, _, path in past:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _read_pointer(folder: Path) -> str | None:
    """Return the step folder's name from the pointer file; ``None`` if there is no file or no valid name in it."""
    try:
        with (folder / _LAST).open("rb") as file:
            name = file.read(_POINTER_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None
    return name if _STEP.fullmatch(name) else None


def _advice(folder: Path) -> str:
    """Return what to do instead of loading ``folder``: load the newest other checkpoint that passes verification."""
    try:
        others = [path for _, _, path in reversed(_steps(folder.parent)) if path != folder]
    except OSError:
        others = []
    for path in others:
        with contextlib.suppress(CheckpointError), _verified(path):
            return f"the newest other valid checkpoint is {path}, load that path instead"
    return "there is no other valid checkpoint in this run, start a new one"


def _load(folder: Path) -> dict[Any, Any]:
    """Verify and read one step folder; error messages do not yet name another checkpoint."""
    with _verified(folder) as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file may cause any error
            raise CheckpointError(
                f"expected tensors and plain values in {folder / _STATE}, got something that torch.load rejects "
                f"({type(error).__name__})"
            ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"expected a dict in {folder / _STATE}, got a {type(state).__name__}")
    _refuse_more_than_stored(state, f"{folder / _STATE}: state", set())
    checked: dict[Any, Any] = _plain(state, f"{folder / _STATE}: state")
    return checked


def _refuse_more_than_stored(value: Any, where: str, seen: set[int], depth: int = 0) -> None:
    """Reject what would inflate a small file in memory: repeated parts, and tensors larger than their data."""
    if depth > _DEPTH:
        raise CheckpointError(f"expected at most {_DEPTH} nested levels, got more at {where[:200]}")
    if isinstance(value, Tensor) and value.layout is torch.strided and value.numel() > 0:
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"expected tensors no larger than their stored data, got {_describe(value)} at {where}"
            )
        identity = value.untyped_storage().data_ptr()
    elif isinstance(value, Mapping | list | tuple) and len(value) > 0:
        identity = id(value)
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            _refuse_more_than_stored(item, f"{where}.{key}", seen, depth + 1)
    else:
        return
    if identity in seen:
        raise CheckpointError(f"expected every part to occur once, got a repeated one at {where[:200]}")
    seen.add(identity)


@contextlib.contextmanager
def _verified(folder: Path) -> Any:
    """Yield the open ``state.pt`` after checking manifest, size, hash and archive.

    The file is checked and read through one handle, so that it cannot be exchanged in between.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
        if names != [_MANIFEST, _STATE]:
            raise CheckpointError(f"expected {_MANIFEST} and {_STATE} in {folder} and nothing else, got {names[:6]}")
        for name in names:
            if not stat.S_ISREG((folder / name).lstat().st_mode):
                raise CheckpointError(f"expected a regular file at {folder / name}, got a link or something else")
        manifest = _read_manifest(folder / _MANIFEST)
        file = (folder / _STATE).open("rb")
    except OSError as error:
        raise CheckpointError(f"expected a checkpoint at {folder}, got: {error.strerror or error}") from error
    with file:
        _check_file(file, folder / _STATE, manifest)
        yield file


def _check_file(file: IO[bytes], path: Path, manifest: Mapping[str, Any]) -> None:
    """Check size and SHA-256, and that the archive is not compressed, so that it cannot unpack to a larger size."""
    size = os.fstat(file.fileno()).st_size
    if size != manifest["size"]:
        raise CheckpointError(f"expected {manifest['size']} bytes in {path}, got {size}: it was truncated or changed")
    try:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise CheckpointError(f"expected to read {path}, got: {error.strerror or error}") from error
    if digest != manifest["sha256"]:
        raise CheckpointError(
            f"expected SHA-256 {manifest['sha256'][:12]}… of {path}, got {digest[:12]}…: it was changed"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(f"expected an archive written by torch.save at {path}, got something else") from error
    if not stored:
        raise CheckpointError(
            f"expected an uncompressed archive at {path}, got a compressed one, which torch never writes"
        )
    file.seek(0)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest, and check that each field has the right type and range."""
    with path.open("rb") as file:
        raw = file.read(_MANIFEST_BYTES + 1)
    if len(raw) > _MANIFEST_BYTES:
        raise CheckpointError(f"expected at most {_MANIFEST_BYTES} bytes in {path}, got more")
    try:
        manifest = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"expected JSON without duplicate keys in {path}, got something else") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "metarl checkpoint":
        raise CheckpointError(f"expected a manifest written by metarl at {path}, got another program's")
    schema, maker = manifest.get("schema"), str(manifest.get("metarl"))[:40]
    if type(schema) is not int:
        raise CheckpointError(f"expected an integer schema in {path}, got {str(schema)[:40]}")
    if schema > SCHEMA:
        raise CheckpointError(
            f"expected schema {SCHEMA} in {path}, got {schema}: made by a newer version, read it with metarl {maker!a}"
        )
    if schema < SCHEMA:
        raise CheckpointError(
            f"expected schema {SCHEMA} in {path}, got {schema}: made by an older version, read it with metarl {maker!a}"
        )
    size, digest, step = manifest.get("size"), manifest.get("sha256"), manifest.get("step")
    if type(size) is not int or not 0 < size <= _STATE_BYTES or type(step) is not int or step < 0:
        raise CheckpointError(
            f"expected a size and a step in range in {path}, got {str(size)[:40]} and {str(step)[:40]}"
        )
    if not isinstance(digest, str) or re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise CheckpointError(f"expected a SHA-256 of 64 hexadecimal digits in {path}, got {str(digest)[:20]!a}")
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, rejecting duplicate keys (JSON readers disagree on which one counts)."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a key occurs twice")
    return dict(pairs)
