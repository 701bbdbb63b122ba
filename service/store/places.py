"""Where usages lie, and how their directory names it: days, minutes, spans and places. Pure.

A place is a partition that holds usages: a block of ``usages`` (named by its number) or a bucket of ``keyed_usages``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

BLOCK_BITS = 10
"""Usages of 1,024 consecutive ids share a partition: a group of new ones is one statement, sometimes two."""
MINUTE_US = 60_000_000
DAY_MINUTES = 1440
SPAN_US = 1_000_000
"""A place that takes usages is named in the directory once a second, so that a listing which goes on in the middle of a
minute opens only what was at work then. A minute is a whole number of them."""

Place: TypeAlias = int | str
"""A block's number, or a bucket."""

_SHARED = re.compile(r"\d+\.[0-3]")
_BLOCK, _BUCKET = "usages/", "keyed_usages/"


def name_of(place: Place) -> str:
    """As the directory has it: ``usages/22`` or ``keyed_usages/BUCKET``."""
    return f"{_BLOCK}{place}" if isinstance(place, int) else f"{_BUCKET}{place}"


def place_of(name: str) -> Place:
    """What :func:`name_of` named. Raises ValueError for anything else."""
    if name.startswith(_BUCKET):
        return name[len(_BUCKET) :]
    if name.startswith(_BLOCK):
        return int(name[len(_BLOCK) :])
    raise ValueError(f"not a place of usages: {name!r}")


def is_shared(place: Place) -> bool:
    """Whether usages of several ids or keys may lie there: a block, or a bucket of UUIDv7s (see ``keyed.bucket``)."""
    return isinstance(place, int) or _SHARED.fullmatch(place) is not None


def minute_of(at_us: int) -> int:
    """Minutes since the epoch."""
    return at_us // MINUTE_US


def day_of(minute: int) -> int:
    """Days since the epoch."""
    return minute // DAY_MINUTES


def span_start_us(at_us: int) -> int:
    """The beginning of its second: whatever took a usage at ``at_us`` is in the directory since then or later."""
    return at_us - at_us % SPAN_US


def part_within(count: int, first_us: int | None, last_us: int | None, from_us: int, until_us: int) -> int | None:
    """How many of a place's usages lie in [from_us, until_us), told by the first and the last; None when that tells nothing."""
    if not count or first_us is None or last_us is None or last_us < from_us or first_us >= until_us:
        return 0
    return count if from_us <= first_us and last_us < until_us else None


def count_within(times: Sequence[int | None], from_us: int, until_us: int) -> int:
    """How many of the times lie in [from_us, until_us); a row without its usage has none."""
    return sum(1 for at_us in times if at_us is not None and from_us <= at_us < until_us)
