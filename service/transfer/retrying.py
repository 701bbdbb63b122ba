"""When to try again, and when to give up."""

from __future__ import annotations

import random
from collections.abc import Callable

from service.transfer.errors import Broken, GaveUp

DELAY_MIN_S = 0.5
DELAY_MAX_S = 30.0
SOON_S = 0.1


class Patience:
    """How long to wait after each failure: twice as long as after the one before, until something has been done."""

    def __init__(
        self, give_up_s: float, clock: Callable[[], float], jitter: Callable[[], float] = random.random
    ) -> None:
        self._give_up_s = give_up_s
        self._clock = clock
        self._jitter = jitter
        self._delay_s = DELAY_MIN_S
        self._failing_since_s: float | None = None

    def worked(self) -> None:
        """Something was done: patience is as it was at the beginning."""
        self._delay_s = DELAY_MIN_S
        self._failing_since_s = None

    def delay_s(self, error: Broken) -> float:
        """Seconds to wait before the next attempt. Raises GaveUp when nothing was done for ``give_up_s``."""
        now_s = self._clock()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if (failing_s := now_s - self._failing_since_s) >= self._give_up_s:
            raise GaveUp(f"nothing could be done for {failing_s:.0f} s; the last reason: {error}")
        if error.soon:
            return SOON_S * (1 + self._jitter())
        delay_s = max(self._delay_s, error.retry_after_s) * (1 + self._jitter() / 2)
        self._delay_s = min(self._delay_s * 2, DELAY_MAX_S)
        return delay_s
