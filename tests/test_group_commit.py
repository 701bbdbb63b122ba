from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from service.errors import Closing, DeadlineExceeded, QueueFull, StoreError, StoreRefused, StoreUnknown
from service.group_commit import GroupCommit
from tests.controlled import ControlledCommit, Observed, group_commit, run, stored, turns


def test_a_lone_item_is_sent_at_once():
    """There is no timer on the way in: an idle service answers as fast as one unbatched write."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        before_s = asyncio.get_running_loop().time()
        future = group.submit(1, 10)
        await turns()
        assert commit.sent == [1]
        commit.flights[0].succeed()
        assert await future == "stored 1"
        assert asyncio.get_running_loop().time() == before_s

    run(main())


def test_items_of_one_turn_of_the_loop_share_a_group():
    """What is parsed together is written together."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        for item in (1, 2, 3):
            group.submit(item, 10)
        await turns()
        assert [flight.items for flight in commit.flights] == [[1, 2, 3]]

    run(main())


def test_the_flight_is_the_clock():
    """While a group is in flight items wait; when it ends, those that wait are the next group."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        group.submit(1, 10)
        await turns()
        for item in (2, 3, 4):
            group.submit(item, 10)
        await turns()
        assert commit.sent == [1]
        commit.flights[0].succeed()
        await turns()
        assert [flight.items for flight in commit.flights] == [[1], [2, 3, 4]]

    run(main())


def test_no_more_groups_than_allowed_are_in_flight():
    """The store has groups_in_flight_max groups at most, and as many as that when there is work."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, groups_in_flight_max=2, group_size_max=1)
        for item in range(5):
            group.submit(item, 10)
        await turns()
        assert [flight.items for flight in commit.flights] == [[0], [1]]
        commit.flights[1].succeed()
        await turns()
        assert [flight.items for flight in commit.open_flights] == [[0], [2]]

    run(main())


def test_each_item_gets_its_own_result_or_error():
    """One item's failure is not its neighbours'."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        futures = [group.submit(item, 10) for item in (1, 2, 3)]
        await turns()
        commit.flights[0].end({2: StoreUnknown("two")})
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert results[0] == "stored 1"
        assert isinstance(results[1], StoreUnknown)
        assert results[2] == "stored 3"

    run(main())


def test_a_full_queue_refuses_at_once_and_takes_items_again_later():
    """QueueFull at the bound on items: the item was never queued, the others are untouched."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_size_max=2)
        first = group.submit(0, 1)
        await turns()
        waiting = [group.submit(item, 1) for item in (1, 2)]
        with pytest.raises(QueueFull):
            group.submit(3, 1)
        assert group.waiting == 2
        commit.flights[0].succeed()
        await first
        await turns()
        later = group.submit(4, 1)
        commit.flights[1].succeed()
        await turns()
        commit.flights[2].succeed()
        assert await asyncio.gather(*waiting, later) == ["stored 1", "stored 2", "stored 4"]
        assert commit.sent == [0, 1, 2, 4]

    run(main())


def test_the_queue_is_bounded_in_bytes_too():
    """Few large items fill a queue as many small ones do; alone, any item is taken."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_bytes_max=100)
        group.submit(0, 1)
        await turns()
        group.submit(1, 60)
        with pytest.raises(QueueFull):
            group.submit(2, 41)
        group.submit(3, 40)
        assert group.waiting_bytes == 100
        commit.flights[0].succeed()
        await turns()
        assert group.waiting_bytes == 0
        group.submit(4, 5000)
        assert group.waiting_bytes == 5000

    run(main())


def test_groups_are_bounded_in_bytes_but_hold_at_least_one_item():
    """A group closes before the item that would burst it; an item larger than the bound goes alone."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, group_bytes_max=100, queue_bytes_max=10_000)
        for item, size in enumerate((60, 40, 1, 500, 1)):
            group.submit(item, size)
        for _ in range(4):
            await turns()
            commit.flights[-1].succeed()
        await turns()
        assert [flight.items for flight in commit.flights] == [[0, 1], [2], [3], [4]]

    run(main())


def test_an_item_that_waits_too_long_is_refused_though_the_flight_hangs():
    """DeadlineExceeded after queue_wait_max_s: certainly not sent, and the place in the queue is free again."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=1.0)
        hanging = group.submit(0, 10)
        await turns()
        loop = asyncio.get_running_loop()
        early = group.submit(1, 10)
        await asyncio.sleep(0.5)
        late = group.submit(2, 10)
        started_s = loop.time()
        with pytest.raises(DeadlineExceeded):
            await early
        assert loop.time() == pytest.approx(started_s + 0.5)
        assert not late.done()
        with pytest.raises(DeadlineExceeded):
            await late
        assert loop.time() == pytest.approx(started_s + 1.0)
        assert (group.waiting, group.waiting_bytes) == (0, 0)
        assert not hanging.done()
        commit.flights[0].succeed()
        assert await hanging == "stored 0"
        assert commit.sent == [0]

    run(main())


def test_an_item_whose_time_is_up_when_the_flight_ends_is_not_sent():
    """The deadline is looked at before a group is formed, not by the timer alone."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=1.0)
        group.submit(0, 10)
        await turns()
        stale = group.submit(1, 10)
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 1.0, commit.flights[0].succeed)
        with pytest.raises(DeadlineExceeded):
            await stale
        await turns()
        assert commit.sent == [0]

    run(main())


def test_what_was_sent_has_no_deadline_of_the_queue():
    """The queue's limit is on waiting to be sent; the store has a limit of its own."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=1.0)
        future = group.submit(0, 10)
        await asyncio.sleep(50)
        assert not future.done()
        commit.flights[0].succeed()
        assert await future == "stored 0"

    run(main())


def test_closing_drains_what_waits_and_refuses_what_comes():
    """close() returns once everything queued has its result; from its start on, submit raises Closing."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        futures = [group.submit(item, 10) for item in range(6)]
        closing = asyncio.ensure_future(group.close(10))
        await turns()
        with pytest.raises(Closing):
            group.submit(9, 10)
        commit.flights[0].succeed()
        await turns()
        assert not closing.done()
        commit.flights[1].succeed()
        await closing
        assert [future.result() for future in futures] == stored(range(6))

    run(main())


def test_closing_an_idle_group_commit_returns_at_once_also_twice():
    """Nothing waits, so there is nothing to wait for."""

    async def main() -> None:
        group = group_commit(ControlledCommit())
        before_s = asyncio.get_running_loop().time()
        await group.close(10)
        await group.close(10)
        assert asyncio.get_running_loop().time() == before_s

    run(main())


def test_closing_refuses_what_still_waits_after_its_time():
    """What cannot be sent in time is told so; what is in flight still gets its result."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=60)
        sent = group.submit(0, 10)
        await turns()
        waiting = group.submit(1, 10)
        before_s = asyncio.get_running_loop().time()
        await group.close(3)
        assert asyncio.get_running_loop().time() == pytest.approx(before_s + 3)
        with pytest.raises(Closing):
            await waiting
        assert not sent.done()
        commit.flights[0].succeed()
        assert await sent == "stored 0"
        assert commit.sent == [0]
        assert group.waiting_bytes == 0

    run(main())


def test_a_commit_that_raises_leaves_each_item_with_an_unknown_outcome():
    """An exception is a bug of the store: nobody may read it as "not written", and the next group goes on."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        futures = [group.submit(item, 10) for item in (1, 2)]
        await turns()
        commit.flights[0].outcome.set_exception(KeyError("bug"))
        for result in await asyncio.gather(*futures, return_exceptions=True):
            assert isinstance(result, StoreError)
            assert not isinstance(result, StoreRefused)
        after = group.submit(3, 10)
        await turns()
        commit.flights[1].succeed()
        assert await after == "stored 3"
        assert (group.in_flight, group.in_flight_items, group.waiting_bytes) == (0, 0, 0)

    run(main())


@pytest.mark.parametrize("results", [[], ["stored 1"], ["stored 1", "stored 2", "stored 3"], None, 5])
def test_a_commit_that_returns_the_wrong_number_of_results_is_believed_in_nothing(results: object):
    """Nobody can say whose results these are, so nobody gets one of them."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        futures = [group.submit(item, 10) for item in (1, 2)]
        await turns()
        commit.flights[0].outcome.set_result(results)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            assert isinstance(result, StoreError)
            assert not isinstance(result, StoreRefused)

    run(main())


def test_the_order_of_arrival_is_the_order_of_sending():
    """First come, first written, over as many groups as it takes."""

    async def main() -> None:
        async def commit(items: Sequence[int]) -> Sequence[str | StoreError]:
            await asyncio.sleep(0.01)
            sent.extend(items)
            return stored(items)

        sent: list[int] = []
        group = group_commit(commit, queue_size_max=1000)
        futures = [group.submit(item, 1) for item in range(100)]
        assert await asyncio.gather(*futures) == stored(range(100))
        assert sent == list(range(100))

    run(main())


def test_every_group_is_observed_with_its_size_and_time():
    """The metrics' source: one observation a group, of what was sent."""

    async def main() -> None:
        async def commit(items: Sequence[int]) -> Sequence[str | StoreError]:
            await asyncio.sleep(0.25)
            return stored(items)

        observed: Observed = []
        group = group_commit(commit, observed=observed)
        await asyncio.gather(*(group.submit(item, 1) for item in range(6)))
        assert [(name, items) for name, items, _ in observed] == [("test", 4), ("test", 2)]
        assert [seconds for _, _, seconds in observed] == pytest.approx([0.25, 0.25])

    run(main())


def test_its_repr_states_its_load():
    """A line in a log or a debugger tells what waits, what is in flight and whether it is closing."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        group.submit(0, 10)
        await turns()
        group.submit(1, 20)
        group.submit(2, 22)
        text = repr(group)
        assert "test" in text
        assert "2 waiting (42 B)" in text
        assert "1 in flight (1 items)" in text
        assert "closing" not in text
        closing = asyncio.ensure_future(group.close(1))
        await turns()
        assert "closing" in repr(group)
        commit.flights[0].succeed()
        await turns()
        commit.flights[1].succeed()
        await closing
        assert "0 waiting (0 B), 0 in flight (0 items)" in repr(group)

    run(main())


def test_the_expected_wait_follows_the_queue_and_the_measured_rate():
    """Retry-After is of the load as it is: nothing waits, no wait; the longer the queue, the longer."""

    async def main() -> None:
        async def commit(items: Sequence[int]) -> Sequence[str | StoreError]:
            await asyncio.sleep(0.1)
            return stored(items)

        group = group_commit(commit, queue_size_max=1000, group_size_max=10, queue_wait_max_s=60)
        assert group.expected_wait_s() == 0
        await asyncio.gather(*(group.submit(item, 1) for item in range(200)))
        assert group.rate_per_s == pytest.approx(100, rel=0.05)
        assert group.expected_wait_s() == 0
        few = [group.submit(item, 1) for item in range(50)]
        short_s = group.expected_wait_s()
        many = [group.submit(item, 1) for item in range(200)]
        assert group.expected_wait_s() == pytest.approx(5 * short_s)
        assert group.expected_wait_s() == pytest.approx(2.5, rel=0.1)
        await asyncio.gather(*few, *many)

    run(main())


def test_the_expected_wait_grows_while_the_store_takes_nothing():
    """Callers come back less often the longer an outage lasts, and at once when it is over."""

    async def main() -> None:
        async def commit(items: Sequence[int]) -> Sequence[str | StoreError]:
            return [StoreRefused("away")] * len(items) if away else stored(items)

        away = True
        group: GroupCommit[int, str] = group_commit(commit)
        expected = []
        for _ in range(3):
            await asyncio.sleep(4)
            with pytest.raises(StoreRefused):
                await group.submit(1, 1)
            expected.append(group.expected_wait_s())
        assert expected == sorted(expected)
        assert expected[0] < expected[-1]
        away = False
        await group.submit(1, 1)
        assert group.expected_wait_s() == 0

    run(main())


class Mailbox:
    """A sink of the caller's own, which keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.left = False
        self.answered = False

    def cancelled(self) -> bool:
        """As a future says it."""
        return self.left

    def done(self) -> bool:
        """As a future says it."""
        return self.answered or self.left

    def set_result(self, result: str) -> None:
        """Its result."""
        self.told.append(result)

    def set_exception(self, error: BaseException) -> None:
        """Its error."""
        self.told.append(error)


class Broken(Mailbox):
    """A sink that cannot be told anything."""

    def set_result(self, result: str) -> None:
        """Notes that it was tried."""
        super().set_result(result)
        raise OSError("broken")

    def set_exception(self, error: BaseException) -> None:
        """Notes that it was tried."""
        super().set_exception(error)
        raise OSError("broken")


def test_a_sink_of_ones_own_is_told_once():
    """Its own result or its own error, among futures and other sinks, and nothing after that."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        sinks = [Mailbox(), Mailbox()]
        group.submit_to(sinks[0], 0, 10)
        future = group.submit(1, 10)
        group.submit_to(sinks[1], 2, 10)
        await turns()
        assert [sink.told for sink in sinks] == [[], []]
        unknown = StoreUnknown("two")
        commit.flights[0].end({2: unknown})
        await turns()
        await group.close(10)
        assert sinks[0].told == ["stored 0"]
        assert sinks[1].told == [unknown]
        assert future.result() == "stored 1"

    run(main())


def test_a_sink_is_told_once_why_its_item_was_never_sent():
    """Too long in the queue, or still there when the group commit had to close."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=1.0)
        group.submit(0, 10)
        await turns()
        late, last = Mailbox(), Mailbox()
        group.submit_to(late, 1, 10)
        await asyncio.sleep(1.5)
        group.submit_to(last, 2, 10)
        await group.close(0.1)
        commit.flights[0].succeed()
        await turns()
        assert [type(error) for error in late.told] == [DeadlineExceeded]
        assert [type(error) for error in last.told] == [Closing]
        assert commit.sent == [0]

    run(main())


def test_a_sink_whose_item_was_not_queued_is_told_nothing():
    """QueueFull and Closing are raised where the item is handed in."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_size_max=1)
        sink = Mailbox()
        group.submit(0, 10)
        await turns()
        group.submit(1, 10)
        with pytest.raises(QueueFull):
            group.submit_to(sink, 2, 10)
        closing = asyncio.ensure_future(group.close(10))
        await turns()
        with pytest.raises(Closing):
            group.submit_to(sink, 3, 10)
        for flight in (0, 1):
            commit.flights[flight].succeed()
            await turns()
        await closing
        assert sink.told == []
        assert commit.sent == [0, 1]

    run(main())


def test_a_sink_that_raises_does_not_keep_results_from_the_others(caplog: pytest.LogCaptureFixture):
    """Whether it is told a result or an error: it is logged, the others have theirs, and the next group goes on."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        broken, sink = [Broken(), Broken()], Mailbox()
        group.submit_to(broken[0], 0, 10)
        group.submit_to(broken[1], 1, 10)
        group.submit_to(sink, 2, 10)
        future = group.submit(3, 10)
        await turns()
        commit.flights[0].end({1: StoreRefused("one")})
        await turns()
        assert sink.told == ["stored 2"]
        assert future.result() == "stored 3"
        assert [len(one.told) for one in broken] == [1, 1]
        assert (group.in_flight, group.in_flight_items) == (0, 0)
        late = Broken()
        group.submit(4, 10)
        await turns()
        group.submit_to(late, 5, 10)
        after = group.submit(6, 10)
        await asyncio.sleep(0.5)
        last = group.submit(7, 10)
        with pytest.raises(DeadlineExceeded):
            await after
        assert [type(error) for error in late.told] == [DeadlineExceeded]
        commit.flights[1].succeed()
        await turns()
        commit.flights[2].succeed()
        assert await last == "stored 7"

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.message for record in caplog.records] == ["a result could not be handed out"] * 3


def test_a_sink_that_has_left_is_taken_out_before_its_group_is_formed():
    """What was not sent is not sent; what was sent is sent, and nobody is told."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        early, late, alone = Mailbox(), Mailbox(), Mailbox()
        group.submit_to(early, 0, 10)
        group.submit_to(late, 1, 10)
        early.left = True
        await turns()
        late.left = True
        group.submit_to(alone, 2, 10)
        await turns()
        alone.left = True
        assert commit.sent == [1]
        commit.flights[0].succeed()
        await turns()
        assert commit.sent == [1]
        assert (group.waiting, group.waiting_bytes, group.in_flight) == (0, 0, 0)
        await group.close(10)
        assert [sink.told for sink in (early, late, alone)] == [[], [], []]

    run(main())


def test_a_sink_that_was_answered_otherwise_is_told_nothing():
    """done() says that nobody waits; the item is written all the same."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        sink = Mailbox()
        sink.answered = True
        group.submit_to(sink, 0, 10)
        await turns()
        commit.flights[0].succeed()
        await turns()
        assert commit.sent == [0]
        assert sink.told == []

    run(main())
