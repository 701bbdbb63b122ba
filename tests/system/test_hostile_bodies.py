"""Bodies that are hardly JSON, on both endpoints through HAProxy: refused as the contract says, never a 5xx."""

from __future__ import annotations

import json

import pytest

from tests.system.wire import JSON_TYPE, Wire, assert_problem, request_bytes

DEEP = 16_000

NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \r\n\t",
    "NUL": b"\x00",
    "NUL behind": b'{"message": "x"}\x00',
    "NUL in a string": b'{"message": "a\x00b"}',
    "NUL between": b'{"message":\x00"x"}',
    "a control character in a string": b'{"message": "a\x01b"}',
    "a line feed in a string": b'{"message": "a\nb"}',
    "UTF-8 cut short": b'{"message": "\xe2\x82"}',
    "UTF-8 longer than need be": b'{"message": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"message": "\xed\xa0\x80"}',
    "beyond Unicode": b'{"message": "\xf5\x80\x80\x80"}',
    "Latin-1": b'{"message": "\xe4"}',
    "UTF-16": '{"message": "x"}'.encode("utf-16"),
    "UTF-32": '{"message": "x"}'.encode("utf-32-be"),
    "a byte-order mark": b'\xef\xbb\xbf{"message": "x"}',
    "half an object": b'{"message": "x"',
    "two objects": b'{"message": "x"}{"message": "y"}',
    "a comma too many": b'{"message": "x",}',
    "no comma": b'{"message": "x" "a": 1}',
    "single quotes": b"{'message': 'x'}",
    "no quotes": b"{message: 1}",
    "a comment": b'{"message": "x" /* y */}',
    "NaN": b'{"message": "x", "n": NaN}',
    "Infinity": b'{"message": "x", "n": -Infinity}',
    "a plus sign": b'{"message": "x", "n": +1}',
    "a leading zero": b'{"message": "x", "n": 01}',
    "hexadecimal": b'{"message": "x", "n": 0x10}',
    "half an exponent": b'{"message": "x", "n": 1e}',
    "an escape that is none": b'{"message": "\\x41"}',
    "half an escape": b'{"message": "\\u12"}',
    "no number": b'{"message": "x", "n": -}',
    "arrays too deep": b'{"message": "x", "n": %b%b}' % (b"[" * DEEP, b"]" * DEEP),
    "objects too deep": b'{"n": ' * DEEP,
    "an array without an end": b"[" * 100_000,
    "a form": b"message=x&n=1",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>',
}

NO_OBJECT: dict[str, bytes] = {
    "an array": b"[]",
    "a string": b'"x"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
    "a number beyond all bounds": b"1e999999",
    "a long number": b"9" * 50_000,
}

ODD_BUT_JSON: dict[str, bytes] = {
    "a key twice": b'{"message": "first", "message": "x"}',
    "a key ten thousand times": b'{%b"message": "x"}' % (b'"n": 1,' * 10_000),
    "a name like a method": b'{"message": "x", "__proto__": {"a": 1}, "constructor": null, "__class__": "y"}',
    "an empty name": b'{"message": "x", "": 1}',
    "a number beyond a float": b'{"message": "x", "n": 1e999}',
    "a number below a float": b'{"message": "x", "n": 1e-999, "m": -0.0}',
    "a long number": b'{"message": "x", "n": %b}' % (b"9" * 50_000),
    "a long fraction": b'{"message": "x", "n": 0.%b}' % (b"1" * 50_000),
    "2^64": b'{"message": "x", "n": 18446744073709551616}',
    "NUL, escaped": b'{"message": "a\\u0000b"}',
    "a name with NUL, escaped": b'{"message": "x", "a\\u0000b": 1}',
    "a line separator": '{"message": "\u2028\u2029"}'.encode(),
    "noncharacters": '{"message": "\uffff\U0010ffff"}'.encode(),
    "right to left": '{"message": "\u202e\u2066x"}'.encode(),
    "markup": b'{"message": "</script><script>alert(1)</script>"}',
    "CQL": b'{"message": "\'); DROP TABLE usages; --"}',
    "a header": b'{"message": "x\\r\\nX-Injected: y"}',
    "blanks all around": b' \r\n\t{ "message" :\t"x" }\n',
}
"""Each is taken as it is by both endpoints."""

WRONG_FIELDS: dict[str, tuple[str, bytes]] = {
    "a number for a message": ("/messages", b'{"message": 1}'),
    "a lone surrogate for a message": ("/messages", b'{"message": "\\ud800"}'),
    "no message": ("/messages", b'{"massage": "x"}'),
    "the last of two messages is wrong": ("/messages", b'{"message": "x", "message": null}'),
    "a float for a patientId": ("/api/usages", b'{"patientId": 1.0}'),
    "a float beyond bounds for a patientId": ("/api/usages", b'{"patientId": 1e999}'),
    "true for a patientId": ("/api/usages", b'{"patientId": true}'),
    "an empty patientId": ("/api/usages", b'{"patientId": ""}'),
    "the last of two patientIds is wrong": ("/api/usages", b'{"patientId": 1, "patientId": []}'),
    "a list for a medication": ("/api/usages", b'{"medication": []}'),
    "an object for a timestamp": ("/api/usages", b'{"timestamp": {}}'),
}

PATHS = ("/api/usages", "/messages")


def post(wire: Wire, path: str, body: bytes, chunked: bool) -> None:
    """One POST with a canary right behind it, by length or in one chunk."""
    if chunked:
        head = request_bytes("POST", path, wire.host, [JSON_TYPE, ("Transfer-Encoding", "chunked")])
        whole = head + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    else:
        whole = request_bytes("POST", path, wire.host, [JSON_TYPE], body)
    wire.send(whole + request_bytes("GET", "/canary", wire.host, [("X-Request-ID", "canary")]))


def assert_canary(wire: Wire) -> None:
    """What follows a refused body is answered as what it is."""
    assert assert_problem(wire.answer(), 404, "not_found")["request_id"] == "canary"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_json_is_a_400_and_the_connection_goes_on(base_url: str, path: str, chunked: bool) -> None:
    """Each over one connection, a canary behind each: 400 as a problem, and the canary its own answer."""
    with Wire(base_url) as wire:
        for name, body in {**NOT_JSON, **NO_OBJECT}.items():
            post(wire, path, body, chunked)
            answer = wire.answer()
            assert answer.status == 400, (name, answer)
            assert_problem(answer, 400, "not_an_object" if name in NO_OBJECT else "invalid_json")
            assert_canary(wire)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_json_that_is_merely_odd_is_stored_as_it_is(base_url: str, chunked: bool) -> None:
    """201 from both endpoints; a usage is read back byte for byte, a message as the text that it is."""
    with Wire(base_url) as wire:
        for name, body in ODD_BUT_JSON.items():
            post(wire, "/api/usages", body, chunked)
            answer = wire.answer()
            assert answer.status == 201, (name, answer)
            assert_canary(wire)
            read = wire.exchange("GET", str(answer.header("location")))
            assert read.status == 200
            assert read.body.endswith(b'"usage": %b}' % body), name

            post(wire, "/messages", body, chunked)
            answer = wire.answer()
            assert answer.status == 201, (name, answer)
            assert_canary(wire)
            read = wire.exchange("GET", str(answer.header("location")))
            assert read.json() == {"message": json.loads(body.replace(b"9" * 50_000, b"9"))["message"]}, name


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_field_of_the_wrong_kind_is_a_422(base_url: str, name: str) -> None:
    """The last of several of one name counts, as in every common reader of JSON."""
    path, body = WRONG_FIELDS[name]
    with Wire(base_url) as wire:
        post(wire, path, body, chunked=False)
        assert_problem(wire.answer(), 422, "invalid_field")
        assert_canary(wire)
