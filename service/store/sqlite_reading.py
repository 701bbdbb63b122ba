"""What reads many usages of the SQLite file: a page of a listing, counts, a page of a patient.

Each is given a connection on which a transaction is open: what it reads is one state of the file.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from itertools import islice

import msgspec

from service.errors import StoreRefused
from service.store import ListedUsage, Position
from service.store.sqlite_writing import MINUTE_US

# The runs are read in order and each run's usages by their ids, so nothing is sorted and the cursor may be left anywhere.
_BY_ID = """
SELECT u.id, CAST(u.usage AS BLOB), r.received_at_us
FROM usage_runs r CROSS JOIN usages u
  ON u.id BETWEEN CASE WHEN r.received_at_us = :us THEN max(r.first, :id + 1) ELSE r.first END AND r.last
WHERE r.received_at_us >= :us AND r.received_at_us < :until_us
ORDER BY r.received_at_us, r.first, u.id
"""
_BY_KEY = """
SELECT key, digest, CAST(usage AS BLOB), received_at_us FROM keyed_usages
WHERE received_at_us >= :us AND received_at_us < :until_us AND (received_at_us, key, digest) > (:us, :key, :digest)
ORDER BY received_at_us, key, digest
"""
_OF_PATIENT = """
SELECT received_at_us, id, key, digest FROM usage_patients
WHERE patient_id = ? AND (received_at_us, id, key, digest) > (?, ?, ?, ?)
ORDER BY received_at_us, id, key, digest LIMIT ?
"""
_AT_ID = "SELECT CAST(usage AS BLOB) FROM usages WHERE id = ? AND received_at_us = ?"
_AT_KEY = "SELECT CAST(usage AS BLOB) FROM keyed_usages WHERE key = ? AND digest = ? AND received_at_us = ?"
_MINUTES = "SELECT minute, count FROM usage_minutes WHERE minute >= ? AND minute < ? AND count > 0"
_RUNS_COUNT = "SELECT coalesce(sum(count), 0) FROM usage_runs WHERE received_at_us >= ? AND received_at_us < ?"
_KEYED_COUNT = "SELECT count(*) FROM keyed_usages WHERE received_at_us >= ? AND received_at_us < ?"

_LAST_TIMES = (
    "SELECT coalesce(max(received_at_us), 0) FROM usage_runs",
    "SELECT coalesce(max(received_at_us), 0) FROM keyed_usages",
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, str, bytes]).decode


def list_page(connection: sqlite3.Connection, after: Position, until_us: int, page: int) -> list[ListedUsage]:
    """The first ``page`` usages behind ``after`` that were received before ``until_us``. No more than that are read."""
    us, id_, key, digest = after
    # Of one time, those with a key come first: none of them is behind a usage with an id.
    keyed = {"us": us, "key": key, "digest": digest} if id_ == 0 else {"us": us + 1, "key": "", "digest": b""}
    by_id = connection.execute(_BY_ID, {"us": us, "id": id_, "until_us": until_us})
    by_key = connection.execute(_BY_KEY, {**keyed, "until_us": until_us})
    both = heapq.merge(_with_id(by_id), _with_key(by_key), key=lambda row: row.position)
    return list(islice(both, page))


def count(connection: sqlite3.Connection, from_us: int, until_us: int) -> dict[int, int]:
    """Usages received in [from, until) by minute: whole minutes as they were counted when written, cut ones from the order by time."""
    if from_us >= until_us:
        return {}
    first, last = -(-from_us // MINUTE_US), until_us // MINUTE_US
    if first > last:
        return _cut(connection, from_us, until_us)
    counts = _cut(connection, from_us, first * MINUTE_US)
    counts.update(connection.execute(_MINUTES, (first, last)))
    counts.update(_cut(connection, last * MINUTE_US, until_us))
    return counts


def last_time_us(connection: sqlite3.Connection) -> int:
    """When the last usage was received; 0 when there is none."""
    times: list[int] = [connection.execute(sql).fetchone()[0] for sql in _LAST_TIMES]
    return max(times)


def patient_page(
    connection: sqlite3.Connection, patient_id: str, after: bytes, limit: int
) -> tuple[list[ListedUsage], bytes]:
    """Usages of a patient in order of time, and where the next page starts; empty when there is none.

    A process whose index is off and that has the file open beside this one removes usages and not their places here: those
    are passed over, so that a page may have fewer than there are behind it.
    """
    found = connection.execute(_OF_PATIENT, (patient_id, *_position(after), limit + 1)).fetchall()
    rows = [row for position in found[:limit] if (row := _look_up(connection, *position)) is not None]
    return rows, _encode(found[limit - 1]) if len(found) > limit else b""


def _position(after: bytes) -> Position:
    if not after:
        return (0, 0, "", b"")
    try:
        return _decode(after)
    except msgspec.DecodeError:
        raise StoreRefused("this is no place in the list of a patient") from None


def _look_up(
    connection: sqlite3.Connection, received_at_us: int, id_: int, key: str, digest: bytes
) -> ListedUsage | None:
    # The time with it: a key that was used again after a DELETE has a usage of another time.
    if id_:
        row = connection.execute(_AT_ID, (id_, received_at_us)).fetchone()
        return ListedUsage(id_, b"", row[0], received_at_us) if row else None
    row = connection.execute(_AT_KEY, (key, digest, received_at_us)).fetchone()
    return ListedUsage(key, digest, row[0], received_at_us) if row else None


def _with_id(rows: sqlite3.Cursor) -> Iterator[ListedUsage]:
    return (ListedUsage(id_, b"", usage, us) for id_, usage, us in rows)


def _with_key(rows: sqlite3.Cursor) -> Iterator[ListedUsage]:
    return (ListedUsage(key, digest, usage, us) for key, digest, usage, us in rows)


def _cut(connection: sqlite3.Connection, from_us: int, until_us: int) -> dict[int, int]:
    """A part of one minute."""
    if from_us >= until_us:
        return {}
    found = sum(connection.execute(sql, (from_us, until_us)).fetchone()[0] for sql in (_RUNS_COUNT, _KEYED_COUNT))
    return {from_us // MINUTE_US: found} if found else {}
