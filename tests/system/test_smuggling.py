"""Two requests in one: lengths and chunks that HAProxy and a web instance might read differently."""

from __future__ import annotations

import uuid

import pytest

from tests.system.wire import JSON_TYPE, Wire, assert_problem, call, request_bytes

USAGE = b'{"patientId": "100"}'


def keyed_post(host: str, key: str, body: bytes = USAGE) -> bytes:
    """A whole POST of a usage under a key, to be seen in the store if anybody runs it."""
    return request_bytes("POST", "/api/usages", host, [JSON_TYPE, ("Idempotency-Key", key)], body)


def assert_not_stored(base_url: str, key: str) -> None:
    """Nobody stored a usage under the key."""
    assert call(base_url, "GET", f"/api/usages/keys/{key}").status == 404


ABSURD_LENGTHS = [
    "18446744073709551616",
    "18446744073709551615",
    "18446744073709551636",
    "9223372036854775808",
    "9223372036854775807",
    "999999999999999999999999999999",
    "1000000000000",
    "-1",
    "+20",
    "0x14",
    "20.0",
    "2e1",
    "20 20",
    "20, 21",
    "20\r\nContent-Length: 21",
    "",
    "ten",
    "\x0b20",
]


@pytest.mark.parametrize("length", ABSURD_LENGTHS, ids=ascii)
def test_an_absurd_content_length_is_refused_and_smuggles_nothing(base_url: str, length: str) -> None:
    """400 or 413 at once, then the connection closes: what follows is never run as a request of its own."""
    for prefix in (b"", USAGE):
        key = uuid.uuid4().hex
        with Wire(base_url) as wire:
            head = f"POST /api/usages HTTP/1.1\r\nHost: {wire.host}\r\nContent-Type: application/json\r\n"
            wire.send(head.encode() + b"Content-Length: %b\r\n\r\n" % length.encode("latin-1") + prefix)
            wire.send(keyed_post(wire.host, key))
            answer = wire.answer()
            assert answer.status in (400, 413)
            assert_problem(answer, answer.status)
            assert wire.rest() == b""
        assert_not_stored(base_url, key)


@pytest.mark.parametrize(
    "encoding",
    [
        "Transfer-Encoding: chunked",
        "transfer-encoding: Chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\x00: chunked",
        "Transfer-Encoding: x\r\n chunked",
        "Transfer-Encoding: chunked, chunked",
        'Transfer-Encoding: "chunked"',
    ],
    ids=ascii,
)
@pytest.mark.parametrize("length_first", [True, False])
def test_a_length_beside_chunks_smuggles_nothing(base_url: str, encoding: str, length_first: bool) -> None:
    """Content-Length and Transfer-Encoding together: refused, or one answer and the connection closes; one request ran."""
    key = uuid.uuid4().hex
    with Wire(base_url) as wire:
        smuggled = b"0\r\n\r\n" + keyed_post(wire.host, key)
        length = f"Content-Length: {len(smuggled)}"
        fields = [length, encoding] if length_first else [encoding, length]
        lines = ["POST /api/usages HTTP/1.1", f"Host: {wire.host}", "Content-Type: application/json", *fields]
        wire.send("\r\n".join([*lines, "", ""]).encode("latin-1") + smuggled)
        answer = wire.answer()
        assert 400 <= answer.status < 500
        assert_problem(answer, answer.status)
        # A second answer would be the smuggled request's.
        assert wire.rest() == b""
    assert_not_stored(base_url, key)


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"10000000000000002\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b"1\r\n{}\r\n0\r\n\r\n",
    ],
    ids=repr,
)
def test_a_broken_chunk_is_refused_and_stores_nothing(base_url: str, chunks: bytes) -> None:
    """400 (413 where a size is absurd) as a problem, or a close; no answer to what follows, and nothing is stored."""
    keys = [uuid.uuid4().hex, uuid.uuid4().hex]
    with Wire(base_url) as wire:
        head = f"POST /api/usages HTTP/1.1\r\nHost: {wire.host}\r\nIdempotency-Key: {keys[0]}\r\n"
        wire.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        wire.send(keyed_post(wire.host, keys[1]))
        answer = wire.last_words()
        if answer is not None:
            assert answer.status in (400, 408, 413)
            assert_problem(answer, answer.status)
        assert wire.rest() == b""
    for key in keys:
        assert_not_stored(base_url, key)
