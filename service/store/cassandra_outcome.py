"""What became of a statement: written, certainly not written, or unknown. Pure, and the only place that says so."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from cassandra.cluster import NoHostAvailable
from cassandra.protocol import (
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    PreparedQueryNotFound,
    ProtocolException,
)

from cassandra import AuthenticationFailed, RequestValidationException, Unavailable, UnsupportedOperation

ATTEMPTS_MAX = 2
RETRY_MIN_S = 0.1
FIRST_ATTEMPT_SHARE = 0.6
"""Of the time budget, when another node could be asked after the first: a node that hangs does not use it all up."""


class Outcome(enum.Enum):
    """Of one attempt, and of all attempts together."""

    WRITTEN = "written"
    REFUSED = "refused"
    UNKNOWN = "unknown"


REFUSALS: tuple[type[BaseException], ...] = (
    NoHostAvailable,  # no connection to send it on; with our retry policy the driver never means "tried and failed" by it
    Unavailable,  # the coordinator knows of too few live replicas and asked none
    OverloadedErrorMessage,  # thrown before the coordinator sends anything to a replica
    IsBootstrappingErrorMessage,
    RequestValidationException,  # invalid, unauthorized, no such table: turned down before it ran
    ProtocolException,
    PreparedQueryNotFound,
    UnsupportedOperation,
    AuthenticationFailed,
)
"""Errors that prove that nothing was written. Whatever is not listed here leaves it unknown: WriteTimeout, WriteFailure,
OperationTimedOut, a connection that broke with the statement in flight, ServerError, and what nobody thought of."""


NO_REFUSALS_OF_SEVERAL: tuple[type[BaseException], ...] = (Unavailable, OverloadedErrorMessage)
"""A batch of several partitions is sent one mutation after the other, and these may come when some have been sent."""


REFUSALS_OF_ONE_NODE: tuple[type[BaseException], ...] = (OverloadedErrorMessage, IsBootstrappingErrorMessage)
"""What a node says of itself: it has too much to do, shuts down ("Server is shutting down" comes as OVERLOADED) or has
only just come. Another may take the statement."""


def outcome_of(error: BaseException | None, *, one_partition: bool = True) -> Outcome:
    """Of one attempt that ended with this error, or with none."""
    if error is None:
        return Outcome.WRITTEN
    if not one_partition and isinstance(error, NO_REFUSALS_OF_SEVERAL):
        return Outcome.UNKNOWN
    return Outcome.REFUSED if isinstance(error, REFUSALS) else Outcome.UNKNOWN


def verdict(attempts: Sequence[Outcome]) -> Outcome:
    """Of all attempts at one idempotent statement: a later refusal does not undo an earlier attempt that may have landed."""
    if Outcome.WRITTEN in attempts:
        return Outcome.WRITTEN
    return Outcome.UNKNOWN if Outcome.UNKNOWN in attempts else Outcome.REFUSED


def may_try_again(attempts: Sequence[Outcome], *, idempotent: bool, elsewhere: bool, remaining_s: float) -> bool:
    """Once more, while there is time: after an unknown outcome, or where one node refused and there is another.

    Any other refusal stands: it is sure, and asking again is load. ``elsewhere`` says that the last error was one node's
    own refusal and that a node is left that was not asked; as nothing was written, whether the statement is idempotent
    does not matter then.
    """
    if len(attempts) >= ATTEMPTS_MAX or remaining_s < RETRY_MIN_S:
        return False
    return idempotent if attempts[-1] is Outcome.UNKNOWN else elsewhere


def attempt_timeout_s(attempts: Sequence[Outcome], *, remaining_s: float, other_hosts: bool) -> float:
    """How long the next attempt may take."""
    return remaining_s * FIRST_ATTEMPT_SHARE if other_hosts and not attempts else remaining_s
