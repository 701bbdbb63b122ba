from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import (
    LONG,
    Connection,
    Headers,
    Reply,
    WebInstance,
    assert_problem,
    ready_instance,
)

FOO = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"


def post(connection: Connection, message: str, headers: Headers = ()) -> Reply:
    """POST /messages with this text."""
    return connection.request("POST", "/messages", json.dumps({"message": message}).encode(), headers)


def digest_of(message: str) -> str:
    """What a message is found under."""
    return hashlib.sha256(message.encode()).hexdigest()


def test_the_old_services_acceptance_test_passes_twice(connection: Connection):
    """Unknown digest, foo, its message, bar, foo again: what the official test asserts, without cleaning up."""
    for _ in range(2):
        assert connection.request("GET", "/messages/" + "a" * 64).status == 404
        reply = post(connection, "foo")
        assert (reply.status, reply.json()) == (201, {"digest": FOO})
        assert reply.header("location") == f"/messages/{FOO}"
        assert connection.request("GET", f"/messages/{FOO}").json() == {"message": "foo"}
        assert post(connection, "bar").json() == {"digest": digest_of("bar")}
        assert post(connection, "foo").json() == {"digest": FOO}


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", None])
def test_the_content_type_of_a_message_does_not_matter(connection: Connection, content_type: str | None):
    """The original read JSON whatever the header said: `curl -d` sends a form's."""
    headers = [("Content-Type", content_type)] if content_type else []
    assert post(connection, "foo", headers).status == 201


messages = st.text(max_size=50) | st.sampled_from(
    ["", "\x00", "a\x00b", "\x00" * 10, "é", "😀", "\u2028", '"\\', "\x7f\x80"]
)


@settings(max_examples=40)
@given(messages, st.booleans())
def test_any_text_is_read_back_under_its_sha256(instance: WebInstance, message: str, ascii_only: bool):
    """Also the empty one, NULs, and whatever escapes it came with."""
    with instance.connect() as connection:
        body = json.dumps({"message": message}, ensure_ascii=ascii_only).encode()
        assert connection.request("POST", "/messages", body).json() == {"digest": digest_of(message)}
        assert connection.request("GET", f"/messages/{digest_of(message)}").json() == {"message": message}


def test_a_message_says_what_a_cache_needs(connection: Connection):
    """ETag of the digest, Repr-Digest of the body sent, Cache-Control that a DELETE can live with."""
    post(connection, "foo")
    reply = connection.request("GET", f"/messages/{FOO}")
    assert reply.status == 200
    assert reply.header("content-type") == "application/json"
    assert reply.header("etag") == f'"sha256:{FOO}"'
    assert reply.header("cache-control") == "no-cache"
    expected = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert reply.header("repr-digest") == f"sha-256=:{expected}:"
    assert reply.header("content-length") == str(len(reply.body))


def test_head_is_get_without_the_body(connection: Connection):
    """Same status and headers, Content-Length included."""
    post(connection, "foo")
    for target in (f"/messages/{FOO}", "/messages/" + "b" * 64):
        replies = [connection.request(method, target, None, [("X-Request-ID", "x")]) for method in ("GET", "HEAD")]
        assert replies[0].status == replies[1].status
        assert replies[0].headers == replies[1].headers
        assert replies[1].body == b""


@pytest.mark.parametrize(
    "tag",
    [f'"sha256:{FOO}"', f'W/"sha256:{FOO}"', f'"other", "sha256:{FOO}"', f'"a",W/"sha256:{FOO}" , "b"', "*"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_message_that_the_client_has_is_a_304(connection: Connection, method: str, tag: str):
    """No body, but the ETag and the cache's rule; the connection goes on."""
    post(connection, "foo")
    reply = connection.request(method, f"/messages/{FOO}", None, [("If-None-Match", tag)])
    assert (reply.status, reply.body) == (304, b"")
    assert reply.header("etag") == f'"sha256:{FOO}"'
    assert reply.header("cache-control") == "no-cache"
    assert connection.request("GET", "/livez").status == 200


@pytest.mark.parametrize("tag", [f'"{FOO}"', f"sha256:{FOO}", '""', f'"sha256:{FOO.upper()}"', '"*"'])
def test_another_tag_is_no_match(connection: Connection, tag: str):
    """Only the message's own ETag saves its body."""
    post(connection, "foo")
    assert connection.request("GET", f"/messages/{FOO}", None, [("If-None-Match", tag)]).status == 200


def test_two_headers_of_tags_are_one_list(connection: Connection):
    """A header may be split over lines."""
    post(connection, "foo")
    headers = [("If-None-Match", f'"sha256:{FOO}"'), ("If-None-Match", '"other"')]
    assert connection.request("GET", f"/messages/{FOO}", None, headers).status == 304


def test_a_missing_message_is_a_404_even_with_a_tag(connection: Connection):
    """There is nothing that the client could have."""
    reply = connection.request("GET", "/messages/" + "c" * 64, None, [("If-None-Match", "*")])
    assert_problem(reply, 404, "message_not_found")


def test_a_deleted_message_is_gone_until_it_is_posted_again(connection: Connection):
    """200 with the digest, then 404 to GET, HEAD and DELETE; a later POST brings it back."""
    digest = digest_of("to be deleted")
    post(connection, "to be deleted")
    reply = connection.request("DELETE", f"/messages/{digest.upper()}")
    assert (reply.status, reply.json()) == (200, {"message_deleted": digest})
    for method in ("GET", "HEAD", "DELETE"):
        assert_problem(connection.request(method, f"/messages/{digest}"), 404, "message_not_found")
    assert post(connection, "to be deleted").status == 201
    assert connection.request("GET", f"/messages/{digest}").json() == {"message": "to be deleted"}


@pytest.mark.parametrize(
    "digest",
    ["a" * 64, "a" * 63, "a" * 65, "g" * 64, "a", "%20" + "a" * 63, "0x" + "a" * 62, "é".encode().hex(), "%00"],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_or_malformed_digest_is_the_old_services_404(connection: Connection, method: str, digest: str):
    """Both old names of the member, beside the problem document."""
    document = assert_problem(connection.request(method, f"/messages/{digest}"), 404, "message_not_found")
    assert document["err_msg"] == document["err_message"] == "Message not found"


def test_upper_case_hex_finds_the_message_and_answers_in_lower_case(connection: Connection):
    """The digest is a number; its spelling in answers is one."""
    post(connection, "foo")
    reply = connection.request("GET", f"/messages/{FOO.upper()}")
    assert reply.json() == {"message": "foo"}
    assert reply.header("etag") == f'"sha256:{FOO}"'


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "invalid_json", None),
        (b"message=foo", 400, "invalid_json", None),
        (b'["foo"]', 400, "not_an_object", None),
        (b"{}", 422, "invalid_field", "message"),
        (b'{"message": 5}', 422, "invalid_field", "message"),
        (b'{"message": null}', 422, "invalid_field", "message"),
        (b'{"message": "\\ud800"}', 422, "invalid_field", "message"),
    ],
)
def test_a_wrong_body_is_refused(connection: Connection, body: bytes, status: int, code: str, field: str | None):
    """A problem that names what is wrong; the connection goes on."""
    assert_problem(connection.request("POST", "/messages", body), status, code, field)


def test_further_fields_are_ignored(connection: Connection):
    """Also when there are many and they are odd."""
    body = b'{"a": [{}], "message": "foo", "\\ud800": null}'
    assert connection.request("POST", "/messages", body).json() == {"digest": FOO}


@pytest.mark.parametrize("character", ["x", "é", "\x01"])
def test_the_limit_counts_utf8_and_not_json(instance: WebInstance, character: str):
    """Exactly 1 MiB is taken, also when its JSON is six times longer; one byte more is a 413."""
    message = character * ((1 << 20) // len(character.encode()))
    with instance.connect() as connection:
        reply = post(connection, message)
        assert (reply.status, reply.json()) == (201, {"digest": digest_of(message)})
        assert connection.request("GET", f"/messages/{digest_of(message)}").json() == {"message": message}
        assert_problem(post(connection, message + "x"), 413, "body_too_large", "message")
        assert connection.request("GET", "/livez").status == 200


def test_limits_and_times_are_settings(tmp_path: Path):
    """Smaller limits, a longer cache, a shorter patience with idle connections: each as set."""
    limits: dict[str, Any] = {"message_bytes_max": 10, "usage_bytes_max": 20, "keep_alive_s": 1}
    with ready_instance(tmp_path, message_cache_control="private, max-age=60", **limits) as instance:
        assert instance.request("POST", "/messages", b'{"message": "xxxxxxxxxx"}').status == 201
        reply = instance.request("GET", "/messages/" + digest_of("x" * 10))
        assert reply.header("cache-control") == "private, max-age=60"
        refused = instance.request("POST", "/messages", b'{"message": "xxxxxxxxxxx"}')
        assert_problem(refused, 413, "body_too_large", "message")
        for headers in ([], [LONG]):
            assert instance.post_usage(b'{"x": "%b"}' % (b"x" * 11), headers).status == 201
            assert_problem(instance.post_usage(b'{"x": "%b"}' % (b"x" * 12), headers), 413, "body_too_large")
        with instance.connect() as connection:
            assert connection.request("GET", "/livez").status == 200
            assert connection.ended()
