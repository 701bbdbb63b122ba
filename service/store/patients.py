"""Usages of a patient, by a storage-attached index (SAI) on either table.

In the order of Cassandra's tokens, and of the rows in a partition: a page can go on behind any row, whichever node is asked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from service.errors import StoreRefused
from service.store import ListedUsage
from service.store.cassandra_bind import bigint, int32
from service.store.cassandra_link import CassandraLink

TOKEN_MIN = -(1 << 63)
"""No partition has it."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A row that the next page starts behind; without a partition it is the beginning of a table."""

    keyed: bool = False
    token: int = TOKEN_MIN
    partition: int | str = ""
    key: int | str = ""
    digest: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bool, int, int | str, int | str, bytes]).decode


class Patients:
    """Raises StoreRefused when a read fails, or when ``after`` is nothing that this gave out."""

    def __init__(self, link: CassandraLink, rows_per_read: int) -> None:
        self._link = link
        self._rows_per_read = rows_per_read

    async def read(self, patient_id: str, after: bytes, limit: int) -> tuple[Sequence[ListedUsage], bytes]:
        """As :meth:`service.store.Store.read_patient`."""
        mark: _Mark | None = _mark(after)
        usages: list[ListedUsage] = []
        limit = min(limit, self._rows_per_read)
        while mark is not None and len(usages) < limit:
            wanted = limit - len(usages)
            rows = await self._rows(mark, patient_id.encode(), wanted)
            for row in rows:
                mark, usage = _row(row, keyed=mark.keyed)
                usages.append(usage)
            if len(rows) < wanted:
                mark = _beyond(mark)
        return usages, b"" if mark is None else _encode((mark.keyed, mark.token, mark.partition, mark.key, mark.digest))

    async def _rows(self, mark: _Mark, patient: bytes, limit: int) -> Sequence[Any]:
        """What is left of the mark's partition; without one, what lies behind its token."""
        last = [patient, int32(limit)]
        if isinstance(mark.partition, int):
            return await self._link.rows("patient_in_block", [bigint(mark.partition), bigint(int(mark.key)), *last])
        if mark.partition:
            values = [mark.partition.encode(), str(mark.key).encode(), mark.digest, *last]
            return await self._link.rows("patient_in_bucket", values)
        name = "patient_in_buckets" if mark.keyed else "patient_in_blocks"
        return await self._link.rows(name, [bigint(mark.token), *last])


def _row(row: Sequence[Any], *, keyed: bool) -> tuple[_Mark, ListedUsage]:
    if keyed:
        token, bucket, key, digest, usage, at_us = row
        return _Mark(keyed, token, bucket, key, digest), ListedUsage(key, digest, usage.encode(), at_us)
    token, block, id_, usage, at_us = row
    return _Mark(keyed, token, block, id_), ListedUsage(id_, b"", usage.encode(), at_us)


def _beyond(mark: _Mark) -> _Mark | None:
    """Where to go on when nothing is left behind the mark: behind its partition, in the other table, or nowhere."""
    if mark.partition != "":
        return _Mark(mark.keyed, mark.token)
    return None if mark.keyed else _Mark(keyed=True)


def _mark(after: bytes) -> _Mark:
    if not after:
        return _Mark()
    try:
        mark = _Mark(*_decode(after))
        for number in (mark.token, mark.partition, mark.key):
            if isinstance(number, int):
                bigint(number)
    except (msgspec.DecodeError, struct.error):
        mark = _Mark(partition=0)
    if isinstance(mark.partition, int) != isinstance(mark.key, int) or (isinstance(mark.key, int) and mark.keyed):
        raise StoreRefused("this is no place in a list of usages by patient")
    return mark
