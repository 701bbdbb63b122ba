"""What is sent is on disk before: intents wait together for one fsync, and nobody is let go before it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from loadtest.journal import JournalFull, Kind, State, open_journal, read_journal
from loadtest.journal.sync import SyncedJournal


class Disk:
    """A disk whose fsyncs end when they are told to."""

    def __init__(self) -> None:
        self.syncs = 0
        self.error: OSError | None = None
        self.free = threading.Event()
        self.free.set()

    def fdatasync(self, _file: int) -> None:
        """As slow as it is told to be."""
        self.syncs += 1
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """In place of the kernel's."""
    made = Disk()
    monkeypatch.setattr(os, "fdatasync", made.fdatasync)
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SyncedJournal]:
    """Of messages, on disk."""
    opened = open_journal(tmp_path, Kind.MESSAGE, of=SyncedJournal)
    assert isinstance(opened, SyncedJournal)
    yield opened
    opened.close()


def settle() -> None:
    """Let every greenlet go as far as it can."""
    gevent.sleep(0.05)


def test_nobody_is_let_go_before_the_disk_has_it(disk: Disk, journal: SyncedJournal):
    """The slot is written, and the caller waits for the fsync."""
    disk.free.clear()
    sender = gevent.spawn(journal.intent)
    settle()
    assert not sender.ready()
    assert journal.state(0) == State.SENT
    disk.free.set()
    assert sender.get(timeout=5) == 0


def test_those_who_come_meanwhile_share_the_next_fsync(disk: Disk, journal: SyncedJournal):
    """A hundred requests, two fsyncs; the one under way does not count for who came after it began."""
    disk.free.clear()
    first = gevent.spawn(journal.intent)
    settle()
    others = [gevent.spawn(journal.intent) for _ in range(100)]
    settle()
    assert disk.syncs == 1
    disk.free.set()
    gevent.joinall([first, *others], timeout=5, raise_error=True)
    assert sorted(each.value for each in (first, *others)) == list(range(101))
    assert disk.syncs == 2


def test_a_delete_is_on_disk_before_it_is_sent_and_other_outcomes_wait_for_nothing(disk: Disk, journal: SyncedJournal):
    """A DELETE is a request of its own; an answer that was noted late is only one more that is unknown."""
    seq = gevent.spawn(journal.intent).get(timeout=5)
    disk.free.clear()
    gevent.spawn(journal.outcome, seq, State.ACKNOWLEDGED).get(timeout=5)
    deleting = gevent.spawn(journal.outcome, seq, State.DELETE_SENT)
    settle()
    assert not deleting.ready()
    disk.free.set()
    deleting.get(timeout=5)


def test_a_disk_that_fails_lets_nobody_send(disk: Disk, journal: SyncedJournal):
    """The error reaches each that waited, as a journal that is full does."""
    disk.error = OSError(5, "Input/output error")
    sender = gevent.spawn(journal.intent)
    with pytest.raises(JournalFull, match="Input/output error"):
        sender.get(timeout=5)


def test_a_user_that_is_killed_while_it_waits_is_not_woken_elsewhere(disk: Disk, journal: SyncedJournal):
    """What it does next is its own affair."""
    disk.free.clear()
    woken = []

    def user() -> None:
        try:
            journal.intent()
        finally:
            gevent.sleep(0.2)
            woken.append("in its own time")

    killed = gevent.spawn(user)
    settle()
    killed.kill(block=False)
    settle()
    disk.free.set()
    settle()
    assert woken == []
    killed.join(timeout=5)
    assert woken == ["in its own time"]


def test_the_file_is_the_same_as_without(tmp_path: Path):
    """Readers need not know; without a directory there is nothing to sync."""
    synced = open_journal(tmp_path, Kind.KEYED, of=SyncedJournal)
    seq = gevent.spawn(synced.intent, 1_700_000_000_000).get(timeout=5)
    gevent.spawn(synced.again, seq).get(timeout=5)
    synced.close()
    assert synced.path is not None
    assert list(read_journal(synced.path).states) == [State.UNKNOWN]
    assert open_journal(None, Kind.USAGE, of=SyncedJournal).intent() == 0
