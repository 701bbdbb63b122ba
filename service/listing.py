"""What a request for a list asks for, out of its parameters and its Accept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from service.cursor import cursor_invalid, list_cursor, patient_cursor
from service.errors import Problem
from service.http import JSON
from service.parsing import PATIENT_ID_LENGTH_MAX
from service.query import invalid, whole_number
from service.store import Position
from service.timespan import LAST_US, parse_rfc3339

NDJSON = b"application/x-ndjson"
PARAMETERS = ("from", "to", "limit", "cursor", "patientId")
LIMIT_DEFAULT = 100
TOTAL_MAX = 10**15
CLOCK_AHEAD_US = 1_000_000
"""A reading up to now goes so much further, as another instance's idea of the store's clock may be ahead of this one's."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list request asks for. ``limit`` None is everything, of a stream alone."""

    patient_id: str | None
    after: Position
    patient_after: bytes
    from_us: int
    until_us: int
    limit: int | None
    stream: bool


def read_query(given: dict[str, str], *, page_max: int, patients: bool, now_us: int, stream: bool) -> Query:
    """What the parameters ask for. Pure; raises Problem 400 naming the parameter that is wrong."""
    limit = None if stream else min(LIMIT_DEFAULT, page_max)
    if "limit" in given:
        limit = whole_number("limit", given["limit"], 1, TOTAL_MAX if stream else page_max)
    if "patientId" in given:
        return _patient_query(given, limit, patients=patients, stream=stream)
    if "cursor" in given:
        for name in ("from", "to"):
            if name in given:
                raise invalid(name, f"A cursor has its {name} in it; give one or the other.")
        cursor = list_cursor(given["cursor"])
        return Query(None, cursor.position, b"", cursor.from_us, cursor.until_us, limit, stream)
    from_us, until_us = span(given, now_us)
    # A time to come is now: a stream up to then would wait for what is still to be written.
    until_us = min(until_us, now_us + CLOCK_AHEAD_US)
    return Query(None, (from_us, 0, "", b""), b"", from_us, until_us, limit, stream)


def _patient_query(given: dict[str, str], limit: int | None, *, patients: bool, stream: bool) -> Query:
    for name in ("from", "to"):
        if name in given:
            raise invalid(name, f"patientId goes with limit and cursor, not with {name}.")
    if not patients:
        raise Problem(
            400,
            "patient_index_off",
            "Usages cannot be found by patient here: the setting BUSYAPI_PATIENT_INDEX is off.",
            field="patientId",
        )
    patient_id = given["patientId"]
    if not 1 <= len(patient_id) <= PATIENT_ID_LENGTH_MAX:
        raise invalid("patientId", f"patientId must have 1 to {PATIENT_ID_LENGTH_MAX} characters.")
    after = b""
    if "cursor" in given:
        cursor = patient_cursor(given["cursor"])
        if cursor.patient_id != patient_id:
            raise cursor_invalid()
        after = cursor.after
    return Query(patient_id, (0, 0, "", b""), after, 0, LAST_US, limit, stream)


def span(given: dict[str, str], now_us: int) -> tuple[int, int]:
    """From (inclusive; the beginning when it is not given) and to (exclusive; now). Raises Problem 400."""
    times = {"from": 0, "to": now_us + CLOCK_AHEAD_US}
    for name in times:
        if name in given:
            us = parse_rfc3339(given[name])
            if us is None:
                raise invalid(name, f"{name} must be a time of RFC 3339 with its offset, as 2026-11-23T09:11:51Z is.")
            times[name] = us
    if "from" in given and "to" in given and times["from"] > times["to"]:
        raise invalid("from", "from is after to.")
    return times["from"], times["to"]


def wants_ndjson(accept: list[bytes]) -> bool:
    """Whether Accept names application/x-ndjson, and JSON no higher (RFC 9110, 12.5.1)."""
    qualities = dict.fromkeys((NDJSON, JSON[1]), 0.0)
    for entry in b",".join(accept).lower().split(b","):
        media_type, *rest = (part.strip() for part in entry.split(b";"))
        if media_type in qualities:
            qualities[media_type] = _quality(rest)
    return qualities[NDJSON] > 0 and qualities[NDJSON] >= qualities[JSON[1]]


def _quality(media_parameters: Iterable[bytes]) -> float:
    for parameter in media_parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
