"""Group commit against a model: any script of arrivals, departures, flights' ends, waiting and closing.

The last part plants faults, to show that the checks of the first part would see them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import Closing, DeadlineExceeded, QueueFull, StoreError, StoreRefused, StoreUnknown
from service.group_commit import Entry, GroupCommit, Limits
from tests.controlled import ControlledCommit, Flight, group_commit, run, stored, turns

WAIT_MAX_S = 1.0
CLOSE_TIMEOUT_S = 2.0


@dataclasses.dataclass
class Submitted:
    """What the model knows of one accepted item."""

    item: int
    size: int
    entered_s: float
    future: asyncio.Future[str]
    left: bool = False


class Model:
    """Carries out a script and checks after every step what must always be true."""

    def __init__(self, group: GroupCommit[int, str], commit: ControlledCommit) -> None:
        self.group = group
        self.commit = commit
        self.loop = asyncio.get_running_loop()
        self.accepted: dict[int, Submitted] = {}
        self.expected: dict[int, str | StoreError | None] = {}
        self.closing: asyncio.Future[None] | None = None
        self.closed_at_s = 0.0

    async def step(self, step: tuple[str, int]) -> None:
        """One step of a script: its name and a number that the step reads as it likes."""
        name, number = step
        await getattr(self, name)(number)
        self.check()

    async def submit(self, size: int) -> None:
        """A new item; refused exactly when a bound is reached or the group commit is closing."""
        group, limits = self.group, self.group.limits
        item = len(self.expected)
        full = group.waiting > 0 and (
            group.waiting >= limits.queue_size_max or group.waiting_bytes + size > limits.queue_bytes_max
        )
        self.expected[item] = None
        try:
            future = group.submit(item, size)
        except Closing:
            assert self.closing is not None
        except QueueFull:
            assert full
            assert self.closing is None
        else:
            assert not full
            assert self.closing is None
            self.accepted[item] = Submitted(item, size, self.loop.time(), future)

    async def burst(self, count: int) -> None:
        """Several items at once."""
        for _ in range(count):
            await self.submit(5)

    async def turn(self, _: int) -> None:
        """The loop runs until nothing more can happen now: then only those who are awaited hold anything back, and soon not."""
        await turns()
        group, limits = self.group, self.group.limits
        if group.waiting and group.in_flight < limits.groups_in_flight_max:
            assert self.closing is None
            assert group._gathering is not None
            assert group._gathering.when() - self.loop.time() <= min(limits.gather_max_s, WAIT_MAX_S / 4) + 1e-9

    async def leave(self, number: int) -> None:
        """A caller that has no answer yet goes away."""
        unanswered = [one for one in self.accepted.values() if not one.future.done()]
        if unanswered:
            one = unanswered[number % len(unanswered)]
            one.future.cancel()
            one.left = True

    async def end(self, number: int) -> None:
        """A flight ends: well, with errors for some items, with an exception, or with nonsense."""
        flights = self.commit.open_flights
        if not flights:
            return
        flight = flights[number % len(flights)]
        outcome = number // 7 % 6
        if outcome == 4:
            flight.outcome.set_exception(ValueError("bug"))
            self.expected.update(dict.fromkeys(flight.items, StoreError("bug")))
        elif outcome == 5:
            flight.outcome.set_result(stored(flight.items[1:]))
            self.expected.update(dict.fromkeys(flight.items, StoreError("nonsense")))
        else:
            errors: dict[int, StoreError] = {
                item: (StoreUnknown if item % 2 else StoreRefused)(str(item))
                for item in flight.items
                if outcome and item % (outcome + 1) == 0
            }
            flight.end(errors)
            self.expected.update({item: errors.get(item, f"stored {item}") for item in flight.items})
        await turns()

    async def fly(self, number: int) -> None:
        """A flight ends after some time."""
        await self.wait(1)
        await self.end(number)

    async def wait(self, tenths: int) -> None:
        """Time passes; whoever has waited too long by then has been told."""
        await asyncio.sleep(tenths / 10)
        await turns()
        for one in self.accepted.values():
            if one.item not in self.commit.sent and self.loop.time() - one.entered_s > WAIT_MAX_S + 1e-6:
                assert one.future.done()

    async def close(self, _: int) -> None:
        """The instance shuts down; from then on nothing is taken."""
        if self.closing is None:
            self.closing = asyncio.ensure_future(self.group.close(CLOSE_TIMEOUT_S))
            self.closed_at_s = self.loop.time()
            await turns()

    def check(self) -> None:
        """The bounds, the order, and that nobody was told anything that is not so."""
        group, limits, sent = self.group, self.group.limits, self.commit.sent
        assert sent == sorted(set(sent)), "an item was sent twice or out of order"
        for flight in self.commit.flights:
            size = sum(self.accepted[item].size for item in flight.items)
            assert 1 <= len(flight.items) <= limits.group_size_max
            assert size <= limits.group_bytes_max or len(flight.items) == 1
        assert len(self.commit.open_flights) <= limits.groups_in_flight_max
        assert group.in_flight_items >= sum(len(flight.items) for flight in self.commit.open_flights)

        unsent = [one for one in self.accepted.values() if one.item not in sent]
        waits = [one for one in unsent if not one.future.done()]
        may_wait = [one for one in unsent if not one.future.done() or one.left]
        assert len(waits) <= group.waiting + group.in_flight_items
        assert group.waiting <= min(limits.queue_size_max, len(may_wait))
        assert group.waiting_bytes <= sum(one.size for one in may_wait)
        assert group.waiting_bytes <= limits.queue_bytes_max or group.waiting == 1
        assert (group.waiting_bytes > 0) == (group.waiting > 0)
        for one in self.accepted.values():
            self.check_answer(one)

    def check_answer(self, one: Submitted) -> None:
        """Whoever has an answer has the right one."""
        if not one.future.done():
            return
        if one.left:
            assert one.future.cancelled()
            return
        error = one.future.exception()
        if one.item not in self.commit.sent:
            if isinstance(error, DeadlineExceeded):
                assert self.loop.time() - one.entered_s >= WAIT_MAX_S - 1e-6
            else:
                assert isinstance(error, Closing)
                assert self.loop.time() - self.closed_at_s >= CLOSE_TIMEOUT_S - 1e-6
            return
        expected = self.expected[one.item]
        assert expected is not None, "acknowledged while its flight had not ended"
        if isinstance(expected, StoreError):
            assert type(error) is type(expected)
        else:
            assert error is None
            assert one.future.result() == expected

    async def finish(self) -> None:
        """Every flight ends, the group commit closes: everyone has an answer, and nothing is left."""
        await self.close(0)
        while self.commit.open_flights:
            await self.end(0)
            self.check()
        assert self.closing is not None
        await self.closing
        self.check()
        for one in self.accepted.values():
            assert one.future.done()
            assert one.left or not one.future.cancelled()
        group = self.group
        assert (group.waiting, group.waiting_bytes, group.in_flight, group.in_flight_items) == (0, 0, 0, 0)


def run_script(script: Sequence[tuple[str, int]], limits: dict[str, Any], kind: Any = GroupCommit) -> None:
    """Carry out a script and let everything end; fails where the model and the group commit differ.

    Two items are company enough to gather: scripts are short.
    """

    async def main() -> None:
        commit = ControlledCommit()
        model = Model(group_commit(commit, kind, queue_wait_max_s=WAIT_MAX_S, **limits), commit)
        for step in script:
            await model.step(step)
        await model.finish()

    with unittest.mock.patch("service.group_commit.GATHER_COMPANY_MIN", 2):
        run(main())


steps = st.one_of(
    st.tuples(st.just("burst"), st.integers(2, 12)),
    st.tuples(st.just("submit"), st.integers(1, 120)),
    st.tuples(st.just("submit"), st.integers(1, 20)),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("end"), st.integers(0, 500)),
    st.tuples(st.just("fly"), st.integers(0, 500)),
    st.tuples(st.just("leave"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.integers(1, 14)),
)
scripts = st.builds(
    lambda before, closing, after: before + closing + after,
    st.lists(steps, max_size=50),
    st.sampled_from([[], [("close", 0)]]),
    st.lists(steps, max_size=10),
)
some_limits = st.fixed_dictionaries(
    {
        "group_size_max": st.integers(1, 5) | st.just(12),
        "group_bytes_max": st.sampled_from([1, 50, 100]),
        "groups_in_flight_max": st.integers(1, 3),
        "queue_size_max": st.integers(1, 16),
        "queue_bytes_max": st.sampled_from([1, 60, 300]),
        "gather_max_s": st.sampled_from([0.0, 0.15, 1.0]),
    }
)
ROOMY = {
    "group_size_max": 4,
    "group_bytes_max": 100,
    "groups_in_flight_max": 1,
    "queue_size_max": 8,
    "queue_bytes_max": 300,
}
GATHERING = {**ROOMY, "group_size_max": 12, "queue_size_max": 16, "gather_max_s": 0.15}
BURSTS = [
    *[("burst", 10), ("turn", 0), ("wait", 2), ("end", 0), ("burst", 3), ("turn", 0), ("leave", 1), ("wait", 1)],
    *[("burst", 6), ("turn", 0), ("wait", 3), ("end", 0), ("submit", 5), ("turn", 0), ("wait", 2), ("turn", 0)],
]
BUSY = [("submit", 5), ("turn", 0), *[("submit", 5)] * 6, ("leave", 3), ("turn", 0), ("end", 0), ("wait", 11)]


@settings(max_examples=200)
@given(scripts, some_limits)
@example(BUSY, ROOMY)
@example(BURSTS, GATHERING)
@example([*BURSTS[:5], ("close", 0), ("turn", 0)], GATHERING)
def test_every_item_gets_exactly_its_own_answer_whatever_happens(script: list[tuple[str, int]], limits: dict[str, int]):
    """Order, bounds, deadlines and answers hold after every step, and nothing is left at the end."""
    run_script(script, limits)


def storm(
    kind: Any = GroupCommit, wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda commit: commit
) -> None:
    """10,000 items through groups of up to 256; then the store and the answers are compared item by item."""

    async def main() -> None:
        on_disk: set[int] = set()

        async def commit(items: Sequence[int]) -> Sequence[str | StoreError]:
            await asyncio.sleep(0.001)
            on_disk.update(items)
            return stored(items)

        def answered(item: int) -> Callable[[asyncio.Future[str]], None]:
            def check(future: asyncio.Future[str]) -> None:
                if future.exception() is None and item not in on_disk:
                    too_early.append(item)

            return check

        too_early: list[int] = []
        group = group_commit(
            wrap(commit), kind, group_size_max=256, queue_size_max=20_000, queue_bytes_max=1 << 20, group_bytes_max=5000
        )
        futures: list[asyncio.Future[str]] = []
        for item in range(10_000):
            future = group.submit(item, 1 + item % 50)
            future.add_done_callback(answered(item))
            futures.append(future)
            if item % 700 == 0:
                await asyncio.sleep(0.0005)
        _, unanswered = await asyncio.wait(futures, timeout=30)
        assert not unanswered
        assert [future.result() for future in futures] == stored(range(10_000))
        assert on_disk == set(range(10_000))
        assert not too_early

    run(main())


def test_ten_thousand_items_are_all_stored_and_answered():
    """None is lost, none is answered before it is on disk, none gets another's answer."""
    storm()


class AcknowledgesEarly(GroupCommit[int, str]):
    """Planted: answers when the group is sent, not when it is written."""

    async def _flush(self, group: list[Entry[int, str]]) -> None:
        for entry in group:
            if not entry.sink.done():
                entry.sink.set_result(f"stored {entry.item}")
        await super()._flush(group)


class DropsOne(GroupCommit[int, str]):
    """Planted: loses one item in 10,000 on the way out of the queue."""

    def _pop(self, count: int) -> list[Entry[int, str]]:
        return [entry for entry in super()._pop(count) if entry.item != 7777]


class ForgetsTheBytes(GroupCommit[int, str]):
    """Planted: the count of waiting bytes never comes down."""

    def _pop(self, count: int) -> list[Entry[int, str]]:
        before = self.waiting_bytes
        entries = super()._pop(count)
        self.waiting_bytes = before
        return entries


class GathersForEver(GroupCommit[int, str]):
    """Planted: the wait for those who were just answered has no end."""

    def _gathers(self, flight_s: float) -> bool:
        if not super()._gathers(flight_s):
            return False
        assert self._gathering is not None
        self._gathering.cancel()
        self._gathering = self._loop.call_later(50, self._launch)
        return True


class ForgetsWhomItGathered(GroupCommit[int, str]):
    """Planted: what came during the wait is lost at its end."""

    def _launch(self) -> None:
        if self._gathering is not None:
            self._pop(len(self._queue))
        super()._launch()


class SendsTheLastFirst(GroupCommit[int, str]):
    """Planted: a group in the wrong order."""

    def _pop(self, count: int) -> list[Entry[int, str]]:
        return super()._pop(count)[::-1]


class IgnoresDeadlines(GroupCommit[int, str]):
    """Planted: whoever waits, waits for ever."""

    def _expire(self) -> None:
        """Looks at no deadline."""


def swaps_two_results(commit: Callable[..., Any]) -> Callable[..., Any]:
    """Planted: the store mixes up two answers of a group."""

    async def wrong(items: Sequence[int]) -> Any:
        results = list(await commit(items))
        if len(results) > 1:
            results[0], results[-1] = results[-1], results[0]
        return results

    return wrong


def leaves_one_out(commit: Callable[..., Any]) -> Callable[..., Any]:
    """Planted: the store says yes to an item that it did not write."""

    async def wrong(items: Sequence[int]) -> Any:
        await commit([item for item in items if item != 7777])
        return stored(items)

    return wrong


@pytest.mark.parametrize("fault", [swaps_two_results, leaves_one_out])
def test_a_store_that_mixes_up_or_loses_items_is_seen(fault: Callable[..., Any]):
    """The comparison of 10,000 items sees one that is missing and two that are swapped."""
    with pytest.raises(AssertionError):
        storm(wrap=fault)


@pytest.mark.parametrize("fault", [AcknowledgesEarly, DropsOne])
def test_a_group_commit_that_answers_too_early_or_loses_an_item_is_seen_by_the_storm(fault: type):
    """The comparison of 10,000 items sees an early answer and a lost item."""
    with pytest.raises(AssertionError):
        storm(kind=fault)


@pytest.mark.parametrize("fault", [AcknowledgesEarly, ForgetsTheBytes, SendsTheLastFirst, IgnoresDeadlines])
def test_a_wrong_group_commit_is_seen_by_the_model(fault: type):
    """One ordinary script is enough for the model to see each of these."""
    run_script(BUSY, ROOMY)
    with pytest.raises(AssertionError):
        run_script(BUSY, ROOMY, fault)
    gc.collect()  # tasks that the fault left unfinished go here, and not amid whatever comes next


@pytest.mark.parametrize("fault", [GathersForEver, ForgetsWhomItGathered])
def test_a_group_commit_that_gathers_wrongly_is_seen_by_the_model(fault: type):
    """Two bursts are enough for the model to see each of these."""
    run_script(BURSTS, GATHERING)
    with pytest.raises(AssertionError):
        run_script(BURSTS, GATHERING, fault)
    gc.collect()  # see above


def test_the_pure_functions_that_form_a_group_keep_their_bounds():
    """An empty queue makes an empty group, and nothing in it is too old."""
    from collections import deque

    from service.group_commit import expired_count, group_count

    limits = Limits(
        group_size_max=1,
        group_bytes_max=1,
        groups_in_flight_max=1,
        queue_size_max=1,
        queue_bytes_max=1,
        queue_wait_max_s=1,
    )
    assert group_count(deque(), limits) == 0
    assert expired_count(deque(), 1e9, limits) == 0


def test_a_flight_of_the_controlled_commit_answers_for_its_own_items():
    """The test's own stand-in for a store: errors go to the items that they name."""

    async def main() -> None:
        flight = Flight([1, 2], asyncio.get_running_loop().create_future())
        flight.end({2: StoreRefused("two")})
        first, second = await flight.outcome
        assert first == "stored 1"
        assert isinstance(second, StoreRefused)

    run(main())
