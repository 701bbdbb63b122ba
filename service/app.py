"""The ASGI application: finds the handler, sends its answer, turns every failure into a problem document."""

from __future__ import annotations

import asyncio
import contextlib
import time

from service import cors, health
from service.errors import Problem, StoreUnknown
from service.http import ClientLeft, Message, Receive, Request, Response, Scope, Send, Streamed
from service.instance import Instance
from service.metrics import ANSWERS
from service.plain import PlainReader
from service.reporting import Reporter
from service.routes import Resource, Routes
from service.settings import Settings
from service.store import Store

LINGER_BYTES_MAX = 1 << 20
LINGER_S = 1.0
"""After an answer to a body that was not read, so much and so long is still read: a close on
unread bytes is a reset, and a reset may overtake the answer on its way to the client."""


ACKNOWLEDGED, WRITES = "/api/usages", ("POST", "DELETE")
"""A 2xx to one of these, at this path and below, says what it is worth."""

LISTEN_DELAY_MAX_S = 5.0
"""Longest time that a new instance waits for its store before it listens. A balancer that has just found it may take
it for ready until its first check; a refused connection goes elsewhere, a request to an unready instance is a 503."""


class Application:
    """One web instance as an ASGI callable."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self.settings = settings
        self._store = store
        self.plain = PlainReader()
        self._cold = health.cold_app(lambda: self.instance)

    def start(self) -> None:
        """Build the instance in the running event loop, and the table of its routes."""
        self.instance = instance = Instance(self.settings, self._store)
        self.reporter = Reporter(instance.retry_after_s)
        usages, messages, deleting = instance.usages, instance.messages, instance.deleting
        self.hot = Routes(
            [
                Resource("/api/usages", {"POST": usages.post, "GET": instance.reading.read}),
                Resource("/api/usages/count", {"GET": instance.counting.count}),
                Resource("/api/usages/batch", {"POST": instance.batches.post}),
                Resource("/api/usages/{id}", {"GET": usages.get, "DELETE": deleting.delete}),
                Resource("/api/usages/keys/{key}", {"GET": usages.get_by_key, "DELETE": deleting.delete_by_key}),
                Resource("/messages", {"POST": messages.post}),
                Resource("/messages/{digest}", {"GET": messages.get, "DELETE": messages.delete}),
            ]
        )
        instance.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or live through the server's start and stop."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.start()
        await self.instance.wait_for_session(LISTEN_DELAY_MAX_S)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.instance.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()
        admission = self.instance.admission
        admission.requests += 1
        request = Request(scope, receive, admission)
        path: str = scope["path"]
        method: str = scope["method"]
        try:
            try:
                response = await self.respond(request, method, path, started_s)
            except ClientLeft:
                return
            await self._send(request, response, send)
            ANSWERS.count(self.template(path), method, response.status, time.perf_counter() - started_s)
        finally:
            admission.requests -= 1
            admission.body_bytes -= request.body_bytes

    async def respond(self, request: Request, method: str, path: str, started_s: float) -> Response:
        """The answer, whatever goes wrong. Raises ClientLeft when there is nobody to give it to."""
        try:
            _check_host(request)
            if self.settings.cors_origins and cors.is_preflight(method, request.headers):
                return cors.preflight(self.settings.cors_origins, request.headers)
            found = self.hot.find(path)
            if found is None:
                return await self._cold_response(request, method)
            return await self._hot_response(found, request, method)
        except ClientLeft:
            raise
        except asyncio.CancelledError:
            # drain_timeout_s is over. uvicorn's own answer would be plain text.
            error = StoreUnknown("the web instance ended before the store answered")
            return self.reporter.problem(error, request.request_id, method, path, started_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer and the log its trace
            return self.reporter.problem(error, request.request_id, method, path, started_s)

    def template(self, path: str) -> str:
        """The route that a path belongs to, as the metrics name it."""
        found = self.hot.find(path)
        return found[0].template if found else path if path in health.PATHS else "unknown"

    async def _hot_response(self, found: tuple[Resource, str], request: Request, method: str) -> Response:
        resource, parameter = found
        handler = resource.methods.get(method)
        if handler is None:
            raise _method_not_allowed(resource.allow)
        request.admission.check()
        response = await handler(request, parameter)
        if method in WRITES and response.status < 300 and resource.template.startswith(ACKNOWLEDGED):
            response.headers.append(self.instance.acks.header)
        return response

    async def _cold_response(self, request: Request, method: str) -> Response:
        """What FastAPI answers, collected: these answers are small."""
        path: str = request.scope["path"]
        if path not in health.PATHS:
            raise Problem(404, "not_found", "There is nothing at this path.")
        if method not in ("GET", "HEAD"):
            raise _method_not_allowed(b"GET, HEAD")
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        # As GET: whether the body goes out is the server's business.
        await self._cold({**request.scope, "method": "GET"}, request.receive, collect)
        head = messages[0]
        headers = [header for header in head["headers"] if header[0] != b"content-length"]
        return Response(head["status"], b"".join(message.get("body", b"") for message in messages[1:]), headers)

    async def _send(self, request: Request, response: Response, send: Send) -> None:
        headers = response.headers
        streamed = isinstance(response, Streamed)
        if response.status not in (204, 304) and not streamed:
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers.append((b"x-request-id", request.request_id.encode()))
        if self.settings.cors_origins:
            headers.extend(cors.answer_headers(self.settings.cors_origins, request.headers))
        left = request.body_left() and not streamed  # a stream's may still be read before its answer ends
        if (left or self.instance.draining) and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if isinstance(response, Streamed):
            await self._send_parts(request, response, send)
            return
        await send({"type": "http.response.body", "body": response.body, "more_body": left})
        if left:
            await _linger(request)
            await send({"type": "http.response.body", "body": b""})

    async def _send_parts(self, request: Request, response: Streamed, send: Send) -> None:
        """Send the body of a streamed answer. Where it breaks off, so does the connection."""
        started_s = time.perf_counter()
        method: str = request.scope["method"]
        try:
            async with contextlib.aclosing(response.parts):
                if method != "HEAD":
                    await self._send_part(response.body, send)
                    async for part in response.parts:
                        await self._send_part(part, send)
        except Exception as error:  # noqa: BLE001 - whatever it is, the end of the connection says it
            if not isinstance(error, ClientLeft):
                self.reporter.problem(error, request.request_id, method, request.scope["path"], started_s)
            await _break_off(request)
            return
        except asyncio.CancelledError:  # drain_timeout_s is over
            await _break_off(request)
            return
        left = request.body_left()
        if left:
            await _linger(request)
        await send({"type": "http.response.body", "body": b""})
        if left:
            _transport(request).close()

    async def _send_part(self, part: bytes, send: Send) -> None:
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except TimeoutError:
            raise Problem(408, "request_timeout", "The client did not read its answer in time.") from None


def create_app(settings: Settings, store: Store | None = None) -> Application:
    """The ASGI application for these settings; ``store`` in place of the one they name."""
    return Application(settings, store)


async def _break_off(request: Request) -> None:
    """End the connection at once, whatever is still to be written to a client that may not be reading."""
    _transport(request).abort()
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _transport(request: Request) -> asyncio.Transport:
    """The connection that the request came over, where its protocol left it."""
    transport: asyncio.Transport = request.scope["extensions"]["connection"]["transport"]
    return transport


async def _linger(request: Request) -> None:
    seen = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while seen < LINGER_BYTES_MAX:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
                seen += len(message.get("body", b""))
    except TimeoutError:
        return


def _check_host(request: Request) -> None:
    if b"host" not in request.headers:
        if request.scope["http_version"] == "1.1":
            raise Problem(400, "bad_request", "HTTP/1.1 needs a Host header (RFC 9112, 3.2).", field="Host")
    elif len(request.values(b"host")) > 1:
        raise Problem(400, "bad_request", "There is more than one Host header (RFC 9112, 3.2).", field="Host")


def _method_not_allowed(allow: bytes) -> Problem:
    return Problem(405, "method_not_allowed", f"This resource takes {allow.decode()}.", headers=((b"allow", allow),))
