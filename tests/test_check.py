"""What ``check`` makes of a cluster's report; tests/test_cassandra_durability.py asks a real one."""

from __future__ import annotations

import dataclasses

import pytest

from service.check import Findings, cluster_findings
from service.settings import read_settings
from service.store.cassandra_report import ClockOffset, ClusterReport, NodeReport
from service.store.durability import KeyspaceState, NodeState

STATE = NodeState("batch", "die", "10.0.0.1", 7000, 100)
NODE = NodeReport("10.0.0.1:9042", True, "5.0.9", STATE, ClockOffset(0.001, 0.001))
NODES = tuple(dataclasses.replace(NODE, name=f"10.0.0.{number}:9042") for number in (1, 2, 3))
GOOD = ClusterReport("dc1", NODES, KeyspaceState(3, durable_writes=True), (1, 2), (1, 2))


def findings(cluster: ClusterReport, **settings: str) -> Findings:
    """What is found with these settings; three copies unless they say otherwise."""
    given = {"store": "cassandra://10.0.0.1/busyapi", "cassandra_replication_factor": "3", **settings}
    return cluster_findings(cluster, read_settings({f"BUSYAPI_{name.upper()}": value for name, value in given.items()}))


def with_node(**changes: object) -> ClusterReport:
    """The good cluster with another second node."""
    second = dataclasses.replace(NODES[1], **changes)  # type: ignore[arg-type]  # each test names a field
    return dataclasses.replace(GOOD, nodes=(NODES[0], second, NODES[2]))


def test_a_good_cluster_has_neither_faults_nor_warnings():
    """And the report names each node, what its commit log does, copies, clocks and schema."""
    found = findings(GOOD)
    assert (found.faults, found.warnings) == ([], [])
    text = "\n".join(found.lines)
    assert "acknowledgement: fsync; replicas=2/3" in text
    assert all(f"node {node.name}: Cassandra 5.0.9, commitlog_sync batch" in text for node in NODES)
    assert "3 copies on 3 nodes in dc1" in text
    assert "schema: version 2 of 2" in text


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (
            with_node(state=dataclasses.replace(STATE, commitlog_sync="periodic")),
            "10.0.0.2:9042: commitlog_sync periodic",
        ),
        (with_node(state=dataclasses.replace(STATE, commit_failure_policy="ignore")), "commit_failure_policy ignore"),
        (with_node(state=None), "10.0.0.2:9042: what it acknowledges is not known; it would not say"),
        (with_node(state=None, connected=False), "is away"),
        (with_node(clock=ClockOffset(0.5, 0.001)), "0.499 s apart"),
        (dataclasses.replace(GOOD, keyspace=KeyspaceState(3, durable_writes=False)), "durable_writes"),
        (dataclasses.replace(GOOD, keyspace=KeyspaceState(0, durable_writes=True)), "no copy in dc1"),
        (dataclasses.replace(GOOD, nodes=NODES[:2]), "3 copies need as many nodes, and there are 2"),
        (dataclasses.replace(GOOD, keyspace=None), "replication could not be read"),
        (dataclasses.replace(GOOD, applied=(1,)), "versions [2] are not applied"),
    ],
)
def test_what_makes_an_answer_worth_less_is_a_fault_that_says_what_to_mend(cluster: ClusterReport, words: str):
    """Each is one line, and the exit status."""
    found = findings(cluster)
    assert any(words in fault for fault in found.faults), found


@pytest.mark.parametrize(
    ("cluster", "settings", "words"),
    [
        (GOOD, {"cassandra_replication_factor": "1"}, "BUSYAPI_CASSANDRA_REPLICATION_FACTOR says 1"),
        (
            dataclasses.replace(GOOD, keyspace=KeyspaceState(1, durable_writes=True)),
            {"cassandra_replication_factor": "1"},
            "a share of all keys is refused",
        ),
        (dataclasses.replace(GOOD, applied=(1, 2, 3)), {}, "versions [3]"),
    ],
)
def test_what_takes_nothing_from_an_answer_is_a_warning(cluster: ClusterReport, settings: dict[str, str], words: str):
    """The exit status stays 0: an acknowledged write is on disk."""
    found = findings(cluster, **settings)
    assert found.faults == []
    assert any(words in warning for warning in found.warnings), found


def test_clocks_are_apart_only_as_far_as_it_is_certain():
    """Two looks that took long prove nothing."""
    assert findings(with_node(clock=ClockOffset(0.5, 0.5))).faults == []
