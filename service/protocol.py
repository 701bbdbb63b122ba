"""The short way for the plainest POST of a usage, inside uvicorn's own HTTP/1.1 protocol.

Most of what a request costs in an ASGI server is not the handler: a scope, a task, an event,
two messages, headers checked by regular expressions. A keep-alive ``POST /api/usages`` with a
plain JSON body and no Idempotency-Key needs none of it: its body goes from the parser to the
group commit, and its answer from the group commit to the socket. Measured without a store:
a third of the CPU of the smallest ASGI application. Everything else goes uvicorn's way, and the
answers are the same; the contract tests run over both.
"""

from __future__ import annotations

import asyncio
import functools
import http
import time
from typing import Any
from typing import Protocol as Interface

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import parsing
from service.admission import body_too_slow
from service.errors import Problem
from service.http import Response, request_id
from service.instance import Instance
from service.reporting import Reporter
from service.settings import Settings

USAGES = b"/api/usages"
PLAIN_HEADERS_MAX = 32

NOT_PLAIN = frozenset(
    (b"idempotency-key", b"expect", b"transfer-encoding", b"content-encoding", b"upgrade", b"connection")
)
"""Headers that change what a request means; with one of them it goes uvicorn's way."""


class Serving(Interface):
    """What the short way needs of the application."""

    settings: Settings
    instance: Instance
    reporter: Reporter


class _NoEvent:
    """Stands where uvicorn wakes an ASGI application; a short cut has none."""

    def set(self) -> None:
        pass


class Shortcut:
    """One POST on the short way. To uvicorn's protocol it looks like one of its own cycles."""

    __slots__ = (
        "body",
        "disconnected",
        "keep_alive",
        "length",
        "response_complete",
        "sent",
        "started_s",
        "timer",
        "x_request_id",
    )

    message_event = _NoEvent()

    def __init__(self, length: int, x_request_id: bytes | None) -> None:
        self.length = length
        self.x_request_id = x_request_id
        self.started_s = time.perf_counter()
        self.body = b""
        self.timer: asyncio.TimerHandle | None = None
        self.sent = False
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with the short way and with problem documents for what the parser refuses."""

    cycle: Any  # a Shortcut or uvicorn's own

    def __init__(self, *args: Any, serving: Serving, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._serving = serving
        self._refused = False

    def data_received(self, data: bytes) -> None:
        """Parse; a body whose end is not there yet has a time limit from now on."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("")
            else:
                self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        cycle = self.cycle
        if type(cycle) is Shortcut and not cycle.sent and cycle.timer is None:
            timeout_s = self._serving.settings.body_timeout_s
            cycle.timer = self.loop.call_later(timeout_s, self._give_up, cycle)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on as if no upgrade had been offered (RFC 9110, 7.8); the parser took what follows for another protocol."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                value = b"close" if b"close" in value.lower() else b"keep-alive"  # noqa: PLW2901 - the same header
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join((*head, b"\r\n", rest)))

    def on_message_begin(self) -> None:
        """Only what the short way needs; the scope is made when it turns out that it is not taken."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Decide which way the request goes."""
        if self.parser.should_upgrade():
            return  # it comes again, without the offer
        if self.url == USAGES:
            shortcut = self._shortcut()
            if shortcut is not None:
                self.cycle = shortcut
                return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)  # the same list is in the scope
        self.expect_100_continue = expect
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        cycle = self.cycle
        if type(cycle) is Shortcut:
            cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: hand the usage to its group commit."""
        cycle = self.cycle
        if self.parser.should_upgrade():
            return
        if type(cycle) is not Shortcut:
            super().on_message_complete()
            return
        if cycle.sent:
            return  # given up
        cycle.sent = True
        if cycle.timer is not None:
            cycle.timer.cancel()
        try:
            parsing.check_usage(cycle.body)
            future = self._serving.instance.usages.submit(cycle.body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log its trace
            self._refuse(cycle, error)
        else:
            future.add_done_callback(functools.partial(self._answer, cycle))

    def connection_lost(self, exc: Exception | None) -> None:
        """What was not sent to a group is forgotten; what was, is written."""
        cycle = self.cycle
        if type(cycle) is Shortcut and not cycle.sent:
            cycle.sent = True
            if cycle.timer is not None:
                cycle.timer.cancel()
            self._release(cycle)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the words are the document's
        """What the parser does not take for HTTP gets a problem document, and the connection ends.

        Behind a request that is still to be answered it gets nothing: this 400 would be read as that one's answer.
        """
        self._refused = True
        cycle = self.cycle
        if self.pipeline or (cycle is not None and not cycle.response_complete):
            whole = cycle.sent if type(cycle) is Shortcut else not cycle.more_body
            if whole:
                cycle.keep_alive = False
            if whole or self.pipeline:
                if not whole:
                    self.transport.close()
                return
        problem = Problem(400, "bad_request", "This is not a valid HTTP request.")
        id_ = request_id(dict(self.headers or ()).get(b"x-request-id"))
        response = self._serving.reporter.problem(problem, id_, "?", "?", time.perf_counter())
        response.headers.append((b"x-request-id", id_.encode()))
        self.transport.write(self._bytes(response, keep_alive=False))
        self.transport.close()

    def _shortcut(self) -> Shortcut | None:
        headers = dict(self.headers)
        admission = self._serving.instance.admission
        length = headers.get(b"content-length", b"")
        if (
            self.parser.get_method() != b"POST"
            or headers.get(b"content-type") != b"application/json"
            or not NOT_PLAIN.isdisjoint(headers)
            or b"host" not in headers
            or len(headers) != len(self.headers)  # a header that is repeated
            or not length.isdigit()
            or len(length) > 9
            or int(length) > self._serving.settings.usage_bytes_max
            or self.parser.get_http_version() != "1.1"
            or (self.cycle is not None and not self.cycle.response_complete)  # pipelined
            or self.flow.write_paused
            or self._serving.instance.draining
            or self._serving.settings.cors_origins  # whose headers every answer carries
            or admission.requests >= admission.requests_max
            or admission.body_bytes + int(length) > admission.body_bytes_max
        ):
            return None
        shortcut = Shortcut(int(length), headers.get(b"x-request-id"))
        admission.requests += 1
        admission.body_bytes += shortcut.length
        return shortcut

    def _give_up(self, cycle: Shortcut) -> None:
        if not cycle.sent:
            cycle.sent = True
            cycle.keep_alive = False
            self._refuse(cycle, body_too_slow())

    def _answer(self, cycle: Shortcut, future: asyncio.Future[int]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is not None:
            self._refuse(cycle, error)
            return
        id_ = b"%d" % future.result()
        self._finish(
            cycle,
            201,
            b"HTTP/1.1 201 Created\r\n%bcontent-type: application/json\r\nlocation: /api/usages/%b\r\n"
            b'content-length: %d\r\nx-request-id: %b\r\n%b\r\n{"id": %b}'
            % (
                self._default_headers(),
                id_,
                len(id_) + 8,
                request_id(cycle.x_request_id).encode(),
                b"" if cycle.keep_alive else b"connection: close\r\n",
                id_,
            ),
        )

    def _refuse(self, cycle: Shortcut, error: BaseException) -> None:
        id_ = request_id(cycle.x_request_id)
        response = self._serving.reporter.problem(error, id_, "POST", USAGES.decode(), cycle.started_s)
        response.headers.append((b"x-request-id", id_.encode()))
        self._finish(cycle, response.status, self._bytes(response, keep_alive=cycle.keep_alive))

    def _finish(self, cycle: Shortcut, status: int, answer: bytes) -> None:
        self._release(cycle)
        cycle.response_complete = True
        self._serving.reporter.count(USAGES.decode(), "POST", status, time.perf_counter() - cycle.started_s)
        if cycle.disconnected:
            return
        self.transport.write(answer)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _release(self, cycle: Shortcut) -> None:
        admission = self._serving.instance.admission
        admission.requests -= 1
        admission.body_bytes -= cycle.length

    def _bytes(self, response: Response, *, keep_alive: bool) -> bytes:
        headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
        if not keep_alive and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        return b"HTTP/1.1 %d %b\r\n%b%b\r\n%b" % (
            response.status,
            http.HTTPStatus(response.status).phrase.encode(),
            self._default_headers(),
            b"".join(b"%b: %b\r\n" % header for header in headers),
            response.body,
        )

    def _default_headers(self) -> bytes:
        return b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
