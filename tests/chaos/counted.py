"""After the faults: whether what the service counts is what it exports, in every window of every part of the time."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.timespan import parse_rfc3339, rfc3339
from tests.system import batches

PARTS = 2
"""Of the time: the instant between them cuts a minute, an hour and a day."""
SHOWN_MAX = 5
WINDOW_LENGTH = {"minute": len("2026-11-23T09:11"), "hour": len("2026-11-23T09"), "day": len("2026-11-23")}
"""So much of a time names its window."""
Count = Callable[[str | None, str, str], dict[str, Any]]
"""What the service says of a window's name (None: of the whole), from and to."""


def compared(url: str) -> tuple[int, list[str]]:
    """How many usages were exported, and where a count says otherwise, in words. Nobody may write meanwhile."""
    whole = batches.count(url)
    ends = instants(whole["from"], whole["to"])
    times = (row.received_at for row in batches.exported(url, from_=ends[0], to=ends[-1]))

    def count(window: str | None, from_: str, to: str) -> dict[str, Any]:
        return batches.count(url, window, from_=from_, to=to)

    return disagreements(times, ends, count)


def instants(from_: str, to: str) -> list[str]:
    """The ends of PARTS equal parts."""
    first_us, last_us = parse_rfc3339(from_), parse_rfc3339(to)
    assert first_us is not None
    assert last_us is not None
    return [rfc3339(first_us + (last_us - first_us) * part // PARTS).decode() for part in range(PARTS + 1)]


def disagreements(times: Iterable[str], ends: Sequence[str], count: Count) -> tuple[int, list[str]]:
    """The same of times received and the ends of parts, all RFC 3339 of one form, so that they compare as text."""
    seen: list[Counter[str]] = [Counter() for _ in ends[1:]]
    minute = WINDOW_LENGTH["minute"]
    for time in times:
        seen[bisect_right(ends, time) - 1][time[:minute]] += 1
    wrong: list[str] = []
    for first, last in itertools.combinations(range(len(ends)), 2):
        minutes = sum(seen[first:last], Counter[str]())
        span = f"{ends[first]} to {ends[last]}"
        total = count(None, ends[first], ends[last])["total"]
        if total != minutes.total():
            wrong.append(f"{span}: {total} counted, {minutes.total()} exported")
        for window, length in WINDOW_LENGTH.items():
            exported = Counter[str]()
            for name, number in minutes.items():
                exported[name[:length]] += number
            said = count(window, ends[first], ends[last])["windows"]
            counted = Counter({each["from"][:length]: each["count"] for each in said})
            wrong += [
                f"{span}, {window} {name}: {counted[name]} counted, {exported[name]} exported"
                for name in sorted(exported.keys() | counted.keys())
                if counted[name] != exported[name]
            ]
    return sum(each.total() for each in seen), wrong
