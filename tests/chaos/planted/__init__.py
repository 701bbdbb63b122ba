"""Services with a bug each, to show that the oracle sees what it is there to see.

``python -m tests.chaos.planted --bug NAME serve`` runs in place of ``python -m service serve``, and takes the same settings.
The product has no switch for any of it: the bugs stand around the real store and the real group commit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """What the service does wrong, and what it has to be caught as."""

    does: str
    caught_as: str
    """The field of the verdict's counts that it shows in."""


BUGS: Mapping[str, Bug] = {
    "none": Bug("nothing", ""),
    "early-ack": Bug("acknowledges before the flush; seen once it is killed", "lost"),
    "drop-row": Bug("drops every 10,000th row", "lost"),
    "half-group": Bug("writes half of a group and acknowledges all of it", "lost"),
    "retry-without-key": Bug("repeats a write that it takes for lost, as a new usage", "duplicate"),
    "refuse-after-enqueue": Bug("answers 503 to what is in its queue, and writes it", "false_fail"),
    "client-timestamps": Bug("orders a message's writes by the web instances' clocks, one of them slow", "resurrected"),
}


def command(bug: str) -> tuple[str, ...]:
    """What to start in place of ``python -m service``; run it in the repository's root."""
    return (sys.executable, "-m", "tests.chaos.planted", "--bug", bug)
