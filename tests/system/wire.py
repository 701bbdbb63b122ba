"""HTTP/1.1 byte by byte: a test has to send what a careful client never would."""

from __future__ import annotations

import json
import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

HeaderList = Sequence[tuple[str, str]]

HEAD_BYTES_MAX = 65536
JSON_TYPE = ("Content-Type", "application/json")


class Closed(Exception):
    """The other side closed, or reset, the connection before an answer was whole."""


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that may come once at most."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Wire:
    """One connection; everything on it has a time limit."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, timeout_s: float = 20) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host = parts.netloc
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=parts.hostname)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever is on its way."""
        self._socket.close()

    def readable(self, wait_s: float) -> bool:
        """Whether an answer, or the end, has begun to arrive."""
        return bool(self._buffer) or bool(select.select([self._socket], [], [], wait_s)[0])

    def send(self, data: bytes) -> None:
        """Raises Closed when nobody takes it any more."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, ssl.SSLError) as error:
            raise Closed(repr(error)) from error

    def request(self, method: str, path: str, headers: HeaderList = (), body: bytes | None = None) -> None:
        """Send one well-formed request."""
        self.send(request_bytes(method, path, self.host, headers, body))

    def answer(self, *, without_body: bool = False) -> Answer:
        """The next answer, 100 included. Raises Closed when none comes, TimeoutError when nothing does."""
        while b"\r\n\r\n" not in self._buffer:
            assert len(self._buffer) <= HEAD_BYTES_MAX, "an answer's head has no end"
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        headers = tuple((key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines))
        fields = {key.lower(): value for key, value in headers}
        if without_body or status in (204, 304) or status < 200:
            return Answer(status, headers, b"")
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return Answer(status, headers, self._chunked())
        if "content-length" in fields:
            return Answer(status, headers, self._exactly(int(fields["content-length"])))
        return Answer(status, headers, self.rest())

    def last_words(self) -> Answer | None:
        """The next answer, or None when the other side closes without one."""
        try:
            return self.answer()
        except Closed:
            return None

    def exchange(self, method: str, path: str, headers: HeaderList = (), body: bytes | None = None) -> Answer:
        """One request, and its answer."""
        self.request(method, path, headers, body)
        return self.answer(without_body=method == "HEAD")

    def rest(self) -> bytes:
        """Everything until the other side closes; a reset counts as a close."""
        try:
            while True:
                self._more()
        except Closed:
            data, self._buffer = self._buffer, b""
            return data

    def _more(self) -> None:
        try:
            part = self._socket.recv(65536)
        except (ConnectionError, ssl.SSLError) as error:
            raise Closed(repr(error)) from error
        if not part:
            raise Closed("end of stream")
        self._buffer += part

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _chunked(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._buffer:
                self._more()
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            size = int(line.split(b";")[0], 16)
            chunk = self._exactly(size + 2)
            if size == 0:
                return body
            body += chunk[:-2]


def request_bytes(method: str, path: str, host: str, headers: HeaderList = (), body: bytes | None = None) -> bytes:
    """A request as it goes over the wire; Host and Content-Length are put in."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{key}: {value}" for key, value in headers)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def call(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    headers: HeaderList = (),
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 20,
) -> Answer:
    """One request on a connection of its own."""
    with Wire(url, tls=tls, timeout_s=timeout_s) as wire:
        return wire.exchange(method, path, headers, body)


def post_usage(url: str, body: bytes, *headers: tuple[str, str]) -> Answer:
    """POST a usage as JSON, with further headers."""
    return call(url, "POST", "/api/usages", body, headers=[JSON_TYPE, *headers])


def post_message(url: str, message: str) -> Answer:
    """POST a message."""
    return call(url, "POST", "/messages", json.dumps({"message": message}).encode(), headers=[JSON_TYPE])


PROBLEM_FIELDS = ("type", "title", "status", "detail", "code", "request_id")


def assert_problem(answer: Answer, status: int, code: str | None = None, field: str | None = None) -> dict[str, Any]:
    """The answer is a problem document of this status (and code, and field), with one request id in it and over it."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.header("content-type") == "application/problem+json", answer
    problem: dict[str, Any] = answer.json()
    for name in PROBLEM_FIELDS:
        assert problem.get(name), f"{name} is missing from {problem}"
    assert problem["status"] == status
    assert problem["request_id"] == answer.header("x-request-id")
    if code is not None:
        assert problem["code"] == code, problem
    if field is not None:
        assert problem["field"] == field, problem
    if status in (429, 503):
        retry_after = answer.header("retry-after")
        assert retry_after is not None
        assert retry_after.isdigit()
        assert int(retry_after) >= 1
    return problem
