"""Stop cleanly on ctrl-C or a scheduler's signal: save what can be saved and leave no worker process behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], None]


class Stopped(KeyboardInterrupt):
    """Work has stopped on request, at a point where it can be resumed; ``signal`` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@dataclass
class Request:
    """A request to stop, true once a signal has arrived; ``number`` is that of the signal."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def obey(self) -> None:
        """Stop if that has been requested.

        Raises:
            Stopped: stopping has been requested.
        """
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Record the first SIGINT, SIGTERM or SIGHUP in a `Request` instead of being interrupted by it.

    A second one has its usual effect. A signal that was ignored before stays ignored, such as ctrl-C by a background
    job of a shell.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, before[number])

    with _handled(SIGNALS, note) as before:
        yield request


@contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM raise an exception in the body of the ``with``, as ctrl-C does, so that it can clean up.

    A SIGTERM that was ignored before stays ignored.

    Raises:
        Stopped: in the body, when the signal arrives.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled((signal.SIGTERM,), stop):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[dict[int, Any]]:
    """Install a handler for signals that are not ignored, and yield the former handlers, restored at the end.

    Does nothing outside of the main thread, the only one that can handle signals.
    """
    listening = threading.current_thread() is threading.main_thread()
    found = {number: signal.getsignal(number) for number in numbers if listening}
    before: dict[int, Any] = {number: one for number, one in found.items() if one != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, one in before.items():
            signal.signal(number, one)


def follow_the_parent() -> None:
    """Make a worker process end with its parent."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
