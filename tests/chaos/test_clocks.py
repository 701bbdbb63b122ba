"""The clock of one web instance, fault by fault, before a real Cassandra."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import clocks
from tests.chaos.rehearsal import Rehearsal, rehearsing, statuses

pytestmark = [pytest.mark.cassandra, pytest.mark.slow, pytest.mark.timeout(240)]

FAULTS = {fault.name: fault for fault in clocks.FAULTS}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One topology with clocks that can be set."""
    with rehearsing(clocks.FAULTS, tmp_path_factory.mktemp("clocks")) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_clock_shows_nowhere(rehearsal: Rehearsal, name: str):
    """The clock is wrong, no request fails, and DELETE and POST take effect in the order in which they were made."""
    during = rehearsal.perform(FAULTS[name], 1.0, "web2")
    assert statuses(during, write=True) == {201}
    assert statuses(during, write=False) == {200}
    if name != "clock-steps":
        assert abs(rehearsal.events[-1].seen["off_by_s"]) > clocks.HOUR_S / 2


def test_nothing_was_lost_or_brought_back_by_any_of_them(rehearsal: Rehearsal):
    """Of all usages and messages that the load wrote and removed meanwhile."""
    verdict = rehearsal.end()
    assert verdict.ok, verdict
    assert verdict.counts is not None
    assert verdict.counts.acknowledged > 1_000


def test_writes_out_of_order_are_told():
    """What the fault has seen is judged by it: a clock that was not off shows nothing, a write without effect is wrong."""
    assert clocks.in_order({"wanted_s": 3600.0, "off_by_s": 3599.2, "wrong": []}) == []
    assert clocks.in_order({"wanted_s": 3600.0, "off_by_s": 0.1, "wrong": []}) == [
        "the clock was off by 0.1 s, not 3600.0"
    ]
    assert clocks.in_order({"wrong": ["POST by web1: 201, GET by web2: 404"]}) == [
        "POST by web1: 201, GET by web2: 404"
    ]
