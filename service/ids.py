"""Integer ids for usages, out of ranges leased from the store.

A lease is one conditional write for 131,072 ids; the next one is fetched when half
of the present one is used, so the path of a request does not wait for it. A crash
leaves a gap, never a repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.errors import StoreError, StoreRefused

log = logging.getLogger(__name__)


class IdAllocator:
    """Hands out rising ids, each once, from leased ranges. One event loop, no threads."""

    def __init__(
        self,
        lease: Callable[[int], Awaitable[int]],
        give_back: Callable[[int, int], Awaitable[None]],
        lease_size: int,
    ) -> None:
        self._lease = lease
        self._give_back = give_back
        self._lease_size = lease_size
        self._ranges: list[range] = []
        self._fetching: asyncio.Task[None] | None = None
        self._reported = ""

    def __repr__(self) -> str:
        return f"<IdAllocator: {self.remaining} ids left{', fetching' if self._fetching else ''}>"

    @property
    def remaining(self) -> int:
        """Ids that are leased and not handed out."""
        return sum(map(len, self._ranges))

    async def fill(self) -> None:
        """Lease a range unless one is at hand. Raises StoreError."""
        if not self.remaining:
            await self._fetch()

    async def take(self, count: int, wait_max_s: float | None = None) -> list[int]:
        """The next ``count`` ids, rising. Raises StoreRefused when the store leases none in time: nothing was written."""
        if self.remaining < count:
            limit = asyncio.timeout(wait_max_s)
            try:
                async with limit:
                    while self.remaining < count:
                        await self._fetch()
            except TimeoutError:
                if not limit.expired():
                    raise
                # The lease goes on, for those who come after.
                error = f"none within {wait_max_s} s"
                self._report(error)
                raise StoreRefused(f"no ids: {error}") from None
        ids: list[int] = []
        while len(ids) < count:
            head = self._ranges[0]
            part = head[: count - len(ids)]
            ids.extend(part)
            if len(part) == len(head):
                self._ranges.pop(0)
            else:
                self._ranges[0] = head[len(part) :]
        if self.remaining < self._lease_size // 2 and self._fetching is None:
            self._start_fetching()
        return ids

    async def close(self) -> None:
        """Give the unused rest back, so that the next start goes on where this one ended."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        ranges, self._ranges = self._ranges, []
        if not ranges:
            return
        first, end = ranges[-1].start, ranges[-1].stop
        if len(ranges) == 2 and ranges[0].stop == first:
            first = ranges[0].start
        try:
            await self._give_back(first, end)
        except StoreError as error:
            log.info("unused ids stay a gap", extra={"fields": {"error": str(error)}})

    async def _fetch(self) -> None:
        task = self._fetching or self._start_fetching()
        try:
            await asyncio.shield(task)
        except StoreError as error:
            raise StoreRefused(f"no ids: {error}") from error

    def _start_fetching(self) -> asyncio.Task[None]:
        self._fetching = asyncio.ensure_future(self._fetch_once())
        self._fetching.add_done_callback(self._fetched)
        return self._fetching

    async def _fetch_once(self) -> None:
        first = await self._lease(self._lease_size)
        self._ranges.append(range(first, first + self._lease_size))
        self._reported = ""

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if task.cancelled() or task.exception() is None:
            return
        self._report(str(task.exception()))

    def _report(self, error: str) -> None:
        if error != self._reported:  # once for an outage, not once for each group that asks
            self._reported = error
            log.warning("no ids leased", extra={"fields": {"error": error}})
