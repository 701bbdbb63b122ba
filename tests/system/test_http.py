"""HTTP/1.1 at HAProxy: what is odd, slow or too long is answered properly, and what HTTP allows works."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import pytest

from tests.system.wire import (
    JSON_TYPE,
    Closed,
    Wire,
    assert_problem,
    call,
    post_usage,
    request_bytes,
)

USAGE = b'{"patientId": "100"}'


def keyed_post(host: str, key: str, body: bytes = USAGE) -> bytes:
    """A whole POST of a usage under a key, to be seen in the store if anybody runs it."""
    return request_bytes("POST", "/api/usages", host, [JSON_TYPE, ("Idempotency-Key", key)], body)


def assert_not_stored(base_url: str, key: str) -> None:
    """Nobody stored a usage under the key."""
    assert call(base_url, "GET", f"/api/usages/keys/{key}").status == 404


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "no request line": lambda _: b"nonsense\r\n\r\n",
    "no version's number": lambda host: b"GET /livez HTTP/x.y\r\nHost: %b\r\n\r\n" % host,
    "a space in the path": lambda host: b"GET /live z HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
    "a space in a header's name": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nBad Name: x\r\n\r\n" % host,
    "a space before the colon": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nName : x\r\n\r\n" % host,
    "a header without a colon": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nnonsense\r\n\r\n" % host,
    "NUL in a header": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nName: a\x00b\r\n\r\n" % host,
    "a control character in a header": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nName: a\x01b\r\n\r\n" % host,
    "a folded header": lambda host: (
        b"POST /api/usages HTTP/1.1\r\nHost: %b\r\n Transfer-Encoding: chunked\r\n\r\n" % host
    ),
    "no host": lambda _: b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nHost: elsewhere\r\n\r\n" % host,
    "a path without a slash": lambda host: b"GET livez HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
    "a raw byte in the path": lambda host: b"GET /livez\xff HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
    "a control character in the path": lambda host: b"GET /livez\x01 HTTP/1.1\r\nHost: %b\r\n\r\n" % host,
    "a path too long": lambda host: b"GET /%b HTTP/1.1\r\nHost: %b\r\n\r\n" % (b"p" * 40_000, host),
    "a header too long": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nName: %b\r\n\r\n" % (host, b"v" * 40_000),
    "too many headers": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, b"N: v\r\n" * 2_000),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_answered_with_a_problem(base_url: str, case: str) -> None:
    """400 (404 where it is but a strange path) as a problem document with a request id, whoever noticed."""
    with Wire(base_url) as wire:
        wire.send(MALFORMED[case](wire.host.encode()))
        answer = wire.answer()
        assert answer.status in (400, 404, 414, 431)
        assert_problem(answer, answer.status)


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_does_not_disturb_the_next_client(base_url: str, case: str) -> None:
    """What was refused leaves nothing behind on a connection that others share."""
    with Wire(base_url) as bad:
        bad.send(MALFORMED[case](bad.host.encode()))
        for _ in range(3):
            assert post_usage(base_url, USAGE).status == 201


LATER: dict[str, Callable[[bytes], bytes]] = {
    **MALFORMED,
    "a length that is no number": lambda host: b"GET /livez HTTP/1.1\r\nHost: %b\r\nContent-Length: x\r\n\r\n" % host,
    "an unknown encoding": lambda host: (
        b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" % host
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_a_later_malformed_request_gets_a_problem_or_a_close_and_never_a_page(base_url: str, case: str) -> None:
    """On a connection that was served before: never HTML or plain text, and the service goes on for others."""
    with Wire(base_url) as wire:
        assert wire.exchange("GET", "/livez").status == 200
        wire.send(LATER[case](wire.host.encode()))
        answer = wire.last_words()
        if answer is not None:
            assert answer.status in (400, 404, 408, 414, 431)
            assert_problem(answer, answer.status)


def test_a_request_of_http_1_0_needs_no_host(base_url: str) -> None:
    """It is answered, and the connection closed behind it."""
    with Wire(base_url) as wire:
        wire.send(b"GET /livez HTTP/1.0\r\n\r\n")
        assert wire.answer().json() == {"status": "alive"}
        assert wire.rest() == b""


def test_a_chunked_body_is_stored_as_if_sent_whole(base_url: str) -> None:
    """Chunk by chunk, with extensions and a trailer, also byte by byte; and the connection goes on."""
    bodies = (
        b'6;name=value\r\n{"pati\r\n7\r\nentId":\r\n3\r\n 1}\r\n0\r\nX-Trailer: t\r\n\r\n',
        b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"patientId": 1}') + b"0\r\n\r\n",
    )
    with Wire(base_url) as wire:
        for body in bodies:
            head = f"POST /api/usages HTTP/1.1\r\nHost: {wire.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
            wire.send(head.encode())
            for start in range(0, len(body), 7):
                wire.send(body[start : start + 7])
            answer = wire.answer()
            assert answer.status == 201
            read = wire.exchange("GET", f"/api/usages/{answer.json()['id']}")
            assert read.json()["usage"] == {"patientId": 1}


@pytest.mark.parametrize(
    ("path", "length"),
    [("/api/usages", 102_401), ("/api/usages", 50_000_000), ("/messages", 7_000_000), ("/messages", 2**40)],
)
def test_a_declared_length_over_the_limit_is_refused_before_the_body_comes(
    base_url: str, path: str, length: int
) -> None:
    """413 at once, not a byte of the body having been sent."""
    started_s = time.monotonic()
    with Wire(base_url) as wire:
        wire.request("POST", path, [JSON_TYPE, ("Content-Length", str(length))])
        assert_problem(wire.answer(), 413, "body_too_large")
    assert time.monotonic() - started_s < 3


@pytest.mark.parametrize(
    ("path", "size"), [("/api/usages", 110_000), ("/api/usages", 2_000_000), ("/messages", 8_000_000)]
)
def test_a_client_that_sends_too_much_still_reads_its_413(base_url: str, path: str, size: int) -> None:
    """Declared or in chunks: the answer is not lost in a reset while the client is still sending."""
    for declared in (True, False):
        with Wire(base_url) as wire:
            head = f"POST {path} HTTP/1.1\r\nHost: {wire.host}\r\nContent-Type: application/json\r\n"
            try:
                if declared:
                    wire.send(head.encode() + b"Content-Length: %d\r\n\r\n" % size + b" " * size)
                else:
                    wire.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
                    for _ in range(size // 10_000):
                        wire.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
                    wire.send(b"0\r\n\r\n")
            except Closed:
                pass  # an answer may be there all the same
            assert_problem(wire.answer(), 413, "body_too_large")


def test_pipelined_requests_are_answered_in_order(base_url: str) -> None:
    """Forty requests in one segment, reads and writes in turn: as many answers, each to its own."""
    keys = [uuid.uuid4().hex for _ in range(20)]
    with Wire(base_url) as wire:
        gets = [request_bytes("GET", f"/api/usages/keys/{key}", wire.host) for key in keys]
        wire.send(b"".join(keyed_post(wire.host, key) + get for key, get in zip(keys, gets, strict=True)))
        for key in keys:
            posted, read = wire.answer(), wire.answer()
            assert (posted.status, posted.json()) == (201, {"id": key})
            assert (read.status, read.json()["id"]) == (200, key)


def test_pipelined_refusals_do_not_shift_the_answers(base_url: str) -> None:
    """What follows a refused request is answered as what it is."""
    key = uuid.uuid4().hex
    with Wire(base_url) as wire:
        wire.send(
            request_bytes("POST", "/api/usages", wire.host, [JSON_TYPE], b"nonsense")
            + request_bytes("GET", "/metrics", wire.host)
            + request_bytes("POST", "/api/usages", wire.host, [("Content-Type", "text/plain")], b"{}")
            + request_bytes("PUT", "/messages", wire.host, [], b'{"message": "x"}')
            + keyed_post(wire.host, key)
        )
        assert [wire.answer().status for _ in range(5)] == [400, 404, 415, 405, 201]
    assert call(base_url, "GET", f"/api/usages/keys/{key}").status == 200


def test_a_connection_is_kept_until_the_client_asks_to_close(base_url: str) -> None:
    """Two hundred requests over one connection; `Connection: close` is the last."""
    with Wire(base_url) as wire:
        for _ in range(100):
            assert wire.exchange("POST", "/api/usages", [JSON_TYPE], USAGE).status == 201
            assert wire.exchange("GET", "/nowhere").status == 404
        assert wire.exchange("GET", "/livez", [("Connection", "close")]).status == 200
        assert wire.rest() == b""


def test_a_client_that_expects_to_be_told_to_continue_is_told(base_url: str) -> None:
    """100 before the body is sent, then 201; the connection goes on."""
    with Wire(base_url) as wire:
        for _ in range(3):
            length = ("Content-Length", str(len(USAGE)))
            wire.request("POST", "/api/usages", [JSON_TYPE, ("Expect", "100-continue"), length])
            assert wire.answer().status == 100
            wire.send(USAGE)
            assert wire.answer().status == 201


def test_a_client_that_does_not_wait_to_be_told_to_continue_is_served(base_url: str) -> None:
    """The body sent with the headers: one 201, whether or not a 100 comes before it."""
    with Wire(base_url) as wire:
        wire.request("POST", "/api/usages", [JSON_TYPE, ("Expect", "100-continue")], USAGE)
        answer = wire.answer()
        assert (wire.answer() if answer.status == 100 else answer).status == 201
        assert wire.exchange("GET", "/livez").status == 200


def test_a_body_too_large_is_refused_instead_of_continued(base_url: str) -> None:
    """Expect: 100-continue with a length over the limit: 413 and no 100, so the client keeps its body."""
    with Wire(base_url) as wire:
        headers = [JSON_TYPE, ("Expect", "100-continue"), ("Content-Length", "200000")]
        wire.request("POST", "/api/usages", headers)
        assert_problem(wire.answer(), 413, "body_too_large")


def test_a_client_that_leaves_in_the_middle_of_its_body_stores_nothing(base_url: str) -> None:
    """Half a usage and a close, in chunks or by length: nothing under its key, though the half was whole JSON."""
    for framing, body in (
        (b"Content-Length: 50", USAGE),
        (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n" % (len(USAGE), USAGE)),
    ):
        key = uuid.uuid4().hex
        with Wire(base_url) as wire:
            head = f"POST /api/usages HTTP/1.1\r\nHost: {wire.host}\r\nIdempotency-Key: {key}\r\n"
            wire.send(head.encode() + framing + b"\r\n\r\n" + body)
            time.sleep(0.3)
        time.sleep(0.3)
        assert_not_stored(base_url, key)


@pytest.mark.parametrize(
    "headers",
    [
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
        [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        [("Connection", "Content-Type, Idempotency-Key, Content-Length")],
    ],
    ids=["h2c", "websocket", "connection names headers"],
)
def test_an_upgrade_is_not_taken_up(base_url: str, headers: list[tuple[str, str]]) -> None:
    """The request is answered in HTTP/1.1 as if it had not asked."""
    with Wire(base_url) as wire:
        assert wire.exchange("GET", "/livez", headers).status == 200
        assert wire.exchange("POST", "/api/usages", [JSON_TYPE, *headers], USAGE).status == 201
        assert wire.exchange("GET", "/livez").status == 200
