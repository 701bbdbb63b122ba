"""How a failure becomes an answer, and what is counted and logged of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from service import metrics
from service.errors import Problem, StoreError, problem_of
from service.http import Response, problem_response

log = logging.getLogger(__name__)


class Reporter:
    """Counts and logs what is refused or failed, one line for each; none for a success."""

    def __init__(self, retry_after_s: Callable[[], int]) -> None:
        self._retry_after_s = retry_after_s

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
        if log.isEnabledFor(level):
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
            log.log(level, "failed" if problem.status >= 500 else "refused", extra={"fields": fields})
        return problem_response(problem, request_id, self._retry_after_s())
