"""A journal beside what was seen of its requests in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256

from loadtest.journal import JournalFile, Kind, State, Usages, key, message
from loadtest.journal.identity import identity
from loadtest.reconcile.verdict import INTACT, NEVER, PRESENCE, Presence, marked

ACKNOWLEDGED = int(State.ACKNOWLEDGED)
PLACES_MAX = 10_000
"""Surplus and misplaced rows of one journal whose places are remembered, so that they can be named."""


@dataclass(slots=True)
class Owner:
    """A journal, a byte of marks for each of its requests, and what it sent."""

    journal: JournalFile
    kind: Kind = field(init=False)
    token: int = field(init=False)
    used: int = field(init=False)
    slots: memoryview = field(init=False)
    marks: bytearray = field(init=False)
    places: dict[int, list[str]] = field(default_factory=dict)
    _usages: Usages | None = field(init=False)

    def __post_init__(self) -> None:
        journal = self.journal
        self.kind, self.token, self.used, self.slots = journal.kind, journal.token, journal.used, journal.slots
        self.marks = bytearray(self.used)
        self._usages = None if self.kind is Kind.MESSAGE else Usages(self.token)

    def state(self, seq: int) -> int:
        """NEVER for a number that was not given out."""
        return self.journal.states[seq] if seq < self.used else NEVER

    def mark(self, seq: int, sort: int, place: str) -> None:
        """One more row of a request that was sent; ``sort`` is INTACT, ALTERED, STRANGER or ELSEWHERE."""
        before = self.marks[seq]
        self.marks[seq] = marked(before, sort)
        expected = sort == INTACT and not before and PRESENCE[self.state(seq)] is not Presence.MUST_NOT
        if not expected and len(self.places) < PLACES_MAX:
            self.places.setdefault(seq, []).append(place)

    def body(self, seq: int) -> bytes:
        """The usage that was sent."""
        return b"" if self._usages is None else self._usages.body(seq)

    def key(self, seq: int) -> str:
        """The key that was sent."""
        return key(self.token, seq, self.journal.at_ms(seq))

    def digest(self, seq: int) -> bytes:
        """The digest of a message."""
        return sha256(message(self.token, seq).encode()).digest()

    def identity(self, seq: int) -> str:
        """What names a request: the text in a body, the same numbers for a message."""
        return identity(self.token, seq)

    def place(self, seq: int) -> str:
        """Where its row belongs, empty for a usage that got no id."""
        if self.kind is Kind.KEYED:
            return f"key {self.key(seq)}"
        if self.kind is Kind.MESSAGE:
            return f"digest {self.digest(seq).hex()}"
        return f"id {self.journal.value(seq)}" if self.state(seq) == ACKNOWLEDGED else ""
