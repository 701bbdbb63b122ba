"""The store at scale: Cassandra 5, a group of rows of one partition at a time.

Which query reads which table is in cassandra/README.md; what an error proves is in
:mod:`service.store.cassandra_outcome`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.settings import Settings
from service.store import ID_MAX, KeyedUsage, Put, Results, StoredUsage
from service.store.cassandra_bind import bigint, list_of
from service.store.cassandra_link import CassandraLink
from service.store.grouping import group_by, split
from service.store.keyed import bucket, decide, settle

BLOCK_BITS = 10
"""Usages of 1,024 consecutive ids share a partition: a group of new ones is one statement, sometimes two."""
BATCH_BYTES_MAX = 1 << 20
"""Bytes bound to one batch; cassandra.yaml's thresholds are above it. A single row may be longer and goes alone."""
MESSAGES_PER_BATCH_MAX = 64
"""Each message is a partition of its own, so a batch of them saves their way to the coordinator and nothing else."""
IN_KEYS_MAX = 64
IN_BYTES_MAX = 16 << 20
"""What one answer to an IN over messages may come to, were all of them of the largest size."""
LEASE_BACKOFF_MAX_S = 0.05
CLOCK_RESOLUTION_S = 0.002
"""Server-side timestamps start from a whole millisecond, and the clock that a SELECT returns is a whole one too."""

STATEMENTS = {
    "insert_usage": "INSERT INTO {keyspace}.usages (block, id, usage) VALUES (?, ?, ?)",
    "select_usages": "SELECT id, usage, WRITETIME(usage) FROM {keyspace}.usages WHERE block = ? AND id IN ?",
    "insert_keyed": "INSERT INTO {keyspace}.keyed_usages (bucket, key, digest, usage) VALUES (?, ?, ?, ?)",
    # With the write time, so that read repair takes in ``usage``, which the primary key alone would not make it do: a
    # duplicate is acknowledged, so the row must be whole on every replica that the consistency level counts.
    "select_digests": "SELECT key, digest, WRITETIME(usage) FROM {keyspace}.keyed_usages WHERE bucket = ? AND key IN ?",
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
        self._url = settings.store
        self._link = CassandraLink(settings, STATEMENTS)
        self._messages_per_read = max(1, min(IN_KEYS_MAX, IN_BYTES_MAX // settings.message_bytes_max))

    def __repr__(self) -> str:
        return f"<CassandraStore {self._url} {self._link!r}>"

    async def open(self) -> None:
        await self._link.open()

    async def close(self) -> None:
        await self._link.close()

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
        deadline_s = self._link.deadline_s()
        results: list[StoreError | None] = [None] * len(group)
        sizes = [len(usage) for _, usage in group]

        async def write(part: Sequence[int], usages: Sequence[tuple[int, bytes]]) -> None:
            block = bigint(usages[0][0] >> BLOCK_BITS)
            rows = [(bigint(id_), usage) for id_, usage in usages]
            _spread(await self._link.write("insert_usage", rows, deadline_s, shared=[block]), part, results)

        if len({id_ >> BLOCK_BITS for id_, _ in group}) == 1 and sum(sizes) <= BATCH_BYTES_MAX:
            await write(range(len(group)), group)
            return results
        blocks = group_by(id_ >> BLOCK_BITS for id_, _ in group).values()
        parts = (part for indexes in blocks for part in split(indexes, sizes, BATCH_BYTES_MAX))
        await _all(write(part, [group[index] for index in part]) for part in parts)
        return results

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        deadline_s = self._link.deadline_s()
        results: list[StoredUsage | StoreError | None] = [None] * len(ids)

        async def read(block: int, indexes: list[int]) -> None:
            wanted = list_of([bigint(id_) for id_ in {ids[index] for index in indexes}])
            found = await self._link.read("select_usages", [bigint(block), wanted], deadline_s)
            if isinstance(found, StoreError):
                _spread(found, indexes, results)
                return
            rows = {id_: _stored(usage, written_us) for id_, usage, written_us in found}
            for index in indexes:
                results[index] = rows.get(ids[index])

        await _all(read(block, indexes) for block, indexes in group_by(id_ >> BLOCK_BITS for id_ in ids).items())
        return results

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        deadline_s = self._link.deadline_s()
        results: list[Put | StoreError] = [StoreRefused("not sent")] * len(group)

        async def put(bucket_: str, indexes: list[int]) -> None:
            outcomes = await self._put_bucket(bucket_.encode(), [group[index] for index in indexes], deadline_s)
            for index, outcome in zip(indexes, outcomes, strict=True):
                results[index] = outcome

        await _all(put(bucket_, indexes) for bucket_, indexes in group_by(bucket(item.key) for item in group).items())
        return results

    async def _put_bucket(self, partition: bytes, items: list[KeyedUsage], deadline_s: float) -> list[Put | StoreError]:
        """The items of one bucket: look, decide, write what is new. Nothing is written when the look fails."""
        wanted = list_of([key.encode() for key in {item.key for item in items}])
        found = await self._link.read("select_digests", [partition, wanted], deadline_s)
        if isinstance(found, StoreError):
            return [_copy(found) for _ in items]
        existing: dict[str, set[bytes]] = {}
        for key, digest, written_us in found:
            if written_us is None:
                continue  # a row without its usage is written again
            existing.setdefault(key, set()).add(digest)
        verdicts = decide(items, existing)
        new = [index for index, verdict in enumerate(verdicts) if verdict.put is Put.CREATED]
        errors: list[StoreError | None] = [None] * len(items)

        async def write(part: list[int]) -> None:
            rows = [(item.key.encode(), item.digest, item.usage) for item in map(items.__getitem__, part)]
            _spread(await self._link.write("insert_keyed", rows, deadline_s, shared=[partition]), part, errors)

        await _all(write(part) for part in split(new, [len(item.usage) for item in items], BATCH_BYTES_MAX))
        return settle(verdicts, errors)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        deadline_s = self._link.deadline_s()
        results: list[Sequence[StoredUsage] | StoreError] = [()] * len(keys)

        async def read(bucket_: str, indexes: list[int]) -> None:
            wanted = list_of([key.encode() for key in {keys[index] for index in indexes}])
            found = await self._link.read("select_keyed", [bucket_.encode(), wanted], deadline_s)
            if isinstance(found, StoreError):
                _spread(found, indexes, results)
                return
            rows: dict[str, list[StoredUsage]] = {}
            whole = [row for row in found if row[3] is not None]
            for key, _, usage, written_us in sorted(whole, key=lambda row: (row[3], row[1])):
                rows.setdefault(key, []).append(_stored(usage, written_us))
            for index in indexes:
                results[index] = rows.get(keys[index], ())

        await _all(read(bucket_, indexes) for bucket_, indexes in group_by(map(bucket, keys)).items())
        return results

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        deadline_s = self._link.deadline_s()
        results: list[StoreError | None] = [None] * len(group)

        async def write(part: list[int]) -> None:
            # Once only: a first attempt that a node took up late would get a late timestamp, and bring back what was
            # deleted after a second attempt had been acknowledged.
            rows = [group[index] for index in part]
            _spread(await self._link.write("insert_message", rows, deadline_s, idempotent=False), part, results)

        sizes = [len(message) for _, message in group]
        parts = split(range(len(group)), sizes, BATCH_BYTES_MAX, MESSAGES_PER_BATCH_MAX)
        await _all(write(part) for part in parts)
        return results

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        found = await self._read_messages("select_messages", digests, self._messages_per_read, self._link.deadline_s())
        return [
            row if row is None or isinstance(row, StoreError) else row[1].encode() for row in map(found.get, digests)
        ]

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """Remove messages so that a POST after the answer is never lost, whichever nodes take the two.

        A DELETE with a timestamp of the clock could be later than the POST that follows it: server-side timestamps
        differ between nodes and tie within a millisecond on one, and a tombstone wins a tie. So the DELETE carries the
        message's own write timestamp: it removes exactly what was read, and no clock decides. Then the answer waits
        until the cluster's clocks are past that timestamp, so any later POST gets a greater one. A message that was
        written longer ago than clocks differ costs no wait.
        """
        deadline_s = self._link.deadline_s()
        skew_s = self._link.clock_skew_max_s
        found = await self._read_messages("select_written", digests, IN_KEYS_MAX, deadline_s)
        answers: dict[bytes, bool | StoreError] = {}
        removable: list[tuple[bytes, bytes]] = []
        past_at_s = 0.0
        for digest, row in found.items():
            if isinstance(row, StoreError):
                answers[digest] = row
                continue
            _, written_us, clock_ms, read_at_s = row
            row_past_at_s = read_at_s + (written_us / 1000 - clock_ms) / 1000 + skew_s + CLOCK_RESOLUTION_S
            if row_past_at_s > deadline_s:
                text = f"the clocks of Cassandra's nodes differ by more than {skew_s:g} s; the message stays"
                answers[digest] = StoreRefused(text)
                continue
            past_at_s = max(past_at_s, row_past_at_s)
            removable.append((bigint(written_us), digest))

        async def remove(part: Sequence[tuple[bytes, bytes]]) -> None:
            error = await self._link.write("delete_message", part, deadline_s)
            answers.update({digest: True if error is None else _copy(error) for _, digest in part})

        size = MESSAGES_PER_BATCH_MAX
        await _all(remove(removable[start : start + size]) for start in range(0, len(removable), size))
        if removable:
            await asyncio.sleep(max(0.0, past_at_s - asyncio.get_running_loop().time()))
        # Who asks a second time in the same group finds nothing any more.
        first = {digest: index for index, digest in reversed([*enumerate(digests)])}
        return [
            False if answer is True and first[digest] != index else answer
            for index, digest in enumerate(digests)
            for answer in [answers.get(digest, False)]
        ]

    async def _read_messages(
        self, name: str, digests: Sequence[bytes], size: int, deadline_s: float
    ) -> dict[bytes, Any]:
        """Rows by digest, the time of their arrival (the loop's clock) at their end; or the error of their read."""
        found: dict[bytes, Any] = {}

        async def read(part: Sequence[bytes]) -> None:
            rows = await self._link.read(name, [list_of(part)], deadline_s)
            if isinstance(rows, StoreError):
                found.update({digest: _copy(rows) for digest in part})
                return
            now_s = asyncio.get_running_loop().time()
            found.update({row[0]: (*row, now_s) for row in rows})

        unique = list(dict.fromkeys(digests))
        await _all(read(unique[start : start + size]) for start in range(0, len(unique), size))
        return found


def _stored(usage: str, written_us: int) -> StoredUsage:
    return StoredUsage(usage.encode(), written_us)


def _copy(error: StoreError) -> StoreError:
    """An exception for one item alone: one that many futures raise gathers all their tracebacks."""
    return type(error)(str(error))


def _spread(error: StoreError | None, indexes: Iterable[int], results: list[Any]) -> None:
    """What befell a statement is the result of each item in it."""
    if error is not None:
        for index in indexes:
            results[index] = _copy(error)


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Run all at once, which the session bounds; a single one without a task of its own."""
    awaitables = list(work)
    if len(awaitables) == 1:
        await awaitables[0]
    else:
        await asyncio.gather(*awaitables)
