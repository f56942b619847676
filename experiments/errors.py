"""Errors that a user can fix: scripts report them as one line and an exit code, never as a traceback."""

from __future__ import annotations

import functools
import os
import reprlib
import select
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from experiments.stopping import Stopped
from metarl import DivergedError, NonFiniteError, TrainingTaskError
from metarl.checkpoints import CheckpointError

USAGE, DIVERGED, IO = 2, 4, 6


class InputError(ValueError):
    """The user's input cannot be used. The message says what was expected, what was given and what to do."""


def refuse_below_one(**counts: int) -> None:
    """Check that every count, named by the field whose flag sets it, is at least 1.

    Raises:
        InputError: one is smaller; the message names only the first.
    """
    for field, count in counts.items():
        if count < 1:
            raise InputError(f"expected --{field.replace('_', '-')} >= 1, got {count}")


def describe(error: ValidationError) -> str:
    """Return the first problem of an invalid configuration in one line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "configuration"
    shown = reprlib.repr(first["input"])  # abbreviated, since the input may be a whole file
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{field}: {first['msg'].removeprefix('Value error, ')}, got {shown}{more}; see --help"


def one_line_warnings() -> None:
    """Make this process print a warning in one line, as errors are, without the place in the code."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"


def script(main: Callable[[list[str]], None]) -> Callable[[list[str]], int]:
    """Decorate ``main(argv)``: expected failures become one line on stderr and an exit code, and warnings one line."""

    @functools.wraps(main)
    def run(argv: list[str]) -> int:
        one_line_warnings()
        try:
            main(argv)
        except ValidationError as error:
            return _fail(describe(error), USAGE)
        except (InputError, CheckpointError, TrainingTaskError) as error:
            return _fail(str(error), USAGE)
        except (DivergedError, NonFiniteError) as error:
            return _fail(str(error), DIVERGED)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_has_left():
                return 128 + signal.SIGPIPE
            return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), IO)
        except KeyboardInterrupt as error:
            number = error.signal if isinstance(error, Stopped) else signal.SIGINT
            return _fail(
                "interrupted; saved work is kept: continue a run with --resume, anything else with the same command",
                128 + number,
            )
        return 0

    return run


def _reader_has_left() -> bool:
    """Return whether the reader of stdout has closed it, as ``| head`` does; if so, discard all further output."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # stdout is not a file
        return False
    look = select.poll()
    look.register(output, 0)
    left = any(event & select.POLLERR for _, event in look.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return left


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def existing(path: Path, what: str) -> Path:
    """Return the path if it exists.

    Raises:
        InputError: it does not exist; ``what`` names the kind of path in the message.
    """
    if not path.exists():
        raise InputError(f"{path}: no such {what}; check the path")
    return path
