"""What can go wrong, and the one table that says which HTTP status it becomes.

A store raises (or returns, per item) a :class:`StoreError`; a handler raises a
:class:`Problem`. Both end as an RFC 9457 problem document.
"""

from __future__ import annotations

from typing import Any


class StoreError(Exception):
    """A store operation did not succeed."""


class StoreRefused(StoreError):
    """Certainly not written: the store was never asked, or it said no before writing."""


class StoreUnknown(StoreError):
    """Neither yes nor no in time: it may be on disk, or may still get there."""


class QueueFull(StoreRefused):
    """The group commit's queue is at its bound; the item never entered it."""


class DeadlineExceeded(StoreRefused):
    """The item waited in the queue past its deadline and was never sent."""


class Closing(StoreRefused):
    """The web instance is shutting down and takes no new items."""


class Problem(Exception):
    """An answer that is an error: everything an RFC 9457 document needs but the request id."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.headers = headers
        self.extra = extra


STORE_ERRORS: dict[type[StoreError], tuple[int, str, str]] = {
    QueueFull: (503, "queue_full", "Too many writes are waiting. Nothing was stored; try again later."),
    DeadlineExceeded: (
        503,
        "deadline_exceeded",
        "The store is too slow just now. Nothing was stored; try again later.",
    ),
    Closing: (503, "shutting_down", "This web instance is shutting down. Nothing was stored; try again."),
    StoreRefused: (503, "store_unavailable", "The store is not available. Nothing was stored; try again later."),
    StoreUnknown: (
        504,
        "store_timeout",
        "The store did not answer in time; a write may or may not be stored. Repeating it under its key is safe.",
    ),
    StoreError: (500, "store_error", "The store failed in a way that is not understood: the outcome is unknown."),
}
"""From the kind of failure to status, code and detail. The most special type is found first."""


def problem_of(error: StoreError) -> Problem:
    """The answer for a store's failure, looked up in :data:`STORE_ERRORS` along its type's ancestry."""
    for kind in type(error).__mro__:
        row = STORE_ERRORS.get(kind)
        if row is not None:
            status, code, detail = row
            return Problem(status, code, detail)
    raise TypeError(f"not a store error: {error!r}")
