"""What became of a batch's items, as the client reads it. Pure.

A result is an object with a ``status``: ``created`` and ``duplicate`` with the ``id``; ``invalid`` with code, field and
detail; ``retry``, which is certainly not stored, and ``unknown``, which may be, with code and detail. The codes are those
of the single POST.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from service.errors import Problem, StoreError, problem_of
from service.store import Put

STATUSES = ("created", "duplicate", "invalid", "retry", "unknown")
ERRORS_SHOWN_MAX = 100
"""Of a strict batch that is refused, so many of the items at fault are named."""

_encode = msgspec.json.encode

_CREATED = b'"status":"created","id":%d'
_PUT = {Put.CREATED: b'"status":"created","id":%b', Put.DUPLICATE: b'"status":"duplicate","id":%b'}
_LINE = b'{"line":%d,%b}\n'


class Counts:
    """How many items came to each status."""

    __slots__ = STATUSES

    def __init__(self) -> None:
        self.created = self.duplicate = self.invalid = self.retry = self.unknown = 0

    def add(self, other: Counts) -> None:
        """Count those of ``other`` in."""
        for status in STATUSES:
            setattr(self, status, getattr(self, status) + getattr(other, status))

    def members(self, retry_after_s: int) -> dict[str, Any]:
        """The counts by name, and when to come back with what was refused."""
        counts: dict[str, Any] = {status: getattr(self, status) for status in STATUSES}
        if self.retry:
            counts["retry_after_s"] = retry_after_s
        return counts


REUSED = Problem(
    422,
    "idempotency_key_reused",
    "This idempotency_key has been used with another usage; that one stays as it was.",
    field="idempotency_key",
)


def created(ids: Sequence[int]) -> list[bytes]:
    """The results of usages without keys that are all on disk."""
    return [_CREATED % id_ for id_ in ids]


def put(key: str, outcome: Put) -> bytes:
    """The result of a usage under a key. What was refused for its key is :data:`REUSED`."""
    return _PUT[outcome] % _encode(key)


def invalid(problem: Problem) -> bytes:
    """The result of an item that no repeat makes better."""
    members = {"status": "invalid", "code": problem.code, "field": problem.field, "detail": problem.detail}
    if problem.field is None:
        del members["field"]
    return _encode(members)[1:-1]


def failed(error: StoreError) -> tuple[str, bytes]:
    """``retry`` or ``unknown``, and the result of an item that the store refused or has not answered for."""
    problem = problem_of(error)
    # A 503 and nothing else promises that nothing was written.
    status = "retry" if problem.status == 503 else "unknown"
    return status, _encode({"status": status, "code": problem.code, "detail": problem.detail})[1:-1]


def array(counts: Counts, tails: Sequence[bytes], retry_after_s: int) -> bytes:
    """The answer to an array: the counts, then a result for each item."""
    head = _encode(counts.members(retry_after_s))[:-1]
    if not tails:
        return head + b',"results":[]}'
    return b'%b,"results":[{%b}]}' % (head, b"},{".join(tails))


def lines(numbers: Sequence[int], tails: Sequence[bytes]) -> bytes:
    """Results as they stand in a stream, each with the line that its item stood on."""
    return b"".join([_LINE % pair for pair in zip(numbers, tails, strict=True)])


def last_line(counts: Counts, retry_after_s: int, ack: str, problem: dict[str, Any] | None) -> bytes:
    """What ends a stream: its counts and what an acknowledgement is worth by now, behind the problem that ended it early, if one did."""
    summary = counts.members(retry_after_s) | {"ack": ack, "complete": problem is None}
    return _encode(({} if problem is None else {"error": problem}) | {"summary": summary}) + b"\n"


def refusal(errors: Iterable[tuple[int, Problem]], invalid_count: int, first_named: str) -> Problem:
    """The 422 for a strict batch with items at fault: the first of them by ``first_named``, and how many there are."""
    shown = []
    for at, problem in errors:
        error = {first_named: at, "code": problem.code, "field": problem.field, "detail": problem.detail}
        shown.append({name: value for name, value in error.items() if value is not None})
        if len(shown) >= ERRORS_SHOWN_MAX:
            break
    return Problem(
        422,
        "batch_invalid",
        f"{invalid_count} of the items are invalid. Nothing was stored, as strict=true asks.",
        extra={"invalid": invalid_count, "errors": shown},
    )
