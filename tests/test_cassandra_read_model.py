"""Lists, counts and deletes on a real Cassandra node, at times that the test sets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from service.errors import StoreUnknown
from service.settings import Settings
from service.store import KeyedUsage, ListedUsage, Position, Put
from service.store.cassandra import CassandraStore
from service.store.cassandra_schema import apply_schema
from service.store.cassandra_statements import PAGE
from service.store.counting import DOUBT_US, SEAL_AFTER_US
from service.store.places import MINUTE_US, SPAN_US, minute_of
from tests.cassandra_model import SetClock

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
# Starting a node is slow on a busy machine, and belongs to the first test.
pytestmark = [pytest.mark.cassandra, pytest.mark.timeout(300)]

HOUR_US = 60 * MINUTE_US
hours = itertools.count()
"""Each test has some hours of its own, a few days ago."""


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> str:
    """One keyspace for these tests, which keep apart by time."""
    return cassandra_node.new_keyspace()


@pytest.fixture
def settings(cassandra_node: CassandraNode, keyspace: str) -> Settings:
    """Of a store on the node; these tests are not about time limits."""
    return cassandra_node.settings(keyspace, store_timeout_s="20")


@pytest.fixture
def start_us() -> int:
    """The beginning of an hour that no other test writes in."""
    return int(time.time() // 86_400 - 40) * 86_400_000_000 + next(hours) * 48 * HOUR_US


@contextlib.asynccontextmanager
async def opened(settings: Settings, clock: SetClock, count: int = 1) -> AsyncIterator[list[CassandraStore]]:
    """Stores with this clock, closed at the end; nothing is settled or sealed unless the test does it."""
    stores = [CassandraStore(settings, clock) for _ in range(count)]
    try:
        for store in stores:
            await store.open()
            await store._counting.close()
        yield stores
    finally:
        for store in stores:
            await store.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it on a web instance's kind of event loop."""
    uvloop.run(test())


def keyed(key: str, usage: bytes = b"{}") -> KeyedUsage:
    """A usage under a key."""
    return KeyedUsage(key, hashlib.sha256(usage).digest(), usage)


def uuid7(at_us: int, serial: int) -> str:
    """A UUIDv7 of that time."""
    return str(uuid.UUID(int=at_us // 1000 << 80 | 7 << 76 | 2 << 62 | uuid.uuid4().int & 0xFFFFFFFF0000 | serial))


def since(us: int) -> Position:
    """The position before everything that was stored then."""
    return (us, 0, "", b"")


async def listed(store: CassandraStore, from_us: int, until_us: int, page: int = 1000) -> list[ListedUsage]:
    """A whole listing."""
    return [usage async for part in store.read_usages(since(from_us), until_us, page) for usage in part]


async def put(store: CassandraStore, count: int) -> None:
    """So many usages, in one group."""
    first = await store.lease_ids(count)
    assert set(await store.put_usages([(id_, b'{"n": 1}') for id_ in range(first, first + count)])) == {None}


async def settle(*stores: CassandraStore) -> None:
    """What the background does once a second."""
    for store in stores:
        await store._directory._settle_what_is_over()


async def sealed(store: CassandraStore, minute: int) -> int | None:
    """The minute's seal."""
    [(_, count)] = await store._counting._minutes.of_day(minute // 1440, minute, minute)
    return count


def test_minutes_are_listed_and_counted_before_and_after_they_are_sealed(settings: Settings, start_us: int):
    """Blocks, shared buckets and keys of their own, by two instances, over the ends of minutes and of a day."""
    border_us = start_us - start_us % (24 * HOUR_US) + 24 * HOUR_US

    async def test() -> None:
        clock = SetClock(border_us - 2 * MINUTE_US)
        async with opened(settings, clock, 2) as stores:
            for step in range(30):
                store = stores[step % 2]
                await put(store, 1 + step * 7)
                keys = [*(uuid7(clock.at_us, at) for at in range(step)), f"key-{uuid.uuid4()}"]
                assert set(await store.put_keyed_usages([keyed(key) for key in keys])) == {Put.CREATED}
                clock.at_us += 9 * SPAN_US
            until_us = clock.at_us
            whole = await listed(stores[0], start_us, until_us)
            assert len(whole) == sum(1 + step * 7 + step + 1 for step in range(30))
            assert [usage.position for usage in whole] == sorted({usage.position for usage in whole})
            assert await listed(stores[1], start_us, until_us, 13) == whole
            wanted = Counter(minute_of(usage.received_at_us) for usage in whole)
            assert len(wanted) == 5
            middle = whole[len(whole) // 2].received_at_us
            for _ in range(2):
                for store in stores:
                    assert await store.count_usages(start_us, until_us) == wanted
                    assert sum((await store.count_usages(start_us, middle)).values()) == sum(
                        usage.received_at_us < middle for usage in whole
                    )
                clock.at_us += 2 * MINUTE_US
                await settle(*stores)
                await stores[0].count_usages(start_us, clock.at_us)
                for minute, count in wanted.items():
                    assert await sealed(stores[1], minute) == count

    run(test)


def test_a_bucket_of_more_than_a_page_is_listed_and_counted_whole(settings: Settings, start_us: int):
    """Paged by key where Cassandra orders it by key and the listing by time."""

    async def test() -> None:
        clock = SetClock(start_us)
        async with opened(settings, clock) as [store]:
            count = 3 * PAGE
            for first in range(0, count, 200):
                group = [keyed(uuid7(start_us, 4 * at)) for at in range(first, first + 200)]
                assert set(await store.put_keyed_usages(group)) == {Put.CREATED}
                clock.at_us += 20_000
            whole = await listed(store, start_us, clock.at_us)
            assert len({usage.id for usage in whole}) == len(whole) == count
            assert [usage.position for usage in whole] == sorted(usage.position for usage in whole)
            half = whole[count // 2].received_at_us
            assert sum((await store.count_usages(start_us, half)).values()) == count // 2
            assert await store.count_usages(start_us, clock.at_us) == {minute_of(start_us): count}

    run(test)


def test_a_seal_is_taken_back_by_a_delete_and_by_who_comes_late(settings: Settings, start_us: int):
    """And made anew; a usage that is posted again under its key is one of the minute of its second time."""

    async def test() -> None:
        clock = SetClock(start_us)
        minute = minute_of(start_us)
        async with opened(settings, clock, 2) as [store, other]:
            await put(store, 10)
            key = f"key-{uuid.uuid4()}"
            await store.put_keyed_usages([keyed(key)])
            clock.at_us = start_us + MINUTE_US + SEAL_AFTER_US + SPAN_US
            await settle(store, other)
            assert await store.count_usages(start_us, clock.at_us) == {minute: 11}
            assert await sealed(store, minute) == 11
            [first, *_] = await listed(store, start_us, clock.at_us)
            assert isinstance(first.id, int)
            clock.at_us += SPAN_US
            assert list(await other.delete_usages([first.id])) == [True]
            assert list(await other.delete_keyed_usages([key])) == [True]
            assert await sealed(store, minute) is None
            clock.at_us += SPAN_US
            assert await store.count_usages(start_us, clock.at_us) == {minute: 9}
            assert await sealed(store, minute) == 9
            assert list(await other.put_keyed_usages([keyed(key)])) == [Put.CREATED]
            clock.at_us += SPAN_US
            assert await store.count_usages(start_us, clock.at_us) == {minute: 9, minute + 1: 1}
            # Late: its time is long ago, as of one that stood still in between.
            work = await store._directory.register([5], start_us + SPAN_US, store._link.deadline_s())
            assert await sealed(other, minute) is None
            clock.at_us += SPAN_US
            await other.count_usages(start_us, clock.at_us)
            assert await sealed(other, minute) is None, "a writer is at work"
            clock.at_us += DOUBT_US
            await other.count_usages(start_us, clock.at_us)
            assert await sealed(other, minute) == 9, "nothing can come to light any more"
            store._directory.leave(work, certain=True)  # type: ignore[arg-type]

    run(test)


def test_a_write_that_lands_late_keeps_its_time(cassandra_node: CassandraNode, keyspace: str, start_us: int):
    """A node that stood still takes it up after the answer was "unknown": the directory names its minute all the same."""
    settings = cassandra_node.settings(keyspace, store_timeout_s="3")

    async def test() -> None:
        clock = SetClock(start_us)
        minute = minute_of(start_us)
        async with opened(settings, clock) as [store]:
            await put(store, 1)
            first = await store.lease_ids(1)
            with cassandra_node.paused():
                [result] = await store.put_usages([(first, b'{"late": 1}')])
                assert isinstance(result, StoreUnknown)
                sent_us = clock._last_us
            clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
            async with asyncio.timeout(60):
                while len(await _patiently(lambda: listed(store, start_us, clock.at_us))) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            rows = await listed(store, start_us, clock.at_us)
            assert start_us < rows[-1].received_at_us <= sent_us
            await settle(store)
            assert await store.count_usages(start_us, clock.at_us) == {minute: 2}
            assert await sealed(store, minute) is None

    run(test)


async def _patiently(read: Callable[[], Coroutine[Any, Any, list[ListedUsage]]]) -> list[ListedUsage]:
    """Nothing while a node that has just come back does not answer."""
    with contextlib.suppress(Exception):
        return await read()
    return []


def test_a_statement_that_the_node_has_forgotten_keeps_its_time(settings: Settings, start_us: int):
    """It goes the driver's own way, which must write with the same timestamp."""

    async def test() -> None:
        clock = SetClock(start_us)
        async with opened(settings, clock) as [store]:
            await put(store, 1)
            session = store._link.session
            assert session is not None
            table = f'"{settings.store.keyspace}".usages'
            await session.run_blocking(
                lambda driver: driver.execute(f"ALTER TABLE {table} ADD forgotten int", timeout=60)
            )
            clock.at_us += SPAN_US
            for count in (2, 1):
                await put(store, count)
            rows = await listed(store, start_us, start_us + MINUTE_US)
            assert len(rows) == 4
            assert all(start_us <= row.received_at_us < start_us + 2 * SPAN_US for row in rows)

    run(test)


def test_usages_of_before_the_directory_are_entered_in_it(cassandra_node: CassandraNode):
    """By the schema step that makes it, also when it was cut off and runs again."""
    keyspace = cassandra_node.new_keyspace()
    settings = cassandra_node.settings(keyspace, store_timeout_s="20")
    start_us = int(time.time() // 86_400 - 7) * 86_400_000_000
    tables = ("usage_directory", "usage_minutes", "usage_days", "usage_writers")

    async def test() -> None:
        clock = SetClock(start_us)
        async with opened(settings, clock) as [store]:
            for _ in range(5):
                await put(store, 1500)
                keys = [*(uuid7(clock.at_us, at) for at in range(9)), f"key-{uuid.uuid4()}"]
                await store.put_keyed_usages([keyed(key) for key in keys])
                clock.at_us += 25 * SPAN_US
            before = await listed(store, 0, clock.at_us)
            session = store._link.session
            assert session is not None
            texts = [f'TRUNCATE "{keyspace}".{table}' for table in tables]
            texts.append(f'DELETE FROM "{keyspace}".schema_versions WHERE version = 2')
            for text in texts:
                await session.run_blocking(lambda driver, text=text: driver.execute(text, timeout=60))  # type: ignore[misc]
        lines: list[str] = []
        await apply_schema(settings, wait_s=60, report=lines.append)
        assert f"directory: made for {len(before)} usages, which are counted anew" in lines
        async with opened(settings, clock) as [store]:
            assert len(before) == 5 * 1510
            assert await listed(store, 0, clock.at_us) == before
            [middle] = [usage for usage in before if usage.position == before[4000].position]
            rest = [usage async for part in store.read_usages(middle.position, clock.at_us, 1000) for usage in part]
            assert rest == before[4001:]
            wanted = Counter(minute_of(usage.received_at_us) for usage in before)
            assert await store.count_usages(0, clock.at_us) == wanted

    run(test)


def test_the_patient_index_is_made_when_it_is_asked_for_and_only_then(cassandra_node: CassandraNode):
    """A store that wants it says so where it is missing; the schema step makes it, also twice, also later."""
    keyspace = cassandra_node.new_keyspace()
    settings = cassandra_node.settings(keyspace, patient_index="on", store_timeout_s="20")

    async def test() -> None:
        with pytest.raises(Exception, match="python -m service schema"):
            await CassandraStore(settings).open()
        for _ in range(2):
            lines: list[str] = []
            await apply_schema(settings, wait_s=60, report=lines.append)
            assert any(line.startswith("patient index: in place") for line in lines)
        store = CassandraStore(settings)
        await store.open()
        first = await store.lease_ids(1)
        await store.put_usages([(first, b'{"patientId": 7}')])
        rows, after = await store.read_patient("7", b"", 5)
        assert ([row.id for row in rows], after) == ([first], b"")
        await store.close()

    run(test)
