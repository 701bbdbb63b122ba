"""Counting usages: in all, and by minute, hour or day."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from service.errors import Problem
from service.http import JSON, Request, Response
from service.listing import CLOCK_AHEAD_US, span
from service.query import invalid, parameters
from service.reading import ReadLimit, pages
from service.settings import Settings
from service.store import Store
from service.timespan import MINUTE_US, WINDOWS_US, add_windows, rfc3339, window_count, window_starts

CHUNK_US = 64 * 24 * 60 * MINUTE_US
"""The store is asked for so much at a time: 92,160 minutes at most are held."""

_PARAMETERS = ("from", "to", "window")


class Counting:
    """The handler for counts."""

    def __init__(self, store: Store, settings: Settings, limit: ReadLimit) -> None:
        self._store = store
        self._limit = limit
        self._windows_max = settings.count_windows_max

    async def count(self, request: Request, _: str) -> Response:
        """How many usages were received in [from, to): each once, however often it was sent."""
        given = parameters(request, _PARAMETERS)
        now_us = self._store.now_us()
        from_us, until_us = span(given, now_us)
        window_us = _window(given)
        if "from" in given:
            self._check_windows(from_us, until_us, window_us)
        with self._limit.hold():
            # Times without usages cost nothing: the counting begins with the first usage, and ends with the present.
            known_until_us = min(until_us, now_us + CLOCK_AHEAD_US)
            first_us = await self._first(from_us, known_until_us)
            # From the beginning of its minute, where that is in the span: a minute that is cut must be counted anew.
            start_us = max(from_us, first_us // MINUTE_US * MINUTE_US)
            if "from" not in given:
                from_us = first_us
                self._check_windows(from_us, until_us, window_us)
            if window_us is None:
                total = 0
                async for counts in self._chunks(start_us, known_until_us):
                    total += sum(counts.values())
                return _response(from_us, until_us, total, b"")
            sums = [0] * window_count(from_us, until_us, window_us)
            async for counts in self._chunks(start_us, known_until_us):
                add_windows(sums, from_us, window_us, [counts])
        starts = window_starts(from_us, until_us, window_us)
        windows = b", ".join(
            b'{"from": "%b", "count": %d}' % (rfc3339(start), count) for start, count in zip(starts, sums, strict=True)
        )
        return _response(from_us, until_us, sum(sums), b', "windows": [%b]' % windows)

    def _check_windows(self, from_us: int, until_us: int, window_us: int | None) -> None:
        if window_us is not None and window_count(from_us, until_us, window_us) > self._windows_max:
            raise Problem(
                400,
                "too_many_windows",
                f"from and to span more than {self._windows_max} of these windows; narrow them or take larger ones.",
                field="window",
            )

    async def _first(self, from_us: int, until_us: int) -> int:
        """When the first usage of the span was received; its end when there is none."""
        async with pages(self._store, (from_us, 0, "", b""), until_us, 1) as found:
            async for rows in found:
                return rows[0].received_at_us
        return until_us

    async def _chunks(self, from_us: int, until_us: int) -> AsyncIterator[Mapping[int, int]]:
        while from_us < until_us:
            end_us = min(until_us, (from_us // CHUNK_US + 1) * CHUNK_US)
            yield await self._store.count_usages(from_us, end_us)
            from_us = end_us


def _window(given: dict[str, str]) -> int | None:
    if "window" not in given:
        return None
    if given["window"] not in WINDOWS_US:
        raise invalid("window", f"window must be one of {', '.join(WINDOWS_US)}.")
    return WINDOWS_US[given["window"]]


def _response(from_us: int, until_us: int, total: int, windows: bytes) -> Response:
    answer = b'{"from": "%b", "to": "%b", "total": %d%b}' % (rfc3339(from_us), rfc3339(until_us), total, windows)
    return Response(200, answer, [JSON])
