from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.parsing import check_usage
from service.store.patient import patient_of

DIGITS = b"9" * 128


@pytest.mark.parametrize(
    ("usage", "patient"),
    [
        (b'{"patientId": "100"}', "100"),
        (b'{"patientId": 100}', "100"),
        (b'{"patientId": -7}', "-7"),
        (b'{"patientId": -0}', "0"),
        (b'{"patientId": "0100"}', "0100"),
        (b' { "x" : [ { "patientId" : 1 } ] , "patientId" : 2 } ', "2"),
        (b'{"patientId": 1, "patientId": "2"}', "2"),
        (b'{"patientId": "\\u00e9\\n\\ud83d\\ude00"}', "é\n😀"),
        ('{"patientId": "é"}'.encode(), "é"),
        (b'{"patientId": %b}' % DIGITS, DIGITS.decode()),
        (b'{"patientId": 9%b}' % DIGITS, None),
        (b'{"patientId": 100, "x": "\\ud800"}', "100"),
        (b'{"patientId": "100", "x": "\\ud800"}', "100"),
        (b'{"patientId": "\\ud800"}', None),
        (b'{"patientId": 100, "x": 1e999}', "100"),
        (b'{"patientId": 100, "x": %b}' % (b"9" * 5000), "100"),
        (b'{"patientid": 100}', None),
        (b"{}", None),
        (b'{"patientId": ""}', None),
        (b'{"patientId": "%b"}' % (b"x" * 129), None),
        (b'{"patientId": null}', None),
        (b'{"patientId": 1.5}', None),
        (b'{"patientId": [1]}', None),
        (b"[]", None),
        (b"not JSON", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_whose_usage_it_is(usage: bytes, patient: str | None):
    """A number is its digits; the last of several members counts, as for every reader of JSON; what is odd has no patient."""
    assert patient_of(usage) == patient


@given(st.text(min_size=1, max_size=128) | st.integers(-(10**40), 10**40), st.booleans())
def test_every_patient_that_the_service_takes_is_found(patient: str | int, ascii_only: bool):
    """However it is written."""
    usage = json.dumps({"a": 1, "patientId": patient, "b": "é"}, ensure_ascii=ascii_only).encode()
    check_usage(usage)
    assert patient_of(usage) == str(patient)
