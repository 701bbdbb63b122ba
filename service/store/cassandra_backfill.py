"""The directory of usages that were stored without one, by a release that had none: made out of all of both tables.

By the schema step that brings the directory, and by ``schema --backfill`` for what older instances stored after that. It
may be done at any time and again, also beside writers: it adds what is missing, and unseals the minutes it finds, so that
they are counted anew. Minutes and days come last: until then no list or count takes for whole what is half done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import SimpleStatement

from service.store.places import SPAN_US, Place, day_of, is_shared, minute_of, name_of

T = TypeVar("T")

ROWS_PER_PAGE = 5000
PAGE_BYTES_MAX = 8 << 20
"""What a page that is read may come to, were all usages of the largest size: Cassandra reads them to tell their times."""
WRITES_AT_ONCE = 64
TIMEOUT_S = 20.0

Work: TypeAlias = Callable[[Any], T]
"""What is done with the driver's session, in a thread."""
Run: TypeAlias = Callable[[Work[Any]], Awaitable[Any]]
"""Runs it, again and again until it succeeds: all of it can be repeated."""

SCANS = ("SELECT block, WRITETIME(usage) FROM {}.usages", "SELECT bucket, WRITETIME(usage) FROM {}.keyed_usages")
INSERT_PLACE = "INSERT INTO {}.usage_directory (minute, since_us, place) VALUES (?, ?, ?)"
VOID_MINUTE = "DELETE count FROM {}.usage_minutes WHERE day = ? AND minute = ?"
INSERT_MINUTE = "INSERT INTO {}.usage_minutes (day, minute) VALUES (?, ?)"
# It says nothing of what it created, so that the minute is read when it is sealed.
INSERT_WRITER = "INSERT INTO {}.usage_writers (minute, writer, settled) VALUES (?, uuid(), true)"
INSERT_DAY = "INSERT INTO {}.usage_days (name, day) VALUES ('usages', ?)"


def directory_rows(rows: Iterable[tuple[Place, int | None]]) -> list[tuple[int, int, str]]:
    """Minute, since and place for usages of these places and times: one for each second of a place that several share. Pure."""
    found: dict[tuple[Place, int], int] = {}
    for place, at_us in rows:
        if at_us is not None:
            key = (place, at_us // SPAN_US if is_shared(place) else at_us)
            found[key] = min(found.get(key, at_us), at_us)
    return [(minute_of(since_us), since_us, name_of(place)) for (place, _), since_us in found.items()]


async def backfill(run: Run, keyspace: str, usage_bytes_max: int, progress: Callable[[], Awaitable[None]]) -> int:
    """Write it; how many usages were found. ``progress`` is called after each page. Raises what ``run`` raises."""
    page_rows = max(1, min(ROWS_PER_PAGE, PAGE_BYTES_MAX // usage_bytes_max))
    minutes: set[int] = set()
    count = 0
    for scan in SCANS:
        state: bytes | None = None
        while True:
            page, state = await run(_reader(scan.format(keyspace), state, page_rows))
            rows = directory_rows(page)
            count += len(page)
            minutes |= {minute for minute, _, _ in rows}
            await run(_writer(INSERT_PLACE.format(keyspace), rows))
            await progress()
            if state is None:
                break
    by_minute = [(day_of(minute), minute) for minute in sorted(minutes)]
    for start in range(0, len(by_minute), ROWS_PER_PAGE):
        part = by_minute[start : start + ROWS_PER_PAGE]
        await run(_writer(INSERT_WRITER.format(keyspace), [(minute,) for _, minute in part]))
        for text in (VOID_MINUTE, INSERT_MINUTE):
            await run(_writer(text.format(keyspace), part))
            await progress()
    await run(_writer(INSERT_DAY.format(keyspace), sorted({(day,) for day, _ in by_minute})))
    return count


def _reader(
    text: str, state: bytes | None, page_rows: int
) -> Work[tuple[list[tuple[Place, int | None]], bytes | None]]:
    def work(driver: Any) -> tuple[list[tuple[Place, int | None]], bytes | None]:
        result = driver.execute(SimpleStatement(text, fetch_size=page_rows), timeout=TIMEOUT_S, paging_state=state)
        return list(result.current_rows), result.paging_state

    return work


def _writer(text: str, rows: list[Any]) -> Work[None]:
    def work(driver: Any) -> None:
        if rows:
            execute_concurrent_with_args(driver, driver.prepare(text), rows, concurrency=WRITES_AT_ONCE)

    return work
