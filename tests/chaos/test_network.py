"""The network between web instances and Cassandra, fault by fault, through a real Toxiproxy before a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import network
from tests.chaos.rehearsal import Rehearsal, rehearsing, statuses

pytestmark = [pytest.mark.cassandra, pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("network")]

FAULTS = {fault.name: fault for fault in network.FAULTS}
LASTS_S = 4.5
BACK_AND_FORTH = {"network-latency-upstream", "network-latency-downstream", "network-bandwidth-upstream"}
"""What only slows the way: writes get through it."""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """One topology, behind the proxy, for all of them."""
    with rehearsing(network.FAULTS, tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_network_is_seen_as_it_may_be_and_is_over_when_it_is_over(rehearsal: Rehearsal, name: str):
    """It takes effect, no answer comes later than its deadline, and the first write after it is acknowledged in time."""
    during = rehearsal.perform(FAULTS[name], LASTS_S)
    told = statuses(during, write=True)
    if name in BACK_AND_FORTH:
        assert 201 in told
        slowest_s = max(sample.took_s for sample in during if sample.write and sample.status == 201)
        assert slowest_s > network.LATENCY_MS / 1000 or "bandwidth" in name
    else:
        assert told & {503, 504, 0}


def test_nothing_was_lost_by_any_of_them(rehearsal: Rehearsal):
    """All that was acknowledged while they lasted is there, and nothing that was refused is."""
    assert len(rehearsal.events) == len(FAULTS)
    verdict = rehearsal.end()
    assert verdict.ok, verdict
    assert verdict.counts is not None
    assert verdict.counts.acknowledged > 1_000
