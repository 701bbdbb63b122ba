"""Many usages from outside: batches streamed both ways, exports that must be whole, pages, counts."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from tests.system.wire import Answer, Closed, HeaderList, Wire, call, post_usage

BATCH = "/api/usages/batch"
LINES_TYPE = ("Content-Type", "application/x-ndjson")
LINES_AT_ONCE = 500


class Row(NamedTuple):
    """A usage as a list or an export shows it; ``usage`` are its own bytes."""

    id: int | str
    received_at: str
    usage: bytes


def row(line: bytes) -> Row:
    """The row that a line of an export is."""
    document = json.loads(line)
    return Row(document["id"], document["received_at"], line.partition(b'"usage": ')[2][:-1])


def keyed(key: str, usage: bytes) -> bytes:
    """An item of a batch that brings its key along."""
    return b'{"idempotency_key": %b, "usage": %b}' % (json.dumps(key).encode(), usage)


def now(url: str) -> str:
    """The time of this moment as the service has it: that of a usage, which is the first of what a test looks at."""
    id_ = post_usage(url, b'{"medication": "marker"}').json()["id"]
    received_at: str = call(url, "GET", f"/api/usages/{id_}").json()["received_at"]
    return received_at


class BatchStream:
    """One streamed batch on a connection of its own: items go out, results come in, and neither waits for the other."""

    def __init__(self, url: str, *, timeout_s: float = 60) -> None:
        self._connection = _connect(url, timeout_s)
        self._connection.putrequest("POST", BATCH)
        self._connection.putheader(*LINES_TYPE)
        self._connection.putheader("Transfer-Encoding", "chunked")
        self._connection.endheaders()
        self._lines: Iterator[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave, whatever is on its way."""
        self._connection.close()

    def send(self, items: Iterable[bytes]) -> None:
        """Items, a line each."""
        data = b"".join(item + b"\n" for item in items)
        self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """The request is over."""
        self._connection.send(b"0\r\n\r\n")

    def results(self, count: int) -> list[dict[str, Any]]:
        """The next results."""
        return [json.loads(next(self._answer())) for _ in range(count)]

    def last(self) -> dict[str, Any]:
        """The last line; the answer is whole then."""
        (line,) = self._answer()
        document: dict[str, Any] = json.loads(line)
        return document

    def _answer(self) -> Iterator[bytes]:
        if self._lines is None:
            response = self._connection.getresponse()
            assert response.status == 200, response.read()
            self._lines = _lines(response)
        return self._lines


def stream(url: str, items: Iterable[bytes], timeout_s: float = 60) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Send all items through one connection; the result of each, and what the last line says."""
    with BatchStream(url, timeout_s=timeout_s) as batch:

        def send() -> None:
            with contextlib.suppress(OSError):  # whoever reads says what went wrong
                waiting: list[bytes] = []
                for item in items:
                    waiting.append(item)
                    if len(waiting) == LINES_AT_ONCE:
                        batch.send(waiting)
                        waiting = []
                if waiting:
                    batch.send(waiting)
                batch.finish()

        sender = threading.Thread(target=send, name="sender", daemon=True)
        sender.start()
        lines = list(batch._answer())
        sender.join(timeout_s)
    *results, last = map(json.loads, lines)
    return results, last


def post_batch(url: str, items: Iterable[bytes], *headers: tuple[str, str], query: str = "") -> Answer:
    """POST an array."""
    body = b"[" + b", ".join(items) + b"]"
    return call(url, "POST", BATCH + query, body, headers=[("Content-Type", "application/json"), *headers])


def offer(url: str, path: str, headers: HeaderList, parts: Iterable[bytes]) -> Answer:
    """Send parts as chunks until all are sent or an answer comes; the answer."""
    with Wire(url, timeout_s=60) as wire:
        wire.request("POST", path, [*headers, ("Transfer-Encoding", "chunked")])
        with contextlib.suppress(Closed):
            for part in parts:
                if wire.readable(0):
                    break
                wire.send(b"%x\r\n%b\r\n" % (len(part), part))
            else:
                wire.send(b"0\r\n\r\n")
        return wire.answer()


def export(url: str, timeout_s: float = 60, **span: str | None) -> list[Row]:
    """All usages of a span (from_, to), streamed. Fails when the stream is cut off."""
    return list(exported(url, timeout_s, **span))


def exported(url: str, timeout_s: float = 60, **span: str | None) -> Iterator[Row]:
    """The same one by one, as they come."""
    connection = _connect(url, timeout_s)
    try:
        connection.request("GET", _target("/api/usages", span), headers={"Accept": "application/x-ndjson"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        yield from map(row, _lines(response))
    finally:
        connection.close()


def pages(url: str, limit: int, **span: str | None) -> Iterator[list[Row]]:
    """Page after page of a span, each by the cursor of the one before."""
    target = _target("/api/usages", span | {"limit": str(limit)})
    while True:
        answer = call(url, "GET", target)
        assert answer.status == 200, answer.body
        page = answer.json()
        yield [Row(each["id"], each["received_at"], json.dumps(each["usage"]).encode()) for each in page["usages"]]
        if page["next"] is None:
            assert answer.header("link") is None
            return
        target = _target("/api/usages", {"limit": str(limit), "cursor": page["next"]})


def count(url: str, window: str | None = None, **span: str | None) -> dict[str, Any]:
    """What /api/usages/count says of a span."""
    answer = call(url, "GET", _target("/api/usages/count", span | {"window": window}))
    assert answer.status == 200, answer.body
    counted: dict[str, Any] = answer.json()
    return counted


def _target(path: str, parameters: dict[str, str | None]) -> str:
    return f"{path}?{urlencode({name.rstrip('_'): value for name, value in parameters.items() if value is not None})}"


def _connect(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Lines as they come. Raises IncompleteRead when the last chunk is missing."""
    rest = b""
    while piece := response.read1(1 << 16):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    assert rest == b"", "the last line has no end"
