"""What a reconciliation comes to, as values, as JSON and as the text that is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.journal import Kind
from loadtest.reconcile.verdict import Fault

MEANINGS = {
    Fault.LOST: "acknowledged and not there",
    Fault.PHANTOM: "there, although refused, never sent, or deleted",
    Fault.DUPLICATE: "more than one row of one request, or one id for two",
    Fault.CORRUPT: "bytes differ, or another's row is in its place",
}


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests by what was known of them. ``sent`` is acknowledged + refused + unknown + deleted; ``stored`` have a row.

    A message whose DELETE was acknowledged is ``deleted``, one whose DELETE is unknown is ``unknown``.
    """

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_stored: int = 0
    unknown_not_stored: int = 0
    deleted: int = 0
    stored: int = 0

    def __add__(self, other: Tally) -> Tally:
        mine, others = dataclasses.astuple(self), dataclasses.astuple(other)
        return Tally(*(one + another for one, another in zip(mine, others, strict=True)))


@dataclass(frozen=True, slots=True)
class Finding:
    """One request, or row, that is wrong. ``place`` is where its row belongs (an id, key or digest), or where it was seen."""

    kind: Kind
    journal: str
    seq: int
    identity: str
    place: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**dataclasses.asdict(self), "kind": self.kind.value}

    def __str__(self) -> str:
        return f"{self.kind.value} {self.seq} of {self.journal}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Findings:
    """How many there are of one fault, and the first of them."""

    count: int = 0
    first: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Journals and store compared.

    ``rows`` and ``others`` are by table: all rows that were read, and those that carry no identity of these journals.
    ``torn`` names what is wrong with journals that are not whole: what they do not tell was not compared.
    """

    store: str
    journals: int
    tallies: Mapping[Kind, Tally]
    rows: Mapping[Kind, int]
    others: Mapping[Kind, int]
    faults: Mapping[Fault, Findings]
    torn: tuple[str, ...]
    took_s: float

    @property
    def ok(self) -> bool:
        """Nothing is lost, phantom, duplicate or corrupt, and every journal is whole."""
        return not self.torn and not any(found.count for found in self.faults.values())

    @property
    def total(self) -> Tally:
        """All kinds together."""
        return sum(self.tallies.values(), Tally())

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: the totals, each fault as ``{"count", "first"}``, the same by kind under ``kinds``."""
        return {
            "ok": self.ok,
            "store": self.store,
            "journals": self.journals,
            **dataclasses.asdict(self.total),
            "others": sum(self.others.values()),
            **{
                fault.value: {"count": found.count, "first": [one.as_dict() for one in found.first]}
                for fault, found in self.faults.items()
            },
            "torn": list(self.torn),
            "kinds": {
                kind.value: {**dataclasses.asdict(tally), "rows": self.rows[kind], "others": self.others[kind]}
                for kind, tally in self.tallies.items()
            },
            "took_s": round(self.took_s, 3),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        total = self.total
        of_these = f"of these stored {total.unknown_stored:,}, not stored {total.unknown_not_stored:,}"
        figures = [
            ("sent", total.sent, f"in {self.journals} journals"),
            ("acknowledged", total.acknowledged, ""),
            ("refused", total.refused, ""),
            ("unknown", total.unknown, of_these if total.unknown else ""),
            *([("deleted", total.deleted, "")] if Kind.MESSAGE in self.tallies else []),
            ("stored", total.stored, f"of {sum(self.rows.values()):,} rows; others {sum(self.others.values()):,}"),
        ]
        figures += [(fault.value, found.count, MEANINGS[fault]) for fault, found in self.faults.items()]
        lines = [f"{name:<13}{count:>14,}  {text}".rstrip() for name, count, text in figures]
        for fault, found in self.faults.items():
            if found.count:
                lines.append(f"{fault.value}, the first {len(found.first)} of {found.count:,}:")
                lines += [f"  {one}" for one in found.first]
        lines += [f"torn: {text}" for text in self.torn]
        lines.append("all is well" if self.ok else "NOT WELL")
        return lines
