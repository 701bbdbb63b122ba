"""Which rows of the store belong to which request: a byte for each request, filled row by row.

Tables and rows come in any order. What the marks come to is decided in :mod:`loadtest.reconcile.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from loadtest.journal import JournalFile, Kind
from loadtest.journal.bodies import find_identity
from loadtest.journal.identity import read_key, read_message, tag
from loadtest.reconcile.ids import IdSet
from loadtest.reconcile.owners import ACKNOWLEDGED, Owner
from loadtest.reconcile.verdict import ALTERED, ELSEWHERE, INTACT, NEVER, STRANGER

NEVER_SENT_MAX = 1000
"""Rows of requests that were never sent and that are remembered, so that they can be named."""
MISMATCHED_MAX = 1 << 18
"""Message rows that do not hold their digest's text and that are remembered, to see whose digest it is. Those above it
count as nobody's, and what was acknowledged under their digests as lost."""
AT_PLACE = 3 * INTACT | 3 * ALTERED

Request = tuple[Owner, int]


@dataclass(frozen=True, slots=True)
class NeverSent:
    """A row that carries the identity of a request that was never sent."""

    owner: Owner
    seq: int
    place: str


class Ledger:
    """The journals' requests, and the rows that were seen of each. ``settle`` when all rows were seen."""

    def __init__(self, journals: Sequence[JournalFile]) -> None:
        self.owners = [Owner(journal) for journal in journals]
        self.rows = dict.fromkeys(Kind, 0)
        self.others = dict.fromkeys(Kind, 0)
        self.never_sent = 0
        self.never_sent_first: list[NeverSent] = []
        self._of_body = {b"%016x" % owner.token: owner for owner in self.owners if owner.kind is not Kind.MESSAGE}
        self._of_usage = {text: owner for text, owner in self._of_body.items() if owner.kind is Kind.USAGE}
        self._of_key = {tag(owner.token): owner for owner in self.owners if owner.kind is Kind.KEYED}
        self._of_message = {owner.token: owner for owner in self.owners if owner.kind is Kind.MESSAGE}
        self._acknowledged = IdSet()
        for owner in self._of_usage.values():
            self._acknowledged.update(word >> 8 for word in owner.slots if word & 0xFF == ACKNOWLEDGED)
        self._acknowledged.seal()
        self.repeated = IdSet()
        """Ids that were acknowledged more than once, as often as they were surplus."""
        self.repeated.update(self._acknowledged.repeated())
        self.repeated.seal()
        self._misplaced = IdSet()  # acknowledged ids whose row is not the one that was acknowledged
        self._mismatched: dict[bytes, bool] = {}  # whether nobody's text is under the digest

    def tables(self) -> list[Kind]:
        """The tables that may hold rows of these journals; a usage that got into the wrong one is to be found."""
        found = []
        if self._of_body:
            found += [Kind.USAGE, Kind.KEYED]
        if self._of_message:
            found.append(Kind.MESSAGE)
        return found

    def usages(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Rows (id, body) of usages. An id that is not positive means that no read would find the row."""
        owners = self._of_usage
        for id_, body in rows:
            owner = owners.get(body[-29:-13])
            digits = body[-12:-2]
            if owner is not None and digits.isdigit():
                seq = int(digits)
                # Nearly every row: acknowledged under this id, not seen before, and what was sent.
                if (
                    seq < owner.used
                    and owner.slots[seq] == id_ << 8 | ACKNOWLEDGED
                    and not owner.marks[seq]
                    and body == owner.body(seq)
                ):
                    owner.marks[seq] = INTACT
                    continue
            self._usage(id_, body)
        self.rows[Kind.USAGE] += len(rows)

    def keyed(self, rows: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Rows (key, digest, body) of keyed usages. A key that cannot be one means that no read would find the row."""
        for key, digest, body in rows:
            carried = self._carried(body)
            if carried is not None:
                owner, seq = carried
                if owner.kind is Kind.KEYED and owner.state(seq) != NEVER and key == owner.key(seq):
                    same = body == owner.body(seq) and digest == sha256(body).digest()
                    owner.mark(seq, INTACT if same else ALTERED, f"key {key}")
                    continue
            self._misplaced_key(key, carried)
        self.rows[Kind.KEYED] += len(rows)

    def messages(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Rows (digest, text) of messages."""
        for digest, text in rows:
            found = read_message(text.decode("latin-1"))
            owner = self._of_message.get(found[0]) if found else None
            matches = sha256(text).digest() == digest
            if found is not None and owner is not None:
                place = f"digest {digest.hex()}"
                if owner.state(found[1]) == NEVER:
                    self._never(owner, found[1], place)
                else:
                    owner.mark(found[1], INTACT if matches else ELSEWHERE, place)
            elif matches or len(self._mismatched) == MISMATCHED_MAX:
                self.others[Kind.MESSAGE] += 1
            if not matches and len(self._mismatched) < MISMATCHED_MAX:
                self._mismatched[digest] = owner is None
        self.rows[Kind.MESSAGE] += len(rows)

    def settle(self) -> None:
        """Mark the requests whose places hold another's row. Call it once."""
        self._misplaced.seal()
        if len(self._misplaced) or len(self.repeated):
            self._settle_usages(self._repeated_and_held())
        if self._mismatched:
            self._settle_messages()

    def _usage(self, id_: int, body: bytes) -> None:
        taken = id_ in self._acknowledged
        carried = self._carried(body)
        if carried is None:
            self.others[Kind.USAGE] += not taken
        else:
            owner, seq = carried
            state = owner.state(seq)
            place = f"id {id_}" if id_ > 0 else f"id {-id_} in another partition than its own"
            if state == NEVER:
                self._never(owner, seq, place)
            elif owner.kind is Kind.KEYED or id_ <= 0 or (state == ACKNOWLEDGED and owner.slots[seq] >> 8 != id_):
                owner.mark(seq, ELSEWHERE, place)
            else:
                owner.mark(seq, INTACT if body == owner.body(seq) else ALTERED, place)
                taken = taken and state != ACKNOWLEDGED
        if taken:
            self._misplaced.add(id_)

    def _misplaced_key(self, key: str, carried: Request | None) -> None:
        """A row whose key is not that of the request whose identity it carries, if it carries any."""
        read = read_key(key)
        owner = self._of_key.get(read[0]) if read else None
        sent = owner is not None and read is not None and owner.state(read[1]) != NEVER and owner.key(read[1]) == key
        if read is not None and owner is not None and sent:
            owner.mark(read[1], STRANGER, f"key {key}")
        if carried is not None:
            if carried[0].state(carried[1]) == NEVER:
                self._never(*carried, f"key {key}")
            else:
                carried[0].mark(carried[1], ELSEWHERE, f"key {key}")
        elif read is not None and owner is not None and not sent:
            self._never(owner, read[1], f"key {key}")
        elif not sent:
            self.others[Kind.KEYED] += 1

    def _carried(self, body: bytes) -> Request | None:
        """The request whose identity a stored usage carries."""
        found = find_identity(body)
        owner = self._of_body.get(found[0]) if found else None
        return None if found is None or owner is None else (owner, found[1])

    def _never(self, owner: Owner, seq: int, place: str) -> None:
        self.never_sent += 1
        if len(self.never_sent_first) < NEVER_SENT_MAX:
            self.never_sent_first.append(NeverSent(owner, seq, place))

    def _repeated_and_held(self) -> IdSet:
        """Ids that were acknowledged more than once and whose row is one of those that were told so."""
        held = IdSet()
        if len(self.repeated):
            for owner in self._of_usage.values():
                for seq, id_ in _acknowledged(owner):
                    if id_ in self.repeated and owner.marks[seq] & AT_PLACE:
                        held.add(id_)
        held.seal()
        return held

    def _settle_usages(self, held: IdSet) -> None:
        for owner in self._of_usage.values():
            for seq, id_ in _acknowledged(owner):
                if not owner.marks[seq] & AT_PLACE and (id_ in self._misplaced or id_ in held):
                    owner.mark(seq, STRANGER, f"id {id_}")

    def _settle_messages(self) -> None:
        mismatched = self._mismatched
        for owner in self._of_message.values():
            for seq in range(owner.used):
                if owner.marks[seq] & AT_PLACE or owner.state(seq) == NEVER:
                    continue
                digest = owner.digest(seq)
                if digest in mismatched:
                    mismatched[digest] = False
                    owner.mark(seq, STRANGER, f"digest {digest.hex()}")
        self.others[Kind.MESSAGE] += sum(mismatched.values())


def _acknowledged(owner: Owner) -> Iterable[tuple[int, int]]:
    """(seq, id) of the usages that got one."""
    return ((seq, word >> 8) for seq, word in enumerate(owner.slots) if word & 0xFF == ACKNOWLEDGED)
