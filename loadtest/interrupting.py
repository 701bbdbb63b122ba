"""How the commands of this package are ended."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from types import FrameType

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
"""What :func:`interruptible` takes for Ctrl-C; the alarm is one that was put off."""

AGAIN_S = 0.01
PUT_OFF_MAX_S = 3.0
"""Longer than any line of log takes, unless what reads it has stopped."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, and Ctrl-C is heard also by what a shell started in the background.

    One that comes amid a line of log, or amid a fork, which holds the lock of logging, is heard a moment later: an
    exception between the taking of that lock and the ``try`` behind it would leave it taken for ever, and what is raised
    in a callback of a fork is printed and lost.
    """
    put_off_s: float | None = None

    def interrupt(_number: int, frame: FrameType | None) -> None:
        nonlocal put_off_s
        now_s = time.monotonic()
        if _amid_logging(frame) and (put_off_s is None or now_s < put_off_s + PUT_OFF_MAX_S):
            put_off_s = put_off_s or now_s
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
            return
        put_off_s = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in HEARD}
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
