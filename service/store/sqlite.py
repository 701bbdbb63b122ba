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
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.settings import Settings
from service.store import ID_MAX, KeyedUsage, Put, Results, StoredUsage
from service.store.sqlite_worker import Worker

T = TypeVar("T")
Key = TypeVar("Key")

CLOSE_TIMEOUT_S = 2.0

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE usages (id INTEGER PRIMARY KEY, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL);
CREATE TABLE keyed_usages (
    key TEXT NOT NULL, digest BLOB NOT NULL, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL,
    PRIMARY KEY (key, digest)
) WITHOUT ROWID;
CREATE TABLE messages (digest BLOB PRIMARY KEY, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE id_ranges (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO id_ranges VALUES ('usages', 1);
"""


class SqliteStore:
    """The store protocol on a file; see :class:`service.store.Store` for the promises."""

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.store.path)
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
            await self._write(self._apply_schema)
        except StoreError:
            await self.close()
            raise

    async def close(self) -> None:
        workers, self._writer, self._reader = (self._reader, self._writer), None, None
        for worker in workers:
            if worker is not None:
                await asyncio.to_thread(worker.close, CLOSE_TIMEOUT_S)

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
        sql = "INSERT INTO usages VALUES (?, CAST(? AS TEXT), ?)"

        def work(connection: sqlite3.Connection) -> list[None]:
            now_us = _now_us()
            connection.executemany(sql, [(id_, usage, now_us) for id_, usage in group])
            return [None] * len(group)

        return await self._write_group(group, work)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        def work(connection: sqlite3.Connection) -> list[Put]:
            return [put(connection, item) for item in group]

        def put(connection: sqlite3.Connection, item: KeyedUsage) -> Put:
            found = connection.execute("SELECT digest FROM keyed_usages WHERE key = ?", (item.key,)).fetchone()
            if found is not None:
                return Put.DUPLICATE if found[0] == item.digest else Put.CONFLICT
            connection.execute(
                "INSERT INTO keyed_usages VALUES (?, ?, CAST(? AS TEXT), ?)",
                (item.key, item.digest, item.usage, _now_us()),
            )
            return Put.CREATED

        return await self._write_group(group, work)

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

    async def _run(self, worker: Worker | None, work: Callable[[sqlite3.Connection], T]) -> T:
        if worker is None:
            raise StoreRefused("the store is not open")
        if worker.is_stuck():
            raise StoreRefused("an earlier transaction has not ended")
        job = worker.submit(work)
        future = asyncio.wrap_future(job)
        done, _ = await asyncio.wait({future}, timeout=self._timeout_s)
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

    def _apply_schema(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version:
            raise StoreRefused(f"{self.path} has schema version {version}, this service knows {SCHEMA_VERSION}")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        # Where this fails SQLite has rolled back by itself, or the next BEGIN says what is wrong.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _now_us() -> int:
    return time.time_ns() // 1000
