"""Reading HTTP/1.1 answers (RFC 9112), without any I/O: bytes go in as they come, whole answers come out."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 16 * 1024 * 1024
CHUNK_LINE_BYTES_MAX = 4096
INTERIM_MAX = 16
"""Answers 1xx before the one that counts."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n\0]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[^\r\n\0]*[^\r\n\0 \t])?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?")
_LENGTH = re.compile(rb"[0-9]{1,15}")


class BadAnswer(Exception):
    """What came is no HTTP/1.1 answer, or more than is taken; the text names what."""


class Answer:
    """A whole answer. ``head`` is its lines before the empty one; ``closes`` says that the connection ends with it."""

    __slots__ = ("body", "closes", "head", "status")

    def __init__(self, status: int, head: bytes, body: bytes, closes: bool = False) -> None:
        self.status = status
        self.head = head
        self.body = body
        self.closes = closes

    def header(self, name: str) -> str | None:
        """The value of a header, the first when there are several, None when there is none."""
        wanted = name.lower().encode("latin-1")
        for line in self.head.split(b"\r\n"):
            found, colon, value = line.partition(b":")
            if colon and found.lower() == wanted:
                return value.strip(b" \t").decode("latin-1")
        return None


class AnswerReader:
    """Reads one connection's answers. Say ``expect`` for each request, in order; feed what came; told what is whole.

    Raises BadAnswer, also for bytes that nobody asked for; the connection is of no more use then.
    """

    def __init__(self, *, head_bytes_max: int = HEAD_BYTES_MAX, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._head_bytes_max = head_bytes_max
        self._body_bytes_max = body_bytes_max
        self._methods: deque[str] = deque()
        self._buffer = bytearray()
        self._step: Callable[[], bool] = self._read_head
        self._searched = 0
        self._interim = 0
        self._status = 0
        self._head = b""
        self._closes = False
        self._length = 0
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._answers: list[Answer] = []

    @property
    def begun(self) -> bool:
        """Whether a part of an answer has come."""
        return bool(self._buffer) or self._step != self._read_head or self._interim > 0

    def expect(self, method: str) -> None:
        """A request of this method has been sent."""
        self._methods.append(method)

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that are whole with these bytes, in order."""
        self._buffer += data
        while self._step():
            pass
        answers, self._answers = self._answers, []
        return answers

    def end(self) -> Answer | None:
        """The server has closed: the answer that was to end so, None when none was under way. BadAnswer: it was cut off."""
        if self._step == self._read_until_close:
            self._parts = [bytes(self._buffer)]
            self._buffer.clear()
            self._finish()
            return self._answers.pop()
        if self.begun:
            raise BadAnswer("closed in the middle of an answer")
        return None

    def _read_head(self) -> bool:
        if not self._buffer:
            return False
        if not self._methods:
            raise BadAnswer(f"bytes that nobody asked for: {_cut(self._buffer)}")
        end = self._buffer.find(b"\r\n\r\n", max(self._searched - 3, 0))
        if (end if end >= 0 else len(self._buffer)) > self._head_bytes_max:
            raise BadAnswer(f"head of more than {self._head_bytes_max} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            # Whatever does not begin as HTTP is told at once, not when a time-out is over.
            if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]):
                raise BadAnswer(f"no HTTP/1 answer: {_cut(self._buffer)}")
            return False
        self._head = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 4]
        self._searched = 0
        return self._begin_body()

    def _begin_body(self) -> bool:
        first, *lines = self._head[:-2].split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise BadAnswer(f"malformed status line: {_cut(first)}")
        self._status = int(status_line[2])
        lengths, codings, options = _framing(lines)
        if self._status < 200:
            self._interim += 1
            if self._interim > INTERIM_MAX or self._status == 101:
                raise BadAnswer(
                    "an upgrade that nobody asked for" if self._status == 101 else "too many interim answers"
                )
            return True
        self._interim = 0
        keeps = status_line[1] == b"1" or b"keep-alive" in options
        self._closes = b"close" in options or not keeps
        if self._methods[0] == "HEAD" or self._status in (204, 304):
            self._finish()
        elif codings:
            if codings != [b"chunked"] or lengths:
                raise BadAnswer(f"framing that is not understood: {_cut(self._head)}")
            self._step = self._read_chunk_line
        elif lengths:
            if len(lengths) > 1 or _LENGTH.fullmatch(length := lengths.pop()) is None:
                raise BadAnswer("Content-Length is no single number")
            self._length = self._bounded(int(length))
            self._step = self._read_body
        else:
            self._closes = True
            self._step = self._read_until_close
        return True

    def _read_body(self) -> bool:
        if len(self._buffer) < self._length:
            return False
        self._parts = [self._taken(self._length)]
        self._finish()
        return True

    def _read_until_close(self) -> bool:
        self._bounded(len(self._buffer))
        return False

    def _read_chunk_line(self) -> bool:
        line = self._line()
        if line is None:
            return False
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise BadAnswer(f"malformed chunk size: {_cut(line)}")
        self._length = int(found[1], 16)
        self._bounded(self._part_bytes + self._length)
        self._step = self._read_chunk if self._length else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        if len(self._buffer) < self._length + 2:
            return False
        self._parts.append(self._taken(self._length))
        if self._taken(2) != b"\r\n":
            raise BadAnswer("a chunk that is longer than its size")
        self._part_bytes += self._length
        self._step = self._read_chunk_line
        return True

    def _read_trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            _framing([line])
        else:
            self._finish()
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if (end if end >= 0 else len(self._buffer)) > CHUNK_LINE_BYTES_MAX:
            raise BadAnswer(f"a line of more than {CHUNK_LINE_BYTES_MAX} bytes between chunks")
        return None if end < 0 else self._taken(end + 2)[:-2]

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _bounded(self, size: int) -> int:
        if size > self._body_bytes_max:
            raise BadAnswer(f"body of more than {self._body_bytes_max} bytes")
        return size

    def _finish(self) -> None:
        self._answers.append(Answer(self._status, self._head, b"".join(self._parts), self._closes))
        self._methods.popleft()
        self._parts = []
        self._part_bytes = 0
        self._step = self._read_head


def _framing(lines: list[bytes]) -> tuple[set[bytes], list[bytes], set[bytes]]:
    """Content lengths, transfer codings and options of the connection that these header lines name."""
    lengths: set[bytes] = set()
    codings: list[bytes] = []
    options: set[bytes] = set()
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadAnswer(f"malformed header line: {_cut(line)}")
        name = found[1].lower()
        if name == b"content-length":
            lengths |= {value.strip(b" \t") for value in found[2].split(b",")}
        elif name == b"transfer-encoding":
            codings += [value.strip(b" \t").lower() for value in found[2].split(b",")]
        elif name == b"connection":
            options |= {value.strip(b" \t").lower() for value in found[2].split(b",")}
    return lengths, codings, options


def _cut(data: bytes | bytearray) -> str:
    return repr(bytes(data[:80]))
