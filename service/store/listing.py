"""Usages in the order of their arrival, out of the directory: no scan, and no more in memory than what is at work at once.

The directory names the places of a minute in the order in which they took their first usage, so that places are opened
one after the other and merged: what lies before the first usage of the next place can be given out.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from service.store import ListedUsage, Position
from service.store.cassandra_bind import bigint, list_of
from service.store.cassandra_link import CassandraLink
from service.store.grouping import group_by, split
from service.store.minutes import Minutes
from service.store.places import MINUTE_US, Place, is_shared, minute_of, span_start_us
from service.store.results import map_bounded
from service.store.times import KEYS_PER_READ, Times

READS_AT_ONCE = 8
TEXT_READS_AT_ONCE = 4
OPEN_MIN, OPEN_MAX = 4, 64
"""Places that are opened at a time: few for a page, more and more for an export."""
HELD_MAX = 4096
"""Positions held of one place; a larger one is read anew from there on."""
REMEMBERED_MAX = 10_000
ROWS_PER_READ_MAX = 256
TEXT_BYTES_MAX = 16 << 20
"""What one read of texts may come to, were all of the largest size; a page that comes to more is given out as it is."""

Found: TypeAlias = tuple[Position, Place]


@dataclass(slots=True)
class _Source:
    """Positions of a place that are still to be given out, in order; ``more`` when there are others behind them."""

    place: Place
    positions: list[Position]
    more: bool
    at: int = field(default=0)


class Listing:
    """Reads usages by time. Raises StoreRefused when a read fails."""

    def __init__(self, link: CassandraLink, minutes: Minutes, times: Times, usage_bytes_max: int) -> None:
        self._link = link
        self._minutes = minutes
        self._times = times
        self._rows_per_read = rows_per_read(usage_bytes_max)

    async def pages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        """As :meth:`service.store.Store.read_usages` promises."""
        found: list[Found] = []
        last = minute_of(until_us - 1)
        async for day_minutes in self._minutes.between(minute_of(max(after[0], 0)), last):
            for minute, count in day_minutes:
                if count == 0:
                    continue
                async for each in self._in_minute(minute, after, until_us):
                    found.append(each)
                    if len(found) >= page:
                        async for usages in self._with_texts(found):
                            yield usages
                        found = []
        async for usages in self._with_texts(found):
            yield usages

    async def _in_minute(self, minute: int, after: Position, until_us: int) -> AsyncIterator[Found]:
        """Every usage of the minute behind ``after``, in order."""
        until_us = min(until_us, (minute + 1) * MINUTE_US)
        opened: set[Place] = set()
        heap: list[tuple[Position, int, _Source]] = []
        serial = 0
        last = after
        async for places, horizon_us in self._chunks(
            minute, max(minute * MINUTE_US, span_start_us(after[0])), until_us
        ):
            new = [place for place in dict.fromkeys(places) if place not in opened]
            if len(opened) > REMEMBERED_MAX:
                opened.clear()
            opened.update(filter(is_shared, new))
            for source in await self._open(new, last, minute * MINUTE_US, until_us):
                serial += 1
                heapq.heappush(heap, (source.positions[0], serial, source))
            while heap and heap[0][0][0] < horizon_us:
                position, number, source = heap[0]
                following = await self._next(source, minute * MINUTE_US, until_us)
                if following is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (following, number, source))
                if position > last:  # else a place that was opened twice
                    last = position
                    yield position, source.place

    async def _chunks(self, minute: int, since_us: int, until_us: int) -> AsyncIterator[tuple[list[Place], int]]:
        """The minute's places in the order of the directory, and the time from which on others have usages."""
        size = OPEN_MIN
        chunk: list[Place] = []
        async for since, place in self._minutes.places(minute, since_us):
            if since >= until_us:
                break
            if len(chunk) >= size:
                yield chunk, since
                chunk, size = [], min(size * 2, OPEN_MAX)
            chunk.append(place)
        yield chunk, until_us

    async def _open(self, places: Sequence[Place], last: Position, from_us: int, until_us: int) -> list[_Source]:
        """Those that have usages behind ``last``."""
        alone = [place for place in places if not is_shared(place)]
        shared = [place for place in places if is_shared(place)]
        sources = await map_bounded(lambda place: self._load(place, last, from_us, until_us), shared, READS_AT_ONCE)
        for rows in await map_bounded(self._times.of_keys, [*self._times.parts(alone)], READS_AT_ONCE):
            for key, digest, at_us in rows:
                if at_us is not None and from_us <= at_us < until_us and (at_us, 0, key, digest) > last:
                    sources.append(_Source(key, [(at_us, 0, key, digest)], more=False))
        return [source for source in sources if source.positions]

    async def _load(self, place: Place, last: Position, from_us: int, until_us: int) -> _Source:
        """The first positions of a place behind ``last``: all of a block's, and of a bucket as many as may be held."""
        positions: list[Position]
        if isinstance(place, int):
            rows = [row async for page in self._times.of_block(place) for row in page]
            found = ((at_us, id_, "", b"") for id_, at_us in rows if at_us is not None and from_us <= at_us < until_us)
            return _Source(place, sorted(position for position in found if position > last), more=False)
        positions, more = [], False
        async for part in self._times.of_bucket(place):
            within = (row for row in part if row[2] is not None and from_us <= row[2] < until_us)
            behind = [position for row in within if (position := (row[2], 0, row[0], row[1])) > last]
            more = more or len(positions) + len(behind) > HELD_MAX
            positions = heapq.nsmallest(HELD_MAX, [*positions, *behind])
        return _Source(place, sorted(positions), more)

    async def _next(self, source: _Source, from_us: int, until_us: int) -> Position | None:
        source.at += 1
        if source.at >= len(source.positions) and source.more:
            again = await self._load(source.place, source.positions[-1], from_us, until_us)
            source.positions, source.more, source.at = again.positions, again.more, 0
        return source.positions[source.at] if source.at < len(source.positions) else None

    async def _with_texts(self, found: Sequence[Found]) -> AsyncIterator[list[ListedUsage]]:
        """The usages at these positions, in order; without those that a DELETE has taken meanwhile."""
        usages: list[ListedUsage] = []
        bytes_ = 0
        size = self._rows_per_read * TEXT_READS_AT_ONCE
        for start in range(0, len(found), size):
            part = found[start : start + size]
            texts: dict[Position, bytes] = {}
            for rows in await map_bounded(self._texts, [*self._reads(part)], TEXT_READS_AT_ONCE):
                texts.update(rows)
            for position, _ in part:
                usage = texts.get(position)
                if usage is not None:
                    at_us, id_, key, digest = position
                    usages.append(ListedUsage(key or id_, digest, usage, at_us))
                    bytes_ += len(usage)
            if bytes_ > TEXT_BYTES_MAX:
                yield usages
                usages, bytes_ = [], 0
        if usages:
            yield usages

    def _reads(self, found: Sequence[Found]) -> Iterator[list[Found]]:
        """Parts that one statement reads: of one shared place, or of keys of their own buckets."""
        groups = group_by(place if is_shared(place) else None for _, place in found)
        for place, indexes in groups.items():
            count_max = self._rows_per_read if place is not None else min(self._rows_per_read, KEYS_PER_READ)
            for part in split(indexes, [1] * len(found), len(found), count_max):
                yield [found[index] for index in part]

    async def _texts(self, part: Sequence[Found]) -> Iterable[tuple[Position, bytes]]:
        place = part[0][1]
        if isinstance(place, int):
            ids = list_of([bigint(position[1]) for position, _ in part])
            rows = await self._link.rows("select_usages", [bigint(place), ids])
            return [((at_us, id_, "", b""), usage.encode()) for id_, usage, at_us in rows if usage is not None]
        keys = list_of([*dict.fromkeys(position[2].encode() for position, _ in part)])
        if is_shared(place):
            rows = await self._link.rows("select_keyed", [place.encode(), keys])
        else:
            rows = await self._link.rows("texts_of_keys", [keys])
        return [((at_us, 0, key, digest), usage.encode()) for key, digest, usage, at_us in rows if usage is not None]


def rows_per_read(usage_bytes_max: int) -> int:
    """How many usages one statement may read, were all of them of the largest size."""
    return max(1, min(ROWS_PER_READ_MAX, TEXT_BYTES_MAX // usage_bytes_max))
