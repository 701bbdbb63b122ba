from __future__ import annotations

import logging

import pytest

from service.errors import Problem, QueueFull
from service.reporting import LINES_PER_S_MAX, LineLimit, Reporter


def test_of_very_many_lines_a_share_is_written_and_the_rest_is_counted():
    """LINES_PER_S_MAX in each second; the first line of a later second says how many were left out, once."""
    limit = LineLimit()
    assert [limit.take(1.0) for _ in range(LINES_PER_S_MAX)] == [0] * LINES_PER_S_MAX
    assert [limit.take(1.9) for _ in range(1_000)] == [None] * 1_000
    assert [limit.take(2.0), limit.take(2.1)] == [1_000, 0]


def test_few_lines_are_all_written():
    """One a second, for long: none is left out."""
    limit = LineLimit()
    assert all(limit.take(float(second)) == 0 for second in range(1_000))


def test_a_flood_of_one_code_does_not_hide_another(caplog: pytest.LogCaptureFixture):
    """Ten thousand refusals leave a bounded number of lines; a problem of another code has its own line."""
    reporter = Reporter(lambda: 1)
    with caplog.at_level(logging.INFO, "service.reporting"):
        for number in range(10_000):
            reporter.problem(QueueFull("full"), f"r-{number}", "POST", "/api/usages", 0.0)
        reporter.problem(Problem(422, "invalid_field", "No."), "r-other", "POST", "/api/usages", 0.0)
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert LINES_PER_S_MAX <= len(fields) <= 20 * LINES_PER_S_MAX  # it may take some seconds where others compute
    assert fields[-1]["request_id"] == "r-other"
