"""What happened in one topology, as it was seen: the faults with their times, and what became of requests. Plain values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.faults import Failures, Fault

QUIET_ANSWERED_WITHIN_S = 5.0
"""Without any fault, no answer comes later: queue and store have 3.3 s together."""
LEAD_S = 0.1
"""A fault counts from so long before it was begun: clocks of two processes are read in turn."""

_UNKNOWN = re.compile(
    r"connection broke|connection closed before an answer came|closed in the middle of an answer|cannot connect|"
    r"expected .*, got 50[24]\b"
)
_REFUSED = re.compile(r"refused: 503\b")


def sort_of_reason(reason: str) -> Failures | None:
    """What a failure in the load's timeline was, by its text; None for what may never be."""
    if _REFUSED.match(reason):
        return Failures.REFUSED
    return Failures.UNKNOWN if _UNKNOWN.match(reason) else None


def sort_of_status(status: int) -> Failures | None:
    """What an answer was, 0 standing for none; None for what may never be."""
    if 200 <= status < 300:
        return Failures.NONE
    if status == 503:
        return Failures.REFUSED
    return Failures.UNKNOWN if status in (0, 502, 504) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One injection as it happened; times are Unix seconds. ``error`` is what inject or heal raised."""

    fault: Fault
    target: str
    began_unix_s: float
    injected_unix_s: float
    healing_unix_s: float
    healed_unix_s: float
    injections: int = 1
    seen: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    interrupted: bool = False

    @property
    def from_unix_s(self) -> float:
        """Users may see it from here."""
        return self.began_unix_s - LEAD_S

    @property
    def until_unix_s(self) -> float:
        """Users may see it until here."""
        return self.healed_unix_s + self.fault.after_s

    def overlaps(self, from_unix_s: float, to_unix_s: float) -> bool:
        """Whether it could be seen at any time of a window."""
        return self.from_unix_s <= to_unix_s and from_unix_s <= self.until_unix_s

    def as_dict(self) -> dict[str, Any]:
        """For the record: plain JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "fault"}
        return {"fault": self.fault.name, **values}


def active(events: Sequence[Event], from_unix_s: float, to_unix_s: float) -> list[Event]:
    """The faults that could be seen at any time of a window."""
    return [event for event in events if event.overlaps(from_unix_s, to_unix_s)]


def allowed(events: Sequence[Event]) -> Failures:
    """What may become of requests while these can be seen."""
    return max((event.fault.sees.failures for event in events), default=Failures.NONE)
