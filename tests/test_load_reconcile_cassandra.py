"""Journals against a real Cassandra, whose rows are spoilt by CQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cassandra.cluster import Cluster

from loadtest.journal import Kind, State, Usages, open_journal
from loadtest.reconcile import Fault, StoreUnreadable, reconcile
from loadtest.reconcile.__main__ import main
from service.store.keyed import bucket
from service.store.places import BLOCK_BITS
from tests.planting import CASES, FIRST, NAMES, Load, Plant

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
# Starting a node is slow on a busy machine, and belongs to the first test.
pytestmark = [pytest.mark.cassandra, pytest.mark.timeout(300)]


class CassandraPlanter:
    """A keyspace with the service's tables."""

    def __init__(self, node: CassandraNode) -> None:
        host, port = node.address
        keyspace = node.new_keyspace()
        self.url = f"cassandra://{host}:{port}/{keyspace}"
        self.cluster = Cluster([host], port=port, protocol_version=5, schema_metadata_enabled=False)
        self.session = self.cluster.connect(keyspace)

    def execute(self, statement: str, *values: object) -> Any:
        """One statement; what it gives."""
        return self.session.execute(statement, values)

    def put_usage(self, id_: int, body: bytes) -> None:
        """A row of usages."""
        self.execute("INSERT INTO usages (block, id, usage) VALUES (%s, %s, %s)", id_ >> BLOCK_BITS, id_, body.decode())

    def put_keyed(self, key_: str, digest: bytes, body: bytes) -> None:
        """A row of keyed usages."""
        statement = "INSERT INTO keyed_usages (bucket, key, digest, usage) VALUES (%s, %s, %s, %s)"
        self.execute(statement, bucket(key_), key_, digest, body.decode())

    def put_message(self, digest: bytes, text: bytes) -> None:
        """A row of messages."""
        self.execute("INSERT INTO messages (digest, message) VALUES (%s, %s)", digest, text.decode())

    def drop_usage(self, id_: int) -> None:
        """The row of an id."""
        self.execute("DELETE FROM usages WHERE block = %s AND id = %s", id_ >> BLOCK_BITS, id_)

    def drop_keyed(self, key_: str) -> None:
        """All rows of a key."""
        self.execute("DELETE FROM keyed_usages WHERE bucket = %s AND key = %s", bucket(key_), key_)

    def drop_message(self, digest: bytes) -> None:
        """The row of a digest."""
        self.execute("DELETE FROM messages WHERE digest = %s", digest)


@pytest.fixture(scope="module")
def planter(cassandra_node: CassandraNode) -> Iterator[CassandraPlanter]:
    """One keyspace for these tests."""
    planter = CassandraPlanter(cassandra_node)
    yield planter
    planter.cluster.shutdown()


@pytest.fixture(autouse=True)
def empty(planter: CassandraPlanter) -> None:
    """Nothing is left of the test before: its rows are deleted, as TRUNCATE takes seconds."""
    for row in planter.execute("SELECT DISTINCT block FROM usages"):
        planter.execute("DELETE FROM usages WHERE block = %s", row[0])
    for row in planter.execute("SELECT DISTINCT bucket FROM keyed_usages"):
        planter.execute("DELETE FROM keyed_usages WHERE bucket = %s", row[0])
    for row in planter.execute("SELECT DISTINCT digest FROM messages"):
        planter.execute("DELETE FROM messages WHERE digest = %s", row[0])


@pytest.mark.parametrize(("plant", "kind"), CASES, ids=NAMES)
def test_what_is_planted_is_found_and_nothing_else(tmp_path: Path, planter: CassandraPlanter, plant: Plant, kind: Kind):
    """Each way to spoil a load, on each kind that it can befall; two more loads beside it are as they should be."""
    loads = [Load(planter, tmp_path, other, 5000 * index + 100) for index, other in enumerate([kind, *Kind])]
    plant.spoil(loads[0])
    for load in loads:
        load.journal.close()
    result = reconcile(tmp_path, planter.url)
    assert {fault: findings.count for fault, findings in result.faults.items() if findings.count} == plant.faults
    assert sum(result.others.values()) == plant.others
    assert result.ok == (not plant.faults)


def test_a_row_where_no_read_finds_it_is_lost(tmp_path: Path, planter: CassandraPlanter):
    """The service reads one partition for an id and one for a key: in another, a row is as good as gone."""
    loads = [Load(planter, tmp_path, kind, 100) for kind in (Kind.USAGE, Kind.KEYED)]
    usage, keyed = loads
    usage.drop(FIRST)
    planter.execute(
        "INSERT INTO usages (block, id, usage) VALUES (7, %s, %s)", usage.id(FIRST), usage.body(FIRST).decode()
    )
    keyed.drop(FIRST)
    planter.execute(
        "INSERT INTO keyed_usages (bucket, key, digest, usage) VALUES ('7', %s, %s, %s)",
        keyed.key(FIRST),
        keyed.digest(FIRST),
        keyed.body(FIRST).decode(),
    )
    for load in loads:
        load.journal.close()
    result = reconcile(tmp_path, planter.url)
    assert {fault: findings.count for fault, findings in result.faults.items() if findings.count} == {Fault.LOST: 2}
    assert all("its row is elsewhere" in finding.reason for finding in result.faults[Fault.LOST].first)


def test_a_row_without_its_usage_is_corrupt(tmp_path: Path, planter: CassandraPlanter):
    """A key of the table alone is no usage."""
    load = Load(planter, tmp_path, Kind.USAGE, 100)
    load.journal.close()
    planter.execute("UPDATE usages SET usage = null WHERE block = 0 AND id = %s", load.id(FIRST))
    result = reconcile(tmp_path, planter.url)
    assert {fault: findings.count for fault, findings in result.faults.items() if findings.count} == {Fault.CORRUPT: 1}


def test_a_table_of_many_pages_is_read_whole(tmp_path: Path, planter: CassandraPlanter):
    """More rows than a page holds, in one partition and in many; progress rises to 1."""
    journal = open_journal(tmp_path, Kind.USAGE)
    usages = Usages(journal.token)
    statement = planter.session.prepare("INSERT INTO usages (block, id, usage) VALUES (?, ?, ?)")
    waiting = []
    for id_ in range(1, 6001):
        seq = journal.intent()
        journal.outcome(seq, State.ACKNOWLEDGED, id_)
        waiting.append(planter.session.execute_async(statement, (id_ >> BLOCK_BITS, id_, usages.body(seq).decode())))
        if len(waiting) == 500:
            for future in waiting:
                future.result()
            waiting.clear()
    journal.close()
    shares: list[float] = []
    result = reconcile(tmp_path, planter.url, lambda share, _: shares.append(share))
    assert result.ok, str(result)
    assert (result.total.acknowledged, result.total.stored, result.rows[Kind.USAGE]) == (6000, 6000, 6000)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_what_cannot_be_read_is_status_2(tmp_path: Path, planter: CassandraPlanter, capsys: pytest.CaptureFixture[str]):
    """A keyspace that is not there, and one without the tables: neither passes for an empty store."""
    open_journal(tmp_path, Kind.USAGE).close()
    base, _, _ = planter.url.rpartition("/")
    assert main([str(tmp_path), "--store", f"{base}/no_such_keyspace"]) == 2
    assert "no_such_keyspace" in capsys.readouterr().err
    with pytest.raises(StoreUnreadable, match="usages"):
        reconcile(tmp_path, f"{base}/system_auth")
