"""One HTTP/1.1 request whose body is sent while its answer is read, which no client of the standard library does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from service import __version__
from service.transfer.errors import Broken, GaveUp, WrongUse

CONNECT_TIMEOUT_S = 10.0
HEAD_BYTES_MAX = 1 << 16
READ_BYTES = 1 << 16
PROBLEM_BYTES_MAX = 1 << 16
LINE_BYTES_MAX = 64 << 20
"""Longest line of an answer: an exported usage is one, and the largest setting of its body is 8 MiB."""
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that say nothing against the request itself."""


SOON = ("draining", "shutting_down", "ack_changed")
"""Codes after which the next attempt is taken at once: behind a balancer by another instance, or under another Ack."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service is."""

    host: str
    port: int
    prefix: str
    tls: bool

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def target(url: str) -> Target:
    """Read ``http://HOST[:PORT][/PREFIX]`` or https. Raises WrongUse."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WrongUse(f"--url {url!r}: {error}") from None
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise WrongUse(f"--url {url!r} is not http://HOST[:PORT] or https://HOST[:PORT]")
    return Target(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


@dataclass(frozen=True, slots=True)
class Head:
    """The status and the headers of an answer, their names in lower case."""

    status: int
    headers: Mapping[str, str]

    @property
    def retry_after_s(self) -> float:
        """What Retry-After asks for, 0 without it."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() and len(text) < 6 else 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is an error, as RFC 9457 has it."""

    status: int
    code: str
    detail: str
    retry_after_s: float

    def error(self) -> Exception:
        """Broken when trying again may help, else GaveUp."""
        said = f"{self.status} {self.code}".rstrip() + f": {self.detail}"
        if self.status not in TRY_AGAIN:
            return GaveUp(said)
        return Broken(said, self.retry_after_s, soon=self.code in SOON)


class Exchange:
    """A connection with one request on it. What breaks raises Broken."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, to: Target, method: str, path: str, headers: Mapping[str, str]) -> Exchange:
        """Connect and send the head. Raises Broken, or GaveUp when the certificate is not trusted."""
        context = ssl.create_default_context() if to.tls else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                streams = await asyncio.open_connection(to.host, to.port, ssl=context, limit=1 << 20)
        except ssl.SSLCertVerificationError as error:
            raise GaveUp(
                f"the certificate of {to.authority} is not trusted ({error.verify_message}); SSL_CERT_FILE names another CA"
            ) from None
        except (OSError, TimeoutError) as error:
            raise Broken(f"cannot connect to {to.authority}: {_words(error)}") from None
        exchange = cls(*streams)
        fields = {
            "Host": to.authority,
            "User-Agent": f"busyapi/{__version__}",
            "Connection": "close",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await exchange._write(f"{method} {to.prefix}{path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
        return exchange

    async def send(self, data: bytes) -> None:
        """One chunk of the body; returns when the connection takes more."""
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """The body is whole."""
        await self._write(b"0\r\n\r\n")

    async def head(self) -> Head:
        """The head of the final answer."""
        while True:
            text = await self._until(b"\r\n\r\n")
            status_line, *lines = text.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            version, _, rest = status_line.partition(" ")
            if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
                raise GaveUp(f"this is no HTTP: {status_line[:100]!r}")
            status = int(rest[:3])
            if status >= 200:
                pairs = (line.partition(":") for line in lines)
                self._headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
                return Head(status, self._headers)

    async def body(self) -> AsyncIterator[bytes]:
        """The body in pieces as they come. Raises Broken where it ends too early."""
        if self._headers.get("transfer-encoding", "").lower() == "chunked":
            while left := _chunk_size(await self._until(b"\r\n")):
                while left:
                    piece = await self._some(left)
                    left -= len(piece)
                    yield piece
                await self._until(b"\r\n")
            while await self._until(b"\r\n") != b"\r\n":
                pass  # a trailer
            return
        left = int(self._headers.get("content-length", "0"))
        while left:
            piece = await self._some(left)
            left -= len(piece)
            yield piece

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """The body's whole lines, as many at a time as came together; what follows the last newline is none."""
        rest = b""
        async for piece in self.body():
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise GaveUp(f"a line of the answer is longer than {LINE_BYTES_MAX} bytes")
            if whole:
                yield whole

    async def problem(self, head: Head) -> Problem:
        """What an answer that is no success says."""
        text = b""
        async for piece in self.body():
            text = (text + piece)[:PROBLEM_BYTES_MAX]
        return problem(head, text)

    def close(self) -> None:
        """Leave, whatever is on its way."""
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise Broken(f"the connection broke: {_words(error)}") from None

    async def _some(self, most: int) -> bytes:
        try:
            data = await self._reader.read(min(most, READ_BYTES))
        except OSError as error:
            raise Broken(f"the connection broke: {_words(error)}") from None
        if not data:
            raise Broken("the connection ended in the middle of an answer")
        return data

    async def _until(self, mark: bytes) -> bytes:
        try:
            return await self._reader.readuntil(mark)
        except asyncio.IncompleteReadError:
            raise Broken("the connection ended in the middle of an answer") from None
        except asyncio.LimitOverrunError:
            raise GaveUp("the answer is no HTTP: a line of its head does not end") from None
        except OSError as error:
            raise Broken(f"the connection broke: {_words(error)}") from None


def problem(head: Head, body: bytes) -> Problem:
    """Read a problem document, or whatever came in its place."""
    try:
        document: Any = msgspec.json.decode(body)
        return Problem(head.status, str(document["code"]), str(document["detail"]), head.retry_after_s)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
        return Problem(head.status, "", "the answer is no problem document", head.retry_after_s)


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise Broken("the answer is no HTTP: a chunk has no size") from None


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
