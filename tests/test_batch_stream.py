"""How a stream goes on: reading and answering at once, each waiting for the other, on a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from service.admission import Admission
from service.batch_body import Holding, Lines
from service.batch_items import ITEM_OVERHEAD_BYTES
from service.batch_results import STATUSES
from service.batch_stream import REFUSED_PAUSE_S, Stream, Window
from service.durability import Acks, acknowledgement
from service.errors import Closing, Problem, StoreRefused, problem_of
from service.http import ClientLeft, Request
from service.store import Durability
from tests.batching import Store, writer
from tests.controlled import run, turns

WINDOW_ITEMS = 6
LINE_BYTES_MAX = 100
SYNCED = Durability(synced=True, acknowledging=2, replicas=3)
ENDED = problem_of(Closing())


class Source:
    """A body whose pieces are two lines each, and how many of them were asked for."""

    def __init__(self, pieces: int, error: Exception | None = None) -> None:
        self.read = 0
        self._pieces = pieces
        self._error = error

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        """The pieces, and then the error, if there is one."""
        for number in range(self._pieces):
            self.read += 1
            yield b'{"n":%d}\n{"m":%d}\n' % (number, number)
            await asyncio.sleep(0)
        if self._error is not None:
            raise self._error


class Streaming:
    """A stream over all its real parts, save the store."""

    def __init__(self, store: Store, source: Source, body_bytes_max: int = 1 << 20) -> None:
        self.admission = Admission(10, body_bytes_max, 5.0)
        request = Request({"headers": []}, _nothing, self.admission)
        self.worth = SYNCED
        self.acks = Acks(cast(Any, self), replicated=True)
        self.stream = Stream(
            source(),
            Lines(LINE_BYTES_MAX),
            LINE_BYTES_MAX,
            writer(store),
            Window(WINDOW_ITEMS, 1 << 20),
            Holding(request),
            lambda: 3,
            self.acks,
            lambda problem: {"code": problem.code},
        )
        self.parts = self.stream.parts()

    def durability(self) -> Durability:
        """What the store says of itself."""
        return self.worth

    def worth_now(self, worth: Durability) -> None:
        """The store says otherwise, and it has been noticed."""
        self.worth = worth
        self.acks.refresh()

    async def next(self) -> list[dict[str, Any]]:
        """The lines of the next part."""
        return [json.loads(line) for line in (await anext(self.parts)).splitlines()]

    async def rest(self) -> list[dict[str, Any]]:
        """All lines that are still to come."""
        return [json.loads(line) async for part in self.parts for line in part.splitlines()]


async def _nothing() -> dict[str, Any]:
    raise AssertionError("the body is read by the source")


def test_every_line_has_its_result_and_then_comes_the_summary():
    """In order, with what was counted."""

    async def main() -> None:
        streaming = Streaming(Store(), Source(20))
        *found, last = await streaming.rest()
        assert [result["line"] for result in found] == list(range(1, 41))
        assert last == {
            "summary": {**dict.fromkeys(STATUSES, 0), "created": 40, "ack": "fsync; replicas=2/3", "complete": True}
        }
        assert streaming.admission.body_bytes == 0

    run(main())


def test_reading_stops_while_nobody_takes_the_results():
    """The window is full, however quick the store is; it goes on with each result that is taken."""

    async def main() -> None:
        source = Source(100)
        streaming = Streaming(Store(), source)
        await streaming.next()
        await turns(200)
        assert source.read == WINDOW_ITEMS // 2 + 1
        await streaming.next()
        await turns(200)
        assert source.read == WINDOW_ITEMS // 2 + 2
        assert len(await streaming.rest()) == 200 - 4 + 1
        assert streaming.admission.body_bytes == 0

    run(main())


def test_reading_stops_while_the_store_is_busy():
    """What is queued is bounded by the window, too."""

    async def main() -> None:
        store, source = Store(), Source(100)
        store.open.clear()
        streaming = Streaming(store, source)
        first = asyncio.create_task(streaming.next())
        await turns(200)
        assert source.read == WINDOW_ITEMS // 2 + 1
        assert not first.done()
        store.open.set()
        await first
        assert len(await streaming.rest()) == 200 - 2 + 1

    run(main())


def test_a_store_that_refuses_makes_a_stream_slow():
    """A million lines would only be refused one by one; each is told so, and when to come back."""

    async def main() -> None:
        store = Store()
        store.answers = lambda _: StoreRefused("!")
        started_s = asyncio.get_running_loop().time()
        *found, last = await Streaming(store, Source(20)).rest()
        assert {result["status"] for result in found} == {"retry"}
        assert asyncio.get_running_loop().time() - started_s >= (20 - WINDOW_ITEMS) * REFUSED_PAUSE_S
        assert (last["summary"]["retry"], last["summary"]["retry_after_s"]) == (40, 3)

    run(main())


def test_who_ends_a_stream_ends_it_in_good_order():
    """Nothing more is read; what was queued has its results; what has none was not stored."""

    async def main() -> None:
        store, source = Store(), Source(100)
        store.open.clear()
        streaming = Streaming(store, source)
        rest = asyncio.create_task(streaming.rest())
        await turns(200)
        streaming.stream.end(ENDED)
        read = source.read
        store.open.set()
        *found, last = await rest
        assert source.read == read
        assert last["error"] == {"code": "shutting_down"}
        assert (last["summary"]["created"], last["summary"]["complete"]) == (len(found), False)
        assert sum(map(len, store.groups)) == len(found) == WINDOW_ITEMS
        assert streaming.admission.body_bytes == 0

    run(main())


@pytest.mark.parametrize(
    "less",
    [
        dataclasses.replace(SYNCED, synced=False),
        dataclasses.replace(SYNCED, synced=None),
        dataclasses.replace(SYNCED, acknowledging=1),
    ],
)
@pytest.mark.parametrize("pieces", [3, 100])
def test_a_stream_ends_when_its_header_says_more_than_is_so(less: Durability, pieces: int):
    """Also when all was read: the header went out with the first part, and results of a lesser worth are not its."""

    async def main() -> None:
        source = Source(pieces)
        streaming = Streaming(Store(), source)
        await streaming.next()
        await turns(200)
        streaming.worth_now(less)
        *found, last = await streaming.rest()
        assert source.read <= WINDOW_ITEMS // 2 + 1
        assert last["error"] == {"code": "ack_changed"}
        summary = last["summary"]
        assert (summary["created"], summary["complete"]) == (2 + len(found), False)
        assert summary["ack"] == acknowledgement(less, replicated=True)
        assert streaming.admission.body_bytes == 0

    run(main())


def test_a_stream_goes_on_while_its_header_says_no_more_than_is_so():
    """What is worth more than was promised, or again as much, is no reason to end it; nor what it was before the first part."""

    async def main() -> None:
        for before, during in (
            (SYNCED, dataclasses.replace(SYNCED, acknowledging=3)),
            (dataclasses.replace(SYNCED, synced=None), SYNCED),
        ):
            streaming = Streaming(Store(), Source(100))
            streaming.worth_now(before)
            await streaming.next()
            streaming.worth_now(during)
            *found, last = await streaming.rest()
            assert (len(found), last["summary"]["complete"]) == (198, True)
            assert last["summary"]["ack"] == acknowledgement(during, replicated=True)

    run(main())


def test_a_stream_that_was_ended_before_it_began_is_refused():
    """There is nothing to tell but that."""

    async def main() -> None:
        streaming = Streaming(Store(), Source(3))
        streaming.stream.end(ENDED)
        with pytest.raises(Problem) as caught:
            await streaming.next()
        assert caught.value.code == "shutting_down"

    run(main())


@pytest.mark.parametrize("pieces", [0, 3])
def test_a_body_that_is_at_fault_is_told_before_or_behind_its_results(pieces: int):
    """As the answer while nothing was queued; as the last line once something was."""

    async def main() -> None:
        streaming = Streaming(Store(), Source(pieces, Problem(413, "body_too_large", "Too large.")))
        if not pieces:
            with pytest.raises(Problem):
                await streaming.next()
            return
        *found, last = await streaming.rest()
        assert [result["status"] for result in found] == ["created"] * 6
        assert (last["error"]["code"], last["summary"]["complete"]) == ("body_too_large", False)

    run(main())


@pytest.mark.parametrize("error", [ClientLeft(), RuntimeError("a bug")])
def test_who_leaves_and_what_is_a_bug_have_no_last_line(error: Exception):
    """Nobody may take such a stream for one that came to its end."""

    async def main() -> None:
        streaming = Streaming(Store(), Source(3, error))
        with pytest.raises(type(error)):
            await streaming.rest()

    run(main())


def test_a_stream_that_is_let_go_takes_back_what_was_not_sent():
    """Reading ends, and what waits in the queue is taken out; no task is left."""

    async def main() -> None:
        store, source = Store(), Source(100)
        store.open.clear()
        streaming = Streaming(store, source)
        first = asyncio.create_task(streaming.next())
        await turns(200)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        read = source.read
        store.open.set()
        await turns(200)
        assert source.read == read
        assert [len(group) for group in store.groups] == [2]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_stream_waits_for_its_own_bytes_and_fails_only_without_any():
    """When a process holds all that it may, a stream that has something on its way waits for that."""

    async def main() -> None:
        two_lines = 2 * (ITEM_OVERHEAD_BYTES + 8)
        store = Store()
        streaming = Streaming(store, Source(20), body_bytes_max=two_lines + 100)
        assert len(await streaming.rest()) == 41
        assert max(map(len, store.groups)) == 2
        streaming = Streaming(Store(), Source(20), body_bytes_max=two_lines - 100)
        with pytest.raises(Problem) as caught:
            await streaming.next()
        assert caught.value.code == "overloaded"

    run(main())


def test_a_slice_larger_than_the_window_goes_alone():
    """It would never fit otherwise."""

    async def main() -> None:
        store = Store()
        streaming = Streaming(store, Source(3))
        with contextlib.suppress(StopAsyncIteration):
            streaming.stream._window = Window(1, 1)
            while True:
                await streaming.next()
        assert [len(group) for group in store.groups] == [2, 2, 2]

    run(main())
