"""The embedded store: one SQLite file in WAL mode, fsynced at every commit.

One writer thread, one transaction per group. A thread that a disk holds up is left behind: what was handed
to it is unknown after ``store_timeout_s``, and it does not keep the process from ending. Several processes may share the file:
SQLite's own lock makes their transactions take turns. The schema is applied on open.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.settings import Settings
from service.store import (
    ID_MAX,
    Durability,
    KeyedUsage,
    ListedUsage,
    Position,
    Put,
    Results,
    StoredUsage,
    sqlite_reading,
    sqlite_schema,
    sqlite_writing,
)
from service.store.sqlite_clock import StoreClock, wall_us
from service.store.sqlite_worker import Worker

T = TypeVar("T")
Key = TypeVar("Key")

CLOSE_TIMEOUT_S = 2.0
DURABILITY = Durability(synced=True, acknowledging=1, replicas=1)
"""Every connection has ``synchronous = FULL``: the log is fsynced at each commit. One file, no copy."""

MIGRATION_TIMEOUT_S = 3600.0
"""A file of an older version is brought up to date, or a patient index filled, in one transaction; some µs for each usage."""


class SqliteStore:
    """The store protocol on a file; see :class:`service.store.Store` for the promises."""

    def __init__(self, settings: Settings, clock: Callable[[], int] | None = None) -> None:
        """``clock`` gives µs since the epoch; the system's when it is left out."""
        self.path = Path(settings.store.path)
        self._clock = StoreClock(clock or wall_us)
        self._patients = settings.patient_index == "on"
        self._busy_timeout_s = settings.sqlite_busy_timeout_s
        self._timeout_s = settings.store_timeout_s
        self._writer: Worker | None = None
        self._reader: Worker | None = None

    def __repr__(self) -> str:
        return f"<SqliteStore {self.path}{'' if self._writer else ' closed'}>"

    async def open(self) -> None:
        if self._writer is not None:
            return
        self._writer = Worker("sqlite-writer", self._connect)
        # A thread of its own: a reader in WAL mode never waits for the writer's fsync.
        self._reader = Worker("sqlite-reader", self._connect)
        try:
            await self._apply_schema()
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        workers, self._writer, self._reader = (self._reader, self._writer), None, None
        for worker in workers:
            if worker is not None:
                await asyncio.to_thread(worker.close, CLOSE_TIMEOUT_S)

    def now_us(self) -> int:
        return self._clock.latest_us()

    def durability(self) -> Durability:
        return DURABILITY

    async def lease_ids(self, count: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            (first,) = connection.execute("SELECT next FROM id_ranges WHERE name = 'usages'").fetchone()
            if first + count - 1 > ID_MAX:
                raise StoreRefused("all ids below 2^53 are used")
            connection.execute("UPDATE id_ranges SET next = ? WHERE name = 'usages'", (first + count,))
            return int(first)

        return await self._write(work)

    async def return_ids(self, first: int, end: int) -> None:
        sql = "UPDATE id_ranges SET next = ? WHERE name = 'usages' AND next = ?"
        await self._write(lambda connection: connection.execute(sql, (first, end)).close())

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        def work(connection: sqlite3.Connection) -> list[None]:
            return sqlite_writing.put_usages(connection, group, self._clock.write_us(), patients=self._patients)

        return await self._write_group(group, work)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        def work(connection: sqlite3.Connection) -> list[Put]:
            return sqlite_writing.put_keyed_usages(connection, group, self._clock.write_us(), patients=self._patients)

        return await self._write_group(group, work)

    async def delete_usages(self, ids: Sequence[int]) -> Results[bool]:
        work = functools.partial(sqlite_writing.delete_usages, ids=ids, patients=self._patients)
        return await self._write_group(ids, work)

    async def delete_keyed_usages(self, keys: Sequence[str]) -> Results[bool]:
        work = functools.partial(sqlite_writing.delete_keyed_usages, keys=keys, patients=self._patients)
        return await self._write_group(keys, work)

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        sql = "SELECT CAST(usage AS BLOB), received_at_us FROM usages WHERE id = ?"

        def look_up(connection: sqlite3.Connection, id_: int) -> StoredUsage | None:
            row = connection.execute(sql, (id_,)).fetchone()
            return StoredUsage(*row) if row else None

        return await self._read_group(ids, look_up)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        sql = (
            "SELECT CAST(usage AS BLOB), received_at_us FROM keyed_usages WHERE key = ? ORDER BY received_at_us, digest"
        )

        def look_up(connection: sqlite3.Connection, key: str) -> Sequence[StoredUsage]:
            return [StoredUsage(*row) for row in connection.execute(sql, (key,))]

        return await self._read_group(keys, look_up)

    async def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        while True:
            work = functools.partial(sqlite_reading.list_page, after=after, until_us=until_us, page=page)
            rows = await self._read(work)
            if rows:
                yield rows
            if len(rows) < page:
                return
            after = rows[-1].position

    async def count_usages(self, from_us: int, until_us: int) -> Mapping[int, int]:
        return await self._read(functools.partial(sqlite_reading.count, from_us=from_us, until_us=until_us))

    async def read_patient(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:
        if not self._patients:
            raise StoreRefused("there is no patient index; the setting patient_index switches it on")
        work = functools.partial(sqlite_reading.patient_page, patient_id=patient_id, after=after, limit=limit)
        return await self._read(work)

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        sql = "INSERT OR IGNORE INTO messages VALUES (?, CAST(? AS TEXT))"

        def work(connection: sqlite3.Connection) -> list[None]:
            connection.executemany(sql, group)
            return [None] * len(group)

        return await self._write_group(group, work)

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        sql = "SELECT CAST(message AS BLOB) FROM messages WHERE digest = ?"

        def look_up(connection: sqlite3.Connection, digest: bytes) -> bytes | None:
            row = connection.execute(sql, (digest,)).fetchone()
            return row[0] if row else None

        return await self._read_group(digests, look_up)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        sql = "DELETE FROM messages WHERE digest = ?"

        def work(connection: sqlite3.Connection) -> list[bool]:
            return [connection.execute(sql, (digest,)).rowcount > 0 for digest in digests]

        return await self._write_group(digests, work)

    async def _write_group(self, group: Sequence[object], work: Callable[[sqlite3.Connection], list[T]]) -> Results[T]:
        try:
            return await self._write(work)
        except StoreError as error:
            # One transaction: the group was written whole or not at all.
            return [error] * len(group)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(self._writer, functools.partial(self._transaction, work))

    async def _read_group(self, keys: Sequence[Key], look_up: Callable[[sqlite3.Connection, Key], T]) -> Results[T]:
        def work(connection: sqlite3.Connection) -> list[T]:
            return [look_up(connection, key) for key in keys]

        try:
            return await self._run(self._reader, work)
        except StoreError as error:
            return [error] * len(keys)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """All that ``work`` reads is one state of the file."""

        def snapshot(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                _roll_back(connection)

        return await self._run(self._reader, snapshot)

    async def _run(
        self, worker: Worker | None, work: Callable[[sqlite3.Connection], T], timeout_s: float | None = None
    ) -> T:
        if worker is None:
            raise StoreRefused("the store is not open")
        if worker.is_stuck():
            raise StoreRefused("an earlier transaction has not ended")
        job = worker.submit(work)
        future = asyncio.wrap_future(job)
        done, _ = await asyncio.wait({future}, timeout=timeout_s or self._timeout_s)
        if not done:
            if worker.give_up(job):
                raise StoreRefused("an earlier transaction has not ended")
            raise StoreUnknown("the transaction has not ended in time")
        try:
            return future.result()
        except (sqlite3.Error, OSError) as error:
            raise StoreRefused(f"sqlite: {error}") from error

    def _transaction(self, work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            _roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # The commit frame may be in the log although its fsync failed: a recovery might bring it back.
            _roll_back(connection)
            raise StoreUnknown(f"sqlite: {error}") from error
        return result

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None)
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError(f"no WAL on this file system (journal mode is {mode})")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    async def _apply_schema(self) -> None:
        pending = await self._run(self._writer, self._is_to_be_changed)
        apply = functools.partial(sqlite_schema.apply, patients=self._patients)
        work = functools.partial(self._transaction, apply)
        await self._run(self._writer, work, MIGRATION_TIMEOUT_S if pending else None)
        self._clock.stored(await self._read(sqlite_reading.last_time_us))

    def _is_to_be_changed(self, connection: sqlite3.Connection) -> bool:
        """Whether usages that are there have to be gone through."""
        version = sqlite_schema.version_of(connection)
        return version == 1 or (version > 1 and self._patients != sqlite_schema.has_patients(connection))


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        # Where this fails SQLite has rolled back by itself, or the next BEGIN says what is wrong.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
