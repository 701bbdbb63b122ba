"""What an acknowledgement of a cluster is worth, out of what its nodes say of themselves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.store import Durability

SYNCED = frozenset({"batch", "group"})
"""``commitlog_sync`` of a node that answers after the fsync; ``periodic``, Cassandra's default, answers before it."""
UNHEEDED = "ignore"
"""``commit_failure_policy`` of a node that answers although its commit log could not be written."""
NOTHING_KNOWN = Durability(synced=None, acknowledging=0, replicas=0)


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node said of its commit log, and which start of the node it was that said so.

    ``generation`` is in seconds since the epoch, as gossip has it: a node that was restarted has a higher one, and may
    have another configuration.
    """

    commitlog_sync: str
    commit_failure_policy: str
    address: str
    port: int
    generation: int

    @property
    def synced(self) -> bool:
        """Whether its answer means that the write was fsynced."""
        return self.commitlog_sync in SYNCED and self.commit_failure_policy != UNHEEDED


@dataclass(frozen=True, slots=True)
class KeyspaceState:
    """How a keyspace is kept: copies of each row in the local data centre, and whether it uses the commit log at all."""

    replicas: int
    durable_writes: bool


def keyspace_state(replication: Mapping[str, str], local_dc: str, *, durable_writes: bool) -> KeyspaceState:
    """Read ``replication`` as system_schema has it. No replicas where the data centre has none."""
    copies = replication.get(local_dc) or replication.get("replication_factor", "0")
    return KeyspaceState(int(copies.partition("/")[0]), durable_writes)


def quorum(replicas: int) -> int:
    """How many of so many replicas LOCAL_QUORUM waits for."""
    return replicas // 2 + 1 if replicas else 0


def durability(keyspace: KeyspaceState | None, nodes: Collection[NodeState | None]) -> Durability:
    """What an acknowledgement is worth: as much as the least of the nodes that may have given it.

    ``nodes`` are all of the local data centre, as each may hold a replica; None stands for one that was not asked yet.
    """
    if keyspace is None:
        return NOTHING_KNOWN
    synced: bool | None
    if not keyspace.durable_writes or any(node is not None and not node.synced for node in nodes):
        synced = False
    else:
        synced = True if nodes and None not in nodes else None
    return Durability(synced=synced, acknowledging=quorum(keyspace.replicas), replicas=keyspace.replicas)


def restarted(known: NodeState, generations: Mapping[tuple[str, int], int]) -> bool:
    """Whether a node that is out of reach has been started again since it was asked, as its peers see it.

    ``generations`` are by address and port; a node that its peers do not name may be anything.
    """
    return generations.get((known.address, known.port)) != known.generation
