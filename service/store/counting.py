"""How many usages were stored in each minute: sealed once a minute is over and settled, counted place by place until then."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence

from service.errors import StoreError
from service.store.cassandra_bind import bigint
from service.store.cassandra_link import CassandraLink
from service.store.clock import Clock
from service.store.listing import READS_AT_ONCE
from service.store.minutes import Minutes
from service.store.places import (
    DAY_MINUTES,
    MINUTE_US,
    Place,
    count_within,
    day_of,
    is_shared,
    minute_of,
    part_within,
)
from service.store.results import map_bounded
from service.store.times import Times

log = logging.getLogger(__name__)

SEAL_AFTER_US = 10_000_000
"""After a minute's end, so that whoever came to it in time has named itself: more than ``directory.LATE_US``.

However long the store may take (store_timeout_s): who has named itself holds up the seal until it settles, and who has
not by then takes it back.
"""
DOUBT_US = (3 * 60 + 10) * MINUTE_US
"""What has not come to light in so long hardly will: hints are written for three hours (max_hint_window). They may arrive
later, though, and cassandra/README.md says what to do then.
"""
TALLY_US = 24 * 60 * MINUTE_US
"""So long what writers say of themselves is all there, before the first of their rows expires."""
LOOK_INTERVAL_S = 5.0
SPREAD_S = 10.0
"""Instances seal at different times, and look first whether another one has."""
RETRY_S = 60.0
FAILURES_MAX = 3
"""Minutes that could not be sealed wait so long for another attempt; after so many, the whole round waits for the next."""
PLACES_AT_ONCE = 1024
SEAL_READS_AT_ONCE = 1
"""Nobody waits for a seal. After a node has been away each of these reads repairs what it missed, which is work for all of them."""


def _may_seal(now_us: int, minute: int, unsettled_us: int | None) -> bool:
    """Whether the minute can change no more without whoever changes it taking back its seal.

    Doubt is counted from the last one that began and did not settle, as who deletes from an old minute comes late.
    """
    end_us = (minute + 1) * MINUTE_US
    return now_us >= end_us + SEAL_AFTER_US and (unsettled_us is None or now_us >= max(end_us, unsettled_us) + DOUBT_US)


class Counting:
    """Counts, and seals in the background. Raises StoreRefused when a read fails."""

    def __init__(self, link: CassandraLink, clock: Clock, minutes: Minutes, times: Times) -> None:
        self._link = link
        self._clock = clock
        self._minutes = minutes
        self._times = times
        self._task: asyncio.Task[None] | None = None
        self._due_us: dict[int, int] = {}
        self._sealed_before = 0

    def open(self) -> None:
        """Begin to seal."""
        if self._task is None:
            self._task = asyncio.create_task(self._seal_minutes())

    async def close(self) -> None:
        """Stop. Safe at any time."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def count(self, from_us: int, until_us: int) -> Mapping[int, int]:
        """As :meth:`service.store.Store.count_usages` promises."""
        counts: dict[int, int] = {}
        if until_us <= from_us:
            return counts
        async for rows in self._minutes.between(minute_of(from_us), minute_of(until_us - 1)):
            for minute, sealed in rows:
                whole = from_us <= minute * MINUTE_US and (minute + 1) * MINUTE_US <= until_us
                if not whole:
                    count = 0 if sealed == 0 else await self._live(minute, from_us, until_us)
                elif sealed is None:
                    count = await self._count_and_seal(minute)
                else:
                    count = sealed
                if count:
                    counts[minute] = count
        return counts

    async def _count_and_seal(self, minute: int, reads_at_once: int = READS_AT_ONCE) -> int:
        """The whole minute's usages, which are its seal from now on if nothing can change them unseen."""
        skew_us = int(self._link.clock_skew_max_s * 1_000_000)
        # A void that comes while this reads has a later time, and wins.
        began_us = self._clock.least_us() - skew_us
        writers = await self._minutes.writers(minute)
        over_us = began_us - (minute + 1) * MINUTE_US
        told = writers.unsettled_us is None and SEAL_AFTER_US <= over_us < TALLY_US
        count = await self._live(
            minute,
            minute * MINUTE_US,
            (minute + 1) * MINUTE_US,
            writers.created if told else None,
            reads_at_once=reads_at_once,
        )
        if _may_seal(began_us, minute, writers.unsettled_us):
            values = [bigint(count), bigint(day_of(minute)), bigint(minute)]
            error = await self._link.write("seal_minute", [values], self._link.deadline_s(), timestamp_us=began_us)
            if error is not None:
                log.info("a minute was not sealed", extra={"fields": {"minute": minute, "error": str(error)}})
        return count

    async def _live(
        self,
        minute: int,
        from_us: int,
        until_us: int,
        in_blocks: int | None = None,
        *,
        reads_at_once: int = READS_AT_ONCE,
    ) -> int:
        """The minute's usages in [from_us, until_us), by reading its places; not its blocks when it is told what is in them."""
        from_us, until_us = max(from_us, minute * MINUTE_US), min(until_us, (minute + 1) * MINUTE_US)
        total = in_blocks or 0
        seen: set[Place] = set()
        async for chunk in self._chunks(minute, until_us):
            shared = [place for place in dict.fromkeys(place for _, place in chunk) if is_shared(place)]
            new = [place for place in shared if place not in seen and (in_blocks is None or isinstance(place, str))]
            seen.update(new)
            total += sum(await map_bounded(lambda place: self._in_place(place, from_us, until_us), new, reads_at_once))
            alone = [
                (since_us, place)
                for since_us, place in chunk
                if isinstance(place, str) and not is_shared(place) and from_us <= since_us
            ]
            total += sum(await map_bounded(self._alone, [*self._times.parts(alone)], reads_at_once))
        return total

    async def _chunks(self, minute: int, until_us: int) -> AsyncIterator[list[tuple[int, Place]]]:
        chunk: list[tuple[int, Place]] = []
        async for since_us, place in self._minutes.places(minute, minute * MINUTE_US):
            if since_us >= until_us:
                break
            chunk.append((since_us, place))
            if len(chunk) >= PLACES_AT_ONCE:
                yield chunk
                chunk = []
        yield chunk

    async def _in_place(self, place: Place, from_us: int, until_us: int) -> int:
        """Of a block or a shared bucket: by its first and last time, or row by row."""
        try:
            within = part_within(*await self._times.counted(place), from_us, until_us)
        except StoreError:
            within = None  # too much at once: row by row, a page at a time
        if within is not None:
            return within
        total = 0
        async for rows in self._times.of_block(place) if isinstance(place, int) else self._times.of_bucket(place):
            total += count_within([at_us for *_, at_us in rows], from_us, until_us)
        return total

    async def _alone(self, named: Sequence[tuple[int, Place]]) -> int:
        """Of keys that have a bucket of their own: the directory knows their very times, so each row counts once."""
        rows = await self._times.of_keys(dict.fromkeys(place for _, place in named))
        wanted = set(named)
        return sum((at_us, key) in wanted for key, _, at_us in rows)

    async def _seal_minutes(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S * random.uniform(0.8, 1.2))
            try:
                await self._seal_what_is_due()
            except StoreError as error:
                log.debug("minutes are left to be sealed", extra={"fields": {"error": str(error)}})
            except Exception:
                # Whatever it was: what is not sealed is counted live, and the next round is due.
                log.exception("minutes could not be sealed")

    async def _seal_what_is_due(self) -> None:
        """Look through today and yesterday for what is not sealed; older minutes are sealed by whoever counts them."""
        now_us = self._clock.least_us()
        last = minute_of(now_us - SEAL_AFTER_US) - 1
        first = max(self._sealed_before, (day_of(last) - 1) * DAY_MINUTES)
        unsealed: list[int] = []
        async for rows in self._minutes.between(first, last):
            unsealed += [minute for minute, count in rows if count is None]
        self._due_us = {
            minute: self._due_us.get(minute) or now_us + int(random.uniform(0, SPREAD_S) * 1_000_000)
            for minute in unsealed
        }
        self._sealed_before = min(unsealed, default=last + 1)
        failures = 0
        for minute in unsealed:
            if self._due_us[minute] > now_us:
                continue
            try:
                await self._seal_one(minute, now_us)
            except Exception as error:  # whatever it was: it is to hold up no other minute
                self._due_us[minute] = now_us + int(random.uniform(1, 2) * RETRY_S * 1_000_000)
                level = logging.DEBUG if isinstance(error, StoreError) else logging.ERROR
                log.log(level, "a minute could not be sealed", exc_info=error, extra={"fields": {"minute": minute}})
                failures += 1
                if failures >= FAILURES_MAX:
                    return

    async def _seal_one(self, minute: int, now_us: int) -> None:
        [(_, count)] = await self._minutes.of_day(day_of(minute), minute, minute)
        writers = await self._minutes.writers(minute)
        if count is None and _may_seal(now_us, minute, writers.unsettled_us):
            await self._count_and_seal(minute, SEAL_READS_AT_ONCE)
