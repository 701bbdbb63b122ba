"""Asks Cassandra's nodes what their acknowledgement is worth, and goes on asking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from cassandra.query import SimpleStatement

from cassandra import ConsistencyLevel
from service.errors import StoreError
from service.store.cassandra_connect import UNREACHABLE, describe
from service.store.cassandra_session import CassandraSession
from service.store.durability import NOTHING_KNOWN, KeyspaceState, NodeState, durability, keyspace_state, restarted

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
"""How soon it is seen that a node is new, is away, is back, or was started again behind our back."""
ASK_INTERVAL_S = 60.0
"""How often every node is asked anew, and the keyspace's replication read."""
ASK_TIMEOUT_S = 2.0
CONNECT_WAIT_S = 1.0
CONNECT_POLL_S = 0.02
"""A new session is there with its first connection; those to the other nodes come a moment later."""

SETTINGS = "SELECT name, value FROM system_views.settings WHERE name IN ('commitlog_sync', 'commit_failure_policy')"
START = "SELECT broadcast_address, broadcast_port, gossip_generation FROM system.local WHERE key = 'local'"
PEERS = "SELECT address, port, generation FROM system_views.gossip_info"
KEYSPACE = "SELECT replication, durable_writes FROM system_schema.keyspaces WHERE keyspace_name = %s"


class DurabilityWatch:
    """Keeps :attr:`now` true, over whichever session there is.

    A node is asked when it is first met, when it is back, and every minute. While it is away what it said holds, until
    its peers have seen it start again: from then on they may count it, and it may have another configuration.
    """

    def __init__(self, session: Callable[[], CassandraSession | None], keyspace: str) -> None:
        self.now = NOTHING_KNOWN
        self._session = session
        self._keyspace = keyspace
        self._keyspace_state: KeyspaceState | None = None
        self._known: dict[Any, NodeState | None] = {}
        self._due: set[Any] = set()
        self._last_session: CassandraSession | None = None
        self._asked_at_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask every node that is there, then go on in the background. Does not fail: what is not known says so."""
        if self._task is None:
            if (session := self._session()) is not None:
                await connected(session)
            await self._look()
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop asking. Safe at any time."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self._look()

    async def _look(self) -> None:
        session = self._session()
        if session is None:
            return
        try:
            await self._look_over(session)
        except Exception:
            # Whatever it was, the store is of use without this, and what is said must not stand still.
            log.exception("could not look what an acknowledgement is worth")
            self._known, self._keyspace_state = dict.fromkeys(self._known), None
            self._settle()

    async def _look_over(self, session: CassandraSession) -> None:
        """Compare the nodes with those of before, and ask what has to be asked."""
        now_s = asyncio.get_running_loop().time()
        nodes = session.nodes()
        if session is not self._last_session:
            # Its nodes are other objects, and what happened in between nobody has seen.
            self._known, self._last_session, self._keyspace_state = {}, session, None
        if self._keyspace_state is None or now_s - self._asked_at_s >= ASK_INTERVAL_S:
            self._due = set(nodes)
            self._asked_at_s = now_s
            self._keyspace_state = await read_keyspace(session, self._keyspace) or self._keyspace_state
        self._known = {node: self._known.get(node) for node in nodes}
        away = {node for node, connected in nodes.items() if not connected}
        self._due = {node for node in nodes if node in self._due or node in away or self._known[node] is None}
        self._settle()
        there = self._due - away
        if there:
            answers = await ask_nodes(session, there)
            answered = {node: state for node, state in answers.items() if state is not None}
            self._known |= answered
            self._due -= answered.keys()
        await self._forget_restarted(session, away)
        self._settle()

    async def _forget_restarted(self, session: CassandraSession, away: Iterable[Any]) -> None:
        remembered = {node: state for node in away if (state := self._known[node]) is not None}
        if not remembered:
            return
        # Where no node is left nobody acknowledges anything, and nobody can tell what comes back.
        generations = await read_generations(session) if any(session.nodes().values()) else {}
        for node, state in remembered.items():
            if restarted(state, generations):
                self._known[node] = None

    def _settle(self) -> None:
        now = durability(self._keyspace_state, self._known.values())
        if now != self.now:
            self.now = now


async def connected(session: CassandraSession, time_limit_s: float = CONNECT_WAIT_S) -> None:
    """Return once there is a connection to every node, or the time is over."""
    end_s = asyncio.get_running_loop().time() + time_limit_s
    while not all(session.nodes().values()) and asyncio.get_running_loop().time() < end_s:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(CONNECT_POLL_S)


async def ask_nodes(session: CassandraSession, nodes: Collection[Any]) -> dict[Any, NodeState | None]:
    """What each node says of its commit log; None for one that did not answer, or would not say."""

    def work(driver: Any) -> dict[Any, NodeState | None]:
        asked = [
            (
                node,
                [driver.execute_async(_on_one(text), host=node, timeout=ASK_TIMEOUT_S) for text in (SETTINGS, START)],
            )
            for node in nodes
        ]
        answers: dict[Any, NodeState | None] = dict.fromkeys(nodes)
        for node, futures in asked:
            try:
                settings, ((address, port, generation),) = (list(future.result()) for future in futures)
            except (*UNREACHABLE, ValueError) as error:  # or rows that are not those that were asked for
                fields = {"node": str(node.endpoint), "error": describe(error)}
                log.info("a node did not say what its acknowledgement is worth", extra={"fields": fields})
                continue
            said = dict(settings)
            sync, policy = said.get("commitlog_sync") or "", said.get("commit_failure_policy") or ""
            answers[node] = NodeState(sync, policy, address, port, generation)
        return answers

    return await session.run_blocking(work)


async def read_keyspace(session: CassandraSession, keyspace: str) -> KeyspaceState | None:
    """The keyspace's state; None where it is not there or nobody answers."""

    def work(driver: Any) -> KeyspaceState | None:
        row = driver.execute(SimpleStatement(KEYSPACE), (keyspace,), timeout=ASK_TIMEOUT_S).one()
        return keyspace_state(dict(row[0]), session.local_dc, durable_writes=row[1]) if row else None

    with contextlib.suppress(StoreError, *UNREACHABLE):
        return await session.run_blocking(work)
    return None


async def read_generations(session: CassandraSession) -> dict[tuple[str, int], int]:
    """When each node was last started, as one that is connected has heard; empty when that cannot be told."""

    def work(driver: Any) -> dict[tuple[str, int], int]:
        rows = driver.execute(_on_one(PEERS), timeout=ASK_TIMEOUT_S)
        return {(address, port): generation for address, port, generation in rows}

    with contextlib.suppress(*UNREACHABLE):
        return await session.run_blocking(work)
    return {}


def _on_one(text: str) -> SimpleStatement:
    """What a node says of itself asks no other."""
    return SimpleStatement(text, consistency_level=ConsistencyLevel.ONE)
