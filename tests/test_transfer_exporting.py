"""An export from a service that breaks off: every row once, in order, or no file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from service.transfer import exporting, retrying
from service.transfer.errors import GaveUp, WrongUse
from service.transfer.exporting import Export, Row, read_row
from service.transfer.retrying import Patience
from service.transfer.wire import Target
from service.transfer.writing import Output
from tests.scripted_service import ScriptedService, Visit

ROWS: list[tuple[int | str, str]] = [
    (1, "T1"),
    (2, "T1"),
    ("a", "T2"),
    ("a", "T2"),
    ("b", "T2"),
    (3, "T2"),
    (4, "T3"),
    (5, "T4"),
    (6, "T4"),
]
"""Ids and times; the key a has two usages, which raced."""
TIMES = sorted({time_ for _, time_ in ROWS})


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "DELAY_MIN_S", 0.001)
    monkeypatch.setattr(retrying, "DELAY_MAX_S", 0.002)


def line(place: int) -> bytes:
    """A row as the service writes it."""
    id_, received_at = ROWS[place]
    return b'{"id": %b, "received_at": "%b", "usage": {"n":  %d}}' % (
        json.dumps(id_).encode(),
        received_at.encode(),
        place,
    )


class Listing:
    """Serves ROWS; each list request breaks off as ``breaks`` says, in turn: after so many rows, None at the end."""

    def __init__(self, *breaks: int | None, counts: tuple[int, ...] = ()) -> None:
        self.breaks = list(breaks)
        self.counts = list(counts)
        self.queries: list[dict[str, str]] = []
        self.torn = b'{"id": 99, "rece'

    async def __call__(self, visit: Visit) -> None:
        """One request."""
        target = visit.head.split(b" ")[1].decode()
        query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        if urlsplit(target).path == exporting.COUNT:
            total = self.counts.pop(0) if self.counts else len(ROWS)
            body = {"from": query.get("from", "T0"), "to": query.get("to", "T9"), "total": total}
            await visit.answer(200, json.dumps(body).encode())
            return
        self.queries.append(query)
        places = [place for place, row in enumerate(ROWS) if query.get("from", "") <= row[1] < query["to"]]
        stop = self.breaks.pop(0) if self.breaks else None
        await visit.answer()
        for place in places[:stop]:
            await visit.say_bytes(line(place) + b"\n")
        if stop is None:
            visit._writer.write(b"0\r\n\r\n")
            await visit._writer.drain()
        else:
            await visit.say_bytes(self.torn)
            await asyncio.sleep(0.01)
            visit._writer.close()


def export(
    script: Callable[[Visit], Awaitable[None]],
    give_up_s: float = 5.0,
    from_: str | None = None,
    until: str | None = None,
) -> list[bytes]:
    """The lines that are written."""
    written: list[bytes] = []

    async def main() -> None:
        async with ScriptedService(script).running() as to:
            patience = Patience(give_up_s, time.monotonic, jitter=lambda: 0.0)
            run = Export(to, from_, until, patience, lambda _, text: written.append(text), lambda _: None)
            await run.run()

    asyncio.run(asyncio.wait_for(main(), 30))
    return written


ALL = [line(place) for place in range(len(ROWS))]


def test_all_rows_are_written_as_they_come():
    """The span's end is the one that the count named."""
    listing = Listing()
    assert export(listing) == ALL
    assert listing.queries == [{"to": "T9"}]


def test_the_span_is_passed_on():
    """As it was given."""
    listing = Listing(counts=(4,))
    assert export(listing, from_="T2", until="T3") == ALL[2:6]
    assert listing.queries == [{"from": "T2", "to": "T3"}]


@pytest.mark.parametrize("place", range(len(ROWS) + 1))
def test_a_stream_that_breaks_anywhere_goes_on_behind_its_last_row(place: int):
    """Nothing twice, nothing left out, whatever else was received at the same time; a torn row is none."""
    listing = Listing(place)
    assert export(listing) == ALL
    expected = {"to": "T9"} if place == 0 else {"from": ROWS[place - 1][1], "to": "T9"}
    assert listing.queries == [{"to": "T9"}, expected]


def test_a_stream_that_breaks_again_and_again_ends_all_the_same():
    """Each time a little further, as long as it gets behind the rows of one time."""
    assert export(Listing(1, 2, 5, 5, 5)) == ALL


def test_a_listing_without_its_end_is_not_whole():
    """A connection that closes between two rows looks like an end, but is none."""
    listing = Listing(3)
    listing.torn = b"\n"
    listing.torn = b" "
    assert export(listing) == ALL


def test_a_connection_that_ends_within_a_chunk_is_a_break():
    """Not the end, and nothing to wait for."""
    listing = Listing()
    torn: list[Visit] = []

    async def tears(visit: Visit) -> None:
        if b"count" not in visit.head and not torn:
            torn.append(visit)
            await visit.answer()
            visit._writer.write(b"1000\r\n" + line(0) + b"\n")
            await visit._writer.drain()
        else:
            await listing(visit)

    assert export(tears) == ALL


def test_of_the_rows_that_were_written_those_of_one_time_are_remembered():
    """However many there are in all."""
    run = Export(Target("", 0, "", tls=False), None, None, Patience(1, time.monotonic), lambda *_: None, print)
    for number in range(1000):
        row = read_row(b'{"id": %d, "received_at": "T%04d", "usage": {}}' % (number, number // 2))
        run._take(row, b"")
    assert len(run._at_last) == 2


def test_fewer_rows_than_were_counted_are_no_export():
    """Never a file that is silently short."""
    with pytest.raises(GaveUp, match="there are 10 usages"):
        export(Listing(counts=(10, 10)))


def test_rows_that_were_deleted_meanwhile_are_missed_by_nobody():
    """The count of afterwards tells."""
    assert export(Listing(counts=(12, 9))) == ALL


def test_it_gives_up_when_nothing_comes():
    """After the time that it was given."""

    async def away(visit: Visit) -> None:
        await visit.problem(503, "store_unavailable")

    with pytest.raises(GaveUp, match="store_unavailable"):
        export(away, give_up_s=0.05)


@pytest.mark.parametrize(("status", "error"), [(400, WrongUse), (404, GaveUp), (405, GaveUp)])
def test_what_no_repeat_mends_ends_it(status: int, error: type[Exception]):
    """A wrong time is the caller's to mend, and says so as the service does."""

    async def refuses(visit: Visit) -> None:
        await visit.problem(status, "code")

    with pytest.raises(error, match="detail of code"):
        export(refuses)


def test_a_listing_that_is_none_ends_it():
    """Another service."""

    async def other(visit: Visit) -> None:
        if b"count" in visit.head:
            await visit.answer(200, b'{"to": "T9", "total": 1}')
            return
        await visit.answer()
        await visit.say_bytes(b"<html>\n")

    with pytest.raises(GaveUp, match="no row"):
        export(other)


def test_silence_is_a_break(monkeypatch: pytest.MonkeyPatch):
    """A service that hangs is asked again."""
    monkeypatch.setattr(exporting, "SILENCE_S", 0.05)
    listing = Listing(2)
    hung: list[Visit] = []

    async def hangs(visit: Visit) -> None:
        if b"count" not in visit.head and not hung:
            hung.append(visit)
            await visit.answer()
            await visit.say_bytes(line(0) + b"\n")
            await asyncio.sleep(1)
        else:
            await listing(visit)

    assert export(hangs) == ALL


def test_a_usage_that_the_decoder_does_not_follow_is_a_row_all_the_same():
    """The service took it; nested as deep as it took it."""
    deep = b'{"id": "a\\"b", "received_at": "T", "usage": {"a": %b1%b}}' % (b"[" * 100_000, b"]" * 100_000)
    row = read_row(deep)
    assert (row.id, row.received_at, bytes(row.usage)) == ('a"b', "T", deep[deep.index(b'{"a"') : -1])
    with pytest.raises(GaveUp):
        read_row(deep[:-1])


# --- the file


def parts(directory: Path) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_there_once_it_is_whole(tmp_path: Path):
    """Until then it has another name, and what was there before stays."""
    path = tmp_path / "out.ndjson"
    path.write_text("before")
    output = Output(path, None)  # type: ignore[arg-type]  # a path is given
    output.write(b"row\n")
    assert path.read_text() == "before"
    assert len(parts(tmp_path)) == 2
    output.commit()
    output.discard()
    assert path.read_bytes() == b"row\n"
    assert parts(tmp_path) == ["out.ndjson"]


def test_what_is_not_whole_leaves_nothing_behind(tmp_path: Path):
    """Neither under its name nor under the other."""
    output = Output(tmp_path / "out", None)  # type: ignore[arg-type]  # a path is given
    output.write(b"row\n")
    output.discard()
    output.discard()
    assert parts(tmp_path) == []


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path):
    """Before the first row is asked for."""
    with pytest.raises(WrongUse):
        Output(tmp_path / "not there" / "out", None)  # type: ignore[arg-type]  # a path is given


def test_a_disk_that_is_full_ends_it():
    """/dev/full takes nothing."""

    class Full:
        def write(self, _: Any) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(GaveUp, match="No space"):
        Output(None, Full()).write(b"x")  # type: ignore[arg-type]  # enough of a file


def test_a_row_keeps_the_clients_bytes():
    """What is written to a CSV is what was sent."""
    row = read_row(line(0))
    assert isinstance(row, Row)
    assert bytes(row.usage) == b'{"n":  0}'
