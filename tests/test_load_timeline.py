from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import timeline as module
from loadtest.timeline import (
    JSON,
    LATENCY_US_MAX,
    OTHER_REASONS,
    Timeline,
    bucket_of_us,
    percentile,
    us_of_bucket,
)

SECOND = 1_800_000_000


@given(st.integers(1, LATENCY_US_MAX))
def test_a_bucket_tells_a_latency_to_within_a_hundred_and_twenty_eighth(latency_us: int):
    """What is told is never less than what was measured, and at most 0.8 % more."""
    told_us = us_of_bucket(bucket_of_us(latency_us))
    assert latency_us <= told_us < latency_us * (1 + 1 / 128)


@given(st.integers(1, LATENCY_US_MAX - 1))
def test_buckets_rise_with_latency_without_a_gap(latency_us: int):
    """The next latency is in the same bucket or in the next one, so a chart may count on their order."""
    assert bucket_of_us(latency_us + 1) - bucket_of_us(latency_us) in (0, 1)


def test_latencies_out_of_range_are_counted_at_its_ends():
    """Nothing is dropped: under 1 µs is 1 µs, over an hour is an hour."""
    assert us_of_bucket(bucket_of_us(-5)) == us_of_bucket(bucket_of_us(0)) == 1
    assert bucket_of_us(10**15) == bucket_of_us(LATENCY_US_MAX)


@pytest.mark.parametrize("p", [0, 1, 50, 90, 99, 99.9, 99.99, 100])
def test_percentiles_are_those_of_the_sorted_latencies(p: float):
    """Against counting by hand: the least latency that at least p per cent do not exceed."""
    drawn = random.Random(5)
    latencies_us = sorted(int(drawn.lognormvariate(9, 1)) + 1 for _ in range(20_000))
    buckets: dict[int, int] = {}
    for latency_us in latencies_us:
        buckets[bucket_of_us(latency_us)] = buckets.get(bucket_of_us(latency_us), 0) + 1
    rank = next(n for n in range(1, 20_001) if n * 10_000 >= round(p * 100) * 20_000)
    assert percentile(buckets, p) == us_of_bucket(bucket_of_us(latencies_us[rank - 1]))


def test_there_is_no_percentile_of_nothing():
    """None, not 0, which would be the best of all latencies."""
    assert percentile({}, 99) is None
    assert percentile({5: 0}, 99) is None


def test_a_delta_has_the_shape_that_readers_count_on():
    """Seconds, names, buckets and processes are text, so that it is the same before and after JSON."""
    timeline = Timeline()
    timeline.success("POST /api/usages", SECOND + 0.9, 0.000100, 13)
    timeline.failure("POST /api/usages", SECOND + 0.95, "timed out", 10.0)
    timeline.failure("POST /api/usages", SECOND + 0.95, "cannot connect")
    timeline.offered(SECOND + 0.1, 3)
    timeline.unsent(SECOND + 1.0)
    timeline.users(SECOND, 256)
    timeline.generator("host:1", SECOND, 0.5)
    delta = timeline.take()
    requests = {
        "count": 3,
        "bytes": 13,
        "latency": {"100": 1},
        "failed_latency": {str(bucket_of_us(10_000_000)): 1},
        "errors": {"timed out": 1, "cannot connect": 1},
    }
    assert delta == {
        "seconds": {
            str(SECOND): {"offered": 3, "unsent": 0, "users": 256, "requests": {"POST /api/usages": requests}},
            str(SECOND + 1): {"offered": 0, "unsent": 1, "users": 0, "requests": {}},
        },
        "generators": {"host:1": {str(SECOND): 0.5}},
    }
    assert json.loads(json.dumps(delta)) == delta
    assert timeline.take() == {"seconds": {}, "generators": {}}


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("sfou"), st.sampled_from(("GET /", "POST /")), st.integers(1, 10**6)),
    max_size=30,
)


def record(timeline: Timeline, events: list[tuple[int, str, str, int]]) -> None:
    """Play events of a few kinds into a timeline."""
    for second, kind, name, number in events:
        at_unix_s = SECOND + second + 0.5
        if kind == "s":
            timeline.success(name, at_unix_s, number / 1e6, number)
        elif kind == "f":
            timeline.failure(name, at_unix_s, f"reason {number % 3}", number / 1e6)
        elif kind == "o":
            timeline.offered(at_unix_s, number)
        else:
            timeline.unsent(at_unix_s, number)


@given(st.lists(EVENTS, max_size=4), st.randoms(use_true_random=False))
def test_deltas_add_up_in_whatever_order_they_come(parts: list[list[tuple[int, str, str, int]]], order: random.Random):
    """Several processes, each taking when it likes, come to what one timeline of everything would have been."""
    whole, merged, deltas = Timeline(), Timeline(), []
    source = Timeline()
    for part in parts:
        record(whole, part)
        record(source, part)
        deltas.append(json.loads(json.dumps(source.take())))
    order.shuffle(deltas)
    for delta in deltas:
        merged.merge(delta)
    assert merged.as_dict() == whole.as_dict()
    assert json.loads(merged.as_json()) == whole.as_dict()


def test_the_text_follows_what_is_added_to_a_second_that_was_written_before():
    """Seconds are not encoded twice, but a late delta is not forgotten either; further members stand beside them."""
    timeline = Timeline()
    timeline.success("GET /", SECOND, 0.001)
    first = json.loads(timeline.as_json())
    timeline.success("GET /", SECOND, 0.001)
    second = json.loads(timeline.as_json(notes=["a </b> note"]))
    assert first["seconds"][str(SECOND)]["requests"]["GET /"]["count"] == 1
    assert second["seconds"][str(SECOND)]["requests"]["GET /"]["count"] == 2
    assert second["notes"] == ["a </b> note"]


def test_reasons_are_bounded_and_none_is_dropped():
    """A service that says something else each time fills no memory; the count of failures stays exact."""
    timeline = Timeline()
    for number in range(module.REASONS_MAX + 50):
        timeline.failure("GET /", SECOND, f"reason {number}")
    errors = timeline.as_dict()["seconds"][str(SECOND)]["requests"]["GET /"]["errors"]
    assert len(errors) == module.REASONS_MAX + 1
    assert errors[OTHER_REASONS] == 50


def test_a_long_run_keeps_its_sums(monkeypatch: pytest.MonkeyPatch):
    """Seconds beyond the bound become one sum, also those that are reported late, and travel in deltas."""
    monkeypatch.setattr(module, "SECONDS_MAX", 10)
    timeline, merged = Timeline(), Timeline()
    for second in range(25):
        timeline.success("GET /", SECOND + second, 0.001, 7)
        timeline.generator("host:1", SECOND + second, 0.1)
    timeline.success("GET /", SECOND + 2, 0.001, 7)
    assert total(timeline.as_dict()) == total(json.loads(timeline.as_json())) == 26
    whole = timeline.take()
    assert len(whole["seconds"]) == 10
    assert len(whole["generators"]["host:1"]) == 10
    assert whole["earlier"]["requests"]["GET /"]["bytes"] == 7 * 16
    merged.merge(whole)
    merged.merge(whole)
    assert total(merged.as_dict()) == 52


def total(delta: JSON) -> int:
    """All requests in it."""
    seconds = [*delta["seconds"].values(), *([delta["earlier"]] if "earlier" in delta else [])]
    return sum(requests["count"] for second in seconds for requests in second["requests"].values())
