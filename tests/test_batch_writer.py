"""What a batch's items come to, for whatever the store or the queue says of them."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import json
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from service.batch_items import Slice, cut
from service.batch_results import lines
from service.batch_writer import BatchWriter, let_go
from service.errors import DeadlineExceeded, QueueFull, StoreError, StoreRefused, StoreUnknown
from service.store import Put, Results
from tests.batching import Store, writer
from tests.controlled import run, turns


def slices_of(*items: str, slice_bytes_max: int = 1 << 20) -> list[Slice]:
    """The items as lines."""
    return list(cut([item.encode() for item in items], 1000, slice_bytes_max, itertools.count(1)))


def slice_of(*items: str) -> Slice:
    """The items as the lines of one slice."""
    (slice_,) = slices_of(*items)
    return slice_


def keyed(key: str, text: str = "{}") -> str:
    """An item under a key."""
    return json.dumps({"idempotency_key": key, "usage": json.loads(text)})


def results(slice_: Slice) -> list[dict[str, Any]]:
    """What the client reads."""
    return [json.loads(line) for line in lines(slice_.numbers, slice_.tails).splitlines()]


async def stored(batch_writer: BatchWriter, slice_: Slice) -> list[dict[str, Any]]:
    """The slice's results, from beginning to end."""
    await batch_writer.send(slice_, batch_writer.due_s())
    await batch_writer.settle(slice_)
    return results(slice_)


def test_each_item_of_a_slice_gets_its_own_result_in_order():
    """Whatever kinds there are, and however they are mixed."""

    async def main() -> None:
        store = Store()
        answers = {
            "dup": Put.DUPLICATE,
            "reused": Put.CONFLICT,
            b'{"x":1}': StoreUnknown("?"),
            "gone": StoreRefused("!"),
        }
        store.answers = answers.get
        slice_ = slice_of("{}", keyed("new"), "[]", keyed("dup"), '{"x":1}', keyed("reused"), "{}", keyed("gone"))
        found = await stored(writer(store), slice_)
        assert [(result["line"], result["status"], result.get("id"), result.get("code")) for result in found] == [
            (1, "created", 1, None),
            (2, "created", "new", None),
            (3, "invalid", None, "not_an_object"),
            (4, "duplicate", "dup", None),
            (5, "unknown", None, "store_timeout"),
            (6, "invalid", None, "idempotency_key_reused"),
            (7, "created", 3, None),
            (8, "retry", None, "store_unavailable"),
        ]
        counts = slice_.counts
        assert (counts.created, counts.duplicate, counts.invalid, counts.retry, counts.unknown) == (3, 1, 2, 1, 1)

    run(main())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreRefused("!"), "retry", "store_unavailable"),
        (StoreUnknown("?"), "unknown", "store_timeout"),
        (StoreError("??"), "unknown", "store_error"),
    ],
)
def test_a_store_that_says_no_is_retry_and_one_that_says_nothing_is_unknown(error: StoreError, status: str, code: str):
    """Only what is certainly not stored is called so."""

    async def main() -> None:
        store = Store()
        store.answers = lambda _: error
        for item in ("{}", keyed("k")):
            (found,) = await stored(writer(store), slice_of(item))
            assert (found["status"], found["code"]) == (status, code)
            assert found["detail"]

    run(main())


def test_a_failing_bug_of_the_store_is_unknown():
    """Whatever it did is not known."""

    async def main() -> None:
        class Broken(Store):
            async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
                raise RuntimeError(f"a bug with {len(group)} usages")

        (found,) = await stored(writer(Broken()), slice_of("{}"))
        assert (found["status"], found["code"]) == ("unknown", "store_error")

    run(main())


def test_without_ids_nothing_was_stored():
    """The store leases none: every item is to be retried."""

    async def main() -> None:
        class Idless(Store):
            async def lease_ids(self, count: int) -> int:
                raise StoreUnknown(f"no {count} ids")

        store = Idless()
        found = await stored(writer(store), slice_of("{}", "{}"))
        assert [result["status"] for result in found] == ["retry", "retry"]
        assert store.groups == []

    run(main())


def test_ids_that_take_long_are_waited_for_as_long_as_the_queue():
    """A batch has half of its 4 s for that. Then every item is to be retried; what comes behind them gets the ids."""

    async def main() -> None:
        leasing = asyncio.Event()

        class Slow(Store):
            async def lease_ids(self, count: int) -> int:
                await leasing.wait()
                return await super().lease_ids(count)

        store = Slow()
        batch_writer = writer(store)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        found = await stored(batch_writer, slice_of("{}", "{}"))
        assert [result["status"] for result in found] == ["retry", "retry"]
        assert loop.time() - began_s == pytest.approx(2.0, abs=0.01)
        leasing.set()
        (result,) = await stored(batch_writer, slice_of("{}"))
        assert result["status"] == "created"

    run(main())


def test_slices_share_groups_that_are_bounded_by_usages():
    """What waits goes together, up to the bytes of a group, of which each usage takes some for itself."""

    async def main() -> None:
        store = Store()
        observed: list[tuple[str, int]] = []
        batch_writer = writer(store, observed)
        store.open.clear()
        slices = [slice_of("{}", "{}"), slice_of(keyed("a")), *(slice_of('{"n":1}', '{"n":2}') for _ in range(3))]
        for slice_ in slices:
            await batch_writer.send(slice_, batch_writer.due_s())
            await turns()
        store.open.set()
        for slice_ in slices:
            await batch_writer.settle(slice_)
        assert [len(group) for group in store.groups] == [2, 1, 4, 2]
        assert sorted(observed) == [
            ("batch_keyed_usages", 1),
            ("batch_usages", 2),
            ("batch_usages", 2),
            ("batch_usages", 4),
        ]
        ids = [result["id"] for slice_ in slices for result in results(slice_)]
        assert ids == [1, 2, "a", 3, 4, 5, 6, 7, 8]

    run(main())


def test_two_groups_under_keys_are_never_at_the_store_together():
    """Of two repeats of a key that do not see each other both would be said to be created; usages without keys may."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store, groups_in_flight_max=3, group_size_max=1)
        store.open.clear()
        slices = [slice_of(keyed("k"), "{}"), slice_of(keyed("k"), "{}")]
        for slice_ in slices:
            await batch_writer.send(slice_, batch_writer.due_s())
            await turns()
        assert (store.groups.count([b"{}"]), store.groups.count(["k"])) == (2, 1)
        store.open.set()
        for slice_ in slices:
            await batch_writer.settle(slice_)
        assert store.groups[3:] == [["k"]]

    run(main())


def test_a_slice_waits_while_the_queue_is_full():
    """Back-pressure, not a refusal."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store)
        store.open.clear()
        for _ in range(4):  # one in flight, three wait: the queue is full
            await batch_writer.send(slice_of("{}", "{}"), batch_writer.due_s())
            await turns()
        late = asyncio.create_task(stored(batch_writer, slice_of("{}")))
        await asyncio.sleep(1)
        assert not late.done()
        store.open.set()
        (found,) = await late
        assert found["status"] == "created"

    run(main())


def test_a_queue_that_stays_full_refuses_at_last():
    """And neither half of a slice is then stored."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store)
        store.open.clear()
        keyed_group = batch_writer.groups[1]
        keyed_group.limits = dataclasses.replace(keyed_group.limits, queue_wait_max_s=60.0)
        for _ in range(4):
            await batch_writer.send(slice_of(keyed("k")), batch_writer.due_s())
            await turns()
        started_s = asyncio.get_running_loop().time()
        found = await stored(batch_writer, slice_of("{}", keyed("late")))
        assert asyncio.get_running_loop().time() - started_s == pytest.approx(2.0, abs=0.05)
        assert [(result["status"], result["code"]) for result in found] == [("retry", "queue_full")] * 2
        store.open.set()
        await turns(20)
        assert not any(b"{}" in group or "late" in group for group in store.groups)

    run(main())


def test_what_waits_too_long_is_to_be_retried():
    """The store hangs: what was sent is awaited, what was not is refused, and no sooner than the setting says."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store)
        store.open.clear()
        await batch_writer.send(slice_of("{}"), batch_writer.due_s())
        await turns()
        started_s = asyncio.get_running_loop().time()
        (found,) = await stored(batch_writer, slice_of("{}"))
        assert (found["status"], found["code"]) == ("retry", "deadline_exceeded")
        assert asyncio.get_running_loop().time() - started_s == pytest.approx(2.0)
        store.open.set()

    run(main())


def test_who_leaves_takes_out_what_was_not_sent():
    """What was sent is sent; nothing stays in a queue, and no exception is left lying about."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store)
        store.open.clear()
        slices = [slice_of("{}"), slice_of('{"late":1}', keyed("k"))]
        for slice_ in slices:
            await batch_writer.send(slice_, batch_writer.due_s())
            await turns()
        let_go(slices)
        store.answers = lambda _: StoreRefused("!")
        store.open.set()
        await turns(20)
        assert store.groups == [[b"{}"], ["k"]]
        assert all(group.waiting == 0 and group.in_flight == 0 for group in batch_writer.groups)

    run(main())


def test_a_failure_that_nobody_waits_for_any_more_is_no_bug():
    """The client left before it was told: nothing is logged of an exception that was never asked for."""

    async def main() -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        store = Store()
        batch_writer = writer(store)
        store.answers = lambda _: StoreRefused("!")
        slices = [slice_of("{}", keyed("k"))]
        await batch_writer.send(slices[0], batch_writer.due_s())
        await turns(20)
        let_go(slices)
        slices.clear()
        gc.collect()
        assert complaints == []

    run(main())


def test_an_outage_shows_in_what_a_new_item_is_told_to_wait():
    """A group of slices that all failed counts as failed, as a group of single usages does."""

    async def main() -> None:
        store = Store()
        batch_writer = writer(store)
        store.answers = lambda _: StoreRefused("!")
        await asyncio.sleep(30)
        await stored(batch_writer, slice_of("{}", "{}"))
        assert batch_writer.groups[0].expected_wait_s() >= 10

    run(main())


def test_draining_refuses_what_comes_later():
    """As for any group commit: certainly not stored."""

    async def main() -> None:
        batch_writer = writer(Store())
        closing: list[Awaitable[None]] = [group.close(1) for group in batch_writer.groups]
        await asyncio.gather(*closing)
        (found,) = await stored(batch_writer, slice_of("{}"))
        assert (found["status"], found["code"]) == ("retry", "shutting_down")

    run(main())


def test_the_codes_are_those_of_the_queue():
    """The refusals that a group commit makes are told apart."""
    for kind, code in [(QueueFull, "queue_full"), (DeadlineExceeded, "deadline_exceeded")]:

        async def main(kind: type[StoreError] = kind, code: str = code) -> None:
            store = Store()
            store.answers = lambda _: kind("!")
            (found,) = await stored(writer(store), slice_of("{}"))
            assert (found["status"], found["code"]) == ("retry", code)

        run(main())
