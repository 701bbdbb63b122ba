"""A small load of one kind with every outcome that a request can have, in a journal and in a store, and ways to spoil it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loadtest.journal import Journal, Kind, State, Usages, key, message, open_journal
from loadtest.reconcile import Fault
from service.store.sqlite_schema import SCHEMA, SCHEMA_VERSION

AT_MS = 1_750_000_000_000
OTHERS = b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'

A, R, U, S = State.ACKNOWLEDGED, State.REFUSED, State.UNKNOWN, State.SENT
OUTCOMES = [(A, True), (A, True), (A, True), (R, False), (U, True), (U, False), (S, True), (S, False)]
DELETES = [(State.DELETED, False), (State.DELETE_UNKNOWN, True), (State.DELETE_UNKNOWN, False)]
DELETES += [(State.DELETE_SENT, True), (State.DELETE_SENT, False)]
FIRST, SECOND, THIRD, REFUSED, UNKNOWN_STORED, UNKNOWN_NOT_STORED = range(6)
DELETED = len(OUTCOMES)
NEVER_SENT = 99


class Planter(Protocol):
    """A store's rows by hand; a row that is there already is overwritten."""

    url: str

    def put_usage(self, id_: int, body: bytes) -> None:
        """A row of usages."""

    def put_keyed(self, key_: str, digest: bytes, body: bytes) -> None:
        """A row of keyed usages."""

    def put_message(self, digest: bytes, text: bytes) -> None:
        """A row of messages."""

    def drop_usage(self, id_: int) -> None:
        """The row of an id."""

    def drop_keyed(self, key_: str) -> None:
        """All rows of a key."""

    def drop_message(self, digest: bytes) -> None:
        """The row of a digest."""


class SqlitePlanter:
    """A file with the service's tables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        for statement in [*SCHEMA.split(";"), f"PRAGMA user_version = {SCHEMA_VERSION}"]:
            self.execute(statement)

    def execute(self, statement: str, *values: object) -> None:
        """One statement, committed."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)

    def put_usage(self, id_: int, body: bytes) -> None:
        """A row of usages."""
        self.execute("REPLACE INTO usages (id, usage, received_at_us) VALUES (?, CAST(? AS TEXT), 1)", id_, body)

    def put_keyed(self, key_: str, digest: bytes, body: bytes) -> None:
        """A row of keyed usages."""
        columns = "key, digest, usage, received_at_us"
        self.execute(f"REPLACE INTO keyed_usages ({columns}) VALUES (?, ?, CAST(? AS TEXT), 1)", key_, digest, body)

    def put_message(self, digest: bytes, text: bytes) -> None:
        """A row of messages."""
        self.execute("REPLACE INTO messages VALUES (?, CAST(? AS TEXT))", digest, text)

    def drop_usage(self, id_: int) -> None:
        """The row of an id."""
        self.execute("DELETE FROM usages WHERE id = ?", id_)

    def drop_keyed(self, key_: str) -> None:
        """All rows of a key."""
        self.execute("DELETE FROM keyed_usages WHERE key = ?", key_)

    def drop_message(self, digest: bytes) -> None:
        """The row of a digest."""
        self.execute("DELETE FROM messages WHERE digest = ?", digest)


@dataclass
class Load:
    """Requests 0 to 7 (12 for messages) with the outcomes above; usage n has the id ``first_id + n``."""

    planter: Planter
    directory: Path
    kind: Kind
    first_id: int
    outcomes: list[tuple[State, bool]] = field(init=False)
    journal: Journal = field(init=False)
    usages: Usages = field(init=False)

    def __post_init__(self) -> None:
        self.outcomes = OUTCOMES + (DELETES if self.kind is Kind.MESSAGE else [])
        self.journal = open_journal(self.directory, self.kind)
        self.usages = Usages(self.journal.token)
        for state, stored in self.outcomes:
            seq = self.journal.intent(AT_MS)
            self.journal.outcome(seq, state, self.id(seq) if self.kind is Kind.USAGE and state is A else 0)
            if stored:
                self.put(seq)

    def id(self, seq: int) -> int:
        """The id of a usage, whether it was told or not."""
        return self.first_id + seq

    def body(self, seq: int) -> bytes:
        """What it sent, or would have sent."""
        return self.usages.body(seq)

    def key(self, seq: int) -> str:
        """The key of a keyed usage."""
        return key(self.journal.token, seq, AT_MS)

    def text(self, seq: int) -> bytes:
        """The text of a message."""
        return message(self.journal.token, seq).encode()

    def digest(self, seq: int) -> bytes:
        """What it is stored under, or beside its key."""
        return sha256(self.body(seq) if self.kind is Kind.KEYED else self.text(seq))

    def put(self, seq: int, body: bytes | None = None) -> None:
        """The row of a request where it belongs, with other bytes if they are given."""
        if self.kind is Kind.USAGE:
            self.planter.put_usage(self.id(seq), self.body(seq) if body is None else body)
        elif self.kind is Kind.KEYED:
            self.planter.put_keyed(self.key(seq), self.digest(seq), self.body(seq) if body is None else body)
        else:
            self.planter.put_message(self.digest(seq), self.text(seq) if body is None else body)

    def drop(self, seq: int) -> None:
        """Its row is no longer there."""
        if self.kind is Kind.USAGE:
            self.planter.drop_usage(self.id(seq))
        elif self.kind is Kind.KEYED:
            self.planter.drop_keyed(self.key(seq))
        else:
            self.planter.drop_message(self.digest(seq))

    def put_elsewhere(self, seq: int) -> None:
        """A row with what was sent, in a place that is not its own."""
        if self.kind is Kind.USAGE:
            self.planter.put_usage(self.id(seq) + 1000, self.body(seq))
        elif self.kind is Kind.KEYED:
            self.planter.put_keyed(f"not-{self.key(seq)}", self.digest(seq), self.body(seq))
        else:
            self.planter.put_message(sha256(b"not " + self.text(seq)), self.text(seq))


def sha256(data: bytes) -> bytes:
    """The digest of a message or of a keyed usage."""
    return hashlib.sha256(data).digest()


def all_dropped(load: Load) -> None:
    """The table was lost."""
    for seq in range(len(load.outcomes)):
        load.drop(seq)


def moved(load: Load) -> None:
    """Its row is there, but not where it was told."""
    load.drop(FIRST)
    load.put_elsewhere(FIRST)


def exchanged(load: Load) -> None:
    """The rows of two requests, each in the other's place."""
    load.put(FIRST, load.text(SECOND) if load.kind is Kind.MESSAGE else load.body(SECOND))
    load.put(SECOND, load.text(FIRST) if load.kind is Kind.MESSAGE else load.body(FIRST))


def told_twice(load: Load) -> None:
    """A service that gives one id to two requests; the second row overwrites the first."""
    load.journal.outcome(SECOND, A, load.id(FIRST))
    load.drop(SECOND)
    load.put(FIRST, load.body(SECOND))


def two_bodies_under_a_key(load: Load) -> None:
    """Another client's usage got in under a key of this load."""
    load.planter.put_keyed(load.key(FIRST), sha256(OTHERS), OTHERS)


def a_key_of_ours_that_was_not_sent(load: Load) -> None:
    """The key of a request, but for its time."""
    load.planter.put_keyed(key(load.journal.token, FIRST, AT_MS + 1), sha256(OTHERS), OTHERS)


def in_the_other_table(load: Load) -> None:
    """A usage with an id is stored among the keyed ones as well, or the other way round."""
    if load.kind is Kind.USAGE:
        load.planter.put_keyed("a key", sha256(load.body(FIRST)), load.body(FIRST))
    else:
        load.planter.put_usage(load.first_id, load.body(FIRST))


LOST, PHANTOM, DUPLICATE, CORRUPT = Fault
EVERY, WITH_BODIES = (*Kind,), (Kind.USAGE, Kind.KEYED)


@dataclass(frozen=True)
class Plant:
    """One way to spoil a load, and what must be found then: how many of each fault, and how many rows of nobody more."""

    name: str
    kinds: tuple[Kind, ...]
    spoil: Callable[[Load], None]
    faults: dict[Fault, int]
    others: int = 0


PLANTS = [
    Plant("nothing", EVERY, lambda load: None, {}),  # noqa: ARG005 - nothing is done to it
    Plant("a row is deleted", EVERY, lambda load: load.drop(FIRST), {LOST: 1}),
    Plant(
        "all rows are deleted",
        EVERY,
        all_dropped,
        {LOST: 3},
    ),
    Plant("a row that nobody was told of is deleted", EVERY, lambda load: load.drop(UNKNOWN_STORED), {}),
    Plant("a request that is unknown is stored late", EVERY, lambda load: load.put(UNKNOWN_NOT_STORED), {}),
    Plant("one byte more", WITH_BODIES, lambda load: load.put(FIRST, load.body(FIRST) + b" "), {CORRUPT: 1}),
    Plant("an unknown one altered", WITH_BODIES, lambda load: load.put(UNKNOWN_STORED, load.body(4)[1:]), {CORRUPT: 1}),
    Plant("altered beyond recognition", EVERY, lambda load: load.put(FIRST, b"{}"), {CORRUPT: 1}),
    Plant("nothing in the row", EVERY, lambda load: load.put(FIRST, b""), {CORRUPT: 1}),
    Plant("stored twice", EVERY, lambda load: load.put_elsewhere(FIRST), {DUPLICATE: 1}),
    Plant("an unknown one stored twice", EVERY, lambda load: load.put_elsewhere(UNKNOWN_STORED), {DUPLICATE: 1}),
    Plant("stored in another place", EVERY, moved, {LOST: 1}),
    Plant("two rows exchanged", EVERY, exchanged, {CORRUPT: 2}),
    Plant("a refused one is there", EVERY, lambda load: load.put(REFUSED), {PHANTOM: 1}),
    Plant("one that was never sent is there", EVERY, lambda load: load.put(NEVER_SENT), {PHANTOM: 1}),
    Plant("a deleted message is there", (Kind.MESSAGE,), lambda load: load.put(DELETED), {PHANTOM: 1}),
    Plant("one id for two requests", (Kind.USAGE,), told_twice, {DUPLICATE: 1, CORRUPT: 1}),
    Plant(
        "another's row in its place",
        (Kind.USAGE,),
        lambda load: load.put(FIRST, load.body(UNKNOWN_NOT_STORED)),
        {CORRUPT: 1},
    ),
    Plant("two bodies under one key", (Kind.KEYED,), two_bodies_under_a_key, {CORRUPT: 1}),
    Plant("a key of ours that was never sent", (Kind.KEYED,), a_key_of_ours_that_was_not_sent, {PHANTOM: 1}),
    Plant("in the other table as well", WITH_BODIES, in_the_other_table, {DUPLICATE: 1}),
    Plant("other clients' usage", WITH_BODIES, lambda load: load.planter.put_usage(load.first_id + 500, OTHERS), {}, 1),
    Plant("another client's key", WITH_BODIES, lambda load: load.planter.put_keyed("theirs", b"d", OTHERS), {}, 1),
    Plant(
        "another client's message",
        (Kind.MESSAGE,),
        lambda load: load.planter.put_message(sha256(b"theirs"), b"theirs"),
        {},
        1,
    ),
    Plant(
        "a message of nobody that is not its digest's",
        (Kind.MESSAGE,),
        lambda load: load.planter.put_message(sha256(b"theirs"), b"foo"),
        {},
        1,
    ),
]
CASES = [(plant, kind) for plant in PLANTS for kind in plant.kinds]
NAMES = [f"{kind.value}: {plant.name}" for plant, kind in CASES]
