"""Where a batch's usages go to the store: group commits of their own, whose entries are slices of batches.

A slice costs a queue what a single usage does, so a batch pays for it once in hundreds of usages, and single POSTs keep
groups and queues to themselves.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from service import batch_results
from service.batch_items import ITEM_OVERHEAD_BYTES, SLICE_BYTES_MAX, Slice
from service.errors import QueueFull, StoreError
from service.group_commit import GroupCommit, Limits
from service.ids import IdAllocator
from service.metrics import BATCH_ITEMS
from service.store import KeyedUsage, Put, Results, Store

T = TypeVar("T")
Observe = Callable[[str, int, float], None]

QUEUE_FULL_WAIT_S = 0.02
"""How soon a slice that found the queue full tries again."""


class BatchWriter:
    """Two group commits: of usages that get an id, and of usages under clients' keys."""

    def __init__(self, store: Store, ids: IdAllocator, limits: Limits, wait_max_s: float, observe: Observe) -> None:
        self._store = store
        self._ids = ids
        self._observe = observe
        # Half for room in the queue, half in it: an array is then answered in good time, however full the queue is.
        self._room_wait_max_s = wait_max_s / 2
        limits = dataclasses.replace(limits, queue_wait_max_s=wait_max_s / 2)
        self._ids_wait_max_s = limits.queue_wait_max_s
        self._plain = GroupCommit("batch_usages", self._put, limits, _observed_here)
        # One at a time, whatever the setting: of two repeats of a key that are in flight together both would be `created`.
        limits = dataclasses.replace(limits, groups_in_flight_max=1)
        self._keyed = GroupCommit("batch_keyed_usages", self._put_keyed, limits, _observed_here)
        self.groups = (self._plain, self._keyed)
        self.slice_bytes_max = min(limits.group_bytes_max, SLICE_BYTES_MAX)

    def due_s(self) -> float:
        """Until when, on the loop's clock, what comes now may wait for room in the queue."""
        return asyncio.get_running_loop().time() + self._room_wait_max_s

    async def send(self, slice_: Slice, due_s: float) -> None:
        """Queue what is to be stored of a slice. While the queue is full it waits, until ``due_s``; then that is its result."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._submit(slice_)
            except QueueFull as error:
                if loop.time() < due_s:
                    await asyncio.sleep(QUEUE_FULL_WAIT_S)
                    continue
                _refuse(slice_, error)
            except StoreError as error:
                _refuse(slice_, error)
            return

    async def settle(self, slice_: Slice) -> None:
        """Wait for the store's answers and give each item its result."""
        for future, at in zip(slice_.waiting, (slice_.plain_at, slice_.keyed_at), strict=True):
            if not at:
                continue
            try:
                results = await future
            except StoreError as error:
                results = [error] * len(at)
            _fill(slice_, at, results)
        slice_.plain, slice_.keyed = [], []  # the results may be held for long, the usages need not
        counts = slice_.counts
        for status in batch_results.STATUSES:
            if count := getattr(counts, status):
                BATCH_ITEMS.labels(status).inc(count)

    def _submit(self, slice_: Slice) -> None:
        """Queue both parts of a slice, or neither."""
        plain = self._part(self._plain, slice_.plain, sum(map(len, slice_.plain)))
        try:
            keyed = self._part(self._keyed, slice_.keyed, sum(len(item.usage) + len(item.key) for item in slice_.keyed))
        except StoreError:
            plain.cancel()
            raise
        slice_.waiting = [plain, keyed]

    @staticmethod
    def _part(group: GroupCommit[Sequence[T], Any], part: list[T], size: int) -> asyncio.Future[Any]:
        if not part:
            return asyncio.get_running_loop().create_future()  # nobody waits for it
        return group.submit(part, size + len(part) * ITEM_OVERHEAD_BYTES)

    async def _put(self, group: Sequence[Sequence[bytes]]) -> Sequence[Results[int] | StoreError]:
        usages = [usage for part in group for usage in part]
        started_s = time.perf_counter()
        results: Results[int]
        try:
            ids = await self._ids.take(len(usages), self._ids_wait_max_s)
        except StoreError as error:
            results = [error] * len(usages)
        else:
            errors = await self._store.put_usages(list(zip(ids, usages, strict=True)))
            results = ids
            if any(error is not None for error in errors):
                results = [id_ if error is None else error for id_, error in zip(ids, errors, strict=True)]
        self._observe("batch_usages", len(usages), time.perf_counter() - started_s)
        return _parted(results, group)

    async def _put_keyed(self, group: Sequence[Sequence[KeyedUsage]]) -> Sequence[Results[Put] | StoreError]:
        usages = [usage for part in group for usage in part]
        started_s = time.perf_counter()
        results = await self._store.put_keyed_usages(usages)
        self._observe("batch_keyed_usages", len(usages), time.perf_counter() - started_s)
        return _parted(results, group)


def let_go(slices: Iterable[Slice]) -> None:
    """Nobody waits for these any more: what was not sent is taken out of the queues; what was sent is sent.

    A failure that nobody has asked for is let go with its future, and not complained about.
    """
    for slice_ in slices:
        for future in slice_.waiting:
            future.cancel()


def _fill(slice_: Slice, at: Sequence[int], results: Results[int | Put]) -> None:
    tails, counts = slice_.tails, slice_.counts
    if at is slice_.plain_at and all(type(result) is int for result in results):
        counts.created += len(at)
        texts = batch_results.created(results)  # type: ignore[arg-type] # just seen
        if len(at) == len(tails):
            slice_.tails = texts
            return
        for index, text in zip(at, texts, strict=True):
            tails[index] = text
        return
    keyed = iter(slice_.keyed)
    for index, result in zip(at, results, strict=True):
        key = next(keyed).key if at is slice_.keyed_at else ""
        if isinstance(result, StoreError):
            status, tails[index] = batch_results.failed(result)
        elif isinstance(result, int):
            status, tails[index] = "created", batch_results.created([result])[0]
        elif result is Put.CONFLICT:
            status, tails[index] = "invalid", batch_results.invalid(batch_results.REUSED)
        else:
            status, tails[index] = result.value, batch_results.put(key, result)
        setattr(counts, status, getattr(counts, status) + 1)


def _refuse(slice_: Slice, error: StoreError) -> None:
    """The queue took nothing of it: that is the result of each item that was to be stored."""
    refused = asyncio.get_running_loop().create_future()
    refused.set_exception(error)
    slice_.waiting = [refused, refused]


def _parted(results: Results[T], group: Sequence[Sequence[object]]) -> list[Results[T] | StoreError]:
    """The results of a group by the slices that it came from. A slice that failed as one is its error, as for any group commit."""
    parts: list[Results[T] | StoreError] = []
    start = 0
    for entry in group:
        part = results[start : start + len(entry)]
        start += len(entry)
        first = part[0]
        alike = isinstance(first, StoreError) and all(type(result) is type(first) for result in part)
        parts.append(first if isinstance(first, StoreError) and alike else part)
    return parts


def _observed_here(_name: str, _items: int, _seconds: float) -> None:
    """A group commit counts its entries, which are slices; usages are counted where they are put."""
