"""The short way for plain requests, inside uvicorn's own HTTP/1.1 protocol.

Most of what a request costs in an ASGI server is not the handler: a parser's calls, a scope, an event, two messages,
timers, headers checked by regular expressions. A plain request on a hot route (``plain.py``) needs none of it: it is
handed to its handler as it is, and the answer is one write. A usage without an Idempotency-Key needs no coroutine
either: the group commit gives the result to the request itself. Everything else goes uvicorn's way; the answers are
the same, and the contract tests run over both. service/DESIGN.md has what each step saves.
"""

from __future__ import annotations

import http
import time
from typing import Any
from typing import Protocol as Interface

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import parsing
from service.errors import Problem
from service.http import Request, Response, WholeRequest, request_id
from service.instance import Instance
from service.metrics import ANSWERS
from service.plain import Plain, PlainReader
from service.reporting import Reporter
from service.settings import Settings

USAGES = "/api/usages"

CREATED = (
    b"HTTP/1.1 201 Created\r\n%bcontent-type: application/json\r\nlocation: /api/usages/%d\r\n"
    b'content-length: %d\r\nx-request-id: %b\r\n%b\r\n{"id": %d}'
)
CLOSE = b"connection: close\r\n"


class Serving(Interface):
    """What the short way needs of the application."""

    settings: Settings
    instance: Instance
    reporter: Reporter
    plain: PlainReader

    async def respond(self, request: Request, method: str, path: str, started_s: float) -> Response:
        """The answer, whatever goes wrong."""

    def template(self, path: str) -> str:
        """The route that a path belongs to."""


class _NoEvent:
    """Stands where uvicorn wakes an ASGI application; a short cut has none."""

    def set(self) -> None:
        pass


class Shortcut:
    """One request on the short way. To uvicorn's protocol it looks like one of its own cycles."""

    __slots__ = ("disconnected", "held", "keep_alive", "protocol", "response_complete", "started_s", "x_request_id")

    message_event = _NoEvent()
    more_body = False

    def __init__(self, protocol: Protocol, plain: Plain) -> None:
        self.protocol = protocol
        self.held = len(plain.body)
        self.x_request_id = plain.headers.get(b"x-request-id")
        self.started_s = time.perf_counter()
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    # What a group commit does with a future, done without one.

    def cancelled(self) -> bool:
        """A client that left does not take its usage back."""
        return False

    def done(self) -> bool:
        """Whether it was answered."""
        return self.response_complete

    def set_result(self, id_: int) -> None:
        """The usage is on disk."""
        self.protocol.created(self, id_)

    def set_exception(self, error: BaseException) -> None:
        """The usage is not, or nobody knows."""
        self.protocol.refuse(self, error)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with the short way and with problem documents for what the parser refuses."""

    cycle: Any  # a Shortcut or uvicorn's own

    def __init__(self, *args: Any, serving: Serving, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._serving = serving
        self._refused = False
        self._between_requests = True
        self._active_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Take the short way where it is open, else parse."""
        if self._refused:
            return
        if self._between_requests and (self.cycle is None or self.cycle.response_complete):
            plain = self._serving.plain.read(data)
            if plain is not None and self._takes(plain):
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

    # --- the short way

    def _takes(self, plain: Plain) -> bool:
        """Whether the short way is open for it; then it has been taken."""
        serving = self._serving
        instance = serving.instance
        admission = instance.admission
        if (
            instance.draining
            or serving.settings.cors_origins  # whose headers every answer carries
            or self.flow.write_paused
            or admission.requests >= admission.requests_max
            or admission.body_bytes + len(plain.body) > admission.body_bytes_max
        ):
            return False
        headers = plain.headers
        cycle = Shortcut(self, plain)
        if (
            plain.path != USAGES
            or b"idempotency-key" in headers
            or headers.get(b"content-type") != b"application/json"
            or len(plain.body) > serving.settings.usage_bytes_max
        ):
            self._begin(cycle)
            task = self.loop.create_task(self._respond(cycle, plain))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return True
        self._begin(cycle)
        try:
            parsing.check_usage(plain.body)
            instance.usages.submit_to(cycle, plain.body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log its trace
            self.refuse(cycle, error)
        return True

    def _begin(self, cycle: Shortcut) -> None:
        self.cycle = cycle
        admission = self._serving.instance.admission
        admission.requests += 1
        admission.body_bytes += cycle.held

    async def _respond(self, cycle: Shortcut, plain: Plain) -> None:
        serving = self._serving
        request = WholeRequest(plain.headers, plain.body, serving.instance.admission)
        response = await serving.respond(request, plain.method, plain.path, cycle.started_s)
        answer = self._bytes(response, request.request_id, keep_alive=self._stays(cycle))
        self._finish(cycle, serving.template(plain.path), plain.method, response.status, answer)

    def created(self, cycle: Shortcut, id_: int) -> None:
        """Answer a usage that is on disk."""
        sent = cycle.x_request_id
        answer = CREATED % (
            _heads(self.server_state.default_headers, self._serving)[2],
            id_,
            len(str(id_)) + 8,
            request_id(sent).encode(),
            b"" if self._stays(cycle) else CLOSE,
            id_,
        )
        self._finish(cycle, USAGES, "POST", 201, answer)

    def refuse(self, cycle: Shortcut, error: BaseException) -> None:
        """Answer a usage that was refused, or whose fate is not known."""
        id_ = request_id(cycle.x_request_id)
        response = self._serving.reporter.problem(error, id_, "POST", USAGES, cycle.started_s)
        answer = self._bytes(response, id_, keep_alive=self._stays(cycle))
        self._finish(cycle, USAGES, "POST", response.status, answer)

    def _stays(self, cycle: Shortcut) -> bool:
        return cycle.keep_alive and not self._serving.instance.draining

    def _finish(self, cycle: Shortcut, template: str, method: str, status: int, answer: bytes) -> None:
        serving = self._serving
        admission = serving.instance.admission
        admission.requests -= 1
        admission.body_bytes -= cycle.held
        cycle.response_complete = True
        ANSWERS.count(template, method, status, time.perf_counter() - cycle.started_s)
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        if not self._stays(cycle):
            self.transport.close()
        if self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._active_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._await_next(self.timeout_keep_alive)

    # --- idle connections: one timer that is moved when it fires, not at each request

    def _await_next(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for so long."""
        self.timeout_keep_alive_task = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # its end waits anew
        left_s = self.timeout_keep_alive - (self.loop.time() - self._active_s)
        if left_s > 0:
            self._await_next(left_s)
        else:
            super().timeout_keep_alive_handler()

    # --- uvicorn's way

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
        """The parser has begun a request: what follows is its until the request is whole."""
        self._between_requests = False
        super().on_message_begin()
        # An answer in parts may have to end its connection: ASGI has no word for that.
        self.scope["extensions"] = {"connection": {"transport": self.transport}}

    def on_headers_complete(self) -> None:
        """A request that offers an upgrade comes again, without the offer."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self.parser.should_upgrade():
            self._between_requests = True
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the words are the document's
        """What the parser does not take for HTTP gets a problem document, and the connection ends.

        Behind a request that is still to be answered it gets nothing: this 400 would be read as that one's answer.
        """
        self._refused = True
        cycle = self.cycle
        if self.pipeline or (cycle is not None and not cycle.response_complete):
            whole = not cycle.more_body
            if whole:
                cycle.keep_alive = False
            if whole or self.pipeline:
                if not whole:
                    self.transport.close()
                return
        problem = Problem(400, "bad_request", "This is not a valid HTTP request.")
        id_ = request_id(dict(self.headers or ()).get(b"x-request-id"))
        response = self._serving.reporter.problem(problem, id_, "?", "?", time.perf_counter())
        self.transport.write(self._bytes(response, id_, keep_alive=False))
        self.transport.close()

    def _bytes(self, response: Response, request_id_: str, *, keep_alive: bool) -> bytes:
        headers = response.headers
        if response.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers.append((b"x-request-id", request_id_.encode()))
        if not keep_alive and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        return b"HTTP/1.1 %d %b\r\n%b%b\r\n%b" % (
            response.status,
            http.HTTPStatus(response.status).phrase.encode(),
            _heads(self.server_state.default_headers, self._serving)[1],
            b"".join([b"%b: %b\r\n" % header for header in headers]),
            response.body,
        )


_rendered: tuple[list[tuple[bytes, bytes]], bytes, bytes] = ([], b"", b"")


def _heads(default_headers: list[tuple[bytes, bytes]], serving: Serving) -> tuple[Any, bytes, bytes]:
    """The headers of every answer (the date) as uvicorn has them, as bytes, and as bytes with the Ack header.

    uvicorn makes a new list of them once a second: only then the Ack is looked at, and costs a request nothing.
    """
    global _rendered  # noqa: PLW0603 - a cache of one
    if default_headers is not _rendered[0]:
        acks = serving.instance.acks
        acks.refresh()
        head = b"".join([b"%b: %b\r\n" % header for header in default_headers])
        _rendered = (default_headers, head, head + acks.line)
    return _rendered
