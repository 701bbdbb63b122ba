"""A store that answers as a test says, and a batch writer with small limits on it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from service.batch_items import ITEM_OVERHEAD_BYTES
from service.batch_writer import BatchWriter
from service.group_commit import Limits
from service.ids import IdAllocator
from service.store import KeyedUsage, Put, Results

LIMITS = Limits(
    group_size_max=4,
    group_bytes_max=5 * ITEM_OVERHEAD_BYTES,
    groups_in_flight_max=1,
    queue_size_max=3,
    queue_bytes_max=1 << 20,
    queue_wait_max_s=0.5,
)


class Store:
    """Answers as a test says, once it says so."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.answers: Callable[[Any], Any] = lambda _: None

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """Each usage's answer by its text."""
        self.groups.append([usage for _, usage in group])
        await self.open.wait()
        return [self.answers(usage) for _, usage in group]

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """Each usage's answer by its key."""
        self.groups.append([item.key for item in group])
        await self.open.wait()
        return [self.answers(item.key) or Put.CREATED for item in group]

    async def lease_ids(self, count: int) -> int:
        """From 1 on, for good."""
        del count
        return 1


def writer(store: Any, observed: list[tuple[str, int]] | None = None, **changes: Any) -> BatchWriter:
    """A writer with small limits, on this store."""

    async def keep(_first: int, _end: int) -> None:
        return

    seen = [] if observed is None else observed
    limits = dataclasses.replace(LIMITS, **changes)
    ids = IdAllocator(store.lease_ids, keep, 1024)
    return BatchWriter(store, ids, limits, 4.0, lambda name, items, _: seen.append((name, items)))
