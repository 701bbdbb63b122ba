"""Statements as the native protocol's bytes (version 5, sections 4.1.4, EXECUTE, and 4.1.7, BATCH).

What a group binds is bytes already: usages and messages are UTF-8 as they came. The driver's own binding would want
them as str, to encode them again, and walks its column types for every value of every row; here a group is one join.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, BoundStatement

from cassandra import ConsistencyLevel

bigint = struct.Struct(">q").pack
int32 = struct.Struct(">i").pack
_length = struct.Struct(">i").pack
_short = struct.Struct(">H").pack
_consistency_and_flags = struct.Struct(">HI").pack

EXECUTE = 0x0A
BATCH = 0x0D
_UNLOGGED = 1
_PREPARED = b"\x01"
_VALUES = 0x01
_WITH_PAGE_SIZE = 0x04
_WITH_SERIAL_CONSISTENCY = 0x10
_WITH_TIMESTAMP = 0x20
_UNSET = _length(-2)
_serial = _short(ConsistencyLevel.LOCAL_SERIAL)
CONSISTENCY = ConsistencyLevel.LOCAL_QUORUM


Row: TypeAlias = Sequence[bytes | None]
"""The values of a row, or the last of them; None is not sent: the column is left as it is."""


class Frame:
    """A prepared statement with its values, ready to be sent; to the driver it is a message of its own.

    ``statement`` makes the same for the driver's own way, which knows how to prepare anew and where else to ask.
    """

    __slots__ = (
        "_rows",
        "_shared",
        "body",
        "keyspace",
        "one_partition",
        "opcode",
        "page_rows",
        "prepared",
        "routing_key",
        "timestamp_us",
    )

    custom_payload = None
    tracing = False

    def __init__(
        self,
        opcode: int,
        body: bytes,
        prepared: Any,
        keyspace: str,
        rows: Sequence[Row],
        shared: Sequence[bytes] = (),
        timestamp_us: int | None = None,
        page_rows: int | None = None,
    ) -> None:
        self.opcode = opcode
        self.body = body
        self.prepared = prepared
        self.keyspace = keyspace
        self.timestamp_us = timestamp_us
        self.page_rows = page_rows
        self._rows = rows
        self._shared = shared
        indexes = prepared.routing_key_indexes
        first = (*shared, *rows[0])
        self.routing_key = first[indexes[0]] if indexes and len(indexes) == 1 else None
        # Certain without a look at every row: a batch of several partitions has its key in the rows.
        self.one_partition = len(rows) == 1 or (bool(indexes) and max(indexes) < len(shared))

    def send_body(self, buffer: Any, _protocol_version: int) -> None:
        """What the driver's encoder calls."""
        buffer.write(self.body)

    def statement(self) -> Any:
        """The driver's statement."""
        if self.opcode == EXECUTE:
            statement = BoundStatement(self.prepared)
            if self.page_rows is not None:
                statement.fetch_size = self.page_rows
            statement.values = _with_unset((*self._shared, *self._rows[0]))
            return statement
        batch = BatchStatement(batch_type=BatchType.UNLOGGED)
        query_id = self.prepared.query_id
        # What BatchStatement.add would gather, row by row, after serializing each value.
        rows = [(True, query_id, _with_unset((*self._shared, *row))) for row in self._rows]
        batch._statements_and_parameters = rows  # noqa: SLF001
        batch.routing_key = self.routing_key
        batch.keyspace = self.keyspace
        return batch


def execute(
    prepared: Any, keyspace: str, values: Row, timestamp_us: int | None = None, page_rows: int | None = None
) -> Frame:
    """One statement. With ``timestamp_us`` it writes with this timestamp (µs), else with the coordinator's.

    With ``page_rows`` it reads so many rows at a time: for an aggregate, whose one row is no page.
    """
    query_id, metadata_id = prepared.query_id, prepared.result_metadata_id
    parts = [_short(len(query_id)), query_id, _short(len(metadata_id)), metadata_id]
    # The serial consistency is for light-weight transactions, and means nothing to others.
    flags = _VALUES | _WITH_SERIAL_CONSISTENCY | (0 if timestamp_us is None else _WITH_TIMESTAMP)
    if page_rows is not None:
        flags |= _WITH_PAGE_SIZE
    parts += (_consistency_and_flags(CONSISTENCY, flags), _short(len(values)))
    for value in values:
        parts += (_UNSET,) if value is None else (_length(len(value)), value)
    if page_rows is not None:
        parts.append(int32(page_rows))
    parts.append(_serial)
    if timestamp_us is not None:
        parts.append(bigint(timestamp_us))
    return Frame(EXECUTE, b"".join(parts), prepared, keyspace, [values], timestamp_us=timestamp_us, page_rows=page_rows)


def batch(
    prepared: Any,
    keyspace: str,
    rows: Sequence[Row],
    shared: Sequence[bytes] = (),
    timestamp_us: int | None = None,
    *,
    optional: bool = False,
) -> Frame:
    """Rows as an UNLOGGED batch: those of one partition are one atomic mutation, those of several only travel together.

    ``shared`` are the first values of every row, such as the key of a partition that is common to all. A value may be
    None, for a column that is left as it is, only in rows that are ``optional``.
    """
    query_id = prepared.query_id
    length = _length
    head = b"".join(
        (
            _PREPARED,
            _short(len(query_id)),
            query_id,
            _short(len(shared) + len(rows[0])),
            *(part for value in shared for part in (length(len(value)), value)),
        )
    )
    parts = [b"%c" % _UNLOGGED, _short(len(rows))]
    if optional:
        for values in rows:
            parts.append(head)
            for value in values:
                parts += (_UNSET,) if value is None else (length(len(value)), value)
    else:
        for values in rows:
            parts.append(head)
            for value in values:
                parts += (length(len(value)), value)  # type: ignore[arg-type]  # none is None, as the caller says
    if timestamp_us is None:
        parts.append(_consistency_and_flags(CONSISTENCY, 0))
    else:
        parts += (_consistency_and_flags(CONSISTENCY, _WITH_TIMESTAMP), bigint(timestamp_us))
    return Frame(BATCH, b"".join(parts), prepared, keyspace, rows, shared, timestamp_us)


def _with_unset(values: Row) -> list[Any]:
    return [UNSET_VALUE if value is None else value for value in values]


def list_of(items: Sequence[bytes]) -> bytes:
    """A CQL list of values, for ``IN ?``."""
    return b"".join((_length(len(items)), *(part for item in items for part in (_length(len(item)), item))))
