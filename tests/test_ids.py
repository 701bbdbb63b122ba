from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.group_commit import Limits
from service.ids import IdAllocator
from service.settings import Settings, read_settings
from service.store import ID_MAX
from service.store.sqlite import SqliteStore
from service.usages import Usages
from tests.controlled import run, turns


class Leases:
    """Ranges out of thin air; fails as often as it is told, and waits for a gate when there is one."""

    def __init__(self) -> None:
        self.next = 1
        self.leased: list[int] = []
        self.given_back: list[tuple[int, int]] = []
        self.failures: list[StoreError] = []
        self.gate: asyncio.Event | None = None

    async def lease(self, count: int) -> int:
        """As a store's lease_ids."""
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        first, self.next = self.next, self.next + count
        self.leased.append(first)
        return first

    async def give_back(self, first: int, end: int) -> None:
        """As a store's return_ids."""
        self.given_back.append((first, end))
        if self.failures:
            raise self.failures.pop()


def allocator(leases: Leases, size: int = 100) -> IdAllocator:
    """An allocator with small leases."""
    return IdAllocator(leases.lease, leases.give_back, size)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(10, 50))
def test_ids_rise_and_none_is_handed_out_twice(counts: list[int], size: int):
    """However many are taken at a time, also more than a lease holds."""

    async def main() -> list[int]:
        ids = allocator(Leases(), size)
        return [id_ for count in counts for id_ in await ids.take(count)]

    taken = run(main())
    assert taken == list(range(1, sum(counts) + 1))


def test_concurrent_takers_get_distinct_ids_each_rising():
    """Groups in flight at once take from one allocator."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 10)
        taken = await asyncio.gather(*(ids.take(count) for count in (3, 30, 1, 7, 25)))
        flat = [id_ for part in taken for id_ in part]
        assert len(set(flat)) == 66
        assert all(part == sorted(part) for part in taken)

    run(main())


def test_the_next_range_is_fetched_before_it_is_needed():
    """When half of a lease is used the next one is on its way, and nobody waits for it."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 100)
        await ids.fill()
        await ids.take(49)
        await turns()
        assert leases.leased == [1]
        await ids.take(2)
        await turns()
        assert leases.leased == [1, 101]
        leases.gate = asyncio.Event()
        assert await ids.take(149) == list(range(52, 201))
        assert "fetching" in repr(ids)

    run(main())


def test_a_range_is_not_fetched_twice_by_those_who_wait_for_it():
    """Twenty takers of an empty allocator are one lease."""

    async def main() -> None:
        leases = Leases()
        leases.gate = asyncio.Event()
        ids = allocator(leases, 100)
        takers = [asyncio.ensure_future(ids.take(1)) for _ in range(20)]
        await turns()
        leases.gate.set()
        await asyncio.gather(*takers)
        assert leases.leased == [1]

    run(main())


@pytest.mark.parametrize("failure", [StoreRefused("away"), StoreUnknown("silent")])
def test_without_a_lease_nothing_was_written_for_sure(failure: StoreError):
    """However the lease failed, the usage was not stored: StoreRefused. The next take asks again."""

    async def main() -> None:
        leases = Leases()
        leases.failures = [failure]
        ids = allocator(leases)
        with pytest.raises(StoreRefused):
            await ids.take(1)
        assert await ids.take(1) == [1]

    run(main())


def test_a_lease_that_takes_long_is_not_waited_for_by_a_group_that_has_none():
    """It is refused for sure, and has time left for what its client does next; the lease goes on for those behind it."""

    async def main() -> None:
        leases = Leases()
        leases.gate = asyncio.Event()
        ids = allocator(leases)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with pytest.raises(StoreRefused, match=r"no ids: none within 0\.8 s"):
            await ids.take(1, 0.8)
        assert loop.time() - began_s == pytest.approx(0.8, abs=0.01)
        waiting = asyncio.ensure_future(ids.take(1, 0.8))
        await turns()
        leases.gate.set()
        assert await waiting == [1]
        assert leases.leased == [1]

    run(main())


def test_a_post_that_finds_no_ids_waits_for_them_as_long_as_in_the_queue():
    """The bound is the setting's, and nothing has been sent to the store."""

    async def main() -> None:
        leases = Leases()
        leases.gate = asyncio.Event()
        limits = Limits(
            group_size_max=10,
            group_bytes_max=1000,
            groups_in_flight_max=1,
            queue_size_max=10,
            queue_bytes_max=1000,
            queue_wait_max_s=0.3,
        )
        store: Any = types.SimpleNamespace(put_keyed_usages=None, get_usages=None, get_keyed_usages=None)
        usages = Usages(store, allocator(leases), limits, 100, lambda *_: None)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        posted: asyncio.Future[int] = loop.create_future()
        usages.submit_to(posted, b"{}")
        with pytest.raises(StoreRefused, match="no ids"):
            await posted
        assert loop.time() - began_s == pytest.approx(0.3, abs=0.01)

    run(main())


def test_a_failed_prefetch_hurts_nobody_who_has_ids():
    """The ids at hand go on; the next take past half of them tries again."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(1)
        leases.failures = [StoreRefused("away")]
        await ids.take(60)
        await turns()
        assert leases.leased == [1]
        await ids.take(10)
        await turns()
        assert leases.leased == [1, 101]

    run(main())


def test_a_taker_that_leaves_does_not_stop_the_lease_for_the_others():
    """A cancelled request must not cancel the fetch that others wait for."""

    async def main() -> None:
        leases = Leases()
        leases.gate = asyncio.Event()
        ids = allocator(leases)
        first, second = (asyncio.ensure_future(ids.take(1)) for _ in range(2))
        await turns()
        first.cancel()
        await turns()
        leases.gate.set()
        assert await second == [1]

    run(main())


def test_the_unused_rest_is_given_back_at_close():
    """A restart leaves no gap when nobody leased in between, also when the next range was there already."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(30)
        await ids.close()
        assert leases.given_back == [(31, 101)]
        assert ids.remaining == 0

        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(60)
        await turns()
        await ids.close()
        assert leases.given_back == [(61, 201)]

    run(main())


def test_a_close_gives_back_only_what_nobody_leased_after():
    """With another instance's range between ours, the older rest stays a gap."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(1)
        await leases.lease(100)
        await ids.take(60)
        await turns()
        assert leases.leased == [1, 101, 201]
        await ids.close()
        assert leases.given_back == [(201, 301)]

    run(main())


def test_a_close_survives_a_store_that_is_away_and_a_fetch_that_hangs():
    """What cannot be given back stays a gap; closing does not fail and does not wait."""

    async def main() -> None:
        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(1)
        leases.failures = [StoreRefused("away")]
        await ids.close()

        leases = Leases()
        ids = allocator(leases, 100)
        await ids.take(10)
        leases.gate = asyncio.Event()
        await ids.take(50)
        await ids.close()
        assert leases.given_back == [(61, 101)]

        await allocator(Leases()).close()

    run(main())


def sqlite(path: Path) -> Settings:
    """Settings for a store in this file."""
    return read_settings({"BUSYAPI_STORE": f"sqlite:///{path}"})


def test_several_allocators_on_one_store_never_share_an_id(tmp_path: Path):
    """Two instances on one file, each with ten takers at a time: all ids are distinct, and rise per instance."""

    async def main() -> None:
        stores = [SqliteStore(sqlite(tmp_path / "ids.sqlite3")) for _ in range(2)]
        for store in stores:
            await store.open()
        instances = [IdAllocator(store.lease_ids, store.return_ids, 16) for store in stores]

        async def take(ids: IdAllocator) -> list[int]:
            return [id_ for _ in range(15) for id_ in await ids.take(7)]

        takers = [take(ids) for ids in instances for _ in range(10)]
        taken = await asyncio.gather(*takers)
        flat = [id_ for part in taken for id_ in part]
        assert len(set(flat)) == len(flat) == 2100
        assert min(flat) >= 1
        assert all(part == sorted(part) for part in taken)
        for ids, store in zip(instances, stores, strict=True):
            await ids.close()
            await store.close()

    asyncio.run(main())


def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path):
    """After a clean close the next id is the next integer; after a crash it is a later one."""

    async def instance(count: int, *, crash: bool = False) -> list[int]:
        store = SqliteStore(sqlite(tmp_path / "ids.sqlite3"))
        await store.open()
        ids = IdAllocator(store.lease_ids, store.return_ids, 100)
        taken = await ids.take(count)
        if not crash:
            await ids.close()
        await store.close()
        return taken

    assert asyncio.run(instance(3)) == [1, 2, 3]
    assert asyncio.run(instance(2)) == [4, 5]
    assert asyncio.run(instance(2, crash=True)) == [6, 7]
    assert asyncio.run(instance(1)) == [106]


def test_ids_end_before_javascript_cannot_hold_them(tmp_path: Path):
    """At 2^53 the store refuses to lease: no id ever repeats or loses its last digit."""

    async def main() -> None:
        store = SqliteStore(sqlite(tmp_path / "ids.sqlite3"))
        await store.open()
        with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
            connection.execute("UPDATE id_ranges SET next = ?", (ID_MAX - 99,))
        assert await store.lease_ids(100) == ID_MAX - 99
        with pytest.raises(StoreRefused):
            await store.lease_ids(1)
        await store.close()

    asyncio.run(main())
