"""A user's connection: a bare socket that is watched all the time, and one sweep for everybody's time-outs."""

from __future__ import annotations

import _socket
import contextlib
import errno
import math
import os
import time
from typing import Any

import gevent

from loadtest.users.http1 import Answer, AnswerReader, BadAnswer
from loadtest.users.layout import Layouts
from loadtest.users.poller import Poller
from loadtest.users.target import Target
from loadtest.users.wire import RECEIVE_BYTES, Tls, Wire

WRITE = 2
NEVER = math.inf
SWEEP_S = 0.1
"""How often time-outs are looked for."""
STALL_S = 1.0
"""A sweep that comes so late found the generator asleep: answers may have come meanwhile, so every wait begins anew."""


class NoAnswer(Exception):
    """A request got no answer that could be read, or never left; ``sent`` tells whether any byte of it may have."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class _TimedOut(BaseException):
    """Thrown by the sweeper into whoever waits."""


class Sweeper:
    """Finds the connections of a process whose wait is over; ``sweep`` is to be called each ``SWEEP_S``.

    So a request needs no timer of its own, and a time-out is noticed up to twice ``SWEEP_S`` late, never early.
    ``now_s`` is the steady clock at the last sweep.
    """

    def __init__(self) -> None:
        self.now_s = time.monotonic()
        self.connections: set[Connection] = set()

    def sweep(self) -> None:
        """Wake every wait that has become too long; only the hub calls this."""
        before_s, self.now_s = self.now_s, time.monotonic()
        if self.now_s - before_s > STALL_S:
            for connection in self.connections:
                connection.wait_anew()
            return
        for connection in [each for each in self.connections if each.deadline_s < self.now_s]:
            # One that was woken before may have closed another or begun something new by now.
            if connection.deadline_s < self.now_s:
                connection.time_out()


class Connection:
    """A keep-alive connection of one greenlet, opened when it is needed and again after every close.

    A request that failed is never sent again. The socket is watched between requests too, so that a close by the server is
    seen before the next request rather than by it.
    """

    __slots__ = (
        "_connect_timeout_s", "_greenlet", "_hub_switch", "_left", "_loop", "_not_sent", "_poller", "_raw", "_reader", "_recv", "_send", "_sweeper",
        "_timeout_s", "_watched", "_wire", "deadline_s", "failed_opens", "target",
    )  # fmt: skip

    def __init__(
        self, target: Target, sweeper: Sweeper, poller: Poller, *, timeout_s: float, connect_timeout_s: float
    ) -> None:
        self.target = target
        self.deadline_s = NEVER
        self.failed_opens = 0
        self._sweeper = sweeper
        self._poller = poller
        self._timeout_s = timeout_s + SWEEP_S
        self._connect_timeout_s = connect_timeout_s + SWEEP_S
        hub = gevent.get_hub()
        self._loop = hub.loop
        self._hub_switch = hub.switch
        self._greenlet: Any = None
        self._raw: _socket.socket | None = None
        self._wire: Wire | None = None
        self._watched = -1
        self._left: tuple[int, OSError | None] | None = None
        self._reader = AnswerReader()

    @property
    def is_open(self) -> bool:
        """Whether it is connected, as far as is known."""
        return self._wire is not None

    def exchange(self, method: str, request: bytes, layouts: Layouts) -> Answer:
        """Send a whole request and return its answer; raises NoAnswer, after which the connection is closed."""
        if self._wire is None:
            self.open()
        try:
            outgoing = self._poller.outgoing
            if outgoing is not None:
                outgoing.append((self._send, request, self._not_sent))
            else:
                try:
                    sent = self._send(request)
                    if sent != len(request):
                        self._left = sent, None
                except OSError as error:
                    self._left = 0, error
            self.deadline_s = self._sweeper.now_s + self._timeout_s
            if self._left is None:
                self._hub_switch()
            if self._left is not None:
                self._send_rest(request)
                self._hub_switch()
            try:
                data = self._recv(layouts.room_bytes)
            except BlockingIOError:
                data = self._receive()
            answer = layouts.read(data) or self._read_on(method, data, layouts)
            self.deadline_s = NEVER
        except OSError as error:
            self.close()
            raise NoAnswer(f"connection broke: {_text(error)}", sent=True) from error
        except BadAnswer as error:
            self.close()
            raise NoAnswer(str(error), sent=True) from error
        except _TimedOut as error:
            begun = "a whole" if self._reader.begun else "an"
            self.close()
            raise NoAnswer(f"timed out: not {begun} answer in {self._timeout_s - SWEEP_S:g} s", sent=True) from error
        except BaseException:
            self.close()
            raise
        if answer.closes:
            self.close()
        return answer

    def open(self) -> None:
        """Connect, with TLS where the target has it; raises NoAnswer."""
        self._greenlet = gevent.getcurrent()
        self.failed_opens += 1
        self._sweeper.connections.add(self)
        self.deadline_s = self._sweeper.now_s + self._connect_timeout_s
        try:
            self._connect()
            if self.target.context is not None:
                self._wire = tls = Tls(self._connected(), self.target)
                while not tls.handshake():
                    self._hub_switch()
            else:
                self._wire = self._connected()
        except OSError as error:
            self.close()
            raise NoAnswer(f"cannot connect: {_text(error)}", sent=False) from error
        except _TimedOut as error:
            self.close()
            raise NoAnswer(
                f"cannot connect: timed out after {self._connect_timeout_s - SWEEP_S:g} s", sent=False
            ) from error
        except BaseException:
            self.close()
            raise
        self.failed_opens = 0
        self._send, self._recv, self._not_sent = self._wire.send, self._wire.recv, self._tell
        self._reader = AnswerReader()
        self.deadline_s = NEVER

    def close(self) -> None:
        """Close; the next exchange opens it again."""
        self.deadline_s = NEVER
        self._left = None
        self._sweeper.connections.discard(self)
        self._wire = None
        if self._watched >= 0:
            self._poller.remove(self._watched)
            self._watched = -1
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def wait_anew(self) -> None:
        """Give whoever waits the whole time-out once more."""
        if self.deadline_s != NEVER:
            self.deadline_s = self._sweeper.now_s + self._timeout_s

    def time_out(self) -> None:
        """End the wait of whoever waits; only the hub calls this."""
        self._greenlet.throw(_TimedOut)

    def _connect(self) -> None:
        failed: OSError | None = None
        for family, kind, protocol, _, address in self.target.addresses():
            try:
                self._raw = raw = _socket.socket(family, kind, protocol)
                raw.setblocking(False)
                code = raw.connect_ex(address)
                if code == errno.EINPROGRESS:
                    self._wait_for_write(raw)
                    code = raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code))
                raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                self._poller.add(raw.fileno(), self._readable)
                self._watched = raw.fileno()
                return
            except OSError as error:
                failed = error
                if self._raw is not None:
                    self._raw.close()
        raise failed or OSError(errno.EADDRNOTAVAIL, "the host has no address")

    def _connected(self) -> _socket.socket:
        assert self._raw is not None
        return self._raw

    def _readable(self) -> None:
        if self.deadline_s != NEVER:
            self._greenlet.switch()
        else:
            # Between requests nothing is due: the server has closed, or says what nobody asked for, or it is TLS's own.
            try:
                self._recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                pass
            self.close()

    def _wait_for_write(self, raw: _socket.socket) -> None:
        watcher = self._loop.io(raw.fileno(), WRITE)
        watcher.start(self._greenlet.switch)
        try:
            self._hub_switch()
        finally:
            watcher.stop()
            watcher.close()

    def _tell(self, sent: int, error: OSError | None) -> None:
        """Tell the greenlet that waits for an answer that only so many bytes of its request left; only the hub calls this."""
        if self.deadline_s != NEVER:
            self._left = sent, error
            self._greenlet.switch()

    def _send_rest(self, request: bytes) -> None:
        """What of a request did not leave at once: the kernel had no room for it, or it cannot leave any more."""
        assert self._left is not None
        (sent, error), self._left = self._left, None
        if error is not None and not isinstance(error, BlockingIOError):
            self.close()
            raise NoAnswer(f"connection broke before the request left: {_text(error)}", sent=False) from error
        rest = request[sent:]
        while rest:
            self._wait_for_write(self._connected())
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._send(rest) :]

    def _read_on(self, method: str, data: bytes, layouts: Layouts) -> Answer:
        """The long way: an answer of a new look, in pieces, or none."""
        self._reader.expect(method)
        whole = True
        while True:
            if not data:
                answer = self._reader.end()
                if answer is None:
                    raise BadAnswer("connection closed before an answer came")
                return answer
            answers = self._reader.feed(data)
            if answers:
                break
            whole = False
            data = self._receive()
        if not whole:
            layouts.widen()
        elif method != "HEAD":
            layouts.learn(answers[0])
        return answers[0]

    def _receive(self) -> bytes:
        while True:
            try:
                return self._recv(RECEIVE_BYTES)
            except BlockingIOError:
                self._hub_switch()


def _text(error: OSError) -> str:
    """Without numbers and addresses, so that one cause is one reason."""
    return str(getattr(error, "verify_message", "") or error.strerror or type(error).__name__)
