"""Opening the store that a URL names, for reading alone."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from loadtest.reconcile.cassandra_rows import cassandra_source
from loadtest.reconcile.sources import Source
from loadtest.reconcile.sqlite_rows import sqlite_source
from service.settings import read_settings


def open_source(store_url: str) -> AbstractContextManager[Source]:
    """The store of a URL as the service's settings have it. Raises SettingError, and StoreUnreadable when entered.

    Cassandra's user and password are taken from the service's own variables.
    """
    environ = {name: value for name, value in os.environ.items() if name.startswith("BUSYAPI_CASSANDRA_")}
    settings = read_settings({**environ, "BUSYAPI_STORE": store_url})
    if settings.store.scheme == "sqlite":
        return sqlite_source(settings.store.path)
    return cassandra_source(settings)
