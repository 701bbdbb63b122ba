"""Group commit: many requests, one write, and each gets its own answer.

The group in flight is the clock. While the store is busy, items wait in a bounded
queue; as soon as it is free, whatever waits becomes the next group. An idle service
answers as fast as one unbatched write. A busy one gathers: callers that were just
answered come back together, and the next group waits a moment for most of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar
from typing import Protocol as Interface

from service.errors import Closing, DeadlineExceeded, QueueFull, StoreError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome_contra = TypeVar("Outcome_contra", contravariant=True)

RATE_WINDOW_S = 0.25
"""How many seconds of the store's work the measured rate remembers: some tens of groups."""

FAILING_S = 5.0
"""A group that failed so recently stands for the store as it is now."""


GATHER_COMPANY_MIN = 8
"""With fewer items about at once, a larger group would save less than the wait costs."""

GATHER_SHARE = 0.9
"""Of the items that were about at once, so many make the next group; the last stragglers are not waited for."""

GATHER_FLIGHTS = 2.0
"""The wait is no longer than so many flights of the group before: where the store is quick, so is the wait."""

COMPANY_DECAY = 0.9
"""What is left, after a group, of the largest number of items that were about at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one group commit; see the settings of the same names."""

    group_size_max: int
    group_bytes_max: int
    groups_in_flight_max: int
    queue_size_max: int
    queue_bytes_max: int
    queue_wait_max_s: float
    gather_max_s: float = 0.0


class Sink(Interface[Outcome_contra]):
    """Where an item's result goes: an asyncio.Future, or what needs no future's detour over the event loop."""

    def cancelled(self) -> bool:
        """Whether the caller left before the item was sent: then it is taken out."""

    def done(self) -> bool:
        """Whether nobody waits for the result."""

    def set_result(self, result: Outcome_contra) -> object:
        """The item's own result."""

    def set_exception(self, error: BaseException) -> object:
        """The StoreError that befell the item."""


class Entry(NamedTuple, Generic[Item, Result]):
    """An item in the queue: its size in bytes, when it came, and where its result goes."""

    item: Item
    size: int
    entered_s: float
    sink: Sink[Result]


def expired_count(queue: deque[Entry[Item, Result]], now_s: float, limits: Limits) -> int:
    """How many entries at the head have waited too long. The queue is in order of arrival."""
    count = 0
    for entry in queue:
        if now_s < entry.entered_s + limits.queue_wait_max_s:
            break
        count += 1
    return count


def group_count(queue: deque[Entry[Item, Result]], limits: Limits) -> int:
    """How many entries at the head make the next group: within both bounds, but at least one if there is one."""
    count = bytes_ = 0
    for entry in queue:
        bytes_ += entry.size
        if count >= limits.group_size_max or (count and bytes_ > limits.group_bytes_max):
            break
        count += 1
    return count


def gather_count(company: float, limits: Limits) -> int:
    """How many items the next group should have, when ``company`` were about at once; 0 is whatever waits."""
    return min(int(company * GATHER_SHARE), limits.group_size_max) if company >= GATHER_COMPANY_MIN else 0


def gather_wait_s(flight_s: float, limits: Limits) -> float:
    """How long to wait for them, after a flight of so many seconds."""
    return min(flight_s * GATHER_FLIGHTS, limits.gather_max_s, limits.queue_wait_max_s / 4)


class GroupCommit(Generic[Item, Result]):
    """Collects items while a group is in flight and commits them as the next group.

    ``commit`` takes the items of a group and returns a result, or a StoreError, for
    each, in order. It has a time limit of its own. Not thread-safe: one event loop.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result | StoreError]]],
        limits: Limits,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self.name = name
        self.limits = limits
        self.waiting_bytes = 0
        self.in_flight = 0
        self.in_flight_items = 0
        self.rate_per_s = 0.0
        self._commit = commit
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Entry[Item, Result]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._launch_scheduled = False
        self._gathering: asyncio.TimerHandle | None = None
        self._gather_count = 0
        self._company = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._written_at_s = self._loop.time()
        self._failed_at_s = -math.inf
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return (
            f"<GroupCommit {self.name}{' closing' if self._closing else ''}: "
            f"{self.waiting} waiting ({self.waiting_bytes} B), "
            f"{self.in_flight} in flight ({self.in_flight_items} items), {self.rate_per_s:.0f}/s>"
        )

    @property
    def waiting(self) -> int:
        """Items in the queue that no group has taken yet."""
        return len(self._queue)

    def submit(self, item: Item, size: int) -> asyncio.Future[Result]:
        """Queue an item of ``size`` bytes; the future carries its own result or StoreError.

        Raises QueueFull or Closing at once: then the item was never queued. A caller that
        cancels the future before its group is formed takes the item out; after that what
        was sent is sent.
        """
        future: asyncio.Future[Result] = self._loop.create_future()
        self.submit_to(future, item, size)
        return future

    def submit_to(self, sink: Sink[Result], item: Item, size: int) -> None:
        """As :meth:`submit`, with a sink of the caller's own in place of a future."""
        if self._closing:
            raise Closing(f"{self.name} is closing")
        limits = self.limits
        queue = self._queue
        if queue and (len(queue) >= limits.queue_size_max or self.waiting_bytes + size > limits.queue_bytes_max):
            raise QueueFull(f"{self.name}: {self.waiting} items of {self.waiting_bytes} bytes wait")
        now_s = self._loop.time()
        queue.append(Entry(item, size, now_s, sink))
        self.waiting_bytes += size
        if self.in_flight < limits.groups_in_flight_max:
            gathered = self._gathering is None or len(queue) >= self._gather_count
            if not self._launch_scheduled and (gathered or self.waiting_bytes >= limits.group_bytes_max):
                # Not at once: the requests that this turn of the loop still parses share the group.
                self._launch_scheduled = True
                self._idle.clear()
                self._loop.call_soon(self._launch)
        elif self._expiry is None:
            self._expiry = self._loop.call_at(now_s + limits.queue_wait_max_s, self._expire)

    def expected_wait_s(self) -> float:
        """How long a new item would wait, from what is queued and how fast the store takes it.

        While the store takes nothing: half as long again as it has been silent, so that
        callers come back less often the longer it lasts.
        """
        now_s = self._loop.time()
        if now_s - self._failed_at_s < FAILING_S:
            return (now_s - self._written_at_s) / 2
        return self.waiting / max(self.rate_per_s * self.limits.groups_in_flight_max, 1.0)

    async def close(self, timeout_s: float) -> None:
        """Take nothing new and drain; what still waits after ``timeout_s`` is refused, never dropped in silence."""
        self._closing = True
        if self._gathering is not None:
            self._launch()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            log.warning("group commit did not drain in time", extra={"fields": {"group": repr(self)}})
            for entry in self._pop(len(self._queue)):
                _settle(entry.sink, Closing(f"{self.name} closed before this item was sent"))
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _launch(self) -> None:
        self._launch_scheduled = False
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._expire()
        while self._queue and self.in_flight < self.limits.groups_in_flight_max:
            group = [entry for entry in self._pop(group_count(self._queue, self.limits)) if not entry.sink.cancelled()]
            if group:
                self.in_flight += 1
                self.in_flight_items += len(group)
                task = self._loop.create_task(self._flush(group))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if not self._queue and not self.in_flight:
            self._idle.set()

    async def _flush(self, group: list[Entry[Item, Result]]) -> None:
        started_s = time.perf_counter()  # the loop's own clock may stand still for a millisecond
        results: Sequence[Result | StoreError]
        try:
            results = await self._commit([entry.item for entry in group])
            if len(results) != len(group):
                raise RuntimeError(f"{len(results)} results for a group of {len(group)}")
        except BaseException as error:
            # Not a StoreError per item but a bug or a cancelled task: what the store did is not known.
            if not isinstance(error, asyncio.CancelledError):
                log.exception("group commit failed", extra={"fields": {"group": repr(self)}})
            results = [StoreError(f"{self.name}: {error!r}")] * len(group)
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise
        finally:
            self.in_flight -= 1
            self.in_flight_items -= len(group)
            written = 0
            for entry, result in zip(group, results, strict=True):
                written += not isinstance(result, StoreError)
                _settle(entry.sink, result)
            seconds = time.perf_counter() - started_s
            self._rate(written, seconds)
            self._observe(self.name, len(group), seconds)
            self._company = max(len(group) + len(self._queue), self._company * COMPANY_DECAY)
            if not (written and self._gathers(seconds)):
                self._launch()

    def _gathers(self, flight_s: float) -> bool:
        """Whether the next group waits a moment for those who were just answered."""
        wait_s = gather_wait_s(flight_s, self.limits)
        self._gather_count = gather_count(self._company, self.limits)
        full = len(self._queue) >= self._gather_count or self.waiting_bytes >= self.limits.group_bytes_max
        if wait_s <= 0 or self._closing or self._gathering or full:
            return False
        if self._queue and self._loop.time() + wait_s >= self._queue[0].entered_s + self.limits.queue_wait_max_s:
            return False  # the first would be refused although the store is free
        self._gathering = self._loop.call_later(wait_s, self._launch)
        self._idle.clear()
        return True

    def _rate(self, written: int, seconds: float) -> None:
        weight = 1 - math.exp(-seconds / RATE_WINDOW_S)
        self.rate_per_s += (written / max(seconds, 1e-6) - self.rate_per_s) * weight
        if written:
            self._written_at_s = self._loop.time()
            self._failed_at_s = -math.inf
        else:
            self._failed_at_s = self._loop.time()

    def _expire(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        now_s = self._loop.time()
        for entry in self._pop(expired_count(self._queue, now_s, self.limits)):
            _settle(entry.sink, DeadlineExceeded(f"{self.name}: waited {now_s - entry.entered_s:.2f} s"))
        if self._queue:
            due_s = self._queue[0].entered_s + self.limits.queue_wait_max_s
            self._expiry = self._loop.call_at(due_s, self._expire)

    def _pop(self, count: int) -> list[Entry[Item, Result]]:
        entries = [self._queue.popleft() for _ in range(count)]
        self.waiting_bytes -= sum(entry.size for entry in entries)
        return entries


def _settle(sink: Sink[Result], result: Result | StoreError) -> None:
    try:
        if sink.done():
            return  # the caller left
        if isinstance(result, StoreError):
            sink.set_exception(result)
        else:
            sink.set_result(result)
    except Exception:
        # One caller's trouble must not keep the results of the others.
        log.exception("a result could not be handed out")
