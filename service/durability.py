"""The Ack header: what a 2xx for a usage is worth, for this store and this configuration, now."""

from __future__ import annotations

import logging

from service.http import Header
from service.store import Durability, Store

log = logging.getLogger(__name__)

WORDS = {True: "fsync", False: "memory", None: "unknown"}
"""On disk on every replica counted; on one of them perhaps in memory alone; not every node could be asked yet."""


def acknowledgement(durability: Durability, *, replicated: bool) -> str:
    """The header's value: ``fsync; replicas=2/3`` is two of three copies fsynced when the answer was sent.

    A store that keeps no copies says ``replicas=1``. Without any word of the copies they are left out.
    """
    word = WORDS[durability.synced]
    if not replicated:
        return f"{word}; replicas={durability.acknowledging}"
    if not durability.replicas:
        return word
    return f"{word}; replicas={durability.acknowledging}/{durability.replicas}"


_RANKS = {True: 2, None: 1, False: 0}


def is_worse(now: Durability, before: Durability) -> bool:
    """Whether an answer is worth less now: not on disk, or not known to be, or on fewer replicas. Pure."""
    return _RANKS[now.synced] < _RANKS[before.synced] or now.acknowledging < before.acknowledging


class Acks:
    """The header, made anew only when what it says has changed."""

    __slots__ = ("_replicated", "_store", "durability", "header", "line")

    def __init__(self, store: Store, *, replicated: bool) -> None:
        self._store = store
        self._replicated = replicated
        self._note(store.durability())

    def refresh(self) -> None:
        """Ask the store again. A change is worth a line in the log."""
        now = self._store.durability()
        if now != self.durability:
            self._note(now)
            self._report()

    def started(self) -> None:
        """The store is open: from now on this is what answers say. A warning when it is not fsync."""
        self._note(self._store.durability())
        if not self.durability.synced:
            self._report()

    def _report(self) -> None:
        level = logging.INFO if self.durability.synced else logging.WARNING
        log.log(level, "acknowledgements", extra={"fields": {"ack": self.value}})

    @property
    def value(self) -> str:
        """What the header says."""
        return self.header[1].decode()

    def _note(self, durability: Durability) -> None:
        self.durability = durability
        value = acknowledgement(durability, replicated=self._replicated).encode()
        self.header: Header = (b"ack", value)
        self.line = b"ack: %b\r\n" % value
