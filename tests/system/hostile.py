"""Requests that two readers of HTTP could take for different things, and bodies that are hardly JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

USAGE = b'{"patientId": "100"}'


@dataclass(frozen=True)
class Parts:
    """What an attack is made of: the host, header lines of its own (each with its CRLF), and a whole request to smuggle."""

    host: bytes
    own: bytes
    inner: bytes

    def post(self, *fields: bytes, rest: bytes = b"", line: bytes = b"POST /api/usages HTTP/1.1") -> bytes:
        """A POST with these header lines behind the usual ones, and what follows its head."""
        head = line + b"\r\nHost: " + self.host + b"\r\nContent-Type: application/json\r\n" + self.own
        return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + rest

    def get(self, *fields: bytes, rest: bytes = b"", line: bytes = b"GET /livez HTTP/1.1") -> bytes:
        """A GET with these header lines, and what follows its head."""
        return b"".join(
            (line, b"\r\nHost: ", self.host, b"\r\n", self.own, *(f + b"\r\n" for f in fields), b"\r\n", rest)
        )

    @property
    def in_chunk(self) -> bytes:
        """The smuggled request as a chunked body, ended."""
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.inner), self.inner)

    @property
    def behind_end(self) -> bytes:
        """An ended chunked body with the smuggled request behind it."""
        return b"0\r\n\r\n" + self.inner


Attack = Callable[[Parts], bytes]

ENCODINGS = [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding:chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked\t",
    b"TRANSFER-ENCODING: CHUNKED",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked x",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: cow",
    b"Transfer-Encoding:",
    b"Transfer-Encoding",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\n\rTransfer-Encoding: chunked",
    b"Transfer-Encoding\n: chunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding: chunked\r\n x",
    b"Transfer-Encoding: chu\r\n nked",
    b"Transfer-Encodin\xc7: chunked",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding:\xa0chunked",
    b"Transfer-Encoding: \xe2\x84\xaahunked",
    b"Transfer-Encoding: 'chunked'",
    b"\x00Transfer-Encoding: chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
]

LENGTHS = [
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\ncontent-length: %d",
    b"Content-Length: %d, %d",
    b"Content-Length: 0, %d",
    b"Content-Length: +%d",
    b"Content-Length: -%d",
    b"Content-Length: %d ",
    b"Content-Length:\t%d",
    b"Content-Length: 0%d",
    b"Content-Length: 0x%x",
    b"Content-Length: %d.0",
    b"Content-Length: %de0",
    b"Content-Length: %d;x",
    b"Content-Length: %d 0",
    b"Content-Length: %d_0",
    b'Content-Length: "%d"',
    b"Content-Length: %d\x00",
    b"Content-Length: \x0c%d",
    b"Content-Length: \xb2",
    b"Content-Length:\r\n %d",
    b"Content-Length: 0\r\n %d",
    b"Content-Length: 0\nContent-Length: %d",
    b"Content-Length : %d",
    b"Connection: close\r\nX: y\r\n Content-Length: %d",
    b"Content-Length: 0\r\nX: y\rContent-Length: %d",
    b"Connection: Content-Length\r\nContent-Length: %d",
    b"Connection: close, Content-Length\r\nContent-Length: %d",
]

CHUNKS: list[bytes] = [
    b'2;a="b"\r\n{}\r\n0\r\n\r\n',
    b"2;%b\r\n{}\r\n0\r\n\r\n" % (b"e" * 20_000),
    b"2;a\n{}\r\n0\r\n\r\n",
    b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    b'2;a="\r\n{}\r\n0\r\n\r\n',
    b"2 ;a\r\n{}\r\n0\r\n\r\n",
    b"2 \r\n{}\r\n0\r\n\r\n",
    b" 2\r\n{}\r\n0\r\n\r\n",
    b"+2\r\n{}\r\n0\r\n\r\n",
    b"02\r\n{}\r\n00\r\n\r\n",
    b"%b2\r\n{}\r\n0\r\n\r\n" % (b"0" * 40),
    b"2_\r\n{}\r\n0\r\n\r\n",
    b"2\n{}\n0\n\n",
    b"2\r{}\r0\r\r",
    b"2\r\n{}\n0\r\n\r\n",
    b"2\r\n{}0\r\n\r\n",
    b"2\r\n{}\r\n0\n\n",
    b"2\r\n{}\r\n0\r\n\n",
    b"2\r\n{}\r\n0;x\r\n\r\n",
    b"2\r\n{}\r\n0\r\nContent-Length: 40\r\n\r\n",
    b"2\r\n{}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"2\r\n{}\r\n0\r\nX-Request-ID: trailer\r\nHost: elsewhere\r\n\r\n",
    b"2\r\n{}\r\n0\r\nno colon\r\n\r\n",
    b"2\r\n{}\r\n0\r\n folded: x\r\n\r\n",
    b"\r\n2\r\n{}\r\n0\r\n\r\n",
    b";2\r\n{}\r\n0\r\n\r\n",
    b"7fffffffffffffff\r\n{}\r\n0\r\n\r\n",
    b"fffffffffffffffe\r\n{}\r\n0\r\n\r\n",
    b"100000002\r\n{}\r\n0\r\n\r\n",
    b"1000000000000000000000000000000002\r\n{}\r\n0\r\n\r\n",
    b"\xef\xbc\x92\r\n{}\r\n0\r\n\r\n",
]


def _line(line: bytes) -> Attack:
    """A request line of its own over a body that is the smuggled request."""
    return lambda parts: parts.post(b"Content-Length: %d" % len(parts.inner), rest=parts.inner, line=line)


LINES = [
    b"POST http://elsewhere.example/api/usages HTTP/1.1",
    b"POST http://127.0.0.1/api/usages HTTP/1.1",
    b"POST //elsewhere.example/api/usages HTTP/1.1",
    b"POST elsewhere.example:443 HTTP/1.1",
    b"CONNECT elsewhere.example:443 HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"POST * HTTP/1.1",
    b"POST /api/usages HTTP/1.0",
    b"POST /api/usages HTTP/0.9",
    b"POST /api/usages HTTP/1.2",
    b"POST /api/usages HTTP/2.0",
    b"POST /api/usages HTTP/11",
    b"POST /api/usages HTTP/1.1 ",
    b"POST /api/usages  HTTP/1.1",
    b"POST\t/api/usages\tHTTP/1.1",
    b"POST /api/usages\x0bHTTP/1.1",
    b"POST /api/usages",
    b" POST /api/usages HTTP/1.1",
    b"\r\n\r\nPOST /api/usages HTTP/1.1",
    b"\nPOST /api/usages HTTP/1.1",
    b"POST /api/usages HTTP/1.1\r",
    b"POST /api/usages HTTP/1.1\rX: y",
    b"POST /api/usages HTTP/1.1\nX: y",
    b"POST /api/usages?%0d%0aTransfer-Encoding:%20chunked HTTP/1.1",
    b"POST /api/usages#x HTTP/1.1",
    b"POST /api/usages\x00 HTTP/1.1",
    b"post /api/usages HTTP/1.1",
    b"GET /livez HTTP/1.1",
    b"DELETE /messages/%b HTTP/1.1" % (b"a" * 64),
    b"TRACE /api/usages HTTP/1.1",
]


def _bare_lf(parts: Parts) -> bytes:
    return parts.post(b"Content-Length: %d" % len(parts.inner), rest=parts.inner).replace(b"\r\n", b"\n", 5)


OTHERS: dict[str, Attack] = {
    "TE.CL, the length is shorter": lambda p: p.post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", rest=p.in_chunk
    ),
    "CL.TE, the length is longer": lambda p: p.post(
        b"Content-Length: %d" % len(p.behind_end), b"Transfer-Encoding: chunked", rest=p.behind_end
    ),
    "lines that end with a bare LF": _bare_lf,
    "lines that end with a bare CR": lambda p: _bare_lf(p).replace(b"\n", b"\r", 5),
    "a head that ends with LF LF": lambda p: p.get(b"Connection: close", rest=p.inner).replace(b"\r\n\r\n", b"\n\n", 1),
    "HTTP/1.0 in chunks": lambda p: p.post(
        b"Transfer-Encoding: chunked", rest=p.behind_end, line=b"POST /api/usages HTTP/1.0"
    ),
    "HTTP/1.0 with both, kept alive": lambda p: p.post(
        b"Connection: keep-alive",
        b"Content-Length: %d" % len(p.behind_end),
        b"Transfer-Encoding: chunked",
        rest=p.behind_end,
        line=b"POST /api/usages HTTP/1.0",
    ),
    "HTTP/1.0 without a length": lambda p: p.post(rest=p.inner, line=b"POST /api/usages HTTP/1.0"),
    "HTTP/0.9": lambda p: b"GET /livez\r\n" + p.inner,
    "the preface of HTTP/2": lambda p: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + p.inner,
    "behind Connection: close": lambda p: p.get(b"Connection: close", rest=p.inner),
    "behind Proxy-Connection: close": lambda p: p.get(
        b"Connection: close", b"Proxy-Connection: keep-alive", rest=p.inner
    ),
    "an upgrade to h2c": lambda p: p.get(
        b"Connection: Upgrade, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", rest=p.inner
    ),
    "a body that is to be continued": lambda p: p.post(
        b"Expect: 100-continue", b"Content-Length: %d" % len(p.inner), rest=p.inner
    ),
    "an unknown expectation": lambda p: p.post(b"Expect: 200-ok", b"Content-Length: %d" % len(p.inner), rest=p.inner),
    "a GET with a body in chunks": lambda p: p.get(b"Transfer-Encoding: chunked", rest=p.in_chunk),
    "a GET with both": lambda p: p.get(
        b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(p.behind_end), rest=p.behind_end
    ),
    "two hosts": lambda p: p.post(b"Host: elsewhere.example", b"Content-Length: %d" % len(p.inner), rest=p.inner),
    "a request id that breaks the line": lambda p: p.get(
        b"X-Request-ID: a\rContent-Length: 0\r\r", b"Connection: close", rest=p.inner
    ),
    "a key that breaks the line": lambda p: p.get(
        b"Connection: close", line=b"GET /api/usages/keys/a%0d%0aX-Split:%20y HTTP/1.1", rest=p.inner
    ),
    "an encoding with another name": lambda p: p.post(
        b"Transfer_Encoding: chunked", b"Content-Length: %d" % len(p.behind_end), rest=p.behind_end
    ),
    "a length over the buffer": lambda p: p.post(b"Content-Length: 99999", rest=p.inner * 3),
    "ten gigabytes declared": lambda p: p.post(b"Content-Length: 10737418240", rest=p.inner),
    "ten gigabytes in a chunk": lambda p: p.post(b"Transfer-Encoding: chunked", rest=b"280000000\r\n" + p.inner),
}


def attacks() -> dict[str, Attack]:
    """Every attack by its name. What is smuggled must never be run; what cannot be told apart must be refused."""
    found = dict(OTHERS)
    for encoding in ENCODINGS:
        if encoding[:1] != b" ":  # alone, as the first line, it would be a folded Content-Type
            found[f"chunks by {encoding!r}"] = _chunks(encoding)
        found[f"TE.CL by {encoding!r}"] = _length_short_of_chunks(encoding)
        found[f"CL.TE by {encoding!r}"] = _length_beyond_chunks(encoding)
    found |= {f"length by {field!r}": _length(field) for field in LENGTHS}
    found |= {f"chunk {chunks[:40]!r}": _chunk(chunks) for chunks in CHUNKS}
    return found | {f"line {line!r}": _line(line) for line in LINES}


def _chunks(encoding: bytes) -> Attack:
    return lambda parts: parts.post(encoding, rest=parts.in_chunk)


def _length_short_of_chunks(encoding: bytes) -> Attack:
    return lambda parts: parts.post(b"Content-Length: 4", encoding, rest=parts.in_chunk)


def _length_beyond_chunks(encoding: bytes) -> Attack:
    return lambda parts: parts.post(encoding, b"Content-Length: %d" % len(parts.behind_end), rest=parts.behind_end)


def _length(field: bytes) -> Attack:
    count = field.count(b"%d") + field.count(b"%x")
    return lambda parts: parts.post(field % ((len(parts.inner),) * count), rest=parts.inner)


def _chunk(chunks: bytes) -> Attack:
    return lambda parts: parts.post(b"Connection: close", b"Transfer-Encoding: chunked", rest=chunks + parts.inner)
