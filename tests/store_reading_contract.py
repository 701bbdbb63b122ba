"""The contract of a store's read model: lists, counts, deletes and patients. Run by test_store_contract.py.

Tests keep apart by time: each works between two marks, usages of its own whose times the store has told.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence

from service.errors import StoreError, StoreRefused
from service.store import ListedUsage, Position, Put, Store, StoredUsage
from tests.store_contract import ACCENTS, MINUTE_US, Stores, keyed, on_loop, usages, uuid7

CLOCK_STEP_S = 0.005
"""Two usages that are further apart than this have different times: Cassandra's clock has steps of a millisecond."""


async def mark(store: Store) -> int:
    """A usage of now, and its time in µs: nothing before the call or after it has the same."""
    await asyncio.sleep(CLOCK_STEP_S)
    first = await store.lease_ids(1)
    assert list(await store.put_usages([(first, b'{"mark": true}')])) == [None]
    [found] = await store.get_usages([first])
    assert isinstance(found, StoredUsage)
    await asyncio.sleep(CLOCK_STEP_S)
    return found.received_at_us


def since(us: int) -> Position:
    """The position before everything that was received at ``us`` or later."""
    return (us, 0, "", b"")


async def put_some(store: Store, count: int, body: bytes = b"{}") -> dict[int | str, bytes]:
    """Usages by id, in one group; their bodies by id."""
    first = await store.lease_ids(count)
    group = [(id_, body) for id_ in range(first, first + count)]
    assert list(await store.put_usages(group)) == [None] * count
    return dict(group)


async def put_keyed(store: Store, keys: Iterable[str], body: bytes = b"{}") -> dict[int | str, bytes]:
    """Usages under these new keys, in one group; their bodies by key."""
    group = [keyed(key, body) for key in keys]
    assert list(await store.put_keyed_usages(group)) == [Put.CREATED] * len(group)
    return {item.key: item.usage for item in group}


async def listed(store: Store, from_us: int, until_us: int, page: int = 1000) -> list[ListedUsage]:
    """The whole listing, which must be in order, each usage once, in pages that are neither empty nor too long."""
    rows: list[ListedUsage] = []
    async for part in store.read_usages(since(from_us), until_us, page):
        assert 1 <= len(part) <= page
        assert not rows or rows[-1].position < part[0].position  # said at once, or it might never end
        rows += part
    assert_in_order(rows)
    assert all(from_us <= row.received_at_us < until_us for row in rows)
    return rows


def assert_in_order(rows: Sequence[ListedUsage]) -> None:
    """Positions rise, so none comes twice."""
    positions = [row.position for row in rows]
    assert all(one < other for one, other in itertools.pairwise(positions))


def by_id(rows: Iterable[ListedUsage]) -> dict[int | str, bytes]:
    """The bodies of a listing by id or key."""
    return {row.id: row.usage for row in rows}


async def counted(store: Store, from_us: int, until_us: int) -> dict[int, int]:
    """The count by minute, without the minutes that have none."""
    counts = await store.count_usages(from_us, until_us)
    return {minute: count for minute, count in counts.items() if count}


def tally(rows: Iterable[ListedUsage], from_us: int, until_us: int) -> dict[int, int]:
    """What the count of a part of a listing must be."""
    return dict(Counter(row.received_at_us // MINUTE_US for row in rows if from_us <= row.received_at_us < until_us))


class ReadingContract:
    """Needs a fixture ``stores`` without a patient index."""

    reading_rounds = 200

    @on_loop
    async def test_a_listing_has_every_usage_once_in_order_of_time(self, stores: Stores) -> None:
        """By id and by key, from every instance, byte for byte, at the time that a read tells."""
        one, other = await stores.open(), await stores.open()
        from_us = await mark(one)
        wanted = await put_some(one, 3, ACCENTS)
        wanted |= await put_keyed(other, [f"order {uuid.uuid4()}/€", uuid7(), str(time.time_ns())], ACCENTS)
        for at in range(5):
            wanted |= await put_some((one, other)[at % 2], 1 + at * 60, b'{"at": %d}' % at)
            wanted |= await put_keyed((other, one)[at % 2], [uuid7() for _ in range(20)], b'{"at": %d}' % at)
        until_us = await mark(other)
        rows = await listed(await stores.open(), from_us + 1, until_us)
        assert by_id(rows) == wanted
        assert len(rows) == len(wanted)
        ids = [row for row in rows if isinstance(row.id, int)]
        found = await one.get_usages([row.id for row in ids if isinstance(row.id, int)])
        assert found == [StoredUsage(row.usage, row.received_at_us) for row in ids]
        for row in rows:
            if isinstance(row.id, str):
                [under_key] = await other.get_keyed_usages([row.id])
                assert under_key == [StoredUsage(row.usage, row.received_at_us)]
                assert row.digest == keyed(row.id, row.usage).digest

    @on_loop
    async def test_pages_of_any_size_are_one_listing(self, stores: Stores) -> None:
        """Also those that end between usages of one time; a reading that starts anew at a position goes on behind it."""
        store = await stores.open()
        from_us = await mark(store)
        await put_some(store, 40)
        await put_keyed(store, [uuid7() for _ in range(20)] + [f"key {uuid.uuid4()}" for _ in range(5)])
        await put_some(store, 3)
        until_us = await mark(store)
        whole = await listed(store, from_us + 1, until_us)
        assert len(whole) == 68
        assert len({row.received_at_us for row in whole}) < len(whole)
        for page in (1, 7, 67, 68, 69):
            assert await listed(store, from_us + 1, until_us, page) == whole
        for at in range(0, 68, 3):
            rest: list[ListedUsage] = []
            async for part in store.read_usages(whole[at].position, until_us, 50):
                rest += part
                assert len(rest) < 68
            assert rest == whole[at + 1 :]

    @on_loop
    async def test_a_listing_begins_with_its_start_and_ends_before_its_end(self, stores: Stores) -> None:
        """To the microsecond; a time at which nothing was received has an empty listing, not an empty page."""
        store = await stores.open()
        times = [await mark(store) for _ in range(3)]
        assert [row.received_at_us for row in await listed(store, times[0], times[2])] == times[:2]
        assert [row.received_at_us for row in await listed(store, times[0] + 1, times[2] + 1)] == times[1:]
        assert [row.received_at_us for row in await listed(store, times[1], times[1] + 1)] == [times[1]]
        assert await listed(store, times[0] + 1, times[1]) == []
        assert await listed(store, times[1], times[1]) == []
        assert await listed(store, times[2], times[0]) == []
        assert await listed(store, 1, 1_000_000) == []

    @on_loop
    async def test_thousands_of_one_group_are_listed_in_pages(self, stores: Stores) -> None:
        """A group over several partitions, with a jump between two leases."""
        store = await stores.open()
        from_us = await mark(store)
        first, second = await store.lease_ids(2000), await store.lease_ids(2000)
        ids = [*range(first + 1200, first + 2000), *range(second + 7, second + 1500)]
        assert set(await store.put_usages([(id_, b'{"id": %d}' % id_) for id_ in ids])) == {None}
        until_us = await mark(store)
        rows = await listed(store, from_us + 1, until_us, 100)
        assert by_id(rows) == {id_: b'{"id": %d}' % id_ for id_ in ids}
        assert sum((await counted(store, from_us + 1, until_us)).values()) == len(ids)

    @on_loop
    async def test_paging_while_others_write_misses_nothing_older_and_repeats_nothing(self, stores: Stores) -> None:
        """Each page is a reading of its own, as a client's are; what was acknowledged before the first is in it."""
        writers = [await stores.open() for _ in range(2)]
        reader = await stores.open()
        from_us = await mark(reader)
        older: dict[int | str, bytes] = {}
        for at in range(10):
            older |= await put_some(writers[at % 2], 30)
            older |= await put_keyed(writers[at % 2], [uuid7() for _ in range(10)])
        stop = asyncio.Event()
        written = dict(older)

        async def write(store: Store) -> None:
            while not stop.is_set():
                written.update(await put_some(store, 5))
                written.update(await put_keyed(store, [uuid7(), f"key {uuid.uuid4()}"]))

        writing = [asyncio.create_task(write(store)) for store in writers]
        until_us = stores.clock() + 1_000_000
        rows: list[ListedUsage] = []
        position = since(from_us + 1)
        for _ in range(60):
            # Without a default: CPython 3.11 has a bug there.
            try:
                part = await anext(aiter(reader.read_usages(position, until_us, 20)))
            except StopAsyncIteration:
                break
            rows += part
            position = part[-1].position
        stop.set()
        await asyncio.gather(*writing)
        assert_in_order(rows)
        seen = by_id(rows)
        assert len(seen) == len(rows)
        assert older.keys() <= seen.keys()
        assert seen.keys() <= written.keys()

    @on_loop
    async def test_a_listing_that_is_left_early_is_in_nobodys_way(self, stores: Stores) -> None:
        """Many of them begun, none read to its end; the store writes and closes as ever."""
        store = await stores.open()
        from_us = await mark(store)
        wanted = await put_some(store, 30)
        until_us = await mark(store)
        for _ in range(20):
            reading = store.read_usages(since(from_us + 1), until_us, 10)
            async for part in reading:
                assert len(part) == 10
                break
        assert by_id(await listed(store, from_us + 1, until_us)) == wanted
        await put_some(store, 1)

    @on_loop
    async def test_what_is_sent_again_is_listed_and_counted_once(self, stores: Stores) -> None:
        """Repeats at once, later, in one group, from another instance; and a conflict is nothing."""
        one, other = await stores.open(), await stores.open()
        from_us = await mark(one)
        keys = [uuid7(), uuid7(), f"key {uuid.uuid4()}"]
        group = [keyed(key, ACCENTS) for key in keys]
        assert list(await one.put_keyed_usages([*group, *group])) == [Put.CREATED] * 3 + [Put.DUPLICATE] * 3
        for store in (one, other, one):
            assert list(await store.put_keyed_usages(group)) == [Put.DUPLICATE] * 3
            assert list(await store.put_keyed_usages([keyed(keys[0], b"{}")])) == [Put.CONFLICT]
        racing = keyed(uuid7(), ACCENTS)
        await asyncio.gather(*((one, other)[at % 2].put_keyed_usages([racing]) for at in range(20)))
        await asyncio.sleep(CLOCK_STEP_S)
        until_us = await mark(other)
        rows = await listed(one, from_us + 1, until_us)
        assert sorted(str(row.id) for row in rows) == sorted([*keys, racing.key])
        for store in (one, other):
            assert sum((await counted(store, from_us + 1, until_us)).values()) == 4

    @on_loop
    async def test_counts_are_exact_over_the_ends_of_minutes(self, stores: Stores) -> None:
        """By minute, whichever parts are cut off at both ends, from every instance, and when they are asked again."""
        one, other = await stores.open(), await stores.open()
        from_us = await mark(one)
        for store in (one, other):
            await put_some(store, 30)
            await put_keyed(store, [uuid7() for _ in range(9)] + [f"key {uuid.uuid4()}"])
        repeated = [keyed(uuid7(), b"{}") for _ in range(5)]
        assert set(await one.put_keyed_usages(repeated)) == {Put.CREATED}
        await stores.clock.next_minute()
        assert set(await other.put_keyed_usages(repeated)) == {Put.DUPLICATE}
        assert list(await one.put_keyed_usages([keyed(repeated[0].key, b'{"x": 1}')])) == [Put.CONFLICT]
        await put_some(other, 7)
        await put_keyed(one, [uuid7() for _ in range(3)])
        await stores.clock.next_minute()  # so the one in the middle is whole
        assert set(await one.put_keyed_usages(repeated)) == {Put.DUPLICATE}
        await put_some(one, 2)
        until_us = await mark(one)
        rows = await listed(one, from_us, until_us)
        assert len(rows) == 1 + 80 + 5 + 10 + 2
        assert len({row.received_at_us // MINUTE_US for row in rows}) >= 3
        border_us = rows[-1].received_at_us // MINUTE_US * MINUTE_US
        cuts = [
            *sorted({row.received_at_us for row in rows})[::3],
            border_us - 1,
            border_us,
            border_us + 1,
            until_us - 1,
        ]
        for _ in range(2):
            for store in (one, other):
                assert await counted(store, from_us, until_us) == tally(rows, from_us, until_us)
                for cut_us in cuts:
                    assert await counted(store, from_us, cut_us) == tally(rows, from_us, cut_us)
                    assert await counted(store, cut_us, until_us) == tally(rows, cut_us, until_us)
                    assert await counted(store, cut_us, cut_us + 1) == tally(rows, cut_us, cut_us + 1)
                    assert await counted(store, cut_us, cut_us) == {}
        whole_us = from_us // MINUTE_US * MINUTE_US, (until_us // MINUTE_US + 1) * MINUTE_US
        assert sum((await counted(one, *whole_us)).values()) >= len(rows)
        assert await counted(one, 0, 1_000_000_000) == {}
        assert await counted(one, until_us, from_us) == {}

    @on_loop
    async def test_a_usage_that_was_deleted_is_in_no_read_list_or_count(self, stores: Stores) -> None:
        """In a minute that is over and has been counted, and in the present one, for every instance."""
        one, other = await stores.open(), await stores.open()
        from_us = await mark(one)
        wanted: dict[int | str, bytes] = {}
        for _ in range(2):
            ids = await put_some(one, 4)
            keys = await put_keyed(other, [uuid7(), uuid7(), f"key {uuid.uuid4()}"])
            wanted |= ids | keys
            await stores.clock.next_minute()
        # What follows is the present minute.
        wanted |= await put_some(one, 2) | await put_keyed(one, [uuid7(), uuid7()])
        until_us = await mark(one)
        for store in (one, other):
            assert sum((await counted(store, from_us + 1, until_us)).values()) == len(wanted)
        numbers = [id_ for id_ in wanted if isinstance(id_, int)][::2]
        texts = [key for key in wanted if isinstance(key, str)][::2]
        assert list(await other.delete_usages(numbers)) == [True] * len(numbers)
        assert list(await one.delete_keyed_usages(texts)) == [True] * len(texts)
        left = {id_: usage for id_, usage in wanted.items() if id_ not in {*numbers, *texts}}
        for store in (one, other, await stores.open()):
            assert usages(await store.get_usages(numbers)) == [None] * len(numbers)
            assert [
                list(found) for found in await store.get_keyed_usages(texts) if not isinstance(found, StoreError)
            ] == [[] for _ in texts]
            rows = await listed(store, from_us + 1, until_us)
            assert by_id(rows) == left
            assert await counted(store, from_us + 1, until_us) == tally(rows, from_us, until_us)
        assert list(await one.delete_usages(numbers)) == [False] * len(numbers)
        assert list(await other.delete_keyed_usages(texts)) == [False] * len(texts)
        assert sum((await counted(one, from_us + 1, until_us)).values()) == len(left)

    @on_loop
    async def test_a_delete_tells_what_was_there(self, stores: Stores) -> None:
        """Also twice in one group, and for what nobody has stored."""
        store = await stores.open()
        id_, *_ = await put_some(store, 1)
        key = uuid7()
        await put_keyed(store, [key])
        assert isinstance(id_, int)
        unused = await store.lease_ids(1)
        assert list(await store.delete_usages([id_, unused, id_, 1 << 52])) == [True, False, False, False]
        assert list(await store.delete_keyed_usages([key, "nobody's key", key, uuid7()])) == [True, False, False, False]
        assert list(await store.delete_usages([])) == []

    @on_loop
    async def test_a_key_is_new_after_its_delete(self, stores: Stores) -> None:
        """With the same body or another: created, listed and counted once; the id under which it was is not another's."""
        one, other = await stores.open(), await stores.open()
        from_us = await mark(one)
        keys = [uuid7(), uuid7().upper(), f"key {uuid.uuid4()}/€", str(time.time_ns())]
        await put_keyed(one, keys, ACCENTS)
        before_us = await mark(one)
        assert list(await other.delete_keyed_usages(keys)) == [True] * 4
        bodies = [ACCENTS, b'{"another": 1}', ACCENTS, b"{}"]
        group = [keyed(key, body) for key, body in zip(keys, bodies, strict=True)]
        assert list(await one.put_keyed_usages(group)) == [Put.CREATED] * 4
        assert list(await other.put_keyed_usages(group)) == [Put.DUPLICATE] * 4
        until_us = await mark(one)
        rows = [row for row in await listed(other, from_us + 1, until_us) if isinstance(row.id, str)]
        assert by_id(rows) == dict(zip(keys, bodies, strict=True))
        assert len(rows) == 4
        assert all(row.received_at_us > before_us for row in rows)
        # The mark in the middle is counted too.
        assert sum((await counted(one, from_us + 1, until_us)).values()) == 5

    @on_loop
    async def test_a_delete_takes_all_that_raced_under_its_key(self, stores: Stores) -> None:
        """Two bodies under one key are two rows: listed both, counted both, and gone together."""
        one, other = await stores.open(), await stores.open()
        for _ in range(10):
            from_us = await mark(one)
            first, second = keyed(key := uuid7(), b'{"from": 1}'), keyed(key, b'{"from": 2}')
            puts = await asyncio.gather(one.put_keyed_usages([first]), other.put_keyed_usages([second]))
            await asyncio.sleep(CLOCK_STEP_S)
            until_us = await mark(one)
            created = sorted(
                item.usage for item, [put] in zip((first, second), puts, strict=True) if put is Put.CREATED
            )
            rows = await listed(other, from_us + 1, until_us)
            assert sorted(row.usage for row in rows) == created
            assert {row.id for row in rows} == {key}
            assert sum((await counted(other, from_us + 1, until_us)).values()) == len(created)
            assert list(await one.delete_keyed_usages([key])) == [True]
            assert await listed(other, from_us + 1, until_us) == []
            assert await counted(other, from_us + 1, until_us) == {}

    @on_loop
    async def test_a_usage_posted_after_its_delete_is_never_lost(self, stores: Stores) -> None:
        """POST, DELETE, POST, GET as fast as they go, each on another instance than the one before."""
        one, other = await stores.open(), await stores.open()

        async def rounds(count: int) -> None:
            for _ in range(count):
                item = keyed(uuid7(), ACCENTS)
                assert list(await one.put_keyed_usages([item])) == [Put.CREATED]
                assert list(await other.delete_keyed_usages([item.key])) == [True]
                [nothing] = await one.get_keyed_usages([item.key])
                assert not isinstance(nothing, StoreError)
                assert not nothing
                assert list(await one.put_keyed_usages([item])) == [Put.CREATED]
                [found] = await other.get_keyed_usages([item.key])
                assert not isinstance(found, StoreError)
                assert usages(found) == [ACCENTS]

        await asyncio.gather(*(rounds(self.reading_rounds // 20) for _ in range(20)))

    @on_loop
    async def test_without_the_index_patients_are_not_looked_for(self, stores: Stores) -> None:
        """It would be a scan of everything; the refusal says what to switch on."""
        store = await stores.open()
        try:
            await store.read_patient("100", b"", 10)
        except StoreRefused as error:
            assert "patient_index" in str(error)  # noqa: PT017 - what pytest.raises would do, without pytest
        else:
            raise AssertionError("patients were looked for without an index")

    @on_loop
    async def test_a_store_that_is_not_open_reads_lists_counts_and_deletes_nothing(self, stores: Stores) -> None:
        """Each refuses, as writes do."""
        store = stores.make()
        results = [*await store.delete_usages([1, 2]), *await store.delete_keyed_usages(["key"])]
        assert [type(result) for result in results] == [StoreRefused] * 3

        async def list_all() -> None:
            async for _ in store.read_usages(since(0), 1, 10):
                raise AssertionError("a page of nothing")

        for read in (list_all(), store.count_usages(0, 1), store.read_patient("100", b"", 10)):
            try:
                await read
            except StoreRefused:
                continue
            raise AssertionError("a store that is not open answered")


class PatientContract:
    """Needs a fixture ``stores`` with a patient index."""

    @on_loop
    async def test_a_patient_is_found_as_number_and_as_string(self, stores: Stores) -> None:
        """Whatever escapes it came with, by id and by key; nobody else's usages are."""
        store = await stores.open()
        number = time.time_ns()
        bodies = [b'{"patientId": %d}', b'{"patientId":"%d"}', b'{"x": {"patientId": 1}, "patientId" : %d , "y": []}']
        wanted: dict[int | str, bytes] = {}
        for body in bodies:
            wanted |= await put_some(store, 1, body % number)
            wanted |= await put_keyed(store, [uuid7()], body % number)
        for other in (
            b'{"patientId": %d}' % (number + 1),
            b'{"patientId": "%d0"}' % number,
            b"{}",
            b'{"patientId":""}',
        ):
            await put_some(store, 1, other)
            await put_keyed(store, [uuid7()], other)
        await put_some(store, 1, b'{"x": {"patientId": %d}}' % number)
        rows, after = await store.read_patient(str(number), b"", 100)
        assert (by_id(rows), after) == (wanted, b"")
        assert len(rows) == len(wanted)
        for row in rows:
            found = await store.get_usages([row.id]) if isinstance(row.id, int) else ()
            assert list(found) == ([StoredUsage(row.usage, row.received_at_us)] if found else [])
        name = f"Ærø {uuid.uuid4()}"
        escaped = b'{"patientId": "\\u00c6r\\u00f8%b"}' % name[3:].encode()
        wanted = await put_some(store, 1, escaped) | await put_keyed(
            store, [uuid7()], b'{"patientId": "%b"}' % name.encode()
        )
        rows, after = await store.read_patient(name, b"", 100)
        assert (by_id(rows), after) == (wanted, b"")

    @on_loop
    async def test_pages_of_a_patient_are_one_list(self, stores: Stores) -> None:
        """Nothing is missed or comes twice, whatever the page; the order is the same each time, from every instance."""
        one, other = await stores.open(), await stores.open()
        patient = str(uuid.uuid4())
        body = b'{"patientId": "%b"}' % patient.encode()
        wanted = await put_some(one, 13, body) | await put_keyed(other, [uuid7() for _ in range(12)], body)
        await put_some(one, 20, b'{"patientId": "somebody else"}')
        orders = []
        for store, limit in ((one, 4), (other, 4), (one, 25), (other, 24), (one, 1), (one, 100)):
            rows: list[ListedUsage] = []
            after = b""
            while True:
                part, after = await store.read_patient(patient, after, limit)
                assert len(part) <= limit
                rows += part
                if not after:
                    break
            assert by_id(rows) == wanted
            assert len(rows) == len(wanted)
            orders.append([row.id for row in rows])
        assert orders == [orders[0]] * len(orders)

    @on_loop
    async def test_a_patients_usage_that_was_deleted_is_not_found(self, stores: Stores) -> None:
        """Nor is a patient whom nobody has named; a key that is posted again is found again."""
        store = await stores.open()
        patient = str(uuid.uuid4())
        body = b'{"patientId": "%b"}' % patient.encode()
        assert await store.read_patient(patient, b"", 10) == ([], b"")
        kept = await put_some(store, 1, body)
        gone = await put_some(store, 1, body)
        key = uuid7()
        await put_keyed(store, [key], body)
        assert set(await store.delete_usages([id_ for id_ in gone if isinstance(id_, int)])) == {True}
        assert list(await store.delete_keyed_usages([key])) == [True]
        rows, after = await store.read_patient(patient, b"", 10)
        assert (by_id(rows), after) == (kept, b"")
        await put_keyed(store, [key], body)
        rows, after = await store.read_patient(patient, b"", 10)
        assert (by_id(rows), after) == (kept | {key: body}, b"")
