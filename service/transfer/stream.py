"""One stream of an import: lines out and results in, at the same time, over one connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from service.transfer.errors import Broken, GaveUp
from service.transfer.reading import BATCH_LINES, Line, Refused
from service.transfer.wire import SOON, Exchange, Head, Target

T = TypeVar("T")

PATH = "/api/usages/batch"
HEADERS = {
    "Content-Type": "application/x-ndjson",
    "Accept": "application/x-ndjson",
    "Transfer-Encoding": "chunked",
}
WINDOW_LINES = 20_000
WINDOW_BYTES = 32 << 20
"""Lines that were sent and have no result yet: enough to keep the service busy, and all that is held here."""
LONG_BYTES = 1 << 18
PAUSE_S, PAUSE_MAX_S = 0.005, 1.0
"""A line that is longer goes in pieces of so many bytes, with pauses: when it is too long the service says so and stops
reading, and what was sent meanwhile would have the connection reset before that answer is read. Each time that happens all
the same the pauses are twice as long."""
SILENCE_S = 60.0
"""Longest wait for a result: the service itself answers for each line within its store_timeout_s."""
TOO_LARGE = "body_too_large"
"""The code of a problem that ends a stream because one of its lines is too long to be read at all."""


class Result(msgspec.Struct):
    """A line of the answer: what became of a line, or the stream's end."""

    line: int = 0
    status: str = ""
    code: str = ""
    detail: str = ""
    field: str | None = None
    error: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None


_result = msgspec.json.Decoder(Result).decode


@dataclass
class Counts:
    """What became of the lines until now."""

    created: int = 0
    duplicate: int = 0
    refused: int = 0

    @property
    def settled(self) -> int:
        """Lines that need nothing more."""
        return self.created + self.duplicate + self.refused


class Run(Protocol):
    """What a stream needs of the import that it is a part of."""

    to: Target
    stop: asyncio.Event
    counts: Counts
    ack: str
    pause_s: float

    async def next_lines(self, *others: asyncio.Future[Any]) -> list[Line] | None:
        """Lines to send; None at the end, or when one of the others comes first."""

    def refused(self, refused: Refused) -> None:
        """Count it and tell of it."""


class Stream:
    """One request: sends lines and settles them by the results that come meanwhile."""

    def __init__(self, run: Run, first: deque[Line]) -> None:
        self._run = run
        self._first = first
        self._in_flight: deque[tuple[int, Line]] = deque()
        self._again: deque[Line] = deque()
        self._bytes_in_flight = 0
        self._sent = 0
        self._trouble: Broken | None = None
        self._room = asyncio.Event()
        self._exchange: Exchange

    async def run(self) -> bool:
        """Send until all is sent or something is wrong; whether all that there is has been settled. Raises Broken, GaveUp."""
        self._exchange = await Exchange.open(self._run.to, "POST", PATH, HEADERS)
        receiving = asyncio.ensure_future(self._receive())
        try:
            exhausted = await self._send(receiving)
            await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            self._exchange.close()
        if self._trouble is not None:
            raise self._trouble
        return exhausted

    def unsettled(self) -> deque[Line]:
        """What is to be sent again: in the order in which it was sent."""
        return deque([*self._again, *(line for _, line in self._in_flight), *self._first])

    async def _send(self, receiving: asyncio.Future[None]) -> bool:
        """Send what there is; whether that was all. Ends early, without an error, when the connection takes no more."""
        exhausted = False
        while not exhausted and self._trouble is None and not receiving.done() and not self._run.stop.is_set():
            lines = await self._next(receiving)
            if lines is None:
                exhausted = not receiving.done() and not self._run.stop.is_set()
            elif lines and not await self._send_lines(lines, receiving):
                return False
        return await _unless(receiving, self._exchange.end()) and exhausted

    async def _next(self, receiving: asyncio.Future[None]) -> list[Line] | None:
        if self._first:
            return [self._first.popleft() for _ in range(min(BATCH_LINES, len(self._first)))]
        return await self._run.next_lines(receiving)

    async def _send_lines(self, lines: list[Line], receiving: asyncio.Future[None]) -> bool:
        """Whether they were sent, and there is room for more."""
        first, self._sent = self._sent + 1, self._sent + len(lines)
        self._in_flight.extend(enumerate(lines, first))
        self._bytes_in_flight += sum([len(line.wire) for line in lines])
        for piece, long_ in pieces([line.wire for line in lines]):
            if not await _unless(receiving, self._exchange.send(piece)):
                return False
            if long_ and not await _unless(receiving, asyncio.sleep(self._run.pause_s)):
                return False
        while len(self._in_flight) > WINDOW_LINES or self._bytes_in_flight > WINDOW_BYTES:
            self._room.clear()
            if not await _unless(receiving, self._room.wait()):
                return False
        return True

    # --- the answer

    async def _receive(self) -> None:
        """Settle lines by their results, to the end of the answer. Raises Broken or GaveUp when that is not a good one."""
        head = await self._patiently(self._exchange.head())
        if head.status != 200:
            await self._not_taken(head)
            return
        self._run.ack = head.headers.get("ack", "")
        lines = self._exchange.lines()
        complete = False
        while (group := await self._patiently(anext(lines, None))) is not None:
            for text in group:
                complete = self._settle(text) or complete
            self._room.set()
        if self._in_flight or not complete:
            self._trouble = self._trouble or Broken("the answer ended before its last line")

    async def _patiently(self, awaitable: Awaitable[T]) -> T:
        """Wait for what the service sends, but not for ever while it owes a result."""
        task = asyncio.ensure_future(awaitable)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=SILENCE_S)
                if done:
                    return task.result()
                if self._in_flight:
                    raise Broken(f"no result has come for {SILENCE_S:.0f} s")
        finally:
            task.cancel()

    def _settle(self, text: bytes) -> bool:
        """One line of the answer; whether it says that all was read and answered."""
        try:
            result = _result(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise GaveUp(f"this is no line of an answer: {text[:100]!r}") from None
        if result.error is not None:
            self._ended(result.error)
        if result.summary is not None:
            wait_s = float(result.summary.get("retry_after_s") or 0)
            if self._trouble is not None:
                self._trouble.retry_after_s = max(self._trouble.retry_after_s, wait_s)
            return bool(result.summary.get("complete"))
        if result.error is None:
            self._result(result)
        return False

    def _result(self, result: Result) -> None:
        if not self._in_flight or self._in_flight[0][0] != result.line:
            raise GaveUp(f"a result for line {result.line} of the stream came out of order")
        _, line = self._in_flight.popleft()
        self._bytes_in_flight -= len(line.wire)
        counts = self._run.counts
        if result.status == "created":
            counts.created += 1
        elif result.status == "duplicate":
            counts.duplicate += 1
        elif result.status == "invalid":
            self._run.refused(Refused(line.file, line.number, result.code, result.detail, result.field))
        elif result.status in ("retry", "unknown"):
            self._again.append(line)
            text = f"{result.status} ({result.code}): {result.detail}"
            self._trouble = self._trouble or Broken(text, soon=result.code in SOON)
        else:
            raise GaveUp(f"the service gave a result that is not known here: {result.status!r}")

    def _ended(self, problem: dict[str, Any]) -> None:
        """The service ended the stream."""
        code, detail = str(problem.get("code")), str(problem.get("detail"))
        if code == TOO_LARGE and self._in_flight:
            self._refuse_longest(detail)
            self._trouble = Broken(detail, soon=True)
        else:
            self._trouble = Broken(f"{code}: {detail}", soon=code in SOON)

    async def _not_taken(self, head: Head) -> None:
        """The service refused the stream before the first result."""
        problem = await self._exchange.problem(head)
        if problem.code == TOO_LARGE and self._in_flight:
            self._refuse_longest(problem.detail)
            raise Broken(problem.detail, soon=True)
        raise problem.error()

    def _refuse_longest(self, detail: str) -> None:
        """One of the lines without a result is too long, and then the longest of them is. The others are sent again."""
        longest = max(self._in_flight, key=lambda pair: len(pair[1].wire))
        self._in_flight.remove(longest)
        line = longest[1]
        self._run.refused(Refused(line.file, line.number, TOO_LARGE, detail))


def pieces(lines: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The lines in pieces to be sent, and whether a piece is one of a long line's."""
    together: list[bytes] = []
    for line in lines:
        if len(line) <= LONG_BYTES:
            together.append(line)
            continue
        if together:
            yield b"".join(together), False
            together = []
        for start in range(0, len(line), LONG_BYTES):
            yield line[start : start + LONG_BYTES], True
    if together:
        yield b"".join(together), False


async def _unless(other: asyncio.Future[None], awaitable: Awaitable[Any]) -> bool:
    """Wait for it, but no longer than until the other has ended; whether it was done."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.wait((task, other), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    error = task.exception()
    if error is not None and not isinstance(error, Broken):
        raise error
    # A connection that takes no more often has an answer that says why: that one counts.
    return error is None
