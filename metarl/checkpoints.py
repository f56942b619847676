"""Checkpoints that are either whole or refused: atomic to write, verified to read, and free of code.

Layout of a run folder::

    run/checkpoints/step_200/state.pt        tensors and plain values, nothing else
                             manifest.json   schema, versions, step, size and SHA-256 of state.pt
                    last                     the name of a step folder

Writing: everything goes to a temporary folder, is flushed to the disk, and is renamed into place; only then is ``last``
renamed to point at it; only then are old ones removed. A process killed anywhere in between leaves the previous
checkpoint as it was. Reading: pointer, manifest, size and hash, ``torch.load(weights_only=True)``, types, finiteness. A
checkpoint that fails any of these is refused with one line that names the newest good one; it is never replaced
silently. The hash guards against damage, not against an attacker, who could write a fitting one; against an attacker
stands that no step of loading runs code from the file.
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
"""Version of the layout; a change that this module can no longer read increases it."""

_STATE, _MANIFEST, _LAST = "state.pt", "manifest.json", "last"
_STEP = re.compile(r"step_([0-9]{1,18})(?:\.([0-9]{1,9}))?")  # ".n": the n-th time that this step was saved again
_TEMPORARY = re.compile(r"\.tmp-([0-9]+)-[0-9]+")
_MANIFEST_BYTES, _POINTER_BYTES, _STATE_BYTES = 64 * 1024, 128, 64 * 1024**3
_DEPTH = 64
_SAVING = threading.Lock()
"""Held while a checkpoint is written: what it leaves lying about for a moment is not for another thread to tidy up."""


class CheckpointError(ValueError):
    """A checkpoint or its state is refused: one line with what was expected, what came, and what to do."""

    def __init__(self, message: str) -> None:
        # Names and paths come from files: they must not break the line.
        super().__init__(re.sub(r"[\x00-\x1f\x7f]", " ", message))


def save(run: str | os.PathLike[str], state: Mapping[str, Any], step: int, *, keep_last: int = 3) -> Path:
    """Write ``run/checkpoints/step_N`` atomically, point ``last`` at it, and then remove old ones.

    Tensors are copied to the CPU. Of the steps up to this one all but the ``keep_last`` newest are removed; steps
    beyond this one (of a run resumed from earlier) are left alone. Saving a step again makes ``step_N.1``, so that
    nothing is ever half replaced. Threads take turns; only one process may write to a run.

    Args:
        run: the run folder; made when missing.
        state: nested dicts (names or integers as keys), lists and tuples of dense tensors, ``None``, ``bool``,
            ``int``, ``float`` and ``str``. NumPy scalars become Python's; a generator's state is a uint8 tensor and
            fits.
        step: meta-iterations done.
        keep_last: how many to keep, at least 1.

    Returns:
        The folder written.

    Raises:
        CheckpointError: the state holds something else, or a number that is not finite; nothing was written.
        OSError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise CheckpointError(f"expected a step that is an integer of 0 or more, got {step!r}; count meta-iterations")
    if step >= 10**18:
        raise CheckpointError(f"expected a step of at most eighteen digits, got {step}; count meta-iterations")
    if isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 1:
        raise CheckpointError(f"expected keep_last that is an integer of 1 or more, got {keep_last!r}")
    if not isinstance(state, Mapping):
        raise CheckpointError(f"expected a state that is a dict, got {type(state).__name__}; name its parts")
    plain = _plain(state, "state")
    folder = Path(run) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    with _SAVING:
        return _save(folder, plain, step, keep_last)


def _save(folder: Path, state: Mapping[str, Any], step: int, keep_last: int) -> Path:
    """`save` of a state that is known to be plain."""
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
    """The folder that ``last`` points at. It is not yet verified: :func:`load` does that.

    Raises:
        CheckpointError: no such run, a folder that is no run, or a pointer that is missing or wrong.
    """
    folder = Path(run) / "checkpoints"
    if not folder.parent.is_dir():
        came = "a file" if folder.parent.exists() else "nothing"
        raise CheckpointError(f"expected a run folder at {run}, got {came}; check the path")
    if not folder.is_dir():
        raise CheckpointError(f"expected a run folder with checkpoints/ at {run}, got another folder; check the path")
    name = _read_pointer(folder)
    if name is None:
        came = "no step's name in it" if (folder / _LAST).exists() else "no such file"
        raise CheckpointError(f"expected the pointer {folder / _LAST}, got {came}; {_advice(folder / 'none')}")
    if not (folder / name).is_dir():
        raise CheckpointError(
            f"expected {name}, which {folder / _LAST} names, got no such folder; {_advice(folder / name)}"
        )
    return folder / name


def load(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """Read a checkpoint after verifying it.

    Args:
        path: a step folder, or a run folder for its latest.

    Returns:
        The state as it was saved, with all tensors on the CPU: modules and optimizers copy them to their own device.

    Raises:
        CheckpointError: anything at all is wrong with it. One line, naming the newest other good checkpoint.
    """
    folder = Path(path)
    if _STEP.fullmatch(folder.name) is None:
        folder = latest(folder)
    try:
        return _load(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(folder)}") from error


def is_another_process(number: int) -> bool:
    """Whether a process of that number, other than this one, runs on this machine."""
    try:
        os.kill(number, 0)  # a signal that does nothing
    except PermissionError:  # it runs, and is somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return number != os.getpid()


def restore(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load parameters and buffers into a module, by names, shapes and dtypes that must all agree.

    ``Module.load_state_dict`` casts a wrong dtype silently and accepts NaN; here nothing is assigned unless all fits.

    Raises:
        CheckpointError: names, shapes or dtypes differ (the first differences are listed), or a value is not finite.
    """
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"expected a state_dict, got {type(state_dict).__name__}; load(path) reads a checkpoint")
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state_dict]
    wrong += [f"{name} is additional" for name in state_dict if name not in own]
    for name, here in own.items():
        there = state_dict.get(name, here)
        if not isinstance(there, Tensor):
            wrong.append(f"{name} is a {type(there).__name__} and no tensor")
        elif (here.shape, here.dtype) != (there.shape, there.dtype):
            wrong.append(f"{name} is {_describe(there)} and should be {_describe(here)}")
        elif not _is_finite(there):
            wrong.append(f"{name} is not finite")
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise CheckpointError(
            f"expected the parameters of {type(module).__name__}, got {len(wrong)} differences: "
            f"{', '.join(wrong[:4])}{more}; build it with the configuration that the checkpoint was made with"
        )
    module.load_state_dict(state_dict, strict=True)


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy, on the CPU, of tensors and plain types, or an error that names the first thing that is neither."""
    if depth > _DEPTH:
        raise CheckpointError(f"expected at most {_DEPTH} levels, got more at {where[:60]}; is it a part of itself?")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        return _plain_tensor(value, where)
    if type(value) is float and not math.isfinite(value):
        raise CheckpointError(f"expected finite numbers, got {value} at {where}; write None for 'not known'")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise CheckpointError(f"expected names or integers as keys, got {key!r} in {where}; rename it")
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        items = (_plain(item, f"{where}.{i}", depth + 1) for i, item in enumerate(value))
        return list(items) if type(value) is list else tuple(items)
    raise CheckpointError(
        f"expected tensors and plain values, got a {type(value).__name__} at {where}; convert it, as by torch.as_tensor"
    )


def _plain_tensor(value: Tensor, where: str) -> Tensor:
    """The tensor's values on the CPU, in a storage of their own (a view would drag its whole base into the file)."""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise CheckpointError(f"expected dense tensors with values, got {value.layout} at {where}; make it dense")
    if not _is_finite(value):
        raise CheckpointError(f"expected finite numbers, got NaN or infinity at {where}; the run diverged before this")
    return value.detach().to("cpu", copy=True)


def _is_finite(value: Tensor) -> bool:
    """Whether all values are finite; integers always are."""
    if not (value.is_floating_point() or value.is_complex()):
        return True
    known = value.float() if value.dtype.itemsize == 1 else value  # torch does not ask it of eight bits
    return bool(torch.isfinite(known).all())


def _describe(value: Tensor) -> str:
    """Shape and dtype in words."""
    return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _write(folder: Path, state: Mapping[str, Any], step: int) -> None:
    """``state.pt`` and ``manifest.json``, both on the disk when this returns."""
    packed = io.BytesIO()  # written by ourselves: of a full disk torch may say anything
    torch.save(state, packed)
    with (folder / _STATE).open("xb") as file:
        file.write(packed.getbuffer())
        _flush(file)
    with (folder / _STATE).open("rb") as file:  # read back: the hash is of what the disk holds
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
    """Of the installed package."""
    try:
        return importlib.metadata.version("metarl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _flush(file: IO[Any]) -> None:
    """Python's buffer to the kernel, the kernel's to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    """Make names in a folder durable: a rename is not until its folder is synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _new_temporary(folder: Path) -> Path:
    """A fresh folder with the permissions of the umask (``mkdtemp`` would make it private)."""
    for number in range(1000):
        path = folder / f".tmp-{os.getpid()}-{number}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise OSError(
        f"expected to make a temporary folder in {folder}, got a thousand leftovers; remove its .tmp-* folders"
    )


def _remove_leftovers(folder: Path) -> None:
    """Temporary folders and pointer files of processes that are gone, or of this one."""
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or is_another_process(int(match[1])):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _free_name(folder: Path, step: int) -> Path:
    """``step_N``, or ``step_N.1`` and so on where that exists: a full folder cannot be replaced atomically."""
    attempts = [attempt for number, attempt, _ in _steps(folder) if number == step]
    return folder / (f"step_{step}.{max(attempts) + 1}" if attempts else f"step_{step}")


def _steps(folder: Path) -> list[tuple[int, int, Path]]:
    """Step, attempt and path of every step folder, in order."""
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
    """Remove old step folders, and never one that the pointer names."""
    kept = {newest.name, _read_pointer(folder)}
    steps = _steps(folder)
    now = next(entry for entry in steps if entry[2] == newest)
    past = [entry for entry in steps if entry <= now]
    # Of several attempts at one step the last counts.
    newest_of = {number: path for number, _, path in past}
    kept |= {newest_of[number].name for number in sorted(newest_of)[-keep_last:]}
    for _, _, path in past:
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _read_pointer(folder: Path) -> str | None:
    """The step folder's name in the pointer file; ``None`` when there is no such file or it holds no such name."""
    try:
        with (folder / _LAST).open("rb") as file:
            name = file.read(_POINTER_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return None
    return name if _STEP.fullmatch(name) else None


def _advice(folder: Path) -> str:
    """What to do instead of loading ``folder``: the newest other checkpoint that verifies."""
    try:
        others = [path for _, _, path in reversed(_steps(folder.parent)) if path != folder]
    except OSError:
        others = []
    for path in others:
        with contextlib.suppress(CheckpointError), _verified(path):
            return f"the newest other good checkpoint is {path}, load it by name"
    return "there is no other good checkpoint beside it, start anew"


def _load(folder: Path) -> dict[Any, Any]:
    """Verify and read one step folder; errors without advice."""
    with _verified(folder) as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or hostile file makes the reader raise
            raise CheckpointError(
                f"expected tensors and plain values in {folder / _STATE}, got what is refused ({type(error).__name__})"
            ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"expected a dict in {folder / _STATE}, got a {type(state).__name__}")
    _refuse_more_than_stored(state, f"{folder / _STATE}: state", set())
    checked: dict[Any, Any] = _plain(state, f"{folder / _STATE}: state")
    return checked


def _refuse_more_than_stored(value: Any, where: str, seen: set[int], depth: int = 0) -> None:
    """Look for what blows a small file up: a part that is there many times over, a tensor larger than its data."""
    if depth > _DEPTH:
        raise CheckpointError(f"expected at most {_DEPTH} levels, got more at {where[:200]}")
    if isinstance(value, Tensor) and value.layout is torch.strided and value.numel() > 0:
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"expected tensors no larger than what is stored, got {_describe(value)} at {where}")
        identity = value.untyped_storage().data_ptr()
    elif isinstance(value, Mapping | list | tuple) and len(value) > 0:
        identity = id(value)
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            _refuse_more_than_stored(item, f"{where}.{key}", seen, depth + 1)
    else:
        return
    if identity in seen:
        raise CheckpointError(f"expected every part once, got one again at {where[:200]}")
    seen.add(identity)


@contextlib.contextmanager
def _verified(folder: Path) -> Any:
    """The open ``state.pt`` once manifest, size, hash and archive proved right; one handle, so nothing is swapped."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
        if names != [_MANIFEST, _STATE]:
            raise CheckpointError(f"expected {_MANIFEST} and {_STATE} in {folder} and nothing else, got {names[:6]}")
        for name in names:
            if not stat.S_ISREG((folder / name).lstat().st_mode):
                raise CheckpointError(f"expected a plain file at {folder / name}, got a link or something else")
        manifest = _read_manifest(folder / _MANIFEST)
        file = (folder / _STATE).open("rb")
    except OSError as error:
        raise CheckpointError(f"expected a checkpoint at {folder}, got: {error.strerror or error}") from error
    with file:
        _check_file(file, folder / _STATE, manifest)
        yield file


def _check_file(file: IO[bytes], path: Path, manifest: Mapping[str, Any]) -> None:
    """Size, SHA-256, and an archive that does not unpack to more than it is."""
    size = os.fstat(file.fileno()).st_size
    if size != manifest["size"]:
        raise CheckpointError(f"expected {manifest['size']} bytes in {path}, got {size}: it was cut or changed")
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
        raise CheckpointError(f"expected an archive of torch.save at {path}, got something else") from error
    if not stored:
        raise CheckpointError(
            f"expected an uncompressed archive at {path}, got a compressed one, which torch never writes"
        )
    file.seek(0)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest's fields, each of the right type and range."""
    with path.open("rb") as file:
        raw = file.read(_MANIFEST_BYTES + 1)
    if len(raw) > _MANIFEST_BYTES:
        raise CheckpointError(f"expected at most {_MANIFEST_BYTES} bytes in {path}, got more")
    try:
        manifest = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"expected JSON without duplicates in {path}, got something else") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "metarl checkpoint":
        raise CheckpointError(f"expected a manifest of metarl at {path}, got another program's")
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
    """A JSON object, refused when it names a key twice (readers disagree on which one counts)."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a key is there twice")
    return dict(pairs)
