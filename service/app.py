"""The ASGI application: finds the handler, sends its answer, turns every failure into a problem document."""

from __future__ import annotations

import asyncio
import time

from service import cors, health
from service.errors import Problem, StoreUnknown
from service.http import ClientLeft, Message, Receive, Request, Response, Scope, Send
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
        usages, messages = instance.usages, instance.messages
        self.hot = Routes(
            [
                Resource("/api/usages", {"POST": usages.post}),
                Resource("/api/usages/{id}", {"GET": usages.get}),
                Resource("/api/usages/keys/{key}", {"GET": usages.get_by_key}),
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
        return await handler(request, parameter)

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
        if response.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(response.body)))
        headers.append((b"x-request-id", request.request_id.encode()))
        if self.settings.cors_origins:
            headers.extend(cors.answer_headers(self.settings.cors_origins, request.headers))
        left = request.body_left()
        if (left or self.instance.draining) and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": left})
        if left:
            await _linger(request)
            await send({"type": "http.response.body", "body": b""})


def create_app(settings: Settings, store: Store | None = None) -> Application:
    """The ASGI application for these settings; ``store`` in place of the one they name."""
    return Application(settings, store)


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
