"""The short way to an answer that looks like the one before: one match of a pattern that was made from it."""

from __future__ import annotations

import re
from collections.abc import Callable

from loadtest.users.http1 import Answer

LEARNED_MAX = 256
"""Patterns made for one request name; a server whose answers never look alike is read the long way from then on."""
ROOM_BYTES_MAX = 4096
ROOM_SPARE_BYTES = 64
"""More room than the longest answer so far took, as ids and dates grow."""
_LENGTH_DIGITS = rb"([0-9]{1,9})"
_VALUE = rb"[^\r\n\0]*"
_TOLD_APART = (b"connection", b"transfer-encoding", b"content-length")


class Layouts:
    """What answers to one kind of request look like, by status: the same status line and header names in the same order.

    ``matchers`` has, by the first twelve bytes, a status and the pattern of its head, whose group is the body's length.
    What is read so is never what ``AnswerReader`` would refuse or understand otherwise. ``room_bytes`` is what to make room for:
    more than is needed costs every request.
    """

    __slots__ = ("_learned", "matchers", "room_bytes")

    def __init__(self) -> None:
        self.matchers: dict[bytes, tuple[int, Callable[[bytes], re.Match[bytes] | None]]] = {}
        self.room_bytes = ROOM_BYTES_MAX
        self._learned = 0

    def widen(self) -> None:
        """An answer did not come in one piece; perhaps there was no room for it."""
        self.room_bytes = min(2 * self.room_bytes, ROOM_BYTES_MAX)

    def read(self, data: bytes) -> Answer | None:
        """The answer that ``data`` is, when it looks like one before and is whole; None asks for the long way."""
        known = self.matchers.get(data[:12])
        if known is None:
            return None
        status, match = known
        found = match(data)
        if found is None:
            return None
        end = found.end()
        if end + int(found[1]) != len(data):
            return None
        return Answer(status, data[: end - 2], data[end:])

    def learn(self, answer: Answer) -> None:
        """Make the pattern of an answer that was read the long way and was neither HEAD's, nor split, nor closing."""
        if self._learned >= LEARNED_MAX or answer.closes or answer.status in (204, 304):
            return
        pattern = pattern_of(answer.head)
        if pattern is not None:
            needed = len(answer.head) + len(b"\r\n") + len(answer.body) + ROOM_SPARE_BYTES
            self.room_bytes = min(max(needed, self.room_bytes if self._learned else 0), ROOM_BYTES_MAX)
            self._learned += 1
            self.matchers[answer.head[:12]] = answer.status, re.compile(pattern).match


def pattern_of(head: bytes) -> bytes | None:
    """What matches heads like this one, with the digits of Content-Length as its group; None when it has no single length.

    Headers that frame the answer stay as they are, others may have any value.
    """
    first, *lines = head[:-2].split(b"\r\n")
    parts = [re.escape(first)]
    lengths = 0
    for line in lines:
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower == b"content-length":
            lengths += 1
            digits = value.strip(b" \t")
            if not digits.isdigit():
                return None
            parts.append(re.escape(line).replace(digits, _LENGTH_DIGITS))
        elif lower in _TOLD_APART:
            if lower == b"transfer-encoding":
                return None
            parts.append(re.escape(line))
        else:
            parts.append(re.escape(name) + rb":" + _VALUE)
    return rb"\r\n".join(parts) + rb"\r\n\r\n" if lengths == 1 and head.startswith(b"HTTP/1.1 ") else None
