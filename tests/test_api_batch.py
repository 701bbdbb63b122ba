"""POST /api/usages/batch over a socket, on SQLite."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import signal
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
import zstandard

from tests.support import (
    Connection,
    ConnectionEnded,
    Headers,
    Reply,
    WebInstance,
    assert_problem,
    chunked,
    eventually,
    in_threads,
    raw_request,
    ready_instance,
)

BATCH = "/api/usages/batch"
JSON: Headers = [("Content-Type", "application/json")]
LINES: Headers = [("Content-Type", "application/x-ndjson")]
CHUNKED = ("Transfer-Encoding", "chunked")
STATUSES = ("created", "duplicate", "invalid", "retry", "unknown")
MEMORY_GROWTH_MAX = 48 << 20
"""What a process may grow by while it takes something that is endless: its own bounds, and what malloc keeps."""


def post(connection: Connection, items: Any, headers: Headers = JSON, query: str = "") -> Reply:
    """A batch as an array; bytes are sent as they are."""
    body = items if isinstance(items, bytes) else json.dumps(items).encode()
    return connection.request("POST", BATCH + query, body, headers)


def results(reply: Reply) -> list[dict[str, Any]]:
    """The results of an array, whose counts agree with them."""
    assert reply.status == 200, reply
    document = reply.json()
    assert list(document)[:5] == list(STATUSES)
    assert list(document)[-1] == "results"
    found: list[dict[str, Any]] = document["results"]
    assert_counts(document, found)
    return found


def assert_counts(counts: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """The counts are those of the results."""
    for status in STATUSES:
        assert counts[status] == sum(result["status"] == status for result in found), (status, counts)
    assert ("retry_after_s" in counts) == (counts["retry"] > 0)


def lines_of(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The results of a stream that came to its end, and its last line."""
    *found, last = (json.loads(line) for line in body.splitlines())
    assert_counts(last["summary"], found)
    return found, last


def stream(connection: Connection, body: bytes, headers: Headers = LINES, query: str = "") -> list[dict[str, Any]]:
    """The results of a stream that is complete."""
    reply = connection.request("POST", BATCH + query, body, headers)
    assert reply.status == 200, reply
    assert reply.header("content-type") == "application/x-ndjson"
    found, last = lines_of(reply.body)
    assert last["summary"]["complete"] is True
    assert list(last) == ["summary"]
    return found


def keyed(key: str, usage: Any) -> dict[str, Any]:
    """An item with a key."""
    return {"idempotency_key": key, "usage": usage}


def new_key() -> str:
    """A key that nobody has used."""
    return f"batch-{uuid.uuid4()}"


def read(connection: Connection, id_: int | str) -> Any:
    """The usage as it is stored."""
    path = f"/api/usages/{id_}" if isinstance(id_, int) else f"/api/usages/keys/{id_}"
    reply = connection.request("GET", path)
    assert reply.status == 200
    return reply.json()["usage"]


# --- arrays


def test_each_item_of_an_array_gets_its_result_and_can_be_read(connection: Connection):
    """Created with an id or under its key, duplicate, invalid by code and field; in order, with the counts first."""
    key = new_key()
    first = {"patientId": 1, "n": 1.50}
    items = [first, keyed(key, {"a": 1}), {"medication": 1}, keyed(key, {"a": 1}), keyed(key, {"a": 2}), 7]
    reply = post(connection, items)
    assert reply.header("ack") == "fsync; replicas=1"
    found = results(reply)
    assert [result["status"] for result in found] == [
        "created",
        "created",
        "invalid",
        "duplicate",
        "invalid",
        "invalid",
    ]
    assert [result.get("code") for result in found[2:]] == [
        "invalid_field",
        None,
        "idempotency_key_reused",
        "not_an_object",
    ]
    assert found[2]["field"] == "medication"
    assert found[1]["id"] == found[3]["id"] == key
    assert read(connection, found[0]["id"]) == first
    assert read(connection, key) == {"a": 1}
    assert [result["status"] for result in results(post(connection, [keyed(key, {"a": 1})]))] == ["duplicate"]


def test_a_usage_under_a_key_is_one_whether_it_came_alone_or_in_a_batch(connection: Connection):
    """The same bytes are a duplicate, whichever way they come."""
    key, usage = new_key(), b'{ "patientId" : "100" }'
    headers = [*JSON, ("Idempotency-Key", key)]
    assert connection.request("POST", "/api/usages", usage, headers).status == 201
    item = b'{"usage": %b , "idempotency_key": "%b"}' % (usage, key.encode())
    assert [result["status"] for result in results(post(connection, b"[%b]" % item))] == ["duplicate"]
    assert [result["status"] for result in stream(connection, item)] == ["duplicate"]


def test_an_empty_array_is_a_batch(connection: Connection):
    """Nothing to store, nothing wrong."""
    assert results(post(connection, [])) == []
    assert results(post(connection, [], headers=[])) == []


def test_ten_thousand_items_are_taken_and_one_more_is_not(connection: Connection, instance: WebInstance):
    """batch_items_max is exact, and what is refused stored nothing."""
    usages = [{"n": n, "token": new_key()} for n in range(10_000)]
    found = results(post(connection, usages))
    assert len({result["id"] for result in found}) == 10_000
    assert read(connection, found[7777]["id"]) == usages[7777]
    before = instance.metric("busyapi_batch_items_total")
    reply = post(connection, [*usages, {}])
    assert_problem(reply, 413, "batch_too_long")
    assert "10000" in reply.json()["detail"]
    assert instance.metric("busyapi_batch_items_total") == before


def test_a_million_tiny_items_are_refused_and_memory_stays(instance: WebInstance):
    """Millions of items of two bytes fit the bytes of a body: they are counted before they are held."""
    with instance.connect() as connection, flat_memory(instance):
        for item in (b"1", b"{}", b"[]"):
            body = b"[" + b",".join([item] * ((16 << 20) // (len(item) + 1) - 1)) + b"]"
            assert_problem(post(connection, body), 413, "batch_too_long")


def test_a_batch_that_is_larger_than_its_bound_is_refused_unread(instance: WebInstance):
    """By its declared length, or once it is seen to be."""
    head = raw_request("POST", BATCH, None, [*JSON, ("Content-Length", str((16 << 20) + 1))])
    with instance.connect() as connection:
        connection.send(head)
        assert_problem(connection.read(), 413, "body_too_large")
    with instance.connect() as connection:
        connection.send(raw_request("POST", BATCH, None, [*JSON, CHUNKED]) + b"1000001\r\n" + b" " * ((16 << 20) + 1))
        assert_problem(connection.read(), 413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "invalid_json"), (b"{}", "not_an_array"), (b"[{}", "invalid_json"), (b"[{},]", "invalid_json")],
)
def test_an_array_that_is_none_is_a_400(connection: Connection, body: bytes, code: str):
    """Nothing of it is stored."""
    assert_problem(post(connection, body), 400, code)


def test_the_largest_usage_is_taken_in_a_batch_and_a_larger_one_is_invalid(connection: Connection):
    """The bound of the single POST holds for each item, and the others are stored."""
    largest = b'{"x":"%b"}' % (b"y" * (102_400 - 8))
    found = results(post(connection, b"[%b,%b,{}]" % (largest, largest.replace(b'"x"', b'"xx"'))))
    assert [result["status"] for result in found] == ["created", "invalid", "created"]
    assert found[1]["code"] == "body_too_large"


# --- the request


@pytest.mark.parametrize("kind", ["text/plain", "application/jsonl", "application/json; charset=latin1", ""])
def test_another_content_type_is_a_415(connection: Connection, kind: str):
    """Neither an array nor lines."""
    assert_problem(post(connection, [], [("Content-Type", kind)]), 415, "unsupported_media_type", "Content-Type")


def test_two_content_types_are_none(connection: Connection):
    """Which one it is nobody can say."""
    assert_problem(post(connection, [], [*JSON, *LINES]), 415, "unsupported_media_type", "Content-Type")


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip, zstd", "*"])
def test_another_encoding_is_a_415_that_says_which_would_do(connection: Connection, coding: str):
    """RFC 9110, 15.5.16."""
    reply = post(connection, [], [*JSON, ("Content-Encoding", coding)])
    assert_problem(reply, 415, "unsupported_media_type", "Content-Encoding")
    assert reply.header("accept-encoding") == "gzip, zstd"


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("?stricter=true", "unknown_parameter", "stricter"),
        ("?strict=true&x", "unknown_parameter", "x"),
        ("?strict=yes", "invalid_parameter", "strict"),
        ("?strict=true&strict=true", "invalid_parameter", "strict"),
        ("?strict", "invalid_parameter", "strict"),
    ],
)
@pytest.mark.parametrize("headers", [JSON, LINES])
def test_a_parameter_that_is_not_known_is_a_400(
    connection: Connection, headers: Headers, query: str, code: str, field: str
):
    """A misspelt strict must not pass for a batch that is not."""
    assert_problem(post(connection, b"", headers, query), 400, code, field)


def test_a_key_for_the_whole_batch_is_refused(connection: Connection):
    """It would be taken for a promise that nobody keeps."""
    reply = post(connection, [{}], [*JSON, ("Idempotency-Key", "k")])
    assert_problem(reply, 400, "idempotency_key_invalid", "Idempotency-Key")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_a_405(connection: Connection, method: str):
    """A batch is no usage with a name."""
    reply = connection.request(method, BATCH)
    assert_problem(reply, 405, "method_not_allowed")
    assert reply.header("allow") == "POST"


# --- compression

PACKERS = {"identity": lambda body: body, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}
packers = pytest.mark.parametrize("coding", PACKERS)


@packers
@pytest.mark.parametrize("query", ["", "?strict=true"])
def test_a_batch_may_be_compressed(connection: Connection, coding: str, query: str):
    """Arrays and lines, strict or not, in one piece or in chunks."""
    usages = [{"n": n, "token": new_key()} for n in range(2000)]
    encoding = ("Content-Encoding", coding)
    array = PACKERS[coding](json.dumps(usages).encode())
    found = results(post(connection, array, [*JSON, encoding], query))
    assert read(connection, found[1999]["id"]) == usages[1999]
    body = PACKERS[coding](b"".join(json.dumps(usage).encode() + b"\n" for usage in usages))
    found = stream(connection, body, [*LINES, encoding], query)
    assert read(connection, found[1999]["id"]) == usages[1999]
    connection.send(raw_request("POST", BATCH + query, None, [*LINES, encoding, CHUNKED]) + chunked(body, 777))
    reply = connection.read()
    assert len(lines_of(reply.body)[0]) == 2000


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize(("headers", "query"), [(JSON, ""), (LINES, ""), (LINES, "?strict=true")])
def test_a_body_that_is_not_what_its_encoding_says_is_a_400(
    connection: Connection, coding: str, headers: Headers, query: str
):
    """Corrupt from the beginning, or cut off before anything was stored."""
    whole = PACKERS[coding](b'[{"a":1}]')
    for body in (b"[{}]" * 10, whole[:-3]):
        reply = post(connection, body, [*headers, ("Content-Encoding", coding)], query)
        assert_problem(reply, 400, "invalid_encoding", "Content-Encoding")


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_bombs_are_a_413_and_memory_stays(instance: WebInstance, coding: str):
    """Hundreds of megabytes of one line, or as an array, out of one at most: nobody holds them."""
    body = PACKERS[coding](bytes(64 << 20)) * 10
    assert len(body) < 1 << 20
    with flat_memory(instance):
        for headers, query in [(JSON, ""), (LINES, ""), (LINES, "?strict=true")]:
            with instance.connect() as connection:
                reply = post(connection, body, [*headers, ("Content-Encoding", coding)], query)
                assert_problem(reply, 413, "body_too_large")


# --- streams


def test_a_line_has_its_result_with_its_number(connection: Connection):
    """Whatever ends a line, empty lines between, none behind the last."""
    key = new_key()
    body = b'{"a":1}\r\n\r\n  \n{"medication":1}\n' + json.dumps(keyed(key, {})).encode() + b"\n\n" + b'{"last":1}'
    found = stream(connection, body)
    assert [(result["line"], result["status"]) for result in found] == [
        (1, "created"),
        (4, "invalid"),
        (5, "created"),
        (7, "created"),
    ]
    assert read(connection, found[0]["id"]) == {"a": 1}
    assert read(connection, found[3]["id"]) == {"last": 1}


@pytest.mark.parametrize("query", ["", "?strict=true"])
def test_a_stream_of_nothing_is_complete(connection: Connection, query: str):
    """No line, or empty ones alone."""
    for body in (b"", b"\n\r\n \n"):
        assert stream(connection, body, query=query) == []


def test_results_come_while_the_request_goes_on(instance: WebInstance):
    """A client may send a line, wait for its result and send the next; the connection serves on afterwards."""
    with Talk(instance) as talk:
        for number in range(1, 4):
            talk.send(b'{"n":%d}\n' % number)
            (result,) = talk.results(1)
            assert (result["line"], result["status"]) == (number, "created")
        talk.finish()
        zeros = dict.fromkeys(("duplicate", "invalid", "retry", "unknown"), 0)
        assert talk.results(1) == [{"summary": {"created": 3, **zeros, "ack": "fsync; replicas=1", "complete": True}}]
        talk.assert_end()
        assert talk.connection.request("GET", "/livez").status == 200
        assert len(stream(talk.connection, b"{}\n")) == 1


def test_a_line_may_come_in_any_pieces(instance: WebInstance):
    """Byte by byte, with its end in a piece of its own."""
    with Talk(instance) as talk:
        for byte in b'{"a":"\xc3\xa4"}\r\n{"b":2}':
            talk.send(bytes([byte]))
        talk.finish()
        first, second, last = talk.results(3)
        assert [first["status"], second["status"]] == ["created", "created"]
        assert last["summary"]["complete"] is True


def test_a_hundred_thousand_lines_are_each_stored_once(instance: WebInstance):
    """Every line has one result, in order, and its id finds it."""
    token = new_key()
    lines = [b'{"n":%d,"token":"%b"}' % (n, token.encode()) for n in range(100_000)]
    with Talk(instance) as talk:

        def send() -> None:
            talk.send(b"\n".join(lines))
            talk.finish()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        found = talk.results(100_001)
        sender.join(20)
    *found, last = found
    assert last["summary"]["created"] == 100_000
    assert [result["line"] for result in found] == list(range(1, 100_001))
    with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
        rows = database.execute("SELECT id, usage FROM usages WHERE usage LIKE ?", (f'%"{token}"%',)).fetchall()
    assert dict(rows) == {result["id"]: lines[result["line"] - 1].decode() for result in found}


def test_a_line_that_does_not_end_is_refused_at_its_bound(instance: WebInstance):
    """A 413 when nothing had been said; else the results of the lines before it, and an error as the last line."""
    with instance.connect() as connection:
        connection.send(raw_request("POST", BATCH, None, [*LINES, ("Content-Length", "999999999999")]))
        connection.send(b"x" * 110_000)
        assert_problem(connection.read(), 413, "body_too_large")
        assert connection.ended()
    with Talk(instance) as talk:
        talk.send(b"{}\n")
        assert talk.results(1)[0]["status"] == "created"
        talk.send(b"x" * 110_000)
        (last,) = talk.results(1)
        assert (last["error"]["status"], last["error"]["code"]) == (413, "body_too_large")
        assert (last["summary"]["created"], last["summary"]["complete"]) == (1, False)
        talk.assert_end()
        assert talk.connection.ended()


def test_a_compressed_stream_that_breaks_off_says_so_in_its_last_line(instance: WebInstance):
    """The lines before are stored and told."""
    with Talk(instance, ("Content-Encoding", "gzip")) as talk:
        talk.send(gzip.compress(b'{"a":1}\n{"b":2}\n')[:-4])
        talk.finish()
        *found, last = talk.results(3)
        assert [result["status"] for result in found] == ["created", "created"]
        assert last["error"]["code"] == "invalid_encoding"
        assert last["summary"]["complete"] is False


def test_what_a_stream_inflates_to_is_bounded(tmp_path: Path):
    """Not by its lines: by all it comes to."""
    with ready_instance(tmp_path, batch_inflated_bytes_max=100_000) as instance, instance.connect() as connection:
        body = gzip.compress(b"{}\n" * 40_000)
        reply = connection.request("POST", BATCH, body, [*LINES, ("Content-Encoding", "gzip")])
        found, last = lines_of(reply.body)
        assert last["error"]["code"] == "body_too_large"
        assert 0 < len(found) < 33_334
        assert len(stream(connection, b"{}\n" * 40_000)) == 40_000


def test_a_stream_over_http_1_0_is_refused(instance: WebInstance):
    """Without chunks nobody could tell its end from a cut."""
    with instance.connect() as connection:
        connection.send(
            b"POST %b HTTP/1.0\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 2\r\n\r\n{}"
            % BATCH.encode()
        )
        assert_problem(connection.read(), 400, "bad_request")


# --- strict


@pytest.mark.parametrize("headers", [JSON, LINES])
def test_a_strict_batch_with_an_invalid_item_stores_nothing(
    connection: Connection, instance: WebInstance, headers: Headers
):
    """It says which items are at fault, the first hundred of them, and how many there are."""
    before = instance.metric("busyapi_batch_items_total", result="created")
    items = [b"{}"] * 300 + [b'{"medication":1}'] * 150 + [b"{}"]
    body = b"[%b]" % b",".join(items) if headers is JSON else b"\n".join([b"", *items])
    reply = post(connection, body, headers, "?strict=true")
    document = assert_problem(reply, 422, "batch_invalid")
    assert document["invalid"] == 150
    assert len(document["errors"]) == 100
    place = {"index": 300} if headers is JSON else {"line": 302}
    assert document["errors"][0] == place | {
        "code": "invalid_field",
        "field": "medication",
        "detail": "medication must be a string.",
    }
    assert instance.metric("busyapi_batch_items_total", result="created") == before


@pytest.mark.parametrize("headers", [JSON, LINES])
def test_a_strict_batch_without_fault_is_stored(connection: Connection, headers: Headers):
    """As any other; a key that was used with another body is seen by the store alone, and is a result of its own."""
    key = new_key()
    items = [json.dumps(item).encode() for item in ({}, keyed(key, {}), keyed(key, {"other": 1}))]
    if headers is JSON:
        found = results(post(connection, b"[%b]" % b",".join(items), headers, "?strict=true"))
    else:
        found = stream(connection, b"\n".join(items), query="?strict=true")
    assert [result["status"] for result in found] == ["created", "created", "invalid"]


def test_strict_lines_are_held_whole_and_so_bounded(connection: Connection):
    """In lines and in bytes, empty ones included."""
    for body in (b"\n" * 10_001, b"{}\n" * 10_000 + b"{}"):
        assert_problem(post(connection, body, LINES, "?strict=true"), 413, "batch_too_long")
    for body in (b"{}\n" * 10_000, b"{}\n" * 9_999 + b"{}"):
        assert len(stream(connection, body, query="?strict=true")) == 10_000


# --- many at once, and those who leave


def test_single_posts_go_on_beside_batches(instance: WebInstance):
    """While batches fill the store, a usage that comes alone is stored too, and its answer is its own."""
    stop = threading.Event()

    def batches(_: int) -> int:
        count = 0
        with instance.connect() as connection:
            while not stop.is_set():
                count += len(results(post(connection, [{}] * 2000)))
        return count

    def singles(_: int) -> int:
        try:
            with instance.connect() as connection:
                for _ in range(50):
                    assert connection.request("POST", "/api/usages", b"{}", JSON).status == 201
        finally:
            stop.set()
        return 50

    counts = in_threads(3, lambda index: batches(index) if index else singles(index))
    assert counts[0] == 50
    assert all(count % 2000 == 0 for count in counts[1:])


def test_a_client_that_leaves_midway_leaves_nothing_behind(tmp_path: Path):
    """What was read may be stored; no bytes stay counted, no request stays at work, and the next one is served."""
    with ready_instance(tmp_path) as instance:
        for _ in range(5):
            with Talk(instance) as talk:
                talk.send(b"{}\n" * 3000)
                talk.results(10)
        for _ in range(5):
            with instance.connect() as connection:
                connection.send(raw_request("POST", BATCH, None, [*JSON, ("Content-Length", "1000")]) + b"[{}")
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
        assert instance.metric("busyapi_queue_items") == 0
        with instance.connect() as connection:
            assert len(stream(connection, b"{}\n" * 10)) == 10
        assert instance.stop() == 0


def test_a_client_that_does_not_read_is_not_read_from(tmp_path: Path):
    """Its stream fills what is between and stands still: back-pressure, in bounded memory; others are served; then it is ended."""
    with (
        ready_instance(tmp_path, body_timeout_s=4) as instance,
        instance.connect() as deaf,
        instance.connect() as other,
    ):
        deaf.send(raw_request("POST", BATCH, None, [*LINES, CHUNKED]))
        sent = 0
        chunk = b'{"medication":"not a number, which is what makes the answer to a line so much longer"}\n'.replace(
            b'"not', b'1,"x":"not'
        )
        block = chunk * 1000
        deaf.socket.settimeout(1.0)
        with flat_memory(instance):
            try:
                while sent < 400 << 20:
                    deaf.socket.sendall(b"%x\r\n%b\r\n" % (len(block), block))
                    sent += len(block)
            except TimeoutError:
                pass
            assert sent < 200 << 20, "it was read without end"
            assert other.request("POST", "/api/usages", b"{}", JSON).status == 201
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
        assert instance.metric("busyapi_refused_total", code="request_timeout") == 1


def test_a_client_that_says_nothing_is_ended(tmp_path: Path):
    """A stream may go on for ever, but not in silence: its last line says why."""
    with ready_instance(tmp_path, body_timeout_s=0.5) as instance:
        with Talk(instance) as talk:
            talk.send(b"{}\n")
            *_, last = talk.results(2)
            assert (last["error"]["code"], last["summary"]["complete"]) == ("request_timeout", False)
        with Talk(instance) as talk:
            assert_problem(talk.connection.read(), 408, "request_timeout")


def test_streams_are_bounded_in_number(tmp_path: Path):
    """One more than batch_streams_max is a 503; arrays are not streams."""
    with ready_instance(tmp_path, batch_streams_max=2) as instance:
        with Talk(instance) as first, Talk(instance) as second:
            for talk in (first, second):
                talk.send(b"{}\n")
                talk.results(1)
            with instance.connect() as third:
                assert_problem(third.request("POST", BATCH, b"{}\n", LINES), 503, "overloaded")
                assert len(results(post(third, [{}]))) == 1
        eventually(lambda: instance.metric("busyapi_requests_in_flight") == 1)
        with instance.connect() as third:
            assert len(stream(third, b"{}\n")) == 1


def test_bytes_that_are_held_are_counted(tmp_path: Path):
    """A batch counts against body_bytes_in_flight_max as any body does, and a stream that is alone always goes on."""
    with ready_instance(tmp_path, body_bytes_in_flight_max=1 << 20) as instance, instance.connect() as connection:
        big = b'{"x":"%b"}' % (b"y" * 100_000)
        assert len(stream(connection, (big + b"\n") * 50)) == 50
        reply = instance.request("POST", BATCH, b"[%b]" % b",".join([big] * 12), JSON)
        assert_problem(reply, 503, "overloaded")


# --- the store goes away, the instance stops


def test_a_store_that_stops_midway_is_told_item_by_item(tmp_path: Path):
    """What came before is created, what could not be is retry, with when to come back; then the store is there again."""
    with ready_instance(tmp_path, sqlite_busy_timeout_s=0.1) as instance, Talk(instance) as talk:
        talk.send(b'{"a":1}\n')
        assert talk.results(1)[0]["status"] == "created"
        with store_held(instance):
            talk.send(b'{"b":2}\n[]\n')
            retry, invalid = talk.results(2)
            assert (retry["status"], retry["code"]) == ("retry", "store_unavailable")
            assert invalid["status"] == "invalid"
            found = results(instance.request("POST", BATCH, b"[{},7]", JSON))
            assert [result["status"] for result in found] == ["retry", "invalid"]
        talk.send(b'{"b":2}\n')
        assert talk.results(1)[0]["status"] == "created"
        talk.finish()
        (last,) = talk.results(1)
        assert (last["summary"]["created"], last["summary"]["retry"], last["summary"]["complete"]) == (2, 1, True)
        assert last["summary"]["retry_after_s"] >= 1
        with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
            assert database.execute("SELECT usage FROM usages ORDER BY id").fetchall() == [('{"a":1}',), ('{"b":2}',)]


def test_a_store_that_hangs_midway_is_unknown(tmp_path: Path):
    """Sent and not answered is unknown, and what waits behind it is to be retried."""
    settings: dict[str, Any] = {"sqlite_busy_timeout_s": 10, "store_timeout_s": 0.5, "batch_wait_max_s": 0.3}
    with ready_instance(tmp_path, **settings) as instance, store_held(instance), instance.connect() as connection:
        found = results(post(connection, [{}] * 600))
        assert {result["status"] for result in found} == {"unknown", "retry"}
        assert found[0]["status"] == "unknown"


def test_an_instance_that_stops_ends_its_streams_in_good_order(tmp_path: Path):
    """What was read has its results; the last line says that this was not all, and why; exit 0."""
    with ready_instance(tmp_path) as instance:
        with Talk(instance) as talk:
            talk.send(b"{}\n" * 10)
            talk.results(10)
            instance.signal(signal.SIGTERM)
            (last,) = talk.results(1)
            assert (last["error"]["code"], last["error"]["status"]) == ("shutting_down", 503)
            assert (last["summary"]["created"], last["summary"]["complete"]) == (10, False)
            talk.assert_end()
        assert instance.wait() == 0


@pytest.mark.slow
def test_an_instance_that_stops_under_batches_loses_none_that_it_told(tmp_path: Path):
    """Every id that a client was told is in the store; arrays and small streams see no error while it drains."""
    told: list[int] = []
    with ready_instance(tmp_path, drain_delay_s=1) as instance:
        stopped = threading.Event()

        def client(index: int) -> None:
            with contextlib.suppress(ConnectionEnded, ConnectionError):
                while True:
                    with instance.connect() as connection:
                        if index % 2:
                            found = results(post(connection, [{}] * 500))
                        else:
                            reply = connection.request("POST", BATCH, b"{}\n" * 500, LINES)
                            if reply.status == 503 and stopped.is_set():
                                return
                            found, last = lines_of(reply.body)
                            assert last["summary"]["complete"] or stopped.is_set()
                        told.extend(result["id"] for result in found if result["status"] == "created")

        threads = [threading.Thread(target=client, args=(index,), daemon=True) for index in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(told) > 10_000)
        instance.signal(signal.SIGTERM)
        stopped.set()
        assert instance.wait() == 0
        for thread in threads:
            thread.join(20)
        with contextlib.closing(sqlite3.connect(instance.store_path)) as database:
            stored = {id_ for (id_,) in database.execute("SELECT id FROM usages")}
        assert stored >= set(told)


@pytest.mark.slow
def test_memory_stays_while_much_is_streamed(tmp_path: Path):
    """200 MB through one connection, and the instance is no larger than before."""
    usage = b'{"patientId":"100","note":"%b"}\n' % (b"x" * 400)
    block = usage * 500
    with ready_instance(tmp_path) as instance, Talk(instance) as talk:
        talk.send(block * 4)
        talk.results(2000)
        with flat_memory(instance):
            count = (200 << 20) // len(block)

            def send() -> None:
                for _ in range(count):
                    talk.send(block)
                talk.finish()

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            assert talk.count(count * 500) == count * 500
            sender.join(20)
        (last,) = talk.results(1)
        assert last["summary"]["created"] == count * 500 + 2000


# --- what these stand on


class Talk:
    """A streamed batch whose request and answer go on at once."""

    def __init__(self, instance: WebInstance, *headers: tuple[str, str]) -> None:
        self.connection = instance.connect()
        self.connection.send(raw_request("POST", BATCH, None, [*LINES, *headers, CHUNKED]))
        self._lines: Iterator[bytes] | None = None
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        """A chunk of the request."""
        self.connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """The end of the request."""
        self.connection.send(b"0\r\n\r\n")

    def results(self, count: int) -> list[dict[str, Any]]:
        """The next lines of the answer."""
        return [json.loads(line) for line in itertools.islice(self._answer(), count)]

    def count(self, count: int) -> int:
        """Read so many lines, and keep none."""
        return sum(1 for _ in itertools.islice(self._answer(), count))

    def assert_end(self) -> None:
        """The answer is whole, and was said to be."""
        assert next(self._answer(), None) is None
        assert self.ended

    def _answer(self) -> Iterator[bytes]:
        if self._lines is None:
            head = self.connection._until(b"\r\n\r\n").lower()
            assert head.startswith(b"http/1.1 200"), head
            assert b"content-type: application/x-ndjson" in head
            self._lines = self._read()
        return self._lines

    def _read(self) -> Iterator[bytes]:
        rest = b""
        while size := int(self.connection._until(b"\r\n"), 16):
            *lines, rest = (rest + self.connection._exactly(size + 2)[:-2]).split(b"\n")
            yield from lines
        assert not rest
        self.connection._until(b"\r\n")
        self.ended = True


@contextlib.contextmanager
def flat_memory(instance: WebInstance) -> Iterator[None]:
    """The process does not grow by more than MEMORY_GROWTH_MAX while this lasts, looked at all the time."""
    process = psutil.Process(instance.process.pid)
    before = most = process.memory_info().rss
    over = threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert most - before <= MEMORY_GROWTH_MAX, f"{before >> 20} MiB grew to {most >> 20} MiB"


@contextlib.contextmanager
def store_held(instance: WebInstance) -> Iterator[None]:
    """Nobody else writes to the file while this lasts."""
    with contextlib.closing(sqlite3.connect(instance.store_path, isolation_level=None, timeout=10)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")
