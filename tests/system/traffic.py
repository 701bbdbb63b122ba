"""Traffic in the background of a test: bounded, keep-alive, and every answer accounted for.

What a client can know of a request is one of three things: acknowledged (2xx), refused
(4xx, 503: certainly not stored) or unknown (anything else: 5xx, reset, time-out).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

REQUEST_TIMEOUT_S = 30.0
REFUSED_PAUSE_S = 0.2
UNKNOWN = 0
"""The status of a request whose answer never came."""

Call = tuple[str, str, bytes | None, tuple[tuple[str, str], ...]]
"""Method, path, body, headers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request: its status, or UNKNOWN; the body; how long it took."""

    status: int
    body: bytes
    seconds: float
    retry_after: str | None = None
    error: str = ""


class Connection:
    """One keep-alive client connection; opened when needed, opened anew after it broke."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._netloc = parts.netloc
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, call: Call) -> Outcome:
        """Send one request and wait for its answer. Never raises for what the other side does."""
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                status, body, retry_after = await self._exchange(call)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            return Outcome(UNKNOWN, b"", time.monotonic() - started_s, error=repr(error))
        return Outcome(status, body, time.monotonic() - started_s, retry_after)

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, call: Call) -> tuple[int, bytes, str | None]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        method, path, body, headers = call
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._netloc}", *(f"{key}: {value}" for key, value in headers)]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))
        await writer.drain()
        status_line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in rest if line)}
        status = int(status_line.split(" ")[1])
        content = b"" if status == 304 else await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection", "").lower() == "close":
            self.close()
        return status, content, fields.get("retry-after")


def send_all(urls: Sequence[str], calls: Sequence[Call], *, connections: int, time_limit_s: float) -> list[Outcome]:
    """Send all calls, so many at once, the connections spread over the URLs; the outcomes in the calls' order."""
    return asyncio.run(_send_all(urls, calls, connections, time_limit_s))


async def _send_all(urls: Sequence[str], calls: Sequence[Call], connections: int, time_limit_s: float) -> list[Outcome]:
    outcomes: list[Outcome | None] = [None] * len(calls)
    waiting = iter(range(len(calls)))

    async def work(url: str) -> None:
        connection = Connection(url)
        for index in waiting:
            outcomes[index] = await connection.exchange(calls[index])
        connection.close()

    async with asyncio.timeout(time_limit_s), asyncio.TaskGroup() as workers:
        for _, url in zip(range(connections), itertools.cycle(urls), strict=False):
            workers.create_task(work(url))
    return [outcome for outcome in outcomes if outcome is not None]


@dataclass
class Ledger:
    """What the client was told about each usage it sent."""

    acknowledged: dict[int, bytes] = field(default_factory=dict)
    refused: list[bytes] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)
    misread: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def note(self, outcome: Outcome) -> None:
        """Count an answer of any kind."""
        self.statuses[outcome.status] += 1
        self.slowest_s = max(self.slowest_s, outcome.seconds)
        if outcome.status not in (200, 201):
            self.errors[outcome.error or json.loads(outcome.body)["code"]] += 1

    def posted(self, usage: bytes, outcome: Outcome) -> int | None:
        """Enter what a POST was told; the id when it was acknowledged."""
        self.note(outcome)
        if outcome.status == 201:
            id_: int = json.loads(outcome.body)["id"]
            assert id_ not in self.acknowledged, f"the id {id_} was given twice"
            self.acknowledged[id_] = usage
            return id_
        if 400 <= outcome.status < 500 or outcome.status == 503:
            self.refused.append(usage)
        else:
            self.unknown.append(usage)
        return None

    def read(self, id_: int, outcome: Outcome) -> None:
        """Enter what a GET was told of an acknowledged usage."""
        self.note(outcome)
        if outcome.status == 404 or (
            outcome.status == 200 and json.loads(outcome.body)["usage"] != json.loads(self.acknowledged[id_])
        ):
            self.misread.append(f"usage {id_}: {outcome.status} {outcome.body[:200]!r}")


class Traffic:
    """Clients in a thread of their own that POST usages and GET each back, until the ``with`` ends or a bound is met."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 12,
        pause_s: float = 0.02,
        time_limit_s: float = 120,
        count_max: int = 60_000,
    ) -> None:
        self.ledger = Ledger()
        self._url = url
        self._connections = connections
        self._pause_s = pause_s
        self._ends_s = time.monotonic() + time_limit_s
        self._count_max = count_max
        self._run_id = uuid.uuid4().hex
        self._sent = 0
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(REQUEST_TIMEOUT_S + 10)
        assert not self._thread.is_alive(), "the traffic did not end"
        if self._failure is not None and error is None:
            raise self._failure

    def flow(self, answers: int = 200, *, status: int | None = None, time_limit_s: float = 30) -> None:
        """Wait until so many more answers (of this status) have come."""
        statuses = self.ledger.statuses
        count: Callable[[], int] = statuses.total if status is None else lambda: statuses[status]
        goal = count() + answers
        deadline_s = time.monotonic() + time_limit_s
        while count() < goal:
            assert self._failure is None, f"the traffic broke: {self._failure!r}"
            assert self._thread.is_alive(), f"the traffic met its bound: {statuses}"
            assert time.monotonic() < deadline_s, f"too few answers in {time_limit_s:g} s: {statuses}"
            time.sleep(0.02)

    def _run(self) -> None:
        try:
            asyncio.run(self._all())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            self._failure = error

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(self._connections):
                clients.create_task(self._client())

    def _goes_on(self) -> bool:
        return not self._stopping.is_set() and self._sent < self._count_max and time.monotonic() < self._ends_s

    async def _client(self) -> None:
        connection = Connection(self._url)
        while self._goes_on():
            self._sent += 1
            usage = b'{"patientId": "%b-%d", "medication": "Albuterol"}' % (self._run_id.encode(), self._sent)
            id_ = self.ledger.posted(usage, await connection.exchange(("POST", "/api/usages", usage, ())))
            if id_ is not None and self._goes_on():
                await asyncio.sleep(self._pause_s)
                self.ledger.read(id_, await connection.exchange(("GET", f"/api/usages/{id_}", None, ())))
            # A refused client goes easy on a service in trouble, though not as long as Retry-After would have it.
            await asyncio.sleep(self._pause_s if id_ is not None else REFUSED_PAUSE_S)
        connection.close()
