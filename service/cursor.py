"""Cursors: where a listing goes on, as text that a client hands back and need not understand.

Base64url over msgpack and a CRC-32, which tells a cursor that was cut or mistyped from one of ours. It is no secret and no
proof: who makes one up reads nothing that a time span would not show as well.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass

import msgspec

from service.errors import Problem
from service.store import ID_MAX, Position

VERSION = 1
TEXT_LENGTH_MAX = 8192
TIME_MAX_US = 1 << 62

_TEXT = re.compile(rf"[A-Za-z0-9_-]{{8,{TEXT_LENGTH_MAX}}}")
_encode = msgspec.msgpack.Encoder().encode
_decode_list = msgspec.msgpack.Decoder(tuple[int, str, int, int, int, int, str, bytes]).decode
_decode_patient = msgspec.msgpack.Decoder(tuple[int, str, str, bytes]).decode
_LIST, _PATIENT = "list", "patient"


@dataclass(frozen=True, slots=True)
class ListCursor:
    """A listing of usages received in [from, until), read up to and including ``position``."""

    from_us: int
    until_us: int
    position: Position

    def encode(self) -> str:
        """As text of [A-Za-z0-9_-]."""
        return _seal(_encode((VERSION, _LIST, self.from_us, self.until_us, *self.position)))


@dataclass(frozen=True, slots=True)
class PatientCursor:
    """A patient's usages, read up to where the store says ``after``."""

    patient_id: str
    after: bytes

    def encode(self) -> str:
        """As text of [A-Za-z0-9_-]."""
        return _seal(_encode((VERSION, _PATIENT, self.patient_id, self.after)))


def list_cursor(text: str) -> ListCursor:
    """Read a listing's cursor. Raises Problem 400 when it is none that this service gives."""
    try:
        version, kind, from_us, until_us, us, id_, key, digest = _decode_list(_open(text))
    except msgspec.DecodeError:
        raise cursor_invalid() from None
    in_span = 0 <= from_us <= us < until_us <= TIME_MAX_US
    named = (1 <= id_ <= ID_MAX and not key and not digest) or (id_ == 0 and key != "" and len(digest) == 32)
    cursor = ListCursor(from_us, until_us, (us, id_, key, digest))
    if (version, kind) != (VERSION, _LIST) or not in_span or not named or cursor.encode() != text:
        raise cursor_invalid()
    return cursor


def patient_cursor(text: str) -> PatientCursor:
    """Read the cursor of a patient's usages. Raises Problem 400 when it is none that this service gives."""
    try:
        version, kind, patient_id, after = _decode_patient(_open(text))
    except msgspec.DecodeError:
        raise cursor_invalid() from None
    cursor = PatientCursor(patient_id, after)
    if (version, kind) != (VERSION, _PATIENT) or not patient_id or not after or cursor.encode() != text:
        raise cursor_invalid()
    return cursor


def cursor_invalid() -> Problem:
    """The 400 for what is no cursor, or one of another listing."""
    return Problem(400, "cursor_invalid", "This is no cursor of this listing; begin again without one.", field="cursor")


def _seal(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload + zlib.crc32(payload).to_bytes(4, "big")).rstrip(b"=").decode("ascii")


def _open(text: str) -> bytes:
    if _TEXT.fullmatch(text) is None:
        raise cursor_invalid()
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise cursor_invalid() from None
    payload, checksum = data[:-4], data[-4:]
    if zlib.crc32(payload).to_bytes(4, "big") != checksum:
        raise cursor_invalid()
    return payload
