"""SQLite and Cassandra keep the same contract."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.settings import read_settings
from service.store import open_store
from service.store.cassandra_schema import apply_schema
from service.store.sqlite import SqliteStore
from tests.store_contract import StoreContract, Stores
from tests.store_reading_contract import MINUTE_US, PatientContract, ReadingContract

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]

SCHEMA_WAIT_S = 60.0


class Clock:
    """The system's clock, which can be put forward to the next minute."""

    def __init__(self) -> None:
        self._ahead_us = 0

    def __call__(self) -> int:
        """µs since the epoch."""
        return time.time_ns() // 1000 + self._ahead_us

    async def next_minute(self) -> None:
        """Pass on to it."""
        self._ahead_us += MINUTE_US - self() % MINUTE_US


def sqlite_stores(directory: Path, **more: str) -> Stores:
    """Stores on a new file with a clock of their own; ``more`` are settings by their names."""
    environment = {f"BUSYAPI_{name.upper()}": value for name, value in more.items()}
    settings = read_settings({"BUSYAPI_STORE": f"sqlite:///{directory}/store.sqlite3", **environment})
    clock = Clock()
    return Stores(lambda: SqliteStore(settings, clock), clock.next_minute)


class TestSqlite(StoreContract, ReadingContract):
    """The embedded store, on a file."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        """A new file."""
        return sqlite_stores(tmp_path)


class TestSqlitePatients(PatientContract):
    """The embedded store with a patient index."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Stores:
        """A new file."""
        return sqlite_stores(tmp_path, patient_index="on")


@pytest.mark.timeout(600)  # the first one may have to start the node, and some wait for the end of a minute
@pytest.mark.cassandra
class TestCassandra(StoreContract, ReadingContract):
    """The store at scale, on a real node."""

    delete_rounds = 2000
    reading_rounds = 1000

    @pytest.fixture
    def stores(self, cassandra_node: CassandraNode, contract_keyspace: str) -> Stores:
        """Sessions of their own on one keyspace: tests keep apart by ids, keys and messages of their own, and by time."""
        # A busy machine is slow, and these tests are not about time limits.
        settings = cassandra_node.settings(contract_keyspace, store_timeout_s="20")
        return Stores(lambda: open_store(settings))


@pytest.mark.timeout(600)
@pytest.mark.cassandra
class TestCassandraPatients(PatientContract):
    """The store at scale with a patient index."""

    @pytest.fixture(scope="class")
    def patient_keyspace(self, cassandra_node: CassandraNode) -> str:
        """A keyspace with the index in it."""
        keyspace = f"t_{uuid.uuid4().hex}"
        settings = cassandra_node.settings(keyspace, patient_index="on")
        asyncio.run(apply_schema(settings, wait_s=SCHEMA_WAIT_S, report=lambda _: None))
        return keyspace

    @pytest.fixture
    def stores(self, cassandra_node: CassandraNode, patient_keyspace: str) -> Stores:
        """Sessions of their own on that keyspace."""
        settings = cassandra_node.settings(patient_keyspace, store_timeout_s="20", patient_index="on")
        return Stores(lambda: open_store(settings))


@pytest.fixture(scope="module")
def contract_keyspace(cassandra_node: CassandraNode) -> str:
    """A keyspace that the schema step has just made."""
    return cassandra_node.new_keyspace()
