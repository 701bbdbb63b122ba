"""The service with its store switched off: everything is answered, nothing is kept.

``python -m loadtest.benchmark.storeless`` is one web instance, with the service's own settings. What it reaches is the
most that any store could leave over: the yardstick for what durability costs.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from service import server
from service.listening import listen
from service.settings import read_settings
from service.store import Durability, KeyedUsage, ListedUsage, Position, Put, Results, StoredUsage


class NoStore:
    """The store protocol without a store: every write succeeds at once, nothing is ever found."""

    def __init__(self) -> None:
        self._next_id = 1

    async def open(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    def now_us(self) -> int:
        """The system's clock."""
        return time.time_ns() // 1000

    def durability(self) -> Durability:
        """What is answered is nowhere."""
        return Durability(synced=False, acknowledging=0, replicas=0)

    async def lease_ids(self, count: int) -> int:
        """Ids of this process alone."""
        first = self._next_id
        self._next_id += count
        return first

    async def return_ids(self, first: int, end: int) -> None:
        """Unused ids are dropped."""

    async def put_usages(self, group: Sequence[tuple[int, bytes]]) -> Results[None]:
        """Drop them."""
        return [None] * len(group)

    async def put_keyed_usages(self, group: Sequence[KeyedUsage]) -> Results[Put]:
        """Drop them; none is ever a duplicate."""
        return [Put.CREATED] * len(group)

    async def get_usages(self, ids: Sequence[int]) -> Results[StoredUsage | None]:
        """Nothing is found."""
        return [None] * len(ids)

    async def get_keyed_usages(self, keys: Sequence[str]) -> Results[Sequence[StoredUsage]]:
        """Nothing is found."""
        return [()] * len(keys)

    async def read_usages(self, after: Position, until_us: int, page: int) -> AsyncIterator[Sequence[ListedUsage]]:  # noqa: ARG002 - the protocol's
        """Nothing is found."""
        nothing: tuple[Sequence[ListedUsage], ...] = ()
        for rows in nothing:
            yield rows

    async def count_usages(self, from_us: int, until_us: int) -> Mapping[int, int]:  # noqa: ARG002 - the protocol's
        """Nothing is found."""
        return {}

    async def read_patient(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:  # noqa: ARG002 - the protocol's
        """Nothing is found."""
        return (), b""

    async def delete_usages(self, ids: Sequence[int]) -> Results[bool]:
        """Nothing is found."""
        return [False] * len(ids)

    async def delete_keyed_usages(self, keys: Sequence[str]) -> Results[bool]:
        """Nothing is found."""
        return [False] * len(keys)

    async def put_messages(self, group: Sequence[tuple[bytes, bytes]]) -> Results[None]:
        """Drop them."""
        return [None] * len(group)

    async def get_messages(self, digests: Sequence[bytes]) -> Results[bytes | None]:
        """Nothing is found."""
        return [None] * len(digests)

    async def delete_messages(self, digests: Sequence[bytes]) -> Results[bool]:
        """Nothing is found."""
        return [False] * len(digests)


def main() -> None:
    """Serve until SIGTERM, where the service's own settings say."""
    settings = read_settings(os.environ)
    server.serve(settings, listen(settings.listen_host, settings.listen_port), store=NoStore())


if __name__ == "__main__":
    main()
