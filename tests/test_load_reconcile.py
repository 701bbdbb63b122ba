from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.journal import (
    Journal,
    JournalError,
    JournalFile,
    Kind,
    State,
    Usages,
    key,
    message,
    open_journal,
    read_journals,
)
from loadtest.journal.format import Header
from loadtest.reconcile import Fault, Reconciliation, StoreUnreadable, reconcile
from loadtest.reconcile.__main__ import main
from loadtest.reconcile.cassandra_rows import RANGES, token_ranges
from loadtest.reconcile.counting import count
from loadtest.reconcile.ids import IdSet
from loadtest.reconcile.ledger import Ledger
from loadtest.reconcile.verdict import ALTERED, ELSEWHERE, INTACT, NEVER, STRANGER, Rows, judge, marked, rows_of
from tests.planting import AT_MS, CASES, FIRST, NAMES, REFUSED, Load, Plant, SqlitePlanter
from tests.support import ROOT, Address, Connection, ConnectionEnded, clean_environ, end, eventually, web_instance

pytestmark = pytest.mark.tools

LOST, PHANTOM, DUPLICATE, CORRUPT = Fault
A, R, U, S = State.ACKNOWLEDGED, State.REFUSED, State.UNKNOWN, State.SENT
MAY = [S, U, State.DELETE_SENT, State.DELETE_UNKNOWN]
MUST_NOT = [NEVER, R, State.DELETED]


def found(result: Reconciliation) -> dict[Fault, int]:
    """The faults that there are."""
    return {fault: findings.count for fault, findings in result.faults.items() if findings.count}


# What a state and rows come to


@pytest.mark.parametrize(
    ("states", "rows", "faults"),
    [
        ([A], Rows(intact=1), set()),
        ([A], Rows(), {LOST}),
        ([A], Rows(elsewhere=1), {LOST}),
        ([A], Rows(elsewhere=2), {LOST, DUPLICATE}),
        ([A], Rows(altered=1), {CORRUPT}),
        ([A], Rows(strangers=1), {CORRUPT}),
        ([A], Rows(strangers=1, elsewhere=1), {CORRUPT}),
        ([A], Rows(strangers=1, elsewhere=2), {CORRUPT, DUPLICATE}),
        ([A], Rows(intact=1, strangers=1), {CORRUPT}),
        ([A], Rows(intact=1, altered=1), {CORRUPT, DUPLICATE}),
        ([A], Rows(intact=1, elsewhere=1), {DUPLICATE}),
        ([A], Rows(altered=1, elsewhere=1), {CORRUPT, DUPLICATE}),
        ([A], Rows(intact=2), {DUPLICATE}),
        (MAY, Rows(), set()),
        (MAY, Rows(intact=1), set()),
        (MAY, Rows(elsewhere=1), set()),
        (MAY, Rows(intact=2), {DUPLICATE}),
        (MAY, Rows(intact=1, elsewhere=1), {DUPLICATE}),
        (MAY, Rows(altered=1), {CORRUPT}),
        (MAY, Rows(strangers=1), {CORRUPT}),
        (MUST_NOT, Rows(), set()),
        (MUST_NOT, Rows(intact=1), {PHANTOM}),
        (MUST_NOT, Rows(elsewhere=1), {PHANTOM}),
        (MUST_NOT, Rows(intact=2), {PHANTOM, DUPLICATE}),
        (MUST_NOT, Rows(altered=1), {PHANTOM, CORRUPT}),
        (MUST_NOT, Rows(strangers=1), {CORRUPT}),
    ],
)
def test_what_is_wrong_with_a_request(states: list[int], rows: Rows, faults: set[Fault]):
    """Acknowledged must be there, refused and deleted must not, unknown may; one row each, in its place, as sent."""
    for state in states:
        assert judge(state, rows) == faults


def test_every_combination_is_judged_by_the_same_rules():
    """All states with all marks: 2,048 cases, each fault by its definition."""
    for state, mark in product([NEVER, *State], range(256)):
        rows, faults = rows_of(mark), judge(state, rows_of(mark))
        spoiled = bool(rows.altered or rows.strangers)
        assert (CORRUPT in faults) == spoiled
        assert (LOST in faults) == (state == A and not rows.intact and not spoiled)
        assert (PHANTOM in faults) == (state in MUST_NOT and rows.own > 0)
        assert (DUPLICATE in faults) == (rows.own > 1)
        if state == A:
            assert not faults if rows == Rows(intact=1) else faults


@given(sorts=st.lists(st.sampled_from([INTACT, ALTERED, STRANGER, ELSEWHERE]), max_size=12))
def test_a_mark_counts_to_three_of_each_sort(sorts: list[int]):
    """Two bits each, and none runs over into another's."""
    mark = 0
    for sort in sorts:
        mark = marked(mark, sort)
    counts = Counter(sorts)
    assert rows_of(mark) == Rows(*(min(3, counts[sort]) for sort in (INTACT, ALTERED, STRANGER, ELSEWHERE)))


@given(ids=st.lists(st.integers(0, 40) | st.integers(0, 2**56 - 1)), others=st.lists(st.integers(-10, 50)))
def test_a_set_of_ids_knows_what_is_in_it_and_what_came_twice(ids: list[int], others: list[int]):
    """It is a sorted list in parts; each occurrence after the first is a repetition."""
    ids_set = IdSet()
    ids_set.update(ids)
    ids_set.seal()
    assert len(ids_set) == len(ids)
    assert sorted(ids_set) == sorted(ids)
    assert [id_ in ids_set for id_ in ids + others] == [id_ in ids for id_ in ids + others]
    assert sorted(ids_set.repeated()) == sorted((Counter(ids) - Counter(set(ids))).elements())


def test_token_ranges_are_the_whole_ring():
    """From the least token to the greatest, none left out and none twice."""
    ranges = token_ranges(RANGES)
    assert (ranges[0][0], ranges[-1][1]) == (-(2**63), 2**63 - 1)
    assert all(last + 1 == first for (_, last), (first, _) in pairwise(ranges))


# Which rows are whose, against a slow and simple second opinion


def journal_of(kind: Kind, token: int, states: Sequence[int], values: Sequence[int]) -> JournalFile:
    """A journal in memory; ``values`` are ids, or times of keys."""
    pairs = [*zip(states, values, strict=True)]
    if kind is Kind.KEYED:
        words = [word for pair in pairs for word in pair]
    else:
        words = [state | (value << 8 if state == A and kind is Kind.USAGE else 0) for state, value in pairs]
    return JournalFile(Path("x.journal"), Header(kind, token, 0.0, 99), bytes(states), memoryview(array("Q", words)))


TOKENS = [7 << 40, 8 << 40]
BODIES = [Usages(token) for token in TOKENS]
STATES = st.sampled_from([A, A, A, S, R, U])
WHOSE = st.none() | st.tuples(st.integers(0, 1), st.integers(0, 5))
"""Nobody's, or a request's of one of two journals; each has four, so 4 and 5 were never sent."""


@settings(max_examples=60)
@given(
    states=st.lists(STATES, min_size=8, max_size=8),
    ids=st.lists(st.integers(1, 9), min_size=8, max_size=8),
    table=st.dictionaries(st.integers(1, 12), st.tuples(WHOSE, st.booleans())),
    spoilt=st.booleans(),
)
def test_usages_find_their_owners(
    states: list[State], ids: list[int], table: dict[int, tuple[tuple[int, int] | None, bool]], *, spoilt: bool
):
    """Whatever ids were told, once or twice, and whatever is stored under them."""
    ids = ids if spoilt else [*range(1, 9)]
    journals = [
        journal_of(Kind.USAGE, TOKENS[index], states[index * 4 :][:4], ids[index * 4 :][:4]) for index in range(2)
    ]
    ledger = Ledger(journals)
    ledger.usages(
        [
            (id_, b"{}" if whose is None else BODIES[whose[0]].body(whose[1]) + b" " * altered)
            for id_, (whose, altered) in table.items()
        ]
    )
    ledger.settle()
    told = {id_ for id_, state in zip(ids, states, strict=True) if state == A}
    for index, (state, id_) in enumerate(zip(states, ids, strict=True)):
        request = divmod(index, 4)
        own = {place: altered for place, (whose, altered) in table.items() if whose == request}
        here = {place: altered for place, altered in own.items() if state != A or place == id_}
        rows = Rows(
            intact=sum(not altered for altered in here.values()),
            altered=sum(here.values()),
            strangers=int(state == A and id_ in table and table[id_][0] != request),
            elsewhere=len(own) - len(here),
        )
        capped = Rows(*(min(3, number) for number in (rows.intact, rows.altered, rows.strangers, rows.elsewhere)))
        assert rows_of(ledger.owners[request[0]].marks[request[1]]) == capped
    assert ledger.never_sent == sum(whose is not None and whose[1] > 3 for whose, _ in table.values())
    assert ledger.others[Kind.USAGE] == sum(whose is None and id_ not in told for id_, (whose, _) in table.items())
    acknowledged = [id_ for id_, state in zip(ids, states, strict=True) if state == A]
    assert len(ledger.repeated) == len(acknowledged) - len(set(acknowledged))
    count(ledger, list_max=2)


@settings(max_examples=60)
@given(
    states=st.lists(STATES, min_size=8, max_size=8),
    rows=st.sets(st.tuples(WHOSE, WHOSE, st.booleans()), max_size=10),
)
def test_keyed_usages_find_their_owners(
    states: list[State], rows: set[tuple[tuple[int, int] | None, tuple[int, int] | None, bool]]
):
    """Whichever body is under whichever key."""
    journals = [journal_of(Kind.KEYED, TOKENS[index], states[index * 4 :][:4], [AT_MS] * 4) for index in range(2)]
    ledger = Ledger(journals)
    stored = []
    for under, whose, altered in rows:
        body = b"{}" if whose is None else BODIES[whose[0]].body(whose[1]) + b" " * altered
        name = "theirs" if under is None else key(TOKENS[under[0]], under[1], AT_MS)
        stored.append((name, sha256(body).digest(), body))
    ledger.keyed(stored)
    ledger.settle()
    for index in range(8):
        request = divmod(index, 4)
        own = [(under, altered) for under, whose, altered in rows if whose == request]
        here = [altered for under, altered in own if under == request]
        strangers = sum(under == request and whose != request for under, whose, _ in rows)
        expected = (len(here) - sum(here), sum(here), strangers, len(own) - len(here))
        assert rows_of(ledger.owners[request[0]].marks[request[1]]) == Rows(*(min(3, number) for number in expected))
    never = [
        (under, whose)
        for under, whose, _ in rows
        if (whose is not None and whose[1] > 3) or (whose is None and under is not None and under[1] > 3)
    ]
    assert ledger.never_sent == len(never)
    assert ledger.others[Kind.KEYED] == sum(under is None and whose is None for under, whose, _ in rows)
    count(ledger, list_max=2)


@given(
    states=st.lists(st.sampled_from([*State]), min_size=8, max_size=8),
    table=st.dictionaries(st.tuples(st.integers(0, 2), st.integers(0, 5)), WHOSE),
)
def test_messages_find_their_owners(states: list[State], table: dict[tuple[int, int], tuple[int, int] | None]):
    """Whichever text is under whichever digest; journal 2 is not among those that are compared."""
    tokens = [7, 8, 9]
    journals = [journal_of(Kind.MESSAGE, tokens[index], states[index * 4 :][:4], [0] * 4) for index in range(2)]
    ledger = Ledger(journals)
    ledger.messages(
        [
            (
                sha256(message(tokens[place[0]], place[1]).encode()).digest(),
                b"theirs" if whose is None else message(tokens[whose[0]], whose[1]).encode(),
            )
            for place, whose in table.items()
        ]
    )
    ledger.settle()
    for index in range(8):
        request = divmod(index, 4)
        own = [place for place, whose in table.items() if whose == request]
        expected = (own.count(request), 0, int(table.get(request, request) != request), len(own) - own.count(request))
        assert rows_of(ledger.owners[request[0]].marks[request[1]]) == Rows(*(min(3, number) for number in expected))
    assert ledger.never_sent == sum(whose is not None and whose[1] > 3 for whose in table.values())
    nobodys = [place for place, whose in table.items() if whose is None and (place[0] == 2 or place[1] > 3)]
    assert ledger.others[Kind.MESSAGE] == len(nobodys)
    count(ledger, list_max=2)


# A load on SQLite, spoilt by hand


@pytest.mark.parametrize(("plant", "kind"), CASES, ids=NAMES)
def test_what_is_planted_is_found_and_nothing_else(tmp_path: Path, plant: Plant, kind: Kind):
    """Each way to spoil a load, on each kind that it can befall; two more loads beside it are as they should be."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    journals = tmp_path / "journals"
    loads = [Load(planter, journals, other, 5000 * index + 100) for index, other in enumerate([kind, *Kind])]
    plant.spoil(loads[0])
    for load in loads:
        load.journal.close()
    result = reconcile(journals, planter.url)
    assert found(result) == plant.faults
    assert result.ok == (not plant.faults)
    assert sum(result.others.values()) == plant.others
    assert result.torn == ()
    assert {fault: len(findings.first) for fault, findings in result.faults.items() if findings.count} == plant.faults
    for findings in result.faults.values():
        for finding in findings.first:
            assert finding.journal == f"{kind.value}-{loads[0].journal.token:016x}.journal"
            assert finding.identity.startswith(f"{loads[0].journal.token:016x}-{finding.seq:010d}")


def test_a_load_is_counted_by_outcome(tmp_path: Path):
    """Everything that was sent is acknowledged, refused, unknown or deleted, and of the unknown some are stored."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    for index, kind in enumerate(Kind):
        Load(planter, tmp_path, kind, 100 * index + 1).journal.close()
    result = reconcile(tmp_path, planter.url)
    usage, keyed, messages = (result.tallies[kind] for kind in Kind)
    assert usage == keyed
    assert (usage.sent, usage.acknowledged, usage.refused, usage.unknown, usage.deleted) == (8, 3, 1, 4, 0)
    assert (usage.unknown_stored, usage.unknown_not_stored, usage.stored) == (2, 2, 5)
    assert (messages.sent, messages.acknowledged, messages.refused, messages.unknown) == (13, 3, 1, 8)
    assert (messages.deleted, messages.unknown_stored, messages.unknown_not_stored, messages.stored) == (1, 4, 4, 7)
    assert result.total.sent == 29
    assert result.rows == {Kind.USAGE: 5, Kind.KEYED: 5, Kind.MESSAGE: 7}
    printed = json.loads(json.dumps(result.as_dict()))
    assert printed["ok"] is True
    assert (printed["sent"], printed["unknown_stored"], printed["lost"]) == (29, 8, {"count": 0, "first": []})
    assert printed["kinds"]["message"]["deleted"] == 1


def test_the_first_faults_are_named_and_all_are_counted(tmp_path: Path):
    """With number, id and what is wrong, at most as many as were asked for."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    journal = open_journal(tmp_path, Kind.USAGE)
    for id_ in range(1, 101):
        journal.outcome(journal.intent(), A, id_)
    journal.close()
    result = reconcile(tmp_path, planter.url, list_max=4)
    lost = result.faults[LOST]
    assert lost.count == 100
    assert [(one.seq, one.place, one.reason) for one in lost.first] == [
        (seq, f"id {seq + 1}", f"acknowledged, and there is nothing at id {seq + 1}") for seq in range(4)
    ]


def test_a_row_of_a_torn_journal_is_a_phantom_and_the_journal_is_named(tmp_path: Path):
    """A journal that was cut no longer tells what was sent: it is not well, even where no row tells so."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    load = Load(planter, tmp_path, Kind.USAGE, 1)
    load.journal.close()
    assert load.journal.path is not None
    os.truncate(load.journal.path, load.journal.path.stat().st_size - 8)
    result = reconcile(tmp_path, planter.url)
    assert (found(result), result.ok) == ({}, False)  # the last was sent, and is not stored
    assert result.torn == (f"{load.journal.path.name}: 8 slots were used when it was closed, 7 are there",)
    os.truncate(load.journal.path, load.journal.path.stat().st_size - 8)
    assert found(reconcile(tmp_path, planter.url)) == {PHANTOM: 1}


def test_states_that_nobody_writes_are_taken_for_unknown(tmp_path: Path):
    """What a damaged slot says proves nothing; that it is damaged is said."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    load = Load(planter, tmp_path, Kind.USAGE, 1)
    load.journal.slots[FIRST] = load.journal.slots[REFUSED] = 0xEE
    load.journal.close()
    result = reconcile(tmp_path, planter.url)
    assert (found(result), result.ok, result.total.unknown) == ({}, False, 6)


# The command


def test_the_exit_status_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """0 all well, 1 something is wrong, 2 it cannot tell; what is printed names it, and JSON is written beside."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    load = Load(planter, tmp_path / "journals", Kind.USAGE, 1)
    command = [str(tmp_path / "journals"), "--store", planter.url, "--json", str(tmp_path / "r.json"), "--list", "1"]
    assert main(command) == 2
    assert "still being written" in capsys.readouterr().err
    load.journal.close()

    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == "all is well"
    assert json.loads((tmp_path / "r.json").read_text())["ok"] is True

    load.drop(0)
    load.drop(1)
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "lost                      2  acknowledged and not there" in printed.out
    assert "lost, the first 1 of 2:" in printed.out
    assert f"usage 0 of usage-{load.journal.token:016x}.journal" in printed.out
    assert json.loads((tmp_path / "r.json").read_text())["lost"]["count"] == 2


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("sqlite:///{}/missing.sqlite3", "there is no file"),
        ("sqlite:///{}/empty.sqlite3", "schema version 0"),
        ("sqlite:///{}/text.sqlite3", "file is not a database"),
        ("postgres://x", "is neither sqlite:///PATH nor cassandra"),
        ("cassandra://127.0.0.1:1/busyapi", "127.0.0.1"),
    ],
)
def test_a_store_that_cannot_be_read_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str, said: str
):
    """With one line that says why, and no traceback."""
    (tmp_path / "empty.sqlite3").touch()
    (tmp_path / "text.sqlite3").write_text("no database" * 100)
    open_journal(tmp_path, Kind.USAGE).close()
    assert main([str(tmp_path), "--store", store.format(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_directory_without_journals_is_an_error(tmp_path: Path):
    """Nothing to compare is not the same as all well."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    with pytest.raises(JournalError, match="there is no journal in"):
        reconcile(tmp_path / "nowhere", planter.url)


def test_a_store_that_breaks_while_it_is_read_is_an_error(tmp_path: Path):
    """Half a table proves nothing."""
    planter = SqlitePlanter(tmp_path / "store.sqlite3")
    Load(planter, tmp_path, Kind.USAGE, 1).journal.close()
    planter.execute("DROP TABLE keyed_usages")
    with pytest.raises(StoreUnreadable, match="no such table: keyed_usages"):
        reconcile(tmp_path, planter.url)


# Services that are not what they say


PLANTED = """
import asyncio, os, signal, sys
from service.listening import listen
from service.logs import set_up_logs
from service.server import serve
from service.settings import read_settings
from service.store import Put
from service.store.sqlite import SqliteStore


class EarlyStore(SqliteStore):
    '''Acknowledges at once; what was acknowledged since the last flush goes with the process.'''

    pending, count = [], 0

    def later(self, write, group, answers):
        self.pending.append((write, list(group)))
        EarlyStore.count += len(group)
        if EarlyStore.count >= 150:
            asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGKILL)
        elif EarlyStore.count <= 100:
            asyncio.ensure_future(self.flush())
        return answers

    async def flush(self):
        taken, EarlyStore.pending = self.pending, []
        for write, group in taken:
            await write(group)

    async def put_usages(self, group):
        return self.later(super().put_usages, group, [None] * len(group))

    async def put_keyed_usages(self, group):
        return self.later(super().put_keyed_usages, group, [Put.CREATED] * len(group))

    async def put_messages(self, group):
        return self.later(super().put_messages, group, [None] * len(group))


class TwiceStore(SqliteStore):
    '''Writes what it did not hear of in time once more, under a new id, and a key's under another.'''

    async def put_usages(self, group):
        first = await self.lease_ids(len(group))
        await super().put_usages([(first + index, usage) for index, (_, usage) in enumerate(group)])
        return await super().put_usages(group)

    async def put_keyed_usages(self, group):
        copies = [type(item)(item.key + "-2", item.digest, item.usage) for item in group]
        await super().put_keyed_usages(copies)
        return await super().put_keyed_usages(group)


class HonestStore(SqliteStore):
    pass


settings = read_settings(os.environ)
set_up_logs(settings.log_format, settings.log_level)
serve(settings, listen("127.0.0.1", 0, shared=False), None, globals()[sys.argv[1]](settings))
"""


@contextmanager
def planted_service(directory: Path, store: str) -> Iterator[tuple[Address, subprocess.Popen[bytes]]]:
    """The real service on a store with a bug."""
    log_path = directory / "planted.log"
    environ = clean_environ(store=f"sqlite:///{directory / 'store.sqlite3'}", drain_delay_s=0, log_format="json")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PLANTED, store],
            cwd=ROOT,
            env=environ,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        eventually(lambda: process.poll() is not None or b'"listening"' in log_path.read_bytes())
        lines = [json.loads(line) for line in log_path.read_bytes().splitlines()]
        (port,) = [int(line["url"].rpartition(":")[2]) for line in lines if line["message"] == "listening"]
        yield ("127.0.0.1", port), process
    finally:
        end(process)


def send(address: Address, journal: Journal, requests: int, replays: int = 0) -> None:
    """Requests one after the other, each written down before and after, until the service is gone; three at once."""
    taken = threading.Lock()

    def work() -> None:
        bodies = Usages(journal.token)
        try:
            with Connection(address) as connection:
                for _ in range(requests // 3):
                    with taken:
                        seq = journal.intent(AT_MS)
                    for attempt in range(1 + replays):
                        if attempt:
                            journal.again(seq)
                        exchange(connection, bodies, seq)
        except (ConnectionEnded, OSError):
            return

    def exchange(connection: Connection, bodies: Usages, seq: int) -> None:
        try:
            if journal.kind is Kind.MESSAGE:
                body = json.dumps({"message": message(journal.token, seq)}).encode()
                reply = connection.request("POST", "/messages", body)
            else:
                headers = [("Content-Type", "application/json")]
                if journal.kind is Kind.KEYED:
                    headers.append(("Idempotency-Key", key(journal.token, seq, AT_MS)))
                reply = connection.request("POST", "/api/usages", bodies.body(seq), headers)
        except (ConnectionEnded, OSError):
            journal.outcome(seq, U)
            raise
        assert reply.status in (200, 201), reply
        journal.outcome(seq, A, reply.json()["id"] if journal.kind is Kind.USAGE else 0)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()


@pytest.mark.parametrize("kind", Kind)
def test_a_service_that_acknowledges_before_the_flush_is_caught(tmp_path: Path, kind: Kind):
    """It is killed with what it had in memory, which it had called stored: lost, and exactly as many as are missing."""
    with planted_service(tmp_path, "EarlyStore") as (address, process):
        send(address, open_journal(tmp_path, kind), 300)
        assert process.wait(20) == -signal.SIGKILL
    result = reconcile(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    assert result.total.acknowledged >= 150
    assert set(found(result)) == {LOST}
    assert result.faults[LOST].count == result.total.acknowledged + result.total.unknown_stored - result.rows[kind]
    assert main([str(tmp_path), "--store", f"sqlite:///{tmp_path / 'store.sqlite3'}"]) == 1


@pytest.mark.parametrize("kind", [Kind.USAGE, Kind.KEYED])
def test_a_service_that_writes_twice_is_caught(tmp_path: Path, kind: Kind):
    """Each usage is there under two ids, or two keys: as many duplicates as usages, and nothing lost."""
    with planted_service(tmp_path, "TwiceStore") as (address, _):
        send(address, open_journal(tmp_path, kind), 99)
    result = reconcile(tmp_path, f"sqlite:///{tmp_path / 'store.sqlite3'}")
    assert (result.total.acknowledged, result.rows[kind]) == (99, 198)
    assert found(result) == {DUPLICATE: 99}


@pytest.mark.parametrize("kind", Kind)
def test_the_service_as_it_is_passes(tmp_path: Path, kind: Kind):
    """Killed under load, with every request repeated where it has a key: nothing is lost, and nothing is there twice."""
    journal = open_journal(tmp_path / "journals", kind)
    with web_instance(tmp_path) as instance:
        killer = threading.Timer(0.4, instance.signal, [signal.SIGKILL])
        killer.start()
        send(instance.address, journal, 30_000, replays=1 if kind is Kind.KEYED else 0)
        killer.join()
        instance.wait()
    result = reconcile(tmp_path / "journals", f"sqlite:///{instance.store_path}")
    assert result.ok, str(result)
    assert result.total.acknowledged > 10
    with closing(sqlite3.connect(instance.store_path)) as connection:
        table = {Kind.USAGE: "usages", Kind.KEYED: "keyed_usages", Kind.MESSAGE: "messages"}[kind]
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert result.rows[kind] == rows == result.total.stored
    assert len(read_journals(tmp_path / "journals")) == 1
