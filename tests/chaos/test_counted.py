"""Whether a wrong count would be told after a chaos run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.chaos.counted import PARTS, WINDOW_LENGTH, compared, disagreements, instants
from tests.support import WebInstance

ENDS = ["2026-11-23T09:00:30.000000Z", "2026-11-23T09:01:10.000000Z", "2026-11-24T10:00:00.000000Z"]
TIMES = [
    "2026-11-23T09:00:30.000000Z",
    "2026-11-23T09:01:09.999999Z",
    "2026-11-23T09:01:10.000000Z",
    "2026-11-24T09:59:59.999999Z",
]


def right(window: str | None, from_: str, to: str) -> dict[str, Any]:
    """A service that counts as it should."""
    inside = [time for time in TIMES if from_ <= time < to]
    if window is None:
        return {"total": len(inside)}
    named = Counter(time[: WINDOW_LENGTH[window]] for time in inside)
    return {"total": len(inside), "windows": [{"from": name, "count": number} for name, number in named.items()]}


def test_counts_that_are_those_of_the_export_are_well():
    """Also where an instant cuts a minute: what is received at it belongs to the later part."""
    assert disagreements(TIMES, ENDS, right) == (len(TIMES), [])


@pytest.mark.parametrize("window", [None, *WINDOW_LENGTH])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_count_that_is_off_by_one_is_told(window: str | None, off_by: int):
    """In the whole or in one window of one kind, and nothing else is."""

    def count(asked: str | None, from_: str, to: str) -> dict[str, Any]:
        answer = right(asked, from_, to)
        if asked == window and (from_, to) == (ENDS[0], ENDS[1]):
            answer["total"] += off_by
            if asked is not None:
                answer["windows"][0]["count"] += off_by
        return answer

    _, (told,) = disagreements(TIMES, ENDS, count)
    assert told.startswith(f"{ENDS[0]} to {ENDS[1]}")
    assert (window or "counted") in told


def test_a_window_that_is_not_exported_is_told():
    """A count of something that is in no list."""

    def count(asked: str | None, from_: str, to: str) -> dict[str, Any]:
        answer = right(asked, from_, to)
        if asked == "day":
            answer["windows"].append({"from": "2026-11-25T00:00:00.000000Z", "count": 7})
        return answer

    _, told = disagreements(TIMES, ENDS, count)
    assert len(told) == 3
    assert all("day 2026-11-25: 7 counted, 0 exported" in text for text in told)


def test_the_service_itself_is_asked(instance: WebInstance):
    """Its export and its counts, of the same instants."""
    for number in range(5):
        assert instance.post_usage(b'{"n": %d}' % number).status == 201
    exported, wrong = compared("http://{}:{}".format(*instance.address))
    assert exported >= 5
    assert wrong == []


def test_parts_are_equal_and_cover_the_time():
    """From its first instant to its last."""
    ends = instants("2026-11-23T09:00:00Z", "2026-11-23T09:01:30Z")
    assert len(ends) == PARTS + 1
    assert ends == sorted(set(ends))
    assert instants(ends[0], ends[-1]) == ends
