from __future__ import annotations

import contextlib
from pathlib import Path

from service.settings import read_settings
from service.store.sqlite import SqliteStore


def test_every_commit_is_fsynced(tmp_path: Path):
    """The pragmas that make it so: in WAL mode FULL (2) syncs the log at each commit, NORMAL only at checkpoints.

    No test can take the power away; this looks at the connection that the store itself opens.
    """
    store = SqliteStore(read_settings({"BUSYAPI_STORE": f"sqlite:///{tmp_path}/store.sqlite3"}))
    with contextlib.closing(store._connect()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
