"""What the cluster says of itself, node by node, for ``python -m service check``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from cassandra.query import SimpleStatement

from cassandra import ConsistencyLevel
from service.settings import Settings
from service.store.cassandra_connect import UNREACHABLE
from service.store.cassandra_durability import ASK_TIMEOUT_S, ask_nodes, connected, read_keyspace
from service.store.cassandra_schema import SELECT_VERSIONS, read_schema
from service.store.cassandra_session import CassandraSession
from service.store.durability import KeyspaceState, NodeState

CLOCK = "SELECT to_unix_timestamp(now()) FROM system.local WHERE key = 'local'"
CLOCK_RESOLUTION_S = 0.001
CLOCK_SAMPLES = 5
CONNECT_WAIT_S = 5.0
"""Longest wait for connections to all nodes; one that is not there then is away."""


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far a node's clock is ahead of this machine's, and how well that is known; in seconds."""

    ahead_s: float
    error_s: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of the local data centre. ``state`` and ``clock`` are None when it could not be asked."""

    name: str
    connected: bool
    version: str
    state: NodeState | None
    clock: ClockOffset | None


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """The local data centre, the keyspace in it, and the versions of its schema: those applied, and those there are."""

    local_dc: str
    nodes: tuple[NodeReport, ...]
    keyspace: KeyspaceState | None
    applied: tuple[int, ...]
    known: tuple[int, ...]


async def report(settings: Settings) -> ClusterReport:
    """Ask every node over a session of its own. Raises StoreRefused when none answers."""
    session = await CassandraSession.connect(settings)
    try:
        await connected(session, CONNECT_WAIT_S)
        nodes = session.nodes()
        there = [node for node, is_there in nodes.items() if is_there]
        states = await ask_nodes(session, there)
        clocks = await session.run_blocking(partial(_clocks, there))
        reports = [
            NodeReport(_name(node), is_there, str(node.release_version), states.get(node), clocks.get(node))
            for node, is_there in nodes.items()
        ]
        return ClusterReport(
            session.local_dc,
            tuple(sorted(reports, key=lambda node: node.name)),
            await read_keyspace(session, settings.store.keyspace),
            tuple(await session.run_blocking(partial(_versions, settings.store.keyspace))),
            tuple(file.version for file in read_schema()),
        )
    finally:
        await session.close()


def _name(node: Any) -> str:
    return str(node.endpoint)


def _versions(keyspace: str, driver: Any) -> list[int]:
    try:
        return sorted(row[0] for row in driver.execute(SELECT_VERSIONS.format(f'"{keyspace}"'), timeout=ASK_TIMEOUT_S))
    except UNREACHABLE:
        return []


def _clocks(nodes: list[Any], driver: Any) -> dict[Any, ClockOffset]:
    """Of a few looks at each clock the one that came back soonest."""
    statement = SimpleStatement(CLOCK, consistency_level=ConsistencyLevel.ONE)
    found: dict[Any, ClockOffset] = {}
    for node in nodes:
        for _ in range(CLOCK_SAMPLES):
            sent_s = time.time()
            try:
                ((clock_ms,),) = driver.execute(statement, host=node, timeout=ASK_TIMEOUT_S)
            except UNREACHABLE:
                break
            back_s = time.time()
            error_s = (back_s - sent_s + CLOCK_RESOLUTION_S) / 2
            if node not in found or error_s < found[node].error_s:
                # The node cut its time down to a whole millisecond.
                ahead_s = clock_ms / 1000 + CLOCK_RESOLUTION_S / 2 - (sent_s + back_s) / 2
                found[node] = ClockOffset(ahead_s, error_s)
    return found
