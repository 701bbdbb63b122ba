"""The store as a whole: every Cassandra node of a cluster, one or three."""

from __future__ import annotations

from deploy.cluster import RunningCluster


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
