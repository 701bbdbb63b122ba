"""Reading usages back: lists by time or by patient, as pages or as one stream.

A request's steps: its parameters (pure), the usages from the store in small parts, their rendering. What a read holds is
bounded: a page by its usages and bytes, a stream by one part.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from urllib.parse import urlencode

import msgspec

from service.cursor import ListCursor, PatientCursor
from service.errors import Problem
from service.http import JSON, ClientLeft, Header, Request, Response, Streamed
from service.listing import NDJSON, PARAMETERS, Query, read_query, wants_ndjson
from service.query import parameters
from service.settings import Settings
from service.store import ListedUsage, Position, Store
from service.timespan import rfc3339

PAGE_BYTES_MAX = 4 << 20
"""A page of usages that are large ends early, with a cursor; it has at least one."""
PART_USAGES_MAX = 256
BLOCK_BYTES = 65536


class ReadLimit:
    """How many reads of one kind are at work in this process: each holds some megabytes."""

    def __init__(self, reads_max: int) -> None:
        self._max = reads_max
        self.at_work = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Count one in for as long as it lasts. Raises Problem 503."""
        if self.at_work >= self._max:
            raise Problem(503, "overloaded", "Too many lists, streams or counts are being read; try again later.")
        self.at_work += 1
        try:
            yield
        finally:
            self.at_work -= 1


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Some usages of a listing, and the cursor behind the last of them, None at the end."""

    rows: Sequence[ListedUsage]
    cursor: ListCursor | PatientCursor | None


class Reading:
    """The handler for lists."""

    def __init__(self, store: Store, settings: Settings, limit: ReadLimit, streams: ReadLimit) -> None:
        self._store = store
        self._limit = limit
        # Of their own: a stream lasts as long as its reader likes, and pages and counts must not wait for that.
        self._streams = streams
        self._page_max = settings.page_usages_max
        self._part_max = max(1, min(PART_USAGES_MAX, PAGE_BYTES_MAX // settings.usage_bytes_max))
        self._patients = settings.patient_index == "on"

    async def read(self, request: Request, _: str) -> Response:
        """A page of usages, or with ``Accept: application/x-ndjson`` a stream of all of them."""
        query = self._query(request)
        if query.stream:
            return await self._stream(request, query)
        with self._limit.hold():
            part = await self._page(request, query, query.limit or self._page_max)
        return _page_response(part, query)

    def _query(self, request: Request) -> Query:
        stream = wants_ndjson(request.values(b"accept"))
        if stream and request.scope.get("http_version") == "1.0":
            raise Problem(400, "bad_request", "A stream needs HTTP/1.1: its chunks tell whether it is whole.")
        return read_query(
            parameters(request, PARAMETERS),
            page_max=self._page_max,
            patients=self._patients,
            now_us=self._store.now_us(),
            stream=stream,
        )

    async def _page(self, request: Request, query: Query, limit: int) -> Part:
        """As many as asked for, fewer only at the end or when they come to too many bytes."""
        rows: list[ListedUsage] = []
        bytes_ = 0
        # One more tells whether there is a next page; of a patient, whose places are the store's, the store tells.
        wanted = limit + 1 if query.patient_id is None else limit
        async with contextlib.aclosing(self._parts(query, wanted)) as parts:
            async for part in parts:
                size = sum(len(row.usage) for row in part.rows)
                request.admission.hold(size)
                request.body_bytes += size
                bytes_ += size
                rows += part.rows
                if len(rows) > limit:
                    rows = rows[:limit]
                    return Part(rows, _cursor_behind(rows[-1], query))
                if bytes_ >= PAGE_BYTES_MAX or len(rows) == wanted:
                    return Part(rows, part.cursor)
        return Part(rows, None)

    async def _stream(self, request: Request, query: Query) -> Response:
        """One usage a line. The first part is read before the status is sent, so a store that is down is a 503."""
        lines = self._lines(request, query)
        try:
            first = await anext(lines)
        except StopAsyncIteration:
            first = b""
        return Streamed(200, first, [(b"content-type", NDJSON), (b"vary", b"accept")], lines)

    async def _lines(self, request: Request, query: Query) -> AsyncGenerator[bytes, None]:
        left = query.limit
        with self._streams.hold():
            leaving = asyncio.ensure_future(_left(request))
            try:
                async with contextlib.aclosing(self._parts(query, left)) as parts:
                    async for part in parts:
                        rows = part.rows if left is None else part.rows[:left]
                        for block in blocks(rows):
                            yield block
                            if leaving.done():
                                raise ClientLeft
                        if left is not None and (left := left - len(rows)) <= 0:
                            return
            finally:
                leaving.cancel()

    async def _parts(self, query: Query, wanted: int | None) -> AsyncGenerator[Part, None]:
        """What the query finds, in parts that are small enough to be held; it may read a few more than are wanted."""
        size = self._part_max if wanted is None else min(wanted, self._part_max)
        if query.patient_id is not None:
            after, left = query.patient_after, wanted
            while left is None or left > 0:
                page = size if left is None else min(size, left)
                rows, after = await self._store.read_patient(query.patient_id, after, page)
                yield Part(rows, PatientCursor(query.patient_id, after) if after else None)
                if not after:
                    break
                left = None if left is None else left - len(rows)
            return
        async with pages(self._store, query.after, query.until_us, size) as found:
            async for rows in found:
                yield Part(rows, _cursor_behind(rows[-1], query))


@contextlib.asynccontextmanager
async def pages(
    store: Store, after: Position, until_us: int, page: int
) -> AsyncGenerator[AsyncIterator[Sequence[ListedUsage]], None]:
    """A listing of the store, let go of at the end, whether it was read to its own end or not."""
    found = store.read_usages(after, until_us, page)
    try:
        yield found
    finally:
        if isinstance(found, AsyncGenerator):
            await found.aclose()


def document(row: ListedUsage) -> bytes:
    """A usage of a listing as JSON; the client's own bytes go in as they are."""
    id_ = b"%d" % row.id if isinstance(row.id, int) else msgspec.json.encode(row.id)
    return b'{"id": %b, "received_at": "%b", "usage": %b}' % (id_, rfc3339(row.received_at_us), row.usage)


def blocks(rows: Iterable[ListedUsage]) -> Iterator[bytes]:
    """Usages as lines, in blocks of about BLOCK_BYTES: each is copied several times on its way out."""
    lines: list[bytes] = []
    size = 0
    for row in rows:
        line = b"%b\n" % one_line(document(row))
        lines.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            yield b"".join(lines)
            lines, size = [], 0
    if lines:
        yield b"".join(lines)


def one_line(text: bytes) -> bytes:
    """JSON without line breaks: outside of its strings they are white space, and inside JSON has none."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


def _cursor_behind(row: ListedUsage, query: Query) -> ListCursor:
    return ListCursor(query.from_us, query.until_us, row.position)


def _page_response(part: Part, query: Query) -> Response:
    headers: list[Header] = [JSON, (b"vary", b"accept")]
    next_ = b"null"
    if part.cursor is not None:
        cursor = part.cursor.encode()
        next_ = b'"%b"' % cursor.encode()
        again = {"limit": str(query.limit), "cursor": cursor}
        if query.patient_id is not None:
            again = {"patientId": query.patient_id, **again}
        headers.append((b"link", b'</api/usages?%b>; rel="next"' % urlencode(again).encode()))
    body = b'{"usages": [%b], "next": %b}' % (b", ".join(map(document, part.rows)), next_)
    return Response(200, body, headers)


async def _left(request: Request) -> None:
    """Return once the client has left; a stream that nobody reads need not be read from the store either."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
