"""A bug of the Cassandra store: a message's writes are ordered by the clocks of the web instances."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import ClassVar

from service.settings import Settings
from service.store import Results
from service.store.cassandra import CassandraStore
from service.store.cassandra_bind import bigint
from service.store.cassandra_statements import STATEMENTS

SLOW_S = 3600.0
SLOW = "web2"
"""The web instance whose clock is wrong; its Unix socket has its name."""


class ClientTimestamps(CassandraStore):
    """Every INSERT and DELETE of a message says USING TIMESTAMP, with the time of this web instance."""

    statements: ClassVar[Mapping[str, str]] = {
        **STATEMENTS,
        "insert_message": f"{STATEMENTS['insert_message']} USING TIMESTAMP ?",
    }

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._slow_s = SLOW_S if PurePath(settings.listen_unix).stem == SLOW else 0.0

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        """With the time of this clock."""
        now = bigint(self._now_us())
        rows = [(digest, message, now) for digest, message in group]
        error = await self._link.write("insert_message", rows, self._link.deadline_s(), idempotent=False)
        return [error] * len(group)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """With the time of this clock, whatever the row has."""
        there = await self.get_messages(digests)
        for digest in digests:
            await self._link.execute("delete_message", [bigint(self._now_us()), digest], self._link.deadline_s())
        return [isinstance(message, bytes) for message in there]

    def _now_us(self) -> int:
        return int((time.time() - self._slow_s) * 1e6)
