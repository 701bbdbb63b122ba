"""Writing a journal: a store into shared memory before a request goes out, another when its outcome is known."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import mmap
import os
import secrets
import time
from pathlib import Path

from loadtest.journal.format import (
    CAPACITY_MAX,
    HEADER_BYTES,
    STATE_MASK,
    VALUE_SHIFT,
    WORD_BYTES,
    Header,
    JournalFull,
    Kind,
    State,
)

CAPACITY = 1 << 28
"""Slots of a file: 268 million requests of one process. The file is sparse: it takes the room of what was used."""
CAPACITY_ANONYMOUS = 1 << 20
"""Slots without a file. They are used again from the first: more than are ever in flight."""
STEP_BYTES = 1 << 20
"""Disk space is taken in steps of this size, ahead of use: a store into a page without any would end the process."""


_SENT = int(State.SENT)  # a member of an enum is dear to look up, and this is done for each request


class Journal:
    """The slots of one process and kind; not for two processes: open it after a fork, not before.

    ``token`` is 64 random bits, part of everything that this process sends. ``slots`` are 64-bit words, and may be
    written directly: ``slots[seq] = state | value << 8`` (``slots[2 * seq]`` for keyed usages), once ``intent`` gave ``seq``.
    A store survives the end of the process however it ends, SIGKILL included, as the memory is the file's; it does not
    survive a power cut. After ``close`` a store raises ValueError.
    """

    __slots__ = ("_capacity", "_file", "_header", "_map", "_next", "_ready", "_words", "_wrapped", "path", "slots")

    def __init__(self, header: Header, path: Path | None, file: int) -> None:
        """Use ``open_journal``. ``file`` is the descriptor of a file with this header, or -1 for none."""
        self.path = path
        self._header = header
        self._words = header.kind.words
        self._capacity = header.capacity
        self._file = file
        self._next = 0
        self._wrapped = False
        self._map = mmap.mmap(file, HEADER_BYTES + self._capacity * self._words * WORD_BYTES)
        self.slots = memoryview(self._map)[HEADER_BYTES:].cast("Q")
        self._ready = 0 if path else self._capacity

    def __repr__(self) -> str:
        return f"<Journal {self.path or 'without a file'}, {self.used} used>"

    @property
    def kind(self) -> Kind:
        """What its requests are."""
        return self._header.kind

    @property
    def token(self) -> int:
        """64 random bits."""
        return self._header.token

    @property
    def used(self) -> int:
        """Slots that have been used; each number below it may be looked up."""
        return self._capacity if self._wrapped else self._next

    def intent(self, at_ms: int = 0) -> int:
        """The number of the next request, its slot set to SENT; to be called before its first byte goes out.

        ``at_ms`` is the time in a keyed usage's key. Raises JournalFull.
        """
        seq = self._next
        if seq == self._ready:
            seq = self._more()
        self._next = seq + 1
        if self._words == 1:
            self.slots[seq] = _SENT
        else:
            # The state last: a slot with a state has everything.
            self.slots[2 * seq + 1] = at_ms
            self.slots[2 * seq] = _SENT
        return seq

    def again(self, seq: int) -> None:
        """A keyed usage is about to be sent once more.

        Where each attempt before was refused, this one's outcome says all. While another is on its way or unknown, no
        single refusal proves that the usage is not stored.
        """
        state = self.state(seq)
        if state != State.ACKNOWLEDGED:
            self.slots[2 * seq] = State.SENT if state == State.REFUSED else State.UNKNOWN

    def outcome(self, seq: int, state: State, value: int = 0) -> None:
        """What became of a request; ``value`` is the id of an acknowledged usage.

        A keyed usage may have several outcomes: one that was acknowledged stays so, one that is unknown is settled by
        an acknowledgement alone.
        """
        if self._words == 2:
            before = self.state(seq)
            if before == State.ACKNOWLEDGED or (before == State.UNKNOWN and state != State.ACKNOWLEDGED):
                return
        self.slots[seq * self._words] = state | value << VALUE_SHIFT

    def state(self, seq: int) -> int:
        """The State of a request, 0 when there was none."""
        return self.slots[seq * self._words] & STATE_MASK

    def at_ms(self, seq: int) -> int:
        """The time in a keyed usage's key."""
        return self.slots[2 * seq + 1]

    def close(self) -> None:
        """Cut the file to what was used. Outcomes that come later have no place; call it twice as you like."""
        if self._map.closed:
            return
        self.slots.release()
        if self.path is not None:
            self._map[:HEADER_BYTES] = dataclasses.replace(self._header, used=self.used).pack()
        self._map.close()
        if self.path is not None:
            os.truncate(self._file, HEADER_BYTES + self.used * self._words * WORD_BYTES)
            os.close(self._file)

    def _more(self) -> int:
        """The next number, with disk space for it and for those behind it."""
        if self.path is None:
            self._wrapped = True
            return 0
        if self._next == self._capacity:
            raise JournalFull(f"all {self._capacity} slots of {self.path} are used")
        slot_bytes = self._words * WORD_BYTES
        count = min(STEP_BYTES // slot_bytes, self._capacity - self._next)
        try:
            os.posix_fallocate(self._file, HEADER_BYTES + self._next * slot_bytes, count * slot_bytes)
        except OSError as error:
            # Some file systems take no reservations; they give room as it is used.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise JournalFull(f"{self.path}: {error.strerror}") from error
        self._ready += count
        return self._next


def open_journal(directory: Path | None, kind: Kind, capacity: int = CAPACITY, of: type[Journal] = Journal) -> Journal:
    """A new journal of this process, in ``directory``, which is made when it is missing; ``of`` a class of journals.

    Without a directory it is memory alone, whose slots are used again and again. The file is locked as long as the
    process has it open, so that nobody takes a journal that is being written for a whole one. Raises OSError.
    """
    token = secrets.randbits(64)
    if directory is None:
        return of(Header(kind, token, time.time(), CAPACITY_ANONYMOUS), None, -1)
    if not 0 < capacity <= CAPACITY_MAX:
        raise ValueError(f"a journal has 1 to {CAPACITY_MAX} slots")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{kind.value}-{token:016x}.journal"
    # It gets its name when its header is in it: whoever lists the directory finds whole journals alone.
    unnamed = path.with_suffix(".new")
    file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        header = Header(kind, token, time.time(), capacity)
        os.truncate(file, HEADER_BYTES + capacity * kind.words * WORD_BYTES)
        os.pwrite(file, header.pack(), 0)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        journal = of(header, path, file)
        unnamed.rename(path)
    except BaseException:
        os.close(file)
        unnamed.unlink(missing_ok=True)
        raise
    return journal
