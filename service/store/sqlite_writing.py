"""What changes usages in the SQLite file, within one transaction: their rows, their order by time, their counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from service.store import KeyedUsage, Put
from service.store.patient import patient_of
from service.store.sqlite_schema import PLACE_PATIENT, PLACE_RUN, runs

MINUTE_US = 60_000_000

_PUT = "INSERT INTO usages (id, usage, received_at_us) VALUES (?, CAST(? AS TEXT), ?)"
_PUT_KEYED = "INSERT INTO keyed_usages (key, digest, usage, received_at_us) VALUES (?, ?, CAST(? AS TEXT), ?)"
_COUNT = "INSERT INTO usage_minutes VALUES (?, ?) ON CONFLICT (minute) DO UPDATE SET count = usage_minutes.count + excluded.count"
_RUN_OF = "SELECT first, last FROM usage_runs WHERE received_at_us = ? AND first <= ? ORDER BY first DESC LIMIT 1"


def put_usages(
    connection: sqlite3.Connection, group: Sequence[tuple[int, bytes]], now_us: int, *, patients: bool
) -> list[None]:
    """Store usages by id; all of them were received now."""
    connection.executemany(_PUT, [(id_, usage, now_us) for id_, usage in group])
    connection.executemany(PLACE_RUN, runs((id_, now_us) for id_, _ in group))
    _count(connection, now_us, len(group))
    if patients:
        _place(connection, now_us, ((usage, id_, "", b"") for id_, usage in group))
    return [None] * len(group)


def put_keyed_usages(
    connection: sqlite3.Connection, group: Sequence[KeyedUsage], now_us: int, *, patients: bool
) -> list[Put]:
    """Store usages under keys that have none; all of them were received now."""
    results: list[Put] = []
    created: list[KeyedUsage] = []
    for item in group:
        found = connection.execute("SELECT digest FROM keyed_usages WHERE key = ?", (item.key,)).fetchone()
        if found is not None:
            results.append(Put.DUPLICATE if found[0] == item.digest else Put.CONFLICT)
            continue
        connection.execute(_PUT_KEYED, (item.key, item.digest, item.usage, now_us))
        created.append(item)
        results.append(Put.CREATED)
    _count(connection, now_us, len(created))
    if patients:
        _place(connection, now_us, ((item.usage, 0, item.key, item.digest) for item in created))
    return results


def delete_usages(connection: sqlite3.Connection, ids: Sequence[int], *, patients: bool) -> list[bool]:
    """Remove usages by id; False where there is none."""
    return [_delete(connection, id_, patients=patients) for id_ in ids]


def delete_keyed_usages(connection: sqlite3.Connection, keys: Sequence[str], *, patients: bool) -> list[bool]:
    """Remove all usages of each key; False where there is none."""
    return [_delete_keyed(connection, key, patients=patients) for key in keys]


def _delete(connection: sqlite3.Connection, id_: int, *, patients: bool) -> bool:
    sql = "SELECT received_at_us, CAST(usage AS BLOB) FROM usages WHERE id = ?"
    row = connection.execute(sql, (id_,)).fetchone()
    if row is None:
        return False
    received_at_us, usage = row
    connection.execute("DELETE FROM usages WHERE id = ?", (id_,))
    found = connection.execute(_RUN_OF, (received_at_us, id_)).fetchone()
    if found is not None and id_ <= found[1]:  # without a run it was never counted
        run = (received_at_us, found[0])
        connection.execute("UPDATE usage_runs SET count = count - 1 WHERE received_at_us = ? AND first = ?", run)
        connection.execute("DELETE FROM usage_runs WHERE received_at_us = ? AND first = ? AND count <= 0", run)
        _count(connection, received_at_us, -1)
    if patients:
        _take(connection, usage, (received_at_us, id_, "", b""))
    return True


def _delete_keyed(connection: sqlite3.Connection, key: str, *, patients: bool) -> bool:
    sql = "SELECT received_at_us, digest, CAST(usage AS BLOB) FROM keyed_usages WHERE key = ?"
    rows = connection.execute(sql, (key,)).fetchall()
    connection.execute("DELETE FROM keyed_usages WHERE key = ?", (key,))
    for received_at_us, digest, usage in rows:
        _count(connection, received_at_us, -1)
        if patients:
            _take(connection, usage, (received_at_us, 0, key, digest))
    return bool(rows)


def _count(connection: sqlite3.Connection, received_at_us: int, more: int) -> None:
    if more:
        connection.execute(_COUNT, (received_at_us // MINUTE_US, more))


def _place(connection: sqlite3.Connection, now_us: int, rows: Iterable[tuple[bytes, int, str, bytes]]) -> None:
    placed = ((patient_of(usage), now_us, *place) for usage, *place in rows)
    connection.executemany(PLACE_PATIENT, [row for row in placed if row[0] is not None])


def _take(connection: sqlite3.Connection, usage: bytes, position: tuple[int, int, str, bytes]) -> None:
    connection.execute(
        "DELETE FROM usage_patients WHERE patient_id = ? AND received_at_us = ? AND id = ? AND key = ? AND digest = ?",
        (patient_of(usage), *position),
    )
