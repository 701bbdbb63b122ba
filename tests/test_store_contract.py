"""SQLite and Cassandra keep the same contract."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.settings import Settings, read_settings
from service.store.cassandra import CassandraStore
from service.store.cassandra_schema import apply_schema
from service.store.clock import ClusterClock
from service.store.sqlite import SqliteStore
from tests.store_contract import Clock, StoreContract, Stores
from tests.store_reading_contract import PatientContract, ReadingContract

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]

SCHEMA_WAIT_S = 60.0


class AheadOfCluster:
    """The cluster's clock as a store reckons it, ahead by as much as ``clock`` is of the system's."""

    def __init__(self, clock: Clock) -> None:
        self._ahead = clock
        self.cluster: ClusterClock | None = None

    async def open(self) -> None:
        """Ask the cluster."""
        assert self.cluster is not None
        await self.cluster.open()

    async def close(self) -> None:
        """Stop asking."""
        assert self.cluster is not None
        await self.cluster.close()

    def now_us(self) -> int:
        """Strictly rising, as ``clock`` only goes ahead."""
        assert self.cluster is not None
        return self.cluster.now_us() + self._ahead.ahead_us

    def least_us(self) -> int:
        """A little earlier."""
        assert self.cluster is not None
        return self.cluster.least_us() + self._ahead.ahead_us


def cassandra_store(settings: Settings, clock: Clock) -> CassandraStore:
    """A store whose minutes end when ``clock`` says so."""
    ahead = AheadOfCluster(clock)
    store = CassandraStore(settings, ahead)
    ahead.cluster = ClusterClock(store._ask_clock_ms, store._doubt)
    return store


def sqlite_stores(directory: Path, **more: str) -> Stores:
    """Stores on a new file with a clock of their own; ``more`` are settings by their names."""
    environment = {f"BUSYAPI_{name.upper()}": value for name, value in more.items()}
    settings = read_settings({"BUSYAPI_STORE": f"sqlite:///{directory}/store.sqlite3", **environment})
    clock = Clock()
    return Stores(lambda: SqliteStore(settings, clock), clock)


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


@pytest.mark.timeout(600)  # the first one may have to start the node
@pytest.mark.cassandra
class TestCassandra(StoreContract, ReadingContract):
    """The store at scale, on a real node."""

    delete_rounds = 2000
    reading_rounds = 1000

    @pytest.fixture
    def stores(self, cassandra_node: CassandraNode, contract_keyspace: str, contract_clock: Clock) -> Stores:
        """Sessions of their own on one keyspace: tests keep apart by ids, keys and messages of their own, and by time."""
        # A busy machine is slow, and these tests are not about time limits.
        settings = cassandra_node.settings(contract_keyspace, store_timeout_s="20")
        return Stores(lambda: cassandra_store(settings, contract_clock), contract_clock)


@pytest.mark.timeout(600)
@pytest.mark.cassandra
class TestCassandraPatients(PatientContract):
    """The store at scale with a patient index."""

    @pytest.fixture
    def stores(self, cassandra_node: CassandraNode, patient_keyspace: str) -> Stores:
        """Sessions of their own on that keyspace."""
        settings = cassandra_node.settings(patient_keyspace, store_timeout_s="20", patient_index="on")
        clock = Clock()
        return Stores(lambda: cassandra_store(settings, clock), clock)


@pytest.fixture(scope="module")
def contract_keyspace(cassandra_node: CassandraNode) -> str:
    """A keyspace that the schema step has just made."""
    return cassandra_node.new_keyspace()


@pytest.fixture(scope="module")
def contract_clock() -> Clock:
    """The one clock of everything in that keyspace: once it is ahead it stays so."""
    return Clock()


@pytest.fixture(scope="module")
def patient_keyspace(cassandra_node: CassandraNode) -> str:
    """A keyspace with the index in it."""
    keyspace = f"t_{uuid.uuid4().hex}"
    settings = cassandra_node.settings(keyspace, patient_index="on")
    asyncio.run(apply_schema(settings, wait_s=SCHEMA_WAIT_S, report=lambda _: None))
    return keyspace
