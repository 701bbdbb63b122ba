"""Every row of the API's table on messages, as a client sees it."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid

import pytest

from tests.system.wire import JSON_TYPE, Wire, assert_problem, call, post_message

MESSAGE_BYTES_MAX = 1 << 20
NOT_FOUND = {"err_msg": "Message not found", "err_message": "Message not found"}


def digest_of(message: str) -> str:
    """sha256 of the message's UTF-8 bytes, in lower-case hex."""
    return hashlib.sha256(message.encode()).hexdigest()


def new_message() -> str:
    """A message that nobody has stored."""
    return f"message {uuid.uuid4().hex}"


def test_a_message_is_stored_under_its_digest_also_a_second_time(base_url: str) -> None:
    """201 with the digest and a Location, and the same again when it is there already."""
    for _ in range(3):
        posted = post_message(base_url, "foo")
        assert posted.status == 201
        digest = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
        assert posted.json() == {"digest": digest}
        assert posted.header("location") == f"/messages/{digest}"


def test_a_message_is_read_with_its_tag_and_digest(base_url: str) -> None:
    """200 with the message, an ETag of its digest, a Repr-Digest of the very body, and a Cache-Control."""
    message = new_message()
    digest = post_message(base_url, message).json()["digest"]
    assert digest == digest_of(message)
    read = call(base_url, "GET", f"/messages/{digest}")
    assert (read.status, read.json()) == (200, {"message": message})
    assert read.header("content-type") == "application/json"
    assert read.header("etag") == f'"sha256:{digest}"'
    body_digest = base64.b64encode(hashlib.sha256(read.body).digest()).decode()
    assert read.header("repr-digest") == f"sha-256=:{body_digest}:"
    assert read.header("cache-control")


@pytest.mark.parametrize(
    "message",
    ["", " ", "\u00e4\u20ac\U0001f600", "\x00\x1f\x7f", 'a "quoted" \\ line\r\n', "\ufeff", "\ufffe\uffff"],
    ids=ascii,
)
def test_any_text_is_a_message(base_url: str, message: str) -> None:
    """Also the empty one and one of control characters: the digest is over its UTF-8, and it comes back as it was."""
    digest = post_message(base_url, message).json()["digest"]
    assert digest == digest_of(message)
    assert call(base_url, "GET", f"/messages/{digest}").json() == {"message": message}


def test_a_client_that_has_the_message_is_told_so(base_url: str) -> None:
    """If-None-Match: 304 without a body for the tag, a weak one, one of a list, and *; 200 for another."""
    digest = post_message(base_url, new_message()).json()["digest"]
    tag = f'"sha256:{digest}"'
    for value in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        with Wire(base_url) as wire:
            answer = wire.exchange("GET", f"/messages/{digest}", [("If-None-Match", value)])
            assert answer.status == 304, value
            assert answer.header("etag") == tag
            assert wire.exchange("GET", "/livez").status == 200
    other = call(base_url, "GET", f"/messages/{digest}", headers=[("If-None-Match", f'"sha256:{"0" * 64}"')])
    assert other.status == 200
    unknown = call(base_url, "GET", f"/messages/{digest_of(new_message())}", headers=[("If-None-Match", "*")])
    assert_problem(unknown, 404, "message_not_found")


def test_head_answers_as_get_without_the_body(base_url: str) -> None:
    """The same status and headers, nothing after them, and the connection goes on."""
    digest = post_message(base_url, new_message()).json()["digest"]
    with Wire(base_url) as wire:
        get = wire.exchange("GET", f"/messages/{digest}")
        head = wire.exchange("HEAD", f"/messages/{digest}")
        for name in ("content-type", "content-length", "etag", "repr-digest", "cache-control"):
            assert head.header(name) == get.header(name)
        assert head.status == get.status == 200
        assert wire.exchange("HEAD", f"/messages/{'0' * 64}").status == 404
        assert wire.exchange("GET", "/livez").status == 200


def test_a_deleted_message_is_gone_until_it_is_posted_again(base_url: str) -> None:
    """200 naming the digest, then 404 for GET and for a second DELETE, then 201 and 200."""
    message = new_message()
    digest = post_message(base_url, message).json()["digest"]
    path = f"/messages/{digest}"
    deleted = call(base_url, "DELETE", path)
    assert (deleted.status, deleted.json()) == (200, {"message_deleted": digest})
    for method in ("GET", "DELETE"):
        problem = assert_problem(call(base_url, method, path), 404, "message_not_found")
        assert problem.items() >= NOT_FOUND.items()
    assert post_message(base_url, message).status == 201
    assert call(base_url, "GET", path).json() == {"message": message}


@pytest.mark.parametrize(
    "digest", ["0" * 64, "a" * 63, "a" * 65, "g" * 64, "abc", "%00", "\xe4", "+" + "a" * 63, "0x" + "a" * 62]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_or_malformed_digest_is_not_found_in_both_old_words(base_url: str, method: str, digest: str) -> None:
    """404 with the original's `err_msg` and its implementation's `err_message`."""
    answer = call(base_url, method, f"/messages/{digest}")
    if answer.status == 400:
        # HAProxy itself may refuse a path that is not ASCII.
        assert not digest.isascii()
        return
    assert assert_problem(answer, 404, "message_not_found").items() >= NOT_FOUND.items()


def test_upper_case_hex_finds_the_same_message(base_url: str) -> None:
    """GET and DELETE take it; answers name the digest in lower case."""
    message = new_message()
    digest = post_message(base_url, message).json()["digest"]
    read = call(base_url, "GET", f"/messages/{digest.upper()}")
    assert (read.status, read.json()) == (200, {"message": message})
    assert read.header("etag") == f'"sha256:{digest}"'
    deleted = call(base_url, "DELETE", f"/messages/{digest.upper()}")
    assert (deleted.status, deleted.json()) == (200, {"message_deleted": digest})


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"Message": "foo"}',
        b'{"message": null}',
        b'{"message": 5}',
        b'{"message": ["foo"]}',
        b'{"message": "\\ud800"}',
    ],
    ids=lambda body: body.decode(),
)
def test_a_body_without_a_proper_message_is_refused_by_name(base_url: str, body: bytes) -> None:
    """422 naming `message`: absent, not a string, or with a lone surrogate."""
    assert_problem(call(base_url, "POST", "/messages", body, headers=[JSON_TYPE]), 422, "invalid_field", "message")


@pytest.mark.parametrize("body", [b"", b"message=foo", b"[]", b'"foo"', b'\xef\xbb\xbf{"message": "foo"}'])
def test_a_body_that_is_no_json_object_is_refused(base_url: str, body: bytes) -> None:
    """400."""
    assert_problem(call(base_url, "POST", "/messages", body, headers=[JSON_TYPE]), 400)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", None])
def test_the_body_is_read_as_json_whatever_its_type(base_url: str, content_type: str | None) -> None:
    """201: `curl -d` says it sends a form; further fields are ignored."""
    headers = [] if content_type is None else [("Content-Type", content_type)]
    message = new_message()
    body = json.dumps({"more": [1], "message": message}).encode()
    posted = call(base_url, "POST", "/messages", body, headers=headers)
    assert (posted.status, posted.json()) == (201, {"digest": digest_of(message)})


@pytest.mark.parametrize("character", ["m", "\u20ac", "\x01"], ids=ascii)
def test_a_message_of_exactly_the_limit_is_stored_and_one_more_byte_is_refused(base_url: str, character: str) -> None:
    """The limit is 1 MiB of UTF-8 and not of JSON, which is six times longer where everything is escaped."""
    count, rest = divmod(MESSAGE_BYTES_MAX, len(character.encode()))
    fits = character * count + "r" * rest
    posted = post_message(base_url, fits)
    assert (posted.status, posted.json()) == (201, {"digest": digest_of(fits)})
    assert call(base_url, "GET", f"/messages/{digest_of(fits)}").json() == {"message": fits}
    assert_problem(post_message(base_url, fits + "r"), 413, "body_too_large")
