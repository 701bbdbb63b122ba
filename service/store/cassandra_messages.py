"""Messages in Cassandra: a partition each, found by their digest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from service.errors import StoreError, StoreRefused
from service.store import Results
from service.store.cassandra_bind import bigint, list_of
from service.store.cassandra_link import CassandraLink
from service.store.grouping import split
from service.store.results import copy_of, run_all, spread

BATCH_BYTES_MAX = 1 << 20
"""Bytes bound to one batch; cassandra.yaml's thresholds are above it. A single row may be longer and goes alone."""
MESSAGES_PER_BATCH_MAX = 64
"""Each message is a partition of its own, so a batch of them saves their way to the coordinator and nothing else."""
IN_KEYS_MAX = 64
IN_BYTES_MAX = 16 << 20
"""What one answer to an IN over messages may come to, were all of them of the largest size."""
CLOCK_RESOLUTION_S = 0.002
"""A coordinator's timestamps start from a whole millisecond, and the clock that a SELECT returns is a whole one too."""


class MessageTable:
    """The part of the store protocol that is about messages."""

    def __init__(self, link: CassandraLink, message_bytes_max: int) -> None:
        self._link = link
        self._messages_per_read = max(1, min(IN_KEYS_MAX, IN_BYTES_MAX // message_bytes_max))

    async def put(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        """Write messages: once, or on a second node too where there is one, with a time that the cluster told for all attempts.

        With the coordinator's clock for each attempt, a first one that a node took up late would get a late timestamp,
        and bring back what was deleted after the second had been acknowledged. The time is asked for once the messages
        are here, so it lies behind every DELETE that was answered before they came, as a coordinator's own would.
        """
        deadline_s = self._link.deadline_s()
        results: list[StoreError | None] = [None] * len(group)
        at_us: int | None = None
        if not self._link.one_node:
            told = await self._link.read("select_clock", [], deadline_s)
            if isinstance(told, StoreError):
                return [copy_of(told) for _ in group]
            at_us = told[0][0] * 1000

        async def write(part: list[int]) -> None:
            rows = [group[index] for index in part]
            error = await self._link.write(
                "insert_message", rows, deadline_s, timestamp_us=at_us, idempotent=at_us is not None
            )
            spread(error, part, results)

        sizes = [len(message) for _, message in group]
        parts = split(range(len(group)), sizes, BATCH_BYTES_MAX, MESSAGES_PER_BATCH_MAX)
        await run_all(write(part) for part in parts)
        return results

    async def get(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        found = await self._read("select_messages", digests, self._messages_per_read, self._link.deadline_s())
        return [
            row if row is None or isinstance(row, StoreError) else row[1].encode() for row in map(found.get, digests)
        ]

    async def delete(self, digests: Sequence[bytes]) -> Results[bool]:
        """Remove messages so that a POST after the answer is never lost, whichever nodes take the two.

        A DELETE with a timestamp of the clock could be later than the POST that follows it: server-side timestamps
        differ between nodes and tie within a millisecond on one, and a tombstone wins a tie. So the DELETE carries the
        message's own write timestamp: it removes exactly what was read, and no clock decides. Then the answer waits
        until the cluster's clocks are past that timestamp, so any later POST gets a greater one. A message that was
        written longer ago than clocks differ costs no wait.
        """
        deadline_s = self._link.deadline_s()
        skew_s = self._link.clock_skew_max_s
        found = await self._read("select_written", digests, IN_KEYS_MAX, deadline_s)
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
            answers.update({digest: True if error is None else copy_of(error) for _, digest in part})

        size = MESSAGES_PER_BATCH_MAX
        await run_all(remove(removable[start : start + size]) for start in range(0, len(removable), size))
        if removable:
            await asyncio.sleep(max(0.0, past_at_s - asyncio.get_running_loop().time()))
        # Who asks a second time in the same group finds nothing any more.
        first = {digest: index for index, digest in reversed([*enumerate(digests)])}
        return [
            False if answer is True and first[digest] != index else answer
            for index, digest in enumerate(digests)
            for answer in [answers.get(digest, False)]
        ]

    async def _read(self, name: str, digests: Sequence[bytes], size: int, deadline_s: float) -> dict[bytes, Any]:
        """Rows by digest, the time of their arrival (the loop's clock) at their end; or the error of their read."""
        found: dict[bytes, Any] = {}

        async def read(part: Sequence[bytes]) -> None:
            rows = await self._link.read(name, [list_of(part)], deadline_s)
            if isinstance(rows, StoreError):
                found.update({digest: copy_of(rows) for digest in part})
                return
            now_s = asyncio.get_running_loop().time()
            found.update({row[0]: (*row, now_s) for row in rows})

        unique = list(dict.fromkeys(digests))
        await run_all(read(unique[start : start + size]) for start in range(0, len(unique), size))
        return found
