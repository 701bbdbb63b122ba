"""Who may come in: how many requests and bytes one process holds, and when to try again.

Refusing is cheap and early; what is let in has room to finish.
"""

from __future__ import annotations

from service.errors import Problem

RETRY_AFTER_MAX_S = 30


class Admission:
    """Counts the requests at work and the bytes of their bodies against their bounds."""

    __slots__ = ("body_bytes", "body_bytes_max", "body_timeout_s", "requests", "requests_max")

    def __init__(self, requests_max: int, body_bytes_max: int, body_timeout_s: float) -> None:
        self.body_timeout_s = body_timeout_s
        self.requests = 0
        self.requests_max = requests_max
        self.body_bytes = 0
        self.body_bytes_max = body_bytes_max

    def __repr__(self) -> str:
        return (
            f"<Admission: {self.requests}/{self.requests_max} requests, {self.body_bytes}/{self.body_bytes_max} bytes>"
        )

    def check(self) -> None:
        """Raises Problem 503 when one more request would be too many."""
        if self.requests > self.requests_max:
            raise Problem(
                503, "overloaded", "Too many requests are being handled. Nothing was stored; try again later."
            )

    def hold(self, size: int) -> None:
        """Count bytes of a body in. Raises Problem 503, and counts nothing, when that is too many."""
        if self.body_bytes + size > self.body_bytes_max:
            raise Problem(503, "overloaded", "Too many bytes are being handled. Nothing was stored; try again later.")
        self.body_bytes += size


def body_too_slow() -> Problem:
    """The 408 for a body that was not whole in time; the connection ends with it."""
    return Problem(
        408,
        "request_timeout",
        "The body did not arrive in time. Nothing was stored.",
        headers=((b"connection", b"close"),),
    )


def retry_after_s(expected_wait_s: float, random: float) -> int:
    """Whole seconds for Retry-After: the expected wait, spread so that those who were refused do not return as one.

    ``random`` is uniform in [0, 1). At least 1, at most RETRY_AFTER_MAX_S.
    """
    spread_s = expected_wait_s * (0.75 + 0.5 * random) + 2 * random
    return max(1, min(RETRY_AFTER_MAX_S, round(spread_s)))
