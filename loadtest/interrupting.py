"""How the commands of this package are ended."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

AGAIN_S = 0.01


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, and Ctrl-C is heard also by what a shell started in the background.

    One that comes amid a line of log, or amid a fork, which holds the lock of logging, is heard a moment later: an
    exception between the taking of that lock and the ``try`` behind it would leave it taken for ever, and what is raised
    in a callback of a fork is printed and lost.
    """

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if _amid_logging(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _amid_logging(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == logging.__file__:
            return True
        frame = frame.f_back
    return False
