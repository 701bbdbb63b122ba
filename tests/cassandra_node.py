"""A real Cassandra node for tests, started by the cluster tool, and keyspaces on it.

A test module takes it by ``pytest_plugins = ["tests.cassandra_node"]``; all of them share one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.cluster import Options, RunningCluster, start_cluster
from service.settings import Settings, read_settings
from service.store.cassandra_schema import apply_schema
from tests.support import eventually

NODE = "cassandra1"
SCHEMA_WAIT_S = 60.0


@dataclass(frozen=True)
class CassandraNode:
    """One node that the test may stop, kill and start again."""

    cluster: RunningCluster

    @property
    def address(self) -> tuple[str, int]:
        """Where it speaks CQL."""
        process = self.cluster.process(NODE)
        return process.address, process.port

    def settings(self, keyspace: str, **more: str) -> Settings:
        """Settings of a store on this node; ``more`` are settings by their names."""
        host, port = self.address
        environment = {f"BUSYAPI_{name.upper()}": value for name, value in more.items()}
        return read_settings({"BUSYAPI_STORE": f"cassandra://{host}:{port}/{keyspace}", **environment})

    def new_keyspace(self) -> str:
        """A keyspace with all tables in it and nothing in them."""
        keyspace = f"t_{uuid.uuid4().hex}"
        asyncio.run(apply_schema(self.settings(keyspace), wait_s=SCHEMA_WAIT_S, report=lambda _: None))
        return keyspace

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.cluster.process(NODE).running

    def kill(self) -> None:
        """Kill it and wait until it is gone."""
        self.cluster.kill(NODE)

    def start(self) -> None:
        """Start it where it was; returns when it answers."""
        self.cluster.start(NODE)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still: connections stay open, nothing is answered."""
        pid = self.cluster.process(NODE).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            # A thread that runs on another core goes on for a moment, and could still answer.
            eventually(lambda: all(_state(thread) == "T" for thread in Path(f"/proc/{pid}/task").iterdir()))
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def _state(thread: Path) -> str:
    """The state of a thread, as proc(5) has it behind the name in parentheses; T for one that is gone."""
    try:
        return (thread / "stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"


@pytest.fixture(scope="session")
def cassandra_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
    """One node for all tests; who stops it starts it again. The web instance beside it is left alone."""
    state_dir = tmp_path_factory.mktemp("cassandra")
    with start_cluster(Options(web=1, cassandra_nodes=1, port=0, state_dir=state_dir, discard=True)) as cluster:
        yield CassandraNode(cluster)
