"""One attempt at a statement, straight over a connection of the driver's pool.

The driver's own way to execute builds a query plan, a future with callbacks for every event, a lock and a timer of
its own for each statement; for a group of sixty usages that was a third of a web instance's CPU. This does the same
with one callback. It does not try again and prepares nothing: what is not simply answered is the session's to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage, PreparedQueryNotFound, ResultMessage

from cassandra import OperationTimedOut
from service.store.cassandra_bind import Frame
from service.store.loop_connection import LoopConnection

Rows = Sequence[tuple[Any, ...]]

NOT_SENT = (ConnectionException, ConnectionBusy, NoConnectionsAvailable, OSError)
"""What borrowing a connection and sending on it raise, and only before anything has left."""


class NotSent(Exception):
    """The statement did not reach a coordinator, or one that does not know it: it was certainly not executed."""


class NotPrepared(NotSent):
    """``host`` does not know the statement: it has to be told it."""

    def __init__(self, host: Any) -> None:
        super().__init__(f"{host} does not know the prepared statement")
        self.host = host


class DirectAttempt:
    """A statement that is on its way. ``future`` carries its rows, NotSent, or what befell it."""

    __slots__ = ("_connection", "_connection_class", "_host", "_id", "_pool", "_timer", "future")

    def __init__(self, connection_class: type[LoopConnection], pool: Any, frame: Frame, timeout_s: float) -> None:
        """Send it. Raises NotSent when the pool has no connection that takes it now."""
        loop = connection_class.loop
        self._connection_class = connection_class
        self._pool = pool
        self._host = pool.host
        try:
            self._connection, self._id = pool.borrow_connection(timeout=0)
        except NOT_SENT as error:
            raise NotSent(str(error)) from error
        self.future: asyncio.Future[Rows] = loop.create_future()
        self._timer = loop.call_later(timeout_s, self._give_up)
        try:
            # Raises before it sends, or not at all: LoopConnection.push keeps what the socket does not take.
            self._connection.send_msg(
                frame, self._id, self._answered_anywhere, result_metadata=frame.prepared.result_metadata
            )
        except NOT_SENT as error:
            self._timer.cancel()
            pool.return_connection(self._connection)
            raise NotSent(str(error)) from error

    def _answered_anywhere(self, response: Any) -> None:
        # The answer itself comes on the loop's thread; that the connection broke is told from whichever saw it.
        self._connection_class.in_loop(self._answered, response)

    def _answered(self, response: Any) -> None:
        self._timer.cancel()
        self._pool.return_connection(self._connection)
        future = self.future
        if future.done():
            return
        if isinstance(response, ResultMessage):
            future.set_result(response.parsed_rows or ())
        elif isinstance(response, PreparedQueryNotFound):
            future.set_exception(NotPrepared(self._host))
        elif isinstance(response, ErrorMessage):
            future.set_exception(response.to_exception() if hasattr(response, "to_exception") else response)
        elif isinstance(response, Exception):
            future.set_exception(response)
        else:
            future.set_exception(TypeError(f"not an answer: {response!r}"))

    def _give_up(self) -> None:
        """The stream stays taken until its answer comes after all: an answer must not be read as another's."""
        connection = self._connection
        if connection._requests.pop(self._id, None) is not None:  # noqa: SLF001 - as the driver's own future does
            with connection.lock:
                connection.orphaned_request_ids.add(self._id)
                if len(connection.orphaned_request_ids) >= connection.orphaned_threshold:
                    connection.orphaned_threshold_reached = True
            self._pool.return_connection(connection, stream_was_orphaned=True)
        if not self.future.done():
            self.future.set_exception(OperationTimedOut(last_host=self._host))
