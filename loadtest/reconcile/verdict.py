"""What a request's journal and the store's rows come to, taken together. Pure: two tables and a function.

Rows of a request are of four sorts. Its *place* is the id that was acknowledged, the key that was sent, the digest of the
message; a usage that was not acknowledged has no place yet, and any one row of it is at its place.

- intact: at its place, byte for byte what was sent
- altered: at its place and carrying its identity, with other bytes
- stranger: at its place, carrying nobody's identity or another request's
- elsewhere: carrying its identity, in another place
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from loadtest.journal import State

NEVER = 0
"""The state of what was never sent."""


class Fault(enum.Enum):
    """What must not be."""

    LOST = "lost"  # acknowledged, and nothing is at its place
    PHANTOM = "phantom"  # there, although it was refused or never sent, or its DELETE was acknowledged
    DUPLICATE = "duplicate"  # more than one row of one request
    CORRUPT = "corrupt"  # its bytes differ, or its place holds what is not its own


class Presence(enum.Enum):
    """Whether a request's row has to be there."""

    MUST = "must"
    MAY = "may"
    MUST_NOT = "must not"


PRESENCE = {
    NEVER: Presence.MUST_NOT,
    State.SENT: Presence.MAY,  # the process ended before it had an answer
    State.ACKNOWLEDGED: Presence.MUST,
    State.REFUSED: Presence.MUST_NOT,
    State.UNKNOWN: Presence.MAY,
    State.DELETE_SENT: Presence.MAY,
    State.DELETED: Presence.MUST_NOT,
    State.DELETE_UNKNOWN: Presence.MAY,
}

INTACT = 1
ALTERED = 1 << 2
STRANGER = 1 << 4
ELSEWHERE = 1 << 6
COUNT_MAX = 3
"""Rows of one sort are counted up to here: two bits each, a byte for a request."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How many rows of each sort a request has; COUNT_MAX is that many or more."""

    intact: int = 0
    altered: int = 0
    strangers: int = 0
    elsewhere: int = 0

    @property
    def own(self) -> int:
        """Those that carry its identity."""
        return self.intact + self.altered + self.elsewhere


def rows_of(mark: int) -> Rows:
    """The rows that a request's mark stands for."""
    return Rows(mark & 3, mark >> 2 & 3, mark >> 4 & 3, mark >> 6)


def marked(mark: int, sort: int) -> int:
    """The mark with one more row of a sort (INTACT, ALTERED, STRANGER, ELSEWHERE)."""
    return mark + sort if mark // sort & 3 < COUNT_MAX else mark


def judge(state: int, rows: Rows) -> frozenset[Fault]:
    """What is wrong with a request in this state (NEVER or a State) that has these rows."""
    presence = PRESENCE[state]
    faults = set()
    if rows.altered or rows.strangers:
        faults.add(Fault.CORRUPT)
    elif presence is Presence.MUST and not rows.intact:
        faults.add(Fault.LOST)
    if presence is Presence.MUST_NOT and rows.own:
        faults.add(Fault.PHANTOM)
    if rows.own > 1:
        faults.add(Fault.DUPLICATE)
    return frozenset(faults)
