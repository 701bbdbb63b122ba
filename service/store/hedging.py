"""Nodes that keep a statement waiting: another is asked as well, and they are asked last for a while.

A node that collects garbage, or has just come back and is cold, holds up a third of all statements of three nodes while
it still counts as up. What it has not answered after ``cassandra_hedge_after_s`` is sent to a second node, and the
first answer counts (a hedged request in Dean and Barroso's "The Tail at Scale"; Cassandra's drivers call it speculative
execution). Only what may run twice is hedged, and nodes that are slow themselves get hedges within a budget: where all
are slow because there is too much to do, hedges would double it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import TypeAlias, TypeVar

from service.store.cassandra_outcome import Outcome, outcome_of
from service.store.direct import NotSent, Rows

Host = TypeVar("Host", bound=Hashable)
Attempt: TypeAlias = "asyncio.Future[Rows]"

SLOW_FOR_S = 2.0
"""So long a node that kept a statement waiting is asked last; then one statement tries it again."""
HEDGES_PER_STATEMENT = 0.1
HEDGES_SAVED_MAX = 16.0
"""Hedges to nodes that are slow themselves: a tenth of all statements, and so many at once."""


class SlowNodes:
    """Which nodes have kept a statement waiting lately, and how many hedges are left. Pure: the time is the caller's."""

    def __init__(self) -> None:
        self._until_s: dict[Hashable, float] = {}
        self._budget = HEDGES_SAVED_MAX

    def order(self, hosts: Iterable[Host], now_s: float) -> list[Host]:
        """The hosts for one statement that is sent now: as they come, but the slow ones behind all others.

        Where half of them are slow it is not their fault, and to ask the rest alone would only make these slow too.
        """
        self._budget = min(HEDGES_SAVED_MAX, self._budget + HEDGES_PER_STATEMENT)
        found = list(hosts)
        until_s = self._until_s
        if not until_s or 2 * sum(host in until_s for host in found) >= len(found):
            return found
        if until_s.get(found[0], now_s + 1) <= now_s:
            # This statement finds out; those behind it do not wait with it.
            until_s[found[0]] = now_s + SLOW_FOR_S
            return found
        return sorted(found, key=until_s.__contains__)

    def answered(self, host: Hashable) -> None:
        """In time: it is not slow."""
        if self._until_s:
            self._until_s.pop(host, None)

    def kept_waiting(self, host: Hashable, now_s: float) -> bool:
        """It is slow. Returns whether it was not known to be."""
        new = host not in self._until_s
        self._until_s[host] = now_s + SLOW_FOR_S
        return new

    def may_hedge(self, other: Hashable) -> bool:
        """Whether ``other`` may be asked as well; one that is slow itself is, while there is a budget."""
        if other not in self._until_s:
            return True
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


async def answered_within(attempt: Attempt, seconds: float) -> bool:
    """Wait for the attempt, which goes on when the time is up."""
    try:
        done, _ = await asyncio.wait((attempt,), timeout=seconds)
        if not done:
            # After a stall of ours the timer comes before an answer that has been there for long.
            await asyncio.sleep(0)
    except BaseException:
        abandon(attempt)
        raise
    return attempt.done()


async def first_answer(first: Attempt, another: Callable[[], Attempt | None], *, one_partition: bool) -> Rows:
    """The first rows of any attempt; when all fail, the error that leaves most unknown.

    ``another`` begins one on another node, or says None when there is none to ask; it is called again when that fails and
    ``first`` is still silent.
    """
    attempts = [first]
    waiting = {first}
    errors: list[BaseException] = []
    try:
        while waiting:
            if first in waiting and (attempt := another()) is not None:
                attempts.append(attempt)
                waiting.add(attempt)
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    return attempt.result()
                errors.append(error)
    finally:
        for attempt in attempts:
            abandon(attempt)
    raise max(errors, key=lambda error: _weight(error, one_partition=one_partition))


def abandon(attempt: Attempt) -> None:
    """Nobody waits for it any more, and what it comes to is nobody's error. Its stream goes back with its answer or its time limit."""
    if not attempt.cancel() and not attempt.cancelled():
        attempt.exception()


def _weight(error: BaseException, *, one_partition: bool) -> int:
    if isinstance(error, NotSent):
        return 0
    return 2 if outcome_of(error, one_partition=one_partition) is Outcome.UNKNOWN else 1
