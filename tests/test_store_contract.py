"""SQLite and Cassandra keep the same contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import read_settings
from service.store import open_store
from tests.cassandra_node import CassandraNode, running_node
from tests.store_contract import StoreContract, Stores


class TestSqlite(StoreContract):
    """The embedded store, on a file."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        """A new file."""
        settings = read_settings({"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"})
        return Stores(lambda: open_store(settings))


class TestCassandra(StoreContract):
    """The store at scale, on a real node."""

    delete_rounds = 2000

    @pytest.fixture(scope="class")
    def node(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraNode]:
        """A node for all tests of the class."""
        with running_node(tmp_path_factory.mktemp("contract")) as node:
            yield node

    @pytest.fixture(scope="class")
    def keyspace(self, node: CassandraNode) -> str:
        """One keyspace for all: tests keep apart by ids, keys and messages of their own."""
        return node.new_keyspace()

    @pytest.fixture
    def stores(self, node: CassandraNode, keyspace: str) -> Stores:
        """Sessions of their own on the keyspace."""
        # A busy machine is slow, and these tests are not about time limits.
        settings = node.settings(keyspace, store_timeout_s="20")
        return Stores(lambda: open_store(settings))
