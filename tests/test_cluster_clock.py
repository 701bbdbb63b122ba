"""The cluster's time as this machine reckons it, and how places are named."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StoreRefused
from service.store import clock as clock_module
from service.store.clock import DRIFT_SHIFT, JUMP_US, ClusterClock, better, jump_us, sampled
from service.store.places import (
    MINUTE_US,
    SPAN_US,
    Place,
    count_within,
    is_shared,
    name_of,
    part_within,
    place_of,
    span_start_us,
)

times = st.integers(0, 10**7)


@given(st.integers(-(10**12), 10**16), st.lists(st.tuples(times, times, times), min_size=1, max_size=8))
def test_the_true_offset_lies_between_the_bounds(offset_us: int, questions: list[tuple[int, int, int]]):
    """However long the questions take on either way, and the narrower the more of them there are."""
    known = None
    at_us = 0
    for pause_us, there_us, back_us in questions:
        sent_us = at_us + pause_us
        looked_us = sent_us + there_us
        at_us = looked_us + back_us
        new = sampled(sent_us, (looked_us + offset_us) // 1000, at_us)
        narrower = new if known is None else better(known, new)
        assert narrower.low_us <= offset_us <= narrower.high_us
        assert narrower.high_us - narrower.low_us <= new.high_us - new.low_us
        assert known is None or jump_us(known, new) == 0
        known = narrower


def test_what_is_known_is_known_less_well_later():
    """By as much as two clocks may drift apart."""
    offset = sampled(0, 5000, 400).later(400 + (1 << DRIFT_SHIFT))
    assert (offset.low_us, offset.high_us) == (5_000_000 - 400 - 1, 5_000_000 + 1000 + 1)


@pytest.mark.parametrize("by_ms", [-10_000, -600, 600, 600_000])
def test_a_clock_that_was_set_is_followed_and_told(by_ms: int):
    """Ahead as well as back; a difference that nodes' clocks may have among them is neither."""
    old = sampled(0, 5000, 400)
    new = sampled(1000, 5001 + by_ms, 1400)
    assert better(old, new) == new
    assert (jump_us(old, new) > JUMP_US) == (by_ms > 0)
    assert (jump_us(old, new) < -JUMP_US) == (by_ms < 0)
    assert jump_us(old, sampled(1000, 5001 + 50, 1400)) == 0


def test_times_rise_and_lie_about_the_clusters(monkeypatch: pytest.MonkeyPatch):
    """Each time is given once; the least lies behind every one of them that is past."""
    local_us = 1_000_000
    monkeypatch.setattr(clock_module, "_local_us", lambda: local_us)
    jumps: list[None] = []

    async def test() -> None:
        nonlocal local_us

        async def ask_ms() -> int:
            nonlocal local_us
            local_us += 300
            return (local_us + 77_000_000) // 1000

        clock = ClusterClock(ask_ms, lambda: jumps.append(None))
        await clock.open()
        try:
            seen = [clock.now_us() for _ in range(5)]
            assert seen == sorted(set(seen))
            assert clock.least_us() <= local_us + 77_000_000 <= seen[0]
            local_us += 5000
            assert seen[-1] < clock.least_us() < clock.now_us()
        finally:
            await clock.close()
            await clock.close()

    asyncio.run(test())
    assert not jumps


def test_a_jump_is_told_and_time_goes_on_from_there(monkeypatch: pytest.MonkeyPatch):
    """The machine slept, by a clock that sleeps too: what was stored meanwhile is in doubt."""
    local_us = 1_000_000
    monkeypatch.setattr(clock_module, "_local_us", lambda: local_us)
    jumps: list[None] = []
    clock = ClusterClock(lambda: asyncio.sleep(0, 0), lambda: jumps.append(None))
    clock._offset = sampled(local_us, 5_000, local_us + 100)
    before_us = clock.now_us()
    clock._take(sampled(local_us, 605_000, local_us + 100))
    assert jumps == [None]
    assert clock.now_us() >= before_us + 599_000_000
    clock._take(sampled(local_us, 5_000, local_us + 100))
    assert len(jumps) == 2
    assert clock.now_us() < before_us + 1_000_000


def test_a_clock_that_cannot_ask_does_not_open():
    """The store is not open then, and says why."""

    async def refuse() -> int:
        raise StoreRefused("nobody there")

    clock = ClusterClock(refuse, lambda: None)
    with pytest.raises(StoreRefused, match="nobody there"):
        asyncio.run(clock.open())


@given(st.integers(0, 1 << 43) | st.text(min_size=1, max_size=255))
def test_a_place_is_told_by_its_name(place: int | str):
    """A block from a bucket, also from one that is called as a block is."""
    assert place_of(name_of(place)) == place


def test_what_is_no_place_is_said():
    """A row that somebody else made up does not pass for a block."""
    for name in ("", "usages", "usages/", "messages/1", "usages/x"):
        with pytest.raises(ValueError, match=r"place|invalid literal"):
            place_of(name)


def test_buckets_of_uuid7s_are_shared_and_others_are_not():
    """Also a key that looks like one: it lies in that very bucket."""
    shared: list[Place] = [0, 17, "176400000.0", "1.3"]
    assert all(map(is_shared, shared))
    assert not any(map(is_shared, ["176400000.4", "order-17", "1", ".1", "1.1.1", "uuid"]))


@given(st.lists(st.integers(0, 50), max_size=9), st.integers(0, 50), st.integers(0, 50))
def test_first_and_last_tell_a_count_only_when_they_must_be_right(at: list[int], from_us: int, until_us: int):
    """Else it is counted row by row."""
    told = part_within(len(at), min(at, default=None), max(at, default=None), from_us, until_us)
    assert told in {None, count_within(at, from_us, until_us)}
    if at and all(from_us <= us < until_us for us in at):
        assert told == len(at)


def test_a_minute_is_a_whole_number_of_spans():
    """A span lies in one partition of the directory."""
    assert MINUTE_US % SPAN_US == 0
    assert span_start_us(MINUTE_US + SPAN_US + 1) == MINUTE_US + SPAN_US
