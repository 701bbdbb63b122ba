"""A witness beside the load: few requests, usages and messages, each measured from its sending, each answer looked at whole.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

RATE_PER_S = 40.0
TIMEOUT_S = 30.0
HEAD_BYTES_MAX = 16_384
KEPT_MAX = 500
"""Acknowledged usages that are read again, and as many messages."""
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


Right = Callable[[int, http.client.HTTPMessage, bytes], str]
"""What is wrong with an answer that is neither a 503 nor unknown, in words; empty when it is right."""


class Witness:
    """Asks in a thread of its own between ``start`` and ``stop``; ``samples`` grows meanwhile.

    ``troubles`` says why it may have seen less than there was; who judges by its samples looks there as well.
    """

    def __init__(self, host: str, port: int, rate_per_s: float = RATE_PER_S) -> None:
        self.samples: list[Sample] = []
        self._left_out = 0
        self._errors: list[str] = []
        self._address = (host, port)
        self._interval_s = 1 / rate_per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._witness, name="witness", daemon=True)
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        self._usages: deque[tuple[str, object]] = deque(maxlen=KEPT_MAX)
        self._messages: deque[tuple[str, str]] = deque(maxlen=KEPT_MAX)
        self._number = 0

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask nothing more, and wait for what is still to be answered. Nothing to do when it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(TIMEOUT_S + 5)

    @property
    def troubles(self) -> list[str]:
        """Once it was stopped: what it failed at, and what it left out."""
        found = list(dict.fromkeys(self._errors))
        found += [f"the witness left out {self._left_out} requests"] if self._left_out else []
        return [*found, "the witness has not ended"] if self._thread.is_alive() else found

    def _witness(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception as error:  # noqa: BLE001 - whatever it is, the verdict has to know
            self._errors.append(f"the witness ended: {error!r}")

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        next_s = time.monotonic()
        while not self._stop.is_set():
            next_s = max(next_s + self._interval_s, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            if len(tasks) >= IN_FLIGHT_MAX or len(self.samples) >= SAMPLES_MAX:
                self._left_out += 1
                continue
            task = asyncio.create_task(self._ask(self._number))
            self._number += 1
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(self._look)
        if tasks:
            await asyncio.wait(tasks)
        for _, writer in self._idle:
            writer.close()

    def _look(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(f"the witness failed: {error!r}")

    async def _ask(self, number: int) -> None:
        kind = number % 6
        usage, text = b'{"witness": %d}' % number, uuid.uuid4().hex
        if kind == 3 and self._usages:
            path, stored = self._usages[number * 7919 % len(self._usages)]
            await self._exchange("GET", path, "GET usage", is_stored("usage", stored))
        elif kind == 5 and self._messages:
            path, kept = self._messages[number * 7919 % len(self._messages)]
            await self._exchange("GET", path, "GET message", is_stored("message", kept))
        elif kind == 4:
            path = f"/messages/{sha256(text.encode()).hexdigest()}"
            body = json.dumps({"message": text}).encode()
            if await self._exchange("POST", "/messages", "POST message", is_digest(text), body) is not None:
                self._messages.append((path, text))
        else:
            name, headers = (
                ("POST usage with a key", f"Idempotency-Key: {text}\r\n") if kind == 2 else ("POST usage", "")
            )
            reply = await self._exchange("POST", "/api/usages", name, is_created, usage, headers)
            if reply is not None:
                self._usages.append((reply.headers["location"], json.loads(usage)))

    async def _exchange(
        self, method: str, path: str, name: str, right: Right, body: bytes = b"", headers: str = ""
    ) -> _Reply | None:
        """The answer when it is a 2xx that is right; whatever it is, it is a sample."""
        if body:
            headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = f"{method} {path} HTTP/1.1\r\nHost: witness\r\n{headers}\r\n".encode() + body
        began_s, at_unix_s = time.monotonic(), time.time()
        well = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._talk(request)
        except TimeoutError:
            status, text, wrong = NO_ANSWER, "no answer in time", f"no answer within {TIMEOUT_S:g} s"
        except (OSError, _Closed) as error:
            status, text, wrong = NO_ANSWER, getattr(error, "strerror", None) or str(error), ""
        else:
            status, text = reply.status, _code(reply)
            wrong = wrong_with(reply.status, reply.headers, reply.body, right)
            well = reply if status < 300 and not wrong else None
        self.samples.append(Sample(at_unix_s, name, status, time.monotonic() - began_s, method == "POST", text, wrong))
        return well

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


def wrong_with(status: int, headers: http.client.HTTPMessage, body: bytes, right: Right) -> str:
    """What an answer may never be, in words, empty when it is fine."""
    if status == 503:
        after = headers.get("retry-after", "")
        return "" if after.isascii() and after.isdigit() else f"503 with Retry-After {after!r}"
    if status in (502, 504):
        return ""
    return right(status, headers, body)


def is_created(status: int, headers: http.client.HTTPMessage, body: bytes) -> str:
    """A usage that was stored, with its place."""
    return "" if status == 201 and "location" in headers else f"{status} {body[:120]!r}"


def is_stored(member: str, stored: object) -> Right:
    """What had been acknowledged, as this member of the answer."""

    def right(status: int, _headers: http.client.HTTPMessage, body: bytes) -> str:
        if status != 200:
            return f"{status} for a {member} that was acknowledged"
        same = _field(body, member) == stored
        return "" if same else f"another {member} than was acknowledged: {body[:120]!r}"

    return right


def is_digest(text: str) -> Right:
    """A message that was stored, by its digest."""
    digest = sha256(text.encode()).hexdigest()
    return lambda status, _, body: (
        "" if status == 201 and _field(body, "digest") == digest else f"{status} {body[:120]!r}"
    )


def _field(body: bytes, name: str) -> object:
    """A member of a JSON object, None where there is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return cast(object, json.loads(body)[name])
    return None


def _code(reply: _Reply) -> str:
    if reply.status < 400:
        return ""
    code = _field(reply.body, "code")
    return "" if code is None else str(code)


def between(samples: Sequence[Sample], from_unix_s: float, to_unix_s: float) -> list[Sample]:
    """Those that were sent in the window."""
    return [sample for sample in samples if from_unix_s <= sample.at_unix_s < to_unix_s]
