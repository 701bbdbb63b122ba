from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.journal import (
    Journal,
    JournalError,
    JournalFull,
    Kind,
    State,
    Usages,
    key,
    message,
    open_journal,
    read_journal,
    read_journals,
)
from loadtest.journal.bodies import POOL_SIZE, find_identity
from loadtest.journal.format import CAPACITY_MAX, HEADER_BYTES, Header, unpack_header
from loadtest.journal.identity import identity, read_key, read_message, tag
from loadtest.journal.writer import CAPACITY_ANONYMOUS, STEP_BYTES
from service.parsing import check_usage, is_idempotency_key
from service.store.keyed import bucket
from tests.support import ROOT, die_with_parent

TOKEN = 0x0123456789ABCDEF
TOKENS = st.integers(0, 2**64 - 1)
SEQS = st.integers(0, CAPACITY_MAX - 1)
TIMES_MS = st.integers(0, 2**48 - 1)


def written(directory: Path, kind: Kind, states: list[State]) -> Path:
    """A closed journal of requests in these states; usages have the ids 1, 2, 3 ..."""
    journal = open_journal(directory, kind)
    for state in states:
        seq = journal.intent(1000)
        journal.outcome(seq, state, seq + 1 if kind is Kind.USAGE and state is State.ACKNOWLEDGED else 0)
    journal.close()
    assert journal.path is not None
    return journal.path


@pytest.mark.parametrize("kind", Kind)
def test_what_was_written_is_read_again(tmp_path: Path, kind: Kind):
    """Numbers count from 0; states, ids and times come back, and the closed file holds no more than was used."""
    journal = open_journal(tmp_path, kind)
    assert [journal.intent(1000 + index) for index in range(5)] == [0, 1, 2, 3, 4]
    journal.outcome(1, State.ACKNOWLEDGED, 2**53 - 1 if kind is Kind.USAGE else 0)
    journal.outcome(2, State.REFUSED)
    journal.outcome(3, State.UNKNOWN)
    assert journal.used == 5
    journal.close()
    journal.close()

    assert journal.path is not None
    assert journal.path.name == f"{kind.value}-{journal.token:016x}.journal"
    assert journal.path.stat().st_size == HEADER_BYTES + 5 * (16 if kind is Kind.KEYED else 8)
    read = read_journal(journal.path)
    assert (read.kind, read.token, read.used, read.torn) == (kind, journal.token, 5, ())
    assert [*read.states] == [State.SENT, State.ACKNOWLEDGED, State.REFUSED, State.UNKNOWN, State.SENT]
    if kind is Kind.USAGE:
        assert read.value(1) == 2**53 - 1
    if kind is Kind.KEYED:
        assert [read.at_ms(seq) for seq in range(5)] == [1000, 1001, 1002, 1003, 1004]


def test_a_slot_may_be_written_directly(tmp_path: Path):
    """On the hot path an outcome is one store of state | value << 8."""
    journal = open_journal(tmp_path, Kind.USAGE)
    journal.slots[journal.intent()] = State.ACKNOWLEDGED | 77 << 8
    assert journal.state(0) == State.ACKNOWLEDGED
    journal.close()
    with pytest.raises(ValueError, match="released"):
        journal.outcome(0, State.REFUSED)
    (read,) = read_journals(tmp_path)
    assert (read.states, read.value(0)) == (bytes([State.ACKNOWLEDGED]), 77)


KILLED = """
import sys
from pathlib import Path
from loadtest.journal import Kind, State, open_journal
journals = [open_journal(Path(sys.argv[1]), kind) for kind in Kind]
for count in range(1, 1_000_000_000):
    for journal in journals:
        seq = journal.intent(count)
        if count % 2:
            journal.outcome(seq, State.ACKNOWLEDGED, count if journal.kind is Kind.USAGE else 0)
    if count % 1000 == 0:
        print(count, flush=True)
"""


def test_nothing_is_forgotten_on_kill_9(tmp_path: Path):
    """What a process wrote before it was killed is there, to the last slot, although nobody flushed or closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
    )
    try:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        with pytest.raises(JournalError, match="still being written; end the load first"):
            read_journals(tmp_path)
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout]
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    journals = read_journals(tmp_path)
    assert {journal.kind for journal in journals} == set(Kind)
    for journal in journals:
        assert journal.torn == ()
        assert journal.used >= said[-1]
        # Cut off at most between an intent and its outcome.
        assert Counter(journal.states[: said[-1]]) == {State.SENT: said[-1] / 2, State.ACKNOWLEDGED: said[-1] / 2}
        if journal.kind is Kind.USAGE:
            assert [journal.value(seq) for seq in range(0, 1000, 2)] == [*range(1, 1001, 2)]
        if journal.kind is Kind.KEYED:
            assert [journal.at_ms(seq) for seq in range(said[-1])] == [*range(1, said[-1] + 1)]


def test_journals_of_one_directory_are_told_apart(tmp_path: Path):
    """Each is opened under a token and a name of its own, and only whole ones are found under their names."""
    journals = [open_journal(tmp_path, kind) for kind in Kind for _ in range(20)]
    try:
        assert len({journal.token for journal in journals}) == 60
        assert {path.suffix for path in tmp_path.iterdir()} == {".journal"}
    finally:
        for journal in journals:
            journal.close()
    assert {journal.token for journal in read_journals(tmp_path)} == {journal.token for journal in journals}


def test_a_full_journal_says_so_before_anything_is_sent(tmp_path: Path):
    """Its last slot can be used; the next intent is refused, and refused again."""
    journal = open_journal(tmp_path, Kind.KEYED, capacity=3)
    assert [journal.intent(1) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(JournalFull, match="all 3 slots"):
            journal.intent(1)
    journal.close()
    assert read_journals(tmp_path)[0].used == 3


def test_a_full_disk_is_found_before_a_slot_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Room is taken ahead: a store into a page that the disk has no room for would end the process by a signal."""
    steps: list[tuple[int, int]] = []

    def allocate(file: int, offset: int, length: int) -> None:
        if len(steps) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        steps.append((offset, length))
        assert os.fstat(file).st_size >= offset + length

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    journal = open_journal(tmp_path, Kind.USAGE)
    slots = STEP_BYTES // 8
    for _ in range(2 * slots):
        journal.intent()
    with pytest.raises(JournalFull, match="No space left on device"):
        journal.intent()
    journal.close()
    assert steps == [(HEADER_BYTES, STEP_BYTES), (HEADER_BYTES + STEP_BYTES, STEP_BYTES)]
    assert read_journals(tmp_path)[0].used == 2 * slots


def test_without_a_directory_slots_are_used_again():
    """Nothing is kept: memory stays as small as it began, and every number below ``used`` can be looked up."""
    journal = open_journal(None, Kind.KEYED)
    assert [journal.intent(5) for _ in range(CAPACITY_ANONYMOUS)][-1] == CAPACITY_ANONYMOUS - 1
    journal.outcome(0, State.ACKNOWLEDGED)
    assert journal.intent(6) == 0
    assert (journal.state(0), journal.at_ms(0), journal.at_ms(1)) == (State.SENT, 6, 5)
    assert journal.used == CAPACITY_ANONYMOUS
    assert journal.path is None
    journal.close()


A, R, U, S = State.ACKNOWLEDGED, State.REFUSED, State.UNKNOWN, State.SENT


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([], S),
        ([A], A),
        ([R], R),
        ([U], U),
        ([A, "again"], A),
        ([A, "again", R], A),
        ([A, "again", U], A),
        ([R, "again"], S),
        ([R, "again", R], R),
        ([R, "again", U], U),
        ([R, "again", A], A),
        ([R, "again", "again", R], U),
        ([R, "again", "again", R, R], U),
        ([R, "again", R, "again", A], A),
        ([U, "again", R], U),
        ([U, "again", A], A),
        (["again", R, R], U),
        (["again", R, A], A),
        (["again", A, R], A),
        (["again", A, U], A),
    ],
)
def test_a_key_that_is_sent_again_is_refused_only_if_nothing_else_can_be(outcomes: list[State | str], state: State):
    """An acknowledgement stands whatever comes later; one refusal of several attempts at once proves nothing of the others."""
    journal = open_journal(None, Kind.KEYED)
    seq = journal.intent(1)
    for outcome in outcomes:
        if isinstance(outcome, State):
            journal.outcome(seq, outcome)
        else:
            journal.again(seq)
    assert journal.state(seq) == state
    journal.close()


def test_a_refused_delete_puts_a_message_back(tmp_path: Path):
    """A message's states follow one another as they come."""
    journal = open_journal(tmp_path, Kind.MESSAGE)
    seq = journal.intent()
    for state in (A, State.DELETE_SENT, A, State.DELETE_SENT, State.DELETE_UNKNOWN, State.DELETED):
        journal.outcome(seq, state)
        assert journal.state(seq) == state
    journal.close()
    assert [*read_journals(tmp_path)[0].states] == [State.DELETED]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:0], "this is not a journal"),
        (lambda data: data[: HEADER_BYTES - 1], "this is not a journal"),
        (lambda data: b"X" + data[1:], "this is not a journal"),
        (lambda data: data[:8] + data[8:12][::-1] + data[12:], "other byte order"),
        (lambda data: data[:12] + struct.pack("=I", 9) + data[16:], "it has version 9"),
        (lambda data: data[:16] + struct.pack("=I", 9) + data[20:], "with bodies 9"),
        (lambda data: data[:20] + struct.pack("=I", 9) + data[24:], "its header is damaged"),
    ],
)
def test_what_is_no_journal_is_named(tmp_path: Path, spoil: Callable[[bytes], bytes], said: str):
    """A header that cannot be trusted is an error with the file's name, not a journal without requests."""
    path = written(tmp_path, Kind.USAGE, [A])
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(JournalError, match=f"{path.name}.*{said}"):
        read_journals(tmp_path)


@pytest.mark.parametrize("kind", Kind)
def test_a_torn_journal_says_so_and_is_read_as_far_as_it_goes(tmp_path: Path, kind: Kind):
    """Cut at a slot, within one, with a hole, with states that nobody writes: what is left is read, and the rest is said."""
    path = written(tmp_path, kind, [A] * 100)
    whole = path.read_bytes()
    slot_bytes = (len(whole) - HEADER_BYTES) // 100
    hole = HEADER_BYTES + 40 * slot_bytes

    path.write_bytes(whole[:-slot_bytes])
    assert read_journal(path).torn == ("100 slots were used when it was closed, 99 are there",)
    assert read_journal(path).states == bytes([A] * 99)

    path.write_bytes(whole[:-1])
    assert read_journal(path).torn[0] == "it ends within a slot"

    path.write_bytes(whole[:hole] + bytes(10 * slot_bytes) + whole[hole + 10 * slot_bytes :])
    assert read_journal(path).torn == ("10 slots are empty though later ones are used, the first is 40",)
    assert read_journal(path).states == bytes([A] * 40 + [0] * 10 + [A] * 50)

    path.write_bytes(whole[:hole] + struct.pack("=Q", 99) + whole[hole + 8 :])
    assert read_journal(path).torn == (f"1 slots hold no state of a {kind.value}",)
    assert read_journal(path).states[39:42] == bytes([A, U, A])


def test_a_hole_far_behind_in_a_file_that_was_not_closed_is_torn(tmp_path: Path):
    """Such a file is mostly holes; what stands behind one is found all the same."""
    journal = open_journal(tmp_path, Kind.USAGE)
    journal.intent()
    journal.slots[10_000_000] = int(A)
    assert journal.path is not None
    copy = tmp_path / "other" / journal.path.name
    copy.parent.mkdir()
    subprocess.run(["cp", "--sparse=always", journal.path, copy], check=True)
    journal.close()
    read = read_journal(copy)
    assert read.used == 10_000_001
    assert read.torn == ("9999999 slots are empty though later ones are used, the first is 1",)


def test_a_copy_beside_its_original_is_refused(tmp_path: Path):
    """Its requests would be counted twice."""
    path = written(tmp_path, Kind.USAGE, [A])
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(JournalError, match="have the same token"):
        read_journals(tmp_path)


@given(kind=st.sampled_from(Kind), token=TOKENS, capacity=st.integers(1, CAPACITY_MAX), used=st.none() | SEQS)
def test_a_header_comes_back_as_it_was(kind: Kind, token: int, capacity: int, used: int | None):
    """And is one page long."""
    header = Header(kind, token, 1750000000.25, capacity, used)
    assert len(header.pack()) == HEADER_BYTES
    assert unpack_header(header.pack()) == header


def test_bodies_are_a_function_of_token_and_number():
    """These bytes are recorded: whoever changes what a body is made of changes BODIES_VERSION, and these."""
    usages = Usages(TOKEN)
    assert usages.body(0) == (
        b'{"patientId": "22826", "timestamp": "Wed Nov 02 2016 10:11:04 GMT-0500 (CDT)", "medication": "Fluticasone/Salmeterol",'
        b' "loadtest": "0123456789abcdef-0000000000"}'
    )
    pool = hashlib.sha256(b"".join(usages.body(seq) for seq in range(POOL_SIZE))).hexdigest()
    assert pool == "629020e53928512fbbd5fa45097e95bf52bb6b7e407f9d2faf92ec089811686e"
    assert key(TOKEN, 0, 1_750_000_000_000) == "01977420-dc00-744b-bf9f-6fb945b097a6"
    assert message(TOKEN, 0) == "yRnjtyyR67V1Aq1OXS1v"
    assert Usages(TOKEN).body(987_654_321) == usages.body(987_654_321)
    assert Usages(TOKEN + 1).body(0) != usages.body(0)


def test_each_body_is_a_usage_that_the_service_takes():
    """All of a pool: valid, of the shape that is described, and carrying its identity."""
    usages = Usages(TOKEN)
    bodies = [usages.body(seq) for seq in range(POOL_SIZE)]
    decoded = [json.loads(body) for body in bodies]
    for seq, body in enumerate(bodies):
        check_usage(body)
        assert find_identity(body) == (b"%016x" % TOKEN, seq)
        assert decoded[seq]["loadtest"] == identity(TOKEN, seq)
    numbers = sum(isinstance(usage["patientId"], int) for usage in decoded)
    assert 0.07 < numbers / POOL_SIZE < 0.13
    assert all(1 <= int(usage["patientId"]) < 65_536 for usage in decoded)
    assert 0.02 < sum("note" in usage for usage in decoded) / POOL_SIZE < 0.04
    assert Counter(usage["medication"] for usage in decoded).most_common(1)[0][0] == "Albuterol"
    assert sum(not body.isascii() for body in bodies) > 20
    assert min(map(len, bodies)) >= 140
    assert max(map(len, bodies)) <= 700
    assert 150 < sum(map(len, bodies)) / POOL_SIZE < 160


@settings(max_examples=20)
@given(token=TOKENS, seq=SEQS)
def test_a_prepared_request_is_its_head_and_its_body(token: int, seq: int):
    """The head is told the length of the body that follows it."""
    usages = Usages(token)
    request = usages.requests(lambda length: b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)(seq)
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == usages.body(seq)
    assert head.endswith(b" %d" % len(body))


@pytest.mark.parametrize(
    "altered",
    [
        b'{"loadtest": "0123456789abcdef-0000000012", "medication": "Albuterol"}',
        b'{"medication":"Albuterol","loadtest":"0123456789abcdef-0000000012"}',
        b'{"medication": "Albuterol", "loadtest": "0123456789abcdef-0000000012"} ',
        b'\xff{"loadtest" : "0123456789abcdef-0000000012"',
    ],
)
def test_the_identity_of_an_altered_body_is_found(altered: bytes):
    """However it was reformatted or cut, as long as it is in there."""
    assert find_identity(altered) == (b"0123456789abcdef", 12)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"loadtest": "0123456789abcde-0000000012"}',
        b'{"loadtest": "0123456789abcdef-00000000x2"}',
        b'{"loadtest": 12}',
        b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}',
    ],
)
def test_a_body_of_somebody_else_carries_no_identity(body: bytes):
    """Nor does one whose identity is not whole."""
    assert find_identity(body) is None


@given(token=TOKENS, seq=SEQS, at_ms=TIMES_MS)
def test_a_key_is_a_uuid_version_7_that_tells_whose_it_is(token: int, seq: int, at_ms: int):
    """Time, version and variant stand where RFC 9562 wants them; from the rest token and number come back."""
    text = key(token, seq, at_ms)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == at_ms
    assert is_idempotency_key(text.encode())
    assert read_key(text) == (tag(token), seq, at_ms)


def test_keys_spread_evenly_over_a_windows_buckets():
    """The store sends those of ten seconds to four partitions; each gets its quarter."""
    buckets = Counter(bucket(key(TOKEN, seq, 1_750_000_000_000)) for seq in range(8000))
    assert len(buckets) == 4
    assert all(1800 < count < 2200 for count in buckets.values())


@pytest.mark.parametrize(
    "text", ["", "k", str(uuid.UUID(int=0)), key(TOKEN, 1, 2).upper(), key(TOKEN, 1, 2)[:-1] + "-"]
)
def test_what_is_no_key_of_ours_is_not_read_as_one(text: str):
    """Other clients may use any text."""
    assert read_key(text) is None


@given(token=TOKENS, seq=SEQS)
def test_a_message_is_20_characters_that_tell_whose_it_is(token: int, seq: int):
    """Letters and digits of ASCII, as the original's clients sent them."""
    text = message(token, seq)
    assert len(text) == 20
    assert text.isascii()
    assert text.isalnum()
    assert read_message(text) == (token, seq)


@given(text=st.text(max_size=21) | st.text("0123456789ABCXYZabcxyz", min_size=20, max_size=20))
def test_a_message_of_somebody_else_is_nobodys(text: str):
    """Of 20 random characters one in a million looks like a message at all, and then its token is another."""
    read = read_message(text)
    assert read is None or message(*read) == text


def test_messages_look_random():
    """Neighbours have little in common, and every character comes about as often as any other."""
    texts = [message(TOKEN, seq) for seq in range(2000)]
    assert len(set(texts)) == 2000
    assert all(sum(one == other for one, other in zip(*pair, strict=True)) < 8 for pair in pairwise(texts))
    counts = Counter("".join(text[:-1] for text in texts))
    assert len(counts) == 62
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_journal_says_what_it_is(tmp_path: Path):
    """Its repr names the file and what was used."""
    journal: Journal = open_journal(tmp_path, Kind.USAGE)
    journal.intent()
    journal.close()
    assert repr(journal).endswith(f"{journal.path}, 1 used>")
