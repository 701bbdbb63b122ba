"""A journal that is on disk before each send: intents are written down as ever, then wait together for one fsync.

Whoever asks while an fsync is under way waits for the next, which takes all of them: as the service groups its writes, so the
generator groups its journal's. A store into the map survives the end of the process; what was synced survives the machine's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gevent

from loadtest.journal.format import Header, JournalFull, State
from loadtest.journal.writer import Journal

CLOSE_POLL_S = 0.001


class _Waiter:
    """A greenlet until it is woken, or has gone."""

    __slots__ = ("greenlet",)

    def __init__(self) -> None:
        self.greenlet: Any = gevent.getcurrent()


class SyncedJournal(Journal):
    """A journal whose ``intent`` and ``again``, and ``outcome`` of a DELETE that is about to go out, return once on disk.

    Called by greenlets, each of which waits meanwhile while others run. A disk that fails raises JournalFull, as nothing may be
    sent then. Outcomes are on disk with the next fsync.
    """

    __slots__ = ("_syncing", "_waiting")

    def __init__(self, header: Header, path: Path | None, file: int) -> None:
        super().__init__(header, path, file)
        self._waiting: list[_Waiter] = []
        self._syncing = False

    def intent(self, at_ms: int = 0) -> int:
        """The number of the next request, on disk; see Journal."""
        seq = super().intent(at_ms)
        self._wait()
        return seq

    def again(self, seq: int) -> None:
        """A keyed usage is about to be sent once more, and that is on disk."""
        super().again(seq)
        self._wait()

    def outcome(self, seq: int, state: State, value: int = 0) -> None:
        """What became of a request; that a DELETE is about to be sent is on disk on return."""
        super().outcome(seq, state, value)
        if state == State.DELETE_SENT:
            self._wait()

    def close(self) -> None:
        """Close, once no fsync is under way."""
        while self._syncing:
            gevent.sleep(CLOSE_POLL_S)
        super().close()

    def _wait(self) -> None:
        if self.path is None:
            return
        waiter = _Waiter()
        self._waiting.append(waiter)
        if not self._syncing:
            self._syncing = True
            gevent.spawn(self._sync)
        try:
            error = gevent.get_hub().switch()
        except BaseException:
            waiter.greenlet = None
            raise
        if error is not None:
            raise JournalFull(f"{self.path}: {error.strerror}") from error

    def _sync(self) -> None:
        """One fsync after the other, until nobody waits; in a thread of its own each, as the generator goes on meanwhile."""
        hub = gevent.get_hub()
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                error = None
                try:
                    hub.threadpool.apply(os.fdatasync, (self._file,))
                except OSError as failed:
                    error = failed
                # A user is only ever switched to from the hub.
                hub.loop.run_callback(_wake, waiting, error)
        finally:
            self._syncing = False


def _wake(waiting: list[_Waiter], error: OSError | None) -> None:
    for waiter in waiting:
        if waiter.greenlet is not None:
            waiter.greenlet.switch(error)
