"""What a run comes to: what is in the store against what was acknowledged, what users saw against what they may see. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.reconcile.result import Reconciliation
from loadtest.reconcile.verdict import Fault as Wrong
from tests.chaos.events import (
    QUIET_ANSWERED_WITHIN_S,
    Event,
    active,
    allowed,
    sort_of_reason,
    sort_of_status,
)
from tests.chaos.faults import Failures
from tests.chaos.topology import Topology
from tests.chaos.witness import Sample, between

BEFORE_HEAL_S = 0.5
"""What is sent so shortly before ``heal`` begins may be answered by what it brings back."""
SHOWN_MAX = 5
"""Complaints of one sort that are shown with all their words; all are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Writes by what was said and what is there. All but the first three must be 0."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: int = 0
    phantom: int = 0
    duplicate: int = 0
    false_fail: int = 0
    corrupt: int = 0
    resurrected: int = 0
    torn: int = 0

    @property
    def bad(self) -> int:
        """How many of those that must be 0."""
        return self.lost + self.phantom + self.duplicate + self.false_fail + self.corrupt + self.resurrected + self.torn


def counts_of(found: Reconciliation) -> Counts:
    """The reconciliation's findings, with what it calls phantom told apart by what had been said of the request.

    To tell all of them apart it must have been asked to name as many as there are; those without a name stay phantoms.
    """
    phantoms = found.faults[Wrong.PHANTOM]
    false_fail = sum(one.reason.startswith("refused") for one in phantoms.first)
    resurrected = sum(one.reason.startswith("its DELETE was acknowledged") for one in phantoms.first)
    total = found.total
    return Counts(
        acknowledged=total.acknowledged + total.deleted,
        refused=total.refused,
        unknown=total.unknown,
        lost=found.faults[Wrong.LOST].count,
        phantom=phantoms.count - false_fail - resurrected,
        duplicate=found.faults[Wrong.DUPLICATE].count,
        false_fail=false_fail,
        corrupt=found.faults[Wrong.CORRUPT].count,
        resurrected=resurrected,
        torn=len(found.torn),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kind of fault in the table."""

    fault: str
    injections: int = 0
    refused: int = 0
    unknown: int = 0
    slowest_s: float = 0.0
    complaints: tuple[str, ...] = ()
    not_run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One topology. ``counts`` is None when the store could not be compared, for the reason that ``complaints`` give."""

    topology: str
    control: bool
    counts: Counts | None
    rows: tuple[Row, ...]
    complaints: tuple[str, ...]
    """Of no fault in particular."""

    @property
    def injections(self) -> int:
        """All together."""
        return sum(row.injections for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether every promise was kept; in the control, whether the loss was seen."""
        if self.counts is None or self.complaints or any(row.complaints for row in self.rows):
            return False
        if self.control:
            return self.counts.lost > 0
        return self.counts.bad == 0 and self.counts.acknowledged > 0


def judge(
    topology: Topology,
    events: Sequence[Event],
    found: Reconciliation | None,
    timeline: Mapping[str, Any],
    samples: Sequence[Sample],
    troubles: Sequence[str] = (),
) -> Verdict:
    """Everything that was seen in one topology, put together. ``troubles`` are what could not be done."""
    control = topology.control
    by_fault: defaultdict[str, list[str]] = defaultdict(list)
    quiet: list[str] = list(troubles)

    def complain(seen_with: Sequence[Event], text: str) -> None:
        if control:
            return  # what is lost there is missed by its readers too
        for event in seen_with:
            by_fault[event.fault.name].append(text)
        if not seen_with:
            quiet.append(text)

    _judge_timeline(events, timeline, complain)
    _judge_samples(events, samples, complain)
    for event in events:
        by_fault[event.fault.name] += _judge_event(event, events, samples)
    rows = [_row(name, events, timeline, samples, by_fault[name]) for name in _names(events)]
    counts = counts_of(found) if found is not None else None
    if found is not None and not control:
        quiet += [f"{kind.value}: {one}" for kind, wrong in found.faults.items() for one in wrong.first[:SHOWN_MAX]]
        quiet += [f"torn: {text}" for text in found.torn]
    if control and counts is not None and not counts.lost:
        quiet.append("nothing was lost where something must be: the suite is too weak to see a loss")
    return Verdict(topology=topology.name, control=control, counts=counts, rows=tuple(rows), complaints=tuple(quiet))


def _judge_timeline(events: Sequence[Event], timeline: Mapping[str, Any], complain: Any) -> None:
    """Every failure of the load belongs to a fault that allows it, in the second in which it was noticed."""
    too_much: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for text, second in timeline["seconds"].items():
        reasons = _reasons(second)
        if not reasons:
            continue
        there = active(events, int(text), int(text) + 1)
        for reason, count in reasons.items():
            sort = sort_of_reason(reason)
            if sort is None or sort > allowed(there):
                too_much[reason, tuple(events.index(event) for event in there)] += count
    for (reason, indexes), count in too_much.items():
        complain([events[index] for index in indexes], f"{count} x {reason}")


def _judge_samples(events: Sequence[Event], samples: Sequence[Sample], complain: Any) -> None:
    """Every answer that the witness got is right, is allowed, and came in time."""
    for sample in samples:
        there = active(events, sample.at_unix_s, sample.at_unix_s + sample.took_s)
        if sample.wrong:
            complain(there, f"{sample.name}: {sample.wrong}")
            continue
        sort = sort_of_status(sample.status)
        if sort is None or sort > allowed(there):
            complain(there, f"{sample.name}: {sample.status or 'no answer'} {sample.text}".rstrip())
        within_s = max((event.fault.sees.answered_within_s for event in there), default=QUIET_ANSWERED_WITHIN_S)
        if sample.took_s > within_s:
            complain(
                there, f"{sample.name}: {sample.status or 'no answer'} after {sample.took_s:.1f} s, not {within_s:g}"
            )
        refused_s = max((_refused_within_s(event, sample) for event in there), default=QUIET_ANSWERED_WITHIN_S)
        if sort is Failures.REFUSED and sample.took_s > refused_s:
            complain(there, f"{sample.name}: a 503 after {sample.took_s:.2f} s, not {refused_s:g}")


def _refused_within_s(event: Event, sample: Sample) -> float:
    sees = event.fault.sees
    if sees.healing_refused_within_s is None or sample.at_unix_s + sample.took_s < event.healing_unix_s:
        return sees.refused_within_s
    return sees.healing_refused_within_s


def _judge_event(event: Event, events: Sequence[Event], samples: Sequence[Sample]) -> list[str]:
    """What is promised of this injection alone."""
    fault, found = event.fault, [f"{event.fault.name} {event.target}: {event.error}"] if event.error else []
    if event.interrupted:
        return found
    found += fault.check(event.seen)
    sees = fault.sees
    steady = between(samples, event.injected_unix_s + sees.settles_s, event.healing_unix_s - BEFORE_HEAL_S)
    for sample in steady:
        if sees.only and (sample.write or sees.reads_too) and sample.status != sees.only:
            found.append(f"{sample.name}: {sample.status or 'no answer'} once it had settled, not {sees.only}")
    if sees.only and not any(sample.write for sample in steady):
        found.append("no write was made while it lasted")
    after = [sample for sample in samples if sample.write and sample.at_unix_s >= event.healed_unix_s]
    others = [other for other in active(events, event.healed_unix_s, event.healed_unix_s + 1) if other is not event]
    if after and not others:
        back_s = min((each.at_unix_s + each.took_s for each in after if each.status == 201), default=None)
        if back_s is None or back_s - event.healed_unix_s > sees.back_within_s:
            late = "never" if back_s is None else f"{back_s - event.healed_unix_s:.1f} s after it was healed"
            found.append(f"the first write that was acknowledged came {late}, not within {sees.back_within_s:g} s")
    return found


def _row(
    name: str,
    events: Sequence[Event],
    timeline: Mapping[str, Any],
    samples: Sequence[Sample],
    complaints: Sequence[str],
) -> Row:
    own = [event for event in events if event.fault.name == name]
    sorts: Counter[Failures | None] = Counter()
    for text, second in timeline["seconds"].items():
        if active(own, int(text), int(text) + 1):
            for reason, count in _reasons(second).items():
                sorts[sort_of_reason(reason)] += count
    seen = [sample.took_s for sample in samples if active(own, sample.at_unix_s, sample.at_unix_s + sample.took_s)]
    return Row(
        fault=name,
        injections=sum(event.injections for event in own),
        refused=sorts[Failures.REFUSED],
        unknown=sorts[Failures.UNKNOWN],
        slowest_s=max(seen, default=0.0),
        complaints=tuple(complaints),
    )


def _names(events: Sequence[Event]) -> list[str]:
    return list(dict.fromkeys(event.fault.name for event in events))


def _reasons(second: Mapping[str, Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for requests in second["requests"].values():
        found.update(requests["errors"])
    return found
