"""A real node whose commit log is turned to periodic and back: what the service and ``check`` say of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop

from service.store import Durability
from service.store.cassandra import CassandraStore
from tests.support import ROOT, clean_environ, eventually, ready_instance

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
pytestmark = [pytest.mark.cassandra, pytest.mark.timeout(600)]  # a node is started three times

FSYNC = Durability(synced=True, acknowledging=1, replicas=1)
SEEN_WITHIN_S = 90.0
"""A busy machine may take its time to connect anew; what is awaited comes in a second or two."""


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> str:
    """One keyspace for these tests."""
    return cassandra_node.new_keyspace()


class Configuration:
    """The node's cassandra.yaml, changed and put back."""

    def __init__(self, node: CassandraNode) -> None:
        self._node = node
        home = node.cluster.state_dir / "cassandra" / "cassandra1"
        self._path: Path = home / "conf" / "cassandra.yaml"
        self._text = self._path.read_text()

    def periodic(self) -> None:
        """Start it with Cassandra's own default."""
        assert "commitlog_sync: batch" in self._text
        text = self._text.replace("commitlog_sync: batch", "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms")
        self._restart(text)

    def restore(self) -> None:
        """As it was."""
        if self._path.read_text() != self._text or not self._node.is_running():
            self._restart(self._text)

    def _restart(self, text: str) -> None:
        if self._node.is_running():
            self._node.kill()
        self._path.write_text(text)
        self._node.start()


@pytest.fixture
def configuration(cassandra_node: CassandraNode) -> Iterator[Configuration]:
    """The node's, put back at the end."""
    found = Configuration(cassandra_node)
    yield found
    found.restore()


def check(node: CassandraNode, keyspace: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """``python -m service check`` against the node."""
    host, port = node.address
    return subprocess.run(
        [sys.executable, "-m", "service", "check"],
        cwd=ROOT,
        env=clean_environ(store=f"cassandra://{host}:{port}/{keyspace}", **settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_node_that_fsyncs_says_so_from_the_first_answer(cassandra_node: CassandraNode, keyspace: str):
    """Once the store is open it is known, not guessed."""

    async def main() -> None:
        store = CassandraStore(cassandra_node.settings(keyspace, store_timeout_s="20"))
        assert store.durability().synced is None
        await store.open()
        try:
            assert store.durability() == FSYNC
        finally:
            await store.close()

    uvloop.run(main())


def test_check_reports_node_replication_clock_and_schema(cassandra_node: CassandraNode, keyspace: str):
    """Exit 0: an acknowledged write is fsynced."""
    result = check(cassandra_node, keyspace)
    assert (result.returncode, result.stderr) == (0, ""), result
    for words in (
        "acknowledgement: fsync; replicas=1/1",
        "commitlog_sync batch",
        "1 copies on 1 nodes",
        "schema: version",
    ):
        assert words in result.stdout


def test_check_says_which_keyspace_or_address_is_wrong(cassandra_node: CassandraNode):
    """One line, no traceback."""
    result = check(cassandra_node, "not_there")
    assert result.returncode == 1
    assert "not_there" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_node_turned_to_periodic_is_never_reported_as_fsync(
    cassandra_node: CassandraNode, keyspace: str, configuration: Configuration, tmp_path: Path
):
    """The running service notices, a new one warns at its start, check fails; and all is well once it is put back."""
    host, port = cassandra_node.address
    program = ("env", f"BUSYAPI_STORE=cassandra://{host}:{port}/{keyspace}", sys.executable, "-m", "service")
    with ready_instance(tmp_path, program=program) as instance:
        assert instance.post_usage().header("ack") == "fsync; replicas=1/1"
        configuration.periodic()
        seen = set()

        def settled() -> bool:
            reply = instance.post_usage()
            if reply.status == 201:
                seen.add(reply.header("ack"))
            return "memory; replicas=1/1" in seen

        eventually(settled, SEEN_WITHIN_S)
        assert seen <= {"memory; replicas=1/1", "unknown; replicas=1/1"}
        eventually(lambda: instance.logged("acknowledgements", level="warning", ack="memory; replicas=1/1"))

        result = check(cassandra_node, keyspace)
        assert result.returncode == 1, result
        assert "commitlog_sync periodic" in result.stderr
        with ready_instance(tmp_path, program=program) as late:
            assert late.logged("acknowledgements", level="warning", ack="memory; replicas=1/1")
            assert late.post_usage().header("ack") == "memory; replicas=1/1"

        configuration.restore()
        eventually(lambda: instance.post_usage().header("ack") == "fsync; replicas=1/1", SEEN_WITHIN_S)
    assert check(cassandra_node, keyspace).returncode == 0


def test_a_store_that_closes_stops_asking(cassandra_node: CassandraNode, keyspace: str):
    """Also twice, and it may be opened again."""

    async def main() -> None:
        store = CassandraStore(cassandra_node.settings(keyspace, store_timeout_s="20"))
        for _ in range(2):
            await store.open()
            await store.open()
            await store.close()
            await store.close()
        assert len(asyncio.all_tasks()) == 1

    uvloop.run(main())
