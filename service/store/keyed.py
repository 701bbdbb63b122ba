"""Usages under a client's key: where they live and what a group of them comes to. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from service.errors import StoreError, StoreRefused, StoreUnknown
from service.store import KeyedUsage, Put

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
WINDOW_MS = 10_000
WINDOW_PARTS = 4


def bucket(key: str) -> str:
    """The partition of a key, a function of the key alone, so that a repeat looks where the first one was stored.

    UUIDv7s start with their millisecond: those of ten seconds share four partitions, told apart by two of their random
    bits, so a group of them is few statements. Any other key is a partition of its own.
    """
    if _UUID7.fullmatch(key) is None:
        return key
    window = int(key[:8] + key[9:13], 16) // WINDOW_MS
    return f"{window}.{int(key[35], 16) % WINDOW_PARTS}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an item of a group comes to, if the item ``leader`` (often itself) is stored as it should be."""

    put: Put
    leader: int


def decide(group: Sequence[KeyedUsage], existing: Mapping[str, Collection[bytes]]) -> list[Verdict]:
    """Created, duplicate or conflict for each item, given the digests stored under each key.

    Those with ``Put.CREATED`` are the rows to write. An item whose key came earlier in the group follows that item.
    """
    verdicts: list[Verdict] = []
    first: dict[str, int] = {}
    for index, item in enumerate(group):
        stored = existing.get(item.key)
        if stored:
            verdicts.append(Verdict(Put.DUPLICATE if item.digest in stored else Put.CONFLICT, index))
            continue
        leader = first.setdefault(item.key, index)
        if leader == index:
            verdicts.append(Verdict(Put.CREATED, index))
        else:
            same = group[leader].digest == item.digest
            verdicts.append(Verdict(Put.DUPLICATE if same else Put.CONFLICT, leader))
    return verdicts


def settle(verdicts: Sequence[Verdict], errors: Sequence[StoreError | None]) -> list[Put | StoreError]:
    """Each item's result, given the error, if any, that befell the write of each item.

    A duplicate shares its leader's fate: the same bytes are as stored, or as unknown, as the leader's. A conflict with a
    leader that failed was not written either way, and that is all that is certain of it.
    """
    results: list[Put | StoreError] = []
    for verdict in verdicts:
        error = errors[verdict.leader]
        if error is None:
            results.append(verdict.put)
        elif verdict.put is Put.CONFLICT:
            results.append(StoreRefused(f"the usage that came first under this key was not stored for sure: {error}"))
        else:
            results.append(StoreUnknown(str(error)) if isinstance(error, StoreUnknown) else StoreRefused(str(error)))
    return results
