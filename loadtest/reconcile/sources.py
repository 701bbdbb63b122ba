"""Where rows come from: a store's tables, page by page, straight from the file or the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from loadtest.journal import Kind

Page = tuple[float, Sequence[tuple[object, ...]]]
"""The share of its table (0 to 1) that has been read, this page included, and rows: (id, body) of usages, (key, digest,
body) of keyed usages, (digest, text) of messages; bodies and texts are the stored bytes, empty where there are none."""


class StoreUnreadable(Exception):
    """The store cannot be read, or no longer; the text says why."""


class Source(Protocol):
    """A store that is open for reading."""

    def pages(self, kind: Kind) -> Iterator[Page]:
        """All rows of a table. Raises StoreUnreadable."""
