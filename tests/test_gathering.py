"""A busy group commit waits a moment for those it has just answered; an idle one never does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.group_commit import (
    COMPANY_DECAY,
    GATHER_COMPANY_MIN,
    GATHER_FLIGHTS,
    GATHER_SHARE,
    GroupCommit,
    Limits,
    gather_count,
    gather_wait_s,
)
from tests.controlled import ControlledCommit, group_commit, run, stored, turns

ROOMY: dict[str, Any] = {
    "group_size_max": 100,
    "group_bytes_max": 10_000,
    "queue_size_max": 1000,
    "queue_bytes_max": 100_000,
    "queue_wait_max_s": 4.0,
    "gather_max_s": 0.5,
}
MANY = 20
MOST = int(MANY * GATHER_SHARE)


class Busy:
    """A group commit that is sent group after group, and what it has in flight."""

    def __init__(self, **changes: Any) -> None:
        self.commit = ControlledCommit()
        self.group: GroupCommit[int, str] = group_commit(self.commit, **{**ROOMY, **changes})
        self.loop = asyncio.get_running_loop()
        self.futures: list[asyncio.Future[str]] = []

    async def submit(self, count: int, size: int = 10) -> None:
        """So many items more, all in one turn of the loop; then whatever can happen now happens."""
        for _ in range(count):
            self.futures.append(self.group.submit(len(self.futures), size))
        await turns()

    async def fly(self, seconds: float) -> None:
        """So much time passes, the oldest flight ends well, and whatever can happen then happens."""
        await asyncio.sleep(seconds)
        self.commit.open_flights[0].succeed()
        await turns()

    async def has_flown(self, count: int, seconds: float = 0.1) -> None:
        """A group of so many items has been in flight for so long, and was answered."""
        await self.submit(count)
        await self.fly(seconds)

    async def sent_after_s(self) -> float:
        """How long it takes from now until one more group is sent."""
        flights, before_s = len(self.commit.flights), self.loop.time()
        while len(self.commit.flights) == flights:
            assert self.loop.time() < before_s + 10, "nothing was ever sent"
            await asyncio.sleep(0.001)
        return self.loop.time() - before_s

    @property
    def sizes(self) -> list[int]:
        """How many items each group had."""
        return [len(flight.items) for flight in self.commit.flights]

    async def finish(self) -> None:
        """Everything ends well, and everyone has had the result of its own item, once."""
        closing = asyncio.ensure_future(self.group.close(100))
        await turns()
        while self.commit.open_flights:
            await self.fly(0.01)
        await closing
        assert [future.result() for future in self.futures] == stored(range(len(self.futures)))
        assert self.commit.sent == list(range(len(self.futures)))


def test_after_a_large_group_the_next_waits_until_most_have_come_back():
    """And then it is sent at once, with all who came in the same turn of the loop."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        before_s = busy.loop.time()
        await busy.submit(1)
        await busy.submit(MOST - 2)
        assert busy.sizes == [MANY]
        await busy.submit(3)
        assert busy.sizes == [MANY, MOST + 2]
        assert busy.loop.time() == before_s
        await busy.finish()

    run(main())


def test_those_who_came_during_the_flight_count_too():
    """Half of the company waits already: the other half is waited for, and no more than that."""

    async def main() -> None:
        busy = Busy()
        await busy.submit(MANY)
        await busy.submit(MANY)
        await busy.fly(0.1)
        assert busy.sizes == [MANY]
        awaited = int(2 * MANY * GATHER_SHARE) - MANY
        await busy.submit(awaited - 1)
        assert busy.sizes == [MANY]
        await busy.submit(1)
        assert busy.sizes == [MANY, MANY + awaited]
        await busy.finish()

    run(main())


@pytest.mark.parametrize(
    ("flight_s", "gather_max_s", "queue_wait_max_s", "waits_s"),
    [(0.1, 1.0, 4.0, 0.1 * GATHER_FLIGHTS), (3.0, 0.5, 4.0, 0.5), (3.0, 1.0, 0.8, 0.2)],
    ids=["the flight", "gather_max_s", "a quarter of queue_wait_max_s"],
)
def test_the_wait_ends_with_the_shortest_of_its_limits(
    flight_s: float, gather_max_s: float, queue_wait_max_s: float, waits_s: float
):
    """GATHER_FLIGHTS of the group before, gather_max_s, and a part of queue_wait_max_s: whichever is first."""

    async def main() -> None:
        busy = Busy(gather_max_s=gather_max_s, queue_wait_max_s=queue_wait_max_s)
        await busy.has_flown(MANY, flight_s)
        await busy.submit(3)
        assert await busy.sent_after_s() == pytest.approx(waits_s, abs=0.002)
        assert busy.sizes == [MANY, 3]
        await busy.finish()

    run(main())


def test_with_gather_max_s_0_nothing_waits():
    """The setting's off: after the largest group the next is sent at once."""

    async def main() -> None:
        busy = Busy(gather_max_s=0.0)
        for _ in range(3):
            await busy.has_flown(MANY)
        before_s = busy.loop.time()
        await busy.submit(1)
        assert busy.sizes == [MANY] * 3 + [1]
        assert busy.loop.time() == before_s
        await busy.finish()

    run(main())


@pytest.mark.parametrize("company", range(1, GATHER_COMPANY_MIN))
def test_a_small_company_never_waits(company: int):
    """An idle service, one client after another and a few at once: each is sent at once, however long flights are."""

    async def main() -> None:
        busy = Busy(gather_max_s=1.0)
        for _ in range(5):
            before_s = busy.loop.time()
            await busy.submit(company)
            assert busy.loop.time() == before_s
            assert busy.sizes[-1] == company
            assert len(busy.commit.open_flights) == 1
            await busy.fly(2.0)
        await busy.finish()

    run(main())


def test_a_company_just_large_enough_waits():
    """Where the waiting begins."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(GATHER_COMPANY_MIN)
        await busy.submit(1)
        assert busy.sizes == [GATHER_COMPANY_MIN]
        await busy.finish()

    run(main())


def test_a_wait_for_nobody_ends_and_the_next_item_is_sent_at_once():
    """A burst is over: nothing is sent when the wait ends, and whoever comes later does not wait for the burst."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        await asyncio.sleep(5)
        assert busy.sizes == [MANY]
        before_s = busy.loop.time()
        await busy.submit(1)
        assert busy.sizes == [MANY, 1]
        assert busy.loop.time() == before_s
        await busy.finish()

    run(main())


def test_a_company_that_has_left_is_forgotten():
    """After a burst lone items wait for some groups, and soon for none."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        waited = []
        for _ in range(30):
            await busy.submit(1)
            waited.append(not busy.commit.open_flights)
            if waited[-1]:
                await busy.sent_after_s()
            await busy.fly(0.1)
        assert waited[0]
        assert waited == sorted(waited, reverse=True)
        # COMPANY_DECAY for each group, until fewer than GATHER_COMPANY_MIN are left.
        company, groups = MANY * COMPANY_DECAY, 1
        while company >= GATHER_COMPANY_MIN:
            company, groups = company * COMPANY_DECAY, groups + 1
        assert sum(waited) == groups
        await busy.finish()

    run(main())


def test_a_group_that_is_full_by_count_is_sent_at_once():
    """More than group_size_max are not waited for, whether the last comes in the wait or was there before it."""

    async def main() -> None:
        busy = Busy(group_size_max=10)
        await busy.submit(30)
        for _ in range(3):
            await busy.fly(0.1)
        before_s = busy.loop.time()
        await busy.submit(9)
        assert busy.sizes == [10, 10, 10]
        await busy.submit(1)
        assert busy.sizes == [10, 10, 10, 10]
        await busy.submit(10)
        assert busy.loop.time() == before_s
        await busy.fly(0.1)
        assert busy.sizes == [10, 10, 10, 10, 10]
        assert busy.loop.time() == pytest.approx(before_s + 0.1)
        await busy.finish()

    run(main())


def test_a_group_that_becomes_full_by_bytes_is_sent_at_once():
    """Few large items are a full group: waiting longer would make it no larger."""

    async def main() -> None:
        busy = Busy(group_bytes_max=1000)
        await busy.has_flown(MANY)
        before_s = busy.loop.time()
        await busy.submit(2, 400)
        assert busy.sizes == [MANY]
        await busy.submit(1, 200)
        assert busy.sizes == [MANY, 3]
        assert busy.loop.time() == before_s
        await busy.finish()

    run(main())


def test_a_group_that_is_full_by_bytes_when_the_flight_ends_is_sent_at_once():
    """It filled up during the flight: there is nothing to wait for."""

    async def main() -> None:
        busy = Busy(group_bytes_max=1000)
        await busy.submit(MANY)
        await busy.submit(4, 400)
        await busy.fly(0.1)
        assert busy.sizes == [MANY, 2]
        await busy.finish()

    run(main())


def test_closing_does_not_wait_for_more():
    """What was gathered is sent at once, and after it nothing gathers any more."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        await busy.submit(3)
        before_s = busy.loop.time()
        closing = asyncio.ensure_future(busy.group.close(10))
        await turns()
        assert busy.sizes == [MANY, 3]
        assert busy.loop.time() == before_s
        await busy.fly(0.1)
        assert closing.done()
        assert busy.loop.time() == pytest.approx(before_s + 0.1)
        assert [future.result() for future in busy.futures] == stored(range(MANY + 3))

    run(main())


def test_closing_while_nobody_has_come_back_returns_at_once():
    """A wait for nobody holds up no stop."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        before_s = busy.loop.time()
        await busy.group.close(10)
        assert busy.loop.time() == before_s
        await asyncio.sleep(1)
        assert busy.sizes == [MANY]

    run(main())


def test_a_flight_that_ends_while_closing_is_followed_by_the_rest_at_once():
    """Nobody new may come, so nobody is waited for."""

    async def main() -> None:
        busy = Busy()
        await busy.submit(MANY)
        await busy.submit(2)
        closing = asyncio.ensure_future(busy.group.close(10))
        await busy.fly(0.1)
        assert busy.sizes == [MANY, 2]
        await busy.fly(0.1)
        await closing

    run(main())


@pytest.mark.parametrize("failure", [StoreRefused("away"), StoreUnknown("slow"), ValueError("bug")], ids=repr)
def test_a_failed_group_is_not_followed_by_a_wait(failure: Exception):
    """Those who were refused do not come back at once; whoever waits is sent."""

    async def main() -> None:
        busy = Busy()
        await busy.submit(MANY)
        await busy.submit(2)
        await asyncio.sleep(0.1)
        flight = busy.commit.open_flights[0]
        if isinstance(failure, StoreError):
            flight.end(dict.fromkeys(flight.items, failure))
        else:
            flight.outcome.set_exception(failure)
        before_s = busy.loop.time()
        await turns()
        assert busy.sizes == [MANY, 2]
        await busy.submit(1)
        assert busy.loop.time() == before_s
        await busy.fly(0.1)
        await busy.group.close(10)

    run(main())


@pytest.mark.parametrize("early_s", [1 / 1024, 1 / 16, 1 / 8])
def test_no_item_is_refused_because_others_are_waited_for(early_s: float):
    """An item that has waited long, but not too long, when the flight ends is sent: the store is free."""

    async def main() -> None:
        busy = Busy(queue_wait_max_s=0.75, gather_max_s=1.0)
        await busy.submit(MANY)
        await asyncio.sleep(0.5)
        await busy.submit(1)
        await busy.fly(0.75 - early_s)
        await asyncio.sleep(1.0)
        assert busy.sizes == [MANY, 1]
        await busy.finish()

    run(main())


def test_with_several_groups_in_flight_gathering_holds_nothing_back_for_long():
    """One of two flights ends and gathers; the other's end sends what was gathered, and everything is answered."""

    async def main() -> None:
        busy = Busy(groups_in_flight_max=2)
        await busy.submit(MANY)
        await busy.submit(MANY)
        assert busy.sizes == [MANY, MANY]
        await busy.fly(0.2)
        await busy.submit(2)
        assert busy.sizes == [MANY, MANY]
        assert await busy.sent_after_s() <= 0.2 * GATHER_FLIGHTS + 0.002
        await busy.submit(5)
        await busy.finish()

    run(main())


def test_items_that_leave_during_the_wait_are_not_sent():
    """What was not sent can be taken back; a group of nobody is no group."""

    async def main() -> None:
        busy = Busy()
        await busy.has_flown(MANY)
        await busy.submit(3)
        for future in busy.futures[-3:]:
            future.cancel()
        await asyncio.sleep(1)
        assert busy.sizes == [MANY]
        assert (busy.group.waiting, busy.group.waiting_bytes) == (0, 0)
        await busy.group.close(10)

    run(main())


some_limits = st.builds(
    lambda size, wait_s, gather_s: Limits(
        group_size_max=size,
        group_bytes_max=1000,
        groups_in_flight_max=1,
        queue_size_max=10,
        queue_bytes_max=1000,
        queue_wait_max_s=wait_s,
        gather_max_s=gather_s,
    ),
    st.integers(1, 4096),
    st.floats(0.01, 60),
    st.floats(0, 1),
)


@given(st.floats(0, 1e6), some_limits)
@example(GATHER_COMPANY_MIN - 0.001, Limits(**{**ROOMY, "groups_in_flight_max": 1}))
def test_never_more_are_waited_for_than_were_about_or_than_a_group_takes(company: float, limits: Limits):
    """Fewer than GATHER_COMPANY_MIN are not waited for at all."""
    count = gather_count(company, limits)
    assert 0 <= count <= min(company, limits.group_size_max)
    assert (count > 0) == (company >= GATHER_COMPANY_MIN)


@given(st.floats(0, 1e3), some_limits)
def test_no_wait_is_longer_than_any_of_its_limits(flight_s: float, limits: Limits):
    """It is in proportion to the store's own time, and stays far from an item's deadline."""
    wait_s = gather_wait_s(flight_s, limits)
    assert 0 <= wait_s <= min(flight_s * GATHER_FLIGHTS, limits.gather_max_s)
    assert wait_s < limits.queue_wait_max_s / 2
