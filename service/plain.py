"""A plain request read without a parser: whole, in one piece, with nothing in it that needs a second thought.

Nearly all requests of a burst look alike, header for header, so each header line is looked up among those that were
read before: a split and a few look-ups in place of a parser's call for every header. What is plain is decided by a
grammar that is stricter than HTTP's; whatever it does not match is the parser's to read.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~](?:[ \t!-~]*[!-~])?)?)")
"""A field line (RFC 9112, 5) in ASCII: no folding, no bare CR or LF, nothing between the name and its colon or at its end."""
TARGET = re.compile(rb"(GET|DELETE) (/messages/[0-9a-fA-F]{64}|/api/usages/[0-9]{1,16}) HTTP/1\.1")
REQUESTS = {
    b"POST /api/usages HTTP/1.1": ("POST", "/api/usages"),
    b"POST /messages HTTP/1.1": ("POST", "/messages"),
}
NOT_PLAIN = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"expect",
        b"proxy-connection",  # the parser takes it for Connection
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that change what a request means or what becomes of its connection."""
KEEP_ALIVE = (b"connection", b"keep-alive")
"""Many clients say what HTTP/1.1 does anyway."""
VARYING = frozenset((b"x-request-id", b"idempotency-key", b"traceparent", b"tracestate"))
"""Headers whose values do not come twice: they would only crowd out the lines that do."""
HEAD_BYTES_MAX = 4096
LINES_KNOWN_MAX = 4096
LENGTH_DIGITS_MAX = 9


class Plain(NamedTuple):
    """A plain request, whole: method, path, headers by lower-case name (none twice), body."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes


class PlainReader:
    """Reads plain requests, and remembers the header lines of those before, at most LINES_KNOWN_MAX."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes]] = {}

    def read(self, data: bytes) -> Plain | None:
        """The one request that ``data`` is, no byte more or less; None when it is not plain."""
        end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            return None
        request, *lines = data[:end].split(b"\r\n")
        target = REQUESTS.get(request) or _target(request)
        if target is None:
            return None
        headers: dict[bytes, bytes] = {}
        known = self._known
        for line in lines:
            field = known.get(line) or self._field(line)
            if field is None:
                return None
            headers[field[0]] = field[1]
        if len(headers) != len(lines) or b"host" not in headers:
            return None
        body = data[end + 4 :]
        length = headers.get(b"content-length", b"0" if target[0] != "POST" else b"")
        if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX or int(length) != len(body):
            return None
        if body and target[0] != "POST":
            return None
        return Plain(*target, headers, body)

    def _field(self, line: bytes) -> tuple[bytes, bytes] | None:
        match = LINE.fullmatch(line)
        if match is None:
            return None
        name, value = match.groups()
        name = name.lower()
        if name in NOT_PLAIN and (name, value.lower()) != KEEP_ALIVE:
            return None
        field = (name, value)
        if name not in VARYING:
            if len(self._known) >= LINES_KNOWN_MAX:
                self._known.clear()
            self._known[line] = field
        return field


def _target(request: bytes) -> tuple[str, str] | None:
    match = TARGET.fullmatch(request)
    return None if match is None else (match[1].decode(), match[2].decode())
