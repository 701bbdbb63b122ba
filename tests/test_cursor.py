from __future__ import annotations

import base64
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cursor import ListCursor, PatientCursor, list_cursor, patient_cursor
from service.errors import Problem
from service.store import ID_MAX

times = st.integers(0, 2**60)
by_id = st.tuples(st.integers(1, ID_MAX), st.just(""), st.just(b""))
by_key = st.tuples(st.just(0), st.text("ab/€ -~", min_size=1, max_size=255), st.binary(min_size=32, max_size=32))


@st.composite
def cursors(draw: st.DrawFn) -> ListCursor:
    """Any cursor that a listing may give."""
    from_us, us, until_us = sorted(draw(st.tuples(times, times, times)))
    return ListCursor(from_us, until_us + 1, (us, *draw(by_id | by_key)))


@given(cursors())
def test_a_cursor_of_a_listing_is_read_as_it_was_given(cursor: ListCursor):
    """Its text needs no escaping in a URL."""
    text = cursor.encode()
    assert text.replace("-", "").replace("_", "").isalnum()
    assert list_cursor(text) == cursor


@given(st.text(min_size=1, max_size=128), st.binary(min_size=1, max_size=2000))
def test_a_patients_cursor_is_read_as_it_was_given(patient_id: str, after: bytes):
    """Whatever the store means by its place."""
    cursor = PatientCursor(patient_id, after)
    assert patient_cursor(cursor.encode()) == cursor


GOOD = ListCursor(5, 500, (77, 22954, "", b""))


def sealed(*fields: object) -> str:
    """Text with a right checksum over any fields."""
    payload = msgspec.msgpack.encode(fields)
    return base64.urlsafe_b64encode(payload + zlib.crc32(payload).to_bytes(4, "big")).rstrip(b"=").decode()


RUBBISH = {
    "nothing": "",
    "a word": "next",
    "cut off": GOOD.encode()[:-1],
    "longer": GOOD.encode() + "A",
    "padded": GOOD.encode() + "=",
    "a space": GOOD.encode() + " ",
    "not ASCII": "é" * 20,
    "endless": "A" * 10_000,
    "a patient's": PatientCursor("100", b"x").encode(),
    "another version": sealed(2, "list", 5, 500, 77, 22954, "", b""),
    "another kind": sealed(1, "lost", 5, 500, 77, 22954, "", b""),
    "too few fields": sealed(1, "list", 5, 500, 77, 22954, ""),
    "too many fields": sealed(1, "list", 5, 500, 77, 22954, "", b"", 1),
    "a text for a number": sealed(1, "list", "5", 500, 77, 22954, "", b""),
    "true for a number": sealed(1, "list", 5, 500, 77, True, "", b""),
    "before its start": sealed(1, "list", 78, 500, 77, 22954, "", b""),
    "at its end": sealed(1, "list", 5, 77, 77, 22954, "", b""),
    "before all time": sealed(1, "list", -5, 500, 77, 22954, "", b""),
    "beyond all time": sealed(1, "list", 5, 2**63, 77, 22954, "", b""),
    "an id beyond 2^53": sealed(1, "list", 5, 500, 77, 2**53, "", b""),
    "neither id nor key": sealed(1, "list", 5, 500, 77, 0, "", b""),
    "id and key": sealed(1, "list", 5, 500, 77, 1, "key", b"d" * 32),
    "a key without its digest": sealed(1, "list", 5, 500, 77, 0, "key", b"d"),
    "no msgpack": base64.urlsafe_b64encode(b"\xc1" * 9 + zlib.crc32(b"\xc1" * 9).to_bytes(4, "big"))
    .decode()
    .strip("="),
}


@pytest.mark.parametrize("text", RUBBISH.values(), ids=RUBBISH.keys())
def test_what_is_no_cursor_is_refused(text: str):
    """400 with a code of its own, never a failure of the store."""
    with pytest.raises(Problem) as caught:
        list_cursor(text)
    assert (caught.value.status, caught.value.code, caught.value.field) == (400, "cursor_invalid", "cursor")


@pytest.mark.parametrize(
    "text", [GOOD.encode(), sealed(1, "patient", "", b"x"), sealed(1, "patient", "100", b""), "", "A" * 20]
)
def test_what_is_no_patients_cursor_is_refused(text: str):
    """Also that of a listing by time."""
    with pytest.raises(Problem) as caught:
        patient_cursor(text)
    assert caught.value.code == "cursor_invalid"


@given(st.integers(0, len(GOOD.encode()) - 1), st.sampled_from("ABYZaz09-_"))
def test_a_cursor_with_a_wrong_character_is_refused(at: int, character: str):
    """One that was copied wrongly does not read from somewhere else in silence."""
    text = GOOD.encode()
    if text[at] == character:
        return
    with pytest.raises(Problem):
        list_cursor(text[:at] + character + text[at + 1 :])
