"""Times of RFC 3339 as µs since the epoch, and windows of a time span. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
WINDOWS_US = {"minute": MINUTE_US, "hour": 60 * MINUTE_US, "day": 24 * 60 * MINUTE_US}
LAST_US = 253_402_300_799_999_999
"""The last µs of the year 9999, which is the last that RFC 3339 can name."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(?:\.(\d{1,30}))?(?:[Zz]|([+ -])(\d\d):(\d\d))", re.ASCII)


def parse_rfc3339(text: str) -> int | None:
    """µs since the epoch, rounded up, within 1970 to 9999; None when it is no time of RFC 3339 with its offset.

    Rounded up, as usages have whole µs: those from a time on are those from the next whole µs on, and so are those before
    it. A space in place of the offset's ``+`` is one that a client forgot to escape.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    date, clock, second, fraction, sign, hours, minutes = match.groups()
    # A leap second, which no clock here knows, is the second after 59.
    leap = second == "60"
    try:
        minute = datetime.fromisoformat(f"{date}T{clock}:{'59' if leap else second}+00:00")
    except ValueError:
        return None
    offset_minutes = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            return None
        offset_minutes = (int(hours) * 60 + int(minutes)) * (-1 if sign == "-" else 1)
    since = minute - _EPOCH
    us = (since.days * 86_400 + since.seconds + leap) * SECOND_US - offset_minutes * MINUTE_US
    if fraction:
        us += int(fraction[:6].ljust(6, "0")) + (fraction[6:].strip("0") != "")
    return min(max(us, 0), LAST_US)


def rfc3339(us: int) -> bytes:
    """A time in UTC, to the µs."""
    seconds, micros = divmod(us, SECOND_US)
    return b"%b.%06dZ" % (_second(seconds), micros)


@functools.lru_cache(maxsize=1024)  # a listing has many of one second
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode().rjust(19, b"0")


def window_count(from_us: int, until_us: int, window_us: int) -> int:
    """How many windows, aligned in UTC, the span [from, until) touches."""
    return (until_us - 1) // window_us - from_us // window_us + 1 if from_us < until_us else 0


def window_starts(from_us: int, until_us: int, window_us: int) -> list[int]:
    """Where each of them begins; the first is cut off by the span."""
    first = from_us // window_us
    count = window_count(from_us, until_us, window_us)
    return [max(from_us, (first + at) * window_us) for at in range(count)]


def add_windows(sums: list[int], from_us: int, window_us: int, minutes: Iterable[Mapping[int, int]]) -> None:
    """Add counts by minute to the windows of a span that begins at ``from_us``."""
    first, minutes_each = from_us // window_us, window_us // MINUTE_US
    for counts in minutes:
        for minute, count in counts.items():
            sums[minute // minutes_each - first] += count
