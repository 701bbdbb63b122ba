"""The listening socket. Apart from the server, as the parent of several workers must not import metrics."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path
from typing import NamedTuple

BACKLOG = 4096
"""Connections that wait to be accepted; a burst arrives faster than one turn of the loop."""


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket; ``shared`` lets several processes bind the same port. Raises OSError.

    uvicorn makes it listen when it serves: until then a balancer is refused at once, and sends elsewhere.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class UnixSocketFile(NamedTuple):
    """The file of a bound Unix socket, and the inode that tells it from one that took its place."""

    path: Path
    inode: int

    def remove(self) -> None:
        """Remove the file, unless it is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


def listen_unix(path: str) -> tuple[socket.socket, UnixSocketFile]:
    """A bound Unix socket, in place of one that a process left behind when it was killed. Raises OSError.

    Whoever may write to the file may connect: its mode is the umask's.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            bound.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_behind(path):
                raise
            Path(path).unlink()
            bound.bind(path)
    except OSError:
        bound.close()
        raise
    return bound, UnixSocketFile(Path(path), Path(path).stat().st_ino)


def _is_left_behind(path: str) -> bool:
    if not Path(path).is_socket():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one that is full does not keep us waiting: it is not left behind
        return probe.connect_ex(path) == errno.ECONNREFUSED


def url(bound: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
