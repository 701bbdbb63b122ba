"""Where requests go: the host's URL, its addresses, and how TLS is spoken with it."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gevent import socket

RESOLVED_FOR_S = 10.0
"""How long the addresses of a name are kept."""


class Target:
    """A scheme, host and port; ``host_header`` is what requests say in ``Host``, ``prefix`` the path before theirs."""

    def __init__(self, host: str, port: int, host_header: str, prefix: str, context: ssl.SSLContext | None) -> None:
        self.host = host
        self.port = port
        self.host_header = host_header
        self.prefix = prefix
        self.context = context
        self._addresses: list[Any] = []
        self._resolved_at = 0.0

    @classmethod
    def of(cls, url: str, *, insecure: bool = False, ca: Path | None = None) -> Target:
        """The target of "http://…" or "https://…"; raises ValueError when it is neither, OSError for an unreadable CA."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the host must be an address such as http://127.0.0.1:8080, not {url!r}")
        tls = parts.scheme == "https"
        host_header = parts.netloc.rpartition("@")[2]
        context = _context(insecure=insecure, ca=ca) if tls else None
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, host_header, parts.path.rstrip("/"), context)

    def addresses(self) -> list[Any]:
        """As ``getaddrinfo`` gives them, asked for again after ``RESOLVED_FOR_S``. Raises OSError."""
        now_s = time.monotonic()
        if not self._addresses or now_s - self._resolved_at > RESOLVED_FOR_S:
            self._addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            self._resolved_at = now_s
        return self._addresses

    def head(self, method: str, path: str, body_bytes: int | None = None, headers: str = "") -> bytes:
        """A request's head; ``headers`` are whole lines, each with its CRLF. With ``body_bytes`` it says JSON comes."""
        body = "" if body_bytes is None else f"Content-Type: application/json\r\nContent-Length: {body_bytes}\r\n"
        text = f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: {self.host_header}\r\n{headers}{body}\r\n"
        return text.encode("latin-1")


def _context(*, insecure: bool, ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
