"""Whose usage it is, as the patient index has it. Pure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

LENGTH_MAX = 128
"""Longest id that is indexed, in characters; a string that is longer is no usage's, a number may be."""


class _Usage(msgspec.Struct):
    patient_id: msgspec.Raw = msgspec.field(name="patientId", default_factory=msgspec.Raw)


_decode = msgspec.json.Decoder(_Usage).decode
_text = msgspec.json.Decoder(str).decode


def patient_of(usage: bytes) -> str | None:
    """The patientId of a usage that was checked, a number as its digits, so that 100 and "100" are one patient.

    None when it has none, or one that nobody could ask for: a lone surrogate, a number of more than 128 characters.
    """
    try:
        raw = bytes(_decode(usage).patient_id)
        text = _text(raw) if raw.startswith(b'"') else _number(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = _patiently(usage)
    return text if text and len(text) <= LENGTH_MAX else None


def _number(raw: bytes) -> str | None:
    return str(int(raw)) if len(raw) <= LENGTH_MAX and raw.removeprefix(b"-").isdigit() else None


def _patiently(usage: bytes) -> str | None:
    """As above, for what the fast decoder does not take although it is JSON: a lone surrogate somewhere, a huge number."""
    try:
        document = json.loads(usage, parse_int=lambda digits: _number(digits.encode()))
    except (ValueError, RecursionError):
        return None
    value: Any = document.get("patientId") if type(document) is dict else None
    if type(value) is not str or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value
