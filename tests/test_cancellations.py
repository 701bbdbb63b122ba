from __future__ import annotations

import asyncio

import pytest

from service.errors import QueueFull, StoreUnknown
from tests.controlled import ControlledCommit, group_commit, run, turns


def test_a_caller_that_leaves_before_its_group_is_formed_is_not_written():
    """The item is taken out, and its neighbours do not notice."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        group.submit(0, 10)
        await turns()
        futures = [group.submit(item, 10) for item in (1, 2, 3)]
        futures[1].cancel()
        commit.flights[0].succeed()
        await turns()
        assert commit.flights[1].items == [1, 3]
        commit.flights[1].succeed()
        assert (await futures[0], await futures[2]) == ("stored 1", "stored 3")
        assert (group.waiting, group.waiting_bytes, group.in_flight_items) == (0, 0, 0)

    run(main())


def test_a_caller_that_leaves_after_its_group_was_sent_changes_nothing():
    """What was sent is sent; the others of the group get their results."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        futures = [group.submit(item, 10) for item in (1, 2, 3)]
        await turns()
        futures[1].cancel()
        commit.flights[0].end({3: StoreUnknown("three")})
        await turns()
        assert commit.sent == [1, 2, 3]
        assert futures[0].result() == "stored 1"
        assert futures[1].cancelled()
        assert isinstance(futures[2].exception(), StoreUnknown)

    run(main())


def test_a_group_of_callers_that_all_left_is_not_sent():
    """Nothing is written for nobody, and the queue is free again."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        group.submit(0, 10)
        await turns()
        for item in (1, 2, 3):
            group.submit(item, 10).cancel()
        commit.flights[0].succeed()
        await turns()
        assert commit.sent == [0]
        assert (group.waiting, group.waiting_bytes, group.in_flight) == (0, 0, 0)
        later = group.submit(4, 10)
        await turns()
        commit.flights[1].succeed()
        assert await later == "stored 4"

    run(main())


def test_a_lone_caller_that_leaves_at_once_lets_a_close_return():
    """A group that was called off is no work to wait for."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        group.submit(1, 10).cancel()
        before_s = asyncio.get_running_loop().time()
        await group.close(10)
        assert asyncio.get_running_loop().time() == before_s
        assert commit.sent == []

    run(main())


def test_a_caller_that_leaves_a_full_queue_is_bounded_all_the_same():
    """Cancelled items may hold their places until the next group, but never more than the bound."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_size_max=3)
        group.submit(0, 1)
        await turns()
        taken = 0
        for item in range(1, 20):
            try:
                group.submit(item, 1).cancel()
                taken += 1
            except QueueFull:
                pass
            assert group.waiting <= 3
        assert taken >= 3
        commit.flights[0].succeed()
        await turns()
        assert commit.sent == [0]
        assert group.waiting == 0

    run(main())


def test_an_awaiting_task_that_is_cancelled_takes_its_item_out():
    """A handler that is cancelled while it awaits the future cancels the future: that is how callers leave."""

    async def main() -> None:
        async def handler(item: int) -> str:
            return await group.submit(item, 10)

        commit = ControlledCommit()
        group = group_commit(commit)
        tasks = [asyncio.ensure_future(handler(0))]
        await turns()
        tasks += [asyncio.ensure_future(handler(item)) for item in (1, 2)]
        await turns()
        tasks[1].cancel()
        await turns()
        commit.flights[0].succeed()
        await turns()
        commit.flights[1].succeed()
        assert await tasks[2] == "stored 2"
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert commit.sent == [0, 2]

    run(main())


def test_a_cancelled_flight_leaves_nobody_waiting():
    """When the flight's own task is cancelled each caller is told that the outcome is unknown."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit)
        future = group.submit(1, 10)
        await turns()
        for task in group._tasks.copy():
            task.cancel()
        with pytest.raises(Exception, match="Cancelled") as caught:
            await future
        assert type(caught.value).__name__ == "StoreError"
        assert (group.in_flight, group.in_flight_items) == (0, 0)

    run(main())


def test_a_deadline_does_not_disturb_a_caller_that_left():
    """Expiry of an item whose caller is gone is silent."""

    async def main() -> None:
        commit = ControlledCommit()
        group = group_commit(commit, queue_wait_max_s=1.0)
        group.submit(0, 10)
        await turns()
        future = group.submit(1, 10)
        future.cancel()
        await asyncio.sleep(2)
        assert future.cancelled()
        assert group.waiting == 0
        commit.flights[0].succeed()
        await turns()
        assert commit.sent == [0]

    run(main())
