"""Statements that go straight over a pool's connection, to a real node that forgets, stands still and is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from service.errors import StoreRefused, StoreUnknown
from service.settings import Settings
from service.store.cassandra_bind import Frame, batch, execute
from service.store.cassandra_session import CassandraSession
from service.store.direct import DirectAttempt, NotSent, Rows

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
# Starting a node is slow on a busy machine, and belongs to the first test.
pytestmark = [pytest.mark.cassandra, pytest.mark.timeout(300)]

TIMEOUT_S = 20.0
"""Of statements that are to be answered: as long as a busy machine may take."""

TABLE = "CREATE TABLE IF NOT EXISTS {}.pairs (k blob PRIMARY KEY, v blob)"
STATEMENTS = {
    "put": "INSERT INTO {keyspace}.pairs (k, v) VALUES (?, ?)",
    "get": "SELECT k, v FROM {keyspace}.pairs WHERE k = ?",
}

columns = itertools.count()


class Pairs:
    """A session with a table of pairs, and what lies below it."""

    def __init__(self, session: CassandraSession, keyspace: str) -> None:
        self.session = session
        self.keyspace = keyspace
        self.loop = asyncio.get_running_loop()

    def put(self, key: bytes, value: bytes) -> Frame:
        """Write one pair."""
        return execute(self.session.prepared["put"], self.keyspace, [key, value])

    def put_all(self, pairs: dict[bytes, bytes]) -> Frame:
        """Write some."""
        return batch(self.session.prepared["put"], self.keyspace, [*pairs.items()])

    def get(self, key: bytes) -> Frame:
        """Read one."""
        return execute(self.session.prepared["get"], self.keyspace, [key])

    async def execute(self, frame: Frame, timeout_s: float = TIMEOUT_S, *, idempotent: bool = True) -> Rows:
        """As the store does."""
        return await self.session.execute(frame, self.loop.time() + timeout_s, idempotent=idempotent)

    def attempt(self, frame: Frame) -> DirectAttempt:
        """One attempt, without what the session does when it fails."""
        (pool,) = self.session._open_pools().values()
        return DirectAttempt(self.session._connection_class, pool, frame, TIMEOUT_S)

    @property
    def connection(self) -> Any:
        """The pool's connection, of which there is one for a node."""
        (pool,) = self.session._open_pools().values()
        return pool._connection

    async def forget(self) -> None:
        """The node forgets the prepared statements of a table whose columns change."""
        await self.change(f'ALTER TABLE "{self.keyspace}".pairs ADD x{next(columns)} int')

    async def change(self, statement: str) -> None:
        """Change the schema."""
        await self.session.run_blocking(lambda driver: driver.execute(statement, timeout=60))


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> str:
    """One keyspace for these tests."""
    return cassandra_node.new_keyspace()


@pytest.fixture
def settings(cassandra_node: CassandraNode, keyspace: str) -> Settings:
    """Of a session with the node."""
    return cassandra_node.settings(keyspace)


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Pairs]:
    """A session that knows the statements, closed at the end."""
    session = await CassandraSession.connect(settings)
    try:
        pairs = Pairs(session, settings.store.keyspace)
        await pairs.change(TABLE.format(f'"{settings.store.keyspace}"'))
        await session.prepare(settings.store.keyspace, STATEMENTS)
        yield pairs
    finally:
        await session.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it on a web instance's kind of event loop."""
    uvloop.run(test())


async def eventually(check: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Until it is true."""
    async with asyncio.timeout(timeout_s):
        while not check():  # noqa: ASYNC110 - of the driver's state, which tells nobody
            await asyncio.sleep(0.02)


def test_a_statement_that_the_node_has_forgotten_is_prepared_anew(settings: Settings):
    """One row, several rows and a read, also what must not be tried twice: it was certainly not executed before."""

    async def test() -> None:
        async with connected(settings) as pairs:
            assert await pairs.attempt(pairs.put(b"k", b"1")).future == ()
            for idempotent in (True, False):
                for value in (b"2", b"3"):
                    await pairs.forget()
                    with pytest.raises(NotSent):
                        await pairs.attempt(pairs.put(b"k", b"lost")).future
                    assert await pairs.execute(pairs.put(b"k", value), idempotent=idempotent) == ()
                    await pairs.forget()
                    assert list(await pairs.execute(pairs.get(b"k"), idempotent=idempotent)) == [(b"k", value)]
                    await pairs.forget()
                    several = {b"a": value, b"b": b"x" * 100_000}
                    await pairs.execute(pairs.put_all(several), idempotent=idempotent)
                    for key, expected in several.items():
                        assert list(await pairs.execute(pairs.get(key))) == [(key, expected)]

    run(test)


def test_a_statement_that_cannot_be_executed_is_refused(settings: Settings):
    """Too few values, or a table that is gone: the node says so, and nothing was written."""

    async def test() -> None:
        async with connected(settings) as pairs:
            put = pairs.session.prepared["put"]
            with pytest.raises(StoreRefused, match="InvalidRequest"):
                await pairs.execute(execute(put, pairs.keyspace, [b"k"]))
            with pytest.raises(StoreRefused, match="InvalidRequest"):
                await pairs.execute(batch(put, pairs.keyspace, [[b"k"], [b"l"]]))
            await pairs.change(f'DROP TABLE "{pairs.keyspace}".pairs')
            for frame in (pairs.put(b"k", b"v"), pairs.put_all({b"k": b"v", b"l": b"v"}), pairs.get(b"k")):
                with pytest.raises(StoreRefused):
                    await pairs.execute(frame)

    run(test)


def test_an_answer_that_comes_too_late_is_nobody_elses(cassandra_node: CassandraNode, settings: Settings):
    """Its stream stays taken until it comes; then the stream is free, and everyone has had the row that they asked for."""

    async def test() -> None:
        async with connected(settings) as pairs:
            keys = [b"%d" % number for number in range(60)]
            for key in keys:
                await pairs.execute(pairs.put(key, b"value " + key))
            connection = pairs.connection
            await eventually(lambda: connection.in_flight == 0)
            with cassandra_node.paused():
                late = await asyncio.gather(
                    *(pairs.execute(pairs.get(key), 0.2) for key in keys[:20]), return_exceptions=True
                )
                assert [type(error) for error in late] == [StoreUnknown] * 20
                orphaned = set(connection.orphaned_request_ids)
                assert len(orphaned) == 20
                assert not orphaned & (set(connection.request_ids) | connection._requests.keys())
                patient = [asyncio.create_task(pairs.execute(pairs.get(key))) for key in keys[20:40]]
                await asyncio.sleep(0.05)
                assert not orphaned & connection._requests.keys()
            for key, rows in zip(keys[20:40], await asyncio.gather(*patient), strict=True):
                assert list(rows) == [(key, b"value " + key)]
            for _ in range(5):
                found = await asyncio.gather(*(pairs.execute(pairs.get(key)) for key in keys))
                assert [list(rows) for rows in found] == [[(key, b"value " + key)] for key in keys]
            assert pairs.connection is connection
            await eventually(lambda: not connection.orphaned_request_ids and connection.in_flight == 0)
            assert sorted(connection.request_ids) == list(range(connection.highest_request_id + 1))

    run(test)


def test_a_connection_that_breaks_leaves_what_was_sent_unknown(cassandra_node: CassandraNode, settings: Settings):
    """Also what may be tried again, as nothing is left to try it on; then the session comes back by itself."""

    async def test() -> None:
        async with connected(settings) as pairs:
            with cassandra_node.paused():
                sent = [
                    asyncio.create_task(pairs.execute(frame, idempotent=idempotent))
                    for frame in (pairs.put(b"k", b"v"), pairs.put_all({b"k": b"v", b"l": b"v"}))
                    for idempotent in (True, False)
                ]
                await eventually(lambda: len(pairs.connection._requests) >= len(sent))
                pairs.connection._socket.shutdown(socket.SHUT_RDWR)
                async with asyncio.timeout(TIMEOUT_S / 2):
                    results = await asyncio.gather(*sent, return_exceptions=True)
                assert [type(error) for error in results] == [StoreUnknown] * len(sent)
            await eventually(lambda: pairs.session.alive)
            await pairs.execute(pairs.put(b"k", b"new"))
            assert list(await pairs.execute(pairs.get(b"k"))) == [(b"k", b"new")]

    run(test)


def test_a_pool_that_has_no_stream_left_takes_nothing_and_that_is_certain(settings: Settings):
    """NotSent: nothing was sent, so nobody may be told that the outcome is unknown."""

    async def test() -> None:
        async with connected(settings) as pairs:
            await eventually(lambda: pairs.connection.in_flight == 0)
            pairs.connection.max_request_id = 0
            with pytest.raises(NotSent):
                pairs.attempt(pairs.put(b"k", b"v"))

    run(test)
