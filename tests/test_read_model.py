"""Lists, counts and deletes of the Cassandra store, on tables in memory and with a clock that the test sets."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import StoreRefused, StoreUnknown
from service.store import KeyedUsage, ListedUsage, Position, Put
from service.store import counting as counting_module
from service.store import directory as directory_module
from service.store import listing as listing_module
from service.store import minutes as minutes_module
from service.store import times as times_module
from service.store.counting import DOUBT_US, SEAL_AFTER_US
from service.store.directory import LATE_US, Work
from service.store.places import MINUTE_US, SPAN_US, minute_of
from tests.cassandra_model import START_US, Fail, ModelStore, SetClock, Tables

MINUTE = minute_of(START_US)
BEGINNING: Position = (0, 0, "", b"")
LATER_US = START_US + 10 * MINUTE_US


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On an event loop of its own."""
    asyncio.run(test())


def keyed(key: str, usage: bytes = b"{}") -> KeyedUsage:
    """A usage under a key."""
    return KeyedUsage(key, hashlib.sha256(usage).digest(), usage)


def uuid7(serial: int, at_us: int = START_US) -> str:
    """A UUIDv7 of that time."""
    value = at_us // 1000 << 80 | 7 << 76 | 2 << 62 | serial
    return str(uuid.UUID(int=value))


async def listed(
    store: ModelStore, after: Position = BEGINNING, until_us: int = LATER_US, page: int = 1000
) -> list[ListedUsage]:
    """The whole listing."""
    return [usage async for part in store.listing.pages(after, until_us, page) for usage in part]


async def settle_all(store: ModelStore) -> None:
    """What the background does once a second."""
    await store.directory._settle_what_is_over()


async def seal_all(store: ModelStore) -> None:
    """What the background does every five seconds, until nothing more is due."""
    await store.counting._seal_what_is_due()
    store.counting._due_us = dict.fromkeys(store.counting._due_us, 1)
    await store.counting._seal_what_is_due()


def failing(name: str) -> Fail:
    """Statements of this name find the store down."""
    return lambda asked, _: StoreRefused("down") if asked == name else None


async def idle() -> None:
    """Let work in the background go on."""
    for _ in range(30):
        await asyncio.sleep(0)


def new_store() -> tuple[Tables, ModelStore]:
    """A store on tables of its own, at the beginning of a minute."""
    tables = Tables(SetClock())
    return tables, ModelStore(tables)


# --- the directory


def test_a_usage_is_in_the_directory_before_it_is_answered():
    """Its day, its minute, the writer at work and its place, whose time is no later than the usage's own."""

    async def test() -> None:
        tables, store = new_store()
        assert list(await store.usages.put_usages([(1030, b"{}")])) == [None]
        assert tables.log.index("insert_place") < tables.log.index("insert_usage")
        assert (tables.days, tables.minutes) == ({MINUTE // 1440}, {MINUTE})
        ((at_us, _, _),) = tables.rows.values()
        assert min(since for minute, since, place in tables.places if place == "usages/1") <= at_us
        assert list(tables.writers.values()) == [False]

    run(test)


def test_a_place_that_is_known_costs_the_next_usage_nothing():
    """Within one second; in the next one it is named again, once."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(5000, b"{}")])
        await idle()
        before = Counter(tables.log)
        await store.usages.put_usages([(5001, b"{}")])
        assert Counter(tables.log) - before == {"insert_usage": 1}
        tables.clock.at_us += SPAN_US
        await store.usages.put_usages([(5002, b"{}")])
        await idle()
        assert (Counter(tables.log) - before)["insert_writer"] == 0
        assert {place for _, since, place in tables.places if since >= START_US + SPAN_US} >= {"usages/4"}

    run(test)


def test_the_next_block_and_the_next_second_are_named_ahead():
    """A put that comes to them waits for nothing, also where the next second is the next minute."""

    async def test() -> None:
        tables, store = new_store()
        tables.clock.at_us = START_US + MINUTE_US - 300_000
        await store.usages.put_usages([(5000, b"{}")])
        await idle()
        for ahead_us, id_ in ((0, 5121), (400_000, 5122), (0, 5000)):
            tables.clock.at_us += ahead_us
            before = len(tables.log)
            await store.usages.put_usages([(id_, b"{}")])
            assert tables.log[before] == "insert_usage"
            await idle()
        assert tables.minutes == {MINUTE, MINUTE + 1}

    run(test)


def test_buckets_at_work_are_named_ahead_and_those_at_rest_are_not():
    """A bucket of UUIDv7s of these ten seconds is at work in the next second too, and not for ever."""

    async def test() -> None:
        tables, store = new_store()
        tables.clock.at_us = START_US + 600_000
        await store.usages.put_keyed_usages([keyed(uuid7(1))])
        await idle()
        tables.clock.at_us = START_US + SPAN_US
        before = len(tables.log)
        await store.usages.put_keyed_usages([keyed(uuid7(5))])
        assert tables.log[before : before + 2] == ["select_digests", "insert_keyed"]
        for _ in range(5):
            tables.clock.at_us += SPAN_US - 300_000
            await store.usages.put_usages([(1, b"{}")])
            await idle()
        assert max(since for _, since, place in tables.places if place.startswith("keyed")) <= START_US + 3 * SPAN_US

    run(test)


@pytest.mark.parametrize("name", ["insert_day", "insert_minute", "insert_writer", "insert_place"])
@pytest.mark.parametrize("kind", [StoreRefused, StoreUnknown])
def test_what_the_directory_did_not_take_is_not_stored(name: str, kind: type[StoreRefused]):
    """Refused, and nothing of it is there; the next one, with the directory well again, is."""

    async def test() -> None:
        tables, store = new_store()
        store.link.fail = lambda asked, _: kind("no") if asked == name else None
        results: list[Any] = [*await store.usages.put_usages([(1, b"{}"), (2, b"{}")])]
        results += await store.usages.put_keyed_usages([keyed(uuid7(1)), keyed("mine")])
        assert {type(result) for result in results} == {StoreRefused}
        assert len({id(result) for result in results}) == 4
        assert not tables.rows
        store.link.fail = lambda _name, _rows: None
        assert list(await store.usages.put_usages([(1, b"{}")])) == [None]
        assert list(await store.usages.put_keyed_usages([keyed("mine")])) == [Put.CREATED]
        assert len(await listed(store)) == 2

    run(test)


def test_a_late_writer_takes_back_the_seal():
    """Who was held up between its time and its place comes to a minute that is sealed: it is counted anew."""

    async def test() -> None:
        tables, store = new_store()
        other = ModelStore(tables)
        await other.usages.put_usages([(1, b"{}")])
        await idle()
        store.link.gated, store.link.gate = "insert_minute", asyncio.Event()
        late = asyncio.create_task(store.usages.put_usages([(5000, b"{}")]))
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + 1
        await settle_all(other)
        tables.writers = dict.fromkeys(tables.writers, True)  # as if it had not even got so far
        await seal_all(other)
        assert tables.sealed(MINUTE) == 1
        tables.clock.at_us += LATE_US
        store.link.gate.set()
        assert list(await late) == [None]
        assert tables.sealed(MINUTE) is None
        assert await other.counting.count(0, LATER_US) == {MINUTE: 2}

    run(test)


@pytest.mark.parametrize("name", ["insert_writer", "insert_minute", "void_minute", "insert_place", "insert_usage"])
def test_however_long_a_writer_is_held_up_it_is_in_the_seal(name: str):
    """When a minute is sealed does not go by how long the store may take for each of a writer's steps."""

    async def test() -> None:
        tables, store = new_store()
        other = ModelStore(tables)
        await other.usages.put_usages([(1, b"{}")])
        await idle()
        tables.clock.at_us += MINUTE_US - SPAN_US // 2
        late = tables.clock.at_us
        store.link.gated, store.link.gate = name, asyncio.Event()
        if name == "void_minute":
            place = store.directory._open_once

            async def held_up(minute: int) -> Any:
                tables.clock.at_us += 5 * SPAN_US  # its writer is not named before
                return await place(minute)

            store.directory._open_once = held_up  # type: ignore[method-assign]
        task = asyncio.create_task(store.usages.put_usages([(5000, b"{}")]))
        await idle()
        for _ in range(70):
            tables.clock.at_us += SPAN_US
            await settle_all(other)
            await seal_all(other)
        store.link.gate.set()
        assert list(await task) == [None]
        assert sorted(at_us for at_us, *_ in tables.rows.values())[1] <= late + 10
        for _ in range(3):
            await settle_all(store)
            assert await other.counting.count(START_US, START_US + MINUTE_US) == {MINUTE: 2}
            tables.clock.at_us += 20 * SPAN_US
        assert tables.sealed(MINUTE) == 2

    run(test)


# --- listing and counting


Stored = tuple[int, str, int]
"""When (ms), in what (a block's number, or the kind of a key), and by which store."""

histories = st.lists(
    st.tuples(
        st.integers(0, 150_000) | st.integers(0, 3000), st.sampled_from(["block", "uuid7", "own"]), st.integers(0, 1)
    ),
    max_size=40,
)


async def write_history(tables: Tables, stores: list[ModelStore], history: list[Stored]) -> set[int | str]:
    """Store a usage for each, in order of time; the ids and keys."""
    names: set[int | str] = set()
    for serial, (at_ms, kind, which) in enumerate(sorted(history)):
        tables.clock.at_us = max(tables.clock.at_us, START_US + at_ms * 1000)
        if kind == "block":
            id_ = 1 + which * 100_000 + serial * 300
            assert list(await stores[which].usages.put_usages([(id_, b"{}"), (id_ + 1, b"{}")])) == [None, None]
            names |= {id_, id_ + 1}
        else:
            key = uuid7(4 * serial, START_US + at_ms * 1000) if kind == "uuid7" else f"key-{serial}"
            assert list(await stores[which].usages.put_keyed_usages([keyed(key)])) == [Put.CREATED]
            names.add(key)
        if serial % 7 == 0:
            await settle_all(stores[which])
    return names


@pytest.fixture(autouse=True, scope="module")
def small_pages() -> Any:
    """Everything is paged and read anew after a few rows, so that small histories meet each bound."""
    patch = pytest.MonkeyPatch()
    for module in (times_module, minutes_module):
        patch.setattr(module, "PAGE", 5)
    patch.setattr(listing_module, "HELD_MAX", 3)
    patch.setattr(listing_module, "OPEN_MIN", 1)
    patch.setattr(listing_module, "REMEMBERED_MAX", 4)
    for module in (listing_module, times_module):
        patch.setattr(module, "KEYS_PER_READ", 3)
    patch.setattr(counting_module, "PLACES_AT_ONCE", 3)
    yield
    patch.undo()


@settings(max_examples=150)
@given(histories, st.integers(1, 9), st.data())
def test_listings_and_counts_agree_with_what_was_stored(history: list[Stored], page: int, data: st.DataObject):
    """Every usage once and in order, in pages of any size, from any position on; counts of any span; sealed or not."""

    async def test() -> None:
        tables = Tables(SetClock(), page=5)
        stores = [ModelStore(tables), ModelStore(tables)]
        names = await write_history(tables, stores, history)
        whole = await listed(stores[0], page=page)
        assert [usage.position for usage in whole] == sorted(usage.position for usage in whole)
        assert len(whole) == len(names)
        assert {usage.id for usage in whole} == names
        sealing = data.draw(st.booleans())
        if sealing:
            tables.clock.at_us += data.draw(st.integers(0, 200)) * SPAN_US
            for store in stores:
                await settle_all(store)
            await seal_all(stores[1])
        for _ in range(4):
            at = data.draw(st.integers(0, max(len(whole) - 1, 0)))
            if whole:
                assert await listed(stores[1], whole[at].position, page=page) == whole[at + 1 :]
            edges = [START_US, *(usage.received_at_us for usage in whole), START_US + MINUTE_US, LATER_US]
            from_us, until_us = (data.draw(st.sampled_from(edges)) for _ in range(2))
            if whole and sealing and data.draw(st.booleans()):
                gone = whole.pop(at)
                if isinstance(gone.id, int):
                    assert list(await stores[0].deleting.by_id([gone.id])) == [True]
                else:
                    assert list(await stores[0].deleting.by_key([gone.id])) == [True]
                tables.clock.at_us += data.draw(st.sampled_from([0, 1000]))
                await seal_all(stores[1])
            inside = [usage for usage in whole if from_us <= usage.received_at_us < until_us]
            assert await listed(stores[0], (from_us, 0, "", b""), until_us, page) == inside
            wanted = Counter(minute_of(usage.received_at_us) for usage in inside)
            assert await stores[0].counting.count(from_us, until_us) == wanted

    run(test)


def test_years_are_listed_and_counted_by_the_days_that_have_usages():
    """More days than one read gives; those between cost nothing."""

    async def test() -> None:
        tables, store = new_store()
        tables.page = 5
        for day in range(0, 36, 3):
            tables.clock.at_us = START_US + day * 24 * 60 * MINUTE_US
            await store.usages.put_usages([(1 + day, b"{}")])
        tables.log.clear()
        whole = await listed(store, until_us=tables.clock.at_us + SPAN_US)
        assert [usage.id for usage in whole] == [*range(1, 37, 3)]
        assert tables.log.count("select_minutes") == 12
        counts = await store.counting.count(0, tables.clock.at_us + SPAN_US)
        assert list(counts.values()) == [1] * 12

    run(test)


def test_usages_of_one_time_are_listed_in_order_whatever_place_they_lie_in():
    """Two instances may choose the same microsecond, and the directory orders places by their names."""

    async def test() -> None:
        tables, store = new_store()
        tables.days, tables.minutes = {MINUTE // 1440}, {MINUTE}
        at_us = START_US + 5
        for block in (9, 10, 11):
            tables.places.add((MINUTE, at_us, f"usages/{block}"))
            tables.cell((block, block << 10), (at_us, 0, b"{}"))
        tables.places.add((MINUTE, at_us, "keyed_usages/k"))
        tables.cell(("k", "k", b"d" * 32), (at_us, 0, b"{}"))
        assert [usage.id for usage in await listed(store, page=1)] == ["k", 9 << 10, 10 << 10, 11 << 10]

    run(test)


def test_a_minute_is_sealed_when_it_is_over_and_settled():
    """Not before, and not while a write is under way; then a count reads one number."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        await seal_all(store)
        assert tables.sealed(MINUTE) is None
        store.link.gated, store.link.gate = "insert_usage", asyncio.Event()
        slow = asyncio.create_task(store.usages.put_usages([(3, b"{}")]))
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        await seal_all(store)
        assert tables.sealed(MINUTE) is None, "a write is under way"
        store.link.gate.set()
        assert list(await slow) == [None]
        tables.clock.at_us -= 2 * SPAN_US
        await settle_all(store)
        await seal_all(store)
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 3}
        assert tables.sealed(MINUTE) is None, "somebody may still come in time"
        tables.clock.at_us += 2 * SPAN_US
        await seal_all(store)
        assert tables.sealed(MINUTE) == 3
        before = len(tables.log)
        assert await store.counting.count(START_US, START_US + MINUTE_US) == {MINUTE: 3}
        assert tables.log[before:] == ["select_days", "select_minutes"]

    run(test)


@pytest.mark.parametrize("lands", [False, True])
def test_a_write_of_unknown_outcome_keeps_its_minute_open_until_it_cannot_land_any_more(*, lands: bool):
    """Hours later it may come to light, from a hint or a node that stood still: counts are right before and after."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}")])
        store.link.fail = lambda name, _: StoreUnknown("slow") if name == "insert_usage" else None
        store.link.landing = False
        [result] = await store.usages.put_usages([(2, b"{}")])
        assert isinstance(result, StoreUnknown)
        store.link.fail = lambda _name, _rows: None
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        await seal_all(store)
        assert tables.sealed(MINUTE) is None
        tables.clock.at_us += DOUBT_US - 2 * SEAL_AFTER_US
        await seal_all(store)
        assert tables.sealed(MINUTE) is None
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 1}
        if lands:
            tables.cell((0, 2), (START_US + 100, 0, b"{}"))
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 1 + lands}
        tables.clock.at_us += 3 * SEAL_AFTER_US
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 1 + lands}
        assert tables.sealed(MINUTE) == 1 + lands

    run(test)


def test_a_keyed_write_of_unknown_outcome_keeps_its_minute_open_too():
    """Whatever else of its group was written."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_keyed_usages([keyed("a")])
        await idle()
        store.link.fail = lambda name, rows: (
            StoreUnknown("slow") if (name, rows[0][0]) == ("insert_keyed", b"b") else None
        )
        results = await store.usages.put_keyed_usages([keyed("b"), keyed("c")])
        assert isinstance(results[0], StoreUnknown)
        assert results[1] is Put.CREATED
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        assert set(tables.writers.values()) == {False}

    run(test)


def test_usages_without_keys_are_sealed_by_what_their_writers_say():
    """Their blocks are not read: a seal is not to cost what the writes did. After a DELETE they are."""

    async def test() -> None:
        tables, store = new_store()
        other = ModelStore(tables)
        for each, first in ((store, 1), (other, 5000), (store, 3)):
            await each.usages.put_usages([(first, b"{}"), (first + 1, b"{}")])
        await store.usages.put_keyed_usages([keyed("a"), keyed(uuid7(1))])
        store.link.fail = lambda name, _: StoreRefused("busy") if name == "insert_usage" else None
        await store.usages.put_usages([(7, b"{}")])
        store.link.fail = lambda _name, _rows: None
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        for each in (store, other):
            await settle_all(each)
        await seal_all(other)
        assert tables.sealed(MINUTE) == 8
        assert "count_block" not in tables.log
        tables.clock.at_us += SPAN_US
        assert list(await store.deleting.by_id([5001])) == [True]
        tables.clock.at_us += SPAN_US
        await seal_all(other)
        assert tables.sealed(MINUTE) == 7
        assert "count_block" in tables.log

    run(test)


def test_an_instance_that_was_killed_leaves_its_minute_open():
    """Nobody settles for it; what it had in flight may still land."""

    async def test() -> None:
        tables, killed = new_store()
        await killed.usages.put_usages([(1, b"{}")])
        store = ModelStore(tables)
        tables.clock.at_us += 2 * MINUTE_US
        await seal_all(store)
        assert tables.sealed(MINUTE) is None
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 1}

    run(test)


def test_an_instance_that_stops_in_good_order_settles_what_it_did():
    """Its last minute is sealed as any other."""

    async def test() -> None:
        tables, stopped = new_store()
        stopped.directory.open()
        await stopped.usages.put_usages([(1, b"{}")])
        await idle()
        await stopped.directory.close()
        assert set(tables.writers.values()) == {True}
        store = ModelStore(tables)
        tables.clock.at_us += 2 * MINUTE_US
        await seal_all(store)
        assert tables.sealed(MINUTE) == 1

    run(test)


def test_a_clock_that_stood_still_leaves_the_minutes_of_late_open():
    """What was written meanwhile may have landed later than it seemed, behind a seal."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}")])
        store.directory.doubt()
        await store.usages.put_usages([(2, b"{}")])
        tables.clock.at_us += 2 * MINUTE_US
        await settle_all(store)
        assert sorted(tables.writers.values()) == [False, False, True]
        await seal_all(store)
        assert tables.sealed(MINUTE) is None

    run(test)


@pytest.mark.parametrize("what", ["put", "put and settled", "unsettled", "delete"])
@pytest.mark.parametrize("closed", [False, True])
def test_an_instance_that_stood_still_for_hours_takes_back_the_seals_of_what_it_went_on_with(
    *, what: str, closed: bool
):
    """It goes on at the time of before, until it sees how late it is: in minutes that others have given up and sealed."""

    async def test() -> None:
        tables, store = new_store()
        other = ModelStore(tables)
        behind = SetClock()
        for part in (store.directory, store.usages, store.deleting):
            part._clock = behind
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        tables.clock.at_us += DOUBT_US + 2 * MINUTE_US
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 2}
        assert tables.sealed(MINUTE) == 2
        if what == "delete":
            behind.at_us += 2 * MINUTE_US
            assert list(await store.deleting.by_id([2])) == [True]
        else:
            assert list(await store.usages.put_usages([(3, b"{}")])) == [None]
        if what in {"put and settled", "unsettled"}:
            behind.at_us += 2 * MINUTE_US
            store.link.fail = failing("settle_writer") if what == "unsettled" else store.link.fail
            await settle_all(store)
        assert tables.sealed(MINUTE) == 2, "which is wrong by now"
        behind.at_us = tables.clock.at_us
        store.link.fail = failing("void_minute")
        store.directory.doubt()
        await settle_all(store)
        store.link.fail = lambda _name, _rows: None
        if closed:
            await store.directory.close()
        else:
            await settle_all(store)
        wanted = {MINUTE: 1 if what == "delete" else 3}
        assert await other.counting.count(START_US, LATER_US) == wanted
        assert tables.sealed(MINUTE) is None, "something may still be under way"
        tables.clock.at_us += DOUBT_US + MINUTE_US
        assert await other.counting.count(START_US, LATER_US) == wanted
        assert tables.sealed(MINUTE) == wanted[MINUTE]

    run(test)


def test_what_a_node_reads_at_once_is_bounded_in_bytes():
    """To tell a usage's time it reads the usage: a block or a bucket of large ones is read a few at a time."""

    async def test() -> None:
        tables, _ = new_store()
        store = ModelStore(tables, times_module.TIMES_BYTES_MAX // 2)
        await store.usages.put_usages([(id_, b"{}") for id_ in range(1, 10)])
        for serial in range(9):
            await store.usages.put_keyed_usages([keyed(uuid7(4 * serial)), keyed(f"k{serial}")])
        assert len(await listed(store)) == 27
        half_us = sorted(at_us for at_us, *_ in tables.rows.values())[19]
        assert await store.counting.count(START_US, half_us) == {MINUTE: 19}
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 27}
        times = {"count_block", "count_bucket", "times_of_block", "times_of_bucket", "times_of_keys"}
        assert {name: store.link.read_at_once[name] for name in times} == dict.fromkeys(times, 2)

    run(test)


def test_a_seal_reads_one_place_at_a_time_and_who_asks_for_a_count_waits_for_several():
    """What nobody waits for does not compete with what somebody does."""

    async def test() -> None:
        tables, store = new_store()
        for second in range(20):
            await store.usages.put_keyed_usages([keyed(uuid7(second)), keyed(f"k{second}")])
            tables.clock.at_us += 1_000_000
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US
        await settle_all(store)
        await seal_all(store)
        assert tables.sealed(MINUTE) == 40
        assert tables.log.count("count_bucket") == 4
        assert {store.link.side_by_side[name] for name in ("count_bucket", "times_of_keys")} == {1}
        assert await store.counting.count(START_US + 1, LATER_US) == {MINUTE: 38}
        assert store.link.side_by_side["count_bucket"] > 1

    run(test)


@pytest.mark.parametrize("kind", [StoreRefused, KeyError])
def test_a_minute_that_cannot_be_sealed_holds_up_no_other(kind: type[Exception], monkeypatch: pytest.MonkeyPatch):
    """It is tried again after a while; a store that is down altogether is left alone until the next round."""

    async def test() -> None:
        tables, store = new_store()
        for id_ in range(1, 7):
            await store.usages.put_usages([(id_, b"{}")])
            tables.clock.at_us += MINUTE_US
        tables.clock.at_us += SEAL_AFTER_US
        await settle_all(store)
        seal = store.counting._count_and_seal
        bad = range(MINUTE, MINUTE + 4)
        asked: list[int] = []

        async def failing_for_some(minute: int, *how: int) -> int:
            asked.append(minute)
            if minute in bad:
                raise kind("bad")
            return await seal(minute, *how)

        monkeypatch.setattr(store.counting, "_count_and_seal", failing_for_some)
        await seal_all(store)
        assert asked == [*range(MINUTE, MINUTE + 3)], "the store may be down"
        store.counting._due_us |= dict.fromkeys(range(MINUTE + 3, MINUTE + 6), 1)
        await store.counting._seal_what_is_due()
        assert [tables.sealed(MINUTE + at) for at in range(6)] == [None] * 4 + [1] * 2
        bad = range(0)
        await seal_all(store)
        assert [tables.sealed(MINUTE + at) for at in range(6)] == [1] * 6

    run(test)


# --- deletes


def test_a_delete_unseals_its_minute_and_it_is_sealed_anew():
    """Also twice under one key; counts and lists follow at once."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await store.usages.put_keyed_usages([keyed("a"), keyed(uuid7(3))])
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        await seal_all(store)
        assert tables.sealed(MINUTE) == 4
        tables.clock.at_us += SPAN_US
        assert list(await store.deleting.by_id([2, 3, 2])) == [True, False, False]
        assert list(await store.deleting.by_key(["a", "b", "a"])) == [True, False, False]
        assert tables.sealed(MINUTE) is None
        assert set(tables.writers.values()) == {True}
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 2}
        assert [usage.id for usage in await listed(store)] == [1, uuid7(3)]
        tables.clock.at_us += SPAN_US
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 2}
        assert tables.sealed(MINUTE) == 2
        assert list(await store.usages.put_keyed_usages([keyed("a")])) == [Put.CREATED]
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 2, MINUTE + 1: 1}

    run(test)


def test_a_key_that_is_posted_again_counts_in_the_minute_of_its_last_time_alone():
    """The directory has it where it was before, too."""

    async def test() -> None:
        tables, store = new_store()
        for step_us in (SPAN_US, SPAN_US, MINUTE_US, SPAN_US):
            await store.usages.put_keyed_usages([keyed("a"), *(keyed(f"{tables.clock.at_us}-{at}") for at in range(4))])
            tables.clock.at_us += step_us
            if tables.clock.at_us < LATER_US - 8 * MINUTE_US:
                assert list(await store.deleting.by_key(["a"])) == [True]
        await store.usages.put_keyed_usages([keyed("a")])
        whole = await listed(store)
        assert len(whole) == 17
        assert [usage.id for usage in whole].count("a") == 1
        wanted = Counter(minute_of(usage.received_at_us) for usage in whole)
        assert await store.counting.count(START_US, LATER_US) == wanted == {MINUTE: 12, MINUTE + 1: 5}

    run(test)


def test_a_delete_during_a_sealing_wins():
    """The seal was read before the usage went, and is written after: the void has the later time all the same."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        store.link.gated, store.link.gate = "seal_minute", asyncio.Event()
        sealing = asyncio.create_task(store.counting.count(START_US, LATER_US))
        await idle()
        tables.clock.at_us += 1000
        other = ModelStore(tables)
        assert list(await other.deleting.by_id([2])) == [True]
        store.link.gate.set()
        assert await sealing == {MINUTE: 2}
        assert tables.sealed(MINUTE) is None
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 1}

    run(test)


@pytest.mark.parametrize("name", ["insert_writer", "void_minute"])
def test_a_delete_whose_minute_cannot_be_unsealed_is_refused_and_changes_nothing(name: str):
    """Else a count would go on showing what is gone."""

    async def test() -> None:
        _, store = new_store()
        await store.usages.put_usages([(1, b"{}")])
        store.link.fail = lambda asked, _: StoreUnknown("no") if asked == name else None
        [result] = await store.deleting.by_id([1])
        assert type(result) is StoreRefused
        assert len(await listed(store)) == 1

    run(test)


def test_a_delete_of_unknown_outcome_leaves_its_minute_open():
    """Whichever way it goes, the count is right."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        store.link.fail = lambda name, _: StoreUnknown("slow") if name == "delete_usage" else None
        store.link.landing = False
        [result] = await store.deleting.by_id([1])
        assert isinstance(result, StoreUnknown)
        assert sorted(tables.writers.values()) == [False, True], "the put is settled, the DELETE is not"
        tables.clock.at_us += SPAN_US
        await seal_all(store)
        assert tables.sealed(MINUTE) is None
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 2}

    run(test)


@pytest.mark.parametrize("end", ["under way", "unknown", "killed"])
def test_a_delete_from_an_old_minute_keeps_it_open_for_as_long_as_its_tombstone_may_land(end: str):
    """A count between its void and its tombstone seals nothing, however long ago the minute was."""

    async def test() -> None:
        tables, store = new_store()
        other = ModelStore(tables)
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        tables.clock.at_us += 2 * DOUBT_US
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 2}
        assert tables.sealed(MINUTE) == 2
        store.link.gated, store.link.gate = "delete_usage", asyncio.Event()
        if end == "unknown":
            store.link.landing = False
            store.link.fail = lambda name, _: StoreUnknown("slow") if name == "delete_usage" else None
        delete = asyncio.create_task(store.deleting.by_id([1]))
        await idle()
        tables.clock.at_us += SPAN_US
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 2}
        assert tables.sealed(MINUTE) is None, "the tombstone is under way"
        if end == "killed":
            delete.cancel()
            await asyncio.gather(delete, return_exceptions=True)
        else:
            store.link.gate.set()
            assert [type(result) for result in await delete] == [StoreUnknown if end == "unknown" else bool]
        tables.clock.at_us += DOUBT_US - MINUTE_US
        await other.counting.count(START_US, LATER_US)
        assert tables.sealed(MINUTE) == (1 if end == "under way" else None)
        tables.cell((0, 1), (tables.rows[0, 1][0], 1, None))
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 1}
        tables.clock.at_us += 2 * MINUTE_US
        assert await other.counting.count(START_US, LATER_US) == {MINUTE: 1}
        assert tables.sealed(MINUTE) == 1, "nothing can come to light any more"

    run(test)


def test_a_minute_of_many_deletes_is_open_while_one_of_them_is_under_way():
    """Each leaves a writer, and they are read a page at a time."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(id_, b"{}") for id_ in range(1, 20)])
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        for id_ in range(1, 12):
            assert list(await store.deleting.by_id([id_])) == [True]
        tables.clock.at_us += SPAN_US
        settled = dict(tables.writers)
        for writer in settled:
            tables.writers = {**settled, writer: False}
            assert await store.counting.count(START_US, LATER_US) == {MINUTE: 8}
            assert tables.sealed(MINUTE) is None
        tables.writers = settled
        await store.counting.count(START_US, LATER_US)
        assert tables.sealed(MINUTE) == 8

    run(test)


@pytest.mark.parametrize("worst", [StoreRefused, StoreUnknown])
def test_a_delete_of_a_key_with_several_usages_is_unknown_when_only_some_went(worst: type[StoreRefused]):
    """Refused says that nothing happened. Whichever of the two it is, and whether the minute or the row did not go."""

    async def test() -> None:
        for refused in ("delete_keyed", "void_minute"):
            for which in range(2):
                tables, store = new_store()
                await store.usages.put_keyed_usages([keyed("a")])
                tables.clock.at_us += MINUTE_US
                tables.cell(("a", "a", b"f" * 32), (tables.clock.at_us, 0, b"[]"))
                tables.clock.at_us += SPAN_US
                asked = itertools.count()
                store.link.fail = lambda name, _: (
                    worst("no") if name == refused and next(asked) == which else None  # noqa: B023
                )
                store.link.landing = False
                [result] = await store.deleting.by_key(["a"])
                assert type(result) is StoreUnknown, (refused, which)
                store.link.fail = lambda _name, _rows: None
                assert list(await store.deleting.by_key(["a"])) == [True]

    run(test)


def test_a_delete_of_a_key_of_which_nothing_went_is_refused():
    """All of its usages are there as before."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_keyed_usages([keyed("a")])
        tables.cell(("a", "a", b"f" * 32), (tables.clock.at_us, 0, b"[]"))
        tables.clock.at_us += SPAN_US
        store.link.fail = failing("delete_keyed")
        [result] = await store.deleting.by_key(["a"])
        assert type(result) is StoreRefused
        assert len(tables.partition("a")) == 2

    run(test)


def test_a_delete_of_what_a_fast_clock_wrote_is_refused_rather_than_half_done():
    """Its time cannot be waited for, and a POST under the key could be lost until then."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_keyed_usages([keyed("a")])
        tables.clock.at_us -= MINUTE_US
        [result] = await store.deleting.by_key(["a"])
        assert isinstance(result, StoreRefused)
        assert "clocks" in str(result)
        assert len(await listed(store)) == 1

    run(test)


def test_a_listing_leaves_out_what_is_deleted_while_it_is_read():
    """Between its times and its texts; a usage that came anew under the key stands at its own time alone."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_keyed_usages([keyed("a"), keyed("b")])
        await store.usages.put_usages([(1, b"{}")])
        found = [each async for each in store.listing._in_minute(MINUTE, BEGINNING, LATER_US)]
        assert len(found) == 3
        tables.clock.at_us += SPAN_US
        await store.deleting.by_key(["a", "b"])
        await store.usages.put_keyed_usages([keyed("b")])
        texts = [usage async for part in store.listing._with_texts(found) for usage in part]
        assert [usage.id for usage in texts] == [1]
        assert [usage.id for usage in await listed(store)] == [1, "b"]

    run(test)


def test_reading_fails_whole_when_one_read_fails():
    """A page or a count that lacks what could not be read would be taken for complete."""

    async def test() -> None:
        _, store = new_store()
        await store.usages.put_usages([(1, b"{}")])
        await store.usages.put_keyed_usages([keyed("a"), keyed(uuid7(1))])
        reads = ["select_days", "select_minutes", "select_places", "times_of_block", "times_of_bucket", "times_of_keys"]
        for name in [*reads, "select_usages", "select_keyed", "texts_of_keys"]:
            store.link.fail = failing(name)
            with pytest.raises(StoreRefused):
                await listed(store)
        counts = ["select_days", "select_minutes", "select_places", "times_of_keys"]
        for names in [*([name] for name in counts), ["count_block", "times_of_block"]]:
            store.link.fail = lambda asked, _: StoreRefused("down") if asked in names else None  # noqa: B023
            with pytest.raises(StoreRefused):
                await store.counting.count(START_US, LATER_US)
        store.link.fail = lambda asked, _: StoreRefused("too much at once") if asked.startswith("count_") else None
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 3}

    run(test)


def test_work_is_entered_only_while_its_minute_is_not_settled():
    """A clock that was set back meets a minute that was given up: it is begun anew, under another writer."""

    async def test() -> None:
        tables, store = new_store()
        first = await store.directory.register([1], START_US + 1, store.link.deadline_s())
        assert isinstance(first, Work)
        store.directory.leave(first, certain=True)
        assert store.directory.enter(1, START_US) is None
        again = store.directory.enter(1, START_US + 2)
        assert again is first
        store.directory.leave(again, certain=True)
        tables.clock.at_us += 2 * MINUTE_US
        await settle_all(store)
        assert store.directory.enter(1, START_US + 3) is None
        second = await store.directory.register([1], START_US + 3, store.link.deadline_s())
        assert isinstance(second, Work)
        assert second.writer != first.writer

    run(test)


def test_nobody_waits_for_the_opening_of_a_minute_beyond_its_own_deadline():
    """Of those that share it, who has less time left is refused, and the others get what came of it."""

    async def test() -> None:
        _, store = new_store()
        store.link.gated, store.link.gate = "insert_minute", asyncio.Event()
        patient = asyncio.create_task(store.directory.register([1], START_US + 1, store.link.deadline_s()))
        await idle()
        late = store.directory.register([2], START_US + 1, asyncio.get_running_loop().time())
        assert isinstance(await asyncio.wait_for(late, 10), StoreRefused)
        assert not patient.done()
        store.link.gate.set()
        work = await patient
        assert isinstance(work, Work)
        assert work.in_flight == 1

    run(test)


def test_all_that_an_operation_waits_for_ends_by_one_deadline():
    """However many statements it takes one after the other: its caller was promised one time limit."""

    async def test() -> None:
        _, store = new_store()
        await store.usages.put_usages([(1, b"{}")])
        await store.usages.put_keyed_usages([keyed("a")])
        await idle()
        operations: list[Callable[[], Any]] = [
            lambda: store.usages.put_keyed_usages([keyed("b"), keyed("c")]),
            lambda: store.deleting.by_id([1]),
            lambda: store.deleting.by_key(["a", "b"]),
        ]
        for number, operation in enumerate(operations):
            store.link.deadlines.clear()
            await operation()
            asked = store.link.deadlines
            assert len(asked) > 1, number
            assert len({deadline_s for _, deadline_s in asked}) == 1, (number, asked)

    run(test)


def test_a_delete_that_could_not_say_that_it_was_done_says_so_later():
    """Else each count of its minute would read it anew until its writer is doubted no longer."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        store.link.fail = failing("settle_deleter")
        assert list(await store.deleting.by_id([1])) == [True]
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        await settle_all(store)
        await seal_all(store)
        assert tables.sealed(MINUTE) is None, "its DELETE may be under way"
        store.link.fail = lambda _name, _rows: None
        await settle_all(store)
        assert all(tables.writers.values())
        tables.clock.at_us += SPAN_US
        assert await store.counting.count(START_US, LATER_US) == {MINUTE: 1}
        assert tables.sealed(MINUTE) == 1

    run(test)


def test_what_is_to_be_settled_later_is_added_while_others_are_settled():
    """Each is settled once and none is dropped, whichever comes in between."""

    async def test() -> None:
        tables, store = new_store()
        await store.usages.put_usages([(1, b"{}"), (2, b"{}")])
        await idle()
        tables.clock.at_us += MINUTE_US + SEAL_AFTER_US + SPAN_US
        store.link.gated, store.link.gate = "settle_writer", asyncio.Event()
        settling = asyncio.create_task(store.directory._settle_what_is_over())
        await idle()
        store.link.fail = failing("settle_deleter")
        assert list(await store.deleting.by_id([1])) == [True]
        store.link.gate.set()
        await settling
        store.link.fail = lambda _name, _rows: None
        store.link.tables.log.clear()
        await settle_all(store)
        await settle_all(store)
        assert [name for name in tables.log if name.startswith("settle_")] == ["settle_deleter"]
        assert all(tables.writers.values())

    run(test)


def test_an_opening_that_does_not_end_is_given_up_when_the_instance_stops(monkeypatch: pytest.MonkeyPatch):
    """It must not be at work in its minute once everything else is settled."""
    monkeypatch.setattr(directory_module, "CLOSE_TIMEOUT_S", 0.01)

    async def test() -> None:
        _, store = new_store()
        store.link.gated, store.link.gate = "insert_minute", asyncio.Event()
        asked = store.directory.register([1], START_US + 1, asyncio.get_running_loop().time())
        assert isinstance(await asked, StoreRefused)
        await store.directory.close()
        store.link.gate.set()
        await idle()
        assert not store.directory._work

    run(test)


def test_an_instance_that_stops_while_a_minute_is_opened_settles_it():
    """Those who had asked for it have given up meanwhile."""

    async def test() -> None:
        tables, store = new_store()
        store.link.gated, store.link.gate = "insert_minute", asyncio.Event()
        asked = store.directory.register([1], START_US + 1, asyncio.get_running_loop().time())
        assert isinstance(await asked, StoreRefused)
        closing = asyncio.create_task(store.directory.close())
        await idle()
        store.link.gate.set()
        await closing
        assert list(tables.writers.values()) == [True]

    run(test)


def test_a_minute_that_was_opened_and_is_forgotten_in_the_same_turn_is_opened_anew():
    """The clock is found wrong, and a put comes, before the loop has turned once: it must not wait for what has ended."""

    async def test() -> None:
        _, store = new_store()
        directory = store.directory
        place, turns = directory._open_once, []

        def at_once() -> None:
            directory.doubt()
            late = directory.register([2], START_US + 2, store.link.deadline_s())
            late.send(None)
            late.close()
            turns.append("of the loop")

        async def forgotten(minute: int) -> Any:
            error = await place(minute)
            if not turns:
                asyncio.get_running_loop().call_soon(at_once)
            return error

        directory._open_once = forgotten  # type: ignore[method-assign]
        assert isinstance(await directory.register([1], START_US + 1, store.link.deadline_s()), Work)
        assert turns

    run(test)
