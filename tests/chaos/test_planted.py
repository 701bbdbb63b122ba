"""Services with a bug each, under the load of a chaos run, and the oracle that has to name it."""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path

import pytest

from deploy.cluster import Options, start_cluster
from loadtest.reconcile import Reconciliation, reconcile
from tests.chaos.planted import BUGS, command
from tests.chaos.topology import store_url
from tests.chaos.verdict import counts_of
from tests.chaos.workload import Load, Workload
from tests.support import WebInstance, eventually, ready_instance

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CONNECTIONS = 48
REQUESTS = 3_000
REQUESTS_OF_A_DROP = 12_000
"""So that the 10,000th row is among them."""
LISTED_MAX = 1_000_000
ON_SQLITE = ["none", "early-ack", "drop-row", "half-group", "retry-without-key", "refuse-after-enqueue"]


def asked(host: str, *users: str) -> Load:
    """A closed loop, as fast as it is answered."""
    return Load(host=host, rate_per_s=None, connections=CONNECTIONS, users=users, sync=False)


def wrong(result: Reconciliation) -> set[str]:
    """The columns of the record that must be zero and are not."""
    told = {"acknowledged", "refused", "unknown"}
    return {name for name, count in asdict(counts_of(result)).items() if count and name not in told}


def loaded_and_killed(instance: WebInstance, directory: Path, requests: int, *users: str) -> Reconciliation:
    """What the oracle says after so many requests and a kill -9 in the middle of them."""
    workload = Workload(asked("http://{}:{}".format(*instance.address), *users), directory)
    try:
        workload.wait_for_traffic()
        eventually(lambda: instance.metric("busyapi_requests_total") >= requests, 60, 0.1)
        instance.signal(signal.SIGKILL)
        instance.wait()
    finally:
        workload.stop()
    return reconcile(directory / "journals", f"sqlite:///{instance.store_path}", list_max=LISTED_MAX)


@pytest.mark.parametrize("bug", ON_SQLITE)
def test_a_planted_bug_is_caught_by_its_name(tmp_path: Path, bug: str):
    """Each is found, as what it is and as nothing else; the service without one is killed just so, and is clean."""
    requests, users = REQUESTS, ["UsageUser", "KeyedUsageUser"]
    if bug == "drop-row":
        # The only row that is dropped shall not be one that a replay stores again.
        requests, users = REQUESTS_OF_A_DROP, ["UsageUser"]
    with ready_instance(tmp_path, program=command(bug)) as instance:
        result = loaded_and_killed(instance, tmp_path / "load", requests, *users)
    assert result.total.acknowledged >= requests / 2
    caught_as = BUGS[bug].caught_as
    assert wrong(result) == ({caught_as} if caught_as else set()), str(result)
    assert result.ok == (bug == "none")


@pytest.mark.parametrize("bug", ["early-ack", "half-group", "none"])
def test_a_planted_bug_is_caught_in_messages_too(tmp_path: Path, bug: str):
    """Of those that nobody deletes: they were acknowledged, and are not there."""
    with ready_instance(tmp_path, program=command(bug)) as instance:
        result = loaded_and_killed(instance, tmp_path / "load", REQUESTS, "MessageUser")
    assert result.total.acknowledged >= REQUESTS / 30
    assert ("lost" in wrong(result)) == (bug != "none"), str(result)


@pytest.mark.cassandra
@pytest.mark.parametrize("bug", ["client-timestamps", "none"])
def test_timestamps_of_web_instances_are_caught(tmp_path: Path, bug: str):
    """A DELETE by the instance whose clock is slow loses to the POST before it; with the coordinators' clocks none does."""
    options = Options(web=2, port=0, state_dir=tmp_path / "state", discard=True, service_command=command(bug))
    with start_cluster(options) as cluster:
        workload = Workload(asked(cluster.base_url, "MessageUser"), tmp_path / "load")
        try:
            workload.wait_for_traffic()
            eventually(lambda: sent(workload) >= REQUESTS, 60, 0.2)
        finally:
            workload.stop()
        result = reconcile(workload.directory / "journals", store_url(cluster), list_max=LISTED_MAX)
    assert result.total.deleted >= REQUESTS / 10
    caught_as = BUGS[bug].caught_as
    assert wrong(result) == ({caught_as} if caught_as else set()), str(result)


def test_every_bug_has_its_test():
    """One that is added is tested as well."""
    assert set(BUGS) == {*ON_SQLITE, "client-timestamps"}


def sent(workload: Workload) -> int:
    """Requests that were answered, as far as the timeline was written."""
    seconds = workload.timeline()["seconds"].values()
    return sum(request["count"] for second in seconds for request in second["requests"].values())
