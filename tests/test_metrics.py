"""The metrics that are counted in bulk say what they would if counted one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from service import metrics
from service.metrics import ANSWERS, SECONDS, Answers, observe_all


def samples(histogram: Histogram) -> dict[tuple[str, str], float]:
    """What a scrape of it would show."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for metric in histogram.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def histogram() -> Histogram:
    """An empty one, with the buckets of request_seconds."""
    return Histogram("seconds", "Of a test.", buckets=SECONDS, registry=CollectorRegistry())


@given(st.lists(st.one_of(st.sampled_from(SECONDS), st.floats(0, 1000, allow_nan=False))))
def test_observing_many_at_once_is_observing_each(amounts: list[float]):
    """The same buckets and the same sum, also for amounts on a bound and above the last one."""
    one_by_one, at_once = histogram(), histogram()
    for amount in amounts:
        one_by_one.observe(amount)
    observe_all(at_once, amounts)
    assert samples(at_once) == pytest.approx(samples(one_by_one))


@pytest.fixture
def counted() -> Iterator[None]:
    """The process's own metrics, as they were found."""
    yield
    ANSWERS.flush()
    metrics.REQUESTS.clear()
    metrics.REQUEST_SECONDS.clear()


def total(method: str, status: str) -> float:
    """Answers on the route of this test, as a scrape would show them."""
    labels = {"route": "/test", "method": method, "status": status}
    return metrics.REGISTRY.get_sample_value("busyapi_requests_total", labels) or 0


@pytest.mark.usefixtures("counted")
def test_a_flush_shows_every_answer_once():
    """By method and status; an invented method is "other"; a second flush adds nothing."""
    answers = Answers()
    for method, status in [("POST", 201)] * 3 + [("POST", 503), ("BREW", 400)]:
        answers.count("/test", method, status, 0.002)
    assert total("POST", "201") == 0
    answers.flush()
    answers.flush()
    assert (total("POST", "201"), total("POST", "503"), total("other", "400")) == (3, 1, 1)
    assert metrics.REGISTRY.get_sample_value("busyapi_request_seconds_count", {"route": "/test"}) == 5


@pytest.mark.usefixtures("counted")
def test_what_waits_to_be_counted_is_bounded():
    """So many answers, and it is flushed without anybody asking."""
    answers = Answers()
    for _ in range(Answers.PENDING_MAX):
        answers.count("/test", "GET", 200, 0.1)
    assert total("GET", "200") == Answers.PENDING_MAX
