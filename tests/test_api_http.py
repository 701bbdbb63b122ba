from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.settings import read_settings
from tests.support import (
    LONG,
    USAGE,
    Connection,
    ConnectionEnded,
    Headers,
    WebInstance,
    assert_problem,
    chunked,
    eventually,
    raw_request,
    ready_instance,
)

JSON: Headers = [("Content-Type", "application/json")]
LONG_WAY: Headers = [*JSON, LONG]
ways = pytest.mark.parametrize("headers", [JSON, LONG_WAY], ids=["short", "long"])

GETS = ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/messages/x"]
GETS += ["/api/usages", "/api/usages/count", "/api/usages/1", "/api/usages/keys/k"]


# --- paths and methods


UNKNOWN = """
    / // /api /api/ /api/usage /api/usages/ /api/usages/1/ /api/usages/1/2 /API/usages /api//usages /messages/
    /livez/ /readyz/ /docs/ /redoc /docs/oauth2-redirect /favicon.ico
"""


@pytest.mark.parametrize("target", [*UNKNOWN.split(), f"/messages/{'a' * 64}/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_a_404(connection: Connection, method: str, target: str):
    """A trailing slash included: one resource has one path."""
    assert_problem(connection.request(method, target, b"{}" if method == "POST" else None), 404, "not_found")


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/api/usages", {"GET", "HEAD", "POST"}),
        ("/api/usages/count", {"GET", "HEAD"}),
        ("/api/usages/batch", {"POST"}),
        ("/api/usages/1", {"GET", "HEAD", "DELETE"}),
        ("/api/usages/keys/k", {"GET", "HEAD", "DELETE"}),
        ("/messages", {"POST"}),
        ("/messages/" + "a" * 64, {"GET", "HEAD", "DELETE"}),
        ("/livez", {"GET", "HEAD"}),
        ("/readyz", {"GET", "HEAD"}),
        ("/metrics", {"GET", "HEAD"}),
        ("/openapi.json", {"GET", "HEAD"}),
        ("/docs", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_a_405_that_says_what_is_allowed(connection: Connection, target: str, allow: set[str]):
    """OPTIONS included: CORS is off."""
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - allow:
        reply = connection.request(method, target)
        assert_problem(reply, 405, "method_not_allowed")
        assert set((reply.header("allow") or "").split(", ")) == allow


@pytest.mark.parametrize("target", GETS)
def test_every_get_answers_head(connection: Connection, target: str):
    """Same status and type, no body, and the connection can be used on."""
    head = connection.request("HEAD", target)
    get = connection.request("GET", target)
    assert head.status == get.status
    assert head.header("content-type") == get.header("content-type")
    if target != "/metrics":
        assert int(head.header("content-length") or 0) in range(len(get.body) - 8, len(get.body) + 9)
    assert get.body


def test_the_server_does_not_say_what_it_runs_on(connection: Connection):
    """No Server header, one Date."""
    reply = connection.request("GET", "/livez")
    assert reply.header("server") is None
    assert reply.header("date")


# --- request ids


@pytest.mark.parametrize("sent", ["x", "a" * 128, "0192-4f/:=~!", '"<>{}|'])
@pytest.mark.parametrize("target", ["/livez", "/nowhere", "/api/usages", "/messages/x"])
def test_a_request_id_of_visible_ascii_is_returned(connection: Connection, sent: str, target: str):
    """In the header always, and in the problem document."""
    for body in (USAGE, b"[") if target == "/api/usages" else (None,):
        method = "POST" if body else "GET"
        reply = connection.request(method, target, body, [*JSON, ("X-Request-ID", sent)])
        assert reply.header("x-request-id") == sent
        if reply.status >= 400:
            assert reply.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "a" * 129, "a b", "\xe9", None])
@ways
def test_any_other_request_id_is_replaced_by_a_new_one(connection: Connection, headers: Headers, sent: str | None):
    """Made here: visible, short, and another one each time."""
    headers = [*headers, *([("X-Request-ID", sent)] if sent is not None else [])]
    made = [connection.request("POST", "/api/usages", USAGE, headers).header("x-request-id") for _ in range(3)]
    assert len(set(made)) == 3
    assert sent not in made
    assert all(id_ and id_.isascii() and id_.isalnum() and len(id_) <= 128 for id_ in made)


# --- HTTP/1.1


@ways
def test_a_request_without_one_host_is_a_400(instance: WebInstance, headers: Headers):
    """RFC 9112, 3.2, and so is one with two, whatever else is wrong; in HTTP/1.0 there was no such header."""
    for raw in (
        raw_request("POST", "/api/usages", USAGE, headers, host=None),
        raw_request("GET", "/livez", host=None),
        raw_request("GET", "/messages/x", host=None),
        raw_request("GET", "/nowhere", host=None),
        raw_request("PUT", "/messages", host=None),
        raw_request("POST", "/api/usages", USAGE, [*headers, ("Host", "other.example")]),
    ):
        with instance.connect() as connection:
            connection.send(raw)
            assert_problem(connection.read(), 400, "bad_request", "Host")


def test_http_1_0_is_answered_and_closed(instance: WebInstance):
    """Old clients and health checks are served, one request a connection."""
    with instance.connect() as connection:
        connection.send(b"POST /api/usages HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE))
        assert connection.read().status == 201
        assert connection.ended()


def test_connection_close_is_kept(instance: WebInstance):
    """The answer says so too."""
    with instance.connect() as connection:
        reply = connection.request("POST", "/api/usages", USAGE, [*JSON, ("Connection", "close")])
        assert (reply.status, reply.header("connection")) == (201, "close")
        assert connection.ended()


@ways
def test_pipelined_requests_are_answered_in_order(connection: Connection, headers: Headers):
    """Thirty requests in one packet, of every kind; answers in the order of the questions."""
    raw = b""
    expected = []
    for number in range(10):
        raw += raw_request("POST", "/api/usages", USAGE, [*headers, ("X-Request-ID", f"p{number}")])
        raw += raw_request("GET", "/livez", None, [("X-Request-ID", f"l{number}")])
        raw += raw_request("POST", "/messages", b'{"message": "m"}', [("X-Request-ID", f"m{number}")])
        expected += [(201, f"p{number}"), (200, f"l{number}"), (201, f"m{number}")]
    connection.send(raw)
    replies = [connection.read() for _ in expected]
    assert [(reply.status, reply.header("x-request-id")) for reply in replies] == expected
    ids = [reply.json()["id"] for reply in replies if "id" in reply.json()]
    assert ids == sorted(set(ids))
    assert len(ids) == 10
    assert connection.silent()


# --- idle connections

KEEP_ALIVE_S = 1
BOTH_WAYS = list(itertools.product([JSON, LONG_WAY], repeat=2))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance that keeps idle connections for a second, and waits for its file as long as it takes."""
    patience: dict[str, Any] = {"queue_wait_max_s": 60, "store_timeout_s": 60, "sqlite_busy_timeout_s": 60}
    with ready_instance(tmp_path_factory.mktemp("impatient"), keep_alive_s=KEEP_ALIVE_S, **patience) as running:
        yield running


@contextlib.contextmanager
def connections_to(instance: WebInstance, count: int) -> Iterator[list[Connection]]:
    """So many connections at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(instance.connect()) for _ in range(count)]


def test_an_idle_connection_is_closed(impatient: WebInstance):
    """Whatever it asked for last, on either way: stored, refused or answered by a task of its own, alone or pipelined."""
    packets = [
        [raw_request("POST", target, body, headers)]
        for headers in (JSON, LONG_WAY)
        for target, body in (("/api/usages", USAGE), ("/api/usages", b"["), ("/messages", b'{"message": "m"}'))
    ]
    packets += [packets[0] * 3, packets[3] * 3, packets[0] + packets[3], packets[3] + packets[0]]
    with connections_to(impatient, len(packets)) as idle:
        for connection, packet in zip(idle, packets, strict=True):
            connection.send(b"".join(packet))
        for connection, packet in zip(idle, packets, strict=True):
            assert [connection.read().status in (201, 400) for _ in packet] == [True] * len(packet)
        assert all(connection.ended() for connection in idle)


def test_a_connection_that_is_busy_is_not_closed(impatient: WebInstance):
    """The store takes longer than idle connections are kept: the answer comes all the same, and later the close."""
    with (
        contextlib.closing(sqlite3.connect(impatient.store_path, isolation_level=None, timeout=20)) as database,
        connections_to(impatient, len(BOTH_WAYS)) as busy,
    ):
        for connection, (before, _) in zip(busy, BOTH_WAYS, strict=True):
            assert connection.request("POST", "/api/usages", USAGE, before).status == 201
        database.execute("BEGIN IMMEDIATE")
        for connection, (_, then) in zip(busy, BOTH_WAYS, strict=True):
            connection.send(raw_request("POST", "/api/usages", USAGE, then))
        assert busy[0].silent(KEEP_ALIVE_S + 0.5)
        database.execute("ROLLBACK")
        assert [connection.read().status for connection in busy] == [201] * len(busy)
        assert all(connection.ended() for connection in busy)


def test_a_connection_that_was_active_meanwhile_is_not_closed(impatient: WebInstance):
    """Each request starts the time anew, whichever way it and the one before it went."""

    def stays_open() -> bool:
        """False when this machine stood still for so long that nothing can be said."""
        with connections_to(impatient, len(BOTH_WAYS)) as active:
            asked_s = time.monotonic()
            for turn in range(4):
                before_s, asked_s = asked_s, time.monotonic()
                try:
                    for connection, pair in zip(active, BOTH_WAYS, strict=True):
                        assert connection.request("POST", "/api/usages", USAGE, pair[turn % 2]).status == 201
                except (ConnectionEnded, ConnectionError):
                    assert time.monotonic() - before_s >= KEEP_ALIVE_S, "closed though it was active"
                    return False
                time.sleep(0.6 * KEEP_ALIVE_S)
        return True

    eventually(stays_open, 60)


UPGRADE: Headers = [("Connection", "Upgrade"), ("Upgrade", "h2c")]
KINDS = [
    (raw_request("POST", "/api/usages", USAGE, JSON), 201),
    (raw_request("POST", "/api/usages", USAGE, LONG_WAY), 201),
    (raw_request("POST", "/api/usages", b"{", JSON), 400),
    (raw_request("POST", "/api/usages", b'{"patientId": 1.0}', LONG_WAY), 422),
    (raw_request("POST", "/api/usages", USAGE, [("Content-Type", "text/plain")]), 415),
    (raw_request("POST", "/api/usages", None, [*JSON, ("Transfer-Encoding", "chunked")]) + chunked(USAGE, 17), 201),
    (raw_request("POST", "/api/usages", USAGE, [*JSON, *UPGRADE]), 201),
    (raw_request("POST", "/api/usages", USAGE, JSON, host=None), 400),
    (raw_request("POST", "/messages", b'{"message": "m"}'), 201),
    (raw_request("GET", "/livez", None, UPGRADE), 200),
    (raw_request("GET", "/nowhere"), 404),
    (raw_request("PUT", "/api/usages", b"x"), 405),
]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=8), st.lists(st.integers(0, 2000), max_size=6), st.booleans()
)
def test_any_requests_cut_anywhere_are_answered_in_order(
    instance: WebInstance, kinds: list[tuple[bytes, int]], cuts: list[int], pause: bool
):
    """Short and long way, refusals, chunks and offers to upgrade behind each other on one connection."""
    raw = b"".join(request for request, _ in kinds)
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    with instance.connect() as connection:
        for start, end in itertools.pairwise(edges):
            connection.send(raw[start:end])
            if pause:
                time.sleep(0.001)
        assert [connection.read().status for _ in kinds] == [status for _, status in kinds]
        assert connection.request("GET", "/livez").status == 200


@ways
def test_a_request_may_come_byte_by_byte(connection: Connection, headers: Headers):
    """However the network cuts it."""
    raw = raw_request("POST", "/api/usages", b'{"patientId": 1}', headers)
    for index in range(len(raw)):
        connection.send(raw[index : index + 1])
    assert connection.read().status == 201


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_a_chunked_body_is_taken(connection: Connection, size: int):
    """In chunks of any size, and with an extension."""
    body = b'{"x": "%b"}' % (b"x" * 5000)
    headers = [*JSON, ("Transfer-Encoding", "chunked")]
    connection.send(raw_request("POST", "/api/usages", None, headers) + chunked(body, size))
    id_ = connection.read().json()["id"]
    assert connection.request("GET", f"/api/usages/{id_}").body.endswith(body + b"}")


def test_expect_100_continue_is_answered_before_the_body(connection: Connection):
    """The client waits for 100 and then sends."""
    head = raw_request(
        "POST", "/api/usages", None, [*JSON, ("Content-Length", str(len(USAGE))), ("Expect", "100-continue")]
    )
    connection.send(head)
    eventually(lambda: not connection.silent(0.05))
    connection.send(USAGE)
    assert connection.read().status == 201
    assert connection.interim == [100]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([*JSON, ("Content-Length", "102401")], 413),
        ([("Content-Type", "text/plain"), ("Content-Length", "10")], 415),
        ([*JSON, ("Content-Length", "10"), ("Idempotency-Key", "..")], 400),
    ],
)
def test_a_refusal_needs_no_100_continue(instance: WebInstance, headers: Headers, status: int):
    """A client that asks first is spared its body."""
    with instance.connect() as connection:
        connection.send(raw_request("POST", "/api/usages", None, [*headers, ("Expect", "100-continue")]))
        assert connection.read().status == status
        assert connection.interim == []


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_an_offer_to_upgrade_is_not_taken_and_does_no_harm(connection: Connection, upgrade: str):
    """Some clients offer h2c with every request (RFC 9110, 7.8: a server may go on as if they had not)."""
    headers = [*JSON, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", upgrade), ("HTTP2-Settings", "AAMAAABk")]
    reply = connection.request("POST", "/api/usages", USAGE, headers)
    assert reply.status == 201
    assert connection.request("GET", "/livez", None, headers).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nBroken header\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n{}",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /api/usages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_problem_and_the_end_of_the_connection(instance: WebInstance, raw: bytes):
    """A problem document like any other; what follows on the connection is not read as a request."""
    with instance.connect() as connection:
        connection.send(raw)
        assert_problem(connection.read(), 400, "bad_request")
        assert connection.ended()


@ways
def test_garbage_behind_a_request_does_not_take_its_answer(instance: WebInstance, headers: Headers):
    """A 4xx says that nothing was stored: it must not be read as the answer to a usage that was."""
    with instance.connect() as connection:
        connection.send(
            raw_request("POST", "/api/usages", b'{"x": "before garbage"}', headers) + b"\x00garbage\r\n\r\n"
        )
        try:
            first = connection.read()
        except (ConnectionEnded, ConnectionResetError):
            return  # unknown, which is always true
        assert first.status == 201


# --- bodies that are too large


def test_a_declared_body_that_is_too_large_is_refused_unread(instance: WebInstance):
    """The 413 comes before a byte of the body was sent, and the connection ends."""
    with instance.connect() as connection:
        connection.send(raw_request("POST", "/api/usages", None, [*JSON, ("Content-Length", "102401")]))
        assert_problem(connection.read(), 413, "body_too_large")
        assert connection.ended()


@pytest.mark.parametrize("target", ["/api/usages", "/messages"])
@pytest.mark.parametrize("transfer", ["declared", "chunked"])
def test_a_client_that_sends_it_all_the_same_gets_its_413(instance: WebInstance, target: str, transfer: str):
    """The answer is not lost in a reset, though the body behind it is never used."""
    body = b'{"message": "%b"}' % (b"x" * 7_000_000)
    with instance.connect() as connection:
        if transfer == "declared":
            raw = raw_request("POST", target, body, JSON)
        else:
            raw = raw_request("POST", target, None, [*JSON, ("Transfer-Encoding", "chunked")]) + chunked(body, 60_000)
        connection.socket.settimeout(0.2)
        sent = 0
        try:
            while sent < len(raw):
                sent += connection.socket.send(raw[sent : sent + 65536])
        except (TimeoutError, OSError):
            pass  # the server does not read on: look for its answer
        connection.socket.settimeout(20)
        assert_problem(connection.read(), 413, "body_too_large")
        assert connection.ended()


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(instance: WebInstance):
    """Without its end being awaited: there might be none."""
    with instance.connect() as connection:
        connection.send(raw_request("POST", "/api/usages", None, [*JSON, ("Transfer-Encoding", "chunked")]))
        connection.send(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        assert_problem(connection.read(), 413, "body_too_large")


def test_the_rest_of_a_refused_body_is_read_before_the_close(tmp_path: Path):
    """A close on unread bytes is a reset, and a proxy may lose the answer to it."""
    body: list[dict[str, Any]] = [{"type": "http.request", "body": b"x" * 60_000, "more_body": True}] * 4
    body += [{"type": "http.request", "body": b"", "more_body": False}]
    events: list[str] = []

    async def receive() -> Any:
        events.append("read")
        return body.pop(0)

    async def send(message: Any) -> None:
        events.append("end" if message["type"] == "http.response.body" and not message.get("more_body") else "answer")

    async def main() -> None:
        app = create_app(read_settings({"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"}))
        app.start()
        headers = [(b"host", b"x"), (b"content-length", b"240000")]
        scope = {"type": "http", "method": "POST", "path": "/api/usages", "headers": headers, "http_version": "1.1"}
        await app(scope, receive, send)
        await app.instance.close()

    asyncio.run(main())
    assert events == ["answer", "answer", *["read"] * 5, "end"]


def test_a_small_body_that_is_not_read_leaves_the_connection_usable(connection: Connection):
    """A 404 or 415 with some bytes behind it costs the client no new connection."""
    for _ in range(3):
        assert connection.request("POST", "/nowhere", b"x" * 20_000).status == 404
        assert connection.request("POST", "/api/usages", USAGE, [("Content-Type", "text/plain")]).status == 415
    assert connection.request("POST", "/api/usages", USAGE, JSON).status == 201


def test_the_largest_usage_is_taken_to_the_byte(connection: Connection):
    """102,400 bytes: the original's 100kb."""
    body = b'{"x": "%b"}' % (b"x" * (102_400 - 9))
    assert len(body) == 102_400
    for headers in (JSON, LONG_WAY):
        assert connection.request("POST", "/api/usages", body, headers).status == 201


# --- bodies that are too slow


def test_a_body_that_is_not_whole_in_time_is_a_408(tmp_path: Path):
    """Also when it trickles, on every way, and nothing is stored; a request that is whole has no such limit."""
    heads = [
        raw_request("POST", "/api/usages", None, [*JSON, ("Content-Length", "1000")]),
        raw_request("POST", "/api/usages", None, [*LONG_WAY, ("Content-Length", "1000")]),
        raw_request("POST", "/messages", None, [("Content-Length", "1000")]),
        raw_request("POST", "/messages", None, [("Transfer-Encoding", "chunked")]) + b"100\r\n",
    ]
    with ready_instance(tmp_path, body_timeout_s=1) as instance, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(instance.connect()) for _ in heads]
        for connection, head in zip(slow, heads, strict=True):
            connection.send(head)
        while any(connection.silent(0.05) for connection in slow):
            for connection in slow:
                with contextlib.suppress(ConnectionError):
                    connection.send(b" ")
        for connection in slow:
            reply = connection.read()
            assert_problem(reply, 408, "request_timeout")
            assert reply.header("connection") == "close"
            assert connection.ended()
        with instance.connect() as connection:
            raw = raw_request("POST", "/api/usages", USAGE, JSON)
            connection.send(raw[:-10])
            connection.send(raw[-10:])
            assert connection.read().status == 201
            assert connection.silent(1.1)
            assert connection.request("GET", "/livez").status == 200
        assert count_usages(instance, "%") == 1
        assert instance.metric("busyapi_requests_in_flight") == 1


# --- clients that leave


@ways
def test_a_client_that_leaves_in_its_body_stores_nothing_and_leaves_nothing(instance: WebInstance, headers: Headers):
    """Half a usage is none; requests in flight come back to what they were."""
    failed = len(instance.logged("failed"))
    for reset in (False, True) * 10:
        connection = instance.connect()
        connection.send(
            raw_request("POST", "/api/usages", None, [*headers, ("Content-Length", "1000")]) + b'{"half": "'
        )
        if reset:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
    assert count_usages(instance, '{"half"%') == 0
    assert len(instance.logged("failed")) == failed


@ways
def test_a_client_that_leaves_before_its_answer_has_its_usage_stored(instance: WebInstance, headers: Headers):
    """What was sent is sent; nobody is there to be told."""
    before = count_usages(instance, '{"gone"%')
    for _ in range(10):
        with instance.connect() as connection:
            connection.send(raw_request("POST", "/api/usages", b'{"gone": 1}', headers))
    eventually(lambda: count_usages(instance, '{"gone"%') == before + 10)
    eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)


def count_usages(instance: WebInstance, pattern: str) -> int:
    """How many stored usages look like this."""
    with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
        (count,) = database.execute("SELECT count(*) FROM usages WHERE usage LIKE ?", (pattern,)).fetchone()
    return int(count)


# --- CORS


def test_cors_is_off(connection: Connection):
    """No answer mentions it, whatever Origin asks."""
    reply = connection.request("POST", "/api/usages", USAGE, [*JSON, ("Origin", "https://a.example")])
    assert not [name for name, _ in reply.headers if name.startswith("access-control")]


def test_cors_is_on_for_the_origins_that_are_set(tmp_path: Path):
    """Preflight and answers name the origin, problems too; other origins get nothing, and a problem for a preflight."""
    preflight = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type,idempotency-key"),
    ]
    with ready_instance(tmp_path, cors_origins="https://a.example") as instance, instance.connect() as connection:
        asked = connection.request("OPTIONS", "/api/usages", None, [("Origin", "https://a.example"), *preflight])
        assert asked.status in (200, 204)
        assert asked.header("access-control-allow-origin") == "https://a.example"
        assert asked.header("x-request-id")
        for body, status in ((USAGE, 201), (b"[", 400)):
            reply = connection.request("POST", "/api/usages", body, [*JSON, ("Origin", "https://a.example")])
            assert reply.status == status
            assert reply.header("access-control-allow-origin") == "https://a.example"
            assert "x-request-id" in (reply.header("access-control-expose-headers") or "").lower()
        other = connection.request("POST", "/api/usages", USAGE, [*JSON, ("Origin", "https://b.example")])
        assert (other.status, other.header("access-control-allow-origin")) == (201, None)
        refused = connection.request("OPTIONS", "/api/usages", None, [("Origin", "https://b.example"), *preflight])
        assert refused.header("access-control-allow-origin") is None
        assert refused.header("content-type") == "application/problem+json"
        plain = connection.request("OPTIONS", "/api/usages")
        assert_problem(plain, 405, "method_not_allowed")
        connection.send(b"nonsense\r\n\r\n")
        assert_problem(connection.read(), 400, "bad_request")


def test_a_problem_document_is_the_same_on_every_road_to_it(instance: WebInstance):
    """Six members, the seventh where a field is at fault, and the title is the status's own."""
    with instance.connect() as connection:
        for reply, title in (
            (connection.request("GET", "/x"), "Not Found"),
            (connection.request("PUT", "/livez"), "Method Not Allowed"),
            (connection.request("POST", "/api/usages", b"[", JSON), "Bad Request"),
            (connection.request("POST", "/api/usages", b'{"patientId": 1.5}', LONG_WAY), None),
        ):
            document = json.loads(reply.body)
            members = ["type", "title", "status", "detail", "code", "request_id"]
            assert list(document) == members + (["field"] if reply.status == 422 else [])
            assert title is None or document["title"] == title
