"""Being told to stop, by ctrl-C or by a scheduler: nothing that can be saved is lost, and nobody is left at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    """Notes the first SIGINT or SIGTERM instead of breaking off; a second one of the kind does what it always did.

    Only the main thread can listen to signals: in another one nothing changes.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, before[number])

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in SIGNALS:
            signal.signal(number, before[number])


@contextmanager
def stoppable() -> Iterator[None]:
    """A SIGTERM ends what is inside as ctrl-C does, so that it can clean up; in the main thread only.

    Raises:
        Stopped: inside, when the signal comes.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_ctrl_c_to_the_parent() -> None:
    """For worker processes, which the terminal interrupts, too: the one that started them ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
