"""Reads the directory of usages: which minutes have usages, how many where that is sealed, and in which places."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from service.store.cassandra_bind import bigint
from service.store.cassandra_link import CassandraLink
from service.store.cassandra_statements import PAGE
from service.store.places import DAY_MINUTES, Place, day_of, place_of
from service.store.results import map_bounded

DAYS_AT_ONCE = 4
_FIRST_WRITER = bytes(16)
"""Before every writer: UUIDs are ordered by their version first, and there is none of version 0."""


@dataclass(frozen=True, slots=True)
class Writers:
    """What those who stored or deleted usages of a minute say of themselves."""

    unsettled_us: int | None
    """When the last of those began that are at work, or of whose work not every outcome is known; None without any."""
    created: int | None
    """How many usages without a key they stored; None where that is not known of all of them."""


class Minutes:
    """Raises StoreRefused when a read fails."""

    def __init__(self, link: CassandraLink) -> None:
        self._link = link

    async def between(self, first: int, last: int) -> AsyncIterator[Sequence[tuple[int, int | None]]]:
        """Minutes from ``first`` to ``last`` that have (or had) usages, with their sealed count or None: some days' at a time."""
        day = max(day_of(first), 0)
        while day <= day_of(last):
            days = [row[0] for row in await self._link.rows("select_days", [bigint(day), bigint(day_of(last))])]
            for start in range(0, len(days), DAYS_AT_ONCE):
                part = days[start : start + DAYS_AT_ONCE]
                for rows in await map_bounded(lambda day: self.of_day(day, first, last), part, DAYS_AT_ONCE):
                    yield rows
            if len(days) < PAGE:
                return
            day = days[-1] + 1

    async def of_day(self, day: int, first: int, last: int) -> Sequence[tuple[int, int | None]]:
        """Those of one day, from ``first`` to ``last``."""
        first, last = max(first, day * DAY_MINUTES), min(last, (day + 1) * DAY_MINUTES - 1)
        rows = await self._link.rows("select_minutes", [bigint(day), bigint(first), bigint(last)])
        return [(minute, count) for minute, count in rows]

    async def places(self, minute: int, since_us: int) -> AsyncIterator[tuple[int, Place]]:
        """The minute's places that are named since then or later, in that order; one may come several times."""
        name = ""
        while True:
            values = [bigint(minute), bigint(since_us), name.encode()]
            rows = await self._link.rows("select_places", values)
            for since_us, name in rows:  # noqa: PLR1704  # where the next page starts
                yield since_us, place_of(name)
            if len(rows) < PAGE:
                return

    async def writers(self, minute: int) -> Writers:
        """Who was at work on the minute. Each says when it begins, before anything of its work can be seen."""
        unsettled_us: int | None = None
        created: int | None = None
        known = True
        after = _FIRST_WRITER
        while True:
            rows = await self._link.rows("select_writers", [bigint(minute), after])
            for _, settled, stored, at_us in rows:
                if not settled:
                    unsettled_us = max(at_us, unsettled_us or 0)
                if stored is None:
                    known = False
                else:
                    created = (created or 0) + stored
            if len(rows) < PAGE:
                return Writers(unsettled_us, created if known else None)
            last: uuid.UUID = rows[-1][0]
            after = last.bytes
