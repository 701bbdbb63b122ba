"""Compressed bodies made plain, a bounded piece at a time: what a body would inflate to is not known before.

gzip (RFC 1952) and zstd (RFC 8878), each also as several members or frames one behind the other. zstd's window is at
most 8 MiB, as RFC 9659 has it for HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from service.errors import Problem

PIECE_BYTES_MAX = 65536
"""So much comes out at a time."""
ZSTD_INPUT_BYTES = 128
"""Of zstd, so much goes in at a time: its decoder has no bound on what comes out, but four bytes make 128 KiB at most."""
ZSTD_WINDOW_BYTES_MAX = 8 << 20
ZSTD_HEADER_BYTES_MAX = 18

GZIP, ZSTD = "gzip", "zstd"
CODINGS = {b"": None, b"identity": None, b"gzip": GZIP, b"x-gzip": GZIP, b"zstd": ZSTD}
"""Content codings by their names (RFC 9110, 8.4.1)."""


class Inflater(Protocol):
    """Takes a body's bytes as they come and gives back what they stand for."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes, in pieces that are not empty. To be read to its end. Raises Problem 400."""

    def end(self) -> None:
        """The body is over. Raises Problem 400 when what it stands for is not."""


class Identity:
    """A body that is not compressed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes as they are."""
        if data:
            yield data

    def end(self) -> None:
        """It is as long as it is."""


class Gzip:
    """gzip's members."""

    def __init__(self) -> None:
        self._member: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes. Raises Problem 400."""
        while data or self._member is not None:
            if self._member is None:
                self._member = zlib.decompressobj(wbits=31)
            try:
                piece = self._member.decompress(data, PIECE_BYTES_MAX)
            except zlib.error as error:
                raise corrupt(GZIP) from error
            data = self._member.unconsumed_tail
            if piece:
                yield piece
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            elif not data:
                return  # what may be left inside comes out with what follows: a member ends with its checksum

    def end(self) -> None:
        """Raises Problem 400 amid a member."""
        if self._member is not None:
            raise corrupt(GZIP)


class Zstd:
    """zstd's frames. ``hold`` is told, before a frame is decoded, how many bytes its window takes; it may raise."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        # Loaded by the first client that sends zstd: most never do, and each process would pay for it.
        import zstandard  # noqa: PLC0415

        self._zstandard = zstandard
        self._hold = hold
        self._held = 0
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._frame: Any = None
        self._header = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes. Raises Problem 400, and whatever ``hold`` raises."""
        try:
            data = self._header + data
            self._header = b""
            while data:
                if self._frame is None and not self._begin(data):
                    self._header = data
                    return
                piece = self._frame.decompress(data[:ZSTD_INPUT_BYTES])
                for start in range(0, len(piece), PIECE_BYTES_MAX):
                    yield piece[start : start + PIECE_BYTES_MAX]
                if self._frame.eof:
                    data = self._frame.unused_data + data[ZSTD_INPUT_BYTES:]
                    self._frame = None
                else:
                    data = data[ZSTD_INPUT_BYTES:]
        except self._zstandard.ZstdError as error:
            raise corrupt(ZSTD) from error

    def end(self) -> None:
        """Raises Problem 400 amid a frame."""
        if self._frame is not None or self._header:
            raise corrupt(ZSTD)

    def _begin(self, data: bytes) -> bool:
        """Begin a frame, once enough of its header is there to know its window."""
        try:
            window = self._zstandard.get_frame_parameters(data[:ZSTD_HEADER_BYTES_MAX]).window_size
        except self._zstandard.ZstdError:
            if len(data) >= ZSTD_HEADER_BYTES_MAX:
                raise
            return False
        if window > ZSTD_WINDOW_BYTES_MAX:
            raise corrupt(ZSTD)
        if window > self._held:
            self._hold(window - self._held)
            self._held = window
        self._frame = self._decompressor.decompressobj()
        return True


def inflater(coding: str | None, hold: Callable[[int], None]) -> Inflater:
    """What undoes a content coding."""
    if coding == GZIP:
        return Gzip()
    if coding == ZSTD:
        return Zstd(hold)
    return Identity()


def corrupt(coding: str) -> Problem:
    """The 400 for a body that is not what its Content-Encoding says, or ends too early."""
    return Problem(
        400,
        "invalid_encoding",
        f"The body is not {coding} as it should be: corrupt, cut off, or with a window of more than 8 MiB.",
        field="Content-Encoding",
    )
