"""Work that blocks, in a thread of its own, and its result in a future of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run it in a thread that cannot hold up the end of the process, as the default executor's can."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            outcome = partial(set_result, future, work())
        except BaseException as error:  # noqa: BLE001  # whatever it is belongs to who waits for it
            outcome = partial(set_exception, future, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(outcome)

    threading.Thread(target=run, name="cassandra-blocking", daemon=True).start()
    return future


def set_result(future: asyncio.Future[T], result: T) -> None:
    """Unless it has one, or nobody waits any more."""
    if not future.done():
        future.set_result(result)


def set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    """Unless it has a result, or nobody waits any more."""
    if not future.done():
        future.set_exception(error)
