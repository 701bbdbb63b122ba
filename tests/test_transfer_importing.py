"""An import against a service that misbehaves: every line is stored or refused in the end, and what is sent again is the same."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.cluster.tls import make_certificate
from service.transfer import retrying, stream
from service.transfer.errors import Broken, GaveUp
from service.transfer.importing import Import
from service.transfer.keys import Keys
from service.transfer.reading import Item, Line, NdjsonReader, Refused
from service.transfer.retrying import Patience
from service.transfer.source import BATCHES_AHEAD, Ahead
from service.transfer.wire import Target
from tests.scripted_service import Script, ScriptedService, Visit, all_created, results

STORED = {"status": "created", "id": 1}


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "DELAY_MIN_S", 0.01)
    monkeypatch.setattr(retrying, "DELAY_MAX_S", 0.02)


def lines(count: int, size: int = 0) -> list[Item]:
    """Lines of a file, as its reader makes them."""
    reader = NdjsonReader("f", Keys("f"))
    found = [reader.item(number, b'{"n": %d, "x": "%b"}' % (number, b"x" * size)) for number in range(1, count + 1)]
    return [item for item in found if item is not None]


class Run:
    """An import of some lines from a scripted service, and what came of it."""

    def __init__(self, *scripts: Script) -> None:
        self.service = ScriptedService(*scripts)
        self.refused: list[Refused] = []
        self.notes: list[str] = []
        self.batches_read = 0
        self.do: Import

    def __call__(
        self,
        batches: Sequence[list[Item]],
        beside: Callable[[], Awaitable[None]] | None = None,
        give_up_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> Import:
        """Import to the end. Raises what it raises."""
        asyncio.run(asyncio.wait_for(self._run(batches, beside, give_up_s, clock), 30))
        return self.do

    async def _run(
        self,
        batches: Sequence[list[Item]],
        beside: Callable[[], Awaitable[None]] | None,
        give_up_s: float,
        clock: Callable[[], float],
    ) -> None:
        def read() -> Iterator[list[Item]]:
            for batch in batches:
                self.batches_read += 1
                yield batch

        async with self.service.running() as to:
            patience = Patience(give_up_s, clock, jitter=lambda: 0.0)
            self.do = Import(to, Ahead(read()), patience, self.refused.append, self.notes.append)
            other = asyncio.ensure_future(beside()) if beside else None
            try:
                await self.do.run()
            finally:
                if other is not None:
                    await other

    @property
    def sent(self) -> list[list[int]]:
        """The numbers of the lines of each request."""
        return [[line["usage"]["n"] for line in visit.read] for visit in self.service.visits]


async def until(true: Callable[[], bool]) -> None:
    """Let the import go on until this is so."""
    while not true():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


def counts(run: Import) -> tuple[int, int, int]:
    """Created, duplicate, refused."""
    return run.counts.created, run.counts.duplicate, run.counts.refused


def test_all_lines_go_over_one_connection_in_order():
    """And the service's word on its acknowledgements is kept for the summary."""
    run = Run(all_created)
    done = run([lines(500), [], lines(500)])
    assert counts(done) == (1000, 0, 0)
    assert run.sent == [[*range(1, 501), *range(1, 501)]]
    assert done.ack == "fsync; replicas=1"
    assert done.unsettled == 0
    assert b"content-type: application/x-ndjson" in run.service.visits[0].head.lower()


def test_no_line_is_no_connection():
    """An empty file asks nothing of the service."""
    run = Run(all_created)
    assert counts(run([[], []])) == (0, 0, 0)
    assert run.service.visits == []


def test_duplicates_and_refusals_are_counted_and_told():
    """With the file's line, whatever the stream's number was."""
    answers: dict[int, dict[str, Any]] = {
        1: {"status": "duplicate", "id": "k"},
        2: {"status": "invalid", "code": "invalid_field", "field": "patientId", "detail": "why"},
        3: STORED,
    }
    run = Run(results(lambda number, _: answers[number]))
    local = Refused("f", 9, "invalid_json", "no JSON")
    done = run([[local], lines(3)])
    assert counts(done) == (1, 1, 2)
    assert run.refused == [local, Refused("f", 2, "invalid_field", "why", "patientId")]


@pytest.mark.parametrize("status", ["retry", "unknown"])
def test_what_is_not_known_to_be_stored_is_sent_again_as_it_was(status: str):
    """Under the same key; what was stored is not sent again."""
    answer = {"status": status, "code": "store_timeout", "detail": "slow"}
    run = Run(results(lambda number, _: answer if number in (2, 3) else STORED), all_created)
    done = run([lines(4)])
    assert counts(done) == (4, 0, 0)
    assert run.sent == [[1, 2, 3, 4], [2, 3]]
    assert run.service.visits[1].read == run.service.visits[0].read[1:3]
    assert status in run.notes[0]


def test_a_stream_that_says_retry_gets_no_more_lines_until_later(monkeypatch: pytest.MonkeyPatch):
    """What it asks to wait is waited, measured by the loop that waits."""
    delays: list[float] = []

    def no_delay_s(_: Patience, error: Broken) -> float:
        delays.append(error.retry_after_s)
        return 0.0

    monkeypatch.setattr(Patience, "delay_s", no_delay_s)
    answer = {"status": "retry", "code": "queue_full", "detail": "full"}
    run = Run(results(lambda *_: answer, retry_after_s=7), all_created)
    done = run([lines(10)] * 50)
    assert counts(done) == (500, 0, 0)
    assert len(run.sent[0]) < 500
    assert delays == [7.0]


def test_a_connection_that_breaks_loses_and_repeats_nothing_that_was_answered():
    """Lines without a result go first over the next one, in their order."""

    async def breaks(visit: Visit) -> None:
        await visit.answer()
        async for line in visit.lines():
            if line["usage"]["n"] == 4:
                visit.cut()
                return
            await visit.say(line=line["usage"]["n"], **STORED)

    run = Run(breaks, all_created)
    done = run([lines(6)])
    assert counts(done) == (6, 0, 0)
    assert run.sent[1] == [4, 5, 6]


def test_an_answer_that_ends_without_its_last_line_was_cut_off():
    """Even in good chunks: results that are missing are not taken for given."""

    async def short(visit: Visit) -> None:
        await visit.answer()
        async for _ in visit.lines():
            pass
        await visit.say(line=1, **STORED)
        visit._writer.write(b"0\r\n\r\n")

    run = Run(short, all_created)
    done = run([lines(3)])
    assert counts(done) == (3, 0, 0)
    assert run.sent == [[1, 2, 3], [2, 3]]


def test_an_instance_that_drains_is_left_for_another_at_once():
    """No wait, no word: a rolling restart is nothing to a user."""

    async def drains(visit: Visit) -> None:
        await visit.answer()
        async for line in visit.lines():
            await visit.say(line=line["usage"]["n"], **STORED)
            if line["usage"]["n"] == 2:
                break
        await visit.end({"status": 503, "code": "shutting_down", "detail": "bye"})

    run = Run(drains, all_created)
    done = run([lines(5)])
    assert counts(done) == (5, 0, 0)
    assert run.sent[1] == [3, 4, 5]
    assert run.notes == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_is_away_is_tried_again(status: int):
    """Before a result as well as after one."""

    async def away(visit: Visit) -> None:
        await visit.problem(status, "store_unavailable", Retry_After="0")

    run = Run(away, away, all_created)
    assert counts(run([lines(3)])) == (3, 0, 0)
    assert len(run.service.visits) == 3
    assert "store_unavailable" in run.notes[0]


def test_a_service_that_is_not_there_is_tried_until_patience_ends(monkeypatch: pytest.MonkeyPatch):
    """Then it is said why, and what is not stored is still counted."""
    now_s = iter(range(1000))
    run = Run(all_created)
    monkeypatch.setattr(run.service, "running", nowhere)
    with pytest.raises(GaveUp, match="cannot connect"):
        run([lines(3)], give_up_s=4, clock=lambda: float(next(now_s)))
    assert run.do.unsettled == 3


def test_https_is_taken_when_its_certificate_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sending and reading at once, over TLS as well; an unknown certificate ends the import before a line is sent."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(make_certificate(tmp_path))
    run = Run(all_created)
    monkeypatch.setattr(run.service, "running", functools.partial(run.service.running, tls))
    with pytest.raises(GaveUp, match="not trusted"):
        run([lines(3)])
    assert run.service.visits == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert counts(run([lines(500)] * 40)) == (20_000, 0, 0)


@contextlib.asynccontextmanager
async def nowhere() -> Any:
    """A port that nobody listens on."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    yield Target(address[0], address[1], "", tls=False)


@pytest.mark.parametrize("status", [400, 404, 405, 415])
def test_what_no_repeat_mends_ends_the_import(status: int):
    """A service without batches, another service."""

    async def other(visit: Visit) -> None:
        await visit.problem(status, "some_code")

    run = Run(other)
    with pytest.raises(GaveUp, match="some_code"):
        run([lines(3)])
    assert len(run.service.visits) == 1


@pytest.mark.parametrize(
    "body", [b"<html>\n", b'{"line": 2, "status": "created"}\n', b'{"line": 1, "status": "new"}\n']
)
def test_an_answer_that_cannot_be_read_ends_the_import(body: bytes):
    """Rather than to count what was not said."""

    async def other(visit: Visit) -> None:
        await visit.answer()
        await visit.say_bytes(body)
        async for _ in visit.lines():
            pass

    with pytest.raises(GaveUp):
        Run(other)([lines(3)])


@pytest.mark.parametrize("early", [True, False])
def test_a_line_that_ends_the_stream_for_its_length_is_refused_alone(early: bool):
    """The longest without a result: whichever is too long, that one is. The others are sent again."""
    long_ = lines(1, size=5000)[0]
    assert isinstance(long_, Line)
    batch: list[Item] = [*lines(2), Line("f", 3, long_.wire.replace(b'"n": 1', b'"n": 3')), *lines(5)[3:]]

    async def refuses(visit: Visit) -> None:
        if not early:
            await visit.answer()
        async for line in visit.lines():
            if line["usage"]["n"] == 3:
                break
            if not early:
                await visit.say(line=line["usage"]["n"], **STORED)
        if early:
            await visit.problem(413, "body_too_large")
        else:
            await visit.end({"status": 413, "code": "body_too_large", "detail": "long"})

    run = Run(refuses, all_created)
    done = run([batch])
    assert counts(done) == (4, 0, 1)
    assert run.refused[0].number == 3
    assert run.sent[1] == ([1, 2, 4, 5] if early else [4, 5])


def test_a_service_that_reads_but_does_not_answer_gets_no_more_than_the_window(monkeypatch: pytest.MonkeyPatch):
    """What is held here is bounded, whatever the file's size."""
    monkeypatch.setattr(stream, "WINDOW_LINES", 50)
    go = asyncio.Event()

    async def waits(visit: Visit) -> None:
        await visit.answer()
        number = 0
        async for _ in visit.lines():
            if number == 0:
                await go.wait()
            number += 1
            await visit.say(line=number, **STORED)
        await visit.end()

    run = Run(waits)
    seen = []

    async def look() -> None:
        for _ in range(50):
            await asyncio.sleep(0.005)
        seen.append(run.batches_read)
        go.set()

    done = run([lines(10)] * 100, beside=look)
    assert counts(done) == (1000, 0, 0)
    assert seen[0] <= 6 + 1 + BATCHES_AHEAD + 1


def test_long_lines_go_in_pieces_and_the_others_together():
    """Byte for byte what was given."""
    long_ = b"x" * (stream.LONG_BYTES * 2 + 1)
    sent = list(stream.pieces([b"a\n", b"b\n", long_, b"c\n"]))
    assert [(len(piece), is_long) for piece, is_long in sent] == [
        (4, False),
        (stream.LONG_BYTES, True),
        (stream.LONG_BYTES, True),
        (1, True),
        (2, False),
    ]
    assert b"".join(piece for piece, _ in sent) == b"a\nb\n" + long_ + b"c\n"
    assert list(stream.pieces([])) == []


def test_a_long_line_is_sent_no_further_once_the_service_has_answered():
    """What is not read would have the connection reset, and the answer lost with it."""
    monstrous = Line("f", 1, lines(1, size=stream.LONG_BYTES * 40)[0].wire)  # type: ignore[union-attr]  # it is a Line
    seen = []

    async def refuses(visit: Visit) -> None:
        await visit._reader.readuntil(b"\r\n")
        await visit._reader.readexactly(stream.LONG_BYTES)
        await visit.problem(413, "body_too_large")
        while data := await visit._reader.read(1 << 20):
            seen.append(len(data))

    run = Run(refuses, all_created)
    done = run([[monstrous, *lines(2)]])
    assert counts(done) == (2, 0, 1)
    assert sum(seen) < stream.LONG_BYTES * 20


def test_stopping_sends_no_more_and_awaits_what_was_sent():
    """Ctrl-C in good order: nothing that was sent is left without its result."""
    run = Run(all_created)

    async def stop() -> None:
        await until(lambda: run.do.counts.settled >= 100)
        run.do.stop.set()

    done = run([lines(10)] * 1000, beside=stop)
    assert 100 <= done.counts.created < 10_000
    assert done.unsettled == 0
    assert len(run.sent[0]) == done.counts.created
    assert run.service.visits[0].whole


def test_stopping_while_the_service_is_away_ends_the_waiting(monkeypatch: pytest.MonkeyPatch):
    """Not half a minute later."""
    monkeypatch.setattr(retrying, "DELAY_MIN_S", 1000.0)

    async def away(visit: Visit) -> None:
        await visit.problem(503, "store_unavailable")

    run = Run(away)

    async def stop() -> None:
        await until(lambda: bool(run.notes))
        run.do.stop.set()

    assert run([lines(3)], beside=stop).unsettled == 3


def test_a_connection_that_is_cut_while_nothing_is_sent_is_no_failure():
    """A slow pipe on standard input outlives a balancer's patience."""
    cut = asyncio.Event()

    async def idle(visit: Visit) -> None:
        await visit.answer()
        async for _ in visit.lines():
            await visit.say(line=1, **STORED)
            await visit.cut_and_heard()
            cut.set()
            return

    run = Run(idle, all_created)

    def read() -> Iterator[list[Item]]:
        yield lines(1)
        while not cut.is_set():
            time.sleep(0.001)
        yield lines(2)

    class Slow(list[list[Item]]):
        __iter__ = staticmethod(read)

    done = run(Slow())
    assert counts(done) == (3, 0, 0)
    assert run.notes == []


def test_silence_while_a_result_is_owed_breaks_the_connection(monkeypatch: pytest.MonkeyPatch):
    """A service that hangs is left, and its lines are sent to another."""
    monkeypatch.setattr(stream, "SILENCE_S", 0.05)

    async def hangs(visit: Visit) -> None:
        await visit.answer()
        async for _ in visit.lines():
            await asyncio.sleep(5)

    run = Run(hangs, all_created)
    assert counts(run([lines(3)])) == (3, 0, 0)
    assert "no result has come" in run.notes[0]


def test_what_reading_raises_ends_the_import():
    """A disk that fails is not the end of the file."""

    class Failing(list[list[Item]]):
        def __iter__(self) -> Iterator[list[Item]]:
            yield lines(2)
            raise GaveUp("disk")

    run = Run(all_created)
    with pytest.raises(GaveUp, match="disk"):
        run(Failing())


def test_patience_doubles_its_delays_up_to_a_bound_and_forgets_after_a_success():
    """And asks for at least what the service asked for."""
    clock = [0.0]
    retrying.DELAY_MIN_S, retrying.DELAY_MAX_S = 1.0, 8.0  # put back by the fixture
    patience = Patience(100, lambda: clock[0], jitter=lambda: 0.0)
    assert [patience.delay_s(Broken("x")) for _ in range(5)] == [1, 2, 4, 8, 8]
    assert patience.delay_s(Broken("x", 20)) == 20
    assert patience.delay_s(Broken("x", soon=True)) < 1
    clock[0] = 99.0
    patience.worked()
    assert patience.delay_s(Broken("x")) == 1
    clock[0] = 198.0
    assert patience.delay_s(Broken("x")) == 2
    clock[0] = 199.0
    with pytest.raises(GaveUp, match="100 s; the last reason: why"):
        patience.delay_s(Broken("why"))
