"""DELETE of usages in Cassandra, so that counts follow and a later POST under the same key is readable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.store import Results
from service.store.cassandra_bind import Row, bigint, list_of
from service.store.cassandra_link import CassandraLink
from service.store.clock import Clock
from service.store.directory import Directory, Work
from service.store.grouping import group_by, split
from service.store.keyed import bucket
from service.store.places import BLOCK_BITS, minute_of
from service.store.results import copy_of, run_all, spread

Name = TypeVar("Name", int, str)

ROWS_PER_BATCH_MAX = 64
WAIT_MAX_S = 0.1


@dataclass(frozen=True, slots=True)
class _Row:
    """A stored usage that is to go: which item asked for it, its partition, the rest of its key, its time."""

    item: int
    partition: bytes
    key: tuple[bytes, ...]
    written_us: int


class Deleting:
    """The part of the store protocol that deletes usages.

    A tombstone carries the usage's own time: it removes exactly what was read, and no clock decides. Its minute is
    unsealed before, and settled only after, so whoever counts meanwhile counts place by place, and a DELETE that is cut
    off leaves a minute that is counted anew, never a wrong seal. What is stored later has a later time; the answer waits
    until that is sure on every instance and node.
    """

    def __init__(self, link: CassandraLink, clock: Clock, directory: Directory) -> None:
        self._link = link
        self._clock = clock
        self._directory = directory

    async def by_id(self, ids: Sequence[int]) -> Results[bool]:
        """As :meth:`service.store.Store.delete_usages`."""
        deadline_s = self._link.deadline_s()
        first = _first(ids)
        rows: list[_Row] = []
        results: list[bool | StoreError] = [False] * len(ids)

        async def read(block: int, indexes: list[int]) -> None:
            wanted = list_of([bigint(ids[index]) for index in indexes])
            found = await self._link.read("select_usages", [bigint(block), wanted], deadline_s)
            if isinstance(found, StoreError):
                for index in indexes:
                    results[index] = copy_of(found)
                return
            rows.extend(
                _Row(first[id_], bigint(block), (bigint(id_),), written_us)
                for id_, _, written_us in found
                if written_us is not None
            )

        asked = [*first.values()]
        blocks = group_by(ids[index] >> BLOCK_BITS for index in asked)
        await run_all(read(block, [asked[at] for at in indexes]) for block, indexes in blocks.items())
        await self._delete("delete_usage", rows, results, deadline_s)
        return results

    async def by_key(self, keys: Sequence[str]) -> Results[bool]:
        """As :meth:`service.store.Store.delete_keyed_usages`."""
        deadline_s = self._link.deadline_s()
        first = _first(keys)
        rows: list[_Row] = []
        results: list[bool | StoreError] = [False] * len(keys)

        async def read(name: str, indexes: list[int]) -> None:
            wanted = list_of([keys[index].encode() for index in indexes])
            found = await self._link.read("select_digests", [name.encode(), wanted], deadline_s)
            if isinstance(found, StoreError):
                for index in indexes:
                    results[index] = copy_of(found)
                return
            rows.extend(
                _Row(first[key], name.encode(), (key.encode(), digest), written_us)
                for key, digest, written_us in found
                if written_us is not None
            )

        asked = [*first.values()]
        buckets = group_by(bucket(keys[index]) for index in asked)
        await run_all(read(name, [asked[at] for at in indexes]) for name, indexes in buckets.items())
        await self._delete("delete_keyed", rows, results, deadline_s)
        return results

    async def _delete(
        self, name: str, rows: Sequence[_Row], results: list[bool | StoreError], deadline_s: float
    ) -> None:
        """Delete the rows; an item's result is what befell all of its rows (:func:`_verdict`)."""
        loop = asyncio.get_running_loop()
        skew_us = int(self._link.clock_skew_max_s * 1_000_000)
        ahead_us = self._clock.least_us() - skew_us + int((deadline_s - loop.time()) * 1_000_000)
        late = {row.item for row in rows if row.written_us >= ahead_us}
        for item in late:
            results[item] = StoreRefused("the clocks of Cassandra's nodes differ by too much; the usage stays")
        rows = [row for row in rows if row.item not in late]
        by_minute = group_by(minute_of(row.written_us) for row in rows)
        works = await self._reopen(by_minute, deadline_s)
        errors: list[StoreError | None] = [None] * len(rows)
        for minute, indexes in by_minute.items():
            work = works[minute]
            if isinstance(work, StoreError):
                spread(StoreRefused(str(work)), indexes, errors)
        await self._write(name, rows, errors, deadline_s)
        unknown = {
            minute_of(row.written_us)
            for row, error in zip(rows, errors, strict=True)
            if isinstance(error, StoreUnknown)
        }
        done = [work for minute, work in works.items() if isinstance(work, Work) and minute not in unknown]
        await asyncio.gather(*(self._directory.finish(work, deadline_s) for work in done))
        for indexes in group_by(row.item for row in rows).values():
            results[rows[indexes[0]].item] = _verdict([errors[index] for index in indexes])
        gone = [row for row, error in zip(rows, errors, strict=True) if error is None]
        if gone:
            last_us = max(row.written_us for row in gone)
            while (wait_us := last_us + skew_us - self._clock.least_us()) >= 0:
                if loop.time() > deadline_s:
                    for row in gone:
                        results[row.item] = StoreUnknown("gone, but a clock was set: a POST under the key may be lost")
                    break
                await asyncio.sleep(min(wait_us / 1_000_000 + 0.0005, WAIT_MAX_S))  # of a clock, not an event

    async def _reopen(self, minutes: Iterable[int], deadline_s: float) -> Mapping[int, Work | StoreError]:
        each = [*minutes]
        works = await asyncio.gather(*(self._directory.reopen(minute, deadline_s) for minute in each))
        return dict(zip(each, works, strict=True))

    async def _write(self, name: str, rows: Sequence[_Row], errors: list[StoreError | None], deadline_s: float) -> None:
        """Those that have no error yet. One statement for each partition and time: a statement has one timestamp."""

        async def write(part: list[int]) -> None:
            values: list[Row] = [rows[index].key for index in part]
            error = await self._link.write(
                name,
                values,
                deadline_s,
                shared=[rows[part[0]].partition],
                timestamp_us=rows[part[0]].written_us,
            )
            spread(error, part, errors)

        left = [index for index, error in enumerate(errors) if error is None]
        groups = group_by((rows[index].partition, rows[index].written_us) for index in left).values()
        sizes = [1] * len(rows)
        await run_all(
            write(part)
            for indexes in groups
            for part in split([left[at] for at in indexes], sizes, len(rows), ROWS_PER_BATCH_MAX)
        )


def _verdict(errors: Sequence[StoreError | None]) -> bool | StoreError:
    """Of an item of several rows: unknown when one is, or when only some of them went. Refused is when none did."""
    failed = [error for error in errors if error is not None]
    if not failed:
        return True
    unknown = [error for error in failed if isinstance(error, StoreUnknown)]
    if unknown:
        return copy_of(unknown[0])
    if len(failed) < len(errors):
        return StoreUnknown(f"some of the usages under the key are gone, others are not: {failed[0]}")
    return copy_of(failed[0])


def _first(items: Sequence[Name]) -> dict[Name, int]:
    """Where each item stands first: who asks a second time in the same group finds nothing any more."""
    first: dict[Name, int] = {}
    for index, item in enumerate(items):
        first.setdefault(item, index)
    return first
