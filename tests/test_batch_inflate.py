"""Compressed bodies: what comes out is what went in, a bounded piece at a time, and nothing that is cut off passes for whole."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.batch_inflate import CODINGS, GZIP, PIECE_BYTES_MAX, ZSTD, ZSTD_WINDOW_BYTES_MAX, Inflater, inflater
from service.errors import Problem

codings = pytest.mark.parametrize("coding", [GZIP, ZSTD])


def packed(coding: str, data: bytes) -> bytes:
    """The data in one member or frame."""
    return gzip.compress(data) if coding == GZIP else zstandard.ZstdCompressor().compress(data)


def new(coding: str | None) -> Inflater:
    """One that may hold what it likes."""
    return inflater(coding, lambda _: None)


def inflated(inflate: Inflater, parts: Iterable[bytes]) -> bytes:
    """What the parts come to; no piece is larger than it may be."""
    pieces = [piece for part in parts for piece in inflate.feed(part)]
    inflate.end()
    assert all(0 < len(piece) <= PIECE_BYTES_MAX for piece in pieces)
    return b"".join(pieces)


def cut(data: bytes, size: int) -> list[bytes]:
    """Parts of so many bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@codings
@given(data=st.lists(st.binary(max_size=300), max_size=4), size=st.integers(1, 50))
def test_what_went_in_comes_out(coding: str, data: list[bytes], size: int):
    """In whatever parts it arrives, and as several members or frames."""
    body = b"".join(packed(coding, part) for part in data)
    assert inflated(new(coding), cut(body, size)) == b"".join(data)


@codings
@pytest.mark.parametrize("size", [7, 16_384, 1 << 30])
def test_large_bodies_come_out_whole(coding: str, size: int):
    """Text that compresses well, bytes that do not, and both around the size of a piece."""
    noise = random.Random(1).randbytes(200_000)
    for data in (b'{"patientId":"100"}\n' * 50_000, noise, noise[:PIECE_BYTES_MAX] * 3, b"x" * PIECE_BYTES_MAX):
        assert inflated(new(coding), cut(packed(coding, data), size)) == data


def test_an_identity_is_what_it_is():
    """Nothing is done to a body that is not compressed; an empty part is no piece."""
    assert list(new(None).feed(b"abc")) == [b"abc"]
    assert list(new(None).feed(b"")) == []


@codings
def test_a_body_that_is_cut_off_is_a_400(coding: str):
    """At every byte but the last; save that nothing at all is nothing."""
    body = packed(coding, b'{"patientId":"100"}')
    for end in range(1, len(body)):
        inflate = new(coding)
        with pytest.raises(Problem) as caught:
            inflated(inflate, [body[:end]])
        assert (caught.value.status, caught.value.code) == (400, "invalid_encoding")


@codings
def test_a_body_with_another_byte_in_it_is_a_400(coding: str):
    """Both carry a checksum; whatever passes it is what went in."""
    data = b'{"patientId":"100"}' * 10
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(data)
    body = gzip.compress(data) if coding == GZIP else frame
    for at in range(len(body)):
        try:
            found = inflated(new(coding), [body[:at], bytes([body[at] ^ 0x55]), body[at + 1 :]])
        except Problem:
            continue
        assert found in (data, b"")


@codings
def test_rubbish_behind_the_end_is_a_400(coding: str):
    """What follows a member or a frame is another one."""
    with pytest.raises(Problem):
        inflated(new(coding), [packed(coding, b"{}") + b"rubbish behind it, longer than a header"])


@codings
def test_a_bomb_comes_out_in_pieces(coding: str):
    """A gigabyte out of some kilobytes: who reads it may stop at any piece, and has held no more than one."""
    body = packed(coding, bytes(64 << 20))
    assert len(body) < 100_000
    seen = 0
    for piece in new(coding).feed(body):
        assert len(piece) <= PIECE_BYTES_MAX
        seen += len(piece)
        if seen > 1 << 20:
            return
    raise AssertionError("the bomb was none")


def test_a_window_is_held_before_it_is_used():
    """What the decoder will take is counted first; a second frame with no larger one costs nothing more."""
    held: list[int] = []
    level = zstandard.ZstdCompressionParameters(window_log=20)
    frame = zstandard.ZstdCompressor(compression_params=level).compressobj()
    body = frame.compress(b"x" * 100) + frame.flush()
    inflated(inflater(ZSTD, held.append), [body, body])
    assert held == [1 << 20]


def test_a_window_that_is_too_large_is_refused():
    """RFC 9659: 8 MiB at most; and what may not be held is not decoded."""
    level = zstandard.ZstdCompressionParameters(window_log=24)
    frame = zstandard.ZstdCompressor(compression_params=level).compressobj()
    body = frame.compress(b"x" * 100) + frame.flush()
    assert zstandard.get_frame_parameters(body).window_size > ZSTD_WINDOW_BYTES_MAX
    with pytest.raises(Problem) as caught:
        inflated(new(ZSTD), [body])
    assert caught.value.code == "invalid_encoding"

    def refuse(_: int) -> None:
        raise Problem(503, "overloaded", "Too much.")

    with pytest.raises(Problem) as caught:
        inflated(inflater(ZSTD, refuse), [packed(ZSTD, b"{}")])
    assert caught.value.code == "overloaded"


def test_the_codings_are_the_registered_names():
    """x-gzip is gzip (RFC 9110, 8.4.1.3); nothing else is known."""
    assert set(CODINGS) == {b"", b"identity", b"gzip", b"x-gzip", b"zstd"}
