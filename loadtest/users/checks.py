"""Whether an answer is what it must be, and how it is said when it is not. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from loadtest.journal import State
from loadtest.users.http1 import Answer

REASON_CHARACTERS_MAX = 200
ID_MAX = 2**53 - 1
"""The greatest integer that a JavaScript client can hold."""
REFUSALS = (429, 503)
"""Statuses that ask a client to come again later."""

_SPECIFIC = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}|[0-9]{5,}")
_ID = re.compile(rb'\{"id": ?([1-9][0-9]{0,15})\}').fullmatch


def usage_id(body: bytes) -> int | None:
    """The id in ``{"id": 22954}``: an integer from 1 below 2^53; None for anything else."""
    found = _ID(body)
    if found is not None:
        value = int(found[1])
        return value if value <= ID_MAX else None
    document = document_of(body)
    told = document.get("id") if len(document) == 1 else None
    return told if type(told) is int and 1 <= told <= ID_MAX else None


def document_of(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is, an empty one when it is none."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def not_acknowledged(status: int) -> State:
    """What is known of a write that was answered with anything but success: a 4xx and a 503 stored nothing for sure."""
    return State.REFUSED if 400 <= status < 500 or status == 503 else State.UNKNOWN


def reason_of(answer: Answer, expected: str) -> str:
    """Why an answer is a failure: what was expected and what came, in at most ``REASON_CHARACTERS_MAX`` characters.

    A problem's code stands for its text, and … for keys, digests and long numbers: what differs from request to request
    would make a reason of its own of each.
    """
    code = document_of(answer.body).get("code")
    if isinstance(code, str):
        came = f"{answer.status} {code}"
    else:
        text = answer.body[: 2 * REASON_CHARACTERS_MAX].decode("utf-8", "backslashreplace")
        came = f"{answer.status} {_SPECIFIC.sub('…', text)}".rstrip()
    if answer.status in REFUSALS:
        return f"refused: {came}"[:REASON_CHARACTERS_MAX]
    return f"expected {expected}, got {came}"[:REASON_CHARACTERS_MAX]


def retry_after_s(answer: Answer, at_most_s: float) -> float:
    """How long to stay away after a refusal, in seconds; 0 when the answer does not say, or says no whole seconds."""
    text = answer.header("retry-after") or ""
    if answer.status not in REFUSALS or not text.isascii() or not text.isdigit():
        return 0.0
    return min(float(text), at_most_s)
