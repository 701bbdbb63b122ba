"""The rows of an SQLite store, read in one transaction beside whatever else uses the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from loadtest.journal import Kind
from loadtest.reconcile.sources import Page, StoreUnreadable

SCHEMA_VERSIONS = (1, 2)
"""Those whose tables of usages and messages are as below."""
PAGE_ROWS = 1000
TIMEOUT_S = 60.0

COUNTS = {
    Kind.USAGE: "SELECT count(*) FROM usages",
    Kind.KEYED: "SELECT count(*) FROM keyed_usages",
    Kind.MESSAGE: "SELECT count(*) FROM messages",
}
ROWS = {
    Kind.USAGE: "SELECT id, ifnull(CAST(usage AS BLOB), x'') FROM usages",
    Kind.KEYED: "SELECT key, digest, ifnull(CAST(usage AS BLOB), x'') FROM keyed_usages",
    Kind.MESSAGE: "SELECT digest, ifnull(CAST(message AS BLOB), x'') FROM messages",
}


class SqliteSource:
    """A connection that sees the file as it was when it began."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def pages(self, kind: Kind) -> Iterator[Page]:
        """All rows of a table. Raises StoreUnreadable."""
        try:
            (rows,) = self._connection.execute(COUNTS[kind]).fetchone()
            cursor = self._connection.execute(ROWS[kind])
            seen = 0
            while page := cursor.fetchmany(PAGE_ROWS):
                seen += len(page)
                yield seen / rows, page
        except sqlite3.Error as error:
            raise StoreUnreadable(f"sqlite: {error}") from error


@contextmanager
def sqlite_source(path: str) -> Iterator[SqliteSource]:
    """The file, which must be there; nothing is written to it. Raises StoreUnreadable."""
    if not Path(path).is_file():
        raise StoreUnreadable(f"there is no file {path}")
    uri = f"file:{quote(path)}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=TIMEOUT_S, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreUnreadable(f"{path}: {error}") from error
    with closing(connection):
        try:
            connection.execute("BEGIN")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise StoreUnreadable(f"{path}: {error}") from error
        if version not in SCHEMA_VERSIONS:
            known = " and ".join(map(str, SCHEMA_VERSIONS))
            raise StoreUnreadable(f"{path} has schema version {version}; this reads {known}")
        yield SqliteSource(connection)
