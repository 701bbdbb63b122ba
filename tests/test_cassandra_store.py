"""The Cassandra store when things go wrong, on a real node that is killed, paused and started again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.settings import Settings
from service.store import KeyedUsage, Put
from service.store.cassandra import CassandraStore
from service.store.cassandra_link import COMES_BACK_WITHIN_S, REOPEN_AFTER_S, CassandraLink
from service.store.cassandra_schema import apply_schema
from service.store.cassandra_session import CassandraSession

if TYPE_CHECKING:  # at run time it is a plugin, which pytest imports itself
    from tests.cassandra_node import CassandraNode

pytest_plugins = ["tests.cassandra_node"]
# Starting a node is slow on a busy machine, and belongs to the first test.
pytestmark = [pytest.mark.cassandra, pytest.mark.timeout(300)]

STORE_TIMEOUT_S = 2.0
SCHEDULING_S = 3.0
"""What a busy machine may add to a time limit."""


@pytest.fixture(scope="module")
def keyspace(cassandra_node: CassandraNode) -> str:
    """One keyspace for these tests."""
    return cassandra_node.new_keyspace()


@pytest.fixture
def settings(cassandra_node: CassandraNode, keyspace: str) -> Settings:
    """Of a store on the node."""
    return cassandra_node.settings(keyspace, store_timeout_s=str(STORE_TIMEOUT_S))


@pytest.fixture
def mortal_node(cassandra_node: CassandraNode) -> Iterator[CassandraNode]:
    """The node, which the test may leave dead."""
    yield cassandra_node
    if not cassandra_node.is_running():
        cassandra_node.start()


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[CassandraStore]:
    """A store, closed at the end."""
    store = CassandraStore(settings)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it on a web instance's kind of event loop."""
    uvloop.run(test())


class Writer:
    """Writes groups of usages, keyed usages and messages one after another, and remembers what it was told of each."""

    def __init__(self, store: CassandraStore, first: int) -> None:
        self.store = store
        self.next = first
        self.told: dict[int, type[StoreError] | None] = {}
        self.longest_s: dict[type[StoreError] | None, float] = {}
        self.stopping = False

    async def run(self, pause_s: float = 0.01) -> None:
        """Until ``stopping``; each group on its own, as a slow one holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            while not self.stopping:
                tasks.create_task(self.write())
                await asyncio.sleep(pause_s)

    async def write(self) -> set[type[StoreError] | None]:
        """One group of each kind; the kinds of results."""
        ids = range(self.next, self.next + 9)
        self.next += 9
        started_s = time.monotonic()
        results = [
            result
            for group in await asyncio.gather(
                self.store.put_usages([(id_, b"%d" % id_) for id_ in ids[:3]]),
                self.store.put_messages([(digest(id_), b"%d" % id_) for id_ in ids[3:6]]),
                self.store.put_keyed_usages([KeyedUsage(f"key-{id_}", digest(id_), b"%d" % id_) for id_ in ids[6:]]),
            )
            for result in group
        ]
        kinds = [type(result) if isinstance(result, StoreError) else None for result in results]
        for id_, kind in zip(ids, kinds, strict=True):
            self.told[id_] = kind
            self.longest_s[kind] = max(self.longest_s.get(kind, 0.0), time.monotonic() - started_s)
        return set(kinds)

    async def check(self, settings: Settings) -> None:
        """Read everything back: what was acknowledged is there, what was refused is not."""
        async with opened(dataclasses.replace(settings, store_timeout_s=30.0)) as store:
            await self._check(store)

    async def _check(self, store: CassandraStore) -> None:
        ids = sorted(self.told)
        kind_of = {id_: (id_ - ids[0]) % 9 // 3 for id_ in ids}
        by_id, by_digest, by_key = ([id_ for id_ in ids if kind_of[id_] == kind] for kind in range(3))
        found = await read_all(store.get_usages, {id_: id_ for id_ in by_id})
        found |= await read_all(store.get_messages, {id_: digest(id_) for id_ in by_digest})
        found |= await read_all(store.get_keyed_usages, {id_: f"key-{id_}" for id_ in by_key})
        there = {id_ for id_, result in found.items() if result}
        assert not {id_ for id_ in ids if self.told[id_] is None} - there, "acknowledged and lost"
        assert not {id_ for id_ in ids if self.told[id_] is StoreRefused} & there, "refused and yet written"


async def read_all(read: Callable[[list[Any]], Awaitable[Sequence[Any]]], wanted: dict[int, Any]) -> dict[int, Any]:
    """Read in small groups, and again what a busy node did not answer in time."""
    found: dict[int, Any] = {}
    deadline_s = time.monotonic() + 60
    while missing := [id_ for id_ in wanted if isinstance(found.get(id_, StoreError()), StoreError)][:50]:
        assert time.monotonic() < deadline_s, found
        found |= zip(missing, await read([wanted[id_] for id_ in missing]), strict=True)
    return found


def digest(id_: int) -> bytes:
    """The digest of what the writer writes under an id."""
    return hashlib.sha256(b"%d" % id_).digest()


async def until_it_writes(writer: Writer, timeout_s: float) -> float:
    """How long it took until a whole group was written."""
    started_s = time.monotonic()
    while await writer.write() != {None}:
        assert time.monotonic() - started_s < timeout_s, "the store did not come back"
        await asyncio.sleep(0.05)
    return time.monotonic() - started_s


def test_open_says_why_it_cannot(cassandra_node: CassandraNode, keyspace: str):
    """Nobody there, no keyspace, a table missing, no such data centre: one line each, and the schema step is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host, _ = cassandra_node.address
        free = taken.getsockname()[1]
        nobody = cassandra_node.settings(keyspace, store=f"cassandra://{host}:{free}/{keyspace}")
        with pytest.raises(StoreRefused, match=rf"cannot connect to Cassandra at {host}:{free}"):
            run(CassandraStore(nobody).open)
    with pytest.raises(StoreRefused, match="no keyspace nowhere; `python -m service schema`"):
        run(CassandraStore(cassandra_node.settings("nowhere")).open)
    with pytest.raises(StoreRefused, match="no node is in data centre mars"):
        run(CassandraStore(cassandra_node.settings(keyspace, cassandra_local_dc="mars")).open)

    async def with_a_table_missing() -> None:
        lacking = f"t_{uuid.uuid4().hex}"
        settings = cassandra_node.settings(lacking)
        await apply_schema(settings, wait_s=30, report=lambda _: None)
        link = CassandraLink(settings, {"drop": "DROP TABLE {keyspace}.messages"})
        await link.open()
        await link.execute("drop", [], link.deadline_s() + 30)
        await link.close()
        with pytest.raises(StoreRefused, match=r"messages.*`python -m service schema`"):
            await CassandraStore(settings).open()

    run(with_a_table_missing)


def test_the_schema_step_runs_from_several_places_at_once_and_twice(cassandra_node: CassandraNode):
    """One run works at a time, all of them succeed, and a later run finds all in place."""
    settings = cassandra_node.settings(f"t_{uuid.uuid4().hex}")
    lines: list[str] = []

    async def at_once() -> None:
        await asyncio.gather(*(apply_schema(settings, wait_s=90, report=lines.append) for _ in range(3)))
        assert len([line for line in lines if "001_tables.cql: applied" in line]) == 1
        lines.clear()
        await apply_schema(settings, wait_s=30, report=lines.append)
        assert "001_tables.cql: in place" in lines
        async with opened(settings) as store:
            assert await store.lease_ids(1) == 1

    run(at_once)


def test_the_schema_step_waits_for_as_many_nodes_as_replicas_and_gives_up(cassandra_node: CassandraNode, keyspace: str):
    """Replication 3 on one node would refuse every write; it is said, in time."""
    settings = cassandra_node.settings(keyspace, cassandra_replication_factor="3")
    with pytest.raises(StoreRefused, match="replication 3 needs as many nodes, and Cassandra knows of 1"):
        run(lambda: apply_schema(settings, wait_s=1, report=lambda _: None))


def test_a_node_that_is_killed_loses_nothing_and_is_used_again_when_it_is_back(
    mortal_node: CassandraNode, settings: Settings
):
    """Refused at once while it is dead; written as soon as it answers, statements it has forgotten included."""

    async def test() -> None:
        async with opened(settings) as store:
            writer = Writer(store, await store.lease_ids(1_000_000))
            writing = asyncio.create_task(writer.run())
            await asyncio.sleep(1)
            await asyncio.to_thread(mortal_node.kill)
            writer.stopping = True
            await writing
            assert None in writer.told.values()
            started_s = time.monotonic()
            for _ in range(50):
                assert await writer.write() == {StoreRefused}
            assert time.monotonic() - started_s < SCHEDULING_S
            await asyncio.to_thread(mortal_node.start)
            assert await until_it_writes(writer, 30) < 2 + SCHEDULING_S
            await writer.check(settings)

    run(test)


def test_after_an_outage_of_any_length_a_node_is_not_kept_busy_with_statements_that_it_has(
    mortal_node: CassandraNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """The session that was there comes back by itself, also where the watch that looks for nodes elsewhere has begun to look."""
    prepared: list[CassandraSession] = []
    prepare = CassandraSession.prepare

    async def counted(session: CassandraSession, *words: Any) -> None:
        prepared.append(session)
        await prepare(session, *words)

    monkeypatch.setattr(CassandraSession, "prepare", counted)

    async def test() -> None:
        async with opened(settings) as store:
            writer = Writer(store, await store.lease_ids(1_000))
            assert await writer.write() == {None}
            await asyncio.to_thread(mortal_node.kill)
            await asyncio.sleep(REOPEN_AFTER_S + 2)
            await asyncio.to_thread(mortal_node.start)
            assert await until_it_writes(writer, 30) < 2 + SCHEDULING_S
            await asyncio.sleep(COMES_BACK_WITHIN_S)
            assert prepared == [store._link.session]
            await writer.check(settings)

    run(test)


def test_a_node_that_stands_still_makes_writes_unknown_and_not_refused(
    cassandra_node: CassandraNode, settings: Settings
):
    """Each answer within its time limit; once the node is known to be silent, refused at once; then it goes on."""

    async def test() -> None:
        async with opened(settings) as store:
            writer = Writer(store, await store.lease_ids(1_000_000))
            assert await writer.write() == {None}
            writing = asyncio.create_task(writer.run(0.05))
            with cassandra_node.paused():
                started_s = time.monotonic()
                while StoreRefused not in await writer.write() or time.monotonic() - started_s < 5:
                    assert time.monotonic() - started_s < 15 + SCHEDULING_S, "a silent node was never given up"
                started_s = time.monotonic()
                assert await writer.write() == {StoreRefused}
                assert time.monotonic() - started_s < SCHEDULING_S
            assert await until_it_writes(writer, 30) < 10 + SCHEDULING_S
            writer.stopping = True
            await writing
            assert StoreUnknown in writer.told.values()
            assert max(writer.longest_s.values()) < STORE_TIMEOUT_S + SCHEDULING_S
            await writer.check(settings)

    run(test)


def test_opening_can_be_cancelled_and_closing_does_not_wait_for_a_silent_node(
    cassandra_node: CassandraNode, settings: Settings
):
    """A stop of the service is never held up by a node."""

    async def test() -> None:
        async with opened(settings) as store:
            with cassandra_node.paused():
                other = CassandraStore(settings)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(other.open(), 0.3)
                put = asyncio.create_task(store.put_messages([(digest(0), b"0")]))
                await asyncio.sleep(0.1)
                started_s = time.monotonic()
                await other.close()
                await store.close()
                assert time.monotonic() - started_s < 3 + SCHEDULING_S
                [result] = await put
                assert isinstance(result, StoreUnknown)

    run(test)


@pytest.mark.parametrize("ahead_ms", [20, 300])
def test_a_message_from_a_node_whose_clock_is_ahead_can_be_deleted_and_posted_again(settings: Settings, ahead_ms: int):
    """The answer to a DELETE waits until no node's clock gives a POST a timestamp that the tombstone would cover."""

    async def test() -> None:
        insert = "INSERT INTO {keyspace}.messages (digest, message) VALUES (?, ?) USING TIMESTAMP ?"
        link = CassandraLink(settings, {"insert": insert})
        await link.open()
        async with opened(settings) as store:
            for _ in range(10):
                message = uuid.uuid4().bytes.hex().encode()
                key = hashlib.sha256(message).digest()
                written_us = time.time_ns() // 1000 + ahead_ms * 1000
                await link.execute("insert", [key, message, written_us.to_bytes(8)], link.deadline_s())
                assert list(await store.delete_messages([key])) == [True]
                assert list(await store.get_messages([key])) == [None]
                assert list(await store.put_messages([(key, message)])) == [None]
                assert list(await store.get_messages([key])) == [message]
        await link.close()

    run(test)


def test_a_message_from_far_ahead_is_kept_rather_than_half_deleted(settings: Settings):
    """A clock that is wrong by minutes cannot be waited for: the DELETE is refused and has changed nothing."""

    async def test() -> None:
        insert = "INSERT INTO {keyspace}.messages (digest, message) VALUES (?, ?) USING TIMESTAMP ?"
        link = CassandraLink(settings, {"insert": insert})
        await link.open()
        message = uuid.uuid4().bytes.hex().encode()
        key = hashlib.sha256(message).digest()
        written_us = time.time_ns() // 1000 + 120_000_000
        await link.execute("insert", [key, message, written_us.to_bytes(8)], link.deadline_s())
        await link.close()
        async with opened(settings) as store:
            [result] = await store.delete_messages([key])
            assert isinstance(result, StoreRefused)
            assert "clocks" in str(result)
            assert list(await store.get_messages([key])) == [message]

    run(test)


def test_where_there_are_several_nodes_an_attempt_at_a_message_that_lands_late_brings_nothing_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """All attempts carry one time, told by the cluster after the POST came: below any later DELETE, above any before it."""
    monkeypatch.setattr(CassandraLink, "one_node", False)
    attempts: list[tuple[Any, int | None, bool]] = []
    write = CassandraLink.write

    async def noted(link: CassandraLink, name: str, rows: Any, deadline_s: float, **how: Any) -> Any:
        if name == "insert_message":
            attempts.append((rows, how["timestamp_us"], how["idempotent"]))
        return await write(link, name, rows, deadline_s, **how)

    async def test() -> None:
        monkeypatch.setattr(CassandraLink, "write", noted)
        async with opened(settings) as store, opened(settings) as other:
            link = store._link
            for _ in range(10):
                message = uuid.uuid4().bytes.hex().encode()
                key = hashlib.sha256(message).digest()
                asked_us = time.time_ns() // 1000
                assert list(await store.put_messages([(key, message)])) == [None]
                rows, at_us, idempotent = attempts[-1]
                assert idempotent
                assert at_us is not None
                assert asked_us - 2000 <= at_us <= time.time_ns() // 1000
                assert list(await other.delete_messages([key])) == [True]
                assert await write(link, "insert_message", rows, link.deadline_s(), timestamp_us=at_us) is None
                assert list(await store.get_messages([key])) == [None]
                assert list(await other.put_messages([(key, message)])) == [None]
                assert list(await store.get_messages([key])) == [message]

    run(test)


def test_a_single_node_stamps_messages_itself_and_gets_each_once(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """With its own time for each attempt, a second one would not be safe; and nobody else could take it."""
    sent: list[tuple[str, dict[str, Any]]] = []
    write, read = CassandraLink.write, CassandraLink.read

    async def noted(link: CassandraLink, name: str, rows: Any, deadline_s: float, **how: Any) -> Any:
        sent.append((name, how))
        return await write(link, name, rows, deadline_s, **how)

    async def asked(link: CassandraLink, name: str, *values: Any, **how: Any) -> Any:
        assert name != "select_clock"
        return await read(link, name, *values, **how)

    async def test() -> None:
        async with opened(settings) as store:
            with monkeypatch.context() as patch:
                patch.setattr(CassandraLink, "write", noted)
                patch.setattr(CassandraLink, "read", asked)
                key = hashlib.sha256(b"once").digest()
                assert list(await store.put_messages([(key, b"once")])) == [None]
        [how] = [how for name, how in sent if name == "insert_message"]
        assert how["timestamp_us"] is None
        assert how["idempotent"] is False

    run(test)


def test_a_message_is_refused_when_no_node_tells_the_time(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """It was not sent, so it is certainly not stored."""
    monkeypatch.setattr(CassandraLink, "one_node", False)

    async def no_time(_link: CassandraLink, name: str, *_: Any, **__: Any) -> StoreRefused:
        return StoreRefused(f"no answer to {name}")

    keys = [hashlib.sha256(uuid.uuid4().bytes).digest() for _ in range(2)]

    async def test() -> None:
        async with opened(settings) as store:
            with monkeypatch.context() as patch:
                patch.setattr(CassandraLink, "read", no_time)
                results = list(await store.put_messages([(key, b"any") for key in keys]))
            assert [str(result) for result in results] == ["no answer to select_clock"] * 2
            assert all(isinstance(result, StoreRefused) for result in results)
            assert results[0] is not results[1]
            assert list(await store.get_messages(keys)) == [None, None]

    run(test)


def test_a_row_without_its_usage_is_no_duplicate_and_does_not_spoil_a_read(settings: Settings):
    """A replica that was repaired by halves has the key alone: a repeat writes the usage, and others' reads go on."""

    async def test() -> None:
        link = CassandraLink(
            settings, {"insert": "INSERT INTO {keyspace}.keyed_usages (bucket, key, digest) VALUES (?, ?, ?)"}
        )
        await link.open()
        half, usage = uuid.uuid4().hex, b'{"x": 1}'
        whole = KeyedUsage(uuid.uuid4().hex, hashlib.sha256(usage).digest(), usage)
        item = KeyedUsage(half, hashlib.sha256(usage).digest(), usage)
        await link.execute("insert", [half.encode(), half.encode(), item.digest], link.deadline_s())
        await link.close()
        async with opened(settings) as store:
            assert list(await store.put_keyed_usages([whole])) == [Put.CREATED]
            nothing, something = await store.get_keyed_usages([half, whole.key])
            assert nothing == ()
            assert not isinstance(something, StoreError)
            assert [row.usage for row in something] == [usage]
            assert list(await store.put_keyed_usages([item])) == [Put.CREATED]
            assert list(await store.put_keyed_usages([item])) == [Put.DUPLICATE]
            [stored] = await store.get_keyed_usages([half])
            assert not isinstance(stored, StoreError)
            assert [row.usage for row in stored] == [usage]

    run(test)


def test_stores_on_several_loops_at_once_do_not_meet(settings: Settings):
    """Each loop reads and writes its own connections, also when several run in one process."""

    async def work() -> None:
        async with opened(settings) as store:
            writer = Writer(store, await store.lease_ids(1000))
            for _ in range(30):
                assert await writer.write() == {None}
            await writer.check(settings)

    with ThreadPoolExecutor(3) as threads:
        for finished in [threads.submit(run, work) for _ in range(3)]:
            finished.result(60)
