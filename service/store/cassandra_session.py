"""One driver session on the web instance's event loop: connect, execute with a time limit, close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from cassandra.metadata import KeyspaceMetadata

from cassandra import InvalidRequest
from service.errors import StoreRefused, StoreUnknown
from service.settings import Settings
from service.store.blocking import in_daemon_thread, set_exception, set_result
from service.store.cassandra_bind import Frame
from service.store.cassandra_connect import UNREACHABLE, Connected, connect, describe, timestamp
from service.store.cassandra_outcome import (
    REFUSALS_OF_ONE_NODE,
    Outcome,
    attempt_timeout_s,
    may_try_again,
    outcome_of,
    verdict,
)
from service.store.direct import DirectAttempt, NotPrepared, NotSent, Rows
from service.store.hedging import SlowNodes, answered_within, first_answer
from service.store.loop_connection import LoopConnection

log = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIMEOUT_S = 3.0
DRIVER_GRACE_S = 0.5  # the driver keeps the time limits; this is for the day it forgets one
STATEMENTS_IN_FLIGHT_MAX = 128
PREPARING_AT_ONCE = 8


class CassandraSession:
    """Sends statements and tells, for each, written from certainly not written from unknown."""

    def __init__(
        self, cluster: Any, session: Any, connection_class: type[LoopConnection], local_dc: str, hedge_after_s: float
    ) -> None:
        self._cluster = cluster
        self._session = session
        self._connection_class = connection_class
        self._loop = connection_class.loop
        self._slots = asyncio.Semaphore(STATEMENTS_IN_FLIGHT_MAX)
        self._hedge_after_s = hedge_after_s
        self._slow = SlowNodes()
        self.local_dc = local_dc
        self.prepared: dict[str, Any] = {}

    @classmethod
    async def connect(cls, settings: Settings) -> CassandraSession:
        """Connect on the running loop. Raises StoreRefused with the reason when no node answers."""
        connection_class = LoopConnection.bound_to(asyncio.get_running_loop())
        connecting = in_daemon_thread(partial(connect, settings, connection_class))
        try:
            cluster, session, local_dc = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_shut_down_abandoned)
            raise
        return cls(cluster, session, connection_class, local_dc, settings.cassandra_hedge_after_s)

    async def prepare(self, keyspace: str, statements: Mapping[str, str]) -> None:
        """Prepare statements (by name, with ``{keyspace}`` in them). Raises StoreRefused when a table is missing."""

        def learn_replication() -> None:
            replication = self._session.execute(
                "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", (keyspace,)
            ).one()
            if replication is None:
                raise StoreRefused(f"Cassandra has no keyspace {keyspace}; `python -m service schema` makes it")
            # Token awareness needs this keyspace's replication, not the whole schema that the driver would fetch.
            options = dict(replication[0])
            self._cluster.metadata.keyspaces[keyspace] = KeyspaceMetadata(keyspace, True, options.pop("class"), options)

        def prepare(names: Sequence[str]) -> dict[str, Any]:
            return {name: self._session.prepare(statements[name].format(keyspace=f'"{keyspace}"')) for name in names}

        try:
            await in_daemon_thread(learn_replication)
            names = list(statements)
            # One after the other they would take a node that has just started seconds, in which the service waits for it.
            parts = [names[start::PREPARING_AT_ONCE] for start in range(min(PREPARING_AT_ONCE, len(names)))]
            preparing = (in_daemon_thread(partial(prepare, part)) for part in parts)
            prepared = await asyncio.gather(*preparing, return_exceptions=True)
            for part in prepared:
                # The first in their order, not in time: where all fail again and again, the reason stays the same.
                if isinstance(part, BaseException):
                    raise part
                self.prepared.update(part)
        except InvalidRequest as error:
            raise StoreRefused(f"{describe(error)}; `python -m service schema` brings the tables up to date") from error
        except UNREACHABLE as error:
            raise StoreRefused(describe(error)) from error

    @property
    def alive(self) -> bool:
        """Is there a connection to send on?"""
        return bool(self._open_pools())

    def local_hosts(self) -> int:
        """How many nodes the local data centre has, up or down."""
        return sum(host.datacenter == self.local_dc for host in self._cluster.metadata.all_hosts())

    def addresses(self) -> frozenset[str]:
        """Of all nodes that the driver knows, up or down."""
        return frozenset(str(host.endpoint) for host in self._cluster.metadata.all_hosts())

    def nodes(self) -> dict[Any, bool]:
        """The local data centre's nodes, as the driver's objects, and whether there is a connection to each."""
        pools = self._open_pools()
        return {host: host in pools for host in self._cluster.metadata.all_hosts() if host.datacenter == self.local_dc}

    async def execute(
        self, frame: Frame, deadline_s: float, *, idempotent: bool = True, takes_long: bool = False
    ) -> Rows:
        """Run a statement until ``deadline_s`` (the loop's clock). Raises StoreRefused or StoreUnknown.

        An idempotent one that does not ``takes_long`` is sent to a second node when the first keeps it waiting.
        """
        if self._slots.locked():
            await self._wait_for_slot(deadline_s)
        else:
            await self._slots.acquire()  # at once
        try:
            return await self._execute(frame, deadline_s, idempotent=idempotent, takes_long=takes_long)
        finally:
            self._slots.release()

    async def _wait_for_slot(self, deadline_s: float) -> None:
        """Whose time is up does not wait behind those that came to a silent store later than it."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreRefused(f"{STATEMENTS_IN_FLIGHT_MAX} statements wait for the store; no time was left") from None

    async def _execute(self, frame: Frame, deadline_s: float, *, idempotent: bool, takes_long: bool) -> Rows:
        attempts: list[Outcome] = []
        errors: dict[Outcome, Exception] = {}
        tried: list[Any] = []
        directly = True
        untold: Any = None
        while (remaining_s := deadline_s - self._loop.time()) > 0:
            pools = self._open_pools()
            timeout_s = attempt_timeout_s(attempts, remaining_s=remaining_s, other_hosts=idempotent and len(pools) > 1)
            try:
                if directly:
                    may_hedge = idempotent and not takes_long
                    return await self._send_directly(frame, timeout_s, pools, tried, may_hedge=may_hedge)
                # Its plan begins with the node that just failed too, so name another.
                others = [host for host in pools if host not in tried] if tried else []
                host = untold if untold in pools else random.choice(others) if others else None
                return await self._send(frame, timeout_s, host, tried)
            except NotSent as error:
                directly = False
                # Else nobody would tell it as long as another node is there to be asked.
                untold = error.host if isinstance(error, NotPrepared) else None
                continue
            except Exception as error:  # noqa: BLE001  # what nobody thought of is an unknown outcome too
                attempts.append(outcome_of(error, one_partition=frame.one_partition))
                errors[attempts[-1]] = error
                elsewhere = isinstance(error, REFUSALS_OF_ONE_NODE) and any(host not in tried for host in pools)
            directly = True
            untold = None
            remaining_s = deadline_s - self._loop.time()
            if not may_try_again(attempts, idempotent=idempotent, elsewhere=elsewhere, remaining_s=remaining_s):
                break
        if not attempts:
            raise StoreRefused("no time was left to send the statement")
        outcome = verdict(attempts)
        raised = StoreUnknown if outcome is Outcome.UNKNOWN else StoreRefused
        raise raised(describe(errors[outcome])) from errors[outcome]

    async def _send_directly(
        self, frame: Frame, timeout_s: float, pools: Mapping[Any, Any], tried: list[Any], *, may_hedge: bool
    ) -> Rows:
        if len(pools) == 1 and not tried:
            return await self._attempt(frame, timeout_s, pools, tried, next(iter(pools))).future
        now_s = self._loop.time()
        hosts = self._slow.order((host for host in self._plan(frame) if host in pools), now_s)
        # Ordered with the nodes that were tried: that they are out makes a slow one of three no slow one of two.
        others = iter([host for host in hosts if host not in tried] if tried else hosts)
        for host in others:
            with contextlib.suppress(NotSent):
                first = self._attempt(frame, timeout_s, pools, tried, host).future
                break
        else:
            raise NotSent("no connection takes it")
        if not may_hedge or self._hedge_after_s >= timeout_s:
            return await first
        if await answered_within(first, self._hedge_after_s):
            self._slow.answered(host)
            return first.result()
        if self._slow.kept_waiting(host, self._loop.time()):
            log.info("node is slow", extra={"fields": {"node": str(host.endpoint)}})

        def another() -> asyncio.Future[Rows] | None:
            left_s = now_s + timeout_s - self._loop.time()
            for other in others:
                if left_s <= 0 or not self._slow.may_hedge(other):
                    return None
                with contextlib.suppress(NotSent):
                    return self._attempt(frame, left_s, pools, tried, other).future
            return None

        return await first_answer(first, another, one_partition=frame.one_partition)

    def _attempt(
        self, frame: Frame, timeout_s: float, pools: Mapping[Any, Any], tried: list[Any], host: Any
    ) -> DirectAttempt:
        attempt = DirectAttempt(self._connection_class, pools[host], frame, timeout_s)
        tried.append(host)
        return attempt

    async def _send(self, frame: Frame, timeout_s: float, host: Any, tried: list[Any]) -> Rows:
        """The driver's own way, which prepares anew and asks the next host where one cannot be reached."""
        future: asyncio.Future[Rows] = self._loop.create_future()
        with timestamp(frame.timestamp_us):
            response = self._session.execute_async(frame.statement(), timeout=timeout_s, host=host)
        response.add_callbacks(partial(self._answered, future), partial(self._failed, future))
        guard = self._loop.call_later(timeout_s + DRIVER_GRACE_S, set_exception, future, TimeoutError())
        try:
            return await future
        finally:
            guard.cancel()
            tried += response.attempted_hosts
            if response.coordinator_host is not None:
                tried.append(response.coordinator_host)

    def _plan(self, frame: Frame) -> Iterable[Any]:
        """The hosts in the order in which they should be asked, replicas first."""
        hosts: Iterable[Any] = self._cluster.profile_manager.default.load_balancing_policy.make_query_plan(None, frame)
        return hosts

    async def close(self) -> None:
        """Close all connections. Returns within CLOSE_TIMEOUT_S; a thread that still waits for a node dies with the process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await in_daemon_thread(self._cluster.shutdown)

    async def run_blocking(self, work: Callable[[Any], T]) -> T:
        """Run ``work(driver_session)`` in a thread, for what waits: changes of the schema."""
        return await in_daemon_thread(partial(work, self._session))

    def _open_pools(self) -> dict[Any, Any]:
        """The pools that have a connection, by host."""
        return {
            pool.host: pool for pool in tuple(self._session.get_pools()) if pool.open_count and not pool.is_shutdown
        }

    def _answered(self, future: asyncio.Future[Rows], rows: Rows | None) -> None:
        self._connection_class.in_loop(set_result, future, () if rows is None else rows)

    def _failed(self, future: asyncio.Future[Rows], error: Exception) -> None:
        self._connection_class.in_loop(set_exception, future, error)


def _shut_down_abandoned(connecting: asyncio.Future[Connected]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        threading.Thread(target=connecting.result().cluster.shutdown, name="cassandra-shutdown", daemon=True).start()
