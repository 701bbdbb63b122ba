from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import RETRY_AFTER_MAX_S, Admission, retry_after_s
from service.errors import (
    STORE_ERRORS,
    Closing,
    DeadlineExceeded,
    Problem,
    QueueFull,
    StoreError,
    StoreRefused,
    StoreUnknown,
    problem_of,
)

uniform = st.floats(0, 1, exclude_max=True)


@given(st.floats(0, 1e9), uniform)
def test_retry_after_is_whole_seconds_within_its_bounds(expected_wait_s: float, random: float):
    """Never 0, which would be an invitation to hammer, and never longer than a person would wait."""
    seconds = retry_after_s(expected_wait_s, random)
    assert isinstance(seconds, int)
    assert 1 <= seconds <= RETRY_AFTER_MAX_S


@given(st.floats(0, 100), st.floats(0, 100), uniform)
def test_a_longer_queue_never_means_a_shorter_wait(one_s: float, other_s: float, random: float):
    """Retry-After follows the load."""
    shorter_s, longer_s = sorted((one_s, other_s))
    assert retry_after_s(shorter_s, random) <= retry_after_s(longer_s, random)


def test_those_who_were_refused_together_do_not_come_back_together():
    """The jitter spreads a burst over several seconds, around the expected wait."""
    seconds = [retry_after_s(10, step / 100) for step in range(100)]
    assert min(seconds) >= 7
    assert max(seconds) <= 15
    assert len(set(seconds)) >= 5


def test_one_request_too_many_is_a_503():
    """The bound itself is still served."""
    admission = Admission(requests_max=2, body_bytes_max=100, body_timeout_s=1.0)
    admission.requests = 2
    admission.check()
    admission.requests = 3
    with pytest.raises(Problem) as caught:
        admission.check()
    assert (caught.value.status, caught.value.code) == (503, "overloaded")


def test_bytes_that_are_refused_are_not_counted():
    """A refused body leaves no trace; the next one that fits is taken."""
    admission = Admission(requests_max=2, body_bytes_max=100, body_timeout_s=1.0)
    admission.hold(60)
    with pytest.raises(Problem) as caught:
        admission.hold(41)
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    admission.hold(40)
    assert admission.body_bytes == 100
    assert "100/100 bytes" in repr(admission)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (QueueFull, 503, "queue_full"),
        (DeadlineExceeded, 503, "deadline_exceeded"),
        (Closing, 503, "shutting_down"),
        (StoreRefused, 503, "store_unavailable"),
        (StoreUnknown, 504, "store_timeout"),
        (StoreError, 500, "store_error"),
    ],
)
def test_every_store_error_has_its_status_and_code(kind: type[StoreError], status: int, code: str):
    """503 for what was certainly not written, 504 for what is unknown; codes are stable."""
    problem = problem_of(kind("why"))
    assert (problem.status, problem.code) == (status, code)
    assert "why" not in problem.detail


def test_a_new_kind_of_store_error_takes_the_row_of_its_parent():
    """A store may say more precisely what happened without a row of its own."""

    class NodeIsDown(StoreRefused):
        pass

    assert problem_of(NodeIsDown("x")).code == "store_unavailable"


def test_certainly_not_stored_is_said_by_503_alone():
    """The promise of the table: refused is a 503, everything else is not."""
    for kind, (status, _, detail) in STORE_ERRORS.items():
        assert (status == 503) == issubclass(kind, StoreRefused)
        assert ("Nothing was stored" in detail) == (status == 503)
