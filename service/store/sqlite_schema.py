"""The tables of the SQLite file, and how a file that an older version made gets them.

| table | why |
| --- | --- |
| ``usage_runs`` | usages by time: a transaction's usages have one time and consecutive ids, so it is a row for each group |
| ``keyed_by_time`` | the same for usages under a key, which have no order of their own: an entry for each |
| ``usage_minutes`` | how many usages each minute has, kept in the transactions that store and remove them |
| ``usage_patients`` | the patient index, only where the setting is on |
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from service.errors import StoreRefused
from service.store.patient import patient_of

SCHEMA_VERSION = 2

READ_MODEL = """
ALTER TABLE usages ADD COLUMN since_version_2;
ALTER TABLE keyed_usages ADD COLUMN since_version_2;
CREATE TABLE usage_runs (
    received_at_us INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (received_at_us, first)
) WITHOUT ROWID;
CREATE INDEX keyed_by_time ON keyed_usages (received_at_us);
CREATE TABLE usage_minutes (minute INTEGER PRIMARY KEY, count INTEGER NOT NULL);
"""
"""What version 2 added. Nothing is ever put into ``since_version_2``: version 1 inserts without naming columns, and a process
of it that still has the file open would go on storing usages that no list shows and no count counts. For want of a value
its inserts fail from the migration on, which it answers with a 503. ``count`` of a run is what DELETEs have left of it; minutes are those since the epoch."""

SCHEMA = (
    """
CREATE TABLE usages (id INTEGER PRIMARY KEY, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL);
CREATE TABLE keyed_usages (
    key TEXT NOT NULL, digest BLOB NOT NULL, usage TEXT NOT NULL, received_at_us INTEGER NOT NULL,
    PRIMARY KEY (key, digest)
) WITHOUT ROWID;
CREATE TABLE messages (digest BLOB PRIMARY KEY, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE id_ranges (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO id_ranges VALUES ('usages', 1);
"""
    + READ_MODEL
)

PATIENTS = """
CREATE TABLE usage_patients (
    patient_id TEXT NOT NULL, received_at_us INTEGER NOT NULL, id INTEGER NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (patient_id, received_at_us, id, key, digest)
) WITHOUT ROWID
"""
"""In the order of a listing: id is 0 for a usage under a key, key and digest are empty for one with an id."""

PLACE_PATIENT = "INSERT INTO usage_patients VALUES (?, ?, ?, ?, ?)"
PLACE_RUN = "INSERT INTO usage_runs VALUES (?, ?, ?, ?)"


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 is a new file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def has_patients(connection: sqlite3.Connection) -> bool:
    """Whether the file has a patient index."""
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'usage_patients'"
    return connection.execute(sql).fetchone() is not None


def apply(connection: sqlite3.Connection, *, patients: bool) -> None:
    """Bring the file to this version, within the transaction that is open. Takes long when millions of usages are there.

    An index that is switched off goes, as it would miss what is stored from now on; one that is switched on is filled.
    Raises StoreRefused when a newer service made the file.
    """
    version = version_of(connection)
    if version not in (0, 1, SCHEMA_VERSION):
        raise StoreRefused(f"the file has schema version {version}, this service knows {SCHEMA_VERSION}")
    if version == 0:
        _execute_all(connection, SCHEMA)
    if version == 1:
        _execute_all(connection, READ_MODEL)
        _fill_read_model(connection)
    if version != SCHEMA_VERSION:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if patients and not has_patients(connection):
        connection.execute(PATIENTS)
        connection.executemany(PLACE_PATIENT, _all_patients(connection))
    elif not patients and has_patients(connection):
        connection.execute("DROP TABLE usage_patients")


def runs(rows: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Rows of usage_runs for (id, received_at_us) in order of id: consecutive ids of one time are one run. Pure."""
    first = last = at_us = None
    for id_, us in rows:
        if first is not None and last is not None and at_us is not None:
            if us == at_us and id_ == last + 1:
                last = id_
                continue
            yield at_us, first, last, last - first + 1
        first, last, at_us = id_, id_, us
    if first is not None and last is not None and at_us is not None:
        yield at_us, first, last, last - first + 1


def _execute_all(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)


def _fill_read_model(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT id, received_at_us FROM usages ORDER BY id")
    connection.executemany(PLACE_RUN, runs(rows))
    connection.execute(
        "INSERT INTO usage_minutes SELECT received_at_us / 60000000, sum(n) FROM ("
        "SELECT received_at_us, count AS n FROM usage_runs UNION ALL SELECT received_at_us, 1 FROM keyed_usages"
        ") GROUP BY 1"
    )


def _all_patients(connection: sqlite3.Connection) -> Iterator[tuple[str, int, int, str, bytes]]:
    by_id = "SELECT CAST(usage AS BLOB), received_at_us, id, '', x'' FROM usages"
    by_key = "SELECT CAST(usage AS BLOB), received_at_us, 0, key, digest FROM keyed_usages"
    for sql in (by_id, by_key):
        for usage, *position in connection.execute(sql):
            patient = patient_of(usage)
            if patient is not None:
                yield (patient, *position)
