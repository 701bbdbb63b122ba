"""Every row of the API's table on usages, as a client sees it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.system.wire import JSON_TYPE, assert_problem, call, post_usage

USAGE = b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'
USAGE_BYTES_MAX = 102_400


def test_a_usage_is_stored_under_an_integer_id_and_read_back_by_it(base_url: str) -> None:
    """201 with a positive integer below 2^53, Location names the read, which gives the usage and when it came."""
    before = datetime.now(UTC)
    posted = post_usage(base_url, USAGE)
    assert posted.status == 201
    assert posted.header("content-type") == "application/json"
    document = posted.json()
    assert list(document) == ["id"]
    assert type(document["id"]) is int
    assert 1 <= document["id"] < 2**53
    assert posted.header("location") == f"/api/usages/{document['id']}"
    read = call(base_url, "GET", f"/api/usages/{document['id']}")
    assert read.status == 200
    stored = read.json()
    assert stored["id"] == document["id"]
    assert stored["usage"] == json.loads(USAGE)
    assert set(stored) == {"id", "received_at", "usage"}
    received_at = datetime.fromisoformat(stored["received_at"])
    assert received_at.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=2) <= received_at <= datetime.now(UTC) + timedelta(seconds=2)


@pytest.mark.parametrize(
    "usage",
    [
        b"{}",
        b'{"patientId": 100}',
        b'{"patientId": -1}',
        b'{"patientId": 123456789012345678901234567890}',
        b'{"patientId": "\xc3\xa9\xe2\x82\xac"}',
        b'{"patientId": "' + b"p" * 128 + b'"}',
        b'{"timestamp": 1478009511}',
        b'{"timestamp": 1478009511.25e0}',
        b'{"weather": {"wind": [1, 2.50, null, true]}, "medication": ""}',
        b'{ "a" :1,\n\t"a":2 , "\\u0061": "\\ud800" }',
        b'{"number": 1.10000000000000000000000000001, "big": 1e400}',
    ],
    ids=lambda usage: usage[:32].decode("utf-8", "replace"),
)
def test_any_json_object_is_stored_and_its_bytes_come_back_unchanged(base_url: str, usage: bytes) -> None:
    """The stored text is the client's own: spaces, order, escapes, repeated names and the spelling of numbers."""
    posted = post_usage(base_url, usage)
    assert posted.status == 201, posted.body
    read = call(base_url, "GET", f"/api/usages/{posted.json()['id']}")
    assert read.status == 200
    assert b'"usage": ' + usage + b"}" in read.body


@pytest.mark.parametrize(
    ("usage", "field"),
    [
        (b'{"patientId": 1.0}', "patientId"),
        (b'{"patientId": 1e2}', "patientId"),
        (b'{"patientId": true}', "patientId"),
        (b'{"patientId": null}', "patientId"),
        (b'{"patientId": ""}', "patientId"),
        (b'{"patientId": "' + b"p" * 129 + b'"}', "patientId"),
        (b'{"patientId": ["100"]}', "patientId"),
        (b'{"timestamp": null}', "timestamp"),
        (b'{"timestamp": true}', "timestamp"),
        (b'{"timestamp": {}}', "timestamp"),
        (b'{"medication": 5}', "medication"),
        (b'{"medication": null}', "medication"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:32].decode(),
)
def test_a_known_field_of_the_wrong_type_is_named(base_url: str, usage: bytes, field: str) -> None:
    """422 with the field's name."""
    assert_problem(post_usage(base_url, usage), 422, "invalid_field", field)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b'{"a": 1', "invalid_json"),
        (b'{"a": 1} x', "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": "\xff"}', "invalid_json"),
        (b'\xef\xbb\xbf{"a": 1}', "invalid_json"),
        ('{"a": 1}'.encode("utf-16"), "invalid_json"),
        (b"[" * 50_000 + b"]" * 50_000, None),
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"100", "not_an_object"),
        (b"null", "not_an_object"),
    ],
    ids=lambda value: repr(value)[:32],
)
def test_what_is_no_json_object_is_refused(base_url: str, body: bytes, code: str | None) -> None:
    """400 for what is not JSON, starts with a byte-order mark, or is JSON but no object."""
    assert_problem(post_usage(base_url, body), 400, code)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", "application/jsonx", "json"]
)
def test_another_content_type_is_refused(base_url: str, content_type: str) -> None:
    """415 and nothing is stored, whatever the body."""
    answer = call(base_url, "POST", "/api/usages", USAGE, headers=[("Content-Type", content_type)])
    assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "headers", [[], [("Content-Type", "application/json; charset=utf-8")]], ids=["none", "charset"]
)
def test_json_with_or_without_its_type_is_taken(base_url: str, headers: list[tuple[str, str]]) -> None:
    """No Content-Type at all is taken as JSON, and parameters do no harm."""
    assert call(base_url, "POST", "/api/usages", USAGE, headers=headers).status == 201


def test_a_body_of_exactly_the_limit_is_stored_and_one_more_byte_is_refused(base_url: str) -> None:
    """102,400 bytes are a 201 and are read back whole; 102,401 are a 413."""
    empty = len(b'{"medication": ""}')
    fits = b'{"medication": "' + b"m" * (USAGE_BYTES_MAX - empty) + b'"}'
    posted = post_usage(base_url, fits)
    assert posted.status == 201
    read = call(base_url, "GET", f"/api/usages/{posted.json()['id']}")
    assert b'"usage": ' + fits + b"}" in read.body
    assert_problem(post_usage(base_url, fits + b" "), 413, "body_too_large")


def test_a_key_stores_one_usage_however_often_it_is_sent(base_url: str) -> None:
    """First 201 with the key as id, then 200 that says duplicate; another body 422, and the first stays as it was."""
    key = uuid.uuid4().hex
    header = ("Idempotency-Key", key)
    first = post_usage(base_url, USAGE, header)
    assert (first.status, first.json()) == (201, {"id": key})
    assert first.header("location") == f"/api/usages/keys/{key}"
    for _ in range(6):
        again = post_usage(base_url, USAGE, header)
        assert (again.status, again.json()) == (200, {"id": key, "duplicate": True})
        assert again.header("location") == f"/api/usages/keys/{key}"
    for other in (b'{"patientId": "101"}', USAGE + b" "):
        assert_problem(post_usage(base_url, other, header), 422, "idempotency_key_reused")
    read = call(base_url, "GET", f"/api/usages/keys/{key}")
    assert read.status == 200
    stored = read.json()
    assert set(stored) == {"id", "received_at", "usage"}
    assert stored["id"] == key
    assert b'"usage": ' + USAGE + b"}" in read.body


@pytest.mark.parametrize(
    "key",
    [
        "!",
        "~",
        "...",
        "100",
        "-1",
        "a/b",
        "/",
        "../messages",
        "a%2Fb",
        "100%",
        "?x=1",
        "#",
        'quo"te',
        "back\\slash",
        "a,b",
        "a;b",
        "+",
        "{key}",
        "k" * 255,
        "".join(map(chr, range(0x21, 0x7F))),
    ],
    ids=lambda key: key[:12],
)
def test_a_key_of_any_visible_characters_is_stored_and_read(base_url: str, key: str) -> None:
    """What Location says, and the key percent-encoded by the client, both find the usage; digits are a key too."""
    usage = b'{"patientId": "%b"}' % uuid.uuid4().hex.encode()
    marked = (key + uuid.uuid4().hex)[:255] if len(key) < 200 else uuid.uuid4().hex + key[32:]
    posted = post_usage(base_url, usage, ("Idempotency-Key", marked))
    assert (posted.status, posted.json()) == (201, {"id": marked})
    location = posted.header("location")
    assert location is not None
    for path in (location, f"/api/usages/keys/{quote(marked, safe='')}"):
        read = call(base_url, "GET", path)
        assert read.status == 200, (path, read.body)
        assert read.json()["id"] == marked
        assert read.json()["usage"] == json.loads(usage)


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "k" * 256, "two words", "tab\tinside", "umlaut\xe4", "del\x7f"],
    ids=lambda key: repr(key[:12]),
)
def test_a_key_that_is_none_is_refused(base_url: str, key: str) -> None:
    """400: empty, a dot segment, too long, or with other than visible ASCII characters; nothing is stored."""
    assert_problem(post_usage(base_url, USAGE, ("Idempotency-Key", key)), 400)


def test_two_keys_on_one_request_are_refused(base_url: str) -> None:
    """400 for two Idempotency-Key headers, also when they agree, and neither key holds a usage."""
    one, other = uuid.uuid4().hex, uuid.uuid4().hex
    for second in (other, one):
        answer = post_usage(base_url, USAGE, ("Idempotency-Key", one), ("idempotency-key", second))
        assert_problem(answer, 400, "idempotency_key_invalid")
    for key in (one, other):
        assert_problem(call(base_url, "GET", f"/api/usages/keys/{key}"), 404, "not_found")


@pytest.mark.parametrize(
    "id_",
    [
        "9007199254740991",
        "9007199254740992",
        "99999999999999999999999",
        "0",
        "-1",
        "1.0",
        "1e3",
        "+1",
        "abc",
        "0x10",
        "%00",
    ],
)
def test_an_unknown_usage_is_not_found(base_url: str, id_: str) -> None:
    """404 for an id that nobody was given and for what is no integer."""
    assert_problem(call(base_url, "GET", f"/api/usages/{id_}"), 404, "not_found")


def test_an_unknown_key_is_not_found(base_url: str) -> None:
    """404 for a key that nobody used, and for what can be no key."""
    for key in (uuid.uuid4().hex, "%C3%A4", "two%20words", "k" * 256, "%00"):
        assert_problem(call(base_url, "GET", f"/api/usages/keys/{key}"), 404, "not_found")


def test_an_id_is_no_key_and_a_key_is_no_id(base_url: str) -> None:
    """Ids and keys are names of their own: the same digits in both find two usages."""
    id_ = post_usage(base_url, USAGE).json()["id"]
    assert call(base_url, "GET", f"/api/usages/keys/{id_}").status == 404
    other = b'{"patientId": "%b"}' % uuid.uuid4().hex.encode()
    assert post_usage(base_url, other, ("Idempotency-Key", str(id_))).status == 201
    assert call(base_url, "GET", f"/api/usages/{id_}").json()["usage"] == json.loads(USAGE)
    assert call(base_url, "GET", f"/api/usages/keys/{id_}").json()["usage"] == json.loads(other)


def test_a_compressed_body_is_refused(base_url: str) -> None:
    """415: what is stored is what was sent, and nothing here unpacks it."""
    answer = call(base_url, "POST", "/api/usages", USAGE, headers=[JSON_TYPE, ("Content-Encoding", "gzip")])
    assert_problem(answer, 415)
