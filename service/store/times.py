"""When the usages of a place were stored: read without their texts, which Cassandra reads all the same.

So each read is bounded by what its rows might come to, were all of the largest size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from service.store.cassandra_bind import bigint, int32, list_of
from service.store.cassandra_link import CassandraLink
from service.store.cassandra_statements import PAGE
from service.store.places import Place

KEYS_PER_READ = 64
TIMES_BYTES_MAX = 8 << 20


class Times:
    """Raises StoreRefused when a read fails."""

    def __init__(self, link: CassandraLink, usage_bytes_max: int) -> None:
        self._link = link
        self._page = max(1, min(PAGE, TIMES_BYTES_MAX // usage_bytes_max))

    async def of_block(self, block: int) -> AsyncIterator[Sequence[Any]]:
        """Rows of (id, write time), a page at a time."""
        after = -1
        while True:
            rows = await self._link.rows("times_of_block", [bigint(block), bigint(after), int32(self._page)])
            yield rows
            if len(rows) < self._page:
                return
            after = rows[-1][0]

    async def of_bucket(self, bucket: str) -> AsyncIterator[Sequence[Any]]:
        """Rows of (key, digest, write time), a page at a time."""
        key, digest = "", b""
        while True:
            values = [bucket.encode(), key.encode(), digest, int32(self._page)]
            rows = await self._link.rows("times_of_bucket", values)
            yield rows
            if len(rows) < self._page:
                return
            key, digest, _ = rows[-1]

    def parts(self, keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """As many as :meth:`of_keys` may be asked for at once."""
        size = min(KEYS_PER_READ, self._page)
        return (keys[start : start + size] for start in range(0, len(keys), size))

    async def of_keys(self, keys: Iterable[Place]) -> Sequence[Any]:
        """Rows of (key, digest, write time), of keys that have a bucket of their own."""
        return await self._link.rows("times_of_keys", [list_of([str(key).encode() for key in keys])])

    async def counted(self, place: Place) -> tuple[int, int | None, int | None]:
        """How many usages are in a block or a shared bucket, and the first and the last of their times."""
        name, value = ("count_block", bigint(place)) if isinstance(place, int) else ("count_bucket", place.encode())
        [(count, first_us, last_us)] = await self._link.rows(name, [value], page_rows=self._page)
        return count, first_us, last_us
