"""From marks to the result: every combination of state and mark is judged once, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice

from loadtest.journal import Kind, State
from loadtest.reconcile.ledger import Ledger, NeverSent
from loadtest.reconcile.owners import ACKNOWLEDGED, Owner
from loadtest.reconcile.result import Finding, Findings, Tally
from loadtest.reconcile.verdict import NEVER, Fault, judge, rows_of

FIELDS = {
    State.SENT: "unknown",
    State.ACKNOWLEDGED: "acknowledged",
    State.REFUSED: "refused",
    State.UNKNOWN: "unknown",
    State.DELETE_SENT: "unknown",
    State.DELETED: "deleted",
    State.DELETE_UNKNOWN: "unknown",
}
TOLD = {
    NEVER: "never sent",
    State.SENT: "sent, and nothing was heard of it",
    State.ACKNOWLEDGED: "acknowledged",
    State.REFUSED: "refused",
    State.UNKNOWN: "sent, with an unknown outcome",
    State.DELETE_SENT: "acknowledged, its DELETE on its way",
    State.DELETED: "its DELETE was acknowledged",
    State.DELETE_UNKNOWN: "acknowledged, its DELETE unknown",
}
PLACES_SHOWN = 3

Pairs = Mapping[tuple[int, int], int]


def count(ledger: Ledger, list_max: int) -> tuple[dict[Kind, Tally], dict[Fault, Findings]]:
    """The tallies by kind, and the faults with the first ``list_max`` of each."""
    tallies: dict[Kind, Tally] = {}
    totals = dict.fromkeys(Fault, 0)
    first: dict[Fault, list[Finding]] = {fault: [] for fault in Fault}
    for owner in ledger.owners:
        pairs = Counter(zip(owner.journal.states, owner.marks, strict=True))
        tallies[owner.kind] = tallies.get(owner.kind, Tally()) + tally(pairs)
        for (state, mark), number in pairs.items():
            for fault in judge(state, rows_of(mark)):
                totals[fault] += number
        for fault in Fault:
            first[fault] += islice(_findings(owner, pairs, fault), list_max - len(first[fault]))
    totals[Fault.PHANTOM] += ledger.never_sent
    first[Fault.PHANTOM] += map(_never_sent, ledger.never_sent_first[: list_max - len(first[Fault.PHANTOM])])
    totals[Fault.DUPLICATE] += len(ledger.repeated)
    if len(ledger.repeated):
        left = list_max - len(first[Fault.DUPLICATE])
        first[Fault.DUPLICATE] += islice(_told_twice(ledger, list_max), left)
    return tallies, {fault: Findings(totals[fault], tuple(first[fault])) for fault in Fault}


def tally(pairs: Pairs) -> Tally:
    """The requests of one journal, counted by state and mark."""
    counts: Counter[str] = Counter()
    for (state, mark), number in pairs.items():
        if state == NEVER:
            continue
        name = FIELDS[State(state)]
        stored = rows_of(mark).own > 0
        counts["sent"] += number
        counts[name] += number
        counts["stored"] += number * stored
        if name == "unknown":
            counts["unknown_stored" if stored else "unknown_not_stored"] += number
    return Tally(**counts)


def _findings(owner: Owner, pairs: Pairs, fault: Fault) -> Iterator[Finding]:
    wrong = {pair for pair in pairs if fault in judge(pair[0], rows_of(pair[1]))}
    if wrong:
        for seq, pair in enumerate(zip(owner.journal.states, owner.marks, strict=True)):
            if pair in wrong:
                yield _finding(owner, seq, owner.place(seq), reason(owner, seq, fault))


def reason(owner: Owner, seq: int, fault: Fault) -> str:
    """What is wrong with a request, in words."""
    rows = rows_of(owner.marks[seq])
    place = owner.place(seq)
    seen = owner.places.get(seq, [])
    at = f" ({', '.join(seen[:PLACES_SHOWN])}{', …' if len(seen) > PLACES_SHOWN else ''})" if seen else ""
    told = TOLD[owner.state(seq)]
    if fault is Fault.LOST:
        return f"{told}, and there is nothing at {place}" + (f"; its row is elsewhere{at}" if rows.elsewhere else "")
    if fault is Fault.PHANTOM:
        return f"{told}, and it is there{at}"
    if fault is Fault.DUPLICATE:
        return f"{told}{f' as {place}' if place else ''}, and it is there {rows.own} times or more{at}"
    if rows.strangers:
        return f"{told}, and at {place} is another's row"
    return f"{told}, and its row holds other bytes than were sent{at}"


def _never_sent(row: NeverSent) -> Finding:
    return _finding(row.owner, row.seq, row.place, f"never sent, and it is there ({row.place})")


def _told_twice(ledger: Ledger, list_max: int) -> Iterator[Finding]:
    """Acknowledgements of an id that was acknowledged before, in the order of the journals, for so many ids at most."""
    wanted = set(islice(ledger.repeated, list_max))
    before: set[int] = set()
    for owner in ledger.owners:
        if owner.kind is Kind.USAGE:
            for seq, word in enumerate(owner.slots):
                if word & 0xFF != ACKNOWLEDGED or (id_ := word >> 8) not in wanted:
                    continue
                if id_ in before:
                    yield _finding(owner, seq, f"id {id_}", f"acknowledged as id {id_}, which another was told before")
                before.add(id_)


def _finding(owner: Owner, seq: int, place: str, text: str) -> Finding:
    return Finding(owner.kind, owner.journal.path.name, seq, owner.identity(seq), place, text)
