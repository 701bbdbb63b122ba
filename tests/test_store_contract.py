"""SQLite and Cassandra keep the same contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.settings import read_settings
from service.store import open_store
from tests.store_contract import StoreContract, Stores

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]


class TestSqlite(StoreContract):
    """The embedded store, on a file."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        """A new file."""
        settings = read_settings({"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"})
        return Stores(lambda: open_store(settings))


@pytest.mark.timeout(300)  # the first one may have to start the node
@pytest.mark.cassandra
class TestCassandra(StoreContract):
    """The store at scale, on a real node."""

    delete_rounds = 2000

    @pytest.fixture
    def stores(self, cassandra_node: CassandraNode, contract_keyspace: str) -> Stores:
        """Sessions of their own on one keyspace: tests keep apart by ids, keys and messages of their own."""
        # A busy machine is slow, and these tests are not about time limits.
        settings = cassandra_node.settings(contract_keyspace, store_timeout_s="20")
        return Stores(lambda: open_store(settings))


@pytest.fixture(scope="module")
def contract_keyspace(cassandra_node: CassandraNode) -> str:
    """A keyspace that the schema step has just made."""
    return cassandra_node.new_keyspace()
