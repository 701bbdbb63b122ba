"""The time that the SQLite file's usages get, and a time that none of them is ahead of."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# It goes on while the machine sleeps, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def wall_us() -> int:
    """The system's clock, µs since the epoch. It may be set back."""
    return time.time_ns() // 1000


def running_us() -> int:
    """µs on a clock that only runs, from wherever it began."""
    return time.clock_gettime_ns(_CLOCK) // 1000


class StoreClock:
    """A clock that may be set, and the latest that it has shown. For any thread.

    Usages get the time that it shows, so that one that was ahead for a moment spoils no others. A reading up to now goes up
    to the latest, as if the clock had run on from there: so it misses nothing that was stored before the clock was set
    back, by this process or by another on the same machine.
    """

    def __init__(self, wall: Callable[[], int] = wall_us, running: Callable[[], int] = running_us) -> None:
        self._wall = wall
        self._running = running
        self._lock = threading.Lock()
        self._ahead_us = wall() - running()

    def __repr__(self) -> str:
        return f"<StoreClock: {self._ahead_us} µs ahead of the running one>"

    def stored(self, us: int) -> None:
        """Something has been stored at this time."""
        with self._lock:
            self._ahead_us = max(self._ahead_us, us - self._running())

    def write_us(self) -> int:
        """The time for what is stored now."""
        us = self._wall()
        self.stored(us)
        return us

    def latest_us(self) -> int:
        """Not before anything that was stored."""
        self.stored(self._wall())
        return self._ahead_us + self._running()
