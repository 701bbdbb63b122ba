"""A witness beside the load: few requests, each measured from its sending, each answer looked at whole.

The load's own latencies count from the intended start and hold what its clients waited; what a service promises of one
request is told apart here: how late the answer came, whether a 503 said when to come back, whether a read found what had
been acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

RATE_PER_S = 40.0
TIMEOUT_S = 30.0
HEAD_BYTES_MAX = 16_384
KEPT_MAX = 500
"""Acknowledged usages that are read again."""
IDLE_MAX = 16
IN_FLIGHT_MAX = 2_000
"""More than RATE_PER_S x TIMEOUT_S; beyond it, requests are left out and counted."""
SAMPLES_MAX = 2_000_000
NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. ``status`` is 0 when there was no answer; ``wrong`` says what an answer may never be."""

    at_unix_s: float
    name: str
    status: int
    took_s: float
    write: bool
    text: str = ""
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Closed(Exception):
    """There was no answer; the text says how."""


class Witness:
    """Asks in a thread of its own between ``start`` and ``stop``; ``samples`` grows meanwhile."""

    def __init__(self, host: str, port: int, rate_per_s: float = RATE_PER_S) -> None:
        self.samples: list[Sample] = []
        self.left_out = 0
        self._address = (host, port)
        self._interval_s = 1 / rate_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="witness", daemon=True)
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._kept: deque[tuple[str, bytes]] = deque(maxlen=KEPT_MAX)
        self._number = 0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask nothing more, and wait for what is still to be answered. Nothing to do when it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT_S + 5)

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        next_s = time.monotonic()
        while not self._stop.is_set():
            next_s = max(next_s + self._interval_s, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            if len(tasks) >= IN_FLIGHT_MAX or len(self.samples) >= SAMPLES_MAX:
                self.left_out += 1
                continue
            task = asyncio.create_task(self._ask(self._number))
            self._number += 1
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, number: int) -> None:
        kind = number % 4
        body = b'{"witness": %d}' % number
        if kind == 3 and self._kept:
            path, stored = self._kept[number * 7919 % len(self._kept)]
            await self._exchange("GET", path, "GET usage", b"", "", stored)
        elif kind == 2:
            key = uuid.uuid4().hex
            await self._exchange(
                "POST", "/api/usages", "POST usage with a key", body, f"Idempotency-Key: {key}\r\n", None
            )
        else:
            await self._exchange("POST", "/api/usages", "POST usage", body, "", None)

    async def _exchange(
        self, method: str, path: str, name: str, body: bytes, headers: str, stored: bytes | None
    ) -> None:
        if body:
            headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = f"{method} {path} HTTP/1.1\r\nHost: witness\r\n{headers}\r\n".encode() + body
        began_s, at_unix_s = time.monotonic(), time.time()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._talk(request)
        except TimeoutError:
            status, text, wrong = NO_ANSWER, "no answer in time", f"no answer within {TIMEOUT_S:g} s"
        except (OSError, _Closed) as error:
            status, text, wrong = NO_ANSWER, getattr(error, "strerror", None) or str(error), ""
        else:
            status, text, wrong = (
                reply.status,
                _code(reply),
                wrong_with(reply.status, reply.headers, reply.body, stored),
            )
            if status == 201 and not wrong:
                self._kept.append((reply.headers["location"], body))
        self.samples.append(Sample(at_unix_s, name, status, time.monotonic() - began_s, method == "POST", text, wrong))

    async def _talk(self, request: bytes) -> _Reply:
        connection = None
        while self._idle and connection is None:
            reader, writer = self._idle.pop()
            if reader.at_eof() or writer.is_closing():
                writer.close()
            else:
                connection = reader, writer
        reader, writer = connection or await self._connect()
        try:
            writer.write(request)
            reply = await _read(reader)
        except BaseException:
            writer.close()
            raise
        closes = "close" in reply.headers.get("connection", "").lower()
        if closes or len(self._idle) >= IDLE_MAX or self._stop.is_set():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return reply

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self._address, limit=HEAD_BYTES_MAX)
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer


async def _read(reader: asyncio.StreamReader) -> _Reply:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        parsed = http.client.HTTPResponse(cast(socket.socket, _Received(head)))
        parsed.begin()
        body = await reader.readexactly(int(parsed.headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        raise _Closed("closed before an answer came") from None
    except (ValueError, http.client.HTTPException, asyncio.LimitOverrunError) as error:
        raise _Closed(f"not understood: {error!r}") from error
    return _Reply(parsed.status, parsed.headers, body)


class _Received:
    """Bytes in the shape of a socket, which is where http.client reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def wrong_with(status: int, headers: http.client.HTTPMessage, body: bytes, stored: bytes | None) -> str:
    """What an answer may never be, in words, empty when it is fine. ``stored`` is what a read of it must find."""
    if status == 503:
        after = headers.get("retry-after", "")
        return "" if after.isascii() and after.isdigit() else f"503 with Retry-After {after!r}"
    if status in (502, 504):
        return ""
    if stored is None:
        return "" if status == 201 and "location" in headers else f"{status} {body[:120]!r}"
    if status != 200:
        return f"{status} for a usage that was acknowledged"
    try:
        same = json.loads(body)["usage"] == json.loads(stored)
    except (ValueError, KeyError, TypeError):
        same = False
    return "" if same else f"another usage than was acknowledged: {body[:120]!r}"


def _code(reply: _Reply) -> str:
    if reply.status < 400:
        return ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(reply.body)["code"])
    return ""


def between(samples: Sequence[Sample], from_unix_s: float, to_unix_s: float) -> list[Sample]:
    """Those that were sent in the window."""
    return [sample for sample in samples if from_unix_s <= sample.at_unix_s < to_unix_s]
