"""The store at scale: Cassandra 5, a group of rows of one partition at a time.

Which query reads which table is in cassandra/README.md; what an error proves is in
:mod:`service.store.cassandra_outcome`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from service.errors import StoreRefused, StoreUnknown
from service.settings import Settings
from service.store import ID_MAX, Durability, KeyedUsage, ListedUsage, Position, Put, Results, StoredUsage
from service.store.cassandra_bind import bigint
from service.store.cassandra_durability import DurabilityWatch
from service.store.cassandra_link import CassandraLink
from service.store.cassandra_messages import MessageTable
from service.store.cassandra_statements import PATIENT_STATEMENTS, STATEMENTS
from service.store.cassandra_usages import UsageTables
from service.store.clock import Clock, ClusterClock
from service.store.counting import Counting
from service.store.deleting import Deleting
from service.store.directory import Directory
from service.store.listing import Listing, rows_per_read
from service.store.minutes import Minutes
from service.store.patients import Patients
from service.store.times import Times

LEASE_BACKOFF_MAX_S = 0.05


class CassandraStore:
    """The store protocol on a cluster; see :class:`service.store.Store` for the promises."""

    statements: ClassVar[Mapping[str, str]] = STATEMENTS

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        """``clock`` in place of the cluster's, for tests that pass on time."""
        self._url = settings.store
        patients = settings.patient_index == "on"
        self._link = CassandraLink(settings, {**self.statements, **(PATIENT_STATEMENTS if patients else {})})
        self._clock: Clock = clock or ClusterClock(self._ask_clock_ms, self._doubt)
        self._directory = Directory(self._link, self._clock)
        minutes = Minutes(self._link)
        self._usages = UsageTables(self._link, self._clock, self._directory, patient_index=patients)
        times = Times(self._link, settings.usage_bytes_max)
        self._listing = Listing(self._link, minutes, times, settings.usage_bytes_max)
        self._counting = Counting(self._link, self._clock, minutes, times)
        self._deleting = Deleting(self._link, self._clock, self._directory)
        self._patients = Patients(self._link, rows_per_read(settings.usage_bytes_max)) if patients else None
        self._messages = MessageTable(self._link, settings.message_bytes_max)
        self._watch = DurabilityWatch(lambda: self._link.session, settings.store.keyspace)

    def __repr__(self) -> str:
        return f"<CassandraStore {self._url} {self._link!r}>"

    async def open(self) -> None:
        await self._link.open()
        await self._watch.open()
        await self._clock.open()
        self._directory.open()
        self._counting.open()

    async def close(self) -> None:
        await self._counting.close()
        await self._directory.close()
        await self._clock.close()
        await self._watch.close()
        await self._link.close()

    def now_us(self) -> int:
        return self._clock.now_us()

    def durability(self) -> Durability:
        return self._watch.now

    async def lease_ids(self, count: int) -> int:
        deadline_s = self._link.deadline_s()
        while True:
            rows = await self._link.execute("select_next_id", [], deadline_s)
            first: int = rows[0][0] if rows else 1
            if first + count - 1 > ID_MAX:
                raise StoreRefused("all ids below 2^53 are used")
            name, values = ("move_next_id", [first + count, first]) if rows else ("first_lease", [first + count])
            try:
                applied = await self._link.execute(name, [*map(bigint, values)], deadline_s, idempotent=False)
            except StoreUnknown:
                pass  # it may have been applied, then its ids are a gap; the next look tells
            else:
                if applied[0][0]:
                    return first
            await asyncio.sleep(random.uniform(0, LEASE_BACKOFF_MAX_S))

    async def return_ids(self, first: int, end: int) -> None:
        # Once only: ``next`` may have left ``end`` and come back to it when a second attempt at one that timed out
        # arrives, and what that returned would be somebody else's.
        values = [bigint(first), bigint(end)]
        await self._link.execute("move_next_id", values, self._link.deadline_s(), idempotent=False)

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        return await self._usages.put_usages(group)

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        return await self._usages.get_usages(ids)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        return await self._usages.put_keyed_usages(group)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        return await self._usages.get_keyed_usages(keys)

    def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        return self._listing.pages(after, until_us, page)

    async def count_usages(self, from_us: int, until_us: int) -> Mapping[int, int]:
        return await self._counting.count(from_us, until_us)

    async def read_patient(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:
        if self._patients is None:
            raise StoreRefused("patients are not looked for: the setting patient_index is off")
        return await self._patients.read(patient_id, after, limit)

    async def delete_usages(self, ids: Sequence[int]) -> Results[bool]:
        return await self._deleting.by_id(ids)

    async def delete_keyed_usages(self, keys: Sequence[str]) -> Results[bool]:
        return await self._deleting.by_key(keys)

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        return await self._messages.put(group)

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        return await self._messages.get(digests)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        return await self._messages.delete(digests)

    def _doubt(self) -> None:
        self._directory.doubt()

    async def _ask_clock_ms(self) -> int:
        [(clock_ms,)] = await self._link.rows("select_clock", [])
        return int(clock_ms)
