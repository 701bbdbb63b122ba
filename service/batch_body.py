"""A batch's body as it comes: what its headers say it is, its plain bytes piece by piece, its lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from service.admission import body_too_slow
from service.batch_inflate import CODINGS, inflater
from service.errors import Problem
from service.http import ClientLeft, Request
from service.query import invalid, parameters

JSON_TYPE, LINES_TYPE = b"application/json", b"application/x-ndjson"
ACCEPTED = ((b"accept-encoding", b"gzip, zstd"),)
"""What a 415 for a content coding says would do (RFC 9110, 15.5.16)."""


def strict(request: Request) -> bool:
    """Whether one invalid item refuses the whole batch. Raises Problem 400 for what is no parameter of a batch."""
    text = parameters(request, ("strict",)).get("strict", "false")
    if text not in ("true", "false"):
        raise invalid("strict", "strict is true or false.")
    return text == "true"


def is_lines(request: Request) -> bool:
    """Whether the body is a line for each item; else it is an array, as also without any Content-Type. Raises Problem 415."""
    kinds = set()
    for value in request.values(b"content-type") or [JSON_TYPE]:
        kind, *parameters = (part.strip() for part in value.lower().split(b";"))
        charsets = [part[8:].strip(b'"') for part in parameters if part.startswith(b"charset=")]
        if kind not in (JSON_TYPE, LINES_TYPE) or any(charset != b"utf-8" for charset in charsets):
            raise _unsupported(
                "Content-Type", "The Content-Type must be application/json or application/x-ndjson, in UTF-8."
            )
        kinds.add(kind)
    if len(kinds) > 1:
        raise _unsupported("Content-Type", "There is more than one Content-Type.")
    return kinds == {LINES_TYPE}


def coding(request: Request) -> str | None:
    """The one content coding, None for none. Raises Problem 415."""
    values = request.values(b"content-encoding")
    name = b",".join(values).strip().lower()
    if name not in CODINGS:
        text = "The Content-Encoding must be gzip, zstd or identity, and only one."
        raise _unsupported("Content-Encoding", text, ACCEPTED)
    return CODINGS[name]


class Holding:
    """The bytes that a request holds, counted against what its process may hold. They are given back with the request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def hold(self, size: int) -> None:
        """Count bytes in. Raises Problem 503 when they are too many, and counts nothing."""
        self._request.admission.hold(size)
        self._request.body_bytes += size

    def release(self, size: int) -> None:
        """Count bytes out again."""
        self._request.admission.body_bytes -= size
        self._request.body_bytes -= size


async def pieces(
    request: Request, holding: Holding, coding_: str | None, bytes_max: int | None, silence_max_s: float
) -> AsyncGenerator[bytes, None]:
    """The body's plain bytes as they arrive, at most ``bytes_max`` in all where that is not None.

    Raises Problem 400 (not what its coding says), 408 (nothing came for ``silence_max_s``), 413, and ClientLeft.
    """
    inflate = inflater(coding_, holding.hold)
    seen = 0
    more = True
    while more:
        try:
            async with asyncio.timeout(silence_max_s):
                message = await request.receive()
        except TimeoutError:
            raise body_too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        more = message.get("more_body", False)
        request.body_seen = not more
        for piece in inflate.feed(message.get("body", b"")):
            seen += len(piece)
            if bytes_max is not None and seen > bytes_max:
                raise too_large(bytes_max)
            yield piece
            if coding_ is not None:
                await asyncio.sleep(0)  # a little that came may be much that comes out: others have their turn
    inflate.end()


async def whole(request: Request, holding: Holding, coding_: str | None, bytes_max: int, time_max_s: float) -> bytes:
    """The whole body, plain. Raises what :func:`pieces` raises; 408 when it is not whole in time."""
    length = request.declared_length()
    if length is not None and length > bytes_max:
        raise too_large(bytes_max)
    parts: list[bytes] = []
    try:
        async with (
            asyncio.timeout(time_max_s),
            contextlib.aclosing(pieces(request, holding, coding_, bytes_max, time_max_s)) as body,
        ):
            async for piece in body:
                holding.hold(len(piece))
                parts.append(piece)
    except TimeoutError:
        raise body_too_slow() from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


EMPTY_LINES_MAX = 10_000
"""Of a stream. They cost time and get no result that its client would have to read: 2 kB of zstd hold 64 MiB of them."""
SHORT_LINE_BYTES = 64
"""Where lines are longer on average, empty ones among them are not worth the look."""


class Lines:
    """Cuts bytes into lines. At most ``bytes_max`` of a line that has not ended are held."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest = b""
        self._empty = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that have ended. Raises Problem 413 once one is longer than it may be, or too many are empty."""
        if self._rest:
            piece = self._rest + piece
        *lines, self._rest = piece.split(b"\n")
        if len(piece) > self._bytes_max and max(map(len, (*lines, self._rest))) > self._bytes_max:
            # Those before it in the same piece go with it: what has no result was not stored.
            raise Problem(413, "body_too_large", f"A line is longer than {self._bytes_max} bytes.")
        if len(piece) < len(lines) * SHORT_LINE_BYTES:
            self._empty += sum(not line.strip() for line in lines)
        if self._empty > EMPTY_LINES_MAX:
            raise Problem(413, "body_too_large", f"More than {EMPTY_LINES_MAX} lines are empty.")
        return lines

    def end(self) -> list[bytes]:
        """The last line, which needs no end."""
        return [self._rest] if self._rest else []


def too_large(bytes_max: int) -> Problem:
    """The 413 for a body that is, or inflates to, more than it may."""
    return Problem(413, "body_too_large", f"The body is larger than this resource takes ({bytes_max} bytes).")


def _unsupported(field: str, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Problem:
    return Problem(415, "unsupported_media_type", detail, field=field, headers=headers)
