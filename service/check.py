"""``python -m service check``: what an acknowledged write is worth here, and what is to be mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.durability import acknowledgement
from service.settings import Settings
from service.store import Store, open_store
from service.store.durability import NOTHING_KNOWN, SYNCED, UNHEEDED, durability, quorum

if TYPE_CHECKING:  # at run time only where the store is Cassandra
    from service.store.cassandra_report import ClusterReport, NodeReport


@dataclass
class Findings:
    """What there is to say. With a fault an acknowledgement is not worth what it should be."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


async def check(settings: Settings) -> Findings:
    """Open the store as a web instance does, then look closer. Raises StoreError when it cannot be used at all."""
    store: Store = open_store(settings)
    try:
        await store.open()
        known = store.durability()
    finally:
        await store.close()
    if settings.store.scheme == "cassandra":
        from service.store.cassandra_report import report

        return cluster_findings(await report(settings), settings)
    lines = [f"acknowledgement: {acknowledgement(known, replicated=False)} (one file, fsynced at each commit)"]
    faults = [] if known.synced else ["an acknowledged write is not fsynced"]
    return Findings(lines, faults=faults)


def cluster_findings(cluster: ClusterReport, settings: Settings) -> Findings:
    """What a cluster's report comes to. Pure."""
    found = Findings()
    worth = durability(cluster.keyspace, [node.state for node in cluster.nodes])
    found.lines.append(f"acknowledgement: {acknowledgement(worth, replicated=True)}")
    if worth == NOTHING_KNOWN:
        found.faults.append(f"keyspace {settings.store.keyspace}: its replication could not be read")
    for node in cluster.nodes:
        _node(node, found)
    _replication(cluster, settings, found)
    _clocks(cluster.nodes, settings.cassandra_clock_skew_max_s, found)
    _schema(cluster, found)
    return found


def _node(node: NodeReport, found: Findings) -> None:
    if node.state is None:
        why = "would not say" if node.connected else "is away: ask again once it is back"
        found.faults.append(f"node {node.name}: what it acknowledges is not known; it {why}")
        return
    state = node.state
    clock = f", clock {node.clock.ahead_s:+.3f} s of this machine's" if node.clock else ""
    found.lines.append(
        f"node {node.name}: Cassandra {node.version}, commitlog_sync {state.commitlog_sync or 'not told'},"
        f" commit_failure_policy {state.commit_failure_policy or 'not told'}{clock}"
    )
    if state.commitlog_sync not in SYNCED:
        text = "answers before the fsync, and loses what it answered with the power; set commitlog_sync: batch"
        found.faults.append(
            f"node {node.name}: commitlog_sync {state.commitlog_sync or 'is not told, and perhaps'} {text}"
        )
    if state.commit_failure_policy == UNHEEDED:
        text = "answers although the commit log could not be written; set commit_failure_policy: die"
        found.faults.append(f"node {node.name}: commit_failure_policy ignore {text}")


def _replication(cluster: ClusterReport, settings: Settings, found: Findings) -> None:
    keyspace = cluster.keyspace
    if keyspace is None:
        return
    nodes, copies = len(cluster.nodes), keyspace.replicas
    name = settings.store.keyspace
    found.lines.append(
        f"keyspace {name}: {copies} copies on {nodes} nodes in {cluster.local_dc},"
        f" {quorum(copies)} of them have a write before its answer"
    )
    if not keyspace.durable_writes:
        found.faults.append(f"keyspace {name}: durable_writes is false, so nothing goes into the commit log")
    if not copies:
        found.faults.append(f"keyspace {name}: it has no copy in {cluster.local_dc}")
    elif copies > nodes:
        found.faults.append(f"keyspace {name}: {copies} copies need as many nodes, and there are {nodes}")
    wanted = settings.cassandra_replication_factor
    if copies not in (0, wanted):
        text = f"{copies} copies, and BUSYAPI_CASSANDRA_REPLICATION_FACTOR says {wanted}; `python -m service schema` sets it"
        found.warnings.append(f"keyspace {name}: {text}")
    elif copies < min(3, nodes):
        text = f"{copies} copies on {nodes} nodes: while one is away a share of all keys is refused"
        found.warnings.append(f"keyspace {name}: {text}")


def _clocks(nodes: Sequence[NodeReport], skew_max_s: float, found: Findings) -> None:
    clocks = [node.clock for node in nodes if node.clock is not None]
    if len(clocks) < 2:
        return
    first, last = min(clocks, key=lambda clock: clock.ahead_s), max(clocks, key=lambda clock: clock.ahead_s)
    apart_s, error_s = last.ahead_s - first.ahead_s, first.error_s + last.error_s
    found.lines.append(f"clocks: at most {apart_s + error_s:.3f} s apart (setting: {skew_max_s:g} s)")
    if apart_s - error_s > skew_max_s:
        text = f"the nodes' are {apart_s:.3f} s apart, more than BUSYAPI_CASSANDRA_CLOCK_SKEW_MAX_S ({skew_max_s:g} s)"
        found.faults.append(f"clocks: {text}: a POST after a DELETE may be lost")


def _schema(cluster: ClusterReport, found: Findings) -> None:
    missing = sorted(set(cluster.known) - set(cluster.applied))
    later = sorted(set(cluster.applied) - set(cluster.known))
    found.lines.append(f"schema: version {max(cluster.applied, default=0)} of {max(cluster.known, default=0)}")
    if missing:
        found.faults.append(f"schema: versions {missing} are not applied; `python -m service schema` applies them")
    if later:
        found.warnings.append(f"schema: versions {later} were applied by a later release")
