"""Reading journals: whole ones, those of a process that was killed, and torn ones as far as they go."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.journal.format import (
    HEADER_BYTES,
    STATES,
    VALUE_SHIFT,
    WORD_BYTES,
    Header,
    JournalError,
    Kind,
    State,
    unpack_header,
)
from loadtest.journal.identity import tag

CHUNK_BYTES = 1 << 22
_KNOWN = {
    kind: bytes(byte if byte in (0, *states) else State.UNKNOWN for byte in range(256))
    for kind, states in STATES.items()
}
"""What is no state of a kind says only that something may have been sent."""
LOW_BYTE = 0 if sys.byteorder == "little" else WORD_BYTES - 1


@dataclass(frozen=True)
class JournalFile:
    """A journal as it was found.

    ``states`` has a byte for each of ``used`` numbers, 0 for one that was not sent; ``slots`` are the words behind them.
    ``torn`` says what is wrong with the file, if anything is: then what it tells is not all that was sent.
    """

    path: Path
    header: Header
    states: bytes
    slots: memoryview
    torn: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What its requests are."""
        return self.header.kind

    @property
    def token(self) -> int:
        """Its identity."""
        return self.header.token

    @property
    def used(self) -> int:
        """How many numbers it knows."""
        return len(self.states)

    def value(self, seq: int) -> int:
        """The id of an acknowledged usage."""
        return int(self.slots[seq * self.kind.words]) >> VALUE_SHIFT

    def at_ms(self, seq: int) -> int:
        """The time in a keyed usage's key."""
        return int(self.slots[2 * seq + 1])


def read_journals(directory: Path) -> list[JournalFile]:
    """All journals in a directory and below it, by name. Raises JournalError that names the file that cannot be read."""
    journals = [read_journal(path) for path in sorted(directory.rglob("*.journal"))]
    seen: dict[tuple[bool, int], Path] = {}
    for journal in journals:
        keyed = journal.kind is Kind.KEYED
        other = seen.setdefault((keyed, tag(journal.token) if keyed else journal.token), journal.path)
        if other != journal.path:
            raise JournalError(
                f"{journal.path} and {other} have the same token: one is a copy, or they cannot be told apart"
            )
    return journals


def read_journal(path: Path) -> JournalFile:
    """One journal. Raises JournalError when it is none, or when its process still writes to it."""
    try:
        with _opened(path) as file:
            header = unpack_header(os.pread(file, HEADER_BYTES, 0))
            size_bytes = os.fstat(file).st_size
            mapped = mmap.mmap(file, size_bytes, access=mmap.ACCESS_READ)
            slot_bytes = header.kind.words * WORD_BYTES
            slots = (size_bytes - HEADER_BYTES) // slot_bytes
            torn = []
            if (size_bytes - HEADER_BYTES) % slot_bytes:
                torn.append("it ends within a slot")
            view = memoryview(mapped)[HEADER_BYTES : HEADER_BYTES + slots * slot_bytes]
            states = _states(view, slot_bytes, file)
    except BlockingIOError:
        raise JournalError(f"{path} is still being written; end the load first") from None
    except JournalError as error:
        raise JournalError(f"{path}: {error}") from None
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error
    if header.used is not None and header.used != len(states):
        torn.append(f"{header.used} slots were used when it was closed, {len(states)} are there")
    torn += _damage(header.kind, states)
    states = states.translate(_KNOWN[header.kind])
    return JournalFile(path, header, states, view[: len(states) * slot_bytes].cast("Q"), tuple(torn))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, unless somebody writes to it: its lock goes with its process, however that ends."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks
        yield file
    finally:
        os.close(file)


def _states(view: memoryview, slot_bytes: int, file: int) -> bytes:
    """The state of every slot up to the last that is not empty."""
    states = bytearray()
    for start, end in _extents(file):
        for chunk in range(start // slot_bytes * slot_bytes, min(end, len(view)), CHUNK_BYTES):
            part = bytes(view[chunk + LOW_BYTE : min(end, chunk + CHUNK_BYTES) : slot_bytes]).rstrip(b"\0")
            if part:
                states += bytes(chunk // slot_bytes - len(states)) + part
    return bytes(states)


def _extents(file: int) -> Iterator[tuple[int, int]]:
    """Where the file may hold anything, behind its header: one that was not closed is mostly holes."""
    start = HEADER_BYTES
    size_bytes = os.fstat(file).st_size
    while start < size_bytes:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError:
            return  # nothing but a hole from here on
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start - HEADER_BYTES, end - HEADER_BYTES
        start = end


def _damage(kind: Kind, states: bytes) -> list[str]:
    """What no process writes: numbers are given one after the other, and each state is one of its kind's."""
    damage = []
    unused = states.count(0)
    if unused:
        damage.append(f"{unused} slots are empty though later ones are used, the first is {states.index(0)}")
    strange = states.translate(None, bytes([0, *STATES[kind]]))
    if strange:
        damage.append(f"{len(strange)} slots hold no state of a {kind.value}")
    return damage
