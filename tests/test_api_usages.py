from __future__ import annotations

import datetime as dt
import json
import sqlite3
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import (
    LONG,
    USAGE,
    Connection,
    Headers,
    WebInstance,
    assert_problem,
    chunked,
    in_threads,
    raw_request,
)

JSON: Headers = [("Content-Type", "application/json")]
WAYS = {
    "plain": JSON,
    "with a Connection header": [*JSON, LONG],
    "without a content type": [],
    "with a charset": [("Content-Type", "application/json; charset=utf-8")],
}
"""A usage takes a short way through the server when nothing about its request is special; the answers are the same."""

ways = pytest.mark.parametrize("headers", WAYS.values(), ids=WAYS.keys())


def post(connection: Connection, body: bytes = USAGE, headers: Headers = JSON) -> Any:
    """POST /api/usages."""
    return connection.request("POST", "/api/usages", body, headers)


@ways
@pytest.mark.parametrize("patient_id", ['"100"', "100"])
def test_the_originals_body_is_stored_with_its_patient_as_text_or_number(
    connection: Connection, headers: Headers, patient_id: str
):
    """Both bodies of the original's README: 201, an integer id, and the Location that reads it back."""
    body = USAGE.replace(b'"100"', patient_id.encode())
    reply = post(connection, body, headers)
    assert reply.status == 201
    assert reply.header("content-type") == "application/json"
    assert list(reply.json()) == ["id"]
    id_ = reply.json()["id"]
    assert type(id_) is int
    assert 1 <= id_ < 2**53
    assert reply.header("location") == f"/api/usages/{id_}"
    assert reply.header("retry-after") is None
    read = connection.request("GET", f"/api/usages/{id_}")
    assert read.status == 200
    assert read.json()["usage"] == json.loads(body)


def test_the_originals_curl_line_works(connection: Connection):
    """Byte for byte what curl sends for it."""
    connection.send(
        b"POST /api/usages HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/7.43.0\r\nAccept: */*\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(USAGE), USAGE)
    )
    assert connection.read().status == 201


@ways
def test_a_stored_usage_is_read_as_it_was_sent(connection: Connection, headers: Headers):
    """The client's own bytes, white space and double names and all, with id and time around them."""
    body = b' {"patientId" : 1,\n\t"x":1.50, "x": 1e999, "\\u00e9": "\\ud800 \xc3\xa9" } \r\n'
    before = dt.datetime.now(dt.UTC)
    id_ = post(connection, body, headers).json()["id"]
    after = dt.datetime.now(dt.UTC)
    read = connection.request("GET", f"/api/usages/{id_}")
    assert read.header("content-type") == "application/json"
    assert read.body.endswith(b'"usage": ' + body + b"}")
    document = read.json()
    assert list(document) == ["id", "received_at", "usage"]
    assert document["id"] == id_
    assert document["received_at"].endswith("Z")
    received_at = dt.datetime.fromisoformat(document["received_at"])
    slack = dt.timedelta(milliseconds=5)
    assert before - slack <= received_at <= after + slack


ALIKE = {
    "the original's": USAGE,
    "an empty object": b"{}",
    "nothing": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"timestamp": NaN}',
    "1.0": b'{"patientId": 1.0}',
    "a bool": b'{"patientId": true}',
    "no medication": b'{"medication": null}',
    "a lone surrogate": b'{"medication": "\\ud800"}',
    "many digits": b'{"patientId": %b}' % (b"9" * 5000),
    "102,400 bytes": b'{"x": "%b"}' % (b"x" * (102_400 - 9)),
}


@pytest.mark.parametrize("body", ALIKE.values(), ids=ALIKE.keys())
def test_the_short_way_and_the_long_way_answer_alike(connection: Connection, body: bytes):
    """Status, headers and body are the same but for the id; chunks make no difference either."""
    answers = []
    for way in range(4):
        headers = [*JSON, ("X-Request-ID", "same")]
        if way == 1:
            headers.append(LONG)
        if way == 2:
            headers.append(("Idempotency-Key-", "long"))
        if way == 3:
            headers.append(("Transfer-Encoding", "chunked"))
            connection.send(raw_request("POST", "/api/usages", None, headers) + chunked(body))
            reply = connection.read()
        else:
            reply = post(connection, body, headers)
        fields = {name: value for name, value in reply.headers if name not in ("location", "content-length", "date")}
        content = reply.json()
        content.pop("id", None)
        answers.append((reply.status, fields, content))
    assert answers == [answers[0]] * 4


texts = st.text(max_size=8)
documents = st.dictionaries(
    texts,
    st.recursive(st.none() | st.integers() | st.floats(allow_nan=False) | texts, lambda s: st.lists(s, max_size=3)),
    max_size=4,
)


@settings(max_examples=40)
@given(documents, st.booleans(), st.sampled_from([JSON, [*JSON, LONG]]))
def test_any_object_comes_back_byte_for_byte(instance: WebInstance, usage: Any, ascii_only: bool, headers: Headers):
    """What was acknowledged is what is on disk and what is read."""
    body = json.dumps(usage, ensure_ascii=ascii_only, allow_nan=True).replace("Infinity", "1e999")
    raw = body.encode("utf-8", "replace")
    with instance.connect() as connection:
        id_ = post(connection, raw, headers).json()["id"]
        assert connection.request("GET", f"/api/usages/{id_}").body.endswith(b'"usage": ' + raw + b"}")
    with sqlite3.connect(instance.store_path) as database:
        (stored,) = database.execute("SELECT CAST(usage AS BLOB) FROM usages WHERE id = ?", (id_,)).fetchone()
    database.close()
    assert stored == raw


def test_ids_rise_on_one_instance(connection: Connection):
    """Each answer's id is greater than the one before."""
    ids = [post(connection).json()["id"] for _ in range(100)]
    assert ids == sorted(set(ids))


def test_a_thousand_usages_at_once_have_a_thousand_ids_and_are_all_there(instance: WebInstance):
    """Twenty connections, fifty usages each, half of them the long way: none is lost, none shares an id."""

    def client(number: int) -> list[tuple[int, bytes]]:
        stored = []
        headers = WAYS["plain" if number % 2 else "with a Connection header"]
        with instance.connect() as connection:
            for count in range(50):
                body = b'{"patientId": "%d-%d"}' % (number, count)
                reply = post(connection, body, headers)
                assert reply.status == 201
                stored.append((reply.json()["id"], body))
        assert [id_ for id_, _ in stored] == sorted(id_ for id_, _ in stored)
        return stored

    stored = [row for rows in in_threads(20, client) for row in rows]
    assert len({id_ for id_, _ in stored}) == 1000
    database = sqlite3.connect(instance.store_path)
    on_disk = dict(database.execute("SELECT id, CAST(usage AS BLOB) FROM usages"))
    database.close()
    assert all(on_disk[id_] == body for id_, body in stored)


WRONG_BODIES = [
    (b"", 400, "invalid_json", None),
    (b"{", 400, "invalid_json", None),
    (b"\xef\xbb\xbf{}", 400, "invalid_json", None),
    (b"[]", 400, "not_an_object", None),
    (b'"usage"', 400, "not_an_object", None),
    (b'{"patientId": 1.0}', 422, "invalid_field", "patientId"),
    (b'{"patientId": ""}', 422, "invalid_field", "patientId"),
    (b'{"timestamp": true}', 422, "invalid_field", "timestamp"),
    (b'{"medication": 1}', 422, "invalid_field", "medication"),
]


@ways
@pytest.mark.parametrize(("body", "status", "code", "field"), WRONG_BODIES)
def test_a_wrong_body_is_refused_with_a_problem_that_names_what_is_wrong(
    instance: WebInstance, headers: Headers, body: bytes, status: int, code: str, field: str | None
):
    """Nothing is stored, the connection goes on."""
    with instance.connect() as connection:
        assert_problem(post(connection, body, headers), status, code, field)
        assert post(connection).status == 201


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_another_content_type_is_a_415(connection: Connection, content_type: str):
    """A usage is JSON; only no Content-Type at all is taken for it."""
    assert_problem(
        post(connection, headers=[("Content-Type", content_type)]), 415, "unsupported_media_type", "Content-Type"
    )
    assert post(connection).status == 201


def test_a_compressed_body_is_a_415(connection: Connection):
    """It would be stored as what it is not."""
    reply = post(connection, headers=[*JSON, ("Content-Encoding", "gzip")])
    assert_problem(reply, 415, "unsupported_media_type", "Content-Encoding")
    assert reply.header("accept-encoding") == "identity"


KEYS = {
    "a word": "order-1",
    "a digit key": "123456",
    "one character": "k",
    "255 characters": "k" * 255,
    "three dots": "...",
    "slashes": "/a//b/",
    "a percent sign": "100%25%",
    "a question mark and a fragment": "a?b=c&d#e",
    "every odd character": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "a UUIDv7": "01932c07-209c-7e3b-8e4f-7b1d2c3a4f5e",
    "a path that looks like ours": "../api/usages/1",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_a_key_is_stored_once_and_read_under_itself(connection: Connection, key: str):
    """201, then 200 with duplicate for the same bytes, then 422 for others; Location percent-encodes the key."""
    headers = [*JSON, ("Idempotency-Key", key)]
    first = post(connection, USAGE, headers)
    assert (first.status, first.json()) == (201, {"id": key})
    repeat = post(connection, USAGE, headers)
    assert (repeat.status, repeat.json()) == (200, {"id": key, "duplicate": True})
    location = "/api/usages/keys/" + quote(key, safe="")
    assert first.header("location") == repeat.header("location") == location

    other = post(connection, USAGE + b" ", headers)
    assert_problem(other, 422, "idempotency_key_reused", "Idempotency-Key")
    read = connection.request("GET", location)
    assert read.status == 200
    assert list(read.json()) == ["id", "received_at", "usage"]
    assert read.json()["id"] == key
    assert read.body.endswith(b'"usage": ' + USAGE + b"}")


def test_a_key_of_digits_is_no_id(connection: Connection):
    """The two name spaces do not meet, in neither direction."""
    assert post(connection, USAGE, [*JSON, ("Idempotency-Key", "987654321")]).status == 201
    assert_problem(connection.request("GET", "/api/usages/987654321"), 404, "not_found")
    id_ = post(connection).json()["id"]
    assert_problem(connection.request("GET", f"/api/usages/keys/{id_}"), 404, "not_found")


BAD_KEYS = ["", " ", "k" * 256, "a b", "a\tb", "k\xe9", ".", ".."]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_is_a_400(connection: Connection, key: str):
    """Empty, too long, not visible ASCII, or a dot segment that no path can name."""
    reply = post(connection, USAGE, [*JSON, ("Idempotency-Key", key)])
    assert_problem(reply, 400, "idempotency_key_invalid", "Idempotency-Key")


def test_two_keys_are_a_400_even_when_they_agree(connection: Connection):
    """A request has one key or none."""
    reply = post(connection, USAGE, [*JSON, ("Idempotency-Key", "k"), ("Idempotency-Key", "k")])
    assert_problem(reply, 400, "idempotency_key_invalid", "Idempotency-Key")


def test_a_wrong_body_does_not_use_up_its_key(connection: Connection):
    """Only what was stored holds a key."""
    headers = [*JSON, ("Idempotency-Key", "mended")]
    assert post(connection, b'{"patientId": 1.0}', headers).status == 422
    assert post(connection, b'{"patientId": 1}', headers).status == 201


def test_a_key_that_fifty_clients_race_for_is_one_usage(instance: WebInstance):
    """Everyone is told that it is stored, and there is one row."""

    def client(_: int) -> int:
        return instance.post_usage(USAGE, [("Idempotency-Key", "raced")]).status

    assert set(in_threads(50, client)) <= {200, 201}
    database = sqlite3.connect(instance.store_path)
    assert database.execute("SELECT count(*) FROM keyed_usages WHERE key = 'raced'").fetchone() == (1,)
    database.close()
    assert "conflicts" not in instance.request("GET", "/api/usages/keys/raced").json()


def test_a_read_shows_both_bodies_that_raced_under_one_key(instance: WebInstance):
    """The first received is the usage, the others are conflicts; planted, as SQLite's own lock lets no such race be."""
    database = sqlite3.connect(instance.store_path)
    rows = [("two", b"2", '{"n": 2}', 1_700_000_000_000_002), ("two", b"1", '{"n": 1}', 1_700_000_000_000_001)]
    database.executemany("INSERT INTO keyed_usages (key, digest, usage, received_at_us) VALUES (?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    assert instance.request("GET", "/api/usages/keys/two").json() == {
        "id": "two",
        "received_at": "2023-11-14T22:13:20.000001Z",
        "usage": {"n": 1},
        "conflicts": [{"received_at": "2023-11-14T22:13:20.000002Z", "usage": {"n": 2}}],
    }


@pytest.mark.parametrize(
    "target",
    [
        "/api/usages/999999999999",
        "/api/usages/0",
        "/api/usages/007",
        "/api/usages/-1",
        "/api/usages/1.0",
        "/api/usages/9007199254740992",
        "/api/usages/99999999999999999999999",
        "/api/usages/abc",
        "/api/usages/%31%20",
        "/api/usages/%D9%A1",
        "/api/usages/keys",
        "/api/usages/keys/",
        "/api/usages/keys/unknown",
        "/api/usages/keys/%2E",
        "/api/usages/keys/%2E%2E",
        "/api/usages/keys/a%20b",
        "/api/usages/keys/%FF",
        "/api/usages/keys/%00",
        "/api/usages/keys/" + "k" * 256,
    ],
)
def test_what_is_not_there_is_a_404(connection: Connection, target: str):
    """Unknown, or not an integer where one belongs."""
    assert_problem(connection.request("GET", target), 404, "not_found")


def test_two_parameters_of_a_request_target_do_not_matter(connection: Connection):
    """A query is ignored, on the short way too."""
    assert connection.request("POST", "/api/usages?x=1", USAGE, JSON).status == 201
