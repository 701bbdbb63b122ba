"""The journal's file: a header of one page, then slots of equal size, found by the number of the request.

A slot is one 64-bit word, ``state | value << 8``; a keyed usage's has a second one, its key's time in milliseconds since
the epoch. Words are in the byte order of the machine that wrote them, which the header tells. An empty slot is zero.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

MAGIC = b"BusyLoad"
VERSION = 1
BODIES_VERSION = 1
"""Changes with anything that a body, key or message is made of: older journals would name other bytes."""
BYTE_ORDER = 0x01020304
HEADER_BYTES = 4096
WORD_BYTES = 8
STATE_MASK = 0xFF
VALUE_SHIFT = 8
CAPACITY_MAX = 1 << 33
"""Slots of one file, so that a number has ten digits in a body and fits the bits that keys and messages leave it."""

_HEADER = struct.Struct("=8sIIIIQdQQ")


class JournalError(Exception):
    """A file is no journal, or one that cannot be read now; the text names it."""


class JournalFull(Exception):
    """No slot is left, or the disk has no room for more; nothing may be sent."""


class Kind(enum.Enum):
    """What a journal's requests are; the value is part of the file's name."""

    USAGE = "usage"
    KEYED = "keyed"
    MESSAGE = "message"

    @property
    def words(self) -> int:
        """64-bit words in a slot."""
        return 2 if self is Kind.KEYED else 1


class State(enum.IntEnum):
    """What is known of a request; 0 is a slot that was never used.

    The last three are a message's alone. A DELETE that was refused puts it back to ACKNOWLEDGED.
    """

    SENT = 1  # about to be sent, or on its way; unknown if nothing follows
    ACKNOWLEDGED = 2
    REFUSED = 3  # certainly not stored: any 4xx, a 503 of the service
    UNKNOWN = 4  # 502, 504, a time-out, a connection that broke
    DELETE_SENT = 5
    DELETED = 6  # the DELETE was acknowledged
    DELETE_UNKNOWN = 7


STATES = {
    Kind.USAGE: frozenset(State) - {State.DELETE_SENT, State.DELETED, State.DELETE_UNKNOWN},
    Kind.KEYED: frozenset(State) - {State.DELETE_SENT, State.DELETED, State.DELETE_UNKNOWN},
    Kind.MESSAGE: frozenset(State),
}
"""The states that a journal of each kind may hold."""

_NUMBERS = {Kind.USAGE: 1, Kind.KEYED: 2, Kind.MESSAGE: 3}


@dataclass(frozen=True, slots=True)
class Header:
    """The first page. ``used`` is the number of used slots of a journal that was closed, None of one that was not."""

    kind: Kind
    token: int
    started_unix_s: float
    capacity: int
    used: int | None = None

    def pack(self) -> bytes:
        """As HEADER_BYTES bytes."""
        closed = 0 if self.used is None else self.used + 1
        number = _NUMBERS[self.kind]
        fields = (MAGIC, BYTE_ORDER, VERSION, BODIES_VERSION, number, self.token, self.started_unix_s)
        return _HEADER.pack(*fields, self.capacity, closed).ljust(HEADER_BYTES, b"\0")


def unpack_header(data: bytes) -> Header:
    """The header at the start of ``data``. Raises JournalError that says what is wrong with it."""
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        raise JournalError("this is not a journal")
    _, order, version, bodies, number, token, started_unix_s, capacity, closed = _HEADER.unpack_from(data)
    if order != BYTE_ORDER:
        raise JournalError("it was written on a machine of the other byte order")
    if version != VERSION or bodies != BODIES_VERSION:
        raise JournalError(
            f"it has version {version} with bodies {bodies}, this release reads {VERSION} with {BODIES_VERSION}"
        )
    kinds = {value: kind for kind, value in _NUMBERS.items()}
    if number not in kinds or not 0 < capacity <= CAPACITY_MAX:
        raise JournalError("its header is damaged")
    return Header(kinds[number], token, started_unix_s, capacity, closed - 1 if closed else None)
