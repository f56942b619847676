"""Being told to stop, by ctrl-C or by a scheduler: nothing that can be saved is lost, and nobody is left at work."""

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
    """Somebody asked, and work has stopped where it can go on later; ``signal`` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@dataclass
class Request:
    """Whether to stop, and by which signal."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def obey(self) -> None:
        """Stop, if asked to.

        Raises:
            Stopped: always then.
        """
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_requests() -> Iterator[Request]:
    """Notes the first SIGINT, SIGTERM or SIGHUP instead of breaking off; a second one does what it always did.

    What is ignored stays ignored, such as ctrl-C by a job in the background of a shell.
    """
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, before[number])

    with _handled(SIGNALS, note) as before:
        yield request


@contextmanager
def stoppable() -> Iterator[None]:
    """A SIGTERM ends what is inside as ctrl-C does, so that it can clean up; unless it is ignored.

    Raises:
        Stopped: inside, when the signal comes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled((signal.SIGTERM,), stop):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Handler) -> Iterator[dict[int, Any]]:
    """The handler in the place of those that it yields; only the main thread can have any."""
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
    """For worker processes: ctrl-C, which the terminal sends them, too, is the parent's to hear; they end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
