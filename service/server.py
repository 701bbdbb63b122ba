"""One serving process: uvicorn, with a shutdown that a balancer can follow.

SIGTERM: unready but still serving for ``drain_delay_s``, so that HAProxy's checks see it and
send nothing more; then the listening socket closes, requests in flight finish, group commits
drain, the store closes, exit 0. uvicorn alone closes the socket first, and clients see it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import math
import os
import signal
import socket
from types import FrameType
from typing import Any, cast

import uvicorn

from service.app import Application, create_app
from service.listening import BACKLOG, UnixSocketFile, listen_unix, url
from service.protocol import Protocol
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)

EXIT_FAILED = 1
GC_THRESHOLD = 20_000
"""Objects between two looks for cycles. Requests leave none behind; with Python's 700 the looks for them took 4 % of
the CPU, as what is in flight is looked through each time."""


def serve(settings: Settings, bound: socket.socket, parent_gone: int | None = None, store: Store | None = None) -> None:
    """Serve until SIGTERM or SIGINT has been seen through. Raises SystemExit when it cannot listen.

    ``parent_gone`` is a pipe that ends with the parent; ``store`` stands in for the one that the settings name.
    """
    app = create_app(settings, store)
    config = uvicorn.Config(
        app,
        http=functools.partial(Protocol, serving=app),  # type: ignore[arg-type]  # a factory is all that is called
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
    )
    server = Server(config, settings, app, parent_gone)
    server.run([bound])
    if server.failed:
        raise SystemExit(EXIT_FAILED)


class Server(uvicorn.Server):
    """uvicorn's server with the drain in front of its own shutdown."""

    def __init__(self, config: uvicorn.Config, settings: Settings, app: Application, parent_gone: int | None) -> None:
        super().__init__(config)
        self._settings = settings
        self._application = app
        self._parent_gone = parent_gone
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unix: UnixSocketFile | None = None
        self.failed = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and note the loop that signals are handed to."""
        self._loop = asyncio.get_running_loop()
        if self._parent_gone is not None:
            self._loop.add_reader(self._parent_gone, self._orphaned, self._loop, self._parent_gone)
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through again
        gc.set_threshold(GC_THRESHOLD)
        if self._settings.listen_unix and not self.should_exit:
            await self._listen_unix(self._settings.listen_unix)
        if sockets and not self.should_exit:
            where = {"url": url(sockets[0]), "store": str(self._settings.store), "pid": os.getpid()}
            log.info("listening", extra={"fields": where})

    async def _listen_unix(self, path: str) -> None:
        """Serve on a Unix socket too. As uvicorn's own servers it is closed by its shutdown."""
        try:
            bound, self._unix = listen_unix(path)
        except OSError as error:
            log.error("cannot listen", extra={"fields": {"path": path, "error": str(error)}})  # noqa: TRY400
            self.should_exit = self.failed = True
            return
        protocol = functools.partial(
            cast(Any, self.config.http_protocol_class),  # our own factory, which uvicorn calls just so
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_unix_server(protocol, sock=bound, backlog=self.config.backlog))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as uvicorn does. The socket's file goes first: while this one drains, another may take its place."""
        if self._unix is not None:
            self._unix.remove()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """First signal: drain, without the delay when it is Ctrl-C. A second one skips the delay, a third all waiting."""
        if self._loop is None:
            self.should_exit = True
        elif self.should_exit:
            self.force_exit = sig == signal.SIGINT
        else:
            self._loop.call_soon_threadsafe(
                self._begin_drain, 0.0 if sig == signal.SIGINT else self._settings.drain_delay_s
            )

    def _begin_drain(self, delay_s: float) -> None:
        if self._drain is not None:
            self.should_exit = True
            return
        self._application.instance.drain()
        self._drain = asyncio.ensure_future(self._wait_and_exit(delay_s))

    async def _wait_and_exit(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._application.instance.batches.end_streams()
        self.should_exit = True

    def _orphaned(self, loop: asyncio.AbstractEventLoop, parent_gone: int) -> None:
        loop.remove_reader(parent_gone)
        log.warning("the parent process is gone")
        self._begin_drain(0.0)
