"""The way to Cassandra: a session that is kept open, and statements by name over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from service.errors import StoreError, StoreRefused
from service.settings import Settings
from service.store.cassandra_bind import Row, batch, execute
from service.store.cassandra_connect import CONNECT_TIMEOUT_S, RECONNECT_INTERVAL_S
from service.store.cassandra_session import CassandraSession
from service.store.cassandra_statements import TAKE_LONG
from service.store.direct import Rows

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
REOPEN_AFTER_S = 5.0
"""So long without any connection, and the hosts' names are looked up anew: nodes may have come back elsewhere."""
COMES_BACK_WITHIN_S = CONNECT_TIMEOUT_S + RECONNECT_INTERVAL_S + CONNECT_TIMEOUT_S
"""So long after a node answers at an address that the driver knows, an attempt of the driver's own that hung has ended, and the
next one, which finds it, as well."""
LOOK_INTERVAL_S = 0.05


class CassandraLink:
    """Prepared statements over a session that comes back by itself."""

    def __init__(self, settings: Settings, statements: Mapping[str, str]) -> None:
        self._settings = settings
        self._statements = statements
        self._session: CassandraSession | None = None
        self._watcher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return "closed" if self._session is None else "connected" if self._session.alive else "disconnected"

    async def open(self) -> None:
        """Connect and prepare. Raises StoreRefused with the reason."""
        if self._session is None:
            self._session = await self._connect()
            self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Let go of the session. Safe at any time."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def session(self) -> CassandraSession | None:
        """The session of now; another one after it had to connect anew."""
        return self._session

    def deadline_s(self) -> float:
        """On the loop's clock, for all that an operation which starts now sends."""
        return asyncio.get_running_loop().time() + self._settings.store_timeout_s

    @property
    def one_node(self) -> bool:
        """Whether there is no other node to ask."""
        return self._session is not None and self._session.local_hosts() == 1

    @property
    def clock_skew_max_s(self) -> float:
        """How far a coordinator's clock may be from another's: not at all where there is but one."""
        return 0.0 if self.one_node else self._settings.cassandra_clock_skew_max_s

    async def execute(
        self,
        name: str,
        values: list[bytes],
        deadline_s: float,
        *,
        idempotent: bool = True,
        page_rows: int | None = None,
    ) -> Rows:
        """Run one statement. Raises StoreRefused or StoreUnknown."""
        session = self._connected()
        frame = execute(session.prepared[name], self._settings.store.keyspace, values, page_rows=page_rows)
        return await session.execute(frame, deadline_s, idempotent=idempotent, takes_long=name in TAKE_LONG)

    async def rows(self, name: str, values: list[bytes], *, page_rows: int | None = None) -> Rows:
        """Rows, with a time limit of their own. Raises StoreRefused, whatever went wrong.

        ``page_rows`` is for an aggregate: so many rows at a time are read on the node for its one row.
        """
        rows = await self.read(name, values, self.deadline_s(), page_rows=page_rows)
        if isinstance(rows, StoreError):
            raise rows
        return rows

    async def read(
        self, name: str, values: list[bytes], deadline_s: float, *, page_rows: int | None = None
    ) -> Rows | StoreRefused:
        """Rows, or StoreRefused whatever went wrong: a read writes nothing."""
        try:
            return await self.execute(name, values, deadline_s, page_rows=page_rows)
        except StoreError as error:
            return StoreRefused(str(error))

    async def write(
        self,
        name: str,
        rows: Sequence[Row],
        deadline_s: float,
        *,
        shared: Sequence[bytes] = (),
        timestamp_us: int | None = None,
        idempotent: bool = True,
        optional: bool = False,
    ) -> StoreError | None:
        """Write rows, each behind the ``shared`` values, as one statement. Those of one partition are written all or none.

        With ``timestamp_us`` every attempt writes with this timestamp, else each with the coordinator's clock.
        """
        try:
            session = self._connected()
            prepared = session.prepared[name]
            keyspace = self._settings.store.keyspace
            if len(rows) == 1:
                frame = execute(prepared, keyspace, (*shared, *rows[0]), timestamp_us)
            else:
                frame = batch(prepared, keyspace, rows, shared, timestamp_us, optional=optional)
            await session.execute(frame, deadline_s, idempotent=idempotent)
        except StoreError as error:
            return error
        return None

    def _connected(self) -> CassandraSession:
        if self._session is None:
            raise StoreRefused("the store is not open")
        return self._session

    async def _connect(self) -> CassandraSession:
        session = await CassandraSession.connect(self._settings)
        try:
            await session.prepare(self._settings.store.keyspace, self._statements)
        except BaseException:
            await session.close()
            raise
        return session

    async def _watch(self) -> None:
        """Connect anew when every connection has been gone for long: the driver knows only the addresses of before."""
        lost_at_s: float | None = None
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now_s = asyncio.get_running_loop().time()
            if self._session is None or self._session.alive:
                lost_at_s = None
            elif lost_at_s is None:
                lost_at_s = now_s
            elif now_s - lost_at_s >= REOPEN_AFTER_S:
                try:
                    await self._reopen(self._session)
                except Exception:
                    # Whatever it was, this watch is what brings the service back.
                    log.exception("could not connect anew")

    async def _reopen(self, old: CassandraSession) -> None:
        """Take another session in place of one that does not come back by itself.

        Preparing every statement takes a node that has just started seconds, from each instance, in which it answers little
        else; the session that was there has them all. So that one goes first wherever it can.
        """
        try:
            spare = await CassandraSession.connect(self._settings)
        except StoreRefused:
            return
        try:
            known = spare.addresses() <= old.addresses()
            if await _comes_back(old, COMES_BACK_WITHIN_S if known else 0.0):
                return
            await spare.prepare(self._settings.store.keyspace, self._statements)
            if old.alive:
                return
            self._session, spare = spare, old
            log.info("connected anew", extra={"fields": {"store": str(self._settings.store)}})
            # It may have come back just now: what it has in flight is not cut off.
            await asyncio.sleep(self._settings.store_timeout_s)
        except StoreRefused:
            return
        finally:
            await spare.close()


async def _comes_back(session: CassandraSession, within_s: float) -> bool:
    """Whether it has a connection by then."""
    for _ in range(round(within_s / LOOK_INTERVAL_S)):
        if session.alive:
            break
        await asyncio.sleep(LOOK_INTERVAL_S)
    return session.alive
