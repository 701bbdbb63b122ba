"""Lists without a network: what is asked of the store, and what a stream does when its client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from service.admission import Admission
from service.cursor import list_cursor
from service.errors import Problem, StoreRefused
from service.http import ClientLeft, Request, Response, Streamed
from service.listing import read_query, wants_ndjson
from service.reading import PAGE_BYTES_MAX, Reading, ReadLimit, one_line
from service.settings import read_settings
from service.store import ListedUsage, Position
from service.timespan import LAST_US

NOW_US = 1_795_694_400_000_000


class Shelf:
    """A store with so many usages of so many bytes, which notes the pages that were asked for."""

    def __init__(self, count: int, size: int = 2, fails_at: int | None = None) -> None:
        self.rows = [ListedUsage(id_, b"", b"x" * size, 1000 + id_) for id_ in range(1, count + 1)]
        self.fails_at = fails_at
        self.pages: list[int] = []
        self.given = 0
        self.closed = False

    def now_us(self) -> int:
        """A clock that stands still."""
        return NOW_US

    async def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:
        """The pages behind a position."""
        assert until_us <= NOW_US + 1_000_000
        rows = [row for row in self.rows if row.position > after]
        self.pages.append(page)
        try:
            for start in range(0, len(rows), page):
                if self.fails_at is not None and start >= self.fails_at:
                    raise StoreRefused("gone")
                self.given += 1
                yield rows[start : start + page]
        finally:
            self.closed = True


def request(query: str = "", *, stream: bool = False, leaves: bool = False) -> Request:
    """A GET of a client that stays, or leaves at once."""
    admission = Admission(10, 1 << 30, 5)

    async def receive() -> Any:
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    headers = [(b"host", b"x"), *([(b"accept", b"application/x-ndjson")] if stream else [])]
    scope = {"type": "http", "http_version": "1.1", "headers": headers, "query_string": query.encode()}
    return Request(scope, receive, admission)


def reading(shelf: Any, **settings: str) -> tuple[Reading, ReadLimit]:
    """The handler on this store, and its limit of one read, page or stream."""
    limit = ReadLimit(1)
    environment = {f"BUSYAPI_{name.upper()}": value for name, value in settings.items()}
    return Reading(shelf, read_settings(environment), limit, limit), limit


def test_a_page_asks_the_store_for_one_more_than_it_shows():
    """Which tells whether there is a next; the listing is let go of, and so is the place among the reads."""

    async def test() -> None:
        shelf = Shelf(20)
        handler, limit = reading(shelf)
        response = await handler.read(request("limit=20"), "")
        assert b'"next": null' in response.body
        response = await handler.read(request("limit=19"), "")
        assert b'"next": null' not in response.body
        assert shelf.pages == [21, 20]
        assert shelf.closed
        assert limit.at_work == 0

    asyncio.run(test())


def test_pages_of_large_usages_are_read_in_small_parts():
    """Twice the bytes of a page are never held, whatever the limit says."""

    async def test() -> None:
        shelf = Shelf(1000, size=100_000)
        handler, _ = reading(shelf)
        asked = request("limit=1000")
        response = await handler.read(asked, "")
        assert len(response.body) < 2 * PAGE_BYTES_MAX
        assert PAGE_BYTES_MAX <= asked.body_bytes == asked.admission.body_bytes < 2 * PAGE_BYTES_MAX
        assert max(shelf.pages) * 102_400 <= PAGE_BYTES_MAX

    asyncio.run(test())


def test_a_stream_whose_client_has_left_reads_no_further():
    """Millions of usages are not read for nobody."""

    async def test() -> None:
        shelf = Shelf(10_000)
        handler, limit = reading(shelf)
        response = await handler.read(request(stream=True, leaves=True), "")
        assert isinstance(response, Streamed)
        with pytest.raises(ClientLeft):
            await drained(response)
        assert shelf.given <= 5
        assert shelf.closed
        assert limit.at_work == 0

    asyncio.run(test())


@pytest.mark.parametrize("fails_at", [0, 256])
def test_a_store_that_fails_gives_the_place_back(fails_at: int):
    """At the first part, before there is an answer; or later, within it."""

    async def test() -> None:
        handler, limit = reading(Shelf(1000, fails_at=fails_at))
        with pytest.raises(StoreRefused):
            await drained(await handler.read(request(stream=True), ""))
        assert limit.at_work == 0

    asyncio.run(test())


def test_a_stream_goes_out_in_blocks_of_lines():
    """Each of about 64 KiB, whole lines alone, all of them together the listing."""

    async def test() -> None:
        handler, limit = reading(Shelf(1000, size=1000))
        response = await handler.read(request(stream=True), "")
        assert limit.at_work == 1
        parts = await drained(response)
        assert max(map(len, parts)) < 65536 + 1100
        assert all(part.endswith(b"\n") for part in parts)
        assert b"".join(parts).count(b"\n") == 1000

    asyncio.run(test())


async def drained(response: Response) -> list[bytes]:
    """The parts of a stream."""
    assert isinstance(response, Streamed)
    parts = [response.body]
    async for part in response.parts:
        parts.append(part)
        await asyncio.sleep(0)
    return parts


def test_one_read_more_than_allowed_is_refused():
    """And takes no place."""
    limit = ReadLimit(1)
    with limit.hold():
        with pytest.raises(Problem) as caught, limit.hold():
            pass
        assert (caught.value.status, caught.value.code, limit.at_work) == (503, "overloaded", 1)
    assert limit.at_work == 0


def query_of(stream: bool = False, patients: bool = False, **given: str) -> Any:
    """What these parameters ask for."""
    named = {name.rstrip("_"): value for name, value in given.items()}
    return read_query(named, page_max=1000, patients=patients, now_us=NOW_US, stream=stream)


def test_without_parameters_everything_until_now_is_asked_for():
    """With the second that another instance's clock may be ahead; a page has a hundred, a stream all."""
    query = query_of()
    assert (query.after, query.until_us, query.limit) == ((0, 0, "", b""), NOW_US + 1_000_000, 100)
    assert query_of(stream=True).limit is None


def test_a_time_to_come_is_now():
    """A stream up to it ends all the same."""
    assert query_of(to="2099-01-01T00:00:00Z").until_us == NOW_US + 1_000_000
    assert query_of(to="2026-11-26T11:00:00Z").until_us == NOW_US - 3_600_000_000


def test_a_patient_has_no_end():
    """Neither from nor to is asked of the store."""
    query = query_of(patients=True, patientId="100", limit="7")
    assert (query.patient_id, query.patient_after, query.limit, query.until_us) == ("100", b"", 7, LAST_US)


def test_the_cursor_of_a_page_has_its_span():
    """From, to as the first page had them, and the last usage shown."""

    async def test() -> None:
        handler, _ = reading(Shelf(5))
        response = await handler.read(request("limit=2&from=1970-01-01T00:00:00.001002Z"), "")
        text = response.body.rpartition(b'"next": "')[2].removesuffix(b'"}').decode()
        cursor = list_cursor(text)
        assert (cursor.from_us, cursor.until_us, cursor.position) == (1002, NOW_US + 1_000_000, (1003, 3, "", b""))

    asyncio.run(test())


def test_line_breaks_go_and_escapes_stay():
    """What is white space between tokens becomes a space; in strings JSON has no raw line break."""
    assert one_line(b'{\r\n "a":\n"\\n"}') == b'{   "a": "\\n"}'


def test_several_accept_headers_are_one_list():
    """A header may be split over lines."""
    assert wants_ndjson([b"text/html", b"application/x-ndjson"])
    assert not wants_ndjson([])
