"""TLS over a socket that does not block, with the two methods of the socket itself."""

from __future__ import annotations

import _socket
import contextlib
import ssl
from typing import Protocol

from loadtest.users.target import Target

RECEIVE_BYTES = 65536


class Wire(Protocol):
    """What bytes go through: a socket, or TLS over it. Both methods raise BlockingIOError when it is not the time."""

    def send(self, data: bytes, /) -> int:
        """How many of these bytes were taken."""

    def recv(self, size: int, /) -> bytes:
        """What has come, at most so many bytes; empty at the end."""


class Tls:
    """TLS over a socket that does not block."""

    def __init__(self, raw: _socket.socket, target: Target) -> None:
        assert target.context is not None
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = target.context.wrap_bio(self._in, self._out, server_hostname=target.host)
        self._unsent = b""

    def handshake(self) -> bool:
        """Go on with it; False when more must come from the other side first. Raises OSError, and ssl.SSLError is one."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                try:
                    self._fill()
                except BlockingIOError:
                    return False
            else:
                self._flush()
                return True

    def send(self, data: bytes, /) -> int:
        """Encrypt all of it; what the socket does not take now goes out with the next read or write."""
        self._flush()
        self._tls.write(data)
        with contextlib.suppress(BlockingIOError):
            self._flush()
        return len(data)

    def recv(self, size: int, /) -> bytes:
        """Decrypted bytes."""
        if self._unsent:
            self._flush()
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if not self._fill():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    def _fill(self) -> bool:
        data = self._raw.recv(RECEIVE_BYTES)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        return bool(data)

    def _flush(self) -> None:
        self._unsent += self._out.read()
        while self._unsent:
            self._unsent = self._unsent[self._raw.send(self._unsent) :]
