"""A thread with a connection of its own, which runs one job after the other."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs jobs on its connection, in order. A daemon: a job that never ends does not keep the process alive.

    The connection is opened for the first job; while that fails, each job fails with the reason.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[sqlite3.Connection], Any]] | None] = (
            queue.SimpleQueue()
        )
        self._overrun: Future[Any] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queue a job; cancelling the future succeeds only while it has not begun."""
        future: Future[T] = Future()
        self._jobs.put((future, work))
        return future

    def give_up(self, future: Future[Any]) -> bool:
        """No longer wait for a job. True when it will never begin; else it goes on, and until it ends this is stuck."""
        if future.cancel():
            return True
        self._overrun = future
        return False

    def is_stuck(self) -> bool:
        """Whether a job that was given up still runs: what is queued behind it would only pile up."""
        return self._overrun is not None and not self._overrun.done()

    def close(self, timeout_s: float) -> None:
        """End after the jobs that are queued, and wait for that, but no longer than ``timeout_s``."""
        self._jobs.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._jobs.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                connection = connection or self._connect()
                result = work(connection)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the job
                future.set_exception(error)
            else:
                future.set_result(result)
        if connection is not None:
            connection.close()
