"""A driver connection that lives on the caller's own event loop.

The driver's reactors run a loop in a thread of their own, and every flush pays
several hand-overs under the GIL. Here the web instance's loop reads and writes
Cassandra's sockets itself. One rule follows: nothing that waits for a response
(connect, prepare, ``Session.execute``) may run on the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from cassandra.connection import Connection, ConnectionShutdown

READ_BYTES = 256 << 10


class LoopTimer:
    """A timer of the loop that any thread may start and cancel."""

    __slots__ = ("_callback", "_cancelled", "_connection_class", "_handle")

    def __init__(
        self, connection_class: type[LoopConnection], timeout_s: float, callback: Callable[[], object]
    ) -> None:
        self._connection_class = connection_class
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._cancelled = False
        connection_class.in_loop(self._start, timeout_s)

    def _start(self, timeout_s: float) -> None:
        if not self._cancelled:
            self._handle = self._connection_class.loop.call_later(max(timeout_s, 0), self._callback)

    def cancel(self) -> None:
        """The callback will not run, unless it runs already."""
        self._cancelled = True
        # A handle belongs to its loop's thread: uvloop's is a libuv timer, which other threads must not touch.
        if self._handle is not None:
            self._connection_class.in_loop(self._handle.cancel)


class LoopConnection(Connection):
    """A connection of the loop that :meth:`bound_to` named."""

    loop: asyncio.AbstractEventLoop
    loop_thread: int
    is_closed: bool
    is_defunct: bool

    @classmethod
    def bound_to(cls, loop: asyncio.AbstractEventLoop) -> type[LoopConnection]:
        """A class of connections on ``loop``; call it from the loop's thread."""
        return type("LoopConnection", (cls,), {"loop": loop, "loop_thread": threading.get_ident()})

    @classmethod
    def in_loop(cls, function: Callable[..., object], *args: Any) -> bool:
        """Run it on the loop's thread: now if this is it, else soon. False when the loop is closed."""
        if threading.get_ident() == cls.loop_thread and not cls.loop.is_closed():
            function(*args)
            return True
        try:
            cls.loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    @classmethod
    def create_timer(cls, timeout: float, callback: Callable[[], object]) -> LoopTimer:
        """What the driver calls for its time limits."""
        return LoopTimer(cls, timeout, callback)

    @classmethod
    def factory(cls, endpoint: Any, timeout: float, *args: Any, **kwargs: Any) -> Any:
        """Connect and shake hands, waiting for both: never on the loop's thread, which must read the answers."""
        if threading.get_ident() == cls.loop_thread:
            raise RuntimeError("a connection was opened on the loop's own thread; it would wait for itself")
        return super().factory(endpoint, timeout, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsent: list[bytes | memoryview] = []
        self._corked = False
        self._waits_for_room = False
        self._connect_socket()
        self._socket.setblocking(False)
        self._fd: int = self._socket.fileno()
        self.in_loop(self._start_reading)
        self._send_options_message()

    def _start_reading(self) -> None:
        if not self.is_closed:
            self.loop.add_reader(self._fd, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.defunct(error)
            return
        if not data:
            self.defunct(ConnectionShutdown(f"{self.endpoint} closed the connection"))
            return
        self._iobuf.write(data)
        self.process_io_buffer()

    def push(self, data: bytes) -> None:
        """What the driver calls to send. What the socket does not take waits; its bound is that of what is in flight.

        That is the session's, and once more as much where hedges have answered what this node has not: they come to an end
        with their time limits, or with the heartbeat that gives the node up.
        """
        if not self.in_loop(self._write, data):
            self.defunct(ConnectionShutdown("the event loop is closed"))

    def _write(self, data: bytes) -> None:
        """The first statement of a turn of the loop leaves at once; those behind it leave together at the turn's end."""
        if self.is_closed or self.is_defunct:
            # Closed between the driver's check and now: its sweep over the requests in flight may have missed this one.
            # Soon and not now, as the driver is still in the middle of sending.
            self.loop.call_soon(self.error_all_requests, ConnectionShutdown(f"{self.endpoint} is closed"))
            return
        self._unsent.append(data)
        if not self._corked:
            self._corked = True
            self.loop.call_soon(self._uncork)
            if len(self._unsent) == 1:
                self._send()

    def _uncork(self) -> None:
        self._corked = False
        if self._unsent and not self._waits_for_room:
            self._send()

    def _send(self) -> None:
        """Send what waits, as far as the socket takes it."""
        if self.is_closed:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.loop.call_soon(self.defunct, error)
            return
        self._unsent = [memoryview(data)[sent:]] if sent < len(data) else []
        if bool(self._unsent) is not self._waits_for_room:
            self._waits_for_room = bool(self._unsent)
            if self._waits_for_room:
                self.loop.add_writer(self._fd, self._send)
            else:
                self.loop.remove_writer(self._fd)

    def close(self) -> None:
        """Close, from any thread; requests in flight get a ConnectionShutdown, which leaves their outcome unknown."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
        if self._socket is not None and not self.in_loop(self._close_socket):
            self._socket.close()
        if not self.is_defunct:
            self.error_all_requests(ConnectionShutdown(f"{self.endpoint} was closed"))
            self.connected_event.set()

    def _close_socket(self) -> None:
        self.loop.remove_reader(self._fd)
        self.loop.remove_writer(self._fd)
        self._unsent.clear()
        self._socket.close()
