"""Bugs of a store, each around the real one."""

# ruff: noqa: D102 - the protocol speaks for a method that hands on

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from service.store import Durability, KeyedUsage, ListedUsage, Position, Put, Results, Store, StoredUsage

Item = TypeVar("Item")
Done = TypeVar("Done")
Write = Callable[[Sequence[Item]], Awaitable[Results[Done]]]

FLUSH_INTERVAL_S = 0.25
DROP_EVERY = 10_000
RETRY_EVERY = 20


class Around:
    """A store that hands everything on; a bug overrides ``write``, which is asked for each group that is to be written."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def write(self, put: Write[Item, Done], group: Sequence[Item], _done: Done) -> Results[Done]:
        """Write a group; ``_done`` is what a caller whose item was written is told."""
        return await put(group)

    async def open(self) -> None:
        await self.store.open()

    async def close(self) -> None:
        await self.store.close()

    def now_us(self) -> int:
        return self.store.now_us()

    def durability(self) -> Durability:
        return self.store.durability()

    async def lease_ids(self, count: int) -> int:
        return await self.store.lease_ids(count)

    async def return_ids(self, first: int, end: int) -> None:
        await self.store.return_ids(first, end)

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        return await self.write(self.store.put_usages, group, None)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        return await self.write(self.store.put_keyed_usages, group, Put.CREATED)

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        return await self.write(self.store.put_messages, group, None)

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        return await self.store.get_usages(ids)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        return await self.store.get_keyed_usages(keys)

    def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        return self.store.read_usages(after, until_us, page)

    async def count_usages(self, from_us: int, until_us: int) -> Mapping[int, int]:
        return await self.store.count_usages(from_us, until_us)

    async def read_patient(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:
        return await self.store.read_patient(patient_id, after, limit)

    async def delete_usages(self, ids: Sequence[int]) -> Results[bool]:
        return await self.store.delete_usages(ids)

    async def delete_keyed_usages(self, keys: Sequence[str]) -> Results[bool]:
        return await self.store.delete_keyed_usages(keys)

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        return await self.store.get_messages(digests)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        return await self.store.delete_messages(digests)


class EarlyAcks(Around):
    """Acknowledges what it has in memory, and writes it later."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._pending: list[tuple[Callable[[Any], Awaitable[Any]], Sequence[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def write(self, put: Write[Item, Done], group: Sequence[Item], done: Done) -> Results[Done]:
        """Note it."""
        self._pending.append((put, group))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return [done] * len(group)

    async def close(self) -> None:
        """Nothing is lost where it ends in good order, so only a kill shows it."""
        if self._flusher is not None:
            await self._flusher
        await super().close()

    async def _flush(self) -> None:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        pending, self._pending, self._flusher = self._pending, [], None
        for put, group in pending:
            await put(group)


class DropsRows(Around):
    """Forgets one row in DROP_EVERY, and says it was written."""

    _rows = 0

    async def write(self, put: Write[Item, Done], group: Sequence[Item], done: Done) -> Results[Done]:
        """Write the others."""
        first = self._rows + 1
        self._rows += len(group)
        dropped = {index for index in range(len(group)) if (first + index) % DROP_EVERY == 0}
        results = iter(await put([item for index, item in enumerate(group) if index not in dropped]))
        return [done if index in dropped else next(results) for index in range(len(group))]


class HalfGroups(Around):
    """Writes the first half of a group, and says that all of it was written."""

    async def write(self, put: Write[Item, Done], group: Sequence[Item], done: Done) -> Results[Done]:
        """Write half."""
        written = await put(group[: (len(group) + 1) // 2])
        return [*written, *[done] * (len(group) - len(written))]


class RetriesWithoutKey(Around):
    """Takes the answer to one group in RETRY_EVERY for lost, and writes its rows once more, as if they were others."""

    _groups = 0

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """Under new ids."""
        results = await self.store.put_usages(group)
        if self._is_lost():
            first = await self.store.lease_ids(len(group))
            await self.store.put_usages([(first + index, usage) for index, (_, usage) in enumerate(group)])
        return results

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """Under a key of its own."""
        results = await self.store.put_keyed_usages(group)
        if self._is_lost():
            await self.store.put_keyed_usages(
                [KeyedUsage(str(uuid.uuid4()), item.digest, item.usage) for item in group]
            )
        return results

    def _is_lost(self) -> bool:
        self._groups += 1
        return self._groups % RETRY_EVERY == 0
