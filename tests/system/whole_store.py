"""The store as a whole: every Cassandra node of a cluster, one or three."""

from __future__ import annotations

import os

from deploy.cluster import RunningCluster

NODES = int(os.environ.get("TEST_CASSANDRA_NODES", "1"))
"""Of the cluster that the system tests share."""
if NODES not in (1, 3):
    raise ValueError(f"TEST_CASSANDRA_NODES is 1 or 3, not {NODES}")
ACK = "fsync; replicas=1/1" if NODES == 1 else "fsync; replicas=2/3"
"""What a write is worth there: a quorum of three copies where there are three nodes."""


def kill_store(cluster: RunningCluster) -> None:
    """Kill every node."""
    for node in cluster.processes("cassandra"):
        cluster.kill(node.name)


def start_store(cluster: RunningCluster, *, wait: bool = True) -> None:
    """Start every node; returns when they answer, unless told not to wait."""
    nodes = cluster.processes("cassandra")
    for node in nodes[:-1]:
        cluster.start(node.name, wait=False)
    cluster.start(nodes[-1].name, wait=wait)
    if wait:
        cluster.wait_until_ready()
