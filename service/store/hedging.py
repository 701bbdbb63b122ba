"""Nodes that keep a statement waiting: another is asked as well, and they are asked last for a while.

A node that collects garbage, or has just come back and is cold, holds up a third of all statements of three nodes while
it still counts as up. What it has not answered after ``cassandra_hedge_after_s`` is sent to a second node, and the
first answer counts (a hedged request in Dean and Barroso's "The Tail at Scale"; Cassandra's drivers call it speculative
execution). Only what may run twice is hedged, and only while there is a budget: where all nodes are slow because there
is too much to do, hedges would double it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from typing import TypeVar

from service.store.cassandra_outcome import Outcome, outcome_of
from service.store.direct import NotSent, Rows

Host = TypeVar("Host", bound=Hashable)

SLOW_FOR_S = 2.0
"""So long a node that kept a statement waiting is asked last; then a statement tries it again."""
HEDGES_PER_STATEMENT = 0.1
HEDGES_SAVED_MAX = 16.0
"""What is in flight to a node at the moment when it stands still may all be hedged; after that it is asked last."""


class SlowNodes:
    """Which nodes have kept a statement waiting lately, and how many hedges are left. Pure: the time is the caller's."""

    def __init__(self) -> None:
        self._until_s: dict[Hashable, float] = {}
        self._budget = HEDGES_SAVED_MAX

    def sent(self) -> None:
        """A statement was sent: a tenth of a hedge more."""
        self._budget = min(HEDGES_SAVED_MAX, self._budget + HEDGES_PER_STATEMENT)

    def kept_waiting(self, host: Hashable, now_s: float) -> bool:
        """It is slow. Returns whether it was not known to be."""
        new = self._until_s.get(host, 0.0) <= now_s
        self._until_s[host] = now_s + SLOW_FOR_S
        return new

    def may_hedge(self) -> bool:
        """Take a hedge from the budget, if there is one."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def last(self, hosts: Iterable[Host], now_s: float) -> list[Host]:
        """The same hosts in the same order, but the slow ones behind all others."""
        until_s = self._until_s
        if not until_s:
            return list(hosts)
        for host in [host for host, until in until_s.items() if until <= now_s]:
            del until_s[host]
        return sorted(hosts, key=until_s.__contains__)


async def answered_within(attempt: asyncio.Future[Rows], seconds: float) -> bool:
    """Wait for the attempt, which goes on when the time is up."""
    try:
        done, _ = await asyncio.wait((attempt,), timeout=seconds)
    except BaseException:
        abandon(attempt)
        raise
    return bool(done)


async def first_answer(attempts: Iterable[asyncio.Future[Rows]], *, one_partition: bool) -> Rows:
    """The first rows of any attempt; when all fail, the error that leaves most unknown."""
    waiting = set(attempts)
    errors: list[BaseException] = []
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                errors.append(error)
    finally:
        for attempt in waiting:
            abandon(attempt)
    raise max(errors, key=lambda error: _weight(error, one_partition=one_partition))


def abandon(attempt: asyncio.Future[Rows]) -> None:
    """Nobody waits for it any more; what it comes to is nobody's error. Its stream is given back with its answer."""
    if not attempt.cancel() and not attempt.cancelled():
        attempt.exception()


def _weight(error: BaseException, *, one_partition: bool) -> int:
    if isinstance(error, NotSent):
        return 0
    return 2 if outcome_of(error, one_partition=one_partition) is Outcome.UNKNOWN else 1
