"""Values as the native protocol's bytes, and statements made of them.

What a group binds is bytes already: usages and messages are UTF-8 as they came. The driver's own binding would want
them as str, to encode them again, and walks its column types for every value of every row.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from cassandra.query import BatchStatement, BatchType, BoundStatement

bigint = struct.Struct(">q").pack
_length = struct.Struct(">i").pack


def list_of(items: Sequence[bytes]) -> bytes:
    """A CQL list of values, for ``IN ?``."""
    return b"".join((_length(len(items)), *(part for item in items for part in (_length(len(item)), item))))


def bound(prepared: Any, values: list[bytes]) -> Any:
    """A prepared statement with its values; the driver finds the routing key among them."""
    statement = BoundStatement(prepared)
    statement.values = values
    return statement


def batch(prepared: Any, keyspace: str, rows: Sequence[list[bytes]]) -> Any:
    """An UNLOGGED batch of rows of one partition, whose key is their first value: one atomic mutation.

    This sets what ``BatchStatement.add`` would gather, row by row, at four times the cost.
    """
    statement = BatchStatement(batch_type=BatchType.UNLOGGED)
    query_id = prepared.query_id
    statement._statements_and_parameters = [(True, query_id, values) for values in rows]  # noqa: SLF001  # see above
    statement.routing_key = rows[0][0]
    statement.keyspace = keyspace
    return statement
