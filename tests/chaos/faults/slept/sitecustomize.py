"""Read by Python as it starts (see faked_clock.py): ``time.sleep`` waits for a lock with a time limit, which the steady clock keeps."""

from __future__ import annotations

import _thread
import time
from typing import SupportsIndex


def sleep(seconds: float | SupportsIndex) -> None:
    """As time.sleep."""
    length_s = float(seconds)
    if length_s < 0:
        raise ValueError("sleep length must be non-negative")
    never = _thread.allocate_lock()
    never.acquire()
    never.acquire(timeout=length_s)


time.sleep = sleep
