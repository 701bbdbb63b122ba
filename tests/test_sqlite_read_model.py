"""How the SQLite file keeps its usages in order and counted, and how files of before get there."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreError, StoreRefused
from service.settings import Settings, read_settings
from service.store import KeyedUsage, ListedUsage, Put
from service.store.sqlite import SqliteStore
from service.store.sqlite_clock import StoreClock
from service.store.sqlite_reading import _BY_ID, _BY_KEY, _OF_PATIENT
from service.store.sqlite_schema import SCHEMA_VERSION, runs

MINUTE_US = 60_000_000
VERSION_1 = """
CREATE TABLE usages (id INTEGER PRIMARY KEY, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL);
CREATE TABLE keyed_usages (
    key TEXT NOT NULL, digest BLOB NOT NULL, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL,
    PRIMARY KEY (key, digest)
) WITHOUT ROWID;
CREATE TABLE messages (digest BLOB PRIMARY KEY, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE id_ranges (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO id_ranges VALUES ('usages', 5000);
PRAGMA user_version = 1;
"""


def settings_of(path: Path, **more: str) -> Settings:
    """Settings of a store on a file."""
    environment = {f"BUSYAPI_{name.upper()}": value for name, value in more.items()}
    return read_settings({"BUSYAPI_STORE": f"sqlite:///{path}", **environment})


@asynccontextmanager
async def opened(path: Path, clock: Callable[[], int] | None = None, **more: str) -> AsyncIterator[SqliteStore]:
    """A store on a file, closed at the end."""
    store = SqliteStore(settings_of(path, **more), clock)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own."""
    asyncio.run(test)


async def listed(store: SqliteStore, page: int = 1000) -> list[ListedUsage]:
    """Everything."""
    rows: list[ListedUsage] = []
    async for part in store.read_usages((0, 0, "", b""), 1 << 60, page):
        assert not rows or rows[-1].position < part[0].position  # said at once, or it might never end
        rows += part
    return rows


def keyed(key: str, usage: bytes) -> KeyedUsage:
    """A usage under a key."""
    return KeyedUsage(key, hashlib.sha256(usage).digest(), usage)


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file of version 1: groups of ids with gaps, usages under keys, over three minutes."""
    path = tmp_path / "old.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(VERSION_1)
        for group in range(30):
            us = group * 5_000_000 + 7
            rows = [(group * 100 + at, f'{{"patientId": {at}}}', us) for at in range(1, 20) if at != group % 25]
            database.executemany("INSERT INTO usages VALUES (?, ?, ?)", rows)
            key = f"key {group}"
            database.execute(
                "INSERT INTO keyed_usages VALUES (?, ?, ?, ?)", (key, b"d" * 32, '{"patientId":"3"}', us + 1)
            )
        database.commit()
    return path


def test_a_file_of_version_1_is_listed_and_counted_whole(old_file: Path):
    """Everything in order, every minute right, and what comes later is counted on."""

    async def test() -> None:
        with closing(sqlite3.connect(old_file)) as database:
            by_id = dict(database.execute("SELECT id, received_at_us FROM usages"))
            by_key = dict(database.execute("SELECT key, received_at_us FROM keyed_usages"))
        times = Counter(us // MINUTE_US for us in [*by_id.values(), *by_key.values()])
        async with opened(old_file, clock=lambda: MINUTE_US + 5) as store:
            rows = await listed(store)
            assert {row.id: row.received_at_us for row in rows} == by_id | by_key
            assert [row.position for row in rows] == sorted(row.position for row in rows)
            assert await store.count_usages(0, 1 << 60) == times
            for cut_us in (7, 8, 5_000_007, MINUTE_US + 1, 2 * MINUTE_US - 1, 2 * MINUTE_US):
                counts = await store.count_usages(0, cut_us)
                assert sum(counts.values()) == sum(us < cut_us for us in [*by_id.values(), *by_key.values()])
            assert await store.lease_ids(10) == 5000
            assert list(await store.put_usages([(5000, b"{}"), (5001, b"{}")])) == [None, None]
            assert list(await store.put_keyed_usages([keyed("key 1", b"{}")])) == [Put.CONFLICT]
            assert (await store.count_usages(0, 1 << 60))[1] == times[1] + 2
            assert list(await store.delete_usages([101, 110, 2, 5001])) == [False, True, True, True]
            assert list(await store.delete_keyed_usages(["key 0"])) == [True]
            assert sum((await store.count_usages(0, 1 << 60)).values()) == sum(times.values()) + 2 - 4
        async with opened(old_file) as again:
            assert len(await listed(again)) == len(rows) - 2

    run(test())


PUT_1 = "INSERT INTO usages VALUES (?, CAST(? AS TEXT), ?)"
PUT_KEYED_1 = "INSERT INTO keyed_usages VALUES (?, ?, CAST(? AS TEXT), ?)"
"""As version 1 had them."""


def test_a_process_of_version_1_stores_nothing_more_once_the_file_has_been_brought_up_to_date(old_file: Path):
    """Its usages would be acknowledged, and in no list; what fails it answers with a 503. What it reads stays."""

    async def test() -> None:
        with closing(sqlite3.connect(old_file, isolation_level=None, timeout=20)) as old:
            old.execute(PUT_1, (9000, b"{}", 7))
            old.execute(PUT_KEYED_1, ("old", b"d" * 32, b"{}", 7))
            async with opened(old_file) as store:
                before = await listed(store)
                for sql, values in ((PUT_1, (9001, b"{}", 7)), (PUT_KEYED_1, ("older", b"d" * 32, b"{}", 7))):
                    with pytest.raises(sqlite3.OperationalError, match="columns"):
                        old.execute(sql, values)
                assert old.execute("SELECT CAST(usage AS BLOB) FROM usages WHERE id = 9000").fetchone() == (b"{}",)
                assert {9000, "old"} <= {row.id for row in before}
                assert await listed(store) == before

    run(test())


def test_a_usage_that_was_never_counted_is_not_counted_out(tmp_path: Path):
    """One that has no run, whatever put it there, also when others of its time have one."""
    path = tmp_path / "store.sqlite3"

    async def test() -> None:
        async with opened(path, clock=lambda: MINUTE_US) as store:
            await store.put_usages([(10, b"{}"), (11, b"{}"), (50, b"{}")])
            with closing(sqlite3.connect(path, timeout=20)) as database, database:
                rows = [(5, MINUTE_US), (30, MINUTE_US), (90, MINUTE_US + 1)]
                database.executemany("INSERT INTO usages (id, usage, received_at_us) VALUES (?, '{}', ?)", rows)
            assert list(await store.delete_usages([5, 30, 90])) == [True] * 3
            assert await store.count_usages(0, 1 << 60) == {1: 3}
            assert await store.count_usages(MINUTE_US, MINUTE_US + 1) == {1: 3}
            assert list(await store.delete_usages([11, 50, 10])) == [True] * 3
            assert await store.count_usages(0, 1 << 60) == {}

    run(test())


def test_a_patient_is_read_beside_a_process_whose_index_is_off(tmp_path: Path):
    """It removes usages and leaves their places in the index: those lead nowhere, also when the key is used again."""
    path = tmp_path / "store.sqlite3"
    clock = itertools.count(MINUTE_US)

    async def test() -> None:
        off = SqliteStore(settings_of(path), lambda: next(clock))
        await off.open()
        try:
            async with opened(path, clock=lambda: next(clock), patient_index="on") as store:
                usage = b'{"patientId": 1}'
                await store.put_usages([(id_, usage) for id_ in (1, 2, 3)])
                await store.put_keyed_usages([keyed(key, usage) for key in ("a", "b", "c")])
                assert list(await off.delete_usages([2])) == [True]
                assert list(await off.delete_keyed_usages(["a", "b"])) == [True, True]
                await store.put_keyed_usages([keyed("b", usage)])
                found: list[ListedUsage] = []
                after = b""
                for _ in range(7):
                    rows, after = await store.read_patient("1", after, 1)
                    found += rows
                    if not after:
                        break
                assert [row.id for row in found] == [1, 3, "c", "b"]
                assert found[-1].received_at_us > found[-2].received_at_us
        finally:
            await off.close()

    run(test())


def test_the_clock_for_readings_is_never_behind_what_is_stored(tmp_path: Path):
    """Set back it goes on from the latest that was stored, by this process or by one before; writes have the time that it is."""
    path = tmp_path / "store.sqlite3"
    now = [5 * MINUTE_US]

    async def test() -> None:
        async with opened(path, clock=lambda: now[0]) as store:
            for us, put in (
                (9 * MINUTE_US, store.put_usages([(1, b"{}")])),
                (8 * MINUTE_US, store.put_usages([(2, b"{}")])),
            ):
                now[0] = us
                await put
            now[0] = 3 * MINUTE_US
            first_us = store.now_us()
            assert 9 * MINUTE_US <= first_us <= store.now_us() < 10 * MINUTE_US
            await store.put_keyed_usages([keyed("k", b"{}")])
            assert await store.count_usages(0, 1 << 60) == {3: 1, 8: 1, 9: 1}
            now[0] = 20 * MINUTE_US
            assert 20 * MINUTE_US <= store.now_us() < 21 * MINUTE_US
        now[0] = 3 * MINUTE_US
        async with opened(path, clock=lambda: now[0]) as again:
            assert 9 * MINUTE_US <= again.now_us() < 10 * MINUTE_US
            now[0] = 30 * MINUTE_US
            await again.put_keyed_usages([keyed("l", b"{}")])
        now[0] = 0
        async with opened(path, clock=lambda: now[0]) as last:
            assert 30 * MINUTE_US <= last.now_us() < 31 * MINUTE_US

    run(test())


def test_a_clock_that_was_set_back_is_taken_to_run_on():
    """So that what another process stored before it was set back is not missed either."""
    wall, running = [1000], [50]
    clock = StoreClock(lambda: wall[0], lambda: running[0])
    wall[0], running[0] = 200, 150
    assert (clock.write_us(), clock.latest_us()) == (200, 1100)
    wall[0], running[0] = 5000, 160
    assert (clock.latest_us(), clock.write_us()) == (5000, 5000)
    clock.stored(7000)
    assert (clock.latest_us(), clock.write_us()) == (7000, 5000)


def test_a_file_of_version_1_gets_its_patient_index(old_file: Path):
    """In the same step; switched off, it is gone; switched on again, it is whole."""

    async def test() -> None:
        async with opened(old_file, patient_index="on") as store:
            rows, _ = await store.read_patient("3", b"", 1000)
            assert len(rows) == 30 + 28
            await store.put_usages([(4000, b'{"patientId": 3}')])
            assert len((await store.read_patient("3", b"", 1000))[0]) == 59
        async with opened(old_file) as store:
            await store.put_usages([(4001, b'{"patientId": 3}')])
            with pytest.raises(StoreRefused, match="patient_index"):
                await store.read_patient("3", b"", 1000)
        async with opened(old_file, patient_index="on") as store:
            rows, after = await store.read_patient("3", b"", 59)
            assert len(rows) == 59
            rows, after = await store.read_patient("3", after, 60)
            assert ([row.id for row in rows], after) == ([4001], b"")

    run(test())


def test_a_place_that_is_none_is_refused(tmp_path: Path):
    """A cursor that somebody made up ends in a refusal, not in a bug."""

    async def test() -> None:
        async with opened(tmp_path / "store.sqlite3", patient_index="on") as store:
            for after in (b"x", b"\x94\x01\x02", b"\x93\x01\x02\xa0"):
                with pytest.raises(StoreRefused):
                    await store.read_patient("3", after, 10)

    run(test())


def test_a_file_of_a_newer_service_is_left_alone(tmp_path: Path):
    """It is refused, by name of its version, and not changed."""
    path = tmp_path / "newer.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    async def test() -> None:
        with pytest.raises(StoreRefused, match=f"schema version {SCHEMA_VERSION + 1}"):
            await SqliteStore(settings_of(path)).open()

    run(test())
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_migration_that_fails_leaves_the_file_as_it_was(old_file: Path):
    """One transaction: the version before opens it as ever."""
    with closing(sqlite3.connect(old_file)) as database:
        database.execute("CREATE TABLE usage_minutes (in_the_way)")

    async def test() -> None:
        with pytest.raises(StoreRefused):
            await SqliteStore(settings_of(old_file)).open()

    run(test())
    with closing(sqlite3.connect(old_file)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT 1 FROM sqlite_master WHERE name = 'usage_runs'").fetchone() is None


def test_usages_of_one_microsecond_are_listed_by_key_and_by_id(tmp_path: Path):
    """Groups, keys and single usages that a clock which stands still gives one time; in pages of any size."""

    async def test() -> None:
        async with opened(tmp_path / "store.sqlite3", clock=lambda: 1_000_000) as store:
            await store.put_usages([(id_, b"{}") for id_ in (50, 51, 52, 90, 91)])
            await store.put_keyed_usages([keyed(key, b"{}") for key in ("b", "a", "B", "é")])
            await store.put_usages([(10, b"{}"), (11, b"{}")])
            expected = ["B", "a", "b", "é", 10, 11, 50, 51, 52, 90, 91]
            for page in (1, 2, 3, 4, 5, 11, 12):
                rows = await listed(store, page)
                assert [row.id for row in rows] == expected
            whole = await listed(store)
            for at, row in enumerate(whole):
                rest = [r.id async for part in store.read_usages(row.position, 1_000_001, 3) for r in part]
                assert rest == expected[at + 1 :]
            assert await store.count_usages(1_000_000, 1_000_001) == {0: 11}
            await store.delete_usages([51, 10, 90, 91])
            await store.delete_keyed_usages(["a"])
            assert [row.id for row in await listed(store, 2)] == ["B", "b", "é", 11, 50, 52]
            assert await store.count_usages(1_000_000, 1_000_001) == {0: 6}
            assert await store.count_usages(0, MINUTE_US) == {0: 6}

    run(test())


def test_a_clock_that_is_put_back_mixes_nothing_up(tmp_path: Path):
    """Later usages with earlier times are listed where their times belong, and each minute has its own."""
    clock = iter([0, 5 * MINUTE_US, 3 * MINUTE_US, 5 * MINUTE_US, 5 * MINUTE_US - 1, 3 * MINUTE_US])

    async def test() -> None:
        async with opened(tmp_path / "store.sqlite3", clock=lambda: next(clock)) as store:
            for first in range(1, 6):
                await store.put_usages([(first * 10, b"{}"), (first * 10 + 1, b"{}")])
            assert [row.id for row in await listed(store, 3)] == [20, 21, 50, 51, 40, 41, 10, 11, 30, 31]
            assert await store.count_usages(0, 1 << 60) == {3: 4, 4: 2, 5: 4}

    run(test())


def test_a_delete_takes_every_body_of_its_key(tmp_path: Path):
    """Here a key never gets two, but a file may come from where it does: both are counted out, and gone from the index."""
    path = tmp_path / "store.sqlite3"

    async def test() -> None:
        async with opened(path, clock=lambda: MINUTE_US, patient_index="on") as store:
            await store.put_keyed_usages([keyed("key", b'{"patientId": 1}'), keyed("kez", b"{}")])
            with closing(sqlite3.connect(path, timeout=20)) as database, database:
                values = ("key", b"d" * 32, '{"patientId": 1}', MINUTE_US)
                database.execute("INSERT INTO keyed_usages VALUES (?, ?, ?, ?, NULL)", values)
                database.execute("UPDATE usage_minutes SET count = count + 1")
                database.execute("INSERT INTO usage_patients VALUES ('1', ?, 0, 'key', ?)", (MINUTE_US, b"d" * 32))
            assert [row.id for row in await listed(store, 1)] == ["key", "key", "kez"]
            assert len((await store.read_patient("1", b"", 10))[0]) == 2
            assert list(await store.delete_keyed_usages(["key", "key"])) == [True, False]
            assert [row.id for row in await listed(store)] == ["kez"]
            assert await store.count_usages(0, 1 << 60) == {1: 1}
            assert await store.read_patient("1", b"", 10) == ([], b"")

    run(test())


def test_a_group_that_fails_counts_nothing(tmp_path: Path):
    """Rows, order and counts are one transaction."""

    async def test() -> None:
        async with opened(tmp_path / "store.sqlite3") as store:
            await store.put_usages([(5, b"{}")])
            results = await store.put_usages([(4, b"{}"), (5, b"{}")])
            assert {type(result) for result in results} == {StoreRefused}
            assert isinstance(results[0], StoreError)
            assert [row.id for row in await listed(store)] == [5]
            assert sum((await store.count_usages(0, 1 << 60)).values()) == 1

    run(test())


@pytest.mark.parametrize("query", [_BY_ID, _BY_KEY, _OF_PATIENT], ids=["by id", "by key", "of a patient"])
def test_a_page_is_read_in_its_order_and_nothing_is_sorted(tmp_path: Path, query: str):
    """A page costs what it has, however many usages there are."""

    async def test() -> None:
        async with opened(tmp_path / "store.sqlite3", patient_index="on"):
            pass

    run(test())
    names = {"us": 1, "id": 1, "until_us": 9, "key": "", "digest": b""}
    values = (1,) * query.count("?") if "?" in query else names
    with closing(sqlite3.connect(tmp_path / "store.sqlite3")) as database:
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    assert all(step.startswith("SEARCH") for step in plan), plan


@given(st.dictionaries(st.integers(1, 200), st.integers(1, 4)))
def test_runs_are_consecutive_ids_of_one_time(times: dict[int, int]):
    """As few as can be, and together they are all ids."""
    rows = sorted(times.items())
    found = list(runs(rows))
    assert [(id_, us) for us, first, last, _ in found for id_ in range(first, last + 1)] == rows
    assert all(count == last - first + 1 for _, first, last, count in found)
    for one, other in itertools.pairwise(found):
        assert (one[0], one[2] + 1) != (other[0], other[1])
