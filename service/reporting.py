"""How a failure becomes an answer, and what is counted and logged of it."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from service import metrics
from service.errors import Problem, StoreError, problem_of
from service.http import Response, problem_response

log = logging.getLogger(__name__)

LINES_PER_S_MAX = 50
"""Lines of one code in a second. A line costs more than twice what the refusal does (10 and 4 µs), and in an outage every
request would be one."""


class LineLimit:
    """Which of the lines of one code are written, and how many were left out; the metrics count them all."""

    __slots__ = ("left_out", "second", "written")

    def __init__(self) -> None:
        self.second = 0
        self.written = 0
        self.left_out = 0

    def take(self, now_s: float) -> int | None:
        """None when this line is left out; else how many were left out since the last one that was written."""
        second = int(now_s)
        if second != self.second:
            self.second, self.written = second, 0
        if self.written >= LINES_PER_S_MAX:
            self.left_out += 1
            return None
        self.written += 1
        left_out, self.left_out = self.left_out, 0
        return left_out


class Reporter:
    """Counts and logs what is refused or failed: a line for each, of very many a share; none for a success."""

    def __init__(self, retry_after_s: Callable[[], int]) -> None:
        self._retry_after_s = retry_after_s
        self._limits: defaultdict[str, LineLimit] = defaultdict(LineLimit)

    def problem(self, error: BaseException, request_id: str, method: str, path: str, started_s: float) -> Response:
        """The answer to a request that raised ``error``, logged. What nobody foresaw is a 500, with its trace in the log."""
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, StoreError):
            problem = problem_of(error)
        else:
            log.error("a bug", exc_info=error, extra={"fields": {"request_id": request_id}})
            problem = Problem(500, "internal_error", "The service failed; whether anything was stored is unknown.")
        metrics.REFUSED.labels(problem.code).inc()
        level = logging.WARNING if problem.status >= 500 else logging.INFO
        if problem.code == "not_ready":
            level = logging.DEBUG  # a balancer asks twice a second, and the change itself is in the log
        if log.isEnabledFor(level) and (left_out := self._limits[problem.code].take(time.monotonic())) is not None:
            fields: dict[str, Any] = {
                "request_id": request_id,
                "method": method,
                "path": path,
                "status": problem.status,
                "code": problem.code,
                "duration_ms": round((time.perf_counter() - started_s) * 1000, 1),
            }
            if problem.field:
                fields["field"] = problem.field
            if problem.status >= 500:
                fields["error"] = str(error)
            if left_out:
                fields["lines_left_out"] = left_out
            log.log(level, "failed" if problem.status >= 500 else "refused", extra={"fields": fields})
        return problem_response(problem, request_id, self._retry_after_s())
