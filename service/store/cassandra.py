"""The store at scale: Cassandra 5, a group of rows of one partition at a time.

Which query reads which table is in cassandra/README.md; what an error proves is in
:mod:`service.store.cassandra_outcome`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, TypeVar

from service.errors import StoreError, StoreRefused
from service.settings import Settings
from service.store import ID_MAX, KeyedUsage, Put, Results, StoredUsage
from service.store.cassandra_bind import batch, bigint, bound, list_of
from service.store.cassandra_session import CassandraSession, Rows
from service.store.keyed import bucket, decide, settle

log = logging.getLogger(__name__)

T = TypeVar("T")

BLOCK_BITS = 10
"""Usages of 1,024 consecutive ids share a partition: a group of new ones is one statement, sometimes two."""
BATCH_BYTES_MAX = 1 << 20
"""Bytes bound to one batch; cassandra.yaml's thresholds are above it. A single row may be longer and goes alone."""
IN_KEYS_MAX = 64
IN_BYTES_MAX = 16 << 20
"""What one answer to an IN over messages may come to, were all of them of the largest size."""
LEASE_BACKOFF_MAX_S = 0.05
CLOCK_RESOLUTION_S = 0.002
"""Cassandra's server-side timestamps count from the last whole millisecond: 1 ms, and 1 ms for its clock's reading."""
WATCH_INTERVAL_S = 0.5
REOPEN_AFTER_S = 5.0
"""So long without any connection, and the hosts' names are looked up anew: nodes may have come back elsewhere."""

STATEMENTS = {
    "insert_usage": "INSERT INTO {keyspace}.usages (block, id, usage) VALUES (?, ?, ?)",
    "select_usages": "SELECT id, usage, WRITETIME(usage) FROM {keyspace}.usages WHERE block = ? AND id IN ?",
    "insert_keyed": "INSERT INTO {keyspace}.keyed_usages (bucket, key, digest, usage) VALUES (?, ?, ?, ?)",
    "select_digests": "SELECT key, digest FROM {keyspace}.keyed_usages WHERE bucket = ? AND key IN ?",
    "select_keyed": "SELECT key, digest, usage, WRITETIME(usage) FROM {keyspace}.keyed_usages WHERE bucket = ? AND key IN ?",
    "insert_message": "INSERT INTO {keyspace}.messages (digest, message) VALUES (?, ?)",
    "select_messages": "SELECT digest, message FROM {keyspace}.messages WHERE digest IN ?",
    "select_written": "SELECT digest, WRITETIME(message), to_unix_timestamp(now()) FROM {keyspace}.messages WHERE digest IN ?",
    "delete_message": "DELETE FROM {keyspace}.messages USING TIMESTAMP ? WHERE digest = ?",
    "select_next_id": "SELECT next FROM {keyspace}.id_ranges WHERE name = 'usages'",
    "first_lease": "INSERT INTO {keyspace}.id_ranges (name, next) VALUES ('usages', ?) IF NOT EXISTS",
    "move_next_id": "UPDATE {keyspace}.id_ranges SET next = ? WHERE name = 'usages' IF next = ?",
}


class CassandraStore:
    """The store protocol on a cluster; see :class:`service.store.Store` for the promises."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keyspace = settings.store.keyspace
        self._session: CassandraSession | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._in_keys_max = max(1, min(IN_KEYS_MAX, IN_BYTES_MAX // settings.message_bytes_max))

    def __repr__(self) -> str:
        state = "closed" if self._session is None else "connected" if self._session.alive else "disconnected"
        return f"<CassandraStore {self._settings.store} {state}>"

    async def open(self) -> None:
        if self._session is None:
            self._session = await self._connect()
            self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def lease_ids(self, count: int) -> int:
        deadline_s = self._deadline_s()
        while True:
            first = await self._try_lease(count, deadline_s)
            if first is not None:
                return first
            await asyncio.sleep(random.uniform(0, LEASE_BACKOFF_MAX_S))

    async def _try_lease(self, count: int, deadline_s: float) -> int | None:
        rows = await self._execute("select_next_id", [], deadline_s)
        first = rows[0][0] if rows else 1
        if first + count - 1 > ID_MAX:
            raise StoreRefused("all ids below 2^53 are used")
        name, values = ("move_next_id", [bigint(first + count), bigint(first)]) if rows else ("first_lease", [bigint(first + count)])
        # Never repeated: one that timed out may have been applied, and is a gap then.
        applied = await self._execute(name, values, deadline_s, idempotent=False)
        return first if applied[0][0] else None

    async def return_ids(self, first: int, end: int) -> None:
        # Once only. A repeat of one that timed out could meet a ``next`` that came back to ``end``, and return others' ids.
        await self._execute("move_next_id", [bigint(first), bigint(end)], self._deadline_s(), idempotent=False)

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        deadline_s = self._deadline_s()
        results: list[StoreError | None] = [None] * len(group)

        async def write(part: list[int]) -> None:
            block = bigint(group[part[0]][0] >> BLOCK_BITS)
            rows = [[block, bigint(group[index][0]), group[index][1]] for index in part]
            await self._write_rows("insert_usage", block, rows, part, results, deadline_s)

        parts = _group_by(id_ >> BLOCK_BITS for id_, _ in group).values()
        await _all(write(part) for indexes in parts for part in _split(indexes, [len(usage) for _, usage in group]))
        return results

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        deadline_s = self._deadline_s()
        results: list[StoredUsage | StoreError | None] = [None] * len(ids)

        async def read(block: int, indexes: list[int]) -> None:
            keys = list_of([bigint(id_) for id_ in {ids[index] for index in indexes}])
            found = await self._read("select_usages", [bigint(block), keys], deadline_s)
            rows = found if isinstance(found, StoreError) else {row[0]: _stored(row[1], row[2]) for row in found}
            for index in indexes:
                results[index] = _copy(rows) if isinstance(rows, StoreError) else rows.get(ids[index])

        await _all(read(block, indexes) for block, indexes in _group_by(id_ >> BLOCK_BITS for id_ in ids).items())
        return results

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        deadline_s = self._deadline_s()
        results: list[Put | StoreError] = [StoreError("not settled")] * len(group)

        async def put(bucket_: str, indexes: list[int]) -> None:
            outcomes = await self._put_bucket(bucket_, [group[index] for index in indexes], deadline_s)
            for index, outcome in zip(indexes, outcomes, strict=True):
                results[index] = outcome

        await _all(put(bucket_, indexes) for bucket_, indexes in _group_by(bucket(item.key) for item in group).items())
        return results

    async def _put_bucket(self, bucket_: str, items: list[KeyedUsage], deadline_s: float) -> list[Put | StoreError]:
        """The items of one bucket: look, decide, write what is new. Nothing is written when the look fails."""
        partition = bucket_.encode()
        keys = list_of([key.encode() for key in {item.key for item in items}])
        found = await self._read("select_digests", [partition, keys], deadline_s)
        if isinstance(found, StoreError):
            return [_copy(found) for _ in items]
        existing: dict[str, set[bytes]] = {}
        for key, digest in found:
            existing.setdefault(key, set()).add(digest)
        verdicts = decide(items, existing)
        new = [index for index, verdict in enumerate(verdicts) if verdict.put is Put.CREATED]
        errors: list[StoreError | None] = [None] * len(items)

        async def write(part: list[int]) -> None:
            rows = [[partition, item.key.encode(), item.digest, item.usage] for item in (items[index] for index in part)]
            await self._write_rows("insert_keyed", partition, rows, part, errors, deadline_s)

        await _all(write(part) for part in _split(new, [len(item.usage) for item in items]))
        return settle(verdicts, dict(enumerate(errors)))

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        deadline_s = self._deadline_s()
        results: list[Sequence[StoredUsage] | StoreError] = [()] * len(keys)

        async def read(bucket_: str, indexes: list[int]) -> None:
            wanted = list_of([key.encode() for key in {keys[index] for index in indexes}])
            found = await self._read("select_keyed", [bucket_.encode(), wanted], deadline_s)
            by_key: dict[str, list[StoredUsage]] = {}
            if not isinstance(found, StoreError):
                for key, _, usage, written_us in sorted(found, key=lambda row: (row[3], row[1])):
                    by_key.setdefault(key, []).append(_stored(usage, written_us))
            for index in indexes:
                results[index] = _copy(found) if isinstance(found, StoreError) else by_key.get(keys[index], ())

        await _all(read(bucket_, indexes) for bucket_, indexes in _group_by(map(bucket, keys)).items())
        return results

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        deadline_s = self._deadline_s()
        results: list[StoreError | None] = [None] * len(group)

        async def write(index: int) -> None:
            await self._write_rows("insert_message", group[index][0], [list(group[index])], [index], results, deadline_s)

        await _all(write(index) for index in range(len(group)))
        return results

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        found = await self._read_messages("select_messages", digests, self._deadline_s())
        return [row if row is None or isinstance(row, StoreError) else row[1].encode() for row in map(found.get, digests)]

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """Remove messages so that a POST after the answer is never lost, whichever nodes take the two.

        A DELETE with a timestamp of the clock could be later than the POST that follows it: server-side timestamps
        differ between nodes and tie within a millisecond on one, and a tombstone wins a tie. So the DELETE carries the
        message's own write timestamp: it removes exactly what was read, and no clock decides. Then the answer waits
        until the cluster's clocks are past that timestamp, so any later POST gets a greater one. A message that was
        written more than the greatest clock skew ago costs no wait.
        """
        deadline_s = self._deadline_s()
        found = await self._read_messages("select_written", digests, deadline_s)
        results: dict[bytes, bool | StoreError] = {}

        async def delete(digest: bytes, row: Any) -> None:
            results[digest] = await self._delete_written(digest, row, deadline_s)

        await _all(delete(digest, row) for digest, row in found.items() if not isinstance(row, StoreError))
        answers: list[bool | StoreError] = []
        for digest in digests:
            answer = results.get(digest, found.get(digest) or False)
            answers.append(answer)
            if answer is True:
                results[digest] = False  # who asks again in the same group finds nothing any more
        return answers

    async def _delete_written(self, digest: bytes, row: Any, deadline_s: float) -> bool | StoreError:
        _, written_us, clock, read_at_s = row
        session = self._session
        skew_s = self._settings.cassandra_clock_skew_max_s if session is None or session.local_hosts() != 1 else 0.0
        past_at_s = read_at_s + (written_us - clock * 1000) / 1e6 + skew_s + CLOCK_RESOLUTION_S
        if past_at_s > deadline_s:
            return StoreRefused(f"the clocks of Cassandra's nodes differ by more than {skew_s:g} s; the message is kept")
        try:
            await self._execute("delete_message", [bigint(written_us), digest], deadline_s)
        except StoreError as error:
            return error
        await asyncio.sleep(max(0.0, past_at_s - asyncio.get_running_loop().time()))
        return True

    async def _read_messages(self, name: str, digests: Sequence[bytes], deadline_s: float) -> dict[bytes, Any]:
        """Rows by digest, each with the time of its arrival on the loop's clock at the end; or the error of its read."""
        found: dict[bytes, Any] = {}

        async def read(part: Sequence[bytes]) -> None:
            rows = await self._read(name, [list_of(part)], deadline_s)
            if isinstance(rows, StoreError):
                found.update({digest: _copy(rows) for digest in part})
                return
            now_s = asyncio.get_running_loop().time()
            found.update({row[0]: (*row, now_s) for row in rows})

        unique = list(dict.fromkeys(digests))
        size = self._in_keys_max if name == "select_messages" else IN_KEYS_MAX
        await _all(read(unique[start : start + size]) for start in range(0, len(unique), size))
        return found

    async def _write_rows(
        self,
        name: str,
        partition: bytes,
        rows: list[list[bytes]],
        indexes: list[int],
        results: list[StoreError | None],
        deadline_s: float,
    ) -> None:
        """Write rows of one partition as one statement; an error becomes the result of each."""
        try:
            session = self._connected()
            prepared = session.prepared[name]
            one = len(rows) == 1
            statement = bound(prepared, rows[0]) if one else batch(prepared, self._keyspace, partition, rows)
            await session.execute(statement, deadline_s)
        except StoreError as error:
            for index in indexes:
                results[index] = _copy(error)

    async def _read(self, name: str, values: list[bytes], deadline_s: float) -> Rows | StoreRefused:
        """Rows, or StoreRefused whatever went wrong: a read writes nothing."""
        try:
            return await self._execute(name, values, deadline_s)
        except StoreError as error:
            return StoreRefused(str(error))

    async def _execute(self, name: str, values: list[bytes], deadline_s: float, *, idempotent: bool = True) -> Rows:
        session = self._connected()
        return await session.execute(bound(session.prepared[name], values), deadline_s, idempotent=idempotent)

    def _connected(self) -> CassandraSession:
        if self._session is None:
            raise StoreRefused("the store is not open")
        return self._session

    def _deadline_s(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.store_timeout_s

    async def _connect(self) -> CassandraSession:
        session = await CassandraSession.connect(self._settings)
        try:
            await session.prepare(self._keyspace, STATEMENTS)
        except BaseException:
            await session.close()
            raise
        return session

    async def _watch(self) -> None:
        """Connect anew when every connection has been gone for long: the driver knows only the addresses of before."""
        lost_at_s: float | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now_s = asyncio.get_running_loop().time()
            old = self._session
            if old is None or old.alive:
                lost_at_s = None
                continue
            lost_at_s = lost_at_s or now_s
            if now_s - lost_at_s < REOPEN_AFTER_S:
                continue
            with contextlib.suppress(StoreRefused):
                self._session = await self._connect()
                log.info("connected anew", extra={"fields": {"store": str(self._settings.store)}})
                await old.close()


def _stored(usage: str, written_us: int) -> StoredUsage:
    return StoredUsage(usage.encode(), written_us)


def _copy(error: StoreError) -> StoreError:
    """An exception for one item alone: one that many futures raised would gather all their tracebacks."""
    return type(error)(str(error))


def _group_by(keys: Iterator[T]) -> dict[T, list[int]]:
    """The indexes of each key, in order."""
    groups: dict[T, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def _split(indexes: list[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Parts of at most BATCH_BYTES_MAX, or of one item."""
    part: list[int] = []
    bytes_ = 0
    for index in indexes:
        if part and bytes_ + sizes[index] > BATCH_BYTES_MAX:
            yield part
            part, bytes_ = [], 0
        part.append(index)
        bytes_ += sizes[index]
    if part:
        yield part


async def _all(work: Iterator[Awaitable[None]]) -> None:
    """Run all at once, which the session bounds; a single one without a task of its own."""
    awaitables = list(work)
    if len(awaitables) == 1:
        await awaitables[0]
    else:
        await asyncio.gather(*awaitables)
