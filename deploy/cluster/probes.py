"""Asking the processes whether they are ready: HTTP, HAProxy's statistics, CQL. Each probe has a time limit."""

from __future__ import annotations

import asyncio
import csv
import http.client
import io
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

PROBE_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 4 << 20


def is_free(addresses: Sequence[str], port: int) -> bool:
    """Whether nobody listens on the port on any of the addresses, and all of them are this machine's."""
    for address in addresses:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


async def http_get(address: str, port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET on a connection of its own; (0, "") when there is no answer."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n".encode())
        return await reader.read(-1)

    return parse_answer(await _converse(address, port, talk))


class _Received:
    """Bytes in the shape of a socket, which is where http.client reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def parse_answer(data: bytes) -> tuple[int, str]:
    """Status and body of an HTTP answer, chunked or not; (0, "") when it is none."""
    response = http.client.HTTPResponse(cast(socket.socket, _Received(data)))
    try:
        response.begin()
        return response.status, response.read().decode(errors="replace")
    except (http.client.HTTPException, ValueError):
        return 0, ""


async def is_ready(address: str, port: int) -> bool:
    """Whether GET /readyz is a 200."""
    status, _ = await http_get(address, port, "/readyz")
    return status == 200


@dataclass(frozen=True, slots=True)
class HaproxyView:
    """The web instances as HAProxy knows them at the moment."""

    known: frozenset[str]
    up: frozenset[str]


async def haproxy_view(address: str, port: int) -> HaproxyView:
    """What HAProxy's statistics say of the backend `web`; nothing known when it does not answer."""
    status, body = await http_get(address, port, "/;csv")
    return parse_statistics(body) if status == 200 else HaproxyView(frozenset(), frozenset())


def parse_statistics(text: str) -> HaproxyView:
    """The servers of the backend `web` in HAProxy's CSV."""
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    servers = [row for row in rows if row.get("pxname") == "web" and row.get("svname") not in {"BACKEND", "FRONTEND"}]
    up = frozenset(row["svname"] for row in servers if row["status"].startswith("UP"))
    return HaproxyView(frozenset(row["svname"] for row in servers), up)


async def cassandra_peers(address: str, port: int) -> int | None:
    """How many other nodes this one knows with their tokens; None while it answers no CQL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(cql_startup())
        await _read_frame(reader)
        writer.write(cql_query("SELECT tokens FROM system.peers_v2"))
        return await _read_frame(reader)

    return count_non_null_rows(await _converse(address, port, talk))


def cql_startup() -> bytes:
    """The frame that opens a conversation in protocol 4."""
    return _frame(0x01, b"\x00\x01" + _cql_string("CQL_VERSION") + _cql_string("3.0.0"))


def cql_query(query: str) -> bytes:
    """A query's frame: consistency ONE, no column metadata in the answer."""
    text = query.encode()
    return _frame(0x07, struct.pack(">I", len(text)) + text + b"\x00\x01\x02")


def count_non_null_rows(frame: bytes) -> int | None:
    """How many rows of a one-column result have a value; None when the frame is no such result."""
    if len(frame) < 25 or frame[4] != 0x08:  # RESULT
        return None
    kind, _, columns, rows = struct.unpack_from(">IIII", frame, 9)
    if kind != 2 or columns != 1:
        return None
    offset, there = 25, 0
    for _ in range(rows):
        (length,) = struct.unpack_from(">i", frame, offset)
        offset += 4 + max(0, length)
        there += length >= 0
    return there


def _frame(opcode: int, body: bytes) -> bytes:
    return struct.pack(">BBhBI", 4, 0, 0, opcode, len(body)) + body


def _cql_string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(9)
    (length,) = struct.unpack_from(">I", head, 5)
    return head + await reader.readexactly(min(length, ANSWER_BYTES_MAX))


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


async def _converse(address: str, port: int, talk: Talk) -> bytes:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(address, port, limit=ANSWER_BYTES_MAX)
            try:
                return await talk(reader, writer)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""
