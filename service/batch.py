"""POST /api/usages/batch: many usages in one request, and a result for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

from service import batch_results
from service.batch_body import Holding, Lines, coding, is_lines, pieces, strict, whole
from service.batch_items import ENVELOPE_BYTES_MAX, Slice, array, cut, too_many
from service.batch_results import Counts
from service.batch_stream import Stream, Window
from service.batch_writer import BatchWriter, Observe, let_go
from service.durability import Acks
from service.errors import Closing, Problem, problem_of
from service.group_commit import Limits
from service.http import JSON, Request, Response, Streamed, problem_document
from service.ids import IdAllocator
from service.metrics import REFUSED
from service.settings import Settings
from service.store import Store

LINES = (b"content-type", b"application/x-ndjson")
WINDOW_GROUPS = 4
"""Bytes of one stream on their way: so many times those of a group."""


class Batches:
    """The handler for batches, with the group commits that it feeds and the streams that are open."""

    def __init__(
        self,
        store: Store,
        ids: IdAllocator,
        limits: Limits,
        settings: Settings,
        retry_after_s: Callable[[], int],
        acks: Acks,
        observe: Observe,
    ) -> None:
        self._settings = settings
        self._retry_after_s = retry_after_s
        self._acks = acks
        self._writer = BatchWriter(store, ids, limits, settings.batch_wait_max_s, observe)
        self._window_bytes = limits.group_bytes_max * WINDOW_GROUPS
        self._streams: set[Stream] = set()
        self._ended = False
        self.groups = self._writer.groups

    def __repr__(self) -> str:
        return f"<Batches: {len(self._streams)}/{self._settings.batch_streams_max} streams>"

    async def post(self, request: Request, _: str) -> Response:
        """Store a batch: a result for each item, once all of those that are created are on disk."""
        is_strict = strict(request)
        lines, coding_ = is_lines(request), coding(request)
        if b"idempotency-key" in request.headers:
            raise Problem(
                400,
                "idempotency_key_invalid",
                "A batch has no Idempotency-Key of its own: each item may have one, as its idempotency_key.",
                field="Idempotency-Key",
            )
        if lines and request.scope["http_version"] == "1.0":
            raise Problem(400, "bad_request", "A stream needs HTTP/1.1: its chunks tell whether it is whole.")
        holding = Holding(request)
        if lines and not is_strict:
            return await self._stream(request, holding, coding_)
        settings = self._settings
        body = await whole(request, holding, coding_, settings.batch_bytes_max, settings.body_timeout_s)
        slices = self._cut_lines(body) if lines else self._cut(array(body, settings.batch_items_max))
        if is_strict:
            slices = iter(await _all_valid(slices, "line" if lines else "index"))
        stored = self._stored(slices)
        return await self._streamed(self._lines(stored)) if lines else await self._answer(stored)

    def end_streams(self) -> None:
        """Have every stream read no further and finish; new ones are refused. For an instance that is about to stop."""
        self._ended = True
        for stream in self._streams:
            stream.end(problem_of(Closing()))

    # --- held whole

    def _cut(self, items: Iterable[bytes], numbers: Iterator[int] | None = None) -> Iterator[Slice]:
        return cut(items, self._settings.usage_bytes_max, self._writer.slice_bytes_max, numbers)

    def _cut_lines(self, body: bytes) -> Iterator[Slice]:
        items_max = self._settings.batch_items_max
        lines = body.removesuffix(b"\n")
        if lines.count(b"\n") >= items_max:
            raise too_many(items_max)
        return self._cut(lines.split(b"\n"), itertools.count(1))

    async def _stored(self, slices: Iterator[Slice]) -> AsyncGenerator[Slice, None]:
        """The slices in order, each once the store has answered for it. All are queued first: the client waits for the last."""
        queued: deque[Slice] = deque()
        due_s = self._writer.due_s()
        try:
            for slice_ in slices:
                await self._writer.send(slice_, due_s)
                queued.append(slice_)
                await asyncio.sleep(0)  # others have their turn
            while queued:
                await self._writer.settle(queued[0])
                yield queued.popleft()
        finally:
            let_go(queued)

    async def _answer(self, stored: AsyncGenerator[Slice, None]) -> Response:
        tails: list[bytes] = []
        counts = Counts()
        async with contextlib.aclosing(stored):
            async for slice_ in stored:
                tails += slice_.tails
                counts.add(slice_.counts)
        return Response(200, batch_results.array(counts, tails, self._retry_after_s()), [JSON])

    async def _lines(self, stored: AsyncGenerator[Slice, None]) -> AsyncGenerator[bytes, None]:
        counts = Counts()
        async with contextlib.aclosing(stored):
            async for slice_ in stored:
                counts.add(slice_.counts)
                yield batch_results.lines(slice_.numbers, slice_.tails)
        yield batch_results.last_line(counts, self._retry_after_s(), self._acks.value, None)

    # --- streamed

    async def _stream(self, request: Request, holding: Holding, coding_: str | None) -> Response:
        settings = self._settings
        if self._ended:
            raise Closing("streams have ended")
        if len(self._streams) >= settings.batch_streams_max:
            raise Problem(503, "overloaded", "Too many streams are open. Nothing was stored; try again later.")
        bytes_max = None if coding_ is None else settings.batch_inflated_bytes_max
        stream = Stream(
            pieces(request, holding, coding_, bytes_max, settings.body_timeout_s),
            Lines(settings.usage_bytes_max + ENVELOPE_BYTES_MAX),
            settings.usage_bytes_max,
            self._writer,
            Window(settings.batch_window_items, self._window_bytes),
            holding,
            self._retry_after_s,
            self._acks,
            lambda problem: self._document(problem, request.request_id),
        )
        return await self._streamed(self._counted(stream))

    async def _counted(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        self._streams.add(stream)
        try:
            async with contextlib.aclosing(stream.parts()) as parts:
                async for part in parts:
                    yield part
        finally:
            self._streams.discard(stream)

    @staticmethod
    async def _streamed(parts: AsyncGenerator[bytes, None]) -> Response:
        """The answer once its first part is there: until then what goes wrong still has a status of its own."""
        first = await anext(parts)
        return Streamed(200, first, [LINES], parts)

    @staticmethod
    def _document(problem: Problem, request_id: str) -> dict[str, Any]:
        """What ends a stream early, counted as if it were the answer."""
        REFUSED.labels(problem.code).inc()
        return problem_document(problem, request_id)


async def _all_valid(slices: Iterator[Slice], first_named: str) -> list[Slice]:
    """All slices, if no item of them is invalid. Raises Problem 422 otherwise."""
    whole_: list[Slice] = []
    errors: list[tuple[int, Problem]] = []
    at = invalid_count = 0
    for slice_ in slices:
        whole_.append(slice_)
        invalid_count += len(slice_.errors)
        if len(errors) < batch_results.ERRORS_SHOWN_MAX:
            errors += [(slice_.numbers[i] if slice_.numbers else at + i, problem) for i, problem in slice_.errors]
        at += len(slice_)
        await asyncio.sleep(0)  # others have their turn
    if invalid_count:
        raise batch_results.refusal(errors, invalid_count, first_named)
    return whole_
