"""Keys of imported lines: the same file gives the same keys, so an import may be repeated."""

from __future__ import annotations

import hashlib

LINES_PER_WINDOW = 1000
WINDOW_MS = 10_000
FIRST_WINDOW, WINDOWS = 10**9, 25 * 10**9
"""Where the windows of a name begin: behind the year 2286, so that they are nobody else's, and below 2^48 ms."""
IDS_APART = LINES_PER_WINDOW * 10**9
"""Ids so far apart share windows: the last are below 2^48 ms, too."""


class Keys:
    """The keys of the lines of one name.

    A key has the shape of a UUIDv7, as those are the cheapest: keys of the same ten seconds share their partitions
    (``service.store.keyed.bucket``). A time is made of the line's number, a thousand lines to ten seconds; it is no clock's.
    The rest is a hash of name, number and bytes: a line that was changed has another key, and one that was not has not.
    """

    def __init__(self, name: str) -> None:
        self._hash = hashlib.sha256(name.encode("utf-8", "surrogateescape") + b"\0")
        self._first = FIRST_WINDOW + int.from_bytes(self._hash.digest()[:8]) % WINDOWS

    def key(self, number: int, line: bytes) -> str:
        """The key of a line, by its number in the file (from 1) and its bytes without the newline."""
        hashed = self._hash.copy()
        hashed.update(b"%d:" % number)
        hashed.update(line)
        text = hashed.hexdigest()
        window, place = divmod(number, LINES_PER_WINDOW)
        time = f"{(self._first + window) * WINDOW_MS + place * (WINDOW_MS // LINES_PER_WINDOW):012x}"
        variant = "89ab"[int(text[20], 16) & 3]
        return f"{time[:8]}-{time[8:]}-7{text[:3]}-{variant}{text[3:6]}-{text[6:18]}"


def key_of_row(id_: int, received_at: str) -> str:
    """The key of a usage that was exported under an integer id: the same in every export that has it, whatever its file and line.

    Two services may both have given the id, but hardly at the same microsecond.
    """
    return _ROWS.key(id_ % IDS_APART, b"%d %b" % (id_, received_at.encode("utf-8", "surrogatepass")))


_ROWS = Keys("\0export")  # no file's name has a NUL
