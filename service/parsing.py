"""What a body or a header must look like: pure functions that return the value or raise a Problem."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from service.errors import Problem
from service.http import is_visible_ascii

PATIENT_ID_LENGTH_MAX = 128
KEY_LENGTH_MAX = 255

_decode = msgspec.json.Decoder().decode


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body (RFC 8259, UTF-8 without a byte-order mark). Raises Problem 400."""
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _patiently(body)
    if type(value) is not dict:
        raise Problem(400, "not_an_object", "The body is JSON, but not an object.")
    return value


def _patiently(body: bytes) -> Any:
    """Valid JSON that the fast decoder does not take: lone surrogates in a string, numbers beyond a float.

    It is as strict about everything else: no NaN, no byte-order mark, no control characters, bounded depth.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse, parse_int=_any_int)
    except (ValueError, RecursionError) as error:
        where = f" (at byte {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise Problem(400, "invalid_json", f"The body is not valid JSON{where}.") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _any_int(digits: str) -> int:
    # Only whether it is an integer matters; converting thousands of digits costs quadratic time.
    return int(digits) if len(digits) < 400 else 0


def check_usage(body: bytes) -> dict[str, Any]:
    """A usage is any JSON object; the fields that are known are checked when present. Raises Problem 400 or 422."""
    usage = json_object(body)
    if "patientId" in usage:
        patient_id = usage["patientId"]
        if type(patient_id) is str:
            if not 1 <= len(patient_id) <= PATIENT_ID_LENGTH_MAX:
                raise _invalid("patientId", f"patientId must have 1 to {PATIENT_ID_LENGTH_MAX} characters.")
        elif type(patient_id) is not int:
            raise _invalid("patientId", "patientId must be a string or an integer.")
    if "timestamp" in usage and type(usage["timestamp"]) not in (str, int, float):
        raise _invalid("timestamp", "timestamp must be a string or a number.")
    if "medication" in usage and type(usage["medication"]) is not str:
        raise _invalid("medication", "medication must be a string.")
    return usage


def message_text(body: bytes, bytes_max: int) -> bytes:
    """The message's UTF-8 bytes. Raises Problem 400, 413 or 422."""
    document = json_object(body)
    if "message" not in document:
        raise _invalid("message", "There is no message.")
    message = document["message"]
    if type(message) is not str:
        raise _invalid("message", "message must be a string.")
    try:
        text = message.encode("utf-8")
    except UnicodeEncodeError:
        raise _invalid("message", "message holds a lone surrogate, which has no UTF-8.") from None
    if len(text) > bytes_max:
        raise Problem(413, "body_too_large", f"The message is larger than {bytes_max} bytes of UTF-8.", field="message")
    return text


def idempotency_key(values: list[bytes]) -> str:
    """The client's key: 1-255 visible ASCII characters, not a path's dot segment. Raises Problem 400."""
    if len(values) != 1:
        raise Problem(
            400, "idempotency_key_invalid", "There is more than one Idempotency-Key.", field="Idempotency-Key"
        )
    key = values[0]
    if not is_idempotency_key(key):
        raise Problem(
            400,
            "idempotency_key_invalid",
            f"An Idempotency-Key has 1 to {KEY_LENGTH_MAX} visible ASCII characters and is neither '.' nor '..'.",
            field="Idempotency-Key",
        )
    return key.decode("ascii")


def is_idempotency_key(key: bytes) -> bool:
    """Whether this could be a client's key."""
    return 1 <= len(key) <= KEY_LENGTH_MAX and is_visible_ascii(key) and key not in (b".", b"..")


def usage_id(text: str) -> int | None:
    """The integer id in a path, None for anything else (a sign, leading zeros, other digits than ASCII's)."""
    if len(text) <= 16 and text.isascii() and text.isdigit() and text[0] != "0":
        return int(text)
    return None


def message_digest(text: str) -> bytes | None:
    """The 32 bytes of a sha256 in hex, upper or lower case; None for anything else."""
    if len(text) != 64 or not text.isascii() or not text.isalnum():
        return None
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def check_json_type(content_types: list[bytes], encoding: bytes | None) -> None:
    """JSON in UTF-8, as it is. No Content-Type at all is taken as JSON. Raises Problem 415."""
    for value in content_types:
        media_type, *parameters = value.lower().split(b";")
        charsets = [part.strip()[8:].strip(b'"') for part in parameters if part.strip().startswith(b"charset=")]
        if media_type.strip() != b"application/json" or any(charset != b"utf-8" for charset in charsets):
            raise Problem(
                415,
                "unsupported_media_type",
                "The Content-Type must be application/json in UTF-8.",
                field="Content-Type",
            )
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise Problem(
            415,
            "unsupported_media_type",
            "The body must not be compressed.",
            field="Content-Encoding",
            headers=((b"accept-encoding", b"identity"),),
        )


def _invalid(field: str, detail: str) -> Problem:
    return Problem(422, "invalid_field", detail, field=field)
