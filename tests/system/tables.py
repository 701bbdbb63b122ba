"""Cassandra's tables read directly, and compared with what clients were told."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tests.system.traffic import Ledger

IDS_PER_BLOCK = 1024
READABLE_WITHIN_S = 120


def wait_until_readable(cql: Any, within_s: float = READABLE_WITHIN_S) -> None:
    """Until the test's own driver session has found Cassandra again."""
    from cassandra.cluster import DriverException, NoHostAvailable

    deadline_s = time.monotonic() + within_s
    while True:
        try:
            cql.execute("SELECT name FROM id_ranges")
            return
        except (NoHostAvailable, DriverException):
            assert time.monotonic() < deadline_s, "the test's own session did not come back"
            time.sleep(0.2)


def usages_by_id(cql: Any, ids: Collection[int]) -> dict[int, bytes]:
    """The rows of the table `usages` with these ids."""
    select = cql.prepare("SELECT id, usage FROM usages WHERE block = ?")
    wanted = set(ids)
    found: dict[int, bytes] = {}
    for block in {id_ // IDS_PER_BLOCK for id_ in wanted}:
        found.update((row.id, row.usage.encode()) for row in cql.execute(select, [block]) if row.id in wanted)
    return found


def all_usages(cql: Any) -> set[bytes]:
    """Every text in the table `usages`."""
    return {row.usage.encode() for row in cql.execute("SELECT usage FROM usages", timeout=60)}


def usages_by_key(cql: Any, key: str) -> list[bytes]:
    """The rows of the table `keyed_usages` with this key, wherever they are."""
    rows = cql.execute("SELECT usage FROM keyed_usages WHERE key = %s ALLOW FILTERING", [key], timeout=60)
    return [row.usage.encode() for row in rows]


def rows_with(cql: Any, token: str) -> tuple[list[tuple[int, bytes]], list[tuple[str, bytes]]]:
    """Every row whose text has the token in it: those of `usages` by id, those of `keyed_usages` by key."""
    plain = [(row.id, row.usage.encode()) for row in cql.execute("SELECT id, usage FROM usages", timeout=60)]
    keyed = [(row.key, row.usage.encode()) for row in cql.execute("SELECT key, usage FROM keyed_usages", timeout=60)]
    text = token.encode()
    return [row for row in plain if text in row[1]], [row for row in keyed if text in row[1]]


@dataclass(frozen=True)
class Audit:
    """What the tables hold against what clients were told; each list is empty when all promises were kept."""

    lost: list[int]
    altered: list[int]
    stored_though_refused: list[bytes]


def audit(cql: Any, ledger: Ledger) -> Audit:
    """Compare the table `usages` with a ledger: acknowledged means stored as sent, refused means not stored."""
    stored = usages_by_id(cql, ledger.acknowledged.keys())
    everything = all_usages(cql) if ledger.refused else set()
    return Audit(
        lost=sorted(ledger.acknowledged.keys() - stored.keys()),
        altered=sorted(id_ for id_, usage in stored.items() if usage != ledger.acknowledged[id_]),
        stored_though_refused=[usage for usage in ledger.refused if usage in everything],
    )


def assert_promises_kept(cql: Any, ledger: Ledger) -> None:
    """Nothing acknowledged is lost or altered, nothing refused is stored, and no read missed what was acknowledged."""
    assert audit(cql, ledger) == Audit(lost=[], altered=[], stored_though_refused=[])
    assert ledger.misread == []
