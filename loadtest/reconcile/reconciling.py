"""Reading journals and store, and comparing them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.journal import JournalError, Kind, read_journals
from loadtest.reconcile.counting import count
from loadtest.reconcile.ledger import Ledger
from loadtest.reconcile.opening import open_source
from loadtest.reconcile.result import Reconciliation

LIST_MAX = 10

Progress = Callable[[float, str], object]
"""Called often with the share that is done (0 to 1) and what is being done."""


def reconcile(
    directory: Path, store_url: str, progress: Progress | None = None, list_max: int = LIST_MAX
) -> Reconciliation:
    """Compare the journals in ``directory`` (and below it) with the store that ``store_url`` names.

    The load must have ended, and what it sent must have had its time: a request that is unknown may be stored late.
    Ten million usages take a quarter of a gigabyte and, from SQLite, some fifteen seconds. ``list_max`` faults of each sort are
    named, all are counted. Raises JournalError, StoreUnreadable, SettingError.
    """
    began_s = time.monotonic()
    report = progress or _silently
    report(0.0, "reading the journals")
    journals = read_journals(directory)
    if not journals:
        raise JournalError(f"there is no journal in {directory}")
    with open_source(store_url) as source:
        ledger = Ledger(journals)
        take: dict[Kind, Callable[[Any], None]] = {
            Kind.USAGE: ledger.usages,
            Kind.KEYED: ledger.keyed,
            Kind.MESSAGE: ledger.messages,
        }
        tables = ledger.tables()
        for index, kind in enumerate(tables):
            for share, rows in source.pages(kind):
                take[kind](rows)
                report((index + share) / len(tables), f"reading {kind.value}s: {ledger.rows[kind]:,} rows")
    report(1.0, "comparing")
    ledger.settle()
    tallies, faults = count(ledger, list_max)
    return Reconciliation(
        store=store_url,
        journals=len(journals),
        tallies=tallies,
        rows={kind: ledger.rows[kind] for kind in Kind},
        others={kind: ledger.others[kind] for kind in Kind},
        faults=faults,
        torn=tuple(f"{journal.path.name}: {text}" for journal in journals for text in journal.torn),
        took_s=time.monotonic() - began_s,
    )


def _silently(_share: float, _text: str) -> None:
    """Nobody wants to know how far it is."""
