"""The directory of usages: which places took usages in which minute, written before a usage is acknowledged.

A usage of a minute is answered only once four rows are there: its day, its minute, the writer at work on that minute
and its place. Most puts find that this instance has written all of them already, ahead of need.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.errors import StoreError, StoreRefused
from service.store.cassandra_bind import bigint
from service.store.cassandra_link import CassandraLink
from service.store.clock import Clock
from service.store.grouping import split
from service.store.places import MINUTE_US, SPAN_US, Place, day_of, is_shared, minute_of, name_of

log = logging.getLogger(__name__)

SPANS_PER_MINUTE = MINUTE_US // SPAN_US
AHEAD_US = SPAN_US // 2
"""So long before a second ends, the places at work are named for the next one."""
BLOCKS_AHEAD = 1
BLOCKS_AHEAD_BUSY = 8
"""Blocks that are named before ids reach them, when a block lasts less than BUSY_US."""
BUSY_US = SPAN_US
LATE_US = 2_000_000
"""Who comes to a minute so long after its end may find it sealed, and voids the seal. Less than ``counting.SEAL_AFTER_US``."""
SETTLE_AFTER_US = 1_000_000
SETTLE_INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 1.0
LATELY_S = 90.0
"""Longer than anything is under way, and than it takes to find out that a clock was wrong. Of a clock that stands still with us."""
PLACES_MAX = 10_000
"""Shared places that are remembered for one second; beyond that they are written again."""
BATCH_BYTES_MAX = 1 << 20


@dataclass(slots=True, eq=False)
class Work:
    """What this instance does in a minute: under a writer's name of its own."""

    minute: int
    writer: bytes = field(default_factory=lambda: uuid.uuid4().bytes)
    in_flight: int = 0
    created: int | None = 0
    """Usages without a key that were stored by it; None of a DELETE, after which the minute has to be read."""
    doubtful: bool = False
    """Something of it may still come to light: it is never settled."""


class Directory:
    """Registers places. One event loop, no threads."""

    def __init__(self, link: CassandraLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._known: dict[int, dict[Place, int]] = {}
        self._work: dict[int, Work] = {}
        self._opening: dict[int, asyncio.Task[StoreError | None]] = {}
        self._unsettled: list[Work] = []
        self._doubted: set[int] = set()
        self._lately: dict[int, float] = {}
        self._days: set[int] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ahead_us = 0
        self._block_ahead = 0
        self._block_at_us = 0
        self._block = -1
        self._buckets: dict[str, int] = {}
        self._settler: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to settle minutes that are over."""
        if self._settler is None:
            self._settler = asyncio.create_task(self._settle_minutes())

    async def close(self) -> None:
        """Settle what can be settled within a second or two; the rest is counted anew by whoever asks."""
        tasks = [*self._tasks, *([self._settler] if self._settler else [])]
        self._settler = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if opening := [*self._opening.values()]:
            # One that ended later would be at work in a minute that nobody settles.
            await asyncio.wait(opening, timeout=CLOSE_TIMEOUT_S)
            for task in opening:
                task.cancel()
        works = [work for work in (*self._work.values(), *self._unsettled) if not work.in_flight and not work.doubtful]
        self._work, self._known, self._unsettled, self._buckets = {}, {}, [], {}
        self._ahead_us = self._block_ahead = 0
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                deadline_s = self._link.deadline_s()
                settling = (self.settle(work, deadline_s) for work in works)
                await asyncio.gather(*settling, self._unseal_doubted())
        except TimeoutError:
            log.info("minutes are left to be counted anew", extra={"fields": {"minutes": len(works)}})

    def enter(self, place: Place, at_us: int) -> Work | None:
        """Begin to store a usage of ``at_us`` in a place that is known already; None when :meth:`register` has to come first."""
        span = at_us // SPAN_US
        known = self._known.get(span)
        if known is None:
            return None
        since_us = known.get(place)
        if since_us is None or since_us > at_us:
            return None
        work = self._work.get(span // SPANS_PER_MINUTE)
        if work is not None:
            work.in_flight += 1
        return work

    def leave(self, work: Work, *, certain: bool, created: int = 0) -> None:
        """The store's answers are there; not certain when one of them was neither yes nor no.

        ``created`` is how many usages without a key were stored: each has an id of its own, so their sum is their number.
        """
        work.in_flight -= 1
        work.created = (work.created or 0) + created
        if not certain:
            work.doubtful = True

    async def register(self, places: Sequence[Place], at_us: int, deadline_s: float) -> Work | StoreRefused:
        """Name the places for what is stored at ``at_us``, and enter. StoreRefused when that fails: nothing was stored."""
        minute = minute_of(at_us)
        while (work := self._work.get(minute)) is None:
            error = await self._open(minute, deadline_s)
            if error is not None:
                return StoreRefused(f"the directory did not take the minute: {error}")
        work.in_flight += 1
        known = self._known.get(at_us // SPAN_US, {})
        missing = [place for place in places if known.get(place, at_us + 1) > at_us]
        error = await self._name(missing, at_us, deadline_s)
        if error is not None:
            work.in_flight -= 1
            return StoreRefused(f"the directory did not take the place: {error}")
        return work

    def blocks_ahead(self, block: int, at_us: int) -> None:
        """Name what the next usages will need, in the background: called by each put, and nearly always does nothing."""
        self._block = block
        if at_us >= self._ahead_us:
            self._span_ahead(at_us)
        if block >= self._block_ahead or block < self._block_ahead - 2 * BLOCKS_AHEAD_BUSY:
            count = BLOCKS_AHEAD_BUSY if at_us - self._block_at_us < BUSY_US else BLOCKS_AHEAD
            self._block_at_us, self._block_ahead = at_us, block + count
            blocks = range(block + 1, block + count + 1)
            self._spawn(self._prepare(blocks, at_us))
            left_us = SPAN_US - at_us % SPAN_US
            if left_us <= AHEAD_US:
                self._spawn(self._prepare(blocks, at_us + left_us))

    def buckets_ahead(self, buckets: Iterable[str], at_us: int) -> None:
        """The same for usages with keys: buckets that several keys share will be at work in the next second too."""
        self._buckets |= dict.fromkeys(filter(is_shared, buckets), at_us)
        if at_us >= self._ahead_us:
            self._span_ahead(at_us)

    def _span_ahead(self, at_us: int) -> None:
        start_us = at_us - at_us % SPAN_US + SPAN_US
        if start_us - at_us > AHEAD_US:
            self._ahead_us = start_us - AHEAD_US
            return
        self._ahead_us = start_us + SPAN_US - AHEAD_US
        self._buckets = {name: used_us for name, used_us in self._buckets.items() if used_us > at_us - SPAN_US}
        blocks: Iterable[int] = ()
        if self._block in self._known.get(at_us // SPAN_US, ()):
            blocks = range(self._block, min(max(self._block, self._block_ahead), self._block + BLOCKS_AHEAD_BUSY) + 1)
        self._spawn(self._prepare([*blocks, *self._buckets], start_us))

    def doubt(self) -> None:
        """Times of late may have been wrong, and others may have sealed what this instance was at work on as if it were
        over: its minutes are unsealed, in the background, and not sealed before nothing can come any more.
        """
        # What is forgotten here is never settled.
        self._doubted |= {*self._lately, *self._work, *(work.minute for work in self._unsettled)}
        self._work, self._known, self._unsettled = {}, {}, []
        self._ahead_us = 0

    async def reopen(self, minute: int, deadline_s: float) -> Work | StoreError:
        """Begin to change what is stored in a minute that may be sealed: it is unsealed until :meth:`settle`."""
        work = Work(minute, created=None)
        error = await self._begin(work, deadline_s)
        if error is None:
            error = await self._void(minute, deadline_s)
        return work if error is None else error

    async def settle(self, work: Work, deadline_s: float) -> bool:
        """Say that nothing of it is under way any more; whether that was taken."""
        key = (bigint(work.minute), work.writer)
        name, values = (
            ("settle_deleter", key) if work.created is None else ("settle_writer", (bigint(work.created), *key))
        )
        self._lately[work.minute] = asyncio.get_running_loop().time()
        return await self._link.write(name, [values], deadline_s, timestamp_us=self._clock.now_us()) is None

    async def finish(self, work: Work, deadline_s: float) -> None:
        """Settle it, later and in the background where that is not taken by the deadline."""
        if not await self.settle(work, deadline_s):
            self._unsettled.append(work)

    async def _begin(self, work: Work, deadline_s: float) -> StoreError | None:
        """Say who is at work, at a time of the cluster's clock as all others are: how long it may be doubted goes by it."""
        self._lately[work.minute] = asyncio.get_running_loop().time()
        values = [bigint(work.minute), work.writer]
        return await self._link.write("insert_writer", [values], deadline_s, timestamp_us=self._clock.now_us())

    async def _prepare(self, places: Sequence[Place], at_us: int) -> None:
        result = await self.register(places, at_us, self._link.deadline_s())
        if isinstance(result, Work):
            self.leave(result, certain=True)

    async def _open(self, minute: int, deadline_s: float) -> StoreError | None:
        """Day, minute and writer; those who ask at once share it, and each waits until its own deadline."""
        task = self._opening.get(minute)
        if task is None or task.done():
            # Not among those that close() cancels at once: a put may wait for it.
            task = self._opening[minute] = asyncio.create_task(self._open_once(minute))
            task.add_done_callback(partial(self._opened, minute))
        await asyncio.wait([task], timeout=max(0.0, deadline_s - asyncio.get_running_loop().time()))
        return task.result() if task.done() else StoreRefused("no time was left to wait for it")

    def _opened(self, minute: int, task: asyncio.Task[StoreError | None]) -> None:
        if self._opening.get(minute) is task:
            del self._opening[minute]

    async def _open_once(self, minute: int) -> StoreError | None:
        deadline_s = self._link.deadline_s()
        work = Work(minute)
        day = day_of(minute)
        writes = [
            self._begin(work, deadline_s),
            self._link.write("insert_minute", [[bigint(day), bigint(minute)]], deadline_s),
        ]
        if day not in self._days:
            writes.append(self._link.write("insert_day", [[bigint(day)]], deadline_s))
        for error in await asyncio.gather(*writes):
            if error is not None:
                return error
        if self._clock.now_us() > (minute + 1) * MINUTE_US + LATE_US:
            error = await self._void(minute, deadline_s)
            if error is not None:
                return error
        self._days = {day, *sorted(self._days)[-3:]}
        self._work[minute] = work
        return None

    async def _void(self, minute: int, deadline_s: float) -> StoreError | None:
        """Take back a seal whose reading may have begun before now, wherever that was."""
        skew_us = int(self._link.clock_skew_max_s * 1_000_000)
        values = [bigint(day_of(minute)), bigint(minute)]
        at_us = self._clock.now_us() + 2 * skew_us
        return await self._link.write("void_minute", [values], deadline_s, timestamp_us=at_us)

    async def _name(self, places: Sequence[Place], at_us: int, deadline_s: float) -> StoreError | None:
        """Rows of the directory, all of one minute, and so one statement unless they are very many."""
        since, minute = bigint(at_us), bigint(minute_of(at_us))
        names = [name_of(place).encode() for place in places]
        for part in split(range(len(names)), [len(name) for name in names], BATCH_BYTES_MAX):
            rows = [(since, names[index]) for index in part]
            error = await self._link.write("insert_place", rows, deadline_s, shared=[minute])
            if error is not None:
                return error
        known = self._known.setdefault(at_us // SPAN_US, {})
        if len(known) >= PLACES_MAX:
            known.clear()
        for place in places:
            if is_shared(place):
                known[place] = min(known.get(place, at_us), at_us)
        return None

    async def _settle_minutes(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_INTERVAL_S)
            try:
                await self._settle_what_is_over()
            except Exception:
                # Whatever it was: minutes that nobody settles are only counted anew, and the next round is due.
                log.exception("minutes could not be settled")

    async def _settle_what_is_over(self) -> None:
        now_us = self._clock.now_us()
        for span in [span for span in self._known if (span + 1) * SPAN_US + SETTLE_AFTER_US < now_us]:
            del self._known[span]
        for work in [*self._work.values()]:
            if work.minute < minute_of(now_us - SETTLE_AFTER_US) and not work.in_flight:
                del self._work[work.minute]
                if not work.doubtful:
                    self._unsettled.append(work)
        unsettled = self._unsettled
        for work in [*unsettled]:  # others may be added meanwhile
            if not await self.settle(work, self._link.deadline_s()):
                break
            unsettled.remove(work)
        lately_s = asyncio.get_running_loop().time() - LATELY_S
        self._lately = {minute: at_s for minute, at_s in self._lately.items() if at_s > lately_s}
        await self._unseal_doubted()

    async def _unseal_doubted(self) -> None:
        for minute in [*self._doubted]:
            if not isinstance(await self.reopen(minute, self._link.deadline_s()), Work):
                return
            self._doubted.discard(minute)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
