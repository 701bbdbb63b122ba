from __future__ import annotations

import hashlib
import json
import string
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service import parsing
from service.errors import Problem

MAX = 1 << 20

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
known_fields = st.fixed_dictionaries({}, optional={"patientId": values, "timestamp": values, "medication": values})
usages = st.builds(
    lambda known, other: {**other, **known}, known_fields, st.dictionaries(st.text(), values, max_size=4)
)
white_space = st.text(" \t\r\n", max_size=3)


def first_wrong_field(usage: dict[str, Any]) -> str | None:
    """The contract's words on the known fields, said a second time."""
    patient_id = usage.get("patientId", 1)
    if not (
        (isinstance(patient_id, str) and 1 <= len(patient_id) <= 128)
        or (isinstance(patient_id, int) and not isinstance(patient_id, bool))
    ):
        return "patientId"
    timestamp = usage.get("timestamp", 1)
    if not isinstance(timestamp, (str, int, float)) or isinstance(timestamp, bool):
        return "timestamp"
    return None if isinstance(usage.get("medication", ""), str) else "medication"


def problem(check: Any, *arguments: Any) -> Problem:
    """The Problem that this check raises."""
    with pytest.raises(Problem) as caught:
        check(*arguments)
    return caught.value


@settings(max_examples=60)
@given(usages, white_space, white_space, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_json_object_is_a_usage_exactly_when_its_known_fields_have_the_right_types(
    usage: dict[str, Any], before: str, after: str, ascii_only: bool, indent: int | str | None
):
    """However it is written down, only the types of patientId, timestamp and medication decide."""
    body = (before + json.dumps(usage, ensure_ascii=ascii_only, indent=indent) + after).encode("utf-8", "surrogatepass")
    wrong = first_wrong_field(usage)
    if wrong is None:
        parsing.check_usage(body)
    else:
        caught = problem(parsing.check_usage, body)
        assert (caught.status, caught.code, caught.field) == (422, "invalid_field", wrong)


tokens = [
    *(b"{ } [ ] , : - 0 1.5 1e999 NaN null true".split()),
    *(b'"', b"\\", b"\\u", b"\\ud800", b'"patientId"', b'"message"'),
    *(b" ", b"\n", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xc3\xa9", b"9" * 400),
]
json_like = st.lists(st.sampled_from(tokens), max_size=20).map(b"".join)


@given(st.binary(max_size=200) | json_like)
@example(b"\xed\xa0\x80")
@example(b'{"a": "\xed\xa0\x80"}')
@example(b'{"patientId": -}')
@example(b"[" * 100_000)
@example(b'{"a":' * 20_000)
@example(b"9" * 100_000)
def test_whatever_bytes_come_the_answer_is_acceptance_or_a_problem(body: bytes):
    """No body makes the service fail: it is taken or a Problem says why not."""
    refusals = []
    for check in (parsing.check_usage, lambda body: parsing.message_text(body, MAX)):
        try:
            check(body)
        except Problem as caught:
            refusals.append(caught)
    assert all(refusal.status in (400, 413, 422) and refusal.detail.isprintable() for refusal in refusals)


@given(st.binary(max_size=100) | json_like)
def test_what_is_taken_is_json_by_the_standard(body: bytes):
    """A body that is stored can be read back by any JSON reader: UTF-8, no NaN, nothing after the value."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        expected = isinstance(json.loads(body.decode("utf-8"), parse_constant=refuse), dict)
    except (ValueError, RecursionError):
        expected = False
    try:
        parsing.json_object(body)
        taken = True
    except Problem:
        taken = False
    assert taken == expected


NOT_JSON = {
    "nothing at all": b"",
    "white space": b"  \n",
    "half an object": b'{"patientId": "1"',
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"patientId": "100"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"patientId": "100"}'.encode("utf-16-le"),
    "UTF-32": '{"patientId": "100"}'.encode("utf-32-le"),
    "Latin-1": '{"medication": "é"}'.encode("latin-1"),
    "bytes that are no UTF-8": b'{"medication": "\xff\xfe"}',
    "an overlong encoding": b'{"medication": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"medication": "\xed\xa0\x80"}',
    "NaN": b'{"timestamp": NaN}',
    "Infinity": b'{"timestamp": Infinity}',
    "minus Infinity": b'{"timestamp": -Infinity}',
    "trailing garbage": b"{} x",
    "two objects": b"{}{}",
    "a trailing comma": b'{"a": 1,}',
    "a comment": b'{"a": 1} // no',
    "single quotes": b"{'a': 1}",
    "a bare word": b"{a: 1}",
    "a leading zero": b'{"timestamp": 01}',
    "a leading plus": b'{"timestamp": +1}',
    "no digit before the point": b'{"timestamp": .5}',
    "no digit after the point": b'{"timestamp": 5.}',
    "a hexadecimal number": b'{"timestamp": 0x10}',
    "a raw NUL": b"{}\x00",
    "a raw NUL in a string": b'{"medication": "a\x00b"}',
    "a raw line feed in a string": b'{"medication": "a\nb"}',
    "an unknown escape": b'{"medication": "\\x41"}',
    "half a unicode escape": b'{"medication": "\\u12"}',
    "a form": b"patientId=100&medication=Albuterol",
    "nesting without end": b'{"a":' * 50_000,
    "a vertical tab for white space": b"\x0b{}",
    "a no-break space for white space": "\u00a0{}".encode(),
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_a_400(body: bytes):
    """Everything that RFC 8259 does not call JSON is refused before anything is stored."""
    for check in (parsing.check_usage, lambda body: parsing.message_text(body, MAX)):
        caught = problem(check, body)
        assert (caught.status, caught.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"true", b"0", b'"{}"', b"1e5", b'[{"patientId": 1}]', b"9" * 5000])
def test_json_that_is_no_object_is_a_400(body: bytes):
    """An array of usages is no usage."""
    for check in (parsing.check_usage, lambda body: parsing.message_text(body, MAX)):
        caught = problem(check, body)
        assert (caught.status, caught.code) == (400, "not_an_object")


TAKEN = {
    "the original's README": b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}',
    "the original's README with a number": b'{"patientId": 100, "timestamp": "Tue Nov 01 2016", "medication": "Albuterol"}',
    "an empty object": b"{}",
    "other fields alone": b'{"dose": [1, {"unit": null}], "\\u0000": true}',
    "one character": b'{"patientId": "1"}',
    "128 characters": b'{"patientId": "%b"}' % (b"x" * 128),
    "128 characters of four bytes": '{{"patientId": "{}"}}'.format("😀" * 128).encode(),
    "a negative patient": b'{"patientId": -1}',
    "zero": b'{"patientId": 0}',
    "an integer beyond 64 bits": b'{"patientId": 123456789012345678901234567890}',
    "an integer of 5,000 digits": b'{"patientId": %b}' % (b"9" * 5000),
    "a negative integer of 5,000 digits": b'{"patientId": -%b}' % (b"9" * 5000),
    "an integer of 100,000 digits": b'{"patientId": %b}' % (b"9" * 100_000),
    "a timestamp of 5,000 digits": b'{"timestamp": %b}' % (b"9" * 5000),
    "a number beyond a float": b'{"timestamp": 1e999}',
    "a number beyond a float elsewhere": b'{"dose": -1e999}',
    "a timestamp with a point": b'{"timestamp": 1478009511.25}',
    "an empty timestamp": b'{"timestamp": "", "medication": ""}',
    "a lone surrogate": b'{"medication": "\\ud800"}',
    "a lone surrogate in a name": b'{"\\udfff": 1}',
    "a pair of surrogates": b'{"medication": "\\ud83d\\ude00"}',
    "an escaped NUL": b'{"medication": "a\\u0000b"}',
    "a name twice, the last one right": b'{"patientId": null, "patientId": 1}',
    "nested a hundred deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "white space around": b" \t\r\n{} \t\r\n",
}


@pytest.mark.parametrize("body", TAKEN.values(), ids=TAKEN.keys())
def test_odd_but_valid_usages_are_taken(body: bytes):
    """What RFC 8259 allows is stored, also where Python's or C's numbers and strings end."""
    parsing.check_usage(body)


WRONG_FIELDS = [
    (b'{"patientId": 1.0}', "patientId"),
    (b'{"patientId": 1e2}', "patientId"),
    (b'{"patientId": 1e999}', "patientId"),
    (b'{"patientId": -0.0}', "patientId"),
    (b'{"patientId": true}', "patientId"),
    (b'{"patientId": null}', "patientId"),
    (b'{"patientId": ""}', "patientId"),
    (b'{"patientId": "%b"}' % (b"x" * 129), "patientId"),
    (b'{"patientId": []}', "patientId"),
    (b'{"patientId": {}}', "patientId"),
    (b'{"patientId": 1, "patientId": false}', "patientId"),
    (b'{"\\u0070atientId": false}', "patientId"),
    (b'{"timestamp": null}', "timestamp"),
    (b'{"timestamp": true}', "timestamp"),
    (b'{"timestamp": []}', "timestamp"),
    (b'{"timestamp": {}, "x": "\\ud800"}', "timestamp"),
    (b'{"medication": null}', "medication"),
    (b'{"medication": 5}', "medication"),
    (b'{"medication": false}', "medication"),
    (b'{"medication": ["Albuterol"]}', "medication"),
]


@pytest.mark.parametrize(("body", "field"), WRONG_FIELDS)
def test_a_known_field_of_the_wrong_type_is_a_422_that_names_it(body: bytes, field: str):
    """1.0 is no integer, a bool is no number, null is nothing at all."""
    caught = problem(parsing.check_usage, body)
    assert (caught.status, caught.code, caught.field) == (422, "invalid_field", field)
    assert field in caught.detail


@given(st.text(), st.dictionaries(st.text().filter(lambda name: name != "message"), values, max_size=3), st.booleans())
@example("", {}, False)
@example("\x00\x1f", {}, True)
def test_a_message_is_its_utf8_whatever_its_json_looks_like(message: str, others: dict[str, Any], ascii_only: bool):
    """The digest is of the text, so escapes and further fields must not change it."""
    body = json.dumps({**others, "message": message}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert parsing.message_text(body, MAX) == message.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"Message": "foo"}',
        b'{"message": null}',
        b'{"message": 5}',
        b'{"message": ["foo"]}',
        b'{"message": true}',
        b'{"message": "\\ud800"}',
        b'{"message": "a\\udc00b"}',
        b'{"message": "\\ude00\\ud83d"}',
    ],
)
def test_a_message_that_is_no_text_is_a_422_that_names_it(body: bytes):
    """A lone surrogate has no UTF-8, hence no digest."""
    caught = problem(parsing.message_text, body, MAX)
    assert (caught.status, caught.code, caught.field) == (422, "invalid_field", "message")


@pytest.mark.parametrize(("message", "size"), [("é" * 5, 10), ("\x01" * 10, 10), ("😀" * 2 + "ab", 10), ("x" * 10, 10)])
def test_a_messages_limit_counts_its_utf8(message: str, size: int):
    """Six bytes of JSON for an escaped control character are one byte of the message."""
    body = json.dumps({"message": message}).encode()
    assert len(parsing.message_text(body, size)) == size
    caught = problem(parsing.message_text, body, size - 1)
    assert (caught.status, caught.code) == (413, "body_too_large")


visible = "".join(chr(code) for code in range(0x21, 0x7F))


@given(st.text(visible, min_size=1, max_size=255).filter(lambda key: key not in {".", ".."}))
@example("x" * 255)
@example("...")
@example("/?#%+")
@example("123")
def test_every_visible_ascii_text_is_an_idempotency_key(key: str):
    """1 to 255 characters from ! to ~ and no dot segment: taken as they are."""
    assert parsing.idempotency_key([key.encode()]) == key


@pytest.mark.parametrize(
    "given_values",
    [[b""], [b"x" * 256], [b"a b"], [b"a\tb"], [b"\x7f"], [b"\xc3\xa9"], [b"a\x00"], [b"."], [b".."], [b"a", b"a"], []],
)
def test_what_is_no_idempotency_key_is_a_400_with_its_own_code(given_values: list[bytes]):
    """Two headers are as wrong as an odd character: nobody can say which key is meant."""
    caught = problem(parsing.idempotency_key, given_values)
    assert (caught.status, caught.code, caught.field) == (400, "idempotency_key_invalid", "Idempotency-Key")


@given(st.integers(min_value=1, max_value=2**53 - 1))
def test_every_id_is_found_under_its_decimal_digits(id_: int):
    """Location's last part leads back to the id."""
    assert parsing.usage_id(str(id_)) == id_


@given(st.text(max_size=20))
@example("0")
@example("007")
@example("-1")
@example("+1")
@example("1.0")
@example("1e3")
@example(" 1")
@example("1_000")
@example("١٢")
@example("²")
@example("9" * 5000)
def test_other_texts_are_no_ids(text: str):
    """An id has one spelling."""
    id_ = parsing.usage_id(text)
    assert id_ is None or (str(id_) == text and id_ > 0)


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_a_digest_is_found_in_upper_and_lower_case(digest: bytes, upper: bool):
    """Hex has two spellings, and both are the same message."""
    text = digest.hex()
    assert parsing.message_digest(text.upper() if upper else text) == digest


@given(st.text(max_size=70) | st.text(string.hexdigits + " _-xX", min_size=64, max_size=64))
@example("0x" + "a" * 62)
@example("a" * 63)
@example("a" * 65)
@example("a" * 62 + " a")
@example("a a" + "a" * 61)
@example("١" * 64)
def test_other_texts_are_no_digests(text: str):
    """64 hex digits and nothing else."""
    if parsing.message_digest(text) is not None:
        assert len(text) == 64
        assert set(text) <= set(string.hexdigits)


@pytest.mark.parametrize(
    "values_",
    [
        [],
        [b"application/json"],
        [b"APPLICATION/JSON"],
        [b"application/json;charset=utf-8"],
        [b'application/json; charset="UTF-8"'],
        [b"application/json ; charset=UTF-8"],
        [b"application/json;"],
    ],
)
def test_json_content_types_are_taken(values_: list[bytes]):
    """JSON however it is spelt, and none at all."""
    parsing.check_json_type(values_, None)


@pytest.mark.parametrize(
    "values_",
    [
        [b"text/plain"],
        [b"application/x-www-form-urlencoded"],
        [b""],
        [b"application/jsonx"],
        [b"json"],
        [b"*/*"],
        [b"application/json; charset=latin-1"],
        [b"application/json", b"text/plain"],
        [b"multipart/form-data; boundary=x"],
    ],
)
def test_other_content_types_are_a_415(values_: list[bytes]):
    """A usage comes as JSON in UTF-8 or not at all."""
    caught = problem(parsing.check_json_type, values_, None)
    assert (caught.status, caught.field) == (415, "Content-Type")


def test_a_compressed_body_is_a_415_that_says_what_is_taken():
    """RFC 9110, 12.5.3: the answer names the codings that would do."""
    caught = problem(parsing.check_json_type, [b"application/json"], b"gzip")
    assert (caught.status, caught.field) == (415, "Content-Encoding")
    assert (b"accept-encoding", b"identity") in caught.headers
    parsing.check_json_type([b"application/json"], b"Identity")


def test_the_digest_of_foo_is_the_one_of_the_old_services_test():
    """The official example's digest, from the official example's body."""
    text = parsing.message_text(b'{"message": "foo"}', MAX)
    assert hashlib.sha256(text).hexdigest() == "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
