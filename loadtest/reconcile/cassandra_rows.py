"""The rows of a Cassandra store: every token range of a table, some of them at once, each page by page."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.protocol import ErrorMessage

from cassandra import ConsistencyLevel, DriverException, RequestValidationException
from loadtest.journal import Kind
from loadtest.reconcile.sources import Page, StoreUnreadable
from service.settings import Settings
from service.store.keyed import bucket

RANGES = 256
"""Pieces of the ring that a table is read in."""
IN_FLIGHT_MAX = 4
PAGES_WAITING_MAX = 8
TIMEOUT_S = 30.0
ATTEMPTS_MAX = 5
PAUSE_S = 1.0
BLOCK_BITS = 10
TOKEN_MIN, TOKEN_MAX = -(2**63), 2**63 - 1
UNREACHABLE = (NoHostAvailable, DriverException, ErrorMessage, OSError)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """How a table is read; ``page_rows`` keeps a page of the largest rows that the service takes within memory."""

    query: str
    page_rows: int
    row: Callable[[Row], Row]


def _usage(row: Row) -> Row:
    block, id_, body = row
    return (id_ if block == id_ >> BLOCK_BITS else -id_), body or b""


def _keyed(row: Row) -> Row:
    bucket_, key, digest, body = row
    return (key if bucket(key) == bucket_ else f"{key} in another bucket than its own"), digest, body or b""


def _message(row: Row) -> Row:
    return row[0], row[1] or b""


TABLES = {
    Kind.USAGE: Table(
        "SELECT block, id, text_as_blob(usage) FROM usages WHERE token(block) >= ? AND token(block) <= ?", 1000, _usage
    ),
    Kind.KEYED: Table(
        "SELECT bucket, key, digest, text_as_blob(usage) FROM keyed_usages"
        " WHERE token(bucket) >= ? AND token(bucket) <= ?",
        1000,
        _keyed,
    ),
    Kind.MESSAGE: Table(
        "SELECT digest, text_as_blob(message) FROM messages WHERE token(digest) >= ? AND token(digest) <= ?",
        200,
        _message,
    ),
}


def token_ranges(count: int) -> list[tuple[int, int]]:
    """The whole ring in ``count`` pieces, first and last token of each."""
    bounds = [TOKEN_MIN + (TOKEN_MAX - TOKEN_MIN + 1) * index // count for index in range(count + 1)]
    return [(bounds[index], bounds[index + 1] - 1) for index in range(count)]


class CassandraSource:
    """A session that reads at LOCAL_QUORUM, as the service does."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def pages(self, kind: Kind) -> Iterator[Page]:
        """All rows of a table. Raises StoreUnreadable after ATTEMPTS_MAX attempts at one page."""
        table = TABLES[kind]
        statement = _patiently(partial(self._session.prepare, table.query))
        statement.fetch_size = table.page_rows
        pages: queue.Queue[list[Row] | Exception | None] = queue.Queue(PAGES_WAITING_MAX)
        stopping = threading.Event()

        def put(item: list[Row] | Exception | None) -> None:
            while not stopping.is_set():
                try:
                    pages.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        def read(first: int, last: int) -> None:
            bound = statement.bind((first, last))
            state = None
            try:
                while not stopping.is_set():
                    result = _patiently(partial(self._session.execute, bound, paging_state=state))
                    put([*map(table.row, result.current_rows)])
                    state = result.paging_state
                    if state is None:
                        break
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where the rows are awaited
                put(error)
            else:
                put(None)

        with ThreadPoolExecutor(IN_FLIGHT_MAX, "reconcile") as threads:
            for piece in token_ranges(RANGES):
                threads.submit(read, *piece)
            try:
                done = 0
                while done < RANGES:
                    item = pages.get()
                    if isinstance(item, Exception):
                        raise item
                    if item is None:
                        done += 1
                    else:
                        yield done / RANGES, item
            finally:
                stopping.set()


@contextmanager
def cassandra_source(settings: Settings) -> Iterator[CassandraSource]:
    """The keyspace of these settings. Raises StoreUnreadable when it cannot be reached or is not there."""
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.cassandra_local_dc)),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=TIMEOUT_S,
    )
    user = settings.cassandra_username
    cluster = Cluster(
        contact_points=list(settings.store.hosts),
        auth_provider=PlainTextAuthProvider(user, settings.cassandra_password) if user else None,
        protocol_version=5,
        schema_metadata_enabled=False,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    try:
        try:
            session = cluster.connect(settings.store.keyspace)
        except UNREACHABLE as error:
            raise StoreUnreadable(f"{settings.store}: {error}") from error
        yield CassandraSource(session)
    finally:
        cluster.shutdown()


def _patiently(work: Callable[[], Any]) -> Any:
    """Do it again after a pause when it fails: a busy node is no reason to give up. Raises StoreUnreadable."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            return work()
        except RequestValidationException as error:
            raise StoreUnreadable(f"cassandra: {error}") from error  # a table that is not there comes with no patience
        except UNREACHABLE as error:
            if attempt == ATTEMPTS_MAX:
                raise StoreUnreadable(f"cassandra: {type(error).__name__}: {error}") from error
            time.sleep(PAUSE_S)
    raise AssertionError("unreachable")
