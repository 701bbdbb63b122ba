"""How the driver is set up and connected, and what its errors say."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.connection import ConnectionException
from cassandra.policies import ConstantReconnectionPolicy, DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.protocol import ErrorMessage
from cassandra.query import tuple_factory

from cassandra import AuthenticationFailed, ConsistencyLevel, DriverException, OperationTimedOut
from service.errors import StoreRefused
from service.settings import Settings
from service.store.cassandra_bind import CONSISTENCY
from service.store.cassandra_policies import LogNodes, NeverRetry
from service.store.loop_connection import LoopConnection

CONNECT_TIMEOUT_S = 2.0
HEARTBEAT_INTERVAL_S = 1.0  # a silent peer is found out after two intervals and the timeout at most
HEARTBEAT_TIMEOUT_S = 2.0
RECONNECT_INTERVAL_S = 0.5
EXECUTOR_THREADS = 4  # idle but for reconnects, of which one may hang for CONNECT_TIMEOUT_S

_timestamp = threading.local()
"""What the driver asks for while it makes a message, in whichever thread that is."""

# The driver's ConnectionException is no DriverException.
UNREACHABLE = (NoHostAvailable, DriverException, ConnectionException, ErrorMessage, OSError)
"""What connecting and preparing raise when it is Cassandra's or the network's doing; anything else is a bug of ours."""


class Connected(NamedTuple):
    """The driver's cluster and session, and the data centre that they talk to."""

    cluster: Any
    session: Any
    local_dc: str


@contextlib.contextmanager
def timestamp(us: int | None) -> Iterator[None]:
    """What is made of a statement within it, in this thread, carries this time (µs); None: the coordinator's."""
    _timestamp.us = us
    try:
        yield
    finally:
        _timestamp.us = None


def connect(settings: Settings, connection_class: type[LoopConnection]) -> Connected:
    """Connect; blocks. Raises StoreRefused with the reason when no node answers."""
    local_dc = DCAwareRoundRobinPolicy(local_dc=settings.cassandra_local_dc)
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(local_dc),
        retry_policy=NeverRetry(),
        consistency_level=CONSISTENCY,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=settings.store_timeout_s,
        row_factory=tuple_factory,
    )
    auth = None
    if settings.cassandra_username:
        auth = PlainTextAuthProvider(settings.cassandra_username, settings.cassandra_password)
    hosts = ", ".join(f"{host}:{port}" for host, port in settings.store.hosts)
    cluster = None
    try:
        cluster = Cluster(
            contact_points=list(settings.store.hosts),
            port=settings.store.hosts[0][1],
            protocol_version=5,
            compression=False,  # loopback and rack networks carry the bytes for less than the CPU that packs them
            auth_provider=auth,
            connection_class=connection_class,
            # Else every write longer than a segment waits 40 ms for a delayed acknowledgement.
            sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=ConstantReconnectionPolicy(RECONNECT_INTERVAL_S, max_attempts=None),
            connect_timeout=CONNECT_TIMEOUT_S,
            control_connection_timeout=CONNECT_TIMEOUT_S,
            idle_heartbeat_interval=HEARTBEAT_INTERVAL_S,
            idle_heartbeat_timeout=HEARTBEAT_TIMEOUT_S,
            executor_threads=EXECUTOR_THREADS,
            schema_metadata_enabled=False,
            monitor_reporting_enabled=False,
            # A node keeps the statements that it has prepared over a restart; to prepare all of them anew takes a cold one
            # seconds, in which it would not be asked. One that does not know a statement says so, and is told it then.
            reprepare_on_up=False,
            # The statement's own, or none: then it is the coordinator's. Clocks of web instances decide nothing.
            timestamp_generator=lambda: getattr(_timestamp, "us", None),
        )
        session = cluster.connect()
        cluster.register_listener(LogNodes())
    except UNREACHABLE as error:
        known = {host.datacenter for host in cluster.metadata.all_hosts()} - {None} if cluster else set()
        if cluster:
            cluster.shutdown()
        if settings.cassandra_local_dc and known and settings.cassandra_local_dc not in known:
            raise StoreRefused(f"no node is in data centre {settings.cassandra_local_dc}; there is {known}") from error
        raise StoreRefused(f"cannot connect to Cassandra at {hosts}: {_reason(error)}") from error
    return Connected(cluster, session, local_dc.local_dc)


def _reason(error: Exception) -> str:
    if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict):
        errors = list(error.errors.values())
        for cause in errors:
            if isinstance(cause, AuthenticationFailed):
                return describe(cause)
        return "; ".join(sorted({"no answer in time" if isinstance(e, OperationTimedOut) else str(e) for e in errors}))
    return describe(error)


def describe(error: BaseException | None) -> str:
    """One line for logs and for who asks why."""
    if isinstance(error, NoHostAvailable) and isinstance(error.errors, dict):
        reasons = "; ".join(f"{host}: {reason}" for host, reason in error.errors.items())
        return f"no Cassandra node took the statement ({reasons or 'none is connected'})"[:500]
    if isinstance(error, OperationTimedOut):
        return (
            error.errors if isinstance(error.errors, str) else f"no answer in time from {error.last_host or 'any node'}"
        )
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
