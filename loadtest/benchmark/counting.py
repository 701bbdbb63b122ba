"""Counting afterwards: whether each id is one request's alone, and whether each 2xx is a row."""

from __future__ import annotations

import sqlite3
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import DCAwareRoundRobinPolicy

from cassandra import ConsistencyLevel
from service.store.keyed import WINDOW_MS, WINDOW_PARTS

BLOCK_BITS = 10
PAGE_BITS = 16
TIMEOUT_S = 60.0
CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Sent:
    """What a store has to have now: the ids that were acknowledged, and when (Unix seconds)."""

    ids: array[int]
    began: float
    ended: float


class Store(Protocol):
    """Where the rows of a case are."""

    def added(self, sent: Sent) -> int:
        """Rows that came since the last time, or since the start."""

    def lost(self, sent: Sent) -> int:
        """Acknowledged ids that are not there; 0 where rows are not known by id."""


def read_ids(path: Path) -> array[int]:
    """The generator's file of ids."""
    ids = array("q")
    ids.frombytes(path.read_bytes())
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


class SeenIds:
    """All ids of a subject so far: a byte for each, in pages, as ids come in ranges."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def repeated(self, ids: Iterable[int]) -> int:
        """How many of these ids came before, here or in an earlier call."""
        pages, mask, repeated = self._pages, (1 << PAGE_BITS) - 1, 0
        for id_ in ids:
            page = pages.get(id_ >> PAGE_BITS)
            if page is None:
                page = pages[id_ >> PAGE_BITS] = bytearray(1 << PAGE_BITS)
            repeated += page[id_ & mask]
            page[id_ & mask] = 1
        return repeated


@dataclass
class Counted:
    """A store that only tells how many rows it has."""

    count: Callable[[], int]
    _before: int = -1

    def __post_init__(self) -> None:
        self._before = self.count()

    def added(self, sent: Sent) -> int:  # noqa: ARG002 - all rows are counted
        """The difference from the last count."""
        before, self._before = self._before, self.count()
        return self._before - before

    def lost(self, sent: Sent) -> int:  # noqa: ARG002 - rows are not known by id
        """Nothing is known by id."""
        return 0


class SqliteUsages(Counted):
    """The usages of an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(lambda: int(self._column("SELECT count(*) FROM usages")[0]))

    def lost(self, sent: Sent) -> int:
        """Ids that are not in the file."""
        if not sent.ids:
            return 0
        query = f"SELECT id FROM usages WHERE id BETWEEN {min(sent.ids)} AND {max(sent.ids)}"
        return len(set(sent.ids).difference(self._column(query)))

    def _column(self, query: str) -> list[int]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=TIMEOUT_S)) as connection:
            return [value for (value,) in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Keyspace:
    """A Cassandra keyspace; each use has a session of its own, so that none is there while others are measured."""

    host: str
    port: int
    name: str

    @contextmanager
    def session(self) -> Iterator[Any]:
        """A session of the driver, at LOCAL_QUORUM."""
        profile = ExecutionProfile(
            load_balancing_policy=DCAwareRoundRobinPolicy(),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=TIMEOUT_S,
        )
        cluster = Cluster(
            contact_points=[self.host],
            port=self.port,
            protocol_version=5,
            schema_metadata_enabled=False,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        )
        try:
            yield cluster.connect(self.name)
        finally:
            cluster.shutdown()

    def counts(self, query: str, partitions: Sequence[tuple[Any, ...]]) -> list[int]:
        """What a query that counts tells for each partition."""
        return [rows.one()[0] for rows in self._results(query, partitions)]

    def values(self, query: str, partitions: Sequence[tuple[Any, ...]]) -> Iterator[int]:
        """The one column that a query gives, over all partitions."""
        for rows in self._results(query, partitions):
            yield from (row[0] for row in rows)

    def _results(self, query: str, partitions: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self.session() as session:
            statement = session.prepare(query)
            found = execute_concurrent_with_args(session, statement, partitions, CONCURRENCY, raise_on_first_error=True)
            return [result for _, result in found]


@dataclass
class CassandraUsages:
    """Usages by id: the rows of every partition that these ids fall in, and of those beside it."""

    keyspace: Keyspace
    _known: dict[int, int] = field(default_factory=dict)

    def added(self, sent: Sent) -> int:
        """Rows in these partitions, less those that were there the last time."""
        known = {id_ >> BLOCK_BITS for id_ in sent.ids}
        # A group that was never acknowledged lies beside one that was.
        blocks = sorted(known | {block + 1 for block in known} | {block - 1 for block in known})
        counts = self.keyspace.counts("SELECT count(*) FROM usages WHERE block = ?", [(block,) for block in blocks])
        added = sum(count - self._known.get(block, 0) for block, count in zip(blocks, counts, strict=True))
        self._known.update(zip(blocks, counts, strict=True))
        return added

    def lost(self, sent: Sent) -> int:
        """Ids that are not there."""
        blocks = sorted({id_ >> BLOCK_BITS for id_ in sent.ids})
        query = "SELECT id FROM usages WHERE block = ?"
        return len(set(sent.ids).difference(self.keyspace.values(query, [(block,) for block in blocks])))


@dataclass
class CassandraKeyed:
    """Usages under UUIDv7 keys, which lie by the time at which they were sent."""

    keyspace: Keyspace
    _known: dict[str, int] = field(default_factory=dict)

    def added(self, sent: Sent) -> int:
        """Rows of the seconds in which these were sent, less those that were there the last time."""
        first, last = (int(at * 1000) // WINDOW_MS for at in (sent.began - 1, sent.ended + 1))
        buckets = [f"{window}.{part}" for window in range(first, last + 1) for part in range(WINDOW_PARTS)]
        counts = self.keyspace.counts("SELECT count(*) FROM keyed_usages WHERE bucket = ?", [(b,) for b in buckets])
        added = sum(count - self._known.get(bucket, 0) for bucket, count in zip(buckets, counts, strict=True))
        self._known.update(zip(buckets, counts, strict=True))
        return added

    def lost(self, sent: Sent) -> int:  # noqa: ARG002 - the generator tells ids, and these have keys
        """Nothing is known by id."""
        return 0
