"""Whether there is enough to judge by: a witness that was silent, or a load that was not there, saw nothing wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.journal import Kind
from loadtest.reconcile.result import Reconciliation
from tests.chaos.events import Event, sort_of_status
from tests.chaos.faults import Failures
from tests.chaos.witness import RATE_PER_S, Sample, between

PEAK_SHARE_LEAST = 0.3
"""The load that a run must have had, of the measured peak."""
ASKED_SHARE_LEAST = 0.25
"""Of what the witness asks while a fault can be seen; it shares two cores with everything else."""


def answered_per_s(timeline: Mapping[str, Any], from_unix_s: float, to_unix_s: float) -> float:
    """Arrivals that came to an end in a window, however they did: those of a user with several requests count by their POST."""
    counted = sum(
        requests["count"]
        for text, second in timeline["seconds"].items()
        if from_unix_s <= int(text) + 0.5 < to_unix_s
        for name, requests in second["requests"].items()
        if name.startswith("POST ")
    )
    return float(counted / max(to_unix_s - from_unix_s, 1.0))


def of_load(answered: float, peak: float) -> list[str]:
    """What is wrong with a load of so many arrivals a second."""
    if answered >= PEAK_SHARE_LEAST * peak:
        return []
    return [f"the load was {answered:,.0f}/s, less than {PEAK_SHARE_LEAST:.0%} of the peak of {peak:,.0f}/s"]


def of_witness(events: Sequence[Event], samples: Sequence[Sample]) -> list[str]:
    """Faults during which it asked too little to see anything."""
    found = []
    for event in events:
        if event.interrupted:
            continue
        expected = RATE_PER_S * (event.until_unix_s - event.from_unix_s)
        asked = len(between(samples, event.from_unix_s, event.until_unix_s))
        if asked < ASKED_SHARE_LEAST * expected:
            found.append(f"{event.fault.name}: the witness asked {asked} times, not {expected:.0f}")
    return found


def of_listing(exported: int, found: Reconciliation, late: int) -> list[str]:
    """A usage that is stored and in no list, or in a list and not stored: all rows of the store against an export of everything.

    ``late`` of them may have come to light between the two.
    """
    stored = found.rows[Kind.USAGE] + found.rows[Kind.KEYED]
    return [] if stored <= exported <= stored + late else [f"{exported} usages are listed, {stored} are stored"]


def may_come_to_light(found: Reconciliation, samples: Sequence[Sample], nodes: int) -> int:
    """How many usages one replica of several may have of which the others, and so a quorum, told nothing.

    Those that the load was told nothing certain of and that were not found; those of the witness are in no journal.
    """
    if nodes == 1:
        return 0
    usages = sum(found.tallies[kind].unknown_not_stored for kind in (Kind.USAGE, Kind.KEYED) if kind in found.tallies)
    return usages + sum(
        sample.name.startswith("POST usage") and sort_of_status(sample.status) is Failures.UNKNOWN for sample in samples
    )
