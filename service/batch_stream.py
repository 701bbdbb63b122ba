"""A batch as a stream: lines in, results out as they commit, and neither held whole.

Two things go on at once. One reads lines, cuts them into slices and queues them, as long as the window has room; the
other waits for the slices in order and gives their results to whoever sends the answer. A client that does not read its
results fills the window, and then nothing more is read from it: back-pressure both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from service import batch_results
from service.batch_body import Holding, Lines
from service.batch_items import Slice, cut
from service.batch_results import Counts
from service.batch_writer import BatchWriter, let_go
from service.durability import Acks, is_worse
from service.errors import Problem
from service.store import Durability

ACK_CHANGED = Problem(
    503,
    "ack_changed",
    "An acknowledgement is worth less than this answer's Ack header says. Lines without a result were not stored.",
)
"""The header is sent before the first result: what comes when it is no longer true goes over another stream."""
REFUSED_PAUSE_S = 0.25
"""After a slice that the store refused, nothing is sent for so long: a million lines would only be refused one by one."""


class Window:
    """How much of one batch is on its way: items and bytes that were queued and not freed."""

    def __init__(self, items_max: int, bytes_max: int) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._items = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Window: {self._items}/{self._items_max} items, {self._bytes}/{self._bytes_max} bytes>"

    def fits(self, slice_: Slice) -> bool:
        """Whether there is room for a slice. One that is larger than the window goes alone."""
        if not self._items:
            return True
        return self._items + len(slice_) <= self._items_max and self._bytes + slice_.size <= self._bytes_max

    def take(self, slice_: Slice) -> None:
        """The slice goes on its way."""
        self._items += len(slice_)
        self._bytes += slice_.size

    async def wait(self) -> None:
        """Until the next slice is freed."""
        self._freed.clear()
        await self._freed.wait()

    def free(self, slice_: Slice) -> None:
        """The slice is through."""
        self._items -= len(slice_)
        self._bytes -= slice_.size
        self._freed.set()


class Stream:
    """One streamed batch. ``parts`` is its answer; ``end`` has it end early and in good order."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        lines: Lines,
        usage_bytes_max: int,
        writer: BatchWriter,
        window: Window,
        holding: Holding,
        retry_after_s: Callable[[], int],
        acks: Acks,
        document: Callable[[Problem], dict[str, Any]],
    ) -> None:
        self._pieces = pieces
        self._lines = lines
        self._usage_bytes_max = usage_bytes_max
        self._writer = writer
        self._window = window
        self._holding = holding
        self._retry_after_s = retry_after_s
        self._acks = acks
        self._document = document
        self._numbers = itertools.count(1)
        self._queued: deque[Slice] = deque()
        self._news = asyncio.Event()
        self._counts = Counts()
        self._refused = False
        self._problem: Problem | None = None
        self._promised: Durability | None = None
        self._ended: Problem | None = None
        self._reader: asyncio.Task[None] | None = None

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Results as they commit, and the last line. Raises the Problem of a stream of which nothing was queued, and ClientLeft."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._news.set())
        silent = True
        try:
            while (slice_ := await self._next()) is not None:
                await self._writer.settle(slice_)
                self._counts.add(slice_.counts)
                self._refused = slice_.counts.retry > 0
                self._check_ack()
                yield batch_results.lines(slice_.numbers, slice_.tails)
                silent = False
                self._leave(self._queued.popleft())
            await self._reader
            problem = self._problem
            if problem is not None and silent:
                raise problem
            document = None if problem is None else self._document(problem)
            yield batch_results.last_line(self._counts, self._retry_after_s(), self._acks.value, document)
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            let_go(self._queued)

    def end(self, problem: Problem) -> None:
        """Read no further; what was queued gets its results, and ``problem`` the last line."""
        self._ended = problem
        if self._reader is not None:
            self._reader.cancel()

    def _check_ack(self) -> None:
        """The header goes out with the first part, and says what is so then; once it says too much the stream ends."""
        now = self._acks.durability
        self._promised = self._promised or now
        if is_worse(now, self._promised):
            self.end(ACK_CHANGED)
            # Also when all has been read: then results of the last lines are what the header is wrong about.
            self._problem = self._problem or ACK_CHANGED

    async def _next(self) -> Slice | None:
        """The oldest slice that is queued, once there is one; None after the last."""
        reader = self._reader
        while not self._queued:
            if reader is None or reader.done():
                return None
            self._news.clear()
            await self._news.wait()
        return self._queued[0]

    async def _read(self) -> None:
        try:
            if self._ended is not None:
                raise self._ended
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await self._queue(self._lines.feed(piece))
            await self._queue(self._lines.end())
        except Problem as problem:
            self._problem = problem
        except asyncio.CancelledError:
            if self._ended is None:
                raise
            self._problem = self._ended

    async def _queue(self, lines: list[bytes]) -> None:
        slices = cut(lines, self._usage_bytes_max, self._writer.slice_bytes_max, self._numbers)
        for count, slice_ in enumerate(slices):
            if count:
                await asyncio.sleep(0)  # others have their turn
            while not self._window.fits(slice_):
                await self._window.wait()
            await self._hold(slice_)
            self._window.take(slice_)
            if self._refused:
                await asyncio.sleep(REFUSED_PAUSE_S)
            await self._writer.send(slice_, self._writer.due_s())
            self._queued.append(slice_)
            self._news.set()

    async def _hold(self, slice_: Slice) -> None:
        """Count the slice's bytes in. When they are too many now: when some of this stream's own are given back."""
        while True:
            try:
                self._holding.hold(slice_.size)
            except Problem:
                if not self._queued:
                    raise
                await self._window.wait()
            else:
                return

    def _leave(self, slice_: Slice) -> None:
        self._holding.release(slice_.size)
        self._window.free(slice_)
