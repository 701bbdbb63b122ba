"""One request in, one response out: headers, the bounded body, problem documents.

Plain ASGI and no framework: on the path of a write, every layer costs more than the handler.
"""

from __future__ import annotations

import asyncio
import http
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any, TypeAlias

import msgspec

from service.admission import Admission, body_too_slow
from service.errors import Problem

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")
PROBLEM = (b"content-type", b"application/problem+json")

REQUEST_ID_LENGTH_MAX = 128

_visible = re.compile(rb"[!-~]*").fullmatch
_id_prefix = os.urandom(8).hex()
_id_count = count(1)


class ClientLeft(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


class Response:
    """A status, headers and a whole body; content-length and the request id are added when it is sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: list[Header]) -> None:
        self.status = status
        self.body = body
        self.headers = headers


class Streamed(Response):
    """An answer whose body comes in parts: ``body`` is the first of them, ``parts`` the rest. Its status is settled by then.

    An exception of ``parts`` ends the connection before the body's end, so that nobody takes what was sent for the whole.
    """

    __slots__ = ("parts",)

    def __init__(self, status: int, body: bytes, headers: list[Header], parts: AsyncGenerator[bytes, None]) -> None:
        super().__init__(status, body, headers)
        self.parts = parts


class Request:
    """What the handlers see of a request."""

    __slots__ = ("admission", "body_bytes", "body_seen", "headers", "receive", "request_id", "scope")

    def __init__(self, scope: Scope, receive: Receive, admission: Admission) -> None:
        self.scope = scope
        self.receive = receive
        self.admission = admission
        # Of a header that is repeated this keeps the last; values() tells whether there were several.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = request_id(self.headers.get(b"x-request-id"))
        self.body_bytes = 0
        self.body_seen = False

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, in order."""
        return [value for key, value in self.scope["headers"] if key == name]

    def declared_length(self) -> int | None:
        """Content-Length, or None for a chunked body or none at all. Raises Problem 400 when it is no number."""
        text = self.headers.get(b"content-length")
        if text is None:
            return None
        if not text.isdigit():
            raise Problem(400, "bad_request", "Content-Length is not a number.")
        return int(text[:20])

    async def body(self, bytes_max: int) -> bytes:
        """The whole body. Raises Problem 413 as soon as it is known to be too large, and reads no further.

        Raises Problem 408 when it is not whole in time.
        """
        length = self.declared_length()
        if length is not None and length > bytes_max:
            raise self._too_large(bytes_max)
        try:
            async with asyncio.timeout(self.admission.body_timeout_s):
                return await self._read(bytes_max)
        except TimeoutError:
            raise body_too_slow() from None

    async def _read(self, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part: bytes = message.get("body", b"")
            self.admission.hold(len(part))
            self.body_bytes += len(part)
            if self.body_bytes > bytes_max:
                raise self._too_large(bytes_max)
            parts.append(part)
            if not message.get("more_body"):
                self.body_seen = True
                return b"".join(parts)

    def body_left(self) -> bool:
        """Whether much of the body may still be on its way (a little is read by the server anyway)."""
        if self.body_seen:
            return False
        length = self.headers.get(b"content-length")
        if length is not None:
            return not length.isdigit() or int(length[:20]) > 65536
        return b"transfer-encoding" in self.headers

    @staticmethod
    def _too_large(bytes_max: int) -> Problem:
        return Problem(413, "body_too_large", f"The body is larger than this resource takes ({bytes_max} bytes).")


class WholeRequest(Request):
    """A request whose body came together with its head; no header of it is repeated."""

    __slots__ = ("_body",)

    def __init__(self, headers: dict[bytes, bytes], body: bytes, admission: Admission) -> None:
        self.admission = admission
        self.headers = headers
        self.request_id = request_id(headers.get(b"x-request-id"))
        self.body_bytes = len(body)
        self.body_seen = True
        self._body = body

    def values(self, name: bytes) -> list[bytes]:
        """The header's value, or none."""
        value = self.headers.get(name)
        return [] if value is None else [value]

    async def body(self, bytes_max: int) -> bytes:
        """The whole body. Raises Problem 413."""
        if len(self._body) > bytes_max:
            raise self._too_large(bytes_max)
        return self._body


def request_id(sent: bytes | None) -> str:
    """The client's id when it is 1-128 visible ASCII characters, else a new one."""
    if sent and len(sent) <= REQUEST_ID_LENGTH_MAX and is_visible_ascii(sent):
        return sent.decode("ascii")
    return f"{_id_prefix}{next(_id_count):010x}"


def is_visible_ascii(text: bytes) -> bool:
    """Only characters from ! to ~."""
    return _visible(text) is not None


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    """The members of an RFC 9457 document."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
    }
    if problem.field is not None:
        document["field"] = problem.field
    if problem.extra:
        document.update(problem.extra)
    return document


def problem_response(problem: Problem, request_id: str, retry_after_s: int) -> Response:
    """RFC 9457. A 503 carries Retry-After, in whole seconds."""
    headers = [PROBLEM, *problem.headers]
    if problem.status in (429, 503):
        headers.append((b"retry-after", str(retry_after_s).encode()))
    return Response(problem.status, msgspec.json.encode(problem_document(problem, request_id)), headers)
