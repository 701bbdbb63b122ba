from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.timespan import (
    LAST_US,
    MINUTE_US,
    WINDOWS_US,
    add_windows,
    parse_rfc3339,
    rfc3339,
    window_count,
    window_starts,
)

NOON_US = 1_795_694_400_000_000  # 2026-11-26T12:00:00Z


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2026-11-26T12:00:00Z", NOON_US),
        ("2026-11-26t12:00:00z", NOON_US),
        ("2026-11-26T12:00:00+00:00", NOON_US),
        ("2026-11-26T12:00:00-00:00", NOON_US),
        ("2026-11-26T13:30:00+01:30", NOON_US),
        ("2026-11-26T13:30:00 01:30", NOON_US),
        ("2026-11-25T12:01:00-23:59", NOON_US),
        ("2026-11-26T11:59:60Z", NOON_US),
        ("2026-11-26T12:00:00.5Z", NOON_US + 500_000),
        ("2026-11-26T12:00:00.000001Z", NOON_US + 1),
        ("2026-11-26T12:00:00.0000010Z", NOON_US + 1),
        ("2026-11-26T12:00:00.0000001Z", NOON_US + 1),
        ("2026-11-26T12:00:00.999999999Z", NOON_US + 1_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("0001-01-01T00:00:00+23:59", 0),
        ("9999-12-31T23:59:59.9999999Z", LAST_US),
        ("9999-12-31T23:59:59-23:59", LAST_US),
    ],
)
def test_a_time_of_rfc_3339_is_read(text: str, us: int):
    """Any offset; a fraction rounds up to the µs, so that nothing earlier is at or after it; the years of usages alone."""
    assert parse_rfc3339(text) == us


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-26",
        "2026-11-26T12:00:00",
        "2026-11-26T12:00Z",
        "2026-11-26 12:00:00Z",
        "2026-11-26T12:00:00.Z",
        "2026-11-26T12:00:00,5Z",
        "2026-11-26T12:00:00+0100",
        "2026-11-26T12:00:00+24:00",
        "2026-11-26T12:00:00+01:60",
        "2026-11-26T24:00:00Z",
        "2026-11-26T12:60:00Z",
        "2026-11-26T12:00:61Z",
        "2026-13-01T12:00:00Z",
        "2026-02-29T12:00:00Z",
        "0000-01-01T12:00:00Z",
        "+2026-11-26T12:00:00Z",
        "2026-11-26T12:00:00Z ",
        "2026-11-26T12:00:00Z\n",
        "٢٠٢٦-11-26T12:00:00Z",
        "1795694400000000",
        "2026-11-26T12:00:00." + "1" * 31 + "Z",
        "2026-W48-4T12:00:00Z",
    ],
)
def test_what_is_no_time_of_rfc_3339_is_refused(text: str):
    """ISO 8601's other forms, times without an offset, dates that are none."""
    assert parse_rfc3339(text) is None


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9998, 12, 31)), st.integers(-1439, 1439))  # noqa: DTZ001 - given an offset below
def test_a_time_is_written_as_it_is_read(moment: datetime, offset_minutes: int):
    """Whatever the offset: the same µs."""
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    us = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_rfc3339(aware.isoformat()) == us
    assert parse_rfc3339(rfc3339(us).decode()) == us


spans = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(sorted)


@given(spans, st.sampled_from(sorted(WINDOWS_US)), st.integers(0, 59_999_999))
def test_windows_cover_a_span_without_gap_or_overlap(minutes: list[int], name: str, cut_us: int):
    """Aligned in UTC, save for the first, which begins with the span."""
    from_us, until_us = minutes[0] * MINUTE_US + cut_us, minutes[1] * MINUTE_US + cut_us
    size = WINDOWS_US[name]
    starts = window_starts(from_us, until_us, size) if window_count(from_us, until_us, size) < 1000 else None
    if starts is None:
        return
    assert len(starts) == window_count(from_us, until_us, size)
    if from_us == until_us:
        assert starts == []
        return
    assert starts[0] == from_us
    assert all(start % size == 0 for start in starts[1:])
    ends = [*starts[1:], until_us]
    assert all(0 < end - start <= size for start, end in zip(starts, ends, strict=True))
    assert all(start // size == (end - 1) // size for start, end in zip(starts, ends, strict=True))


@given(st.dictionaries(st.integers(1000, 5000), st.integers(1, 9)), st.sampled_from(sorted(WINDOWS_US)))
def test_counts_by_minute_add_up_in_their_windows(counts: dict[int, int], name: str):
    """Each minute is in one window: that in which it begins."""
    from_us, until_us, size = 1000 * MINUTE_US + 5, 5001 * MINUTE_US, WINDOWS_US[name]
    sums = [0] * window_count(from_us, until_us, size)
    add_windows(sums, from_us, size, [counts, {2000: 7}])
    assert sum(sums) == sum(counts.values()) + 7
    starts = window_starts(from_us, until_us, size)
    for start, found in zip(starts, sums, strict=True):
        begin = start // size * size
        expected = sum(n for minute, n in counts.items() if begin <= minute * MINUTE_US < begin + size)
        assert found == expected + (7 if begin <= 2000 * MINUTE_US < begin + size else 0)
