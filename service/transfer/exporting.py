"""The export: every usage of a span of time into a file, which is there only once it is whole.

The span's end is fixed before the first row, by the answer to a count. A stream that breaks is taken up where the last
whole row was: from its time on, without those of that time that were written already.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from service.transfer.errors import Broken, GaveUp, WrongUse
from service.transfer.retrying import Patience
from service.transfer.wire import Exchange, Head, Target

T = TypeVar("T")

LIST, COUNT = "/api/usages", "/api/usages/count"
ANSWER_BYTES_MAX = 1 << 20
SILENCE_S = 60.0
"""Longest wait for the next bytes."""


class Row(msgspec.Struct):
    """A line of the listing; ``usage`` is the client's own text."""

    id: int | str
    received_at: str
    usage: msgspec.Raw


_row = msgspec.json.Decoder(Row).decode
_parts = re.compile(rb'\{"id": (\d+|"(?:[^"\\]|\\.)*"), "received_at": "([^"]*)", "usage": (\{.*\})\}').fullmatch


@dataclass
class Export:
    """One run. ``write`` gets each row once, in order, with its line as the service sent it."""

    to: Target
    from_: str | None
    until: str | None
    patience: Patience
    write: Callable[[Row, bytes], None]
    note: Callable[[str], None]
    expected: int = 0
    rows: int = 0
    _last: str = ""
    _at_last: set[int | str | bytes] = field(default_factory=set)

    async def run(self) -> None:
        """Write all rows. Raises WrongUse for a span that is none, GaveUp when not all rows can be had."""
        self.until, self.expected = await self._patiently(self._count)
        await self._patiently(self._stream)
        if self.rows < self.expected:
            # Some may have been deleted meanwhile; then there are no more than these now.
            _, now = await self._patiently(self._count)
            if self.rows < now:
                raise GaveUp(f"there are {now:,} usages, and the service listed {self.rows:,}")

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            rows = self.rows
            try:
                return await attempt()
            except Broken as error:
                if self.rows > rows:
                    self.patience.worked()
                delay_s = self.patience.delay_s(error)
                self.note(f"{error}; going on behind {self.rows:,} rows in {delay_s:.1f} s")
                await asyncio.sleep(delay_s)

    async def _count(self) -> tuple[str, int]:
        """The end of the span, and how many there are in it."""
        exchange, _ = await self._get(COUNT, self.from_, self.until, "application/json")
        text = b""
        try:
            async for piece in exchange.body():
                text += piece
                if len(text) > ANSWER_BYTES_MAX:
                    break
            answer: dict[str, Any] = msgspec.json.decode(text)
            return str(answer["to"]), int(answer["total"])
        except (msgspec.DecodeError, LookupError, TypeError, ValueError):
            raise GaveUp(f"the answer to {COUNT} has no count") from None
        finally:
            exchange.close()

    async def _stream(self) -> None:
        """The rows from the last one on, to the end."""
        again = self._last
        seen = frozenset(self._at_last)
        exchange, _ = await self._get(LIST, again or self.from_, self.until, "application/x-ndjson")
        try:
            lines = exchange.lines()
            while True:
                async with asyncio.timeout(SILENCE_S):
                    group = await anext(lines, None)
                if group is None:
                    return
                for line in group:
                    row = read_row(line)
                    if row.received_at != again or _identity(row) not in seen:
                        self._take(row, line)
        except TimeoutError:
            raise Broken(f"nothing has come for {SILENCE_S:.0f} s") from None
        finally:
            exchange.close()

    def _take(self, row: Row, line: bytes) -> None:
        self.write(row, line)
        self.rows += 1
        if row.received_at != self._last:
            self._last = row.received_at
            self._at_last.clear()
        self._at_last.add(_identity(row))

    async def _get(self, path: str, from_: str | None, until: str | None, accept: str) -> tuple[Exchange, Head]:
        query = urlencode({name: value for name, value in (("from", from_), ("to", until)) if value})
        exchange = await Exchange.open(self.to, "GET", f"{path}?{query}" if query else path, {"Accept": accept})
        try:
            async with asyncio.timeout(SILENCE_S):
                head = await exchange.head()
                if head.status == 200:
                    return exchange, head
                problem = await exchange.problem(head)
        except TimeoutError:
            exchange.close()
            raise Broken(f"no answer has come for {SILENCE_S:.0f} s") from None
        except BaseException:
            exchange.close()
            raise
        exchange.close()
        if problem.status == 400 and not self.rows:
            raise WrongUse(problem.detail)
        raise problem.error()


def read_row(line: bytes) -> Row:
    """A line of the listing. Raises GaveUp when it is none."""
    try:
        return _row(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # A usage that the decoder does not follow, though it is JSON: the client's text is not ours to judge.
        match = _parts(line)
        if match is None:
            raise GaveUp(f"this is no row of a listing: {line[:100]!r}") from None
        id_, received_at, usage = match.groups()
        return Row(msgspec.json.decode(id_), received_at.decode(), msgspec.Raw(usage))


def _identity(row: Row) -> int | str | bytes:
    """What tells a row from the others of its time: its id, and of two usages under one key their text."""
    return row.id if isinstance(row.id, int) else msgspec.json.encode(row.id) + bytes(row.usage)
