"""The cluster's time, without asking it each time: a clock of this machine that only runs, and how far it is from theirs.

Usages carry their time with them (it is their WRITETIME), the same on every attempt: a retry that lands late, hours
after another was answered, writes the very same row, in the minute that the directory names, and nothing that was
deleted comes back by it. What this machine's wall clock says decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from service.errors import StoreError

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_S = 5.0
FIRST_SAMPLES = 4
RETRY_INTERVAL_S = 1.0
DRIFT_SHIFT = 14
"""Two clocks drift apart by a 2^-14th (61 ppm) at most: what a sound oscillator that NTP looks after stays well below."""
JUMP_US = 500_000
"""Clocks that are apart by more than this have not drifted: one of them stood still, or was set."""
RESOLUTION_US = 1000
"""The cluster tells its time in whole milliseconds."""

# It goes on while the machine sleeps, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What the store takes its times from."""

    async def open(self) -> None:
        """Learn the time. Raises StoreError."""

    async def close(self) -> None:
        """Stop. Safe at any time."""

    def now_us(self) -> int:
        """The cluster's time, or a little later: strictly rising, for what is stored now."""

    def least_us(self) -> int:
        """The cluster's time, or a little earlier: what was taken from :meth:`now_us` below it lies behind everybody."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The cluster's clock is ahead of ours by at least ``low_us`` and at most ``high_us``, as was seen at ``at_us`` (ours)."""

    low_us: int
    high_us: int
    at_us: int

    def later(self, now_us: int) -> Offset:
        """What is left of it after the clocks may have drifted."""
        drift_us = max(0, now_us - self.at_us) >> DRIFT_SHIFT
        return Offset(self.low_us - drift_us, self.high_us + drift_us, now_us)


def sampled(sent_us: int, cluster_ms: int, received_us: int) -> Offset:
    """What one question tells: the cluster looked at its clock between its sending and its answer (both ours)."""
    return Offset(cluster_ms * 1000 - received_us, cluster_ms * 1000 + RESOLUTION_US - sent_us, received_us)


def better(old: Offset, new: Offset) -> Offset:
    """What both leave of it; the new one alone when they contradict each other, by a node's clock that differs or was set."""
    old = old.later(new.at_us)
    low_us, high_us = max(old.low_us, new.low_us), min(old.high_us, new.high_us)
    return Offset(low_us, high_us, new.at_us) if low_us <= high_us else new


def jump_us(old: Offset, new: Offset) -> int:
    """By how much the cluster's clock has gone ahead of ours (or fallen behind, negative) in a way that is no drift."""
    old = old.later(new.at_us)
    if new.low_us > old.high_us + JUMP_US:
        return new.low_us - old.high_us
    if new.high_us < old.low_us - JUMP_US:
        return new.high_us - old.low_us
    return 0


class ClusterClock:
    """Asks the cluster for its time every five seconds and reckons in between."""

    def __init__(self, ask_ms: Callable[[], Awaitable[int]], jumped: Callable[[], object]) -> None:
        """``ask_ms`` asks a node; ``jumped`` hears that times since the last sample may have been wrong."""
        self._ask_ms = ask_ms
        self._jumped = jumped
        self._offset = Offset(0, 0, 0)
        self._last_us = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ClusterClock ±{(self._offset.high_us - self._offset.low_us) / 2000:.1f} ms>"

    async def open(self) -> None:
        if self._task is None:
            self._offset = await self._sample()
            for _ in range(FIRST_SAMPLES - 1):
                self._offset = better(self._offset, await self._sample())
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def now_us(self) -> int:
        offset = self._offset
        local_us = _local_us()
        now_us = local_us + offset.high_us + (local_us - offset.at_us >> DRIFT_SHIFT)
        if now_us <= self._last_us:
            now_us = self._last_us + 1
        self._last_us = now_us
        return now_us

    def least_us(self) -> int:
        offset = self._offset
        local_us = _local_us()
        return local_us + offset.low_us - (local_us - offset.at_us >> DRIFT_SHIFT)

    async def _sample(self) -> Offset:
        sent_us = _local_us()
        cluster_ms = await self._ask_ms()
        return sampled(sent_us, cluster_ms, _local_us())

    async def _run(self) -> None:
        wait_s = SAMPLE_INTERVAL_S
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.0))
            wait_s = RETRY_INTERVAL_S
            with contextlib.suppress(StoreError):
                self._take(await self._sample())
                wait_s = SAMPLE_INTERVAL_S

    def _take(self, new: Offset) -> None:
        jump = jump_us(self._offset, new)
        self._offset = better(self._offset, new)
        if jump:
            log.warning("a clock was set, or stood still", extra={"fields": {"cluster_ahead_s": jump / 1e6}})
            if jump < 0:
                self._last_us = 0
            self._jumped()


def _local_us() -> int:
    return time.clock_gettime_ns(_CLOCK) // 1000
