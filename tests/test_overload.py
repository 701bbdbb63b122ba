"""A store that is slow, stuck or away, for real: another process's transaction holds SQLite's lock."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.app import create_app
from service.listening import listen
from service.settings import read_settings
from service.store import Results
from service.store.sqlite import SqliteStore
from tests.support import (
    LONG,
    USAGE,
    Connection,
    Headers,
    Reply,
    WebInstance,
    assert_problem,
    eventually,
    in_threads,
    raw_request,
    ready_instance,
)

JSON: Headers = [("Content-Type", "application/json")]
LONG_WAY: Headers = [*JSON, LONG]
ways = pytest.mark.parametrize("headers", [JSON, LONG_WAY], ids=["short", "long"])


@contextlib.contextmanager
def store_held(instance: WebInstance) -> Iterator[None]:
    """Nobody else writes to the file while this lasts."""
    with contextlib.closing(sqlite3.connect(instance.store_path, isolation_level=None)) as database:
        eventually(lambda: _begin(database))
        try:
            yield
        finally:
            database.execute("ROLLBACK")


def _begin(database: sqlite3.Connection) -> bool:
    with contextlib.suppress(sqlite3.OperationalError):
        database.execute("BEGIN IMMEDIATE")
        return True
    return False


class Posted:
    """A POST that is on its way over a connection of its own."""

    def __init__(self, instance: WebInstance, body: bytes = USAGE, headers: Headers = JSON) -> None:
        self.connection = instance.connect()
        self.connection.send(raw_request("POST", "/api/usages", body, headers))

    def reply(self) -> Reply:
        """The answer; then the connection ends."""
        try:
            return self.connection.read()
        finally:
            self.connection.close()


def post_and_wait_until_sent(instance: WebInstance, headers: Headers) -> Posted:
    """One POST that the store has, alone in its group: what comes after it waits in the queue."""
    posted = Posted(instance, b'{"patientId": "sent"}', headers)
    eventually(lambda: instance.metric("busyapi_requests_in_flight") == 2)
    time.sleep(0.05)
    return posted


def rows(instance: WebInstance) -> list[str]:
    """All stored usages, in the order of their ids."""
    with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
        return [usage for (usage,) in database.execute("SELECT usage FROM usages ORDER BY id")]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance with a queue of three and eight requests at a time, as patient as can be."""
    patience: dict[str, Any] = {"queue_wait_max_s": 60, "store_timeout_s": 60, "sqlite_busy_timeout_s": 60}
    with ready_instance(
        tmp_path_factory.mktemp("small"), queue_size_max=3, requests_in_flight_max=8, **patience
    ) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance that waits long for the store, but hardly in the queue."""
    patience: dict[str, Any] = {"queue_wait_max_s": 0.2, "store_timeout_s": 60, "sqlite_busy_timeout_s": 60}
    with ready_instance(tmp_path_factory.mktemp("hasty"), **patience) as running:
        yield running


@pytest.fixture(scope="module")
def roomless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance with room for one MiB of bodies, that gives up the lock of its file after 0.2 s."""
    limits: dict[str, Any] = {"body_bytes_in_flight_max": 1 << 20, "sqlite_busy_timeout_s": 0.2}
    with ready_instance(tmp_path_factory.mktemp("roomless"), **limits) as running:
        yield running


@ways
def test_those_that_wait_too_long_are_refused_and_those_that_were_sent_get_their_result(
    hasty: WebInstance, headers: Headers
):
    """The store hangs: 503 deadline_exceeded for the queue, certainly not stored; 201 for the flight once it ends."""
    before = rows(hasty)
    with store_held(hasty):
        sent = post_and_wait_until_sent(hasty, headers)
        waiting = [Posted(hasty, b'{"patientId": "late"}', headers) for _ in range(3)]
        for posted in waiting:
            assert_problem(posted.reply(), 503, "deadline_exceeded")
    assert sent.reply().status == 201
    assert rows(hasty) == [*before, '{"patientId": "sent"}']
    assert hasty.metric("busyapi_queue_items", group="usages") == 0


@ways
def test_a_full_queue_is_a_503_at_once(small: WebInstance, headers: Headers):
    """While the others still wait; they are stored when the store is free again, and service resumes by itself."""
    with store_held(small):
        sent = post_and_wait_until_sent(small, headers)
        waiting = [Posted(small, USAGE, headers) for _ in range(3)]
        eventually(lambda: small.metric("busyapi_requests_in_flight") == 5)
        assert small.metric("busyapi_queue_items", group="usages") == 3
        assert_problem(Posted(small, USAGE, headers).reply(), 503, "queue_full")
        assert all(posted.connection.silent(0) for posted in waiting)
    for posted in (sent, *waiting):
        assert posted.reply().status == 201
    assert small.post_usage().status == 201


@ways
def test_more_requests_than_allowed_are_a_503(small: WebInstance, headers: Headers):
    """requests_in_flight_max bounds the process, whatever the requests are; liveness is still answered."""
    with store_held(small):
        # Half a usage each: eight requests at work that the store knows nothing of.
        head = raw_request("POST", "/api/usages", None, [*headers, ("Content-Length", "100")])
        at_work = [small.connect() for _ in range(8)]
        for connection in at_work:
            connection.send(head)
        eventually(lambda: small.metric("busyapi_requests_in_flight") == 9)
        assert_problem(small.post_usage(USAGE, headers[1:]), 503, "overloaded")
        assert_problem(small.request("GET", "/api/usages/1"), 503, "overloaded")
        assert small.request("GET", "/livez").status == 200
        assert small.request("GET", "/readyz").status == 200
        for connection in at_work:
            connection.close()
    eventually(lambda: small.metric("busyapi_requests_in_flight") == 1)
    assert small.post_usage().status == 201


def test_reads_go_on_while_writes_wait(small: WebInstance):
    """The reader has a thread of its own, and WAL lets it read beside a writer."""
    id_ = small.post_usage().json()["id"]
    with store_held(small):
        sent = post_and_wait_until_sent(small, JSON)
        assert small.request("GET", f"/api/usages/{id_}").status == 200
    assert sent.reply().status == 201


def test_a_refused_overload_is_logged_with_its_reason(small: WebInstance):
    """One line each, at warning level, with code and request id."""
    failed = small.logged("failed")
    assert {line["code"] for line in failed} == {"queue_full", "overloaded"}
    assert {line["level"] for line in failed} == {"warning"}
    assert len({line["request_id"] for line in failed}) == len(failed)


@pytest.mark.parametrize("length", ["declared", "chunked"])
def test_more_bytes_than_allowed_are_a_503(roomless: WebInstance, length: str):
    """body_bytes_in_flight_max bounds the memory of bodies; when they are gone others are taken."""
    head: Headers = [("Content-Length", "1500000")] if length == "declared" else [("Transfer-Encoding", "chunked")]
    raw = raw_request("POST", "/messages", None, head) + (b"100000\r\n" if length == "chunked" else b"")
    hungry: list[Connection] = []

    def room_is_taken() -> bool:
        # Whichever of the two comes second is refused; it should be ours. Sent at once after the large one, ours would
        # come first every time on a disk that is slow enough: its bytes are held until they are fsynced.
        if not hungry or not hungry[-1].silent(0):
            hungry.append(roomless.connect())
            hungry[-1].send(raw + b'{"message": "' + b"x" * 1_000_000)
        return hungry[-1].silent(0.2) and not takes(roomless)

    eventually(room_is_taken)
    big = b"y" * 60_000
    assert_problem(roomless.request("POST", "/messages", b'{"message": "%b"}' % big), 503, "overloaded")
    for headers in (JSON, LONG_WAY):
        assert_problem(roomless.request("POST", "/api/usages", b'{"x": "%b"}' % big, headers), 503, "overloaded")
    assert roomless.request("GET", "/livez").status == 200
    for connection in hungry:
        connection.close()
    eventually(lambda: takes(roomless))


@ways
def test_room_that_was_used_is_given_back(roomless: WebInstance, headers: Headers):
    """Three times as many bytes as fit at once, one after the other; refused ones are given back, too."""
    with roomless.connect() as connection:
        for _ in range(33):
            body = b'{"x": "%b"}' % (b"y" * 100_000)
            assert connection.request("POST", "/api/usages", body, headers).status == 201
            assert connection.request("POST", "/api/usages", body[:-1], headers).status == 400


def takes(instance: WebInstance) -> bool:
    """Whether a body of some size is let in now."""
    return instance.request("POST", "/messages", b'{"message": "%b"}' % (b"y" * 60_000)).status == 201


def test_a_store_that_is_locked_too_long_is_a_503_and_nothing_is_stored(roomless: WebInstance):
    """sqlite_busy_timeout_s: the lock was never had, so nothing was written; afterwards service resumes."""
    before = rows(roomless)
    with store_held(roomless):
        for method, target, body, extra in (
            ("POST", "/api/usages", USAGE, []),
            ("POST", "/api/usages", USAGE, [("Idempotency-Key", "k")]),
            ("POST", "/messages", b'{"message": "foo"}', []),
            ("DELETE", "/messages/" + "a" * 64, None, []),
        ):
            reply = roomless.request(method, target, body, [*JSON, *extra])
            assert_problem(reply, 503, "store_unavailable")
        assert roomless.request("GET", "/readyz").status == 200
    assert rows(roomless) == before
    assert roomless.post_usage(USAGE, [("Idempotency-Key", "k")]).status == 201
    assert roomless.metric("busyapi_refused_total", code="store_unavailable") == 4


class PlantedStore(SqliteStore):
    """SQLite with a bug that can be switched on."""

    broken = False

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """As the store does, or a bug."""
        if self.broken:
            raise ZeroDivisionError("planted")
        return await super().put_usages(group)


@contextlib.contextmanager
def planted(tmp_path: Path, **settings: str) -> Iterator[tuple[PlantedStore, WebInstance]]:
    """A server in a thread of this process, on real sockets, whose store can be made to fail."""
    from service.protocol import Protocol

    environ = {"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"}
    environ.update({f"BUSYAPI_{name.upper()}": value for name, value in settings.items()})
    parsed = read_settings(environ)
    store = PlantedStore(parsed)
    app = create_app(parsed, store)

    def protocol(*arguments: Any, **keywords: Any) -> Protocol:
        return Protocol(*arguments, serving=app, **keywords)

    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=5)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    bound = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    instance = WebInstance(None, bound.getsockname(), tmp_path / "none", Path(parsed.store.path))  # type: ignore[arg-type]
    try:
        eventually(lambda: server.started and instance.request("GET", "/readyz").status == 200)
        yield store, instance
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()
    assert not thread.is_alive()


def test_a_store_that_fails_in_a_way_nobody_foresaw_is_a_500(tmp_path: Path):
    """An unknown outcome, never called "not stored"; the next request is served."""
    with planted(tmp_path) as (store, instance), instance.connect() as connection:
        for headers in (JSON, LONG_WAY):
            store.broken = True
            reply = connection.request("POST", "/api/usages", USAGE, headers)
            document = assert_problem(reply, 500, "store_error")
            assert "planted" not in reply.body.decode()
            assert "Nothing was stored" not in document["detail"]
            store.broken = False
            assert connection.request("POST", "/api/usages", USAGE, headers).status == 201


def test_a_store_that_does_not_answer_in_time_is_a_504(tmp_path: Path):
    """Unknown after store_timeout_s, while SQLite would wait much longer; behind it 503, certainly not stored."""
    limits: dict[str, Any] = {"store_timeout_s": 0.3, "sqlite_busy_timeout_s": 60}
    with ready_instance(tmp_path, **limits) as instance:
        with store_held(instance):
            assert_problem(instance.post_usage(b'{"patientId": "unknown"}', LONG_WAY[1:]), 504, "store_timeout")
            reply = instance.post_usage(b'{"patientId": "refused"}')
            assert_problem(reply, 503, reply.json()["code"])
            assert instance.request("GET", "/api/usages/1").status == 404
        eventually(lambda: instance.post_usage().status == 201)
        assert '{"patientId": "refused"}' not in rows(instance)


def test_goodput_stays_when_far_more_comes_than_fits(tmp_path: Path):
    """Sixty clients on a queue of four: some are told 503, none waits for ever, everyone told 201 is on disk."""
    settings: dict[str, Any] = {"queue_size_max": 4, "group_size_max": 2, "requests_in_flight_max": 20}
    with ready_instance(tmp_path, **settings) as instance:

        def client(number: int) -> list[int]:
            ids = []
            with instance.connect() as connection:
                for _ in range(20):
                    reply = connection.request("POST", "/api/usages", b'{"patientId": %d}' % number, JSON)
                    if reply.status == 201:
                        ids.append(reply.json()["id"])
                    else:
                        assert_problem(reply, 503, reply.json()["code"])
            return ids

        acknowledged = [id_ for ids in in_threads(60, client) for id_ in ids]
        assert len(set(acknowledged)) == len(acknowledged) > 0
        assert len(rows(instance)) == len(acknowledged)
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
        assert instance.metric("busyapi_refused_total") == 60 * 20 - len(acknowledged)


def test_a_slow_reader_does_not_stop_others(instance: WebInstance):
    """A client that asks for much and reads nothing holds its own connection, and nobody else's."""
    message = b'{"message": "%b"}' % (b"z" * 1_000_000)
    digest = instance.request("POST", "/messages", message).json()["digest"]
    with instance.connect() as slow:
        slow.send(raw_request("GET", f"/messages/{digest}") * 8)
        with Connection(instance.address, 10) as other:
            for _ in range(20):
                assert other.request("POST", "/api/usages", USAGE, JSON).status == 201
        sizes = [len(slow.read().body) for _ in range(8)]
    assert sizes == [len(message)] * 8
