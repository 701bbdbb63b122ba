"""Usages in Cassandra, written and looked up: a group of rows of one partition at a time.

Each write is entered in the directory first (:mod:`service.store.directory`), and carries its own time.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.store import KeyedUsage, Put, Results, StoredUsage
from service.store.cassandra_bind import Row, bigint, list_of
from service.store.cassandra_link import CassandraLink
from service.store.clock import Clock
from service.store.directory import Directory
from service.store.grouping import group_by, split
from service.store.keyed import Verdict, bucket, decide, settle
from service.store.patient import patient_of
from service.store.places import BLOCK_BITS
from service.store.results import copy_of, run_all, spread

BATCH_BYTES_MAX = 1 << 20
"""Bytes bound to one batch; cassandra.yaml's thresholds are above it. A single row may be longer and goes alone."""


class UsageTables:
    """The part of the store protocol that puts and gets usages."""

    def __init__(self, link: CassandraLink, clock: Clock, directory: Directory, *, patient_index: bool) -> None:
        self._link = link
        self._clock = clock
        self._directory = directory
        self._patients = patient_index

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        deadline_s = self._link.deadline_s()
        results: list[StoreError | None] = [None] * len(group)
        sizes = [len(usage) for _, usage in group]
        blocks = {id_ >> BLOCK_BITS for id_, _ in group}
        block = max(blocks)
        at_us = self._clock.now_us()
        work = self._directory.enter(block, at_us) if len(blocks) == 1 else None
        if work is None:
            entered = await self._directory.register([*blocks], at_us, deadline_s)
            if isinstance(entered, StoreError):
                return [copy_of(entered) for _ in group]
            work = entered
        self._directory.blocks_ahead(block, at_us)
        certain = False
        try:
            if len(blocks) == 1 and sum(sizes) <= BATCH_BYTES_MAX:
                await self._put_part(group, range(len(group)), at_us, deadline_s, results)
            else:
                of_block = group_by(id_ >> BLOCK_BITS for id_, _ in group).values()
                parts = (part for indexes in of_block for part in split(indexes, sizes, BATCH_BYTES_MAX))
                await run_all(self._put_part(group, part, at_us, deadline_s, results) for part in parts)
            certain = not any(results) or not any(isinstance(result, StoreUnknown) for result in results)
        finally:
            self._directory.leave(work, certain=certain, created=results.count(None) if certain else 0)
        return results

    async def _put_part(
        self,
        group: Sequence[tuple[int, bytes]],
        part: Sequence[int],
        at_us: int,
        deadline_s: float,
        results: list[StoreError | None],
    ) -> None:
        """Rows of one block, which is one mutation."""
        block = [bigint(group[part[0]][0] >> BLOCK_BITS)]
        rows: list[Row]
        if self._patients:
            rows = [(bigint(group[index][0]), group[index][1], _patient(group[index][1])) for index in part]
        elif len(part) == len(group):
            rows = [(bigint(id_), usage) for id_, usage in group]
        else:
            rows = [(bigint(group[index][0]), group[index][1]) for index in part]
        error = await self._link.write(
            "insert_usage", rows, deadline_s, shared=block, timestamp_us=at_us, optional=self._patients
        )
        spread(error, part, results)

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        deadline_s = self._link.deadline_s()
        results: list[StoredUsage | StoreError | None] = [None] * len(ids)

        async def read(block: int, indexes: list[int]) -> None:
            wanted = list_of([bigint(id_) for id_ in {ids[index] for index in indexes}])
            found = await self._link.read("select_usages", [bigint(block), wanted], deadline_s)
            if isinstance(found, StoreError):
                spread(found, indexes, results)
                return
            rows = {id_: _stored(usage, written_us) for id_, usage, written_us in found}
            for index in indexes:
                results[index] = rows.get(ids[index])

        await run_all(read(block, indexes) for block, indexes in group_by(id_ >> BLOCK_BITS for id_ in ids).items())
        return results

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """Look in each bucket, decide, name in the directory the buckets that get something new, and write that.

        One after the other: a row that a crash left without its directory row would be told a duplicate to the client
        that repeats it, and be in no listing.
        """
        deadline_s = self._link.deadline_s()
        buckets = group_by(bucket(item.key) for item in group)
        verdicts: dict[str, list[Verdict] | StoreError] = {}

        async def look(name: str, indexes: list[int]) -> None:
            verdicts[name] = await self._look(name, [group[index] for index in indexes], deadline_s)

        await run_all(look(name, indexes) for name, indexes in buckets.items())
        new: dict[str, list[int]] = {}
        for name, found in verdicts.items():
            if not isinstance(found, StoreError):
                at = [index for index, verdict in zip(buckets[name], found, strict=True) if verdict.put is Put.CREATED]
                if at:
                    new[name] = at
        errors: list[StoreError | None] = [None] * len(group)
        if new:
            await self._put_new(group, new, deadline_s, errors)
        results: list[Put | StoreError] = [StoreRefused("not sent")] * len(group)
        for name, indexes in buckets.items():
            found = verdicts[name]
            if isinstance(found, StoreError):
                spread(found, indexes, results)
                continue
            outcomes = settle(found, [errors[index] for index in indexes])
            for index, outcome in zip(indexes, outcomes, strict=True):
                results[index] = outcome
        return results

    async def _look(self, name: str, items: list[KeyedUsage], deadline_s: float) -> list[Verdict] | StoreError:
        wanted = list_of([key.encode() for key in {item.key for item in items}])
        found = await self._link.read("select_digests", [name.encode(), wanted], deadline_s)
        if isinstance(found, StoreError):
            return found
        existing: dict[str, set[bytes]] = {}
        for key, digest, written_us in found:
            if written_us is None:
                continue  # a row without its usage is written again
            existing.setdefault(key, set()).add(digest)
        return decide(items, existing)

    async def _put_new(
        self,
        group: Sequence[KeyedUsage],
        new: dict[str, list[int]],
        deadline_s: float,
        errors: list[StoreError | None],
    ) -> None:
        """Write the items at the indexes, by bucket; what befalls one is its error."""
        at_us = self._clock.now_us()
        work = await self._directory.register([*new], at_us, deadline_s)
        if isinstance(work, StoreError):
            for indexes in new.values():
                spread(work, indexes, errors)
            return
        self._directory.buckets_ahead(new, at_us)

        async def write(name: str, part: list[int]) -> None:
            items = [group[index] for index in part]
            rows: list[Row] = [(item.key.encode(), item.digest, item.usage) for item in items]
            if self._patients:
                rows = [(*row, _patient(item.usage)) for row, item in zip(rows, items, strict=True)]
            error = await self._link.write(
                "insert_keyed",
                rows,
                deadline_s,
                shared=[name.encode()],
                timestamp_us=at_us,
                optional=self._patients,
            )
            spread(error, part, errors)

        sizes = [len(item.usage) for item in group]
        certain = False
        try:
            await run_all(
                write(name, part) for name, indexes in new.items() for part in split(indexes, sizes, BATCH_BYTES_MAX)
            )
            certain = not any(isinstance(error, StoreUnknown) for error in errors)
        finally:
            self._directory.leave(work, certain=certain)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        deadline_s = self._link.deadline_s()
        results: list[Sequence[StoredUsage] | StoreError] = [()] * len(keys)

        async def read(bucket_: str, indexes: list[int]) -> None:
            wanted = list_of([key.encode() for key in {keys[index] for index in indexes}])
            found = await self._link.read("select_keyed", [bucket_.encode(), wanted], deadline_s)
            if isinstance(found, StoreError):
                spread(found, indexes, results)
                return
            rows: dict[str, list[StoredUsage]] = {}
            whole = [row for row in found if row[3] is not None]
            for key, _, usage, written_us in sorted(whole, key=lambda row: (row[3], row[1])):
                rows.setdefault(key, []).append(_stored(usage, written_us))
            for index in indexes:
                results[index] = rows.get(keys[index], ())

        await run_all(read(bucket_, indexes) for bucket_, indexes in group_by(map(bucket, keys)).items())
        return results


def _stored(usage: str, written_us: int) -> StoredUsage:
    return StoredUsage(usage.encode(), written_us)


def _patient(usage: bytes) -> bytes | None:
    patient_id = patient_of(usage)
    return None if patient_id is None else patient_id.encode()
