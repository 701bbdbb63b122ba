"""The plain service's session with Cassandra, and its tables.

Settings, by environment: CASSANDRA_HOST (127.0.0.1) and CASSANDRA_PORT (9042). LOCAL_QUORUM and a token-aware policy, as
the driver's documentation recommends. TCP_NODELAY is set, which the driver does not do by itself: without it a request
of more than one segment would wait 40 ms for a delayed acknowledgement, and the comparison would be of that.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy

from cassandra import ConsistencyLevel

KEYSPACE = "plain"
REPLICATION = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
TABLES = (
    f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {REPLICATION}",
    f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.usages (id bigint PRIMARY KEY, usage text)",
    f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.messages (digest text PRIMARY KEY, message text)",
)


def connect() -> tuple[Any, Any]:
    """The driver's cluster and a session of it. The cluster's ``shutdown`` ends both."""
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
    )
    cluster = Cluster(
        contact_points=[os.environ.get("CASSANDRA_HOST", "127.0.0.1")],
        port=int(os.environ.get("CASSANDRA_PORT", "9042")),
        protocol_version=5,
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    return cluster, cluster.connect()
