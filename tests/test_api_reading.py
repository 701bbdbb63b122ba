from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psutil
import pytest

from tests.support import (
    LONG,
    Connection,
    ConnectionEnded,
    Headers,
    Reply,
    WebInstance,
    assert_problem,
    eventually,
    ready_instance,
    web_instance,
)

JSON = [("Content-Type", "application/json")]
NDJSON = [("Accept", "application/x-ndjson")]
LIST, COUNT = "/api/usages", "/api/usages/count"
LARGE = b'{"x": "%b"}' % (b"x" * 100_000)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance on whose store these tests alone put usages, each reading from its own beginning on."""
    with ready_instance(tmp_path_factory.mktemp("shelf")) as instance:
        yield instance


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebInstance]:
    """An instance with a patient index."""
    with ready_instance(tmp_path_factory.mktemp("indexed"), patient_index="on") as instance:
        yield instance


def post(instance: WebInstance, body: bytes = b"{}", key: str | None = None) -> int | str:
    """Store a usage; its id or key."""
    reply = instance.post_usage(body, [("Idempotency-Key", key)] if key else ())
    assert reply.status in (200, 201), reply
    id_: int | str = reply.json()["id"]
    return id_


def get(connection: Connection | WebInstance, path: str, headers: Headers = (), /, **query: Any) -> Reply:
    """GET with these parameters; ``from_`` is from."""
    text = urlencode({name.rstrip("_"): value for name, value in query.items()})
    return connection.request("GET", f"{path}?{text}" if text else path, None, headers)


def received_at(instance: WebInstance, id_: int | str) -> str:
    """The time of a usage, as a read tells it."""
    path = f"/api/usages/{id_}" if isinstance(id_, int) else f"/api/usages/keys/{quote(id_, safe='')}"
    text: str = instance.request("GET", path).json()["received_at"]
    return text


def ids(usages: list[dict[str, Any]]) -> list[int | str]:
    """Of a page or of lines."""
    return [usage["id"] for usage in usages]


def all_pages(connection: Connection | WebInstance, limit: int, **query: Any) -> list[dict[str, Any]]:
    """Every page, by the links from one to the next, which lead where ``next`` does."""
    usages: list[dict[str, Any]] = []
    reply = get(connection, LIST, limit=limit, **query)
    while True:
        assert reply.status == 200, reply
        page = reply.json()
        assert len(page["usages"]) <= limit
        usages += page["usages"]
        link = reply.header("link")
        if page["next"] is None:
            assert link is None
            return usages
        assert link is not None
        target, _, relation = link.partition("; ")
        assert relation == 'rel="next"'
        assert f"cursor={page['next']}" in target
        reply = connection.request("GET", target.strip("<>"))


def lines(reply: Reply) -> list[dict[str, Any]]:
    """The documents of a stream."""
    assert reply.status == 200, reply
    assert reply.header("content-type") == "application/x-ndjson"
    assert reply.header("transfer-encoding") == "chunked"
    assert reply.body == b"" or reply.body.endswith(b"\n")
    return [json.loads(line) for line in reply.body.splitlines()]


# --- pages


def test_a_list_has_what_was_stored_in_the_order_received(shelf: WebInstance):
    """By id and by key, each as a read of it alone answers, with the bytes that were sent."""
    bodies = [b'{"patientId": "100",  "x": [1, 2]}', '{"é": "😀"}'.encode(), b'{"n":\n\t1}']
    expected = [post(shelf, body, key) for body in bodies for key in (None, f"list/{len(body)}")]
    reply = get(shelf, LIST, from_=received_at(shelf, expected[0]))
    page = reply.json()
    assert ids(page["usages"]) == expected
    assert page["next"] is None
    for body, usage in zip((body for body in bodies for _ in range(2)), page["usages"], strict=True):
        id_ = usage["id"]
        path = f"/api/usages/{id_}" if isinstance(id_, int) else f"/api/usages/keys/{quote(id_, safe='')}"
        assert usage == shelf.request("GET", path).json()
        assert b'"usage": %b}' % body in reply.body
    assert reply.header("content-type") == "application/json"
    assert reply.header("vary") == "accept"


@pytest.mark.parametrize("limit", [1, 2, 6, 7, 8, 1000])
def test_pages_of_any_size_are_the_whole(shelf: WebInstance, limit: int):
    """Nothing is missed or comes twice at their borders; the last has no next."""
    expected = [post(shelf, b"{}", f"pages-{limit}-{at}" if at % 2 else None) for at in range(7)]
    assert ids(all_pages(shelf, limit, from_=received_at(shelf, expected[0]))) == expected


def test_from_is_taken_in_and_to_is_not(shelf: WebInstance):
    """To the microsecond, in whatever offset."""
    stored = [post(shelf) for _ in range(4)]
    times = [received_at(shelf, id_) for id_ in stored]
    assert ids(get(shelf, LIST, from_=times[1], to=times[3]).json()["usages"]) == stored[1:3]
    assert ids(get(shelf, LIST, from_=times[1], to=times[1]).json()["usages"]) == []
    elsewhere = datetime.fromisoformat(times[1]).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert ids(get(shelf, LIST, from_=elsewhere.isoformat(), to=times[2]).json()["usages"]) == [stored[1]]
    # A plus that was not escaped arrives as a space.
    unescaped = times[1].replace("Z", "+00:00")
    assert ids(shelf.request("GET", f"{LIST}?from={unescaped}&to={times[2]}").json()["usages"]) == [stored[1]]


def test_a_cursor_keeps_the_end_that_the_first_page_had(shelf: WebInstance):
    """What is stored behind it is not in its pages."""
    stored = [post(shelf) for _ in range(3)]
    first = get(shelf, LIST, limit=1, from_=received_at(shelf, stored[0]), to=received_at(shelf, stored[2])).json()
    post(shelf)
    second = get(shelf, LIST, limit=1, cursor=first["next"]).json()
    assert (ids(first["usages"]), ids(second["usages"]), second["next"]) == (stored[:1], stored[1:2], None)


def test_a_list_without_parameters_has_a_hundred_from_the_first_on(tmp_path: Path):
    """The beginning to now; an empty store has an empty list, an empty stream, a count of zero."""
    with ready_instance(tmp_path) as instance:
        assert get(instance, LIST).json() == {"usages": [], "next": None}
        assert lines(get(instance, LIST, NDJSON)) == []
        assert get(instance, COUNT).json()["total"] == 0
        assert get(instance, COUNT, window="minute").json()["windows"] == []
        with instance.connect() as connection:
            stored = [connection.request("POST", "/api/usages", b"{}", JSON).json()["id"] for _ in range(101)]
        page = get(instance, LIST).json()
        assert ids(page["usages"]) == stored[:100]
        assert ids(get(instance, LIST, cursor=page["next"]).json()["usages"]) == stored[100:]


def test_paging_while_others_post_misses_nothing_older_and_repeats_nothing(shelf: WebInstance):
    """What was acknowledged before the first page is in the pages, each once."""
    older = [post(shelf, b"{}", f"older-{at}" if at % 2 else None) for at in range(40)]
    start = received_at(shelf, older[0])
    stop = threading.Event()

    def write(name: int) -> None:
        with shelf.connect() as connection:
            at = 0
            while not stop.is_set():
                at += 1
                key = [("Idempotency-Key", f"meanwhile-{name}-{at}")] if at % 2 else []
                assert connection.request("POST", "/api/usages", b"{}", [*JSON, *key]).status == 201

    writers = [threading.Thread(target=write, args=(name,), daemon=True) for name in range(3)]
    for writer in writers:
        writer.start()
    try:
        with shelf.connect() as connection:
            found = ids(all_pages(connection, 7, from_=start))
    finally:
        stop.set()
        for writer in writers:
            writer.join(20)
    assert len(set(found)) == len(found)
    assert found[: len(older)] == older


def test_a_page_of_large_usages_ends_early_with_a_next(tmp_path: Path):
    """A limit of 1,000 is no leave to hold 100 MB."""
    with ready_instance(tmp_path) as instance:
        with instance.connect() as connection:
            stored = [connection.request("POST", "/api/usages", LARGE, JSON).json()["id"] for _ in range(200)]
        page = get(instance, LIST, limit=1000)
        assert page.json()["next"]
        assert len(page.body) < 20_000_000
        assert ids(all_pages(instance, 1000)) == stored
        assert instance.metric("busyapi_requests_in_flight") == 1


# --- streams


def test_a_stream_has_everything_one_usage_a_line(shelf: WebInstance):
    """In order; line breaks in what was sent are white space, so a line is a document. limit is the total."""
    bodies = [b'{\n  "a": [\r\n    1,\n    "\\n"\n  ]\n}\r\n', b"{}", b'{"b":2}'] * 200
    start = post(shelf)
    with shelf.connect() as connection:
        stored = [connection.request("POST", "/api/usages", body, JSON).json()["id"] for body in bodies]
        query = {"from_": received_at(shelf, start)}
        found = lines(get(connection, LIST, NDJSON, **query))
        assert ids(found) == [start, *stored]
        assert [usage["usage"] for usage in found[1:]] == [json.loads(body) for body in bodies]
        assert found[1].keys() == {"id", "received_at", "usage"}
        for limit in (1, 255, 256, 257, 601, 10**6):
            assert ids(lines(get(connection, LIST, NDJSON, limit=limit, **query))) == [start, *stored][:limit]
        cursor = get(connection, LIST, limit=10, **query).json()["next"]
        assert ids(lines(get(connection, LIST, NDJSON, cursor=cursor))) == [start, *stored][10:]


@pytest.mark.parametrize(
    ("accept", "streamed"),
    [
        ("application/x-ndjson", True),
        ("Application/X-NDJSON", True),
        ("application/x-ndjson, application/json;q=0.5", True),
        ("application/x-ndjson;q=0.5, */*;q=0.1", True),
        ("application/json, application/x-ndjson;q=0.9", False),
        ("application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=x", False),
        ("application/*", False),
        ("*/*", False),
        ("application/json", False),
    ],
)
def test_a_stream_is_sent_to_who_asks_for_one(shelf: WebInstance, accept: str, streamed: bool):
    """By name, and JSON not more."""
    reply = get(shelf, LIST, [("Accept", accept)], limit=1)
    expected = "application/x-ndjson" if streamed else "application/json"
    assert (reply.status, reply.header("content-type")) == (200, expected)


def test_head_answers_as_get_without_the_body(shelf: WebInstance):
    """Pages, streams and counts, problems too; the connection goes on."""
    post(shelf)
    with shelf.connect() as connection:
        same = [("X-Request-ID", "same")]
        for target in (f"{LIST}?limit=1", f"{COUNT}?to=2026-01-01T00:00:00Z", f"{LIST}?limit=0", f"{COUNT}?x=1"):
            replies = [connection.request(method, target, None, same) for method in ("GET", "HEAD")]
            assert replies[0].status == replies[1].status
            assert dict(replies[0].headers).keys() == dict(replies[1].headers).keys()
            assert replies[1].body == b""
        reply = connection.request("HEAD", LIST, None, NDJSON)
        assert (reply.status, reply.header("content-type"), reply.body) == (200, "application/x-ndjson", b"")
        assert connection.request("GET", "/livez").status == 200


def test_http_1_0_gets_pages_but_no_stream(shelf: WebInstance):
    """It has no chunks, and a stream without them could break off unnoticed."""
    with shelf.connect() as connection:
        connection.send(b"GET /api/usages HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n")
        assert_problem(connection.read(), 400, "bad_request")


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[WebInstance]:
    """An instance with 60 MB of usages, that reads for one client at a time and waits five seconds for it."""
    with ready_instance(tmp_path, reads_in_flight_max=1, body_timeout_s=5) as instance:
        with instance.connect() as connection:
            for _ in range(600):
                assert connection.request("POST", "/api/usages", LARGE, JSON).status == 201
        yield instance


def slow_reader(instance: WebInstance) -> Connection:
    """A client that has asked for everything, has room for little, and has read the head of the answer."""
    connection = instance.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.send(b"GET /api/usages HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    assert connection.socket.recv(15) == b"HTTP/1.1 200 OK"
    return connection


def test_a_stream_waits_for_its_reader_and_holds_little(loaded: WebInstance):
    """60 MB go through an instance whose memory stays as it was, however slowly they are read."""
    process = psutil.Process(loaded.process.pid)
    get(loaded, LIST, limit=100)
    before = process.memory_info().rss
    received = most = 0
    with slow_reader(loaded) as connection:
        for _ in range(50):  # meanwhile it could have read everything
            assert loaded.request("GET", "/livez").status == 200
            most = max(most, process.memory_info().rss)
        while chunk := connection.socket.recv(1 << 20):
            received += len(chunk)
            most = max(most, process.memory_info().rss)
            if chunk.endswith(b"0\r\n\r\n"):
                break
    assert received > 60_000_000
    assert most - before < 40_000_000


def test_a_store_that_fails_midway_ends_the_connection_without_the_last_chunk(loaded: WebInstance):
    """So a part cannot pass for the whole; the log says what happened, and the instance serves on."""
    with slow_reader(loaded) as connection:
        with contextlib.closing(sqlite3.connect(loaded.store_path, timeout=20)) as database:
            database.execute("ALTER TABLE usage_runs RENAME TO away")
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.socket.recv(1 << 20):
                data = data[-100:] + chunk
        assert not data.endswith(b"0\r\n\r\n")
    eventually(lambda: loaded.logged("failed", code="store_unavailable"))
    assert_problem(get(loaded, LIST), 503, "store_unavailable")
    with contextlib.closing(sqlite3.connect(loaded.store_path, timeout=20)) as database:
        database.execute("ALTER TABLE away RENAME TO usage_runs")
    assert get(loaded, LIST).status == 200


def test_more_streams_than_are_allowed_are_refused_until_one_has_ended(loaded: WebInstance):
    """A client that leaves its stream gives its place back, and so does one that stopped reading, after body_timeout_s."""
    for leave in (True, False):
        with slow_reader(loaded) as connection:
            assert_problem(get(loaded, LIST, NDJSON), 503, "overloaded")
            for target in (LIST, COUNT):
                assert get(loaded, target).status == 200  # these do not wait for a slow reader
            assert loaded.post_usage().status == 201
            if leave:
                connection.close()
            eventually(lambda: get(loaded, LIST, NDJSON, limit=1).status == 200)
            if not leave:
                with pytest.raises((ConnectionEnded, ConnectionResetError)):
                    read_to_last_chunk(connection)
    eventually(lambda: loaded.metric("busyapi_requests_in_flight") == 1)


def read_to_last_chunk(connection: Connection) -> None:
    """Raises when the connection ends before it."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        chunk = connection.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionEnded
        data = data[-10:] + chunk


# --- counts


def test_counts_agree_with_the_list(shelf: WebInstance):
    """The total and each window; repeats and conflicts never count; what was deleted does not either."""
    stored = [post(shelf, b"{}", f"count-{at}" if at % 2 else None) for at in range(10)]
    for _ in range(3):
        assert shelf.post_usage(b"{}", [("Idempotency-Key", "count-1")]).status == 200
    assert shelf.post_usage(b'{"x": 1}', [("Idempotency-Key", "count-1")]).status == 422
    start = received_at(shelf, stored[0])
    end = received_at(shelf, stored[9])
    count = get(shelf, COUNT, from_=start, to=end).json()
    assert count == {"from": start, "to": end, "total": 9}
    for window in ("minute", "hour", "day"):
        count = get(shelf, COUNT, from_=start, window=window).json()
        assert count["total"] == sum(each["count"] for each in count["windows"]) == 10
        assert count["from"] == count["windows"][0]["from"] == start
        assert count["to"] > end
    assert shelf.request("DELETE", f"/api/usages/{stored[0]}").status == 200
    assert shelf.request("DELETE", "/api/usages/keys/count-1").status == 200
    assert get(shelf, COUNT, from_=start).json()["total"] == 8


def test_windows_are_aligned_in_utc_and_cut_by_from_and_to(shelf: WebInstance):
    """Those without usages are there too."""
    query = {"from_": "2020-01-01T00:30:10.5+01:00", "to": "2020-01-01T02:00:00.000001Z"}
    count = get(shelf, COUNT, window="hour", **query).json()
    assert count == {
        "from": "2019-12-31T23:30:10.500000Z",
        "to": "2020-01-01T02:00:00.000001Z",
        "total": 0,
        "windows": [
            {"from": f"{start}Z", "count": 0}
            for start in (
                "2019-12-31T23:30:10.500000",
                "2020-01-01T00:00:00.000000",
                "2020-01-01T01:00:00.000000",
                "2020-01-01T02:00:00.000000",
            )
        ],
    }
    whole = get(shelf, COUNT, window="day", from_="2020-01-01T00:00:00Z", to="2020-01-03T00:00:00Z").json()
    assert [each["from"][:10] for each in whole["windows"]] == ["2020-01-01", "2020-01-02"]


def test_a_count_of_all_time_begins_with_the_first_usage(tmp_path: Path):
    """So windows of it are few, and years without usages cost nothing; a time to come counts what is there now."""
    with ready_instance(tmp_path) as instance:
        stored = [post(instance) for _ in range(3)]
        start = received_at(instance, stored[0])
        count = get(instance, COUNT, window="minute").json()
        assert (count["from"], count["total"]) == (start, 3)
        assert len(count["windows"]) <= 2
        for from_ in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"):
            ever = get(instance, COUNT, from_=from_, to="9999-12-31T23:59:59Z").json()
            assert (ever["from"], ever["total"]) == ("1970-01-01T00:00:00.000000Z", 3)


def test_usages_of_many_days_are_counted_whole(tmp_path: Path):
    """Also where the store is asked for more than one stretch of time, and each of them is cut by the span."""
    with ready_instance(tmp_path) as instance:
        post(instance)
        day_us = 86_400_000_000
        with contextlib.closing(sqlite3.connect(instance.store_path, timeout=20)) as database, database:
            for day in range(0, 1000, 50):
                us = 19_000 * day_us + day * day_us + 5
                database.execute(
                    "INSERT INTO usages (id, usage, received_at_us) VALUES (?, '{}', ?)", (10**9 + day, us)
                )
                database.execute("INSERT INTO usage_runs VALUES (?, ?, ?, 1)", (us, 10**9 + day, 10**9 + day))
                database.execute("INSERT INTO usage_minutes VALUES (?, 1)", (us // 60_000_000,))
        query = {"from_": "2022-01-08T00:00:00Z", "to": "2024-10-04T00:00:00Z", "window": "day"}
        count = get(instance, COUNT, **query).json()
        assert count["total"] == 20
        assert [at for at, each in enumerate(count["windows"]) if each["count"]] == list(range(0, 1000, 50))
        assert get(instance, COUNT).json()["total"] == 21


# --- deletes


@pytest.mark.parametrize("headers", [(), [LONG]], ids=["short", "long"])
def test_a_deleted_usage_is_gone(shelf: WebInstance, headers: Headers):
    """From reads, lists and counts, for good; a second DELETE is a 404."""
    stored = [post(shelf) for _ in range(3)]
    start = received_at(shelf, stored[0])
    reply = shelf.request("DELETE", f"/api/usages/{stored[1]}", None, headers)
    assert (reply.status, reply.json()) == (200, {"usage_deleted": stored[1]})
    for method in ("GET", "HEAD", "DELETE"):
        assert_problem(shelf.request(method, f"/api/usages/{stored[1]}", None, headers), 404, "not_found")
    assert ids(get(shelf, LIST, from_=start).json()["usages"]) == [stored[0], stored[2]]
    assert get(shelf, COUNT, from_=start).json()["total"] == 2


def test_a_key_can_be_posted_again_after_its_delete(shelf: WebInstance):
    """It is a new usage then, whatever its body: 201, its own time, once in lists and counts."""
    key = "a/key of €"
    header = [("Idempotency-Key", "a/key")]
    path = "/api/usages/keys/a%2Fkey"
    assert shelf.post_usage(b"{}", header).status == 201
    before = received_at(shelf, "a/key")
    reply = shelf.request("DELETE", path)
    assert (reply.status, reply.json()) == (200, {"usage_deleted": "a/key"})
    for method in ("GET", "DELETE"):
        assert_problem(shelf.request(method, path), 404, "not_found")
    assert shelf.post_usage(b'{"another": 1}', header).status == 201
    assert shelf.post_usage(b'{"another": 1}', header).status == 200
    assert received_at(shelf, "a/key") > before
    assert ids(get(shelf, LIST, from_=before, limit=1000).json()["usages"]).count("a/key") == 1
    assert_problem(shelf.request("DELETE", f"/api/usages/keys/{quote(key)}"), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["/api/usages/0", "/api/usages/9007199254740992", "/api/usages/x", "/api/usages/-1", "/api/usages/keys/none"],
)
def test_what_was_never_stored_cannot_be_deleted(shelf: WebInstance, path: str):
    """404, as a read."""
    assert_problem(shelf.request("DELETE", path), 404, "not_found")


# --- what is refused

CURSOR = "gpFsaXN0"
REFUSED = [
    (LIST, "limit=0", "invalid_parameter", "limit"),
    (LIST, "limit=1001", "invalid_parameter", "limit"),
    (LIST, "limit=-1", "invalid_parameter", "limit"),
    (LIST, "limit=+1", "invalid_parameter", "limit"),
    (LIST, "limit=01", "invalid_parameter", "limit"),
    (LIST, "limit=1e2", "invalid_parameter", "limit"),
    (LIST, "limit=", "invalid_parameter", "limit"),
    (LIST, "limit=%D9%A1", "invalid_parameter", "limit"),
    (LIST, "limit=1&limit=2", "invalid_parameter", "limit"),
    (LIST, "from=yesterday", "invalid_parameter", "from"),
    (LIST, "from=2026-11-26", "invalid_parameter", "from"),
    (LIST, "from=1795694400000000", "invalid_parameter", "from"),
    (LIST, "to=2026-11-26T12:00:00", "invalid_parameter", "to"),
    (LIST, "from=2026-11-26T12:00:01Z&to=2026-11-26T12:00:00Z", "invalid_parameter", "from"),
    (LIST, "cursor=", "cursor_invalid", "cursor"),
    (LIST, "cursor=rubbish", "cursor_invalid", "cursor"),
    (LIST, f"cursor={CURSOR}", "cursor_invalid", "cursor"),
    (LIST, f"cursor={CURSOR}&from=2026-11-26T12:00:00Z", "invalid_parameter", "from"),
    (LIST, f"cursor={CURSOR}&to=2026-11-26T12:00:00Z", "invalid_parameter", "to"),
    (LIST, "patientId=100", "patient_index_off", "patientId"),
    (LIST, "patient_id=100", "unknown_parameter", "patient_id"),
    (LIST, "offset=5", "unknown_parameter", "offset"),
    (LIST, "From=2026-11-26T12:00:00Z", "unknown_parameter", "From"),
    (LIST, "limit=%ff", "invalid_parameter", None),
    (LIST, "&".join(["limit=1"] * 17), "invalid_parameter", None),
    (COUNT, "window=second", "invalid_parameter", "window"),
    (COUNT, "window=", "invalid_parameter", "window"),
    (COUNT, "limit=5", "unknown_parameter", "limit"),
    (COUNT, "to=x", "invalid_parameter", "to"),
    (COUNT, "from=2020-01-01T00:00:00Z&to=2020-01-07T22:40:00.1Z&window=minute", "too_many_windows", "window"),
    (COUNT, "from=0001-01-01T00:00:00Z&to=9999-01-01T00:00:00Z&window=day", "too_many_windows", "window"),
]


@pytest.mark.parametrize(("path", "query", "code", "field"), REFUSED)
@pytest.mark.parametrize("headers", [(), NDJSON], ids=["page", "stream"])
def test_a_wrong_parameter_is_a_400_that_names_it(
    shelf: WebInstance, path: str, query: str, code: str, field: str | None, headers: Headers
):
    """Whether a page or a stream is asked for, and nothing is read from the store."""
    if headers and query == "limit=1001":
        return  # of a stream it is the total
    assert_problem(shelf.request("GET", f"{path}?{query}", None, headers), 400, code, field)


def test_a_delete_takes_no_parameters(shelf: WebInstance):
    """Who says from and to means something else than one usage."""
    id_ = post(shelf)
    assert_problem(shelf.request("DELETE", f"/api/usages/{id_}?from=x"), 400, "unknown_parameter", "from")
    assert_problem(shelf.request("DELETE", "/api/usages/keys/a?force=1"), 400, "unknown_parameter", "force")
    assert shelf.request("GET", f"/api/usages/{id_}").status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", LIST, "GET, HEAD, POST"),
        ("POST", COUNT, "GET, HEAD"),
        ("DELETE", COUNT, "GET, HEAD"),
        ("POST", "/api/usages/5", "DELETE, GET, HEAD"),
        ("PUT", "/api/usages/keys/x", "DELETE, GET, HEAD"),
    ],
)
def test_other_methods_are_told_which_there_are(shelf: WebInstance, method: str, path: str, allow: str):
    """A 405 with Allow."""
    reply = shelf.request(method, path)
    assert_problem(reply, 405, "method_not_allowed")
    assert reply.header("allow") == allow


def test_without_a_store_lists_counts_and_deletes_are_503(tmp_path: Path):
    """As other reads: with Retry-After, at once."""
    blocked = tmp_path / "blocked"
    blocked.write_text("no directory")
    with web_instance(tmp_path, store=blocked / "store.sqlite3") as instance:
        for method, path in (
            ("GET", LIST),
            ("GET", COUNT),
            ("DELETE", "/api/usages/1"),
            ("DELETE", "/api/usages/keys/a"),
        ):
            assert_problem(instance.request(method, path), 503, "store_unavailable")
        assert_problem(get(instance, LIST, NDJSON), 503, "store_unavailable")


def test_the_largest_page_and_the_most_windows_are_settings(tmp_path: Path):
    """Each as set; the default limit is never beyond the largest."""
    with ready_instance(tmp_path, page_usages_max=2, count_windows_max=2) as instance:
        stored = [post(instance) for _ in range(3)]
        assert ids(get(instance, LIST).json()["usages"]) == stored[:2]
        assert_problem(get(instance, LIST, limit=3), 400, "invalid_parameter", "limit")
        query = {"from_": "2020-01-01T00:00:00Z", "window": "hour"}
        assert get(instance, COUNT, to="2020-01-01T02:00:00Z", **query).status == 200
        assert_problem(get(instance, COUNT, to="2020-01-01T02:00:01Z", **query), 400, "too_many_windows", "window")


# --- patients


def test_a_patients_usages_are_found_as_number_and_as_string(indexed: WebInstance):
    """In pages, by links, and as a stream; nobody else's are."""
    stored = [
        post(indexed, body, key)
        for body in (b'{"patientId": 100}', b'{"patientId": "100"}')
        for key in (None, f"p-{len(body)}")
    ]
    for body in (b'{"patientId": 1000}', b'{"patientId": "1 00"}', b"{}"):
        post(indexed, body)
    assert ids(get(indexed, LIST, patientId="100").json()["usages"]) == stored
    assert ids(all_pages(indexed, 3, patientId="100")) == stored
    assert ids(all_pages(indexed, 1, patientId="100")) == stored
    assert ids(lines(get(indexed, LIST, NDJSON, patientId="100"))) == stored
    assert ids(lines(get(indexed, LIST, NDJSON, patientId="100", limit=3))) == stored[:3]
    assert len(get(indexed, LIST, patientId="1 00").json()["usages"]) == 1
    assert get(indexed, LIST, patientId="nobody").json() == {"usages": [], "next": None}
    assert indexed.request("DELETE", f"/api/usages/{stored[0]}").status == 200
    assert ids(get(indexed, LIST, patientId="100").json()["usages"]) == stored[1:]


def test_a_patient_is_asked_for_with_limit_and_cursor_alone(indexed: WebInstance):
    """And with a cursor of that patient."""
    for _ in range(3):
        post(indexed, b'{"patientId": "cursor"}')
    cursor = get(indexed, LIST, patientId="cursor", limit=1).json()["next"]
    listing = get(indexed, LIST, limit=1).json()["next"]
    refused: list[tuple[dict[str, object], str, str]] = [
        ({"patientId": "cursor", "from_": "2026-11-26T12:00:00Z"}, "invalid_parameter", "from"),
        ({"patientId": "cursor", "to": "2026-11-26T12:00:00Z"}, "invalid_parameter", "to"),
        ({"patientId": ""}, "invalid_parameter", "patientId"),
        ({"patientId": "x" * 129}, "invalid_parameter", "patientId"),
        ({"patientId": "another", "cursor": cursor}, "cursor_invalid", "cursor"),
        ({"patientId": "cursor", "cursor": listing}, "cursor_invalid", "cursor"),
        ({"cursor": cursor}, "cursor_invalid", "cursor"),
    ]
    for query, code, field in refused:
        assert_problem(get(indexed, LIST, **query), 400, code, field)


def test_an_index_that_is_switched_on_has_what_was_stored_before(tmp_path: Path):
    """And one that was off for a time misses nothing."""
    stored: list[int | str] = []
    usages: list[Callable[[WebInstance], int | str]] = [
        lambda instance: post(instance, b'{"patientId": 7}'),
        lambda instance: post(instance, b'{"patientId": "7"}', f"key-{len(stored)}"),
    ]
    for state in ("off", "on", "off", "on"):
        with ready_instance(tmp_path, store=tmp_path / "store.sqlite3", patient_index=state) as instance:
            stored += [usage(instance) for usage in usages]
            if state == "on":
                assert ids(get(instance, LIST, patientId="7").json()["usages"]) == stored
