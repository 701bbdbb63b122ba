"""A batch endpoint that does what a test says, connection by connection, for the client's own logic."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from service.transfer.wire import Target


class Visit:
    """One request of the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.head = b""
        self.read: list[dict[str, Any]] = []
        self.whole = False

    async def begin(self) -> None:
        """Read the request's head."""
        self.head = await self._reader.readuntil(b"\r\n\r\n")

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """The request's lines as they come, to the end of its body."""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            *whole, self._rest = (self._rest + (await self._reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in whole:
                self.read.append(json.loads(line))
                yield self.read[-1]
        await self._reader.readuntil(b"\r\n")
        self.whole = True

    async def answer(self, status: int = 200, body: bytes | None = None, **headers: str) -> None:
        """The answer's head; with ``body`` the whole answer."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields |= {"Transfer-Encoding": "chunked"} if body is None else {"Content-Length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + (body or b""))
        await self._writer.drain()

    async def problem(self, status: int, code: str, **headers: str) -> None:
        """A whole answer that is an error."""
        await self.answer(status, json.dumps({"code": code, "detail": f"detail of {code}"}).encode(), **headers)

    async def say(self, **line: Any) -> None:
        """One line of the answer."""
        await self.say_bytes(json.dumps(line).encode() + b"\n")

    async def say_bytes(self, data: bytes) -> None:
        """One chunk of the answer."""
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self, error: dict[str, Any] | None = None, **summary: Any) -> None:
        """The last line, and the end of the answer."""
        members = {"summary": {**summary, "complete": error is None}}
        await self.say(**({"error": error} if error else {}), **members)
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def cut(self) -> None:
        """The connection is gone."""
        self._writer.transport.abort()

    async def cut_and_heard(self) -> None:
        """End the connection, and return once the client has heard of it and has left as well."""
        self._writer.write_eof()
        with contextlib.suppress(OSError):
            await self._reader.read()
        self.cut()


Script = Callable[[Visit], Awaitable[None]]


class ScriptedService:
    """Meets each connection with the next of its scripts, the last of them again and again."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.visits: list[Visit] = []

    @contextlib.asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
        """Where it listens."""
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0, limit=1 << 24, ssl=tls)
        try:
            host, port = server.sockets[0].getsockname()
            yield Target(host, port, "", tls=tls is not None)
        finally:
            server.close()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        self.visits.append(visit)
        script = self._scripts[min(len(self.visits), len(self._scripts)) - 1]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await visit.begin()
            await script(visit)
        writer.close()


def results(of: Callable[[int, dict[str, Any]], dict[str, Any]], **summary: Any) -> Script:
    """Answers each line at once, by its number from 1 and what it is, and ends well."""

    async def script(visit: Visit) -> None:
        await visit.answer(ack="fsync; replicas=1")
        number = 0
        async for line in visit.lines():
            number += 1
            await visit.say(line=number, **of(number, line))
        await visit.end(**summary)

    return script


all_created = results(lambda _, line: {"status": "created", "id": line["idempotency_key"]})
